"""`asyncio.all_tasks()` on Python 3.12 and 3.13, without its price.

asyncio keeps scheduled tasks in a `WeakSet` that `_asyncio` shares; adding to it costs
more than running a short task.  Ours hang on a linked list of the C core instead, and the
set that everybody already holds gets a class whose iteration also walks that list.
From 3.14 on asyncio has a list of its own and this module does nothing.
"""

from __future__ import annotations

import asyncio.tasks
import weakref
from collections.abc import Callable, Iterator
from typing import Any


def install(listed: Callable[[], list[Any]], unlink: Callable[[Any], bool]) -> bool:
    """Make `asyncio.all_tasks()` see `listed()`; return whether that was possible.

    `unlink(task)` takes one of our tasks off the list and returns whether it was on it.
    """
    tasks: Any = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if type(tasks) is not weakref.WeakSet:
        return False

    class TaskSet(weakref.WeakSet[Any]):
        """asyncio's set of scheduled tasks, with hotloop's own shown as members."""

        def __iter__(self) -> Iterator[Any]:
            yield from super().__iter__()
            yield from listed()

        def __len__(self) -> int:
            return super().__len__() + len(listed())

        def __contains__(self, item: Any) -> bool:
            return super().__contains__(item) or any(item is task for task in listed())

        def discard(self, item: Any) -> None:
            super().discard(item)
            unlink(item)

        def remove(self, item: Any) -> None:
            if not unlink(item):
                super().remove(item)

    tasks.__class__ = TaskSet
    return True
