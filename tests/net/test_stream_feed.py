"""asyncio's streams fed from C: where no frame of theirs runs, and where every one of them must.

On hotloop, bytes for an untouched StreamReaderProtocol reach the reader's buffer without a call
of data_received() or feed_data(). `frames` counts those calls by sys.monitoring, which does not
keep the loop from the short way; sys.settrace() and sys.setprofile() do, so that they see all.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import os
import socket
import sys
import weakref
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from frames import counted
from netlib import LIMIT, reset, tcp_pair

Run = Callable[[Any], Any]

WATCHED = {
    "data_received": StreamReaderProtocol.data_received.__code__,
    "_stream_reader": StreamReaderProtocol._stream_reader.fget.__code__,  # type: ignore[attr-defined]
    "feed_data": StreamReader.feed_data.__code__,
    "_wakeup_waiter": StreamReader._wakeup_waiter.__code__,  # type: ignore[attr-defined]
}
ALL_THE_WAY = {"data_received": 1, "_stream_reader": 1, "feed_data": 1, "_wakeup_waiter": 1}


@pytest.fixture
def frames() -> Iterator[Counter[str]]:
    """How often each of asyncio's functions between a transport and a reader has been entered."""
    with counted(WATCHED.values()) as count:
        yield count


@pytest.fixture
def fed(loop_kind: str) -> dict[str, int]:
    """The frames that one arrival takes while nothing is patched: none on hotloop."""
    return ALL_THE_WAY if loop_kind == "asyncio" else {}


class Stream:
    """A reader and a writer of the loop under test, a plain socket at the other end."""

    def __init__(self, reader: Any, writer: Any, protocol: Any, far: socket.socket) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol
        self.far = far

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far, data)

    async def arrived(self, size: int) -> None:
        """Waits until that much is in the buffer, without reading."""
        async with asyncio.timeout(LIMIT):
            while len(self.reader._buffer) < size:
                await asyncio.sleep(0)

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.gather(self.protocol._closed, return_exceptions=True)
        self.far.close()


async def stream(
    reader: type[StreamReader] = StreamReader,
    protocol: type[StreamReaderProtocol] = StreamReaderProtocol,
    limit: int = 2**16,
) -> Stream:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    made = reader(limit=limit, loop=loop)
    transport, used = await loop.create_connection(lambda: protocol(made, loop=loop), sock=near)
    return Stream(made, StreamWriter(transport, used, made, loop), used, far)


async def one_arrival(s: Stream, frames: Counter[str]) -> dict[str, int]:
    """The frames that are entered while a waiting reader gets one message."""
    waiting = asyncio.ensure_future(s.reader.readexactly(3))
    await asyncio.sleep(0)
    frames.clear()
    await s.send(b"abc")
    assert await asyncio.wait_for(waiting, LIMIT) == b"abc"
    return dict(frames)


# ---- untouched ---------------------------------------------------------------------------------


def test_no_frame_between(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def main() -> None:
        s = await stream()
        assert await one_arrival(s, frames) == fed
        assert await one_arrival(s, frames) == fed
        await s.close()

    run(main())


def test_servers_and_clients(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def echo(reader: StreamReader, writer: StreamWriter) -> None:
        async for line in reader:
            writer.write(line)
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            frames.clear()
            writer.write(b"line\n")
            assert await reader.readline() == b"line\n"
            assert dict(frames) == dict.fromkeys(fed, 2)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_read_pipe(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = StreamReader(loop=loop)
        r, w = os.pipe()
        transport, protocol = await loop.connect_read_pipe(
            lambda: StreamReaderProtocol(reader, loop=loop), io.FileIO(r, "r")
        )
        waiting = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        frames.clear()
        os.write(w, b"line\n")
        assert await asyncio.wait_for(waiting, LIMIT) == b"line\n"
        assert dict(frames) == fed
        os.close(w)
        assert await reader.read() == b""
        transport.close()
        await protocol._closed  # type: ignore[attr-defined]

    run(main())


# ---- everything by which somebody could tell ---------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (StreamReaderProtocol, "data_received"),
        (StreamReader, "feed_data"),
        (StreamReader, "_wakeup_waiter"),
    ],
)
def test_patched_class(
    run: Run,
    frames: Counter[str],
    fed: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    original = getattr(owner, name)
    seen: list[tuple[Any, ...]] = []

    def patched(self: Any, *args: Any) -> None:
        seen.append(args)
        original(self, *args)

    async def main() -> None:
        s = await stream()
        assert await one_arrival(s, frames) == fed
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, patched)
            assert await one_arrival(s, frames) == ALL_THE_WAY
            assert seen == [()] if name == "_wakeup_waiter" else [(b"abc",)]
        assert await one_arrival(s, frames) == fed  # and back
        await s.close()

    run(main())


def test_patched_property(run: Run, frames: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        s = await stream()
        other = StreamReader(loop=asyncio.get_running_loop())
        monkeypatch.setattr(StreamReaderProtocol, "_stream_reader", property(lambda self: other))
        await s.send(b"abc")
        assert await asyncio.wait_for(other.readexactly(3), LIMIT) == b"abc"
        monkeypatch.undo()
        await s.close()

    run(main())


def test_replaced_code(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    calls: list[bytes] = []

    def counting(self: Any, data: bytes) -> None:
        self._noted.append(data)
        self._buffer.extend(data)
        self._wakeup_waiter()

    async def main() -> None:
        s = await stream()
        s.reader._noted = calls
        code = StreamReader.feed_data.__code__
        StreamReader.feed_data.__code__ = counting.__code__
        try:
            await one_arrival(s, frames)
        finally:
            StreamReader.feed_data.__code__ = code
        assert calls == [b"abc"]
        assert await one_arrival(s, frames) == fed
        await s.close()

    run(main())


@pytest.mark.parametrize("name", ["feed_data", "_wakeup_waiter"])
def test_method_of_one_reader(run: Run, frames: Counter[str], name: str) -> None:
    async def main() -> None:
        s = await stream()
        original = getattr(s.reader, name)
        seen: list[tuple[Any, ...]] = []

        def patched(*args: Any) -> None:
            seen.append(args)
            original(*args)

        setattr(s.reader, name, patched)
        assert await one_arrival(s, frames) == ALL_THE_WAY
        assert len(seen) == 1
        await s.close()

    run(main())


def test_method_of_one_protocol(run: Run, frames: Counter[str]) -> None:
    async def main() -> None:
        s = await stream()
        original = s.protocol.data_received
        seen: list[bytes] = []

        def patched(data: bytes) -> None:
            seen.append(data)
            original(data)

        s.protocol.data_received = patched
        assert await one_arrival(s, frames) == ALL_THE_WAY
        assert seen == [b"abc"]
        await s.close()

    run(main())


class SlottedReader(StreamReader):
    __slots__ = ()


class OtherProtocol(StreamReaderProtocol):
    pass


@pytest.mark.parametrize(
    ("reader", "protocol"), [(SlottedReader, StreamReaderProtocol), (StreamReader, OtherProtocol)]
)
def test_subclasses(run: Run, frames: Counter[str], reader: Any, protocol: Any) -> None:
    async def main() -> None:
        s = await stream(reader, protocol)
        assert await one_arrival(s, frames) == ALL_THE_WAY
        await s.close()

    run(main())


def test_class_of_an_instance_replaced(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    class Loud(StreamReader):
        def feed_data(self, data: Any) -> None:
            super().feed_data(data.upper())

    async def main() -> None:
        s = await stream()
        assert await one_arrival(s, frames) == fed
        s.reader.__class__ = Loud
        await s.send(b"abc")
        assert await s.reader.readexactly(3) == b"ABC"
        await s.close()

    run(main())


@pytest.mark.parametrize("hook", ["__setattr__", "__getattribute__"])
def test_hooks_of_the_class(
    run: Run, frames: Counter[str], monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    original = getattr(object, hook)

    async def main() -> None:
        s = await stream()
        with monkeypatch.context() as patch:
            patch.setattr(StreamReader, hook, lambda *args: original(*args), raising=False)
            assert await one_arrival(s, frames) == ALL_THE_WAY
        await s.close()

    run(main())


def test_field_made_a_property(
    run: Run, frames: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets: list[Any] = []

    def setter(self: Any, value: Any) -> None:
        sets.append(value)
        self._real = value

    async def main() -> None:
        s = await stream()
        s.reader._real = None
        with monkeypatch.context() as patch:
            made = property(lambda self: self._real, setter)
            patch.setattr(StreamReader, "_waiter", made, raising=False)
            assert await one_arrival(s, frames) == ALL_THE_WAY
        assert sets[1:2] == [None]
        await s.close()

    run(main())


def test_reader_replaced(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        other = StreamReader(loop=asyncio.get_running_loop())
        s.protocol._stream_reader_wr = weakref.ref(other)
        await s.send(b"abc")
        assert await asyncio.wait_for(other.readexactly(3), LIMIT) == b"abc"
        s.protocol._stream_reader_wr = lambda: s.reader  # what is called need not be a reference
        await s.send(b"def")
        assert await asyncio.wait_for(s.reader.readexactly(3), LIMIT) == b"def"
        await s.close()

    run(main())


def test_buffer_of_another_type(run: Run, frames: Counter[str]) -> None:
    class Buffer(bytearray):
        def extend(self, data: Any) -> None:
            super().extend(bytes(data).upper())

    async def main() -> None:
        s = await stream()
        s.reader._buffer = Buffer()
        await s.send(b"abc")
        assert await asyncio.wait_for(s.reader.readexactly(3), LIMIT) == b"ABC"
        await s.close()

    run(main())


@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile])
def test_tracers_see_every_frame(run: Run, install: Any) -> None:
    names: list[str] = []

    def tracer(frame: Any, event: str, arg: Any) -> Any:
        if event == "call" and frame.f_code in WATCHED.values():
            names.append(frame.f_code.co_name)

    async def main() -> None:
        s = await stream()
        waiting = asyncio.ensure_future(s.reader.readexactly(3))
        await asyncio.sleep(0)
        before = sys.gettrace() if install is sys.settrace else sys.getprofile()
        install(tracer)
        await s.send(b"abc")
        assert await asyncio.wait_for(waiting, LIMIT) == b"abc"
        install(before)
        await s.close()

    run(main())
    assert names == ["data_received", "_stream_reader", "feed_data", "_wakeup_waiter"]


def test_debug_mode(anyloop: Any, frames: Counter[str]) -> None:
    anyloop.set_debug(True)

    async def main() -> None:
        s = await stream()
        assert await one_arrival(s, frames) == ALL_THE_WAY
        await s.close()

    anyloop.run_until_complete(main())


def test_call_soon_of_the_loop_replaced(anyloop: Any, frames: Counter[str]) -> None:
    """What wakes the reader goes through it."""
    original = anyloop.call_soon
    calls: list[Any] = []

    def call_soon(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0])
        return original(*args, **kwargs)

    async def main() -> None:
        s = await stream()
        anyloop.call_soon = call_soon
        assert await one_arrival(s, frames) == ALL_THE_WAY
        assert calls
        anyloop.call_soon = original
        await s.close()

    anyloop.run_until_complete(main())


@pytest.mark.parametrize("kind", ["stock", "subclass"])
def test_foreign_waiters(run: Run, frames: Counter[str], kind: str) -> None:
    class Mine(asyncio.Future):  # type: ignore[type-arg]
        pass

    async def main() -> None:
        s = await stream()
        make = asyncio.Future if kind == "stock" else Mine
        waiter = s.reader._waiter = make(loop=asyncio.get_running_loop())
        frames.clear()
        await s.send(b"abc")
        await asyncio.wait_for(waiter, LIMIT)
        assert dict(frames) == ALL_THE_WAY
        assert s.reader._waiter is None
        assert await s.reader.readexactly(3) == b"abc"
        await s.close()

    run(main())


# ---- what feed_data() does ---------------------------------------------------------------------


class Pausable:
    """Stands in a reader's `_transport`."""

    def __init__(self, error: type[Exception] | None = None) -> None:
        self.calls: list[str] = []
        self.error = error

    def pause_reading(self) -> None:
        frame: Any = sys._getframe(1)
        self.calls.append("feed_data" if frame.f_code.co_name == "feed_data" else "C")
        if self.error is not None:
            raise self.error("no")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def test_pauses_above_twice_the_limit(run: Run) -> None:
    async def main() -> None:
        s = await stream(limit=100)
        await s.send(b"x" * 200)
        await s.arrived(200)
        assert not s.reader._paused
        assert s.writer.transport.is_reading()
        await s.send(b"y")
        await s.arrived(201)
        assert s.reader._paused is True
        assert not s.writer.transport.is_reading()
        assert await s.reader.readexactly(101) == b"x" * 101
        assert s.reader._paused is False
        assert s.writer.transport.is_reading()
        await s.send(b"z" * 500)  # arrives while nobody waits: paused anew
        await s.arrived(600)
        assert s.reader._paused is True
        assert await s.reader.readexactly(600) == b"x" * 99 + b"y" + b"z" * 500
        await s.close()

    run(main())


def test_who_is_asked_to_pause(run: Run, loop_kind: str) -> None:
    async def main() -> None:
        s = await stream(limit=1)
        other = s.reader._transport = Pausable()
        await s.send(b"abc")
        await s.arrived(3)
        await s.send(b"def")  # asked once
        await s.arrived(6)
        assert other.calls == ["feed_data" if loop_kind == "asyncio" else "C"]
        assert await s.reader.readexactly(6) == b"abcdef"
        assert other.calls[1:] == ["resume"]
        await s.close()

    run(main())


def test_transports_that_cannot_pause(run: Run) -> None:
    async def main() -> None:
        s = await stream(limit=1)
        other = s.reader._transport = Pausable(NotImplementedError)
        await s.send(b"abc")
        await s.arrived(3)
        assert s.reader._transport is None
        assert s.reader._paused is False
        await s.send(b"def")
        await s.arrived(6)
        assert len(other.calls) == 1
        await s.close()

    run(main())


def test_pausing_fails(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        s = await stream(limit=1)
        s.reader._transport = Pausable(ValueError)
        await s.send(b"abc")
        with pytest.raises(ValueError, match="no"):
            await asyncio.wait_for(s.protocol._closed, LIMIT)
        assert isinstance(s.reader.exception(), ValueError)
        assert s.reader._buffer == b"abc"
        s.far.close()

    run(main())
    assert [c["message"] for c in handled] == ["Fatal error: protocol.data_received() call failed."]


def test_data_after_feed_eof(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        s = await stream()
        s.reader.feed_eof()
        await s.send(b"abc")
        with pytest.raises(AssertionError, match="feed_data after feed_eof"):
            await asyncio.wait_for(s.protocol._closed, LIMIT)
        assert s.reader._buffer == b""
        s.far.close()

    run(main())
    assert isinstance(handled[0]["exception"], AssertionError)


def test_somebody_holds_a_view_of_the_buffer(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        s = await stream()
        view = memoryview(s.reader._buffer)
        await s.send(b"abc")
        with pytest.raises(BufferError, match="cannot be re-sized"):
            await asyncio.wait_for(s.protocol._closed, LIMIT)
        view.release()
        s.far.close()

    run(main())
    assert isinstance(handled[0]["exception"], BufferError)


def test_waiter_that_is_cancelled(run: Run, frames: Counter[str], fed: dict[str, int]) -> None:
    async def main() -> None:
        s = await stream()
        waiter = s.reader._waiter = asyncio.get_running_loop().create_future()
        waiter.cancel()
        await s.send(b"abc")
        await s.arrived(3)
        assert s.reader._waiter is None
        assert waiter.cancelled()
        await s.close()

    run(main())


def test_waiter_that_is_done(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        s = await stream()
        waiter = s.reader._waiter = asyncio.get_running_loop().create_future()
        waiter.set_result(None)
        await s.send(b"abc")
        with pytest.raises(asyncio.InvalidStateError):
            await asyncio.wait_for(s.protocol._closed, LIMIT)
        assert s.reader._buffer == b"abc"
        s.far.close()

    run(main())
    assert isinstance(handled[0]["exception"], asyncio.InvalidStateError)


def test_reader_collected_while_connected(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        gone = weakref.ref(s.reader)
        s.reader._transport = None
        s.writer._reader = s.reader = None
        gc.collect()
        assert gone() is None
        await s.send(b"abc")
        for _ in range(20):
            await asyncio.sleep(0)
        s.far.close()
        s.writer.transport.abort()
        await asyncio.wait_for(s.protocol._closed, LIMIT)

    run(main())


def test_no_reader_at_all(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        s.protocol._stream_reader_wr = None
        await s.send(b"abc")
        for _ in range(20):
            await asyncio.sleep(0)
        assert s.reader._buffer == b""
        await s.close()

    run(main())


@pytest.mark.parametrize("missing", ["_buffer", "_eof", "_limit", "_waiter"])
def test_attributes_missing(run: Run, handled: list[dict[str, Any]], missing: str) -> None:
    async def main() -> None:
        s = await stream()
        delattr(s.reader, missing)
        await s.send(b"abc")
        async with asyncio.timeout(LIMIT):
            while not handled:
                await asyncio.sleep(0)
        s.far.close()
        for _ in range(20):
            await asyncio.sleep(0)
        s.protocol._closed.cancel()

    run(main())
    assert isinstance(handled[0]["exception"], AttributeError)
    assert missing in str(handled[0]["exception"])


@pytest.mark.parametrize("limit", [2.5, 2**70, True])
def test_limits_of_all_kinds(run: Run, limit: Any) -> None:
    async def main() -> None:
        s = await stream(limit=limit)
        await s.send(b"abcdef")
        await s.arrived(6)
        assert s.reader._paused is (2 * limit < 6)
        await s.close()

    run(main())


# ---- reading, turn for turn --------------------------------------------------------------------


def test_turns_until_the_reader_runs(run: Run) -> None:
    """A reader's task runs in the turn after the bytes came; what was scheduled keeps its order."""

    async def main() -> list[str]:
        s = await stream()
        order: list[str] = []
        loop = asyncio.get_running_loop()

        async def read() -> None:
            await s.reader.read(10)
            order.append("reader")

        task = loop.create_task(read())
        await asyncio.sleep(0)
        original = s.reader._waiter
        original.add_done_callback(lambda f: order.append("callback"))
        s.far.send(b"abc")
        while not original.done():
            await asyncio.sleep(0)
        order.append("seen")
        await asyncio.sleep(0)
        order.append("next")
        await task
        await s.close()
        return order

    assert run(main()) == ["seen", "reader", "callback", "next"]


def test_contexts(run: Run) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> None:
        s = await stream(limit=1)
        seen = []

        class Transport(Pausable):
            def pause_reading(self) -> None:
                seen.append(var.get())

        s.reader._transport = Transport()
        var.set("main")
        await s.send(b"abc")
        await s.arrived(3)
        assert seen == ["none"]  # that of the connection's making
        assert await s.reader.readexactly(3) == b"abc"
        assert var.get() == "main"
        await s.close()

    run(main())


def test_every_kind_of_read(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        await s.send(b"one\ntwo;three")
        assert await s.reader.readline() == b"one\n"
        assert await s.reader.readuntil(b";") == b"two;"
        assert await s.reader.read(2) == b"th"
        assert await s.reader.readexactly(3) == b"ree"
        assert not s.reader.at_eof()
        await s.send(b"a\nb\nc")
        s.far.shutdown(socket.SHUT_WR)
        assert [line async for line in s.reader] == [b"a\n", b"b\n", b"c"]
        assert s.reader.at_eof()
        assert await s.reader.read(-1) == b""
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await s.reader.readexactly(1)
        assert caught.value.partial == b""
        await s.close()

    run(main())


def test_read_to_the_end(run: Run) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB: through the limit many times

    async def main() -> None:
        s = await stream(limit=4096)
        sending = asyncio.ensure_future(s.send(data))
        sending.add_done_callback(lambda f: s.far.shutdown(socket.SHUT_WR))
        assert await asyncio.wait_for(s.reader.read(), LIMIT) == data
        await s.close()

    run(main())


def test_overruns(run: Run) -> None:
    async def main() -> None:
        s = await stream(limit=4)
        await s.send(b"abcdefgh")
        await s.arrived(8)
        with pytest.raises(asyncio.LimitOverrunError):
            await s.reader.readuntil(b";")
        with pytest.raises(ValueError, match="limit"):
            await s.reader.readline()
        assert s.reader._buffer == b""
        await s.close()

    run(main())


def test_readers_in_each_others_way(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        first = asyncio.ensure_future(s.reader.read(1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
            await s.reader.read(1)
        await s.send(b"a")
        assert await first == b"a"
        await s.close()

    run(main())


def test_cancelled_reads_lose_nothing(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        task = asyncio.ensure_future(s.reader.read(1))
        await asyncio.sleep(0)
        s.far.send(b"a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(s.reader.read(1), LIMIT) == b"a"
        await s.close()

    run(main())


def test_lost_connection(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        waiting = asyncio.ensure_future(s.reader.readexactly(10))
        await s.send(b"abc")
        await s.arrived(3)
        reset(s.far)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(waiting, LIMIT)
        assert isinstance(s.reader.exception(), ConnectionResetError)
        with pytest.raises(ConnectionResetError):
            await s.reader.read(1)
        await s.close()

    run(main())


def test_exceptions_set_by_hand(run: Run) -> None:
    async def main() -> None:
        s = await stream()
        waiting = asyncio.ensure_future(s.reader.read(1))
        await asyncio.sleep(0)
        s.reader.set_exception(KeyError("mine"))
        with pytest.raises(KeyError):
            await waiting
        await s.send(b"abc")  # still buffered
        await s.arrived(3)
        await s.close()

    run(main())


def test_rejected_connection(run: Run, handled: list[dict[str, Any]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        reader = StreamReader(loop=loop)
        protocol = StreamReaderProtocol(reader, loop=loop)
        protocol._reject_connection = True  # type: ignore[attr-defined]
        far.send(b"abc")
        await loop.create_connection(lambda: protocol, sock=near)
        await asyncio.wait_for(protocol._closed, LIMIT)  # type: ignore[attr-defined]
        assert reader._buffer == b""  # type: ignore[attr-defined]
        far.close()

    run(main())
    assert "garbage collected" in handled[0]["message"]
