"""Where TLS in C could differ from asyncio's: memory, held writes, foreign transports."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import ssl
import sys
import weakref
from typing import Any

import pytest
from netlib import SANITIZED, Recorder, tcp_pair
from tlslib import NAME, Boom, Certs, arrived, link, pair

ONE_CONTEXT = sys.version_info >= (3, 15)
VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="none")


class Buffered(Recorder, asyncio.BufferedProtocol):
    """One large buffer for all that comes."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(100_000))

    def get_buffer(self, hint: int) -> Any:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


# ---- foreign code while a read is under way ----


class Watching:
    """Calls action(), once, when OpenSSL takes the second record after arming."""

    def __init__(self, action: Any) -> None:
        self.action = action
        self.left = 0

    def __call__(self, conn: Any, direction: str, version: Any, kind: Any, *rest: Any) -> None:
        if direction != "read" or getattr(kind, "name", "") != "HEADER" or not self.left:
            return
        self.left -= 1
        if not self.left:
            self.action()


@pytest.mark.parametrize("kind", [Recorder, Buffered])
def test_another_connection_read_within_a_read(run: Any, certs: Certs, kind: Any) -> None:
    """Python code can run inside of OpenSSL: a signal's handler, the collector, a callback."""

    async def main() -> None:
        other = await link(certs, Recorder())
        other.transport.pause_reading()
        await other.peer.write(b"other" * 100)
        await arrived(other.transport)
        watching = Watching(lambda: (other.transport.resume_reading(), other.transport.close()))
        context = certs.client_context()
        context._msg_callback = watching  # type: ignore[attr-defined]
        ends = await pair(certs, kind(), client_context=context)
        await asyncio.sleep(0.01)  # session tickets
        watching.left = 2
        ends.server.transport.writelines([b"a" * 16384, b"b" * 16384])
        assert await ends.client.until_data(32768) == b"a" * 16384 + b"b" * 16384
        assert not watching.left
        assert other.protocol.data == b"other" * 100
        context._msg_callback = None  # type: ignore[attr-defined]
        await other.finish()
        await ends.abort()

    run(main())


def test_the_same_connection_read_within_a_read(run: Any, certs: Certs) -> None:
    """The order is that of asyncio; nothing is lost and nothing is delivered twice."""

    async def main() -> None:
        client = Recorder()
        watching = Watching(lambda: client.transport.close())
        context = certs.client_context()
        context._msg_callback = watching  # type: ignore[attr-defined]
        ends = await pair(certs, client, client_context=context)
        await asyncio.sleep(0.01)
        watching.left = 2
        ends.server.transport.writelines([b"a" * 16384, b"b" * 16384, b"c" * 16384])
        await ends.client.until("lost")
        context._msg_callback = None  # type: ignore[attr-defined]
        got = ends.client.data
        assert {one: got.count(one) for one in (b"a", b"b", b"c")} == {
            one: 16384 if one in got else 0 for one in (b"a", b"b", b"c")
        }
        await ends.abort()

    run(main())


@pytest.mark.parametrize("action", ["close", "write"])
@pytest.mark.parametrize("size", [100, 100_000])
def test_nothing_is_sent_twice(hotrun: Any, certs: Certs, action: str, size: int) -> None:
    """Code that runs inside of a write must not find it in the queue still, as under asyncio."""

    class Writing(ssl.SSLObject):
        armed = False

        def write(self, data: Any) -> int:
            count = super().write(data)
            if Writing.armed:
                Writing.armed = False
                one.transport.close() if action == "close" else one.transport.write(b"second")
            return count

    one: Any = None

    async def main() -> None:
        nonlocal one
        ends = await pair(certs, server_context=contexts[0], client_context=contexts[1])
        one = ends.client
        Writing.armed = True
        one.transport.write(b"x" * size)
        one.transport.close()
        await ends.lost()
        assert ends.server.data == b"x" * size + (b"" if action == "close" else b"second")

    contexts = certs.server_context(), certs.client_context()
    contexts[1].sslobject_class = Writing
    hotrun(main())


# ---- foreign transports ----


class Wire(asyncio.Transport):
    """One end of a pipe in memory.  `how` it delivers what the other end writes: within write(),
    in a later turn, or into a buffer that it asked for one turn before."""

    _start_tls_compatible = True

    def __init__(self, loop: Any, protocol: Any, how: str) -> None:
        super().__init__()
        self._loop, self._protocol, self._how = loop, protocol, how
        self._closing = False
        self._contexts: list[str] = []
        self._sizes: list[int] = []
        self.peer: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Any) -> None:
        self._contexts.append(VAR.get())
        self._sizes.append(len(data))
        if self._closing or self.peer._closing:
            return
        if self._how == "within":
            self.peer._take(bytes(data))
        elif self._how == "later":
            self._loop.call_soon(self.peer._take, bytes(data))
        else:
            self._loop.call_soon(self.peer._ask, bytes(data))

    def _ask(self, data: bytes) -> None:
        if not self._closing:
            self._loop.call_soon(self._fill, self._protocol.get_buffer(len(data)), data)

    def _fill(self, buffer: Any, data: bytes) -> None:
        if not self._closing:
            assert len(buffer) >= len(data)
            buffer[: len(data)] = data
            self._loop.call_soon(self._tell, len(data))

    def _tell(self, count: int) -> None:
        if not self._closing:
            self._protocol.buffer_updated(count)

    def _take(self, data: bytes) -> None:
        if self._closing:
            return
        buffer = self._protocol.get_buffer(len(data))
        buffer[: len(data)] = data
        self._protocol.buffer_updated(len(data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            if not self.peer._closing:
                self._loop.call_soon(self.peer.close)

    def abort(self) -> None:
        self.close()

    def _force_close(self, exc: Any) -> None:
        self.close()


async def wired(certs: Certs, how: str, client: Any = None, server: Any = None) -> Any:
    """TLS ends over a pair of Wires: the two protocols and the two Wires."""
    loop = asyncio.get_running_loop()
    near, far = Wire(loop, None, how), Wire(loop, None, how)
    near.peer, far.peer = far, near
    client, server = client or Recorder(), server or Recorder()
    near._protocol, far._protocol = client, server
    st, ct = await asyncio.gather(
        loop.start_tls(far, server, certs.server_context(), server_side=True),
        loop.start_tls(near, client, certs.client_context(), server_hostname=NAME),
    )
    client.transport, server.transport = ct, st
    return client, server, near, far


WAYS = ["within", "later", "asked before"]


class Answering(Recorder):
    """Answers each byte by one byte, up to ten."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.data) < 10:
            self.transport.write(b"x")


@pytest.mark.parametrize("how", WAYS)
def test_foreign_transport(run: Any, certs: Certs, how: str) -> None:
    async def main() -> None:
        client, server, near, _ = await wired(certs, how, Answering(), Answering())
        client.transport.write(b"x")
        await client.until_data(9)
        await server.until_data(10)
        client.transport.close()
        await client.until("lost")
        await server.until("lost")
        assert near.is_closing()

    run(main())


def test_foreign_transport_sees_writes_as_asyncios(run: Any, certs: Certs) -> None:
    """Each write() at once, in the context and the task of whoever writes."""

    async def main() -> None:
        client, server, near, _ = await wired(certs, "later")
        near._contexts.clear()
        VAR.set("writing")
        for count in range(1, 4):
            client.transport.write(b"x")
            assert len(near._contexts) == count
        assert set(near._contexts) == {"writing"}
        await server.until_data(3)
        client.transport.abort()
        await client.until("lost")
        await server.until("lost")

    run(main())


def test_foreign_transports_keep_their_buffers_apart(run: Any, certs: Certs) -> None:
    """A buffer is the transport's until buffer_updated(), whatever else is received meanwhile."""

    async def main() -> None:
        ends = await asyncio.gather(*(wired(certs, "asked before") for _ in range(5)))
        for number, (client, _, _, _) in enumerate(ends):
            client.transport.write(bytes([number]) * 1000)
        for number, (_, server, _, _) in enumerate(ends):
            assert await server.until_data(1000) == bytes([number]) * 1000
        for client, server, _, _ in ends:
            client.transport.abort()
            await client.until("lost")
            await server.until("lost")

    run(main())


def test_buffer_that_outlives_everything(anyloop: Any, certs: Certs) -> None:
    async def main() -> Any:
        client, server, near, _ = await wired(certs, "later")
        buffer = near.get_protocol().get_buffer(-1)
        client.transport.abort()
        await client.until("lost")
        await server.until("lost")
        return buffer

    buffer = anyloop.run_until_complete(main())
    anyloop.close()
    gc.collect()
    buffer[:] = b"\x01" * len(buffer)
    assert bytes(buffer[-10:]) == b"\x01" * 10


# ---- writes that are held ----


async def records(sock: Any, size: int) -> list[int]:
    """Lengths of the records that come, until they add up to `size` of plaintext (TLS 1.3)."""
    loop = asyncio.get_running_loop()
    data = b""
    while True:
        found, at = [], 0
        while at + 5 <= len(data):
            length = int.from_bytes(data[at + 3 : at + 5], "big")
            found.append(length - 17)  # one byte of type, sixteen of tag
            at += 5 + length
        if at == len(data) and sum(found) >= size:
            return found
        data += await loop.sock_recv(sock, 65536)


@pytest.mark.parametrize("way", ["task", "call_soon", "data_received"])
def test_small_writes_of_one_callback_share_a_record(hotrun: Any, certs: Certs, way: str) -> None:
    one: Any = None

    def write(*args: Any) -> None:
        for _ in range(10):
            one.transport.write(b"0123456789")

    async def main() -> None:
        nonlocal one
        one = await link(certs)
        await asyncio.sleep(0)
        if way == "task":
            write()
        elif way == "call_soon":
            asyncio.get_running_loop().call_soon(write)
        else:
            one.protocol.data_received = write
            await one.peer.write(b"go")
        assert await records(one.peer.sock, 100) == [100]
        await one.finish()

    hotrun(main())


def test_a_write_that_can_change_ends_the_holding(hotrun: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        data = bytearray(b"mutable")
        one.transport.write(b"first")
        one.transport.write(data)
        data[:] = b"changed"
        one.transport.write(b"last")
        found = await records(one.peer.sock, 16)
        assert sum(found) == 16
        await one.finish()

    hotrun(main())


@pytest.mark.parametrize("way", ["abort", "close", "size", "limits", "closing", "info", "settled"])
def test_held_writes_leave_before(run: Any, certs: Certs, way: str) -> None:
    """What write() took is with the kernel before anything else happens."""

    async def main() -> None:
        one = await link(certs)
        t = one.transport
        for _ in range(10):
            t.write(b"0123456789")
        if way == "size":
            assert t.get_write_buffer_size() == 0
        elif way == "limits":
            t.set_write_buffer_limits(high=10)
        elif way == "closing":
            assert not t.is_closing()
        elif way == "info":
            assert t.get_extra_info("sockname")
        elif way in ("abort", "close"):
            getattr(t, way)()
        assert await one.peer.read(100) == b"0123456789" * 10
        await one.finish()

    run(main())


async def on_plain(certs: Certs, server: Any) -> tuple[Any, Any]:
    """A TLS transport made by start_tls() and the stream transport below it."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    below, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    upper, _ = await asyncio.gather(
        loop.start_tls(below, asyncio.Protocol(), certs.client_context(), server_hostname=NAME),
        loop.connect_accepted_socket(lambda: server, far, ssl=certs.server_context()),
    )
    return upper, below


def test_closed_by_the_report_of_a_write_that_close_sends(run: Any, certs: Certs) -> None:
    """As if write() had sent it: the close() that comes afterwards is the second one."""

    below: Any = None

    def fail(data: bytes) -> None:
        del below.write
        raise Boom

    async def main() -> None:
        nonlocal below
        server = Recorder()
        upper, below = await on_plain(certs, server)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: upper.close())
        below.write = fail
        upper.write(b"data")
        upper.close()
        with pytest.raises(AttributeError):
            upper.get_protocol()
        await server.until("lost")

    run(main())


@pytest.mark.parametrize("size", [1000, 20_000])
def test_resume_writing_in_the_context_of_small_writes(run: Any, certs: Certs, size: int) -> None:
    """Held or not, a write has the context of who writes."""

    class InContext(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.seen: dict[str, str] = {}

        def note(self, name: str, *what: Any) -> None:
            self.seen[name] = VAR.get()
            super().note(name, *what)

    async def main() -> None:
        VAR.set("connecting")
        one = await link(certs, InContext())
        one.transport.set_write_buffer_limits(high=size * 4)

        async def write() -> int:
            VAR.set("writing")
            total = 0
            while "pause" not in one.protocol.events:
                for _ in range(3):
                    one.transport.write(bytes(size))
                    total += size
                await asyncio.sleep(0)
            return total

        total = await asyncio.create_task(write())
        await one.peer.read(total)
        await one.protocol.until("resume")
        assert one.protocol.seen["pause"] == "writing"
        assert one.protocol.seen["resume"] == ("connecting" if ONE_CONTEXT else "writing")
        await one.finish()

    run(main())


# ---- which methods are called ----


@pytest.mark.parametrize("method", ["read", "write", "do_handshake", "unwrap"])
def test_method_put_into_sslobject(run: Any, certs: Certs, monkeypatch: Any, method: str) -> None:
    """Whoever replaces a method of ssl.SSLObject itself sees its calls."""
    called = []
    original = getattr(ssl.SSLObject, method)

    def noted(self: Any, *args: Any) -> Any:
        called.append(self)
        return original(self, *args)

    async def main() -> None:
        monkeypatch.setattr(ssl.SSLObject, method, noted)
        ends = await pair(certs)
        ends.client.transport.write(b"data")
        await ends.server.until_data(4)
        client = ends.client.transport.get_extra_info("ssl_object")
        ends.client.transport.close()
        await ends.lost()
        assert client in called

    run(main())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost"])
def test_method_put_into_a_protocol(run: Any, certs: Certs, method: str, when: str) -> None:
    called: list[Any] = []
    original: Any = None

    def noted(*args: Any) -> Any:
        called.append(args)
        return original(*args)

    async def main() -> None:
        nonlocal original
        client = Recorder()
        original = getattr(client, method)
        if when == "before":
            setattr(client, method, noted)
        ends = await pair(certs, client)
        setattr(client, method, noted)
        ends.server.transport.write(b"data")
        await client.until_data(4)
        ends.server.transport.close()
        await ends.lost()
        assert len(called) == 1

    run(main())


@pytest.mark.parametrize("method", ["write", "pause_reading", "_force_close"])
def test_method_put_into_the_transport_below(run: Any, certs: Certs, method: str) -> None:
    called: list[Any] = []
    original: Any = None

    def noted(*args: Any) -> Any:
        called.append(args)
        return original(*args)

    async def main() -> None:
        nonlocal original
        server = Recorder()
        client, below = await on_plain(certs, server)
        original = getattr(below, method)
        setattr(below, method, noted)
        if method == "pause_reading":
            client.pause_reading()
            client.set_read_buffer_limits(high=1)
            server.transport.write(b"data")
            await arrived(client)
            client.resume_reading()
        client.write(b"data")
        await server.until_data(4)
        client.abort()
        await server.until("lost")
        assert called or method == "_force_close"  # abort(), in some versions
        below = None  # its attribute refers to it

    run(main())


# ---- memory ----


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


HELLO = bytes.fromhex("1603010200010001fc0303")  # the beginning of a client's first record


@pytest.mark.parametrize("end", ["reset", "garbage", "half"])
def test_2000_aborted_handshakes(hotrun: Any, certs: Certs, end: str) -> None:
    """A peer that never proves who it is costs nothing that stays."""

    async def one(context: Any) -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        task = loop.create_task(loop.connect_accepted_socket(Recorder, near, ssl=context))
        await asyncio.sleep(0)
        if end != "reset":
            far.send(b"GET / HTTP/1.0\r\n\r\n" if end == "garbage" else HELLO)
        far.close()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await task
        near.close()

    async def main() -> None:
        context = certs.server_context()
        sizes = []
        for _ in range(5):
            for _ in range(400):
                await one(context)
            await asyncio.sleep(0)
            sizes.append((objects(), descriptors(), resident()))
        found, files, memory = zip(*sizes[1:], strict=True)
        assert files[-1] <= files[0]
        assert found[-1] <= found[0] + 50
        assert SANITIZED or memory[-1] <= memory[0] + (
            1 << 20
        )  # 1,200 of them: less than 900 bytes each

    hotrun(main())


def test_connection_goes_without_the_collector(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(b"data")
        await ends.server.until_data(4)
        await ends.close()
        for _ in range(3):
            await asyncio.sleep(0)
        found = {
            "protocol": weakref.ref(ends.client),
            "transport": weakref.ref(ends.client.transport),
            "server's transport": weakref.ref(ends.server.transport),
            "ssl object": weakref.ref(ends.client.transport.get_extra_info("ssl_object")),
        }
        del ends
        assert [name for name, one in found.items() if one() is not None] == []

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
