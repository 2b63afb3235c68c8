"""hotloop imported twice, as after a reload: two module states, whose objects may meet.

A loop, a future and a task are fused into one only where all three are of the same module; any
other mixture goes by asyncio's protocol, and works.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import LONG, run, turn

import hotloop

Records = list[logging.LogRecord]


def import_again() -> ModuleType:
    """hotloop with a module state of its own; sys.modules is as before."""
    ours = {name: module for name, module in sys.modules.items() if name.startswith("hotloop")}
    for name in ours:
        del sys.modules[name]
    try:
        return importlib.import_module("hotloop")
    finally:
        for name in [name for name in sys.modules if name.startswith("hotloop")]:
            del sys.modules[name]
        sys.modules.update(ours)


@pytest.fixture(scope="module")
def second() -> ModuleType:
    module = import_again()
    assert module.Task is not hotloop.Task
    return module


@pytest.fixture(
    params=itertools.product((0, 1), repeat=3), ids=lambda p: "loop{}-fut{}-task{}".format(*p)
)
def mixture(
    request: pytest.FixtureRequest, second: ModuleType, backend: str
) -> Iterator[tuple[Any, type[Any], type[Any]]]:
    """A loop, a type of futures and one of tasks, each of either module."""
    of_loop, of_future, of_task = ((hotloop, second)[number] for number in request.param)
    loop = of_loop.new_event_loop(backend=backend)
    yield loop, of_future.Future, of_task.Task
    loop.close()


Mixture = tuple[Any, type[Any], type[Any]]


async def waits(future: Any) -> Any:
    return await future


@pytest.mark.parametrize("debug", [False, True])
def test_a_task_awaits_a_future(mixture: Mixture, debug: bool) -> None:
    loop, future_type, task_type = mixture
    loop.set_debug(debug)
    future = future_type(loop=loop)
    tasks = [task_type(waits(future), loop=loop) for _ in range(2)]
    turn(loop)
    assert len(future._callbacks) == 2
    assert all(callable(callback) for callback, _ in future._callbacks)
    assert [task._fut_waiter for task in tasks] == [future, future]
    future.set_result("value")
    assert [run(loop, task) for task in tasks] == ["value", "value"]


def test_a_task_awaits_a_task(mixture: Mixture) -> None:
    loop, _, task_type = mixture

    async def main() -> Any:
        inner = loop.create_task(asyncio.sleep(0, "value"))
        outer = task_type(waits(task_type(waits(inner), loop=loop)), loop=loop)
        return await outer

    assert run(loop, main()) == "value"


def test_cancelled_through_a_future(mixture: Mixture) -> None:
    loop, future_type, task_type = mixture
    future = future_type(loop=loop)
    task = task_type(waits(future), loop=loop)
    turn(loop)
    task.cancel("message")
    assert future.cancelled()
    turn(loop)
    assert task.cancelled()


def test_an_unbound_method_ends_the_wait(mixture: Mixture) -> None:
    loop, future_type, task_type = mixture
    future = future_type(loop=loop)
    task = task_type(waits(future), loop=loop)
    turn(loop)
    asyncio.Future.set_result(future, "value")
    assert run(loop, task) == "value"


def test_the_waiter_can_be_taken_back(mixture: Mixture) -> None:
    loop, future_type, task_type = mixture
    future = future_type(loop=loop)
    task = task_type(waits(future), loop=loop)
    turn(loop)
    [(wakeup, context)] = future._callbacks
    assert future.remove_done_callback(wakeup) == 1
    assert not future._callbacks
    future.add_done_callback(wakeup, context=context)
    future.set_result("value")
    assert run(loop, task) == "value"


def test_a_bare_task_as_callback_never_passes_for_a_waiter(
    mixture: Mixture, reports: Records
) -> None:
    loop, future_type, task_type = mixture
    other = future_type(loop=loop)
    task = task_type(waits(other), loop=loop)
    turn(loop)
    future = future_type(loop=loop)
    try:
        future.add_done_callback(task)
    except TypeError:  # refused at once, or reported when it is called
        pass
    else:
        future.set_result("wrong")
        turn(loop, 2)
        assert [type(r.exc_info[1]) for r in reports if r.exc_info] == [TypeError]
    turn(loop)
    assert not task.done()
    other.set_result("right")
    assert run(loop, task) == "right"


def test_all_and_current_task(mixture: Mixture) -> None:
    loop, _, task_type = mixture
    seen: list[Any] = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        seen.append(asyncio.all_tasks())

    task = task_type(look(), loop=loop)
    loop.run_until_complete(task)
    assert seen == [task, {task}]


def goes_away(backend: str) -> None:
    module = import_again()

    async def main() -> None:
        await asyncio.gather(*[asyncio.sleep(0) for _ in range(3)])
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0)

    loop = module.new_event_loop(backend=backend)
    with pytest.raises(TimeoutError):
        loop.run_until_complete(main())
    loop.close()
    gone = [weakref.ref(thing) for thing in (module.Task, module.Future, module.EventLoop)]
    del module, loop
    for _ in range(3):
        gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_a_second_module_goes_away(backend: str) -> None:
    """In a process of its own: CPython 3.13 without a GIL keeps every class once there has been a
    second thread."""
    code = f"import test_second_module; test_second_module.goes_away({backend!r})"
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=LONG
    )
