"""Reading and writing: what leaves, when, and what the protocol is told."""

from __future__ import annotations

import array
import asyncio
import contextvars
import logging
import os
import socket
import sys
import warnings
from typing import Any

import pytest
from netlib import BufferedRecorder, Link, Recorder, finish, link, reset


def test_order_of_first_calls(run: Any) -> None:
    async def main() -> None:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        b.send(b"x")

        class P(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                order.append("made")
                loop.call_soon(order.append, "turn after")

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                order.append("data")

        p = P()
        task = asyncio.ensure_future(loop.create_connection(lambda: p, sock=a))
        task.add_done_callback(lambda t: order.append("connected"))
        transport, _ = await task
        await p.until("data")
        order.remove("data")  # when it is seen depends on when the poller is asked
        assert order == ["made", "turn after", "connected"]
        transport.close()
        await p.until("lost")
        b.close()

    run(main())


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_read(run: Any, make: Any, size: int) -> None:
    async def main() -> None:
        one = await link(make())
        one.protocol.size = 4096
        payload = bytes(range(256)) * (size // 256 + 1)
        sender = asyncio.ensure_future(one.send(payload[:size]))
        assert await one.protocol.until_data(size) == payload[:size]
        await sender
        assert one.protocol.names() == ["made", "data"]
        await finish(one)

    run(main())


def test_read_chunk_never_above_256k(run: Any) -> None:
    async def main() -> None:
        sizes: list[int] = []

        class P(Recorder):
            def data_received(self, data: bytes) -> None:
                assert type(data) is bytes
                sizes.append(len(data))
                super().data_received(data)

        one = await link(P(), tcp=False)
        sender = asyncio.ensure_future(one.send(bytes(3_000_000)))
        await one.protocol.until_data(3_000_000)
        await sender
        assert max(sizes) <= one.transport.max_size == 256 * 1024
        await finish(one)

    run(main())


def test_writes_arrive_in_order(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        t.write(b"1")
        t.write(bytearray(b"2"))
        t.write(memoryview(b"x3x")[1:2])
        t.write(b"")
        t.writelines([b"4", bytearray(b"5"), memoryview(b"6"), b""])
        t.write(b"7" * 100_000)
        t.write(b"8")
        assert await one.recv(100_007) == b"123456" + b"7" * 100_000 + b"8"
        await finish(one)

    run(main())


def test_write_from_outside_a_callback(anyloop: Any) -> None:
    async def connect() -> Any:
        return await link()

    one = anyloop.run_until_complete(connect())
    one.transport.write(b"now")
    one.far.setblocking(True)
    one.far.settimeout(10)
    assert one.far.recv(10) == b"now"  # no turn of the loop was needed
    one.far.setblocking(False)
    anyloop.run_until_complete(finish(one))


def test_write_leaves_before_the_next_callback(run: Any) -> None:
    """What a callback wrote is out when it returns, not at the end of the turn."""

    async def main() -> None:
        one = await link(tcp=False)
        done = asyncio.get_running_loop().create_future()

        def write() -> None:
            one.transport.write(b"head")
            one.transport.write(b"body")

        def look() -> None:
            try:
                done.set_result(one.far.recv(100))
            except OSError as exc:
                done.set_exception(exc)

        loop = asyncio.get_running_loop()
        loop.call_soon(write)
        loop.call_soon(look)
        assert await done in (b"headbody",)
        await finish(one)

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_write_leaves_before_fork(run: Any) -> None:
    async def main() -> None:
        one = await link(tcp=False)
        one.transport.write(b"once")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests
            pid = os.fork()
        if pid == 0:
            os._exit(0 if one.transport.get_write_buffer_size() == 0 else 1)
        assert one.far.recv(100) == b"once"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        await finish(one)

    run(main())


def test_write_leaves_when_the_loop_stops(anyloop: Any) -> None:
    async def connect() -> Any:
        return await link(tcp=False)

    one = anyloop.run_until_complete(connect())
    anyloop.call_soon(one.transport.write, b"last")
    anyloop.call_soon(anyloop.stop)
    anyloop.run_forever()
    assert one.far.recv(10) == b"last"
    anyloop.run_until_complete(finish(one))


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_mutable_data_is_a_snapshot(hotrun: Any, size: int) -> None:
    async def main() -> None:
        one = await link()
        data = bytearray(b"a" * size)
        one.transport.write(data)
        data[:] = b"b" * size
        data.extend(b"c")  # no buffer is exported any more
        more = bytearray(b"d" * size)
        one.transport.writelines([memoryview(more), more])
        more[:] = b"e" * size
        assert await one.recv(3 * size) == b"a" * size + b"d" * (2 * size)
        await finish(one)

    hotrun(main())


class OddBytes(bytes):
    pass


def test_kinds_of_data(run: Any) -> None:
    async def main() -> None:
        one = await link()
        one.transport.write(OddBytes(b"sub"))
        one.transport.write(memoryview(array.array("b", [65, 66])))
        one.transport.writelines(x for x in [b"gen", array.array("b", [67])])
        assert await one.recv(9) == b"subABgenC"
        await finish(one)

    run(main())


@pytest.mark.parametrize("data", ["text", 1, None, [b"x"], array.array("b", [1])])
def test_write_type_error(run: Any, data: Any) -> None:
    async def main() -> None:
        one = await link()
        wanted = "bytes-like" if sys.version_info < (3, 14) else "bytes, bytearray, or memoryview"
        message = f"data argument must be a {wanted} object, not '{type(data).__name__}'"
        with pytest.raises(TypeError) as info:
            one.transport.write(data)
        assert str(info.value) == message
        lines = [b"not sent", data if data != [b"x"] else 5, "x"]
        if stuck := sys.version_info >= (3, 15) and type(one.loop).__module__.startswith("asyncio"):
            lines = ["x"]  # it keeps what comes before the bad one, and sends nothing any more
        with pytest.raises(TypeError):
            one.transport.writelines(lines)
        assert stuck or one.transport.get_write_buffer_size() == 0
        one.transport.write(b"ok")
        assert await one.recv(2) == b"ok"
        await finish(one)

    run(main())


def test_flow_control(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        assert t.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        t.set_write_buffer_limits(high=1000, low=100)
        assert t.get_write_buffer_limits() == (100, 1000)
        t.set_write_buffer_limits(low=10)
        assert t.get_write_buffer_limits() == (10, 40)
        t.set_write_buffer_limits(high=100)
        assert t.get_write_buffer_limits() == (25, 100)
        t.set_write_buffer_limits()
        assert t.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        bad: list[tuple[dict[str, int], int, int]] = [
            ({"high": 1, "low": 2}, 1, 2), ({"high": -1}, -1, -1), ({"high": -5}, -5, -2),
            ({"low": -1}, -4, -1),
        ]  # fmt: skip
        for limits, high, low in bad:
            text = rf"high \({high}\) must be >= low \({low}\) must be >= 0"
            with pytest.raises(ValueError, match=text):
                t.set_write_buffer_limits(**limits)
        t.set_write_buffer_limits(high=0)
        size = await one.fill(None)
        rest = t.get_write_buffer_size()
        assert 0 < rest <= 65536
        assert one.protocol.events == ["made", "pause"]
        t.write(b"x" * 10)
        assert t.get_write_buffer_size() == rest + 10
        assert len(await one.recv(size + 10)) == size + 10
        await one.protocol.until("resume")
        assert t.get_write_buffer_size() == 0
        assert one.protocol.events == ["made", "pause", "resume"]
        await finish(one)

    run(main())


def test_lowering_the_mark_pauses(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.fill(10_000_000)
        assert one.protocol.events == ["made"]
        one.transport.set_write_buffer_limits(high=0)
        assert one.protocol.events == ["made", "pause"]
        await finish(one)

    run(main())


def test_zero_mark(run: Any) -> None:
    """Small writes that the socket takes are no back-pressure, also at a mark of zero."""

    async def main() -> None:
        one = await link()
        one.transport.set_write_buffer_limits(high=0)
        for _ in range(10):
            one.transport.write(b"x")
        assert one.transport.get_write_buffer_size() == 0
        assert one.protocol.events == ["made"]
        assert await one.recv(10) == b"x" * 10
        await finish(one)

    run(main())


def test_many_small_writes(run: Any) -> None:
    async def main() -> None:
        one = await link()
        pieces = [b"%d," % i for i in range(20_000)]
        for piece in pieces:
            one.transport.write(piece)
        whole = b"".join(pieces)
        assert await one.recv(len(whole)) == whole
        await finish(one)

    run(main())


def test_nested_writes_from_flow_control(run: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def pause_writing(self) -> None:
                super().pause_writing()
                self.transport.write(b"P")

            def resume_writing(self) -> None:
                super().resume_writing()
                self.transport.write(b"R")

        one = await link(P())
        size = await one.fill(100)
        data = await one.recv(size + 2)
        assert data == bytes(size) + b"PR"
        assert one.protocol.events == ["made", "pause", "resume"]
        await finish(one)

    run(main())


def test_abort_inside_pause_writing(run: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def pause_writing(self) -> None:
                super().pause_writing()
                self.transport.abort()

        one = await link(P())
        one.transport.set_write_buffer_limits(high=100)
        while not one.transport.is_closing():
            one.transport.write(bytes(65536))
        assert await one.lost() == ("lost", "NoneType")
        assert one.protocol.events == ["made", "pause", ("lost", "NoneType")]
        one.far.close()

    run(main())


def test_abort_inside_resume_writing(hotrun: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def resume_writing(self) -> None:
                super().resume_writing()
                self.transport.abort()

        one = await link(P())
        size = await one.fill()
        one.transport.write(bytes(65536))
        await one.recv(size + 65536)
        assert await one.lost() == ("lost", "NoneType")
        await asyncio.sleep(0)
        assert one.protocol.names() == ["made", "pause", "resume", "lost"]
        one.far.close()

    hotrun(main())


def test_write_eof(run: Any) -> None:
    async def main() -> None:
        one = await link()
        t = one.transport
        assert t.can_write_eof() is True
        t.write(b"before")
        t.write_eof()
        t.write_eof()
        for data in (b"x", b""):
            with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                t.write(data)
        with pytest.raises(RuntimeError, match=r"Cannot call writelines\(\) after write_eof\(\)"):
            t.writelines([])
        assert await one.recv(100) == b"before"
        await one.send(b"answer")
        assert await one.protocol.until_data(6) == b"answer"
        one.far.close()
        assert await one.lost() == ("lost", "NoneType")
        with pytest.raises(RuntimeError):
            t.write(b"")

    run(main())


def test_write_eof_with_data_pending(run: Any) -> None:
    async def main() -> None:
        one = await link()
        size = await one.fill()
        one.transport.write_eof()
        assert await one.recv(size + 100) == bytes(size)
        await finish(one)

    run(main())


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_eof_keeps_open(run: Any, make: Any) -> None:
    async def main() -> None:
        one = await link(make())
        one.protocol.keep_open = True
        await one.send(b"x")
        one.far.shutdown(socket.SHUT_WR)
        await one.protocol.until("eof")
        assert one.transport.is_reading()
        assert not one.transport.is_closing()
        for _ in range(3):
            one.transport.write(b"late")
            await asyncio.sleep(0)
        one.transport.close()
        assert await one.recv(100) == b"latelatelate"
        assert await one.lost() == ("lost", "NoneType")
        assert one.protocol.names() == ["made", "data", "eof", "lost"]
        one.far.close()

    run(main())


def test_eof_closes(run: Any) -> None:
    async def main() -> None:
        one = await link()
        one.far.close()
        assert await one.lost() == ("lost", "NoneType")
        assert one.protocol.events == ["made", "eof", ("lost", "NoneType")]

    run(main())


def test_pause_and_resume_reading(run: Any) -> None:
    async def main() -> None:
        one = await link(tcp=False)
        t = one.transport
        assert t.is_reading()
        t.pause_reading()
        t.pause_reading()
        assert not t.is_reading()
        await one.send(b"abc")
        for _ in range(5):
            await asyncio.sleep(0)
        assert one.protocol.events == ["made"]
        t.resume_reading()
        t.resume_reading()
        assert t.is_reading()
        assert await one.protocol.until_data(3) == b"abc"
        t.close()
        assert not t.is_reading()
        t.pause_reading()
        t.resume_reading()
        assert not t.is_reading()
        await one.lost()
        one.far.close()

    run(main())


def test_pause_in_connection_made(run: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()

        one = await link(P(), tcp=False)
        await one.send(b"abc")
        for _ in range(5):
            await asyncio.sleep(0)
        assert one.protocol.events == ["made"]
        one.transport.resume_reading()
        await one.protocol.until_data(3)
        await finish(one)

    run(main())


def test_pause_from_data_received(run: Any) -> None:
    async def main() -> None:
        class P(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.note("paused")
                self.transport.pause_reading()

        one = await link(P(), tcp=False)
        await one.send(bytes(200_000))
        await one.protocol.until("paused")
        got = len(one.protocol.data)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(one.protocol.data) == got
        await finish(one)

    run(main())


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
def test_set_protocol(run: Any, first: Any, second: Any) -> None:
    async def main() -> None:
        one = await link(first())
        await one.send(b"one")
        await one.protocol.until_data(3)
        other = second()
        assert one.transport.get_protocol() is one.protocol
        one.transport.set_protocol(other)
        assert one.transport.get_protocol() is other
        await one.send(b"two")
        assert await other.until_data(3) == b"two"
        one.far.close()
        await other.until("lost")
        assert one.protocol.names() == ["made", "data"]
        assert other.names() == ["data", "eof", "lost"]

    run(main())


def test_methods_are_looked_up_at_each_call(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.send(b"one")
        await one.protocol.until_data(3)
        got: list[bytes] = []
        one.protocol.data_received = got.append
        await one.send(b"two")
        while not got:
            await asyncio.sleep(0)
        assert b"".join(got)[:1] == b"t"
        await finish(one)

    run(main())


def test_instance_attributes(run: Any) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        one = await link()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(one.transport, protocol, reader, asyncio.get_running_loop())
        got: list[bytes] = []
        one.transport.write = got.append
        one.transport.anything = 1
        writer.write(b"caught")
        assert got == [b"caught"]
        del one.transport.write
        writer.write(b"sent")
        assert await one.recv(4) == b"sent"
        await finish(one)

    run(main())


def test_contexts(run: Any) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> None:
        seen: dict[str, str] = {}

        class P(Recorder):
            def connection_made(self, transport: Any) -> None:
                seen["made"] = var.get()
                var.set("only here")
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                seen.setdefault("data", var.get())
                seen["data2"] = var.get()
                var.set("reader")
                super().data_received(data)

            def resume_writing(self) -> None:
                seen["resume"] = var.get()
                super().resume_writing()

            def connection_lost(self, exc: Any) -> None:
                seen["lost"] = var.get()
                super().connection_lost(exc)

        var.set("creator")
        one = await link(P())
        var.set("writer")
        size = await one.fill()
        one.transport.write(bytes(65536))
        var.set("later")
        await one.recv(size + 65536)
        await one.protocol.until("resume")
        await one.send(b"1")
        await one.protocol.until_data(1)
        await one.send(b"2")
        await one.protocol.until_data(2)
        one.transport.pause_reading()
        var.set("resumer")
        one.transport.resume_reading()
        seen["data3"] = seen.pop("data2")
        await one.send(b"3")
        await one.protocol.until_data(3)
        var.set("closer")
        one.transport.close()
        var.set("after")
        await one.lost()
        one.far.close()
        if sys.version_info >= (3, 15):  # one context for all
            assert seen == {
                "made": "creator",
                "data": "only here",
                "data3": "reader",
                "data2": "reader",
                "resume": "only here",
                "lost": "reader",
            }
        else:
            assert seen == {
                "made": "creator",
                "data": "creator",
                "data3": "reader",
                "data2": "resumer",
                "resume": "writer",
                "lost": "closer",
            }

    run(main())


@pytest.mark.parametrize("how", ["connect", "sock", "accepted"])
def test_what_the_factory_sets_in_its_context(run: Any, how: str) -> None:
    """Seen by all that the connection calls; from 3.15 on the context is taken before it."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> None:
        seen: list[str] = []

        class P(Recorder):
            def connection_made(self, transport: Any) -> None:
                seen.append(var.get())
                super().connection_made(transport)

            def connection_lost(self, exc: Any) -> None:
                seen.append(var.get())
                super().connection_lost(exc)

        def factory() -> Any:
            var.set("factory")
            return P()

        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            var.set("creator")
            if how == "connect":
                transport, protocol = await loop.create_connection(factory, *listener.getsockname())
            else:
                near = socket.create_connection(listener.getsockname())
                if how == "sock":
                    transport, protocol = await loop.create_connection(factory, sock=near)
                else:
                    transport, protocol = await loop.connect_accepted_socket(factory, near)
            assert var.get() == "factory"
            var.set("closer")
            transport.close()
            await protocol.until("lost")
        later = sys.version_info >= (3, 15)
        assert seen == (["creator", "creator"] if later else ["factory", "closer"])

    run(main())


def test_writing_to_a_reset_connection(run: Any, caplog: Any) -> None:
    async def main() -> None:
        one = await link()
        one.transport.pause_reading()
        reset(one.far)
        with caplog.at_level(logging.WARNING, "asyncio"):
            while not one.transport.is_closing():
                one.transport.write(b"x")
            assert not caplog.records
            for _ in range(4):
                one.transport.write(b"x")
            assert not caplog.records
            one.transport.write(b"x")
            one.transport.write(b"x")
        said = [record.getMessage() for record in caplog.records]
        assert said == ["socket.send() raised exception."] * 2
        assert await one.lost() == ("lost", "ConnectionResetError")
        one.transport.write(b"still no error")
        caplog.clear()

    run(main())


async def accepted(protocol: Any) -> Link:
    """A transport that a server has made: nobody has asked it for its socket."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    far = socket.create_connection(server.sockets[0].getsockname())
    far.setblocking(False)
    await protocol.until("made")
    server.close()
    return Link(loop, protocol, protocol.transport, far)


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "closed"])
def test_is_closing_knows_of_every_failed_write(run: Any, end: Any) -> None:
    """Also of those after the first question in one and the same step."""

    async def main() -> None:
        one = await accepted(Recorder())
        one.transport.write(b"a")
        assert not one.transport.is_closing()
        one.transport.write(b"b")
        assert not one.transport.is_closing()
        assert await one.recv(2) == b"ab"
        one.transport.write(b"c")
        assert not one.transport.is_closing()
        end(one.far)  # with something unread, so this is a reset as well
        one.transport.write(b"d")
        assert one.transport.is_closing()
        assert (await one.lost())[0] == "lost"

    run(main())


def test_is_closing_of_a_socket_shut_down_by_hand(run: Any) -> None:
    async def main() -> None:
        one = await accepted(Recorder())
        sock = one.transport.get_extra_info("socket")
        one.transport.write(b"a")
        assert not one.transport.is_closing()
        sock.shutdown(socket.SHUT_WR)
        one.transport.write(b"b")
        assert one.transport.is_closing()
        assert (await one.lost())[0] == "lost"
        one.far.close()

    run(main())


def test_lines_written_and_drained_leave_together(hotrun: Any) -> None:
    """The first drain() of a step sends; what is written after it leaves when the step ends."""

    async def main() -> None:
        one = await accepted(Recorder())
        for line in (b"one", b"two", b"three"):
            one.transport.write(line)
            assert not one.transport.is_closing()
        assert one.far.recv(100) == b"one"
        with pytest.raises(BlockingIOError):
            one.far.recv(100)
        await asyncio.sleep(0)
        assert one.far.recv(100) == b"twothree"
        one.transport.write(b"four")
        assert not one.transport.is_closing()  # a new step, a new first
        assert one.far.recv(100) == b"four"
        await finish(one)

    hotrun(main())


def test_writelines_to_a_lost_connection(hotrun: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one = await link()
        await finish(one)
        one.transport.writelines([b"dropped"])  # asyncio up to 3.13.0: AttributeError
        assert one.transport.get_write_buffer_size() == 0
        one.transport.writelines([])
        before = one.transport._conn_lost
        for _ in range(6 - before):
            one.transport.writelines([b"dropped"])

    with caplog.at_level(logging.WARNING, "asyncio"):
        hotrun(main())
    assert [record.message for record in caplog.records] == ["socket.send() raised exception."]


def test_drain_after_reset(run: Any) -> None:
    async def main() -> None:
        one = await link()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        protocol.connection_made(one.transport)
        one.transport.set_protocol(protocol)
        writer = asyncio.StreamWriter(one.transport, protocol, reader, loop)
        one.transport.pause_reading()
        reset(one.far)
        writer.write(b"x")  # fails at once: the reset is here already
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()

    run(main())


def test_reset_while_reading(run: Any) -> None:
    async def main() -> None:
        one = await link()
        reset(one.far)
        assert await one.lost() == ("lost", "ConnectionResetError")
        assert one.protocol.names() == ["made", "lost"]

    run(main())


def test_reset_with_data_pending(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.fill()
        reset(one.far)
        lost = await one.lost()
        assert lost in (("lost", "ConnectionResetError"), ("lost", "BrokenPipeError"))

    run(main())


class Pieces(Recorder):
    """Keeps what data_received() was given each time."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        super().data_received(data)


def test_reads_of_all_sizes(run: Any) -> None:
    """A message that the kernel has whole is given whole, whatever the one before was like."""
    sizes = [20_000, 20_000, 50_000, 16_384, 1, 16_383, 60_000, 80_000, 80_001, 30, 70_000]

    async def main() -> None:
        protocol = Pieces()
        one = await link(protocol, tcp=False)
        sent = []
        for n, size in enumerate(sizes * 2):
            message = bytes(range(n, n + 100)) * (size // 100) + b"x" * (size % 100)
            assert one.far.send(message) == size
            sent.append(message)
            await protocol.until_data(sum(map(len, sent)))
        assert protocol.pieces == sent
        await finish(one)

    run(main())


class Choosy(Recorder):
    """Keeps those pieces that `keep` says, in the form that it gives them; hashes all of them."""

    def __init__(self, keep: Any) -> None:
        super().__init__()
        self.keep = keep
        self.kept: list[tuple[int, Any]] = []
        self.hashes: list[int] = []

    def data_received(self, data: bytes) -> None:
        number = len(self.hashes)
        self.hashes.append(hash(data))
        assert data + b"" is data  # exact bytes, whole
        assert sys.getrefcount(data) <= 5
        held = self.keep(number, data)
        if held is not None:
            self.kept.append((number, held))
        super().data_received(data)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda n, data: None, id="none"),
        pytest.param(lambda n, data: data, id="all"),
        pytest.param(lambda n, data: data if n % 13 == 12 else None, id="some"),
        pytest.param(lambda n, data: memoryview(data)[10:-10] if n % 3 else None, id="views"),
        pytest.param(lambda n, data: {data: 1} if n % 11 == 10 else None, id="keys"),
    ],
)
def test_what_is_kept_of_reads_stays(run: Any, keep: Any, tcp: bool) -> None:
    """However the memory of those that are not kept is used again."""
    large = [40_000, 40_000, 35_000, 39_999, 40_001, 90_000, 90_000, 30_000, 17_000, 60_000]
    small = [5, 1000, 1000, 900, 999, 1001, 600, 3000, 480, 481, 2000, 16_383, 16_384, 90_000]
    sizes = large + small

    async def main() -> None:
        protocol = Choosy(keep)
        one = await link(protocol, tcp=tcp)
        sent: list[bytes] = []
        for n, size in enumerate(sizes * 3):
            message = bytes([n]) * size
            await one.send(message)
            sent.append(message)
            await protocol.until_data(sum(map(len, sent)))
        if not tcp:  # each was one read
            assert protocol.hashes == [hash(bytes(bytearray(message))) for message in sent]
            assert [n for n, _ in protocol.kept] == [
                n for n, message in enumerate(sent) if keep(n, message) is not None
            ]
            for n, held in protocol.kept:
                assert held == keep(n, sent[n])
        for _, held in protocol.kept:
            whole = held if not isinstance(held, dict) else next(iter(held))
            assert len(set(bytes(whole))) <= 2
        await finish(one)

    run(main())


def test_large_reads_inside_a_large_read(run: Any) -> None:
    """Two connections, each read while the other's bytes are still in use by their protocol."""

    async def main() -> None:
        seen: list[bytes] = []

        class Stale(Recorder):
            def data_received(self, data: bytes) -> None:
                self.last = data
                super().data_received(data)
                seen.append(bytes(bytearray(data)))

        first, second = Stale(), Stale()
        one, two = await link(first, tcp=False), await link(second, tcp=False)
        for n in range(30):
            for each, protocol in ((one, first), (two, second)):
                message = bytes([n + 1]) * 50_000
                await each.send(message)
                await protocol.until_data(50_000 * (n + 1))
                assert protocol.last == message
            assert first.last == second.last
        assert len(seen) == 60
        await finish(one)
        await finish(two)

    run(main())


def test_a_traceback_keeps_what_was_read(run: Any, reports: Any) -> None:
    """data_received() that raises: its frame has the bytes, for as long as somebody has it."""

    async def main() -> None:
        caught: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: caught.append(context["exception"])
        )

        class P(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if len(self.data) > 400_000:
                    raise ValueError

        for fill in (1, 2):
            protocol = P()
            one = await link(protocol, tcp=False)
            for n in range(11):
                await one.send(bytes([fill]) * 40_000)
                await protocol.until_data(40_000 * (n + 1))
            await protocol.until("lost")
            one.far.close()
        frames = []
        for exc in caught:
            assert exc.__traceback__ is not None
            frames.append(exc.__traceback__.tb_frame.f_locals["data"])
        assert frames == [bytes([fill]) * 40_000 for fill in (1, 2)]

    run(main())
