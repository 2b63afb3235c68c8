"""The end of a connection: close, abort, errors in protocols, and what is reported."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
import warnings
import weakref
from typing import Any

import pytest
from netlib import BufferedRecorder, Recorder, finish, link, reset


class Boom(Exception):
    pass


def test_close(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        assert not t.is_closing()
        t.write(b"last")
        t.close()
        t.close()
        assert t.is_closing()
        t.write(b"dropped")
        assert one.protocol.events == ["made"]
        await asyncio.sleep(0)
        assert one.protocol.events == ["made", ("lost", "NoneType")]
        assert await one.recv(100) == b"last"
        for method in (t.close, t.abort, t.pause_reading, t.resume_reading, t.write_eof):
            method()
        assert t.get_write_buffer_size() == 0
        assert one.protocol.events == ["made", ("lost", "NoneType")]
        one.far.close()

    run(main())


def test_close_with_data_pending(run: Any) -> None:
    async def main() -> None:
        one = await link()
        size = await one.fill()
        one.transport.close()
        one.transport.write(b"also")  # as asyncio: taken while the queue is not empty
        assert one.protocol.names() == ["made", "pause"]
        await one.send(b"not read any more")
        assert await one.recv(size + 4) == bytes(size) + b"also"
        assert await one.lost() == ("lost", "NoneType")
        assert one.protocol.names() == ["made", "pause", "resume", "lost"]
        one.far.close()

    run(main())


def test_abort_drops_pending_data(run: Any) -> None:
    async def main() -> None:
        one = await link()
        size = await one.fill()
        one.transport.write(b"x" * 65536)
        one.transport.abort()
        one.transport.abort()
        assert one.transport.is_closing()
        assert one.transport.get_write_buffer_size() == 0
        assert await one.lost() == ("lost", "NoneType")
        assert one.protocol.names() == ["made", "pause", "lost"]
        try:
            assert len(await one.recv(size + 65536)) < size + 65536
        except ConnectionResetError:
            pass
        one.far.close()

    run(main())


def test_abort_after_close(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.fill()
        one.transport.close()
        one.transport.abort()
        assert await one.lost() == ("lost", "NoneType")
        await asyncio.sleep(0)
        assert one.protocol.names() == ["made", "pause", "lost"]
        one.far.close()

    run(main())


def test_held_write_leaves_before_abort(run: Any) -> None:
    async def main() -> None:
        one = await link(tcp=False)
        one.transport.write(b"sent")
        one.transport.abort()
        assert await one.recv(4) == b"sent"
        await one.lost()
        one.far.close()

    run(main())


def raising(error: BaseException) -> Any:
    def fail(*args: Any) -> None:
        raise error

    return fail


MESSAGES = {
    "data_received": "Fatal error: protocol.data_received() call failed.",
    "eof_received": "Fatal error: protocol.eof_received() call failed.",
    "get_buffer": "Fatal error: protocol.get_buffer() call failed.",
    "buffer_updated": "Fatal error: protocol.buffer_updated() call failed.",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_protocol_method_raises(run: Any, handled: Any, name: str) -> None:
    async def main() -> None:
        buffered = name in ("get_buffer", "buffer_updated")
        one = await link(BufferedRecorder() if buffered else Recorder())
        error = Boom(name)
        setattr(one.protocol, name, raising(error))
        await one.send(b"x")
        one.far.shutdown(socket.SHUT_WR)
        assert await one.lost() == ("lost", "Boom")
        assert one.protocol.names()[-1] == "lost"
        assert handled == [
            {
                "message": MESSAGES[name],
                "exception": error,
                "transport": one.transport,
                "protocol": one.protocol,
            }
        ]
        assert one.transport.is_closing()
        one.far.close()
        handled.clear()
        one.protocol.__dict__.clear()  # the exception's traceback leads back to it

    run(main())


def test_os_error_of_a_protocol_is_not_reported(run: Any, handled: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def data_received(self, data: bytes) -> None:
                raise BrokenPipeError("mine")

        one = await link(P())
        await one.send(b"x")
        assert await one.lost() == ("lost", "BrokenPipeError")
        one.far.close()
        assert handled == []

    run(main())


@pytest.mark.parametrize("name", ["connection_made", "connection_lost"])
def test_connection_made_or_lost_raises(run: Any, handled: Any, name: str) -> None:
    async def main() -> None:
        class P(Recorder):
            pass

        def fail(self: Any, arg: Any) -> None:
            getattr(super(P, self), name)(arg)
            raise Boom(name)

        setattr(P, name, fail)
        one = await link(P())
        one.transport.close()
        await one.lost()
        await asyncio.sleep(0)
        one.far.close()
        assert len(handled) == 1
        assert isinstance(handled[0]["exception"], Boom)
        assert handled[0]["message"].startswith("Exception in callback ")
        assert name in handled[0]["message"]
        assert "handle" in handled[0]
        handled.clear()
        one.transport.write(b"dropped")

    run(main())


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_flow_control_method_raises(run: Any, handled: Any, name: str) -> None:
    async def main() -> None:
        class P(Recorder):
            pass

        def fail(self: Any) -> None:
            getattr(super(P, self), name)()
            raise Boom(name)

        setattr(P, name, fail)
        one = await link(P())
        size = await one.fill()
        one.transport.write(bytes(65536))
        assert len(await one.recv(size + 65536)) == size + 65536
        await one.protocol.until("resume")
        assert [(c["message"], type(c["exception"])) for c in handled] == [
            (f"protocol.{name}() failed", Boom)
        ]
        assert handled[0]["transport"] is one.transport
        assert handled[0]["protocol"] is one.protocol
        assert not one.transport.is_closing()
        handled.clear()
        await finish(one)

    run(main())


@pytest.mark.parametrize("bad", [b"", bytearray(), b"read-only", 5, None])
def test_get_buffer_gives_nonsense(run: Any, handled: Any, bad: Any) -> None:
    async def main() -> None:
        class P(BufferedRecorder):
            def get_buffer(self, hint: int) -> Any:
                return bad

        one = await link(P())
        await one.send(b"x")
        lost = await one.lost()
        one.far.close()
        assert len(handled) == 1
        if bad in (b"", bytearray()):
            assert lost == ("lost", "RuntimeError")
            assert str(handled[0]["exception"]) == "get_buffer() returned an empty buffer"
        else:
            assert lost == ("lost", "TypeError")
        handled.clear()

    run(main())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(
    "name", ["connection_made", "data_received", "eof_received", "connection_lost"]
)
def test_exit_from_a_protocol(anyloop: Any, error: type[BaseException], name: str) -> None:
    """It leaves run_forever(); what was queued is still there when the loop runs again."""
    near, far = socket.socketpair()
    protocol = Recorder()
    again = []

    def leave(*args: Any) -> None:
        delattr(protocol, name)
        anyloop.call_soon(again.append, 1)
        raise error

    setattr(protocol, name, leave)
    task = anyloop.create_task(anyloop.create_connection(lambda: protocol, sock=near))
    far.send(b"x")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        anyloop.run_forever()
    assert not anyloop.is_running()
    assert again == []
    transport, _ = anyloop.run_until_complete(task)
    transport.abort()
    for _ in range(3):
        anyloop.run_until_complete(asyncio.sleep(0))
    assert again == [1]
    far.close()


@pytest.mark.parametrize("action", ["close", "abort", "pause_reading", "set_protocol"])
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_reentrant_calls(run: Any, action: str, make: Any) -> None:
    async def main() -> None:
        one = await link(make())
        other = Recorder()
        received = one.protocol.data_received

        def data_received(data: bytes) -> None:
            received(data)
            one.transport.write(b"in between")
            if action == "set_protocol":
                one.transport.set_protocol(other)
                one.protocol = other
            else:
                getattr(one.transport, action)()

        one.protocol.data_received = data_received
        await one.send(b"x")
        assert await one.recv(10) == b"in between"
        if action in ("pause_reading", "set_protocol"):
            one.transport.close()
        assert await one.lost() == ("lost", "NoneType")
        one.far.close()
        data_received = received = None  # type: ignore[assignment]
        one.protocol.__dict__.pop("data_received", None)

    run(main())


def test_last_reference_dropped_while_reading(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        far.setblocking(False)
        gone = loop.create_future()

        class P(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(data)
                self.transport.close()
                self.transport = None

            def connection_lost(self, exc: Any) -> None:
                gone.set_result(exc)

        await loop.create_connection(P, sock=near)
        near = None
        far.send(b"x")
        assert await gone is None
        assert far.recv(10) == b"x"
        far.close()

    run(main())


def test_freed_without_collector(hotrun: Any) -> None:
    """Once the connection is lost nothing keeps transport and protocol alive (asyncio: a cycle)."""

    async def main() -> None:
        one = await link()
        refs = [weakref.ref(one.transport), weakref.ref(one.protocol)]
        gc.collect()
        gc.disable()
        try:
            await finish(one)
            one.protocol.transport = None
            del one
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [ref() for ref in refs] == [None, None]
        finally:
            gc.enable()

    hotrun(main())


def test_types_are_not_leaked(hotrun: Any) -> None:
    """An instance takes a reference to its type and gives it back."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        async def connect_once() -> Any:
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            transport, protocol = await loop.create_connection(Recorder, *address)
            types = type(transport), type(server._listeners[0])
            transport.close()
            await protocol.until("lost")
            server.close()
            await server.wait_closed()
            return types

        types = await connect_once()
        gc.collect()
        before = [sys.getrefcount(t) for t in types]
        for _ in range(50):
            await connect_once()
        gc.collect()
        assert [sys.getrefcount(t) for t in types] == before

    hotrun(main())


def test_collected_in_a_cycle(hotrun: Any) -> None:
    async def main() -> None:
        one = await link()
        one.transport.pause_reading()
        one.transport.protocol = one.protocol  # besides the one that it has anyway
        far, ref = one.far, weakref.ref(one.transport)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del one
            gc.collect()
        assert ref() is None
        assert await asyncio.get_running_loop().sock_recv(far, 10) == b""
        far.close()

    hotrun(main())


def test_overridden_call_soon(anyloop: Any) -> None:
    """Set on the instance, it sees what asyncio's transports schedule through it."""
    names: list[str] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        plain = loop.call_soon

        def call_soon(callback: Any, *args: Any, context: Any = None) -> Any:
            names.append(getattr(callback, "__name__", "?"))
            return plain(callback, *args, context=context)

        loop.call_soon = call_soon
        one = await link()
        one.transport.close()
        await one.lost()
        del loop.call_soon
        one.far.close()
        wanted = ["connection_made", "_call_connection_lost"]
        assert [name for name in names if name in wanted] == wanted

    anyloop.run_until_complete(main())


def test_type_is_closed(hotrun: Any) -> None:
    async def main() -> None:
        one = await link()
        kind: Any = type(one.transport)
        with pytest.raises(TypeError, match="cannot create"):
            kind()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (kind,), {})
        for name in ("_loop", "_sock", "_extra", "_protocol"):
            with pytest.raises(AttributeError):
                setattr(one.transport, name, None)
        await finish(one)

    hotrun(main())


def test_attributes(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        assert isinstance(t, asyncio.Transport)
        assert t._loop is asyncio.get_running_loop()
        assert t._protocol is one.protocol
        assert t._server is None
        assert isinstance(t._sock, socket.socket)
        assert t._sock.fileno() == t._sock_fd
        sock = t.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert t.get_extra_info("socket") is sock
        assert sock.fileno() == t._sock_fd
        assert sock.gettimeout() == 0
        assert t.get_extra_info("sockname") == one.far.getpeername()
        assert t.get_extra_info("peername") == one.far.getsockname()
        assert t.get_extra_info("sslcontext") is None
        assert t.get_extra_info("nothing", default=5) == 5
        assert t.get_extra_info("nothing", 6) == 6
        assert {"socket", "sockname", "peername"} <= set(t._extra)
        await finish(one)
        assert t._sock is None
        assert t._loop is None
        assert t.get_protocol() is None
        assert sock.fileno() == -1
        assert t.get_extra_info("peername") == sock_name(t)
        weakref.ref(t)

    def sock_name(t: Any) -> Any:
        return t._extra["peername"]

    run(main())


def test_repr(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        name = type(t).__name__
        fd = t._sock_fd
        while "read=polling" not in repr(t):
            await asyncio.sleep(0)
        t.write(b"x")
        assert repr(t) == f"<{name} fd={fd} read=polling write=<idle, bufsize=0>>"
        t.pause_reading()
        await one.fill()
        size = t.get_write_buffer_size()
        assert repr(t) == f"<{name} fd={fd} read=idle write=<polling, bufsize={size}>>"
        t.abort()
        assert repr(t) == f"<{name} closing fd={fd} read=idle write=<idle, bufsize=0>>"
        await one.lost()
        assert repr(t) == f"<{name} closed fd={fd}>"
        one.far.close()

    run(main())


def test_unclosed_transport(hotrun: Any) -> None:
    async def main() -> None:
        # asyncio's is part of a cycle, and its socket may be found first
        one = await link()
        one.transport.pause_reading()  # nothing watches it: nothing holds it
        far = one.far
        with pytest.warns(ResourceWarning, match=r"unclosed transport <.* fd=\d+ .*>"):
            one.protocol.transport = None
            del one
        assert await asyncio.get_running_loop().sock_recv(far, 10) == b""  # closed all the same
        far.close()

    hotrun(main())


def test_descriptor_is_marked_as_owned(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        fd = one.transport._sock_fd
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport"):
                call(fd, print)
        for call in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport"):
                call(fd)
        if sys.version_info < (3, 14):  # later ones close the socket when they refuse it
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.create_connection(Recorder, sock=one.transport._sock)
        one.transport.close()
        loop.add_reader(fd, print)
        loop.remove_reader(fd)
        await one.lost()
        one.far.close()

    run(main())


def test_socket_closed_behind_our_back(hotrun: Any, handled_hot: Any) -> None:
    """The number may be somebody else's by now: it must not be used."""

    async def main() -> None:
        one = await link(tcp=False)
        one.transport._sock.close()
        a, b = socket.socketpair()
        a.setblocking(False)
        one.transport.write(b"secret")
        assert await one.lost() == ("lost", "OSError")
        with pytest.raises(BlockingIOError):
            a.recv(10)
        b.setblocking(False)
        with pytest.raises(BlockingIOError):
            b.recv(10)
        for sock in (a, b, one.far):
            sock.close()

    hotrun(main())


def test_closed_loop(anyloop: Any) -> None:
    async def connect() -> Any:
        return await link()

    one = anyloop.run_until_complete(connect())
    anyloop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        one.transport.close()
    repr(one.transport)
    with pytest.warns(ResourceWarning):
        one.protocol.transport = None
        one.transport = None
        gc.collect()
    one.far.close()


def test_slow_protocol_is_named(anyloop: Any, caplog: Any) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 0.05

    class P(Recorder):
        def data_received(self, data: bytes) -> None:
            time.sleep(0.06)
            super().data_received(data)

    async def main() -> None:
        one = await link(P())
        await one.send(b"x")
        await one.protocol.until_data(1)
        await finish(one)

    anyloop.run_until_complete(main())
    said = [r.getMessage() for r in caplog.records if "took" in r.getMessage()]
    assert any("Executing <" in text and "Transport" in text for text in said), said


def test_debug_log(anyloop: Any, caplog: Any) -> None:
    anyloop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main() -> None:
        one = await link()
        one.transport.pause_reading()
        one.transport.resume_reading()
        one.far.close()
        await one.lost()
        two = await link()
        reset(two.far)
        await two.lost()

    anyloop.run_until_complete(main())
    said = [r.getMessage().split("> ", 1)[-1] for r in caplog.records if "fd=" in r.getMessage()]
    text = "\n".join(record.getMessage() for record in caplog.records)
    for part in ("pauses reading", "resumes reading", "received EOF"):
        assert part in text, said
    assert "Fatal read error on socket transport" in text
