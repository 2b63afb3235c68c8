"""What a child writes, put into its StreamReader by C: where no frame of asyncio's runs, and where
every one of them must. As net/test_stream_feed.py does for sockets; stock asyncio is the oracle.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
import subprocess
import sys
import time
from asyncio import StreamReader, base_subprocess
from asyncio.subprocess import SubprocessStreamProtocol
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from frames import TOOL, counted

Run = Callable[[Any], Any]

LIMIT = 30.0
PIPE = subprocess.PIPE
Proto = base_subprocess.ReadSubprocessPipeProto
Transport: Any = base_subprocess.BaseSubprocessTransport
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "data_received": (Proto, Proto.data_received),
    "_pipe_data_received": (Transport, Transport._pipe_data_received),
    "_call": (Transport, Transport._call),
    "pipe_data_received": (SubprocessStreamProtocol, SubprocessStreamProtocol.pipe_data_received),
    "feed_data": (StreamReader, StreamReader.feed_data),
    # private, so typeshed does not know it
    "_wakeup_waiter": (StreamReader, StreamReader._wakeup_waiter),  # type: ignore[attr-defined]
}
ALL_THE_WAY = dict.fromkeys(FUNCTIONS, 1)


@pytest.fixture
def frames() -> Iterator[Counter[str]]:
    """How often each of asyncio's functions between the pipe and the reader has been entered."""
    with counted(function.__code__ for _, function in FUNCTIONS.values()) as count:
        yield count


@pytest.fixture
def fed(loop_kind: str) -> dict[str, int]:
    """The frames that one arrival takes while nothing is patched: none on hotloop."""
    return ALL_THE_WAY if loop_kind == "asyncio" else {}


async def cat(**kwargs: Any) -> Any:
    """A child that sends back what it gets; it has read from its pipe once."""
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, **kwargs)
    await echo(child, b"begin\n")
    return child


async def echo(child: Any, line: bytes) -> None:
    child.stdin.write(line)
    assert await asyncio.wait_for(child.stdout.readline(), LIMIT) == line


async def end(child: Any) -> None:
    child.stdin.close()
    assert await asyncio.wait_for(child.stdout.read(), LIMIT) == b""
    await child.wait()


async def one_arrival(child: Any, frames: Counter[str]) -> dict[str, int]:
    frames.clear()
    await echo(child, b"a line\n")
    return dict(frames)


def pipe_of(child: Any) -> Any:
    return child._transport._pipes[1]


def test_no_frame_between(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def main() -> None:
        child = await cat()
        assert await one_arrival(child, frames) == fed
        assert await one_arrival(child, frames) == fed
        await end(child)

    run(main())


def test_both_outputs(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "read line; echo $line >&2; read line; echo $line; read line",
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        assert child.stdin
        assert child.stdout
        assert child.stderr
        for reader in child.stderr, child.stdout:
            frames.clear()
            child.stdin.write(b"hello\n")
            assert await asyncio.wait_for(reader.readline(), LIMIT) == b"hello\n"
            assert dict(frames) == fed
        child.stdin.close()
        await child.wait()

    run(main())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_patched_class(
    run: Run, frames: Counter[str], fed: dict[str, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        child = await cat()
        cls, function = FUNCTIONS[name]
        calls = []

        def patched(self: Any, *args: Any) -> Any:
            calls.append(args)
            return function(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(cls, name, patched)
            # two functions of the reader are one to look at: then both are called
            assert (await one_arrival(child, frames))[name] == 1
        assert len(calls) == 1
        assert await one_arrival(child, frames) == fed
        await end(child)

    run(main())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replaced_code(
    run: Run, frames: Counter[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        child = await cat()
        _, function = FUNCTIONS[name]
        with monkeypatch.context() as patch:
            patch.setattr(function, "__code__", function.__code__.replace(co_name="replaced"))
            sys.monitoring.set_local_events(TOOL, function.__code__, sys.monitoring.events.PY_START)
            assert (await one_arrival(child, frames))["replaced"] == 1
        await end(child)

    run(main())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_method_of_one_instance(run: Run, frames: Counter[str], name: str) -> None:
    async def main() -> None:
        child = await cat()
        cls, _ = FUNCTIONS[name]
        owners = pipe_of(child), child._transport, child._protocol, child.stdout
        owner = next(one for one in owners if isinstance(one, cls))
        calls: list[Any] = []
        inherited = getattr(owner, name)

        def own(*args: Any) -> Any:
            calls.append(args)
            return inherited(*args)

        setattr(owner, name, own)
        assert (await one_arrival(child, frames))[name] == 1
        assert len(calls) == 1
        delattr(owner, name)
        await end(child)

    run(main())


def test_protocols_of_a_programs_own(run: Run, frames: Counter[str]) -> None:
    class Noting(SubprocessStreamProtocol):
        def pipe_data_received(self, fd: int, data: bytes | str) -> None:
            noted.append((fd, data))
            super().pipe_data_received(fd, data)

    noted: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: Noting(limit=2**16, loop=loop), "/bin/cat", stdin=PIPE, stdout=PIPE
        )
        child = asyncio.subprocess.Process(transport, protocol, loop)
        assert await one_arrival(child, frames) == ALL_THE_WAY
        assert noted == [(1, b"a line\n")]
        await end(child)

    run(main())


def test_protocol_replaced_before_the_turn(run: Run, anyloop: Any) -> None:
    """Who gets the data is settled when it is read; the reader is fed in the turn after."""

    async def main() -> None:
        child = await cat()
        pipe = pipe_of(child)
        data_received = pipe.data_received
        turns: list[str] = []

        def seen(data: bytes) -> None:
            data_received(data)
            turns.append(f"read {len(child.stdout._buffer)}")
            asyncio.get_running_loop().call_soon(
                lambda: turns.append(f"next {len(child.stdout._buffer)}")
            )

        pipe.data_received = seen
        await echo(child, b"12345\n")
        assert turns == ["read 0", "next 6"]
        del pipe.data_received
        await end(child)

    run(main())


def test_turns_until_the_reader_runs(run: Run) -> None:
    """As many as with asyncio: one to the feeding, one to the reader's."""

    async def main() -> None:
        child = await cat()
        loop = asyncio.get_running_loop()
        order: list[str] = []

        async def reads() -> None:
            await child.stdout.readline()
            order.append("line")

        reading = asyncio.ensure_future(reads())
        await asyncio.sleep(0)
        transport = child._transport.get_pipe_transport(1)
        transport.pause_reading()
        child.stdin.write(b"x\n")
        # the data is in the pipe before the loop looks, and it looks in its next turn
        assert select.select([transport.get_extra_info("pipe")], [], [], LIMIT)[0]
        time.sleep(0.001)
        transport.resume_reading()

        def turn(number: int) -> None:
            order.append(f"turn {number}")
            if number < 5:
                loop.call_soon(turn, number + 1)

        loop.call_soon(turn, 1)
        await reading
        assert order == ["turn 1", "turn 2", "turn 3", "line", "turn 4"]
        await end(child)

    run(main())


def test_tracers_see_every_frame(run: Run) -> None:
    async def main() -> None:
        child = await cat()
        seen: Counter[str] = Counter()

        def profile(frame: Any, event: str, _: Any) -> None:
            if event == "call":
                seen[frame.f_code.co_name] += 1

        sys.setprofile(profile)
        try:
            await echo(child, b"line\n")
        finally:
            sys.setprofile(None)
        assert {name: seen[name] for name in FUNCTIONS} == ALL_THE_WAY
        await end(child)

    run(main())


def test_debug_mode(anyloop: Any, frames: Counter[str]) -> None:
    async def main() -> None:
        child = await cat()
        assert await one_arrival(child, frames) == ALL_THE_WAY
        await end(child)

    anyloop.set_debug(True)
    anyloop.run_until_complete(main())


def test_call_soon_of_the_loop_replaced(anyloop: Any, frames: Counter[str]) -> None:
    called: list[Any] = []

    async def main() -> None:
        child = await cat()
        call_soon = anyloop.call_soon

        def noting(callback: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(getattr(callback, "__name__", None))
            return call_soon(callback, *args, **kwargs)

        anyloop.call_soon = noting
        try:
            assert await one_arrival(child, frames) == ALL_THE_WAY
        finally:
            del anyloop.call_soon
        await end(child)

    anyloop.run_until_complete(main())
    assert "pipe_data_received" in called


def test_pauses_above_twice_the_limit(run: Run) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "print('x' * 99999)",
            stdout=PIPE,
            limit=64,
        )
        assert child.stdout
        async with asyncio.timeout(LIMIT):
            # both private, so typeshed does not know them
            while not child.stdout._paused:  # type: ignore[attr-defined]
                await asyncio.sleep(0.001)
            assert not child._transport.get_pipe_transport(1).is_reading()  # type: ignore[attr-defined]
            assert await child.stdout.read() == b"x" * 99999 + b"\n"
            await child.wait()

    run(main())


def test_somebody_holds_a_view_of_the_buffer(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        child = await cat()
        child.stdout._buffer.extend(b"before")
        view = memoryview(child.stdout._buffer)
        child.stdin.write(b"lost")
        async with asyncio.timeout(LIMIT):
            while not handled:
                await asyncio.sleep(0.001)
        view.release()
        assert type(handled[0]["exception"]) is BufferError
        called = "Exception in callback SubprocessStreamProtocol.pipe_data_received("
        assert handled[0]["message"].startswith(called)
        assert isinstance(handled[0]["handle"], asyncio.Handle)
        assert set(handled[0]) == {"message", "exception", "handle"}
        assert bytes(child.stdout._buffer) == b"before"
        child.stdout._buffer.clear()
        await end(child)

    run(main())


def test_data_after_feed_eof(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        child = await cat()
        child.stdout.feed_eof()
        child.stdin.write(b"late")
        async with asyncio.timeout(LIMIT):
            while not handled:
                await asyncio.sleep(0.001)
        assert type(handled[0]["exception"]) is AssertionError
        child.stdin.close()
        await child.wait()

    run(main())


def test_waiter_that_somebody_has_finished(run: Run, handled: list[dict[str, Any]]) -> None:
    """The bytes are there, and the report is of the call that asyncio makes."""

    async def main() -> None:
        child = await cat()
        child.stdout._waiter = waiter = asyncio.get_running_loop().create_future()
        waiter.set_result(None)
        child.stdin.write(b"kept")
        async with asyncio.timeout(LIMIT):
            while not handled:
                await asyncio.sleep(0.001)
        assert type(handled[0]["exception"]) is asyncio.InvalidStateError
        called = "Exception in callback SubprocessStreamProtocol.pipe_data_received("
        assert handled[0]["message"].startswith(called)
        assert child.stdout._waiter is None
        assert await child.stdout.readexactly(4) == b"kept"
        await end(child)

    run(main())


def test_no_reader_any_more(run: Run, frames: Counter[str]) -> None:
    async def main() -> None:
        child = await cat()
        reader, child._protocol.stdout = child.stdout, None
        frames.clear()
        child.stdin.write(b"dropped\n")
        async with asyncio.timeout(LIMIT):
            while not frames:
                await asyncio.sleep(0.001)
        assert not reader._buffer
        child._protocol.stdout = reader
        await end(child)

    run(main())


def test_context_of_the_call(run: Run) -> None:
    """A pause_reading() that a program has put in its place runs where asyncio would run it."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> str:
        var.set("starter")
        child = await cat(limit=8)
        var.set("reader")
        found = []
        transport = child._transport.get_pipe_transport(1)

        class Standing:
            def pause_reading(self) -> None:
                found.append(var.get())

            def resume_reading(self) -> None:
                pass

        child.stdout._transport = Standing()
        child.stdin.write(b"more than twice the limit\n")
        async with asyncio.timeout(LIMIT):
            while not found:
                await asyncio.sleep(0.001)
        child.stdout._transport = transport
        child.stdout._paused = False
        child.stdout._buffer.clear()
        await end(child)
        return found[0]

    assert run(main()) == "starter"


def test_children_without_number(run: Run, handled: list[dict[str, Any]]) -> None:
    """Attributes that asyncio's own code needs and does not find fail as they do there."""

    async def main() -> None:
        child = await cat()
        del pipe_of(child).fd
        child.stdin.write(b"x\n")
        async with asyncio.timeout(LIMIT):
            while not handled:
                await asyncio.sleep(0.001)
        assert type(handled[0]["exception"]) is AttributeError
        pipe_of(child).fd = 1
        child._transport.close()
        await child.wait()

    run(main())
