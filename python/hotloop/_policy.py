"""The event loop policy, for programs that look for their loop there.

asyncio deprecates policies in 3.14 and drops them in 3.16: `loop_factory` is the better door.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from asyncio import events, unix_events
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Base = asyncio.DefaultEventLoopPolicy
else:
    # The private name is the one that every version has, and the one that does not warn.
    _Base = getattr(unix_events, "_UnixDefaultEventLoopPolicy", object)


class EventLoopPolicy(_Base):
    """asyncio's default policy, except that its new loops are ours."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A new loop of ours; the backend is what HOTLOOP_BACKEND says."""
        import hotloop

        return hotloop.new_event_loop()


def install() -> None:
    """Make EventLoopPolicy the policy of this process; once more is no error.

    DeprecationWarning on 3.14 and later, as from asyncio.set_event_loop_policy(). RuntimeError
    while a loop runs in this thread, which would go on as it is; where somebody has installed a
    policy of another kind; and where asyncio has no policies any more.
    """
    setter: Any = getattr(events, "_set_event_loop_policy", None)
    if setter is None:
        setter = getattr(events, "set_event_loop_policy", None)
        if setter is None:
            raise RuntimeError(
                "this Python has no event loop policies: use loop_factory=hotloop.new_event_loop"
            )
    _refuse_to_install()
    if sys.version_info >= (3, 14):
        warnings.warn(
            "hotloop.install() sets an event loop policy, which asyncio deprecates since 3.14: "
            "use loop_factory=hotloop.new_event_loop",
            DeprecationWarning,
            stacklevel=2,
        )
    setter(EventLoopPolicy())


def _refuse_to_install() -> None:
    """Where a policy of ours would not do what its installer means."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "hotloop.install() while an event loop runs: that loop stays what it is; "
            "call it before asyncio.run()"
        )
    # The variable, since asking for the policy makes one.
    policy = getattr(events, "_event_loop_policy", None)
    if policy is None or type(policy) is _Base or isinstance(policy, EventLoopPolicy):
        return
    kind = type(policy)
    raise RuntimeError(
        f"another event loop policy is installed: {kind.__module__}.{kind.__qualname__}; leave "
        "that one out, or give loop_factory=hotloop.new_event_loop to asyncio.run()"
    )
