"""Flow control of TLS: reading paused and resumed, marks of the write buffer, drain."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from netlib import LIMIT, Recorder
from tlslib import NAME, Certs, arrived, fill, link, pair


class Counting(Recorder):
    """Counts what comes instead of keeping it, and checks the order of pause and resume."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        self._changed.set()

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        super().resume_writing()


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# ---- reading ----


def test_pause_reading(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        assert one.transport.is_reading()
        one.transport.pause_reading()
        assert not one.transport.is_reading()
        await one.peer.write(b"waits")
        await arrived(one.transport)
        assert one.protocol.events == ["made"]
        one.transport.resume_reading()
        assert one.transport.is_reading()
        assert one.protocol.events == ["made"]  # in a later turn
        assert await one.protocol.until_data(5) == b"waits"
        await one.finish()

    run(main())


def test_pausing_twice_is_allowed(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.resume_reading()
        one.transport.pause_reading()
        one.transport.pause_reading()
        one.transport.resume_reading()
        one.transport.resume_reading()
        await one.peer.write(b"data")
        assert await one.protocol.until_data(4) == b"data"
        await one.finish()

    run(main())


def test_pause_from_data_received(run: Any, certs: Certs) -> None:
    class Pausing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def main() -> None:
        one = await link(certs, Pausing())
        await one.peer.write(b"first")
        await one.protocol.until_data(5)
        await one.peer.write(b"second")
        await arrived(one.transport)
        assert one.protocol.data == b"first"
        one.transport.resume_reading()
        await one.protocol.until_data(11)
        await one.finish()

    run(main())


def test_pause_from_connection_made(run: Any, certs: Certs) -> None:
    class Pausing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        ends = await pair(certs, server=Pausing())
        ends.client.transport.write(b"early")
        await arrived(ends.server.transport)
        assert ends.server.events == ["made"]
        ends.server.transport.resume_reading()
        assert await ends.server.until_data(5) == b"early"
        await ends.close()

    run(main())


def test_pause_and_resume_in_one_turn(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        for _ in range(10):
            one.transport.pause_reading()
            one.transport.resume_reading()
        await one.peer.write(b"data")
        await one.protocol.until_data(4)
        assert one.protocol.data == b"data"
        await one.finish()

    run(main())


def test_resumed_in_the_turn_it_was_paused_again(run: Any, certs: Certs) -> None:
    """resume_reading() takes effect in a later turn, in which reading may be paused again."""

    async def main() -> None:
        one = await link(certs)
        one.transport.pause_reading()
        await one.peer.write(b"waits")
        await arrived(one.transport)
        one.transport.resume_reading()
        one.transport.pause_reading()
        await turns()
        assert one.protocol.data == b""
        one.transport.resume_reading()
        assert await one.protocol.until_data(5) == b"waits"
        await one.finish()

    run(main())


def test_close_notify_while_paused(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.pause_reading()
        await one.peer.write(b"data")
        await one.peer.notify()
        await arrived(one.transport)
        assert one.protocol.events == ["made"]
        one.transport.resume_reading()
        await one.lost()
        assert one.protocol.events == ["made", "data", "eof", ("lost", "NoneType")]
        one.peer.sock.close()

    run(main())


def test_plain_eof_while_paused(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.pause_reading()
        await one.peer.write(b"data")
        one.peer.sock.close()
        await arrived(one.transport)
        assert one.protocol.events == ["made"]
        one.transport.resume_reading()
        await one.lost()
        assert one.protocol.events[:3] == ["made", "data", "eof"]
        assert one.protocol.names()[-1] == "lost"

    run(main())


def test_close_while_paused_with_data_waiting(run: Any, certs: Certs) -> None:
    """close() of a paused one: the data is not asked for any more, the end comes."""

    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.pause_reading()
        ends.server.transport.write(b"unwanted")
        await arrived(ends.client.transport)
        ends.client.transport.close()
        await ends.lost()
        assert ends.client.data == b""

    run(main())


def test_reader_that_pauses_holds_the_writer_back(run: Any, certs: Certs) -> None:
    """A paused reader takes in no more than its marks and the sockets' buffers."""

    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        t, u = ends.client.transport, ends.server.transport
        u.pause_reading()
        total = 0
        while not ends.client.paused:  # for good, not only until the sockets have taken it
            while not ends.client.paused:
                t.write(bytes(65536))
                total += 65536
            await asyncio.sleep(0.02)
        held = u.get_read_buffer_size()
        assert 0 < held < 2 * u.get_read_buffer_limits()[1] + 300_000
        assert ends.client.paused
        assert ends.server.size == 0
        u.resume_reading()
        await ends.server.until_true(lambda: ends.server.size == total)
        await ends.client.until("resume")
        assert u.get_read_buffer_size() == 0
        await ends.close()

    run(main())


def test_small_read_limits(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        ends.server.transport.set_read_buffer_limits(high=100, low=10)
        ends.client.transport.write(bytes(500_000))
        await ends.server.until_true(lambda: ends.server.size == 500_000)
        await ends.close()

    run(main())


@pytest.mark.parametrize("every", [1, 3])
def test_stop_and_go(run: Any, certs: Certs, every: int) -> None:
    """Reading pauses at each piece (or each third), and goes on a turn later: nothing is lost."""

    class Stuttering(Counting):
        pieces = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.pieces += 1
            if self.pieces % every == 0:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main() -> None:
        ends = await pair(certs, Stuttering(), Stuttering())
        for _ in range(30):
            ends.client.transport.write(bytes(50_000))
            ends.server.transport.write(bytes(30_000))
        await ends.server.until_true(lambda: ends.server.size == 1_500_000)
        await ends.client.until_true(lambda: ends.client.size == 900_000)
        await ends.close()

    run(main())


# ---- writing ----


def test_small_writes_leave_at_once(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(b"x" * 1000)
        assert ends.client.transport.get_write_buffer_size() == 0
        await ends.server.until_data(1000)
        assert ends.client.events == ["made"]
        await ends.close()

    run(main())


def test_pause_and_resume(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        t = ends.client.transport
        ends.server.transport.pause_reading()
        low, high = t.get_write_buffer_limits()
        total = 0
        while not ends.client.paused:
            assert t.get_write_buffer_size() < high
            t.write(bytes(65536))
            total += 65536
        assert t.get_write_buffer_size() >= high
        ends.server.transport.resume_reading()
        await ends.client.until("resume")
        assert t.get_write_buffer_size() <= low
        await ends.server.until_true(lambda: ends.server.size == total)
        assert t.get_write_buffer_size() == 0
        assert ends.client.names() == ["made", "pause", "resume"]
        await ends.close()

    run(main())


@pytest.mark.parametrize("limits", [(1, 0), (1, 1), (1000, 1000), (70_001, 0), (70_001, 69_999)])
def test_odd_marks(run: Any, certs: Certs, limits: tuple[int, int]) -> None:
    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        t = ends.client.transport
        t.set_write_buffer_limits(*limits)
        ends.server.transport.pause_reading()
        total = await fill(t)
        t.write(bytes(100_000))
        total += 100_000
        assert ends.client.names() == ["made", "pause"]
        ends.server.transport.resume_reading()
        await ends.server.until_true(lambda: ends.server.size == total)
        await ends.client.until("resume")
        assert ends.client.names().count("pause") == ends.client.names().count("resume")
        assert t.get_write_buffer_size() == 0
        await ends.close()

    run(main())


def test_marks_raised_after_the_end(hotrun: Any, handled_hot: Any, certs: Certs) -> None:
    """Nobody is left to be told to go on; asyncio reports that None has no resume_writing()."""

    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        t = ends.client.transport
        t.set_write_buffer_limits(1, 0)
        ends.server.transport.pause_reading()
        await fill(t)
        t.write(bytes(100_000))
        assert ends.client.names() == ["made", "pause"]
        t.abort()
        await ends.client.until("lost")
        t.set_write_buffer_limits(high=1 << 30, low=1 << 29)
        assert ends.client.names() == ["made", "pause", "lost"]
        await ends.close()

    hotrun(main())
    assert not handled_hot


def test_marks_lowered_below_what_waits(run: Any, certs: Certs) -> None:
    """Setting the marks looks at the buffer at once."""

    async def main() -> None:
        one = await link(certs, Counting())
        await fill(one.transport, 1000)
        assert one.protocol.names() == ["made"]
        size = one.transport.get_write_buffer_size()
        one.transport.set_write_buffer_limits(high=size, low=0)
        assert one.protocol.names() == ["made", "pause"]
        one.transport.set_write_buffer_limits(high=size * 3, low=size * 2)
        assert one.protocol.names() == ["made", "pause", "resume"]
        await one.finish()

    run(main())


def test_size_grows_by_what_is_written(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs, Counting())
        await fill(one.transport)
        before = one.transport.get_write_buffer_size()
        one.transport.write(bytes(1000))
        # What waits may be counted as plain data or, with some overhead, as encrypted.
        assert 1000 <= one.transport.get_write_buffer_size() - before <= 1200
        await one.finish()

    run(main())


def test_paused_peer_gets_everything_later(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs, Counting())
        total = await fill(one.transport)
        data = os.urandom(100_000)
        one.transport.write(data)
        got = await one.peer.read(total + len(data))
        assert got == bytes(total) + data
        await one.protocol.until_true(lambda: one.transport.get_write_buffer_size() == 0)
        await one.finish()

    run(main())


def test_reading_goes_on_while_writing_is_held_up(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs, Recorder())
        await fill(one.transport)
        await one.peer.write(b"against the stream")
        assert await one.protocol.until_data(18) == b"against the stream"
        await one.finish()

    run(main())


def test_writing_goes_on_while_reading_is_paused(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        ends.client.transport.pause_reading()
        ends.client.transport.write(bytes(1_000_000))
        await ends.server.until_true(lambda: ends.server.size == 1_000_000)
        await ends.close()

    run(main())


def test_drain(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        one.transport.set_protocol(protocol)
        protocol.connection_made(one.transport)
        loop = asyncio.get_running_loop()
        writer = asyncio.StreamWriter(one.transport, protocol, reader, loop)
        await writer.drain()  # nothing waits
        one.transport.set_write_buffer_limits(high=1)
        total = await fill(one.transport)
        draining = loop.create_task(writer.drain())
        await turns()
        assert not draining.done()
        assert await one.peer.read(total) == bytes(total)
        async with asyncio.timeout(LIMIT):
            await draining
        writer.transport.abort()
        one.peer.sock.close()
        await writer.wait_closed()

    run(main())


def test_streams_drain_a_large_upload(run: Any, certs: Certs) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        while data := await reader.read(10_000):
            sizes.append(len(data))
        writer.write(b"got it")
        writer.close()
        await writer.wait_closed()
        served.set()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certs.server_context())
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=certs.client_context(), server_hostname=NAME
        )
        for _ in range(50):
            writer.write(bytes(60_000))
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        await served.wait()
        server.close()
        await server.wait_closed()

    sizes: list[int] = []
    served = asyncio.Event()
    run(main())
    assert sum(sizes) == 3_000_000


def test_readuntil_and_limits_of_the_reader(run: Any, certs: Certs) -> None:
    """The reader pauses the transport at twice its limit, and resumes it."""

    async def serve(reader: Any, writer: Any) -> None:
        for number in range(2000):
            writer.write(b"line %d\n" % number)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certs.server_context())
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=certs.client_context(), server_hostname=NAME, limit=64
        )
        await turns()
        for number in range(2000):
            assert await reader.readuntil() == b"line %d\n" % number
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_resume_that_writes_and_pauses_again(run: Any, certs: Certs) -> None:
    class Feeding(Counting):
        left = 20

        def resume_writing(self) -> None:
            super().resume_writing()
            while self.left and not self.paused:
                self.left -= 1
                self.transport.write(bytes(100_000))

    async def main() -> None:
        ends = await pair(certs, Feeding(), Counting())
        ends.client.transport.set_write_buffer_limits(high=1)
        total = 20 * 100_000 + await fill(ends.client.transport)
        await ends.server.until_true(lambda: ends.server.size == total)
        assert ends.client.left == 0
        assert ends.client.names().count("pause") >= 1
        await ends.close()

    run(main())
