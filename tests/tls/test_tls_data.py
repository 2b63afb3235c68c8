"""Data over TLS: every size, both ways at once, every kind of buffer, writes from callbacks."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from typing import Any

import pytest
from netlib import BufferedRecorder, Recorder
from tlslib import RECORD, Certs, Echo, link, only, pair

SIZES = [1, RECORD - 1, RECORD, RECORD + 1, 65535, 65536, 65537, 1 << 20]


class Sized(Recorder):
    """Keeps a hash of what comes, not the data."""

    def __init__(self) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self.size = 0

    def data_received(self, data: bytes) -> None:
        self.hash.update(data)
        self.size += len(data)
        self._changed.set()

    async def got(self, data: bytes) -> None:
        await self.until_true(lambda: self.size >= len(data))
        assert self.size == len(data)
        assert self.hash.digest() == hashlib.sha256(data).digest()


class Tiny(Sized, asyncio.BufferedProtocol):
    """The same by a BufferedProtocol with a small buffer, the same one every time.

    It is a memoryview: asyncio loses data when it fills a bytearray in several steps.
    """

    buffer = memoryview(bytearray(1000))

    def get_buffer(self, hint: int) -> Any:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(self.buffer[:count])


# ---- sizes ----


@pytest.mark.parametrize("size", SIZES)
def test_size(run: Any, certs: Certs, size: int) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = os.urandom(size)
        ends.client.transport.write(data)
        await ends.server.got(data)
        ends.server.transport.write(data)
        await ends.client.got(data)
        await ends.close()

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("kind", [Sized, Tiny])
def test_both_ways_at_once(run: Any, certs: Certs, version: str, kind: Any) -> None:
    async def main() -> None:
        context = only(certs.client_context(), version)
        ends = await pair(certs, kind(), kind(), client_context=context)
        up, down = os.urandom(600_000), os.urandom(500_001)
        ends.client.transport.write(up)
        ends.server.transport.write(down)
        await asyncio.gather(ends.server.got(up), ends.client.got(down))
        await ends.close()

    run(main())


def test_many_small_writes(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        pieces = [os.urandom(1 + i % 37) for i in range(3000)]
        for piece in pieces:
            ends.client.transport.write(piece)
        await ends.server.got(b"".join(pieces))
        await ends.close()

    run(main())


def test_writes_in_many_turns(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = os.urandom(40_000)
        for i in range(0, len(data), 400):
            ends.client.transport.write(data[i : i + 400])
            await asyncio.sleep(0)
        await ends.server.got(data)
        await ends.close()

    run(main())


@pytest.mark.parametrize("size", [1, 5, RECORD - 1, RECORD, RECORD + 1, 100_000])
def test_record_that_comes_in_pieces(run: Any, certs: Certs, size: int) -> None:
    """A peer's record is cut anywhere by the network."""

    async def main() -> None:
        one = await link(certs, Sized())
        data = os.urandom(size)
        one.peer.tls.write(data)
        sent = one.peer.outgoing.read()
        step = max(1, len(sent) // 13)
        loop = asyncio.get_running_loop()
        for i in range(0, len(sent), step):
            await loop.sock_sendall(one.peer.sock, sent[i : i + step])
            await asyncio.sleep(0)
        await one.protocol.got(data)
        await one.finish()

    run(main())


def test_empty_record(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.peer.tls.write(b"")
        await one.peer.write(b"after")
        assert await one.protocol.until_data(5) == b"after"
        assert "eof" not in one.protocol.events
        await one.finish()

    run(main())


def test_data_is_bytes(run: Any, certs: Certs) -> None:
    kinds = set()

    class Kinds(Recorder):
        def data_received(self, data: bytes) -> None:
            kinds.add(type(data))
            super().data_received(data)

    async def main() -> None:
        ends = await pair(certs, server=Kinds())
        ends.client.transport.write(b"x" * 40_000)
        await ends.server.until_data(40_000)
        await ends.close()

    run(main())
    assert kinds == {bytes}


def test_what_was_received_stays(run: Any, certs: Certs) -> None:
    """Earlier pieces are not overwritten by later ones."""

    class Keeping(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.pieces: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.pieces.append(data)
            super().data_received(data)

    async def main() -> None:
        ends = await pair(certs, server=Keeping())
        total = b""
        for i in range(30):
            total += bytes([65 + i]) * (100 + i)
            ends.client.transport.write(bytes([65 + i]) * (100 + i))
            await ends.server.until_data(len(total))
        assert b"".join(ends.server.pieces) == total
        await ends.close()

    run(main())


# ---- kinds of buffers ----


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [1, 1000, 200_000])
def test_kind_of_buffer(run: Any, certs: Certs, kind: Any, size: int) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = os.urandom(size)
        ends.client.transport.write(kind(data))
        await ends.server.got(data)
        await ends.close()

    run(main())


def test_subclass_of_bytes(run: Any, certs: Certs) -> None:
    class Mine(bytes):
        pass

    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(Mine(b"mine"))
        assert await ends.server.until_data(4) == b"mine"
        await ends.close()

    run(main())


@pytest.mark.parametrize("size", [10, 10_000, 100_000])
def test_mutated_after_write(run: Any, certs: Certs, size: int) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = bytearray(os.urandom(size))
        expected = bytes(data)
        view = memoryview(data)
        ends.client.transport.write(view)
        view.release()
        data[:] = bytes(size)
        await ends.server.got(expected)
        await ends.close()

    run(main())


def test_resized_after_write(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = bytearray(b"x" * 5000)
        ends.client.transport.write(data)
        data.clear()  # BufferError, were it still exported
        await ends.server.got(b"x" * 5000)
        await ends.close()

    run(main())


def test_slices_of_a_view(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = os.urandom(100_000)
        view = memoryview(data)
        for i in range(0, len(data), 33_333):
            ends.client.transport.write(view[i : i + 33_333])
        await ends.server.got(data)
        await ends.close()

    run(main())


def test_buffer_is_let_go(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        data = bytearray(300_000)
        ends.client.transport.write(data)
        await ends.server.got(bytes(300_000))
        data.append(1)  # BufferError, were it still exported
        await ends.close()

    run(main())


# ---- writes of every kind ----


def test_empty_writes(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        for empty in (b"", bytearray(), memoryview(b"")):
            ends.client.transport.write(empty)
        assert ends.client.transport.get_write_buffer_size() == 0
        ends.client.transport.write(b"end")
        assert await ends.server.until_data(3) == b"end"
        assert ends.server.events == ["made", "data"]
        await ends.close()

    run(main())


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_writelines(run: Any, certs: Certs, kind: Any) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Sized())
        pieces = [b"one", bytearray(b"two"), memoryview(b"three"), b"x" * 50_000, b"end"]
        ends.client.transport.writelines(kind(pieces))
        await ends.server.got(b"".join(pieces))
        await ends.close()

    run(main())


def test_writelines_of_nothing(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.writelines([])
        ends.client.transport.write(b"end")
        assert await ends.server.until_data(3) == b"end"
        await ends.close()

    run(main())


def test_writelines_of_a_generator_that_writes(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport

        def pieces() -> Any:
            yield b"a"
            t.get_write_buffer_size()
            yield b"b"

        t.writelines(pieces())
        assert await ends.server.until_data(2) == b"ab"
        await ends.close()

    run(main())


def test_write_after_close(run: Any, certs: Certs, caplog: Any) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.close()
        for _ in range(3):
            ends.client.transport.write(b"dropped")
        ends.client.transport.writelines([b"dropped", b"too"])
        await ends.lost()
        assert ends.server.data == b""

    run(main())
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == []


def test_writes_after_the_end_are_warned_of(run: Any, certs: Certs, caplog: Any) -> None:
    """Five are let pass, as by other transports; close() and the loss are among them."""

    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        await ends.abort()
        for _ in range(8):
            t.write(b"dropped")

    run(main())
    said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert said == ["SSL connection is closed"] * 4


def test_order_of_write_and_writelines(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        t.write(b"1")
        t.writelines([b"2", b"3"])
        t.write(b"4")
        await asyncio.sleep(0)
        t.writelines([b"5"])
        t.write(b"6")
        assert await ends.server.until_data(6) == b"123456"
        await ends.close()

    run(main())


# ---- writes from callbacks ----


def test_echo(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, Sized(), Echo())
        data = os.urandom(200_000)
        ends.client.transport.write(data)
        await ends.client.got(data)
        await ends.close()

    run(main())


def test_ping_pong(run: Any, certs: Certs) -> None:
    class Counting(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if len(self.data) < 500:
                self.transport.write(data)

    async def main() -> None:
        ends = await pair(certs, Counting(), Counting())
        ends.client.transport.write(b"x")
        await ends.client.until_data(499)
        await ends.abort()

    run(main())


def test_write_from_connection_made(run: Any, certs: Certs) -> None:
    class Greeting(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"hello ")
            transport.write(b"there")

    async def main() -> None:
        ends = await pair(certs, Greeting(), Greeting())
        assert await ends.client.until_data(11) == b"hello there"
        assert await ends.server.until_data(11) == b"hello there"
        await ends.close()

    run(main())


def test_large_write_from_connection_made(run: Any, certs: Certs) -> None:
    data = os.urandom(2_000_000)

    class Greeting(Sized):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(data)

    async def main() -> None:
        ends = await pair(certs, Greeting(), Greeting())
        await asyncio.gather(ends.client.got(data), ends.server.got(data))
        await ends.close()

    run(main())


def test_close_from_connection_made_after_a_write(run: Any, certs: Certs) -> None:
    class Brief(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"short and good")
            transport.close()

    async def main() -> None:
        ends = await pair(certs, server=Brief())
        await ends.lost()
        assert ends.client.data == b"short and good"
        assert ends.client.events == ["made", "data", "eof", ("lost", "NoneType")]

    run(main())


def test_write_from_eof_received(run: Any, certs: Certs) -> None:
    """close_notify has come, ours has not gone: asyncio takes what eof_received() writes."""

    class Last(Recorder):
        def eof_received(self) -> None:
            super().eof_received()
            self.transport.write(b"last words")

    async def main() -> None:
        one = await link(certs, Last())
        await one.peer.notify()
        data, how = await one.peer.read_all()
        assert (data, how) == (b"last words", "notify")
        await one.lost()
        one.peer.sock.close()

    run(main())


def test_write_from_pause_and_resume_writing(run: Any, certs: Certs) -> None:
    class Nesting(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.write(b"P" * 10)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(b"R" * 10)

    async def main() -> None:
        ends = await pair(certs, Nesting())
        total = 0
        while "pause" not in ends.client.events:
            ends.client.transport.write(b"x" * 65536)
            total += 65536
        await ends.client.until("resume")
        await ends.server.until_data(total + 20)
        assert ends.server.data.count(b"x") == total
        assert ends.server.data.count(b"P") == 10 * ends.client.events.count("pause")
        assert ends.server.data.count(b"R") == 10 * ends.client.events.count("resume")
        await ends.close()

    run(main())


def test_nested_writes_under_a_long_queue(run: Any, certs: Certs) -> None:
    """What uvloop once died of: a write from data_received() under thousands of queued ones."""

    class Busy(Recorder):
        left = 200

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.left:
                self.left -= 1
                self.transport.write(b"n" * 7)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.write(b"p" * 3)

    async def main() -> None:
        ends = await pair(certs, Busy(), Busy())
        for end in (ends.client, ends.server):
            for _ in range(6000):
                end.transport.write(b"q" * 100)
        for end in (ends.client, ends.server):
            await end.until_data(600_000)
            assert end.data.count(b"q") == 600_000
        await ends.abort()

    run(main())


# ---- BufferedProtocol and set_protocol ----


@pytest.mark.parametrize("size", [1, 3, 1000, RECORD, 300_000])
def test_buffered(run: Any, certs: Certs, size: int) -> None:
    class Buffered(Sized, asyncio.BufferedProtocol):
        def get_buffer(self, hint: int) -> Any:
            self.buffer = memoryview(bytearray(size))
            return self.buffer

        def buffer_updated(self, count: int) -> None:
            assert 0 < count <= size
            self.data_received(self.buffer[:count])

    async def main() -> None:
        ends = await pair(certs, server=Buffered())
        data = os.urandom(min(50_000, size * 2000))
        ends.client.transport.write(data)
        await ends.server.got(data)
        await ends.close()
        assert ends.server.events == ["made", "eof", ("lost", "NoneType")]

    run(main())


def test_buffered_by_a_bytearray(hotrun: Any, certs: Certs) -> None:
    """asyncio is flawed here: `buffer[n:]` of a bytearray is a copy, and what it takes is lost."""

    class Plain(Sized, asyncio.BufferedProtocol):
        def get_buffer(self, hint: int) -> Any:
            self.buffer = bytearray(40_000)
            return self.buffer

        def buffer_updated(self, count: int) -> None:
            self.data_received(bytes(self.buffer[:count]))

    async def main() -> None:
        ends = await pair(certs, server=Plain())
        data = os.urandom(200_000)
        ends.client.transport.write(data)
        await ends.server.until_true(lambda: ends.server.size == len(data))
        await ends.abort()
        assert ends.server.hash.digest() == hashlib.sha256(data).digest()

    hotrun(main())


def test_buffered_gets_a_memoryview_back(run: Any, certs: Certs) -> None:
    storage = bytearray(100)

    class Viewing(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, hint: int) -> Any:
            return memoryview(storage)[10:20]

        def buffer_updated(self, count: int) -> None:
            self.data_received(bytes(storage[10 : 10 + count]))

    async def main() -> None:
        ends = await pair(certs, server=Viewing())
        ends.client.transport.write(b"0123456789" * 10)
        assert await ends.server.until_data(100) == b"0123456789" * 10
        assert storage[:10] == bytes(10)
        assert storage[20:] == bytes(80)
        await ends.close()

    run(main())


def test_buffered_echo(run: Any, certs: Certs) -> None:
    class BufferedEcho(BufferedRecorder):
        size = 777

        def get_buffer(self, hint: int) -> Any:
            self.buffer = memoryview(bytearray(self.size))  # type: ignore[assignment]
            return self.buffer

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(data)

    async def main() -> None:
        ends = await pair(certs, Sized(), BufferedEcho())
        data = os.urandom(100_000)
        ends.client.transport.write(data)
        await ends.client.got(data)
        await ends.close()

    run(main())


def test_set_protocol_between_kinds(run: Any, certs: Certs) -> None:
    async def main() -> None:
        first, second, third = Recorder(), Tiny(), Recorder()
        ends = await pair(certs, server=first)
        write, t = ends.client.transport.write, first.transport
        write(b"first")
        await first.until_data(5)
        t.set_protocol(second)
        write(b"second" * 1000)
        await second.got(b"second" * 1000)
        t.set_protocol(third)
        write(b"third")
        assert await third.until_data(5) == b"third"
        assert first.data == b"first"
        ends.client.transport.close()
        await third.until("lost")
        await ends.client.until("lost")
        assert (first.events, second.events) == (["made", "data"], [])
        assert third.events == ["data", "eof", ("lost", "NoneType")]

    run(main())


@pytest.mark.parametrize("kind", [Recorder, Tiny])
def test_set_protocol_from_data_received(run: Any, certs: Certs, kind: Any) -> None:
    """What comes later is the new one's, of whichever kind it is."""

    class Handing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.set_protocol(later)
            self.transport.write(b"go on")

    async def main() -> None:
        ends = await pair(certs, server=Handing())
        ends.client.transport.write(b"change")
        await ends.client.until_data(5)
        ends.client.transport.write(b"changed")
        await later.until_true(lambda: getattr(later, "size", 0) == 7 or later.data == b"changed")
        assert ends.server.data == b"change"
        ends.client.transport.close()
        await later.until("lost")
        await ends.client.until("lost")

    later = kind()
    run(main())


def test_set_protocol_from_buffer_updated(run: Any, certs: Certs) -> None:
    class Handing(Tiny):
        def buffer_updated(self, count: int) -> None:
            super().buffer_updated(count)
            self.transport.set_protocol(later)
            self.transport.write(b"go on")

    async def main() -> None:
        ends = await pair(certs, server=Handing())
        ends.client.transport.write(b"change")
        await ends.client.until_data(5)
        ends.client.transport.write(b"changed")
        assert await later.until_data(7) == b"changed"
        ends.client.transport.close()
        await later.until("lost")
        await ends.client.until("lost")

    later = Recorder()
    run(main())


def test_collecting_in_every_callback(run: Any, certs: Certs) -> None:
    """Nothing that is in use is only held by a cycle."""

    class Collecting(Echo):
        def data_received(self, data: bytes) -> None:
            gc.collect()
            super().data_received(data)
            gc.collect()

    async def main() -> None:
        ends = await pair(certs, Recorder(), Collecting())
        ends.client.transport.write(b"x" * 100)
        assert await ends.client.until_data(100) == b"x" * 100
        await ends.close()

    run(main())
