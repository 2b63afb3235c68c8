"""How long the machines run: a few programs in `make test`, HOTLOOP_FUZZ_SECONDS of each if set."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

import hotloop

SECONDS = float(os.environ.get("HOTLOOP_FUZZ_SECONDS") or 0)
SHRINK = [] if os.environ.get("HOTLOOP_FUZZ_NO_SHRINK") else [Phase.shrink]
KINDS = 3  # a machine's test runs on asyncio (the model's oracle), epoll and select
SHORT = 25  # programs
ROUND = 25  # programs between two looks at the clock


def make_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    return hotloop.new_event_loop(backend=kind.removeprefix("hotloop-"))


class Machine(RuleBasedStateMachine):
    """One program on one loop; `kind` is set by hammer()."""

    kind = "hotloop-epoll"
    programs = 0

    def teardown(self) -> None:
        type(self).programs += 1


def hammer(machine: type[Machine], kind: str, steps: int = 40, machines: int = 1) -> None:
    """Runs programs of the machine; a failing one is shown as the calls that make it.

    `machines`: how many of the target's there are, which share its time.
    """
    this = type(machine.__name__, (machine,), {"kind": kind, "programs": 0})
    logger = logging.getLogger("asyncio")
    level = logger.level
    end = time.monotonic() + SECONDS / KINDS / machines
    try:
        logger.setLevel(logging.CRITICAL + 1)  # handlers that fail are part of it
        while True:
            # The silenced error: hypothesis leaves it without types.
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                this,
                settings=settings(
                    max_examples=ROUND if SECONDS else SHORT,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    derandomize=not SECONDS,
                    phases=[Phase.explicit, Phase.generate, *SHRINK],
                    suppress_health_check=list(HealthCheck),
                ),
            )
            if time.monotonic() >= end:
                break
    finally:
        logger.setLevel(level)
        # The silenced error: of the class made above.
        programs: Any = this.programs  # type: ignore[attr-defined]
        print(f"fuzz: {programs} programs on {kind}")
