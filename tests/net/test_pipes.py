"""Pipe transports: FIFOs, terminals, sockets; stock asyncio is the oracle."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import logging
import os
import pty
import signal
import socket
import tempfile
import tty
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from netlib import LIMIT, CountedFile, Recorder, pipe_files, reader, writer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Handled = list[dict[str, Any]]


def read_all(fd: int) -> bytes:
    """What is in the pipe now; the descriptor is non-blocking."""
    data = b""
    try:
        while some := os.read(fd, 1 << 16):
            data += some
    except BlockingIOError:
        pass
    return data


def fill(transport: Any) -> int:
    """Writes until the pipe takes no more: the number of bytes written."""
    total = 0
    while not transport.get_write_buffer_size():
        transport.write(bytes(65536))
        total += 65536
    return total


# ---- reading ----


def test_read_until_the_writer_is_gone(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await reader(r)
        assert isinstance(transport, asyncio.ReadTransport)
        assert transport.get_extra_info("pipe") is r
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.is_reading()
        assert not transport.is_closing()
        assert transport.get_protocol() is proto
        w.write(b"one")
        assert await proto.until_data(3) == b"one"
        w.close()
        await proto.until("lost")
        assert proto.events == ["made", "data", "eof", ("lost", "NoneType")]
        assert r.closed
        assert transport.is_closing()
        assert not transport.is_reading()
        transport.close()
        transport.pause_reading()
        transport.resume_reading()

    run(main())


def test_large_data_arrives_whole_and_in_order(run: Run) -> None:
    data = bytes(range(256)) * 8192

    async def main() -> None:
        r, w = pipe_files()
        _, rproto = await reader(r)
        wtransport, wproto = await writer(w)
        wtransport.write(data[:10])
        wtransport.writelines([data[10:20], bytearray(data[20:1000]), memoryview(data)[1000:]])
        wtransport.close()
        assert wtransport.is_closing()
        await rproto.until("lost")
        await wproto.until("lost")
        assert rproto.data == data
        assert wproto.events[-1] == ("lost", "NoneType")
        assert w.closed

    run(main())


def test_pause_and_resume_reading(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await reader(r)
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        w.write(b"x" * 10)
        w.close()  # a hang-up does not wake a paused reader either
        for _ in range(10):
            await asyncio.sleep(0)
        assert proto.events == ["made"]
        transport.resume_reading()
        transport.resume_reading()
        await proto.until("lost")
        assert proto.data == b"x" * 10

    run(main())


def test_pause_in_connection_made(run: Run) -> None:
    class Paused(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        r, w = pipe_files()
        w.write(b"abc")
        transport, proto = await reader(r, Paused())
        for _ in range(5):
            await asyncio.sleep(0)
        assert proto.events == ["made"]
        transport.resume_reading()
        assert await proto.until_data(3) == b"abc"
        transport.close()
        await proto.until("lost")
        w.close()

    run(main())


def test_close_in_connection_made(run: Run) -> None:
    class Closing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.close()

    async def main() -> None:
        for connect, end in (reader, 0), (writer, 1):
            files = pipe_files()
            _, proto = await connect(files[end], Closing())
            await proto.until("lost")
            assert proto.events == ["made", ("lost", "NoneType")]
            files[1 - end].close()

    run(main())


def test_reader_closed_with_data_waiting(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await reader(r)
        w.write(b"unread")
        transport.close()
        transport.close()
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "NoneType")]
        with pytest.raises(BrokenPipeError):
            w.write(b"x")
        w.close()

    run(main())


def test_data_received_raises_and_is_called_again(run: Run, handled: Handled) -> None:
    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            raise ZeroDivisionError(data)

    async def main() -> None:
        r, w = pipe_files()
        _, proto = await reader(r, Failing())
        w.write(b"a")
        await proto.until_data(1)
        w.write(b"b")
        await proto.until_data(2)
        w.close()
        await proto.until("lost")

    run(main())
    assert [type(context["exception"]) for context in handled] == [ZeroDivisionError] * 2
    assert all("Exception in callback" in context["message"] for context in handled)


@pytest.mark.parametrize("method", ["connection_made", "eof_received", "connection_lost"])
def test_a_protocol_method_raises(run: Run, handled: Handled, method: str) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError(method)

    async def main() -> None:
        r, w = pipe_files()
        proto = Recorder()
        setattr(proto, method, fail)
        transport, _ = await reader(r, proto)
        w.close()
        async with asyncio.timeout(LIMIT):
            while not r.closed:
                await asyncio.sleep(0)
        assert transport.is_closing()

    run(main())
    assert [str(context["exception"]) for context in handled] == [method]


def test_interrupt_in_data_received_leaves_the_loop(run: Run) -> None:
    class Interrupting(Recorder):
        def data_received(self, data: bytes) -> None:
            raise KeyboardInterrupt

    r, w = pipe_files()
    proto = Interrupting()

    async def main() -> None:
        await reader(r, proto)
        w.write(b"x")
        await asyncio.sleep(LIMIT)

    with pytest.raises(KeyboardInterrupt):
        run(main())

    async def end() -> None:
        proto.transport.close()
        await proto.until("lost")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    w.close()
    run(end())


def test_contexts_of_callbacks(run: Run) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    class Seeing(Recorder):
        def data_received(self, data: bytes) -> None:
            self.note("seen", var.get("none"))

    async def main() -> None:
        r, w = pipe_files()
        var.set("made")
        transport, proto = await reader(r, Seeing())
        var.set("later")
        w.write(b"x")
        await proto.until("seen")
        transport.pause_reading()
        transport.resume_reading()
        w.write(b"x")
        await proto.until_true(lambda: len(proto.names()) == 3)
        assert proto.events[1:] == [("seen", "made"), ("seen", "later")]
        w.close()
        await proto.until("lost")

    run(main())


def test_set_protocol(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, _ = await reader(r)
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        w.write(b"x")
        await second.until_data(1)
        w.close()
        await second.until("lost")

    run(main())


# ---- writing ----


def test_write_transport(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        os.set_blocking(r.fileno(), False)
        transport, proto = await writer(w)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.Transport)  # though it reads nothing
        with pytest.raises(NotImplementedError):
            transport.pause_reading()
        assert transport.can_write_eof()
        assert transport.get_extra_info("pipe") is w
        assert transport.get_write_buffer_size() == 0
        transport.write(b"")
        transport.write(bytearray(b"a"))
        transport.write(memoryview(b"bc"))
        assert os.read(r.fileno(), 10) == b"abc"  # written at once
        for bad in "text", 5, None:
            with pytest.raises(AssertionError):
                transport.write(bad)
        transport.write_eof()
        transport.write_eof()
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "NoneType")]
        assert os.read(r.fileno(), 10) == b""
        assert w.closed
        r.close()

    run(main())


def test_flow_control(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        os.set_blocking(r.fileno(), False)
        transport, proto = await writer(w)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        total = fill(transport)
        assert proto.events == ["made", "pause"]
        transport.write(b"end")
        got = b""
        async with asyncio.timeout(LIMIT):
            while "resume" not in proto.names():
                got += read_all(r.fileno())
                await asyncio.sleep(0)
        got += read_all(r.fileno())
        assert got == bytes(total) + b"end"
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await proto.until("lost")
        r.close()

    run(main())


def test_mutable_buffers_are_copied(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        os.set_blocking(r.fileno(), False)
        transport, proto = await writer(w)
        total = fill(transport)
        data = bytearray(b"before")
        transport.write(data)
        transport.write(memoryview(data))
        data[:] = b"after!"
        transport.close()
        got = b""
        async with asyncio.timeout(LIMIT):
            while "lost" not in proto.names():
                got += read_all(r.fileno())
                await asyncio.sleep(0)
        got += read_all(r.fileno())
        assert got == bytes(total) + b"beforebefore"
        r.close()

    run(main())


def test_close_waits_for_what_is_queued(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        os.set_blocking(r.fileno(), False)
        transport, proto = await writer(w)
        total = fill(transport)
        transport.close()
        transport.write(b"dropped")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not w.closed
        got = b""
        async with asyncio.timeout(LIMIT):
            while "lost" not in proto.names():
                got += read_all(r.fileno())
                await asyncio.sleep(0)
        got += read_all(r.fileno())
        assert len(got) == total
        assert proto.events[-1] == ("lost", "NoneType")
        r.close()

    run(main())


def test_abort_drops_what_is_queued(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        fill(transport)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        await proto.until("lost")
        assert proto.events[-1] == ("lost", "NoneType")
        r.close()

    run(main())


def test_abort_after_close(hotrun: Run) -> None:
    """Stock asyncio calls connection_lost() twice then, and fails at the second."""

    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        transport.close()
        transport.abort()
        await proto.until("lost")
        await asyncio.sleep(0)
        transport.abort()
        assert proto.events == ["made", ("lost", "NoneType")]
        r.close()

    hotrun(main())


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_reader_gone_while_idle(run: Run, kind: str) -> None:
    async def main() -> None:
        near: Any
        far: Any
        far, near = pipe_files() if kind == "fifo" else socket.socketpair()
        _, proto = await writer(near)
        far.close()
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "NoneType")]

    run(main())


def test_reader_gone_with_bytes_queued(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        fill(transport)
        r.close()
        await proto.until("lost")
        assert proto.events[-1] == ("lost", "BrokenPipeError")

    run(main())


def test_reader_gone_after_close_with_bytes_queued(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        fill(transport)
        transport.close()
        r.close()
        await proto.until("lost")
        assert proto.events[-1] == ("lost", "BrokenPipeError")

    run(main())


def test_write_to_a_pipe_nobody_reads(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        r.close()
        for _ in range(8):
            transport.write(b"x")
        assert transport.is_closing()
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "BrokenPipeError")]
        transport.write(b"x")

    run(main())
    text = "pipe closed by peer or os.write(pipe, data) raised exception."
    assert [record.getMessage() for record in caplog.records] == [text] * 4


def test_abort_in_pause_writing(run: Run) -> None:
    class Aborting(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.abort()

    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w, Aborting())
        transport.set_write_buffer_limits(high=0)
        transport.write(bytes(1 << 20))
        await proto.until("lost")
        assert proto.events == ["made", "pause", ("lost", "NoneType")]
        r.close()

    run(main())


def test_write_and_close_in_resume_writing(hotrun: Run) -> None:
    """Stock asyncio loses these bytes, and calls connection_lost() twice."""

    class More(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(b"more")
            self.transport.close()

    async def main() -> None:
        r, w = pipe_files()
        os.set_blocking(r.fileno(), False)
        transport, proto = await writer(w, More())
        transport.set_write_buffer_limits(high=0)
        total = fill(transport)
        got = b""
        async with asyncio.timeout(LIMIT):
            while "lost" not in proto.names():
                got += read_all(r.fileno())
                await asyncio.sleep(0)
        got += read_all(r.fileno())
        assert got == bytes(total) + b"more"
        assert proto.events == ["made", *["pause", "resume"] * 2, ("lost", "NoneType")]
        r.close()

    hotrun(main())


def test_streams_over_a_pipe(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        r, w = pipe_files()
        stream = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), r)
        transport, proto = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, w)
        sink = asyncio.StreamWriter(transport, proto, None, loop)

        async def feed() -> None:
            for _ in range(50):
                sink.write(b"y" * 50_000)
                await sink.drain()
            sink.close()

        task = asyncio.create_task(feed())
        async with asyncio.timeout(LIMIT):
            assert len(await stream.read()) == 2_500_000
        await task

    run(main())


# ---- descriptors ----


def test_the_file_is_closed_once_and_while_open(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        rfile, wfile = CountedFile(r), CountedFile(w)
        _, rproto = await reader(rfile)
        wtransport, wproto = await writer(wfile)
        wtransport.close()
        await wproto.until("lost")
        await rproto.until("lost")
        await asyncio.sleep(0)
        assert (rfile.closed, wfile.closed) == (1, 1)

    run(main())


def test_a_regular_file_is_refused_and_left_open(run: Run) -> None:
    async def main() -> None:
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match=r"^Pipe transport is for pipes/sockets only\.$"):
                await reader(file)
            only = "^Pipe transport is only for pipes, sockets and character devices$"
            with pytest.raises(ValueError, match=only):
                await writer(file)
            assert not file.closed
            assert os.get_blocking(file.fileno())

    run(main())


@pytest.mark.parametrize("bad", [object(), "text", None])
def test_no_file_object(hotrun: Run, bad: Any) -> None:
    """Stock asyncio raises the same, and then once more in the finaliser of what it had made."""

    async def main() -> None:
        for connect in reader, writer:
            with pytest.raises(AttributeError):
                await connect(bad)

    hotrun(main())


def test_cancelled_while_connecting(run: Run) -> None:
    async def main() -> None:
        r, w = pipe_files()
        for connect, file in (reader, r), (writer, w):
            task = asyncio.create_task(connect(file))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(LIMIT):
                while not file.closed:
                    await asyncio.sleep(0)

    run(main())


def test_terminal(run: Run) -> None:
    """Both directions over one descriptor each; a closed slave is an EIO, and no news."""

    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(slave, False)
        _, rproto = await reader(io.FileIO(os.dup(master), "r"))
        wtransport, wproto = await writer(io.FileIO(master, "w"))
        os.write(slave, b"up")
        assert await rproto.until_data(2) == b"up"
        wtransport.write(b"down")
        assert os.read(slave, 10) == b"down"
        os.close(slave)
        await rproto.until("lost")
        assert rproto.events[-1] == ("lost", "OSError")
        assert "eof" not in rproto.names()
        wtransport.close()
        await wproto.until("lost")

    run(main())


def test_a_device_that_cannot_be_polled(run: Run, handled: Handled) -> None:
    """/dev/null is a character device, but epoll refuses it: reported, as by asyncio."""

    async def main() -> None:
        transport, proto = await reader(open("/dev/null", "rb", 0))  # noqa: SIM115
        transport.close()
        await proto.until("lost")
        transport, proto = await writer(open("/dev/null", "wb", 0))  # noqa: SIM115
        transport.write(b"x" * 1_000_000)
        transport.close()
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "NoneType")]

    run(main())
    assert [type(context["exception"]) for context in handled] in ([PermissionError], [])


def test_what_cannot_be_polled_is_closed_by_its_owner(
    run: Run, anyloop: Any, handled: Handled
) -> None:
    """It is reported; the transport is made all the same, and one that is forgotten is said so."""

    async def main() -> None:
        transport, proto = await reader(pipe)
        if not handled:
            transport.close()
            await proto.until("lost")

    pipe = open("/dev/null", "rb", 0)  # noqa: SIM115 - the transport closes it
    run(main())
    anyloop.close()
    if not handled:
        pytest.skip("select() can watch it")
    assert [type(context["exception"]) for context in handled] == [PermissionError]
    handled.clear()  # what was running is in its traceback
    with pytest.warns(ResourceWarning, match=r"^unclosed transport <.*PipeTransport .*fd="):
        gc.collect()
    assert pipe.closed


def test_named_fifo(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        r = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0)  # noqa: SIM115
        w = open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb", 0)  # noqa: SIM115
        _, rproto = await reader(r)
        wtransport, wproto = await writer(w)
        wtransport.write(b"through")
        assert await rproto.until_data(7) == b"through"
        wtransport.close()
        await rproto.until("lost")
        await wproto.until("lost")

    run(main())


# ---- what they say ----


@pytest.mark.parametrize("end", ["reading", "writing"])
def test_resource_warning(run: Run, anyloop: Any, end: str) -> None:
    r, w = pipe_files()
    used, other = (r, w) if end == "reading" else (w, r)

    async def main() -> Any:
        transport, _ = await (reader if end == "reading" else writer)(used)
        return repr(transport)

    shown = run(main())
    assert f"fd={used.fileno()}" in shown
    anyloop.close()
    with pytest.warns(ResourceWarning, match=r"^unclosed transport <.*PipeTransport fd=.* open>$"):
        gc.collect()
    assert used.closed
    other.close()


def test_debug_log(run: Run, anyloop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="asyncio")
    anyloop.set_debug(True)

    async def main() -> None:
        r, w = pipe_files()
        rtransport, rproto = await reader(r)
        wtransport, wproto = await writer(w)
        rtransport.pause_reading()
        rtransport.resume_reading()
        wtransport.close()
        await wproto.until("lost")
        await rproto.until("lost")

    run(main())
    texts = [record.getMessage() for record in caplog.records]
    said = [text for text in texts if not text.startswith("Executing ")]  # a slow machine
    said = [line for line in said if "pipe" in line.lower() and "Close" not in line]
    words = ["connected:", "connected:", "pauses reading", "resumes reading", "was closed by peer"]
    assert len(said) == 5
    assert all(word in line for word, line in zip(words, said, strict=True))
    levels = [record.levelno for record in caplog.records if "closed by peer" in record.message]
    assert levels == [logging.INFO]


def test_a_slow_reader_does_not_wake_the_writer_for_nothing(run: Run) -> None:
    """Bytes written to the peer of a socket that is used as a writing end are its hang-up."""

    async def main() -> None:
        near, far = socket.socketpair()
        _, proto = await writer(near)
        far.send(b"anything")
        await proto.until("lost")
        assert proto.events == ["made", ("lost", "NoneType")]
        far.close()

    run(main())


def test_broken_pipe_with_default_sigpipe_action(run: Run) -> None:
    """Python ignores SIGPIPE, and so must nothing here change that."""
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN

    async def main() -> None:
        r, w = pipe_files()
        transport, proto = await writer(w)
        r.close()
        transport.write(b"x")
        await proto.until("lost")

    run(main())
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
