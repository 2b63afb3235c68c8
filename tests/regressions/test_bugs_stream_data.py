"""Bug classes 11-26: the way of the data through streams."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import sysconfig
import time
from typing import Any

import pytest
from netlib import (
    LIMIT,
    SANITIZED,
    BufferedRecorder,
    Link,
    Recorder,
    finish,
    link,
    pipe_files,
    reset,
    tcp_pair,
    writer,
)


@pytest.mark.bug(11, fails_on=("uvloop",))
def test_write_after_the_peer_closed_raises(run: Any) -> None:
    async def main() -> None:
        one = await link()
        reset(one.far)
        await one.lost()
        for _ in range(3):
            one.transport.write(b"dropped")
        await asyncio.sleep(0)

    run(main())


@pytest.mark.bug(11, fails_on=("uvloop",))
def test_write_after_the_pipe_broke_raises(run: Any) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, protocol = await writer(w)
        r.close()
        await protocol.until("lost")
        for _ in range(3):
            transport.write(b"dropped")

    run(main())


@pytest.mark.bug(11, fails_on=("uvloop",))
def test_drain_after_the_peer_closed_is_a_connection_reset(run: Any) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        reader, writer = await asyncio.open_connection(sock=near)
        reset(far)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await asyncio.sleep(0)
        writer.write(b"dropped")
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        writer.close()

    run(main())


class Failing(Recorder):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        raise ZeroDivisionError("of the protocol")


@pytest.mark.bug(12, fails_on=("rloop",))
def test_protocol_that_raised_is_fed_again(run: Any, handled: Any) -> None:
    async def main() -> None:
        one = await link(Failing())
        await one.send(b"1")
        assert await one.lost() == ("lost", "ZeroDivisionError")
        assert one.protocol.events == ["made", "data", ("lost", "ZeroDivisionError")]
        assert await one.recv(1) == b""
        one.far.close()
        assert [type(context["exception"]) for context in handled] == [ZeroDivisionError]

    run(main())


@pytest.mark.bug(13, fails_on=("uvloop", "rloop", "zuvloop"))
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["data_received", "eof_received", "connection_lost"])
def test_exit_from_a_protocol_swallowed(anyloop: Any, error: Any, name: str) -> None:
    class Leaving(Recorder):
        pass

    def leave(self: Any, *args: Any) -> None:
        raise error("leave")

    setattr(Leaving, name, leave)
    near, far = tcp_pair()
    transport, _ = anyloop.run_until_complete(anyloop.create_connection(Leaving, sock=near))
    far.send(b"x")
    far.close()
    anyloop.call_later(LIMIT, anyloop.stop)
    with pytest.raises(error, match="leave"):
        anyloop.run_forever()
    setattr(Leaving, name, lambda self, *args: None)
    transport.abort()
    anyloop.run_until_complete(asyncio.sleep(0))
    anyloop.run_until_complete(asyncio.sleep(0))


@pytest.mark.bug(14, fails_on=("rloop",))
def test_reason_of_the_loss_overwritten_by_queued_writes(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.fill()
        one.transport.abort()
        assert await one.lost() == ("lost", "NoneType")
        one.far.close()
        two = await link()
        await two.fill()
        reset(two.far)
        assert await two.lost() == ("lost", "ConnectionResetError")
        three = await link()
        reset(three.far)
        assert await three.lost() == ("lost", "ConnectionResetError")
        assert "eof" not in three.protocol.events

    run(main())


@pytest.mark.bug(15, fails_on=("rloop",))
def test_abort_in_pause_writing_aborts_the_process(run: Any) -> None:
    class Aborting(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.abort()

    async def main() -> None:
        one = await link(Aborting())
        one.transport.set_write_buffer_limits(high=0)
        one.transport.write(bytes(16 << 20))
        await one.lost()
        assert one.protocol.events == ["made", "pause", ("lost", "NoneType")]
        one.far.close()

    run(main())


@pytest.mark.bug(16)
def test_drain_never_returns_with_a_high_mark_of_zero(run: Any) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        _, writer = await asyncio.open_connection(sock=near)
        end = Link(asyncio.get_running_loop(), None, writer.transport, far)
        writer.transport.set_write_buffer_limits(high=0)
        for _ in range(20):
            writer.write(b"head")
            writer.write(b"body")
            async with asyncio.timeout(LIMIT):
                await writer.drain()
        assert await end.recv(160) == b"headbody" * 20
        writer.close()
        await writer.wait_closed()
        far.close()

    run(main())


def arrived(sock: socket.socket) -> bytes:
    """What is there, without giving the loop a turn; the network may take its time."""
    return sock.recv(1000) if select.select([sock], [], [], LIMIT)[0] else b""


@pytest.mark.bug(17, fails_on=("zuvloop",))
def test_write_held_while_the_next_callback_blocks(run: Any) -> None:
    """The next callback of the same turn blocks until the bytes are there."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        got: asyncio.Queue[bytes] = asyncio.Queue()
        loop.call_soon(one.transport.write, b"now")
        loop.call_soon(lambda: got.put_nowait(arrived(one.far)))
        seen = await got.get()
        await finish(one)
        assert seen == b"now"

    run(main())


@pytest.mark.bug(17)
def test_write_lost_when_the_loop_stops(anyloop: Any) -> None:
    one = anyloop.run_until_complete(link())
    anyloop.call_soon(one.transport.write, b"before the stop")
    anyloop.call_soon(anyloop.stop)
    anyloop.run_forever()
    assert arrived(one.far) == b"before the stop"
    anyloop.run_until_complete(finish(one))


@pytest.mark.bug(18)
def test_reentrant_write_from_pause_writing_lost(run: Any) -> None:
    class Writing(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            if self.names().count("pause") == 1:
                self.transport.write(b"-nested-")

    async def main() -> None:
        one = await link(Writing())
        total = await one.fill()
        one.transport.write(b"-last")
        data = await one.recv(total + 13)
        assert data[total:] == b"-nested--last"
        await finish(one)

    run(main())


@pytest.mark.bug(18)
def test_write_sleeps_in_the_poll(run: Any) -> None:
    """Nothing but these bytes can end the loop's sleep: they leave before it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        done = loop.create_future()

        def answer() -> None:
            loop.remove_reader(one.far)
            done.set_result(one.far.recv(100))

        loop.add_reader(one.far, answer)
        loop.call_soon(loop.call_soon, one.transport.write, b"wake up")
        assert await done == b"wake up"
        await finish(one)

    run(main())


@pytest.mark.bug(19, fails_on=("uvloop",))
@pytest.mark.asyncio_is_flawed("sends the bytes as they are later, not as they were written")
def test_buffer_changed_after_write_is_what_is_sent(run: Any) -> None:
    async def main() -> None:
        one = await link()
        total = await one.fill()
        data = bytearray(b"before")
        one.transport.write(data)
        one.transport.write(memoryview(data))
        data[:] = b"after!"
        got = await one.recv(total + 12)
        await finish(one)
        assert got[total:] == b"beforebefore"

    run(main())


@pytest.mark.bug(19, fails_on=("uvloop",))
def test_buffer_locked_after_write(run: Any) -> None:
    async def main() -> None:
        one = await link()
        await one.fill()
        data = bytearray(b"before")
        one.transport.write(data)
        try:
            data.clear()
            locked = False
        except BufferError:
            locked = True
        await finish(one)
        assert not locked

    run(main())


@pytest.mark.bug(20, fails_on=("rsloop",))
def test_write_eof_overtakes_data_or_lets_more_in(run: Any) -> None:
    async def main() -> None:
        one = await link(Recorder())
        total = await one.fill()
        one.transport.write(b"last")
        one.transport.write_eof()
        for data in b"more", b"":
            with pytest.raises(RuntimeError, match="after write_eof"):
                one.transport.write(data)
        one.transport.close()
        with pytest.raises(RuntimeError, match="after write_eof"):
            one.transport.write(b"more")
        got = await one.recv(total + 100)
        assert got[total:] == b"last"
        one.far.close()
        await one.lost()

    run(main())


@pytest.mark.bug(21, fails_on=("rloop",))
def test_half_closed_connection_hangs_or_spins(run: Any) -> None:
    """The server answers after the client's end of data: one eof, all the data, one end."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        one = await link(protocol)
        await one.send(b"request")
        one.far.shutdown(socket.SHUT_WR)
        await protocol.until("eof")
        for piece in b"late ", b"answer":
            await asyncio.sleep(0.01)
            one.transport.write(piece)
        one.transport.close()
        assert await one.recv(100) == b"late answer"
        await one.lost()
        assert protocol.events == ["made", "data", "eof", ("lost", "NoneType")]
        one.far.close()

    run(main())


@pytest.mark.bug(22, fails_on=("rloop",))
@pytest.mark.parametrize("kinds", [(Recorder, BufferedRecorder), (BufferedRecorder, Recorder)])
def test_bytes_dropped_after_set_protocol(run: Any, kinds: Any) -> None:
    async def main() -> None:
        one = await link(kinds[0]())
        await one.send(b"first")
        await one.protocol.until_data(5)
        second = kinds[1]()
        one.transport.set_protocol(second)
        assert one.transport.get_protocol() is second
        await one.send(b"for the second")
        assert await second.until_data(14) == b"for the second"
        assert one.protocol.data == b"first"
        one.transport.abort()
        await second.until("lost")
        one.far.close()

    run(main())


@pytest.mark.bug(23, fails_on=("uvloop", "rloop", "zuvloop"))
def test_empty_buffer_from_get_buffer(run: Any, handled: Any) -> None:
    class Empty(BufferedRecorder):
        size = 0

    async def main() -> None:
        one = await link(Empty())
        await one.send(b"x")
        assert await one.lost() == ("lost", "RuntimeError")
        one.far.close()
        assert [type(context["exception"]) for context in handled] == [RuntimeError]
        assert "get_buffer() returned an empty buffer" in str(handled[0]["exception"])

    run(main())


def cost_of_size(transport: Any) -> int:
    """Nanoseconds of CPU that 300 calls take at best."""
    best = 1 << 60
    for _ in range(5):
        began = time.thread_time_ns()
        for _ in range(300):
            transport.get_write_buffer_size()
        best = min(best, time.thread_time_ns() - began)
    return max(best, 1)


@pytest.mark.bug(24)
@pytest.mark.asyncio_is_flawed("adds up the queue at every call", when=sys.version_info < (3, 15))
def test_size_of_the_write_buffer_counted_piece_by_piece(run: Any) -> None:
    """A call costs with 4,000 pieces in the queue what it costs with one, within a wide margin."""

    async def main() -> None:
        one = await link()
        await one.fill()
        few = cost_of_size(one.transport)
        size = one.transport.get_write_buffer_size()
        for _ in range(4000):
            one.transport.write(b"piece")
        assert one.transport.get_write_buffer_size() == size + 20_000
        many = cost_of_size(one.transport)
        await finish(one)
        assert many < 50 * few

    run(main())


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.mark.bug(25)
@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer keeps freed memory")
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="mimalloc keeps freed pages"
)
def test_write_buffer_kept_after_connection_lost(run: Any) -> None:
    size = 64 << 20  # above what malloc() keeps for itself

    async def main() -> None:
        one = await link()
        one.transport.write(b"x" * size)
        full = resident()
        await finish(one)
        await asyncio.sleep(0)
        assert full - resident() > size // 2
        assert one.transport.get_write_buffer_size() == 0

    run(main())


@pytest.mark.bug(26, fails_on=("uvloop", "rloop", "zuvloop"))
def test_no_peername_of_a_client_that_reset(run: Any) -> None:
    """The address is what accept() told, though the client is gone by then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Any] = asyncio.Queue()

        class Told(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.put_nowait((transport.get_extra_info("peername"), self))

        server = await loop.create_server(Told, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        name = client.getsockname()
        reset(client)
        seen, protocol = await asyncio.wait_for(made.get(), LIMIT)
        assert seen == name
        protocol.transport.abort()
        await protocol.until("lost")
        server.close()
        await server.wait_closed()

    run(main())
