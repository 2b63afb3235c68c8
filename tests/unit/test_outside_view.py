"""What looks into a process from outside sees the same as on asyncio: `python -m asyncio ps`,
`pstree` and the call graphs of 3.14 and later."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from helpers import run

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="call graphs and `python -m asyncio ps` came with 3.14"
)
aio: Any = asyncio  # names that mypy's oldest version does not have

PROGRAM = """\
import asyncio, sys

async def waits(gate):
    await gate.wait()

async def leaf(name, gate):
    await waits(gate)

async def group(name, depth, gate):
    async with asyncio.TaskGroup() as tg:
        for number in range(2):
            child = f"{name}.{number}"
            coro = leaf(child, gate) if depth == 1 else group(child, depth - 1, gate)
            tg.create_task(coro, name=child)

async def everything(gate, future):
    await asyncio.gather(asyncio.shield(leaf("shielded", gate)), future)

async def first(gate):
    tasks = [asyncio.create_task(leaf(f"w{n}", gate), name=f"w{n}") for n in range(2)]
    await asyncio.wait(tasks)

async def bounded(gate):
    await asyncio.wait_for(leaf("bounded", gate), 1000)

async def main():
    gate = asyncio.Event()
    future = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tg:
        tg.create_task(group("root", 3, gate), name="root")
        tg.create_task(everything(gate, future), name="everything")
        tg.create_task(first(gate), name="first")
        tg.create_task(bounded(gate), name="bounded")
        asyncio.get_running_loop().add_reader(0, stop, gate, future)
        asyncio.get_running_loop().call_later(0.05, lambda: print("ready", flush=True))

def stop(gate, future):
    asyncio.get_running_loop().remove_reader(0)
    gate.set()
    future.set_result(None)

if sys.argv[1] == "asyncio":
    asyncio.run(main())
else:
    import hotloop
    asyncio.run(main(), loop_factory=lambda: hotloop.new_event_loop(sys.argv[1]))
"""


def seen_from_outside(kind: str, *commands: str) -> list[str]:
    """The program on that loop, as each of asyncio's commands shows it."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        answers = []
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-m", "asyncio", command, str(child.pid)],
                capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip
            said = done.stdout + done.stderr
            if done.returncode != 0 and re.search("permission", said, re.IGNORECASE):
                pytest.skip("the system does not let one process look into another (ptrace)")
            assert done.returncode == 0, said
            answers.append(plain(said, str(child.pid)))
        child.stdin.close()
        assert child.wait(60) == 0
        return answers
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            pipe.close()


def plain(text: str, pid: str) -> str:
    """Without addresses and the counted names that the interpreters' own tasks take."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text.replace(pid, "PID"))
    text = re.sub(r"Task-\d+", "Task-N", text)
    text = re.sub(r"(?<=\S) +", " ", text)  # columns are padded by the addresses' widths
    # How a loop is left at its bottom is its own business; the tasks are not.
    return "\n".join(sorted(line.rstrip() for line in text.splitlines()))


def test_ps_and_pstree(backend: str) -> None:
    expected = seen_from_outside("asyncio", "pstree", "ps")
    assert "root.1.1.1" in expected[0]
    assert seen_from_outside(backend, "pstree", "ps") == expected


async def deep(depth: int, ready: asyncio.Event, gate: asyncio.Event) -> None:
    if depth == 0:
        ready.set()
        await gate.wait()
        return
    async with asyncio.TaskGroup() as tg:
        tg.create_task(deep(depth - 1, ready, gate), name=f"depth {depth - 1}")


def test_call_graph_of_a_task(anyloop: Any) -> None:
    """From the innermost task up through three groups to the task that began it all."""

    async def main() -> tuple[list[str], str, str]:
        ready, gate = asyncio.Event(), asyncio.Event()
        outermost = asyncio.create_task(deep(3, ready, gate), name="depth 3")
        await ready.wait()
        [innermost] = [t for t in asyncio.all_tasks() if t.get_name() == "depth 0"]
        graph = aio.capture_call_graph(innermost)
        text = aio.format_call_graph(innermost)
        printed = io.StringIO()
        aio.print_call_graph(innermost, file=printed)
        names = []
        while graph is not None:
            names.append(graph.future.get_name())
            graph = graph.awaited_by[0] if graph.awaited_by else None
        gate.set()
        await outermost
        return names, text, printed.getvalue()

    names, text, printed = run(anyloop, main())
    assert names == ["depth 0", "depth 1", "depth 2", "depth 3"]
    assert printed.rstrip() == text.rstrip()
    for depth in range(4):
        assert f"depth {depth}" in text


def names_of(future: Any) -> set[str] | None:
    found = future._asyncio_awaited_by
    return found if found is None else {getattr(f, "get_name", lambda: "future")() for f in found}


async def awaits(thing: Any) -> Any:
    return await thing


@pytest.mark.parametrize("ending", ["result", "exception", "cancel"])
def test_who_awaits_a_future(anyloop: Any, ending: str) -> None:
    """One, two, three waiters; one of them cancelled; all gone when it is done."""

    async def main() -> list[Any]:
        seen: list[Any] = []
        future = anyloop.create_future()
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]
        seen.append(names_of(future))
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(awaits(future), name=f"t{number}"))
            await asyncio.sleep(0)
            seen.append(names_of(future))
        shielded = asyncio.shield(future)
        seen.append(names_of(future))
        if ending == "result":
            future.set_result(None)
        elif ending == "exception":
            future.set_exception(ZeroDivisionError())
        else:
            tasks[1].cancel()  # cancels the future, and so all
        await asyncio.gather(*tasks, shielded, return_exceptions=True)
        seen.append(names_of(future))
        return seen

    seen = run(anyloop, main())
    *before, after = seen
    some = [{"t0"}, {"t0", "t1"}, {"t0", "t1", "t2"}]
    assert before == [None, *some, {"t0", "t1", "t2", "main"}]  # who shields awaits too
    assert not after


@pytest.mark.parametrize("how", ["gather", "wait", "wait_for", "shield", "group", "as_completed"])
def test_who_awaits_in_each_way(how: str) -> None:
    """The record at every point of a wait is what it is on asyncio."""
    import hotloop

    def scenario(loop: Any) -> list[Any]:
        async def waiter(child: Any) -> None:
            if how == "gather":
                await asyncio.gather(child)
            elif how == "wait":
                await asyncio.wait([child])
            elif how == "wait_for":
                await asyncio.wait_for(child, 1000)
            elif how == "shield":
                await asyncio.shield(child)
            elif how == "as_completed":
                for next_one in asyncio.as_completed([child]):
                    await next_one
            else:
                async with asyncio.TaskGroup() as tg:
                    tg.create_task(awaits(child), name="member")

        async def main() -> list[Any]:
            seen: list[Any] = []
            future = loop.create_future()
            child = asyncio.create_task(awaits(future), name="child")
            task = asyncio.create_task(waiter(child), name="waiter")
            for _ in range(4):
                seen.append((names_of(future), names_of(child), names_of(task)))
                await asyncio.sleep(0)
            graph = io.StringIO()
            aio.print_call_graph(future, file=graph)
            seen.append(re.sub(r"0x[0-9a-f]+|line \d+|File .*", "", graph.getvalue()))
            future.set_result(1)
            for _ in range(4):
                await asyncio.sleep(0)
                seen.append((names_of(future), names_of(child), names_of(task)))
            await task
            seen.append((names_of(future), names_of(child), names_of(task)))
            return seen

        found: list[Any] = loop.run_until_complete(main())
        return found

    results = []
    for factory in (asyncio.SelectorEventLoop, hotloop.new_event_loop):
        with contextlib.closing(factory()) as loop:
            results.append(scenario(loop))
    assert results[0] == results[1]


def test_a_stranger_on_the_record(anyloop: Any) -> None:
    """asyncio's own functions see and change what ours keeps."""

    async def main() -> None:
        future, other = anyloop.create_future(), anyloop.create_future()
        me = asyncio.current_task()
        aio.future_add_to_awaited_by(future, other)
        assert set(future._asyncio_awaited_by) == {other}
        aio.future_add_to_awaited_by(future, me)
        assert set(future._asyncio_awaited_by) == {other, me}
        aio.future_discard_from_awaited_by(future, other)
        assert set(future._asyncio_awaited_by) == {me}
        anyloop.call_soon(future.set_result, None)
        await future
        assert not future._asyncio_awaited_by

    run(anyloop, main())
