"""Has asyncio make our loops wherever a program asks it for one, without a policy of ours."""

from __future__ import annotations

import sys
from asyncio import events, unix_events

import hotloop


def make_ours_the_default() -> None:
    """asyncio.run(), Runner, new_event_loop() and the policy make hotloops from here on.

    All of them end in the default policy's factory, so the program still finds asyncio's own
    policy, and may subclass or reset it, as it would without us.
    """

    def factory(*_self: object) -> hotloop.EventLoop:
        return hotloop.new_event_loop()

    policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
    if policy is not None:
        policy._loop_factory = staticmethod(factory)
    else:
        # There are no policies any more. Stubs know modules' functions as constants, and the
        # package under its name in sys.modules as any module: hence the silenced error.
        events.new_event_loop = sys.modules["asyncio"].new_event_loop = factory  # type: ignore[attr-defined]
