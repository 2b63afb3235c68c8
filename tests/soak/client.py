"""A process of clients: `client.py LOOP CERT SECONDS HOLD SEED SERVER`, the server as its JSON."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Any

from soaklib import BULK, ECHO, HALF, HEADER, HOLD, TORN, Books, Content, run

ROUND = 60.0  # seconds in which every held connection is used once
PATIENCE = 240.0  # a machine may be slow; what takes longer hangs
TLS_EACH = 50  # of the held ones: each is over TLS
CHURN = 24  # short connections at a time
OPENING = 64  # held ones opened at a time
LINGER = struct.pack("ii", 1, 0)


class HeldClient(asyncio.Protocol):
    def __init__(self, books: Books, ident: int) -> None:
        self.books, self.ident = books, ident
        self.goes, self.comes = Content(ident, "up"), Content(ident, "down")
        self.owed = 0
        self.asked = 0.0
        self.ending = False
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(HEADER.pack(self.ident, HOLD, 0))

    def ping(self, size: int) -> None:
        if self.owed and time.monotonic() - self.asked > PATIENCE:
            self.books.error(f"client: held stream {self.ident} owes {self.owed} bytes")
        if not self.owed:
            self.asked = time.monotonic()
        self.owed += size
        self.transport.write(self.goes.take(size))

    def data_received(self, data: bytes) -> None:
        self.books.check(self.comes, data, f"client, held stream {self.ident}")
        self.owed -= len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ending:
            self.books.error(f"client: held stream {self.ident} was lost: {exc!r}")


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, books: Books) -> None:
        self.books = books
        self.sent: dict[int, int] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        ident, _, length = HEADER.unpack_from(data)
        if self.sent.pop(ident, -1) != length or len(data) - HEADER.size != length:
            self.books.error(f"client: a datagram {ident} of {len(data)} bytes that nobody sent")
        self.books.check(Content(ident, "down"), data[HEADER.size :], f"client, datagram {ident}")


class Client:
    def __init__(self, books: Books, cert: str, server: dict[str, Any], seed: int) -> None:
        self.books = books
        self.ports, self.unix = server["ports"], server["unix"]
        self.random = random.Random(seed)
        self.next = seed << 40
        self.context = ssl.create_default_context(cafile=cert)
        self.held: list[HeldClient] = []
        self.over = False

    def ident(self) -> int:
        self.next += 1
        return self.next

    def size(self, most: int) -> int:
        return int(most ** self.random.random())

    async def open(self, way: str, **how: Any) -> Any:
        if way == "unix":
            return await asyncio.open_unix_connection(self.unix, **how)
        if way == "tls":
            how |= {"ssl": self.context, "server_hostname": "localhost"}
        return await asyncio.open_connection("127.0.0.1", self.ports[way], **how)

    async def read(self, reader: Any, content: Content, n: int, ident: int) -> None:
        while n:
            data = await reader.read(min(n, 65536))
            if not data:
                raise EOFError(f"stream {ident} ended {n} bytes early")
            self.books.check(content, data, f"client, stream {ident}")
            n -= len(data)

    # ---- kinds of load, each one connection or piece of work ----

    async def echo(self) -> None:
        way = self.random.choice(["held", "plain", "tls", "unix"])
        ident, length = self.ident(), self.size(200_000)
        goes, comes = Content(ident, "up"), Content(ident, "down")
        reader, writer = await self.open(way)
        try:
            writer.write(HEADER.pack(ident, ECHO, length))
            left = length
            while left:
                n = min(left, self.size(50_000))
                writer.write(goes.take(n))
                await writer.drain()
                await self.read(reader, comes, n, ident)
                left -= n
            if await reader.read() != b"":
                self.books.error(f"client: bytes after the end of stream {ident}")
        finally:
            writer.close()
            await writer.wait_closed()

    async def slow_reader(self) -> None:
        ident, length = self.ident(), self.size(1_500_000)
        comes = Content(ident, "down")
        reader, writer = await self.open(self.random.choice(["plain", "tls", "unix"]), limit=4096)
        try:
            writer.write(HEADER.pack(ident, BULK, length))
            while length:
                n = min(length, 1 + self.size(200_000))
                await self.read(reader, comes, n, ident)
                await asyncio.sleep(self.random.random() * 0.02)
                length -= n
            if await reader.read() != b"":
                self.books.error(f"client: bytes after the end of stream {ident}")
        finally:
            writer.close()
            await writer.wait_closed()

    async def half_closed(self) -> None:
        """All goes, then an EOF; all comes back only then."""
        ident, length = self.ident(), self.size(300_000)
        goes, comes = Content(ident, "up"), Content(ident, "down")
        reader, writer = await self.open(self.random.choice(["held", "plain", "unix"]))
        try:
            writer.write(HEADER.pack(ident, HALF, length))
            writer.write(goes.take(length))
            writer.write_eof()
            await self.read(reader, comes, length, ident)
            if await reader.read() != b"":
                self.books.error(f"client: bytes after the end of stream {ident}")
        finally:
            writer.close()
            await writer.wait_closed()

    async def torn(self) -> None:
        """Reset in the middle: what came until then must be right."""
        ident = self.ident()
        goes, comes = Content(ident, "up"), Content(ident, "down")
        reader, writer = await self.open(self.random.choice(["held", "plain", "tls", "unix"]))
        writer.write(HEADER.pack(ident, TORN, 1_000_000))
        writer.write(goes.take(self.size(100_000)))
        with contextlib.suppress(ConnectionError):
            self.books.check(comes, await reader.read(self.size(10_000)), f"torn stream {ident}")
        sock = writer.get_extra_info("socket")
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def cancelled(self) -> None:
        """A task that is cancelled at any moment of its connection's life."""
        task = asyncio.create_task(self.hangs())
        await asyncio.sleep(self.random.random() ** 3 * 0.3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def hangs(self) -> None:
        ident = self.ident()
        reader, writer = await self.open(self.random.choice(["plain", "tls", "unix"]))
        try:
            writer.write(HEADER.pack(ident, TORN, 1 << 30))
            async with asyncio.timeout(PATIENCE):
                await reader.readexactly(1)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def aborted_handshake(self) -> None:
        """A part of a genuine ClientHello, or bytes that are none, and then the end."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        cut = self.random.randrange(len(hello))
        data = hello[:cut] + self.random.randbytes(self.random.choice([0, 0, 1, 300]))
        _, writer = await asyncio.open_connection("127.0.0.1", self.ports["tls"])
        writer.write(data)
        await asyncio.sleep(self.random.random() * 0.05)
        if self.random.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def datagrams(self) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(self.books), remote_addr=("127.0.0.1", self.ports["udp"])
        )
        burst = 1 + self.size(100)
        for _ in range(burst):
            ident, length = self.ident(), self.size(1400)
            protocol.sent[ident] = length
            body = Content(ident, "up").take(length)
            transport.sendto(HEADER.pack(ident, ECHO, length) + body)
        end = time.monotonic() + 1.0  # what the kernel drops does not come
        while protocol.sent and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.books.done["datagrams"] += burst - len(protocol.sent)
        self.books.done["datagrams dropped"] += len(protocol.sent)
        transport.close()

    async def child(self) -> None:
        data = Content(self.ident(), "up").take(self.size(100_000))
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        if self.random.random() < 0.2:
            process.kill()
            await process.communicate()
            if await process.wait() != -signal.SIGKILL:
                self.books.error(f"client: a killed child gave {process.returncode}")
            return
        out, _ = await process.communicate(data)
        self.books.bytes += len(out)
        if out != data or process.returncode != 0:
            self.books.error(f"client: a child gave {len(out)} bytes, {process.returncode}")

    async def executor(self) -> None:
        loop = asyncio.get_running_loop()
        data = os.urandom(self.size(100_000))
        digest = await loop.run_in_executor(None, lambda: hashlib.sha256(data).digest())
        if digest != hashlib.sha256(data).digest():
            self.books.error("client: another's result from the executor")

    async def thread(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set))
        thread.start()
        await done.wait()
        thread.join()

    async def own_signal(self) -> None:
        before = self.books.done["signals"]
        os.kill(os.getpid(), signal.SIGUSR1)
        while self.books.done["signals"] == before:
            await asyncio.sleep(0.01)

    # ---- how often, and how long ----

    KINDS = {
        "echo": 40,
        "slow_reader": 8,
        "half_closed": 8,
        "torn": 10,
        "cancelled": 10,
        "aborted_handshake": 6,
        "datagrams": 6,
        "child": 1,
        "executor": 6,
        "thread": 3,
        "own_signal": 2,
    }

    async def churn(self) -> None:
        names, weights = list(self.KINDS), list(self.KINDS.values())
        while not self.over:
            name = self.random.choices(names, weights)[0]
            try:
                async with asyncio.timeout(PATIENCE):
                    await getattr(self, name)()
                self.books.done[name] += 1
            except Exception as exc:
                self.books.error(f"client: {name}: {exc!r}")
            await asyncio.sleep(self.random.random() * 0.1)

    async def hold_one(self, room: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        async with room:
            ident = self.ident()
            tls = ident % TLS_EACH == 0
            _, protocol = await loop.create_connection(
                lambda: HeldClient(self.books, ident),
                "127.0.0.1",
                self.ports["tls" if tls else "held"],
                ssl=self.context if tls else None,
                server_hostname="localhost" if tls else None,
            )
            self.held.append(protocol)

    async def hold(self, count: int) -> None:
        room = asyncio.Semaphore(OPENING)
        for start in range(0, count, 500):
            some = min(500, count - start)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(self.hold_one(room) for _ in range(some)))
        self.books.done["held"] = len(self.held)

    async def use_held(self) -> None:
        """Every held connection once a round, at an even pace."""
        at = 0
        while self.held and not self.over:
            n = max(1, int(len(self.held) * 0.1 / ROUND))
            for _ in range(n):
                one = self.held[at % len(self.held)]
                at += 1
                if not one.lost:
                    one.ping(1 + self.size(2000))
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        limit = time.monotonic() + PATIENCE
        while any(one.owed for one in self.held) and time.monotonic() < limit:
            await asyncio.sleep(0.1)
        # A sample may be due while they close, and that is no loss.
        kept = sum(not one.lost for one in self.held)
        self.books.gauges["held"] = lambda: kept
        for one in self.held:
            if one.owed:
                self.books.error(f"client: held stream {one.ident} ended with {one.owed} owed")
            one.ending = True
            one.transport.close()
        while any(not one.lost for one in self.held) and time.monotonic() < limit:
            await asyncio.sleep(0.1)
        self.held.clear()


async def main(books: Books) -> None:
    cert, seconds, hold, seed, server = sys.argv[2:7]
    client = Client(books, cert, json.loads(server), int(seed))
    books.gauges["held"] = lambda: sum(not one.lost for one in client.held)
    begin = time.monotonic()
    churns = [asyncio.create_task(client.churn()) for _ in range(CHURN)]
    await client.hold(int(hold))
    pinger = asyncio.create_task(client.use_held())
    await asyncio.sleep(max(0.0, float(seconds) - (time.monotonic() - begin)))
    client.over = True
    await asyncio.gather(*churns, pinger)
    books.sample()
    await client.end()


if __name__ == "__main__":
    sys.exit(run(main, f"client on {sys.argv[1]}", sys.argv[1]))
