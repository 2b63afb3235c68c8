"""Runs inside runs, for programs that must call a coroutine from a function that a loop runs.

asyncio refuses them, and so do we until allow_nested_runs() was called for the loop. Every run has
a level: the number of runs that it lies in, which is the number of tasks set aside for it.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import tasks
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object


def _swap_current_task(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None
) -> asyncio.Task[Any] | None:
    before = tasks.current_task(loop)
    if before is not task:  # 3.12 cannot put nothing in the place of nothing
        # typeshed does not know the private function
        tasks._swap_current_task(loop, task)  # type: ignore[attr-defined]
    return before


def _ended_the_run(future: asyncio.Future[Any]) -> bool:
    """Has run_forever() been left by what the future raised?"""
    return (
        future.done()
        and not future.cancelled()
        and isinstance(future.exception(), SystemExit | KeyboardInterrupt)
    )


class NestedMixin(Base):
    """What a loop knows about the runs it is in; a base of LoopBase."""

    # The current task, or None, of each run that has another one in it. None: that is refused.
    _set_aside: list[asyncio.Task[Any] | None] | None = None

    @functools.cached_property
    def _awaited(self) -> dict[int, asyncio.Future[Any] | None]:
        """Level -> the future that a run_until_complete() waits for; None once its time was up."""
        return {}

    def _new_level(self, future: object) -> int:
        """The level of a run that begins; RuntimeError: it would wait for a task around it."""
        if self._set_aside is None or not self.is_running():
            return 0
        if future is not None and future in (*self._set_aside, tasks.current_task(self)):
            raise RuntimeError(f"{future!r} cannot be waited for by a run inside it")
        return len(self._set_aside) + 1

    def _is_innermost(self, future: asyncio.Future[Any]) -> bool:
        """Does the innermost run wait for this future? Others that do end when they are it."""
        assert self._set_aside is not None
        innermost = len(self._set_aside)
        for level, other in self._awaited.items():
            if other is future and level != innermost:
                self._awaited[level] = None
        return self._awaited.get(innermost) is future

    # ---- called by the C type ----

    def _enter_nested(self) -> None:
        assert self._set_aside is not None
        self._set_aside.append(_swap_current_task(self, None))

    def _leave_nested(self) -> None:
        assert self._set_aside is not None
        _swap_current_task(self, self._set_aside.pop())
        future: Any = self._awaited.get(len(self._set_aside), self)
        if future is None or (future is not self and _ended_the_run(future)):
            self.stop()


def allow_nested_runs[L: asyncio.AbstractEventLoop](loop: L) -> L:
    """Let run_until_complete() and run_forever() be called while the loop runs; return the loop.

    Meant for notebooks and for plain functions in the middle of asynchronous programs. From the
    loop's own thread only; asyncio.run() still refuses, since it would make a new loop.

    The call comes back when its own future is done, or with stop(), which ends the innermost run.
    Meanwhile all that the loop has to do goes on, callbacks queued in the outer run first. The
    task that makes the call is set aside: it is not the current task and cannot go on, and to
    wait for it is a RuntimeError. An outer run whose future is done by then ends when the inner
    ones have. What is entered already, a context or a lock, stays so.

    TypeError: the loop is not one of hotloop's.
    """
    if not isinstance(loop, NestedMixin):
        raise TypeError(f"nested runs need a loop of hotloop's, not {loop!r}")
    if loop._set_aside is None:
        loop._set_aside = []
    return loop
