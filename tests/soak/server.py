"""The serving process of a soak: `server.py LOOP CERT FOLDER`; SIGTERM ends it."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from typing import Any

from soaklib import BULK, ECHO, HALF, HEADER, HOLD, TORN, Books, Content, Wrong, run, say

CHUNK = 16384
TORN_ENDS = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)


class Held(asyncio.Protocol):
    """A connection served by callbacks: HOLD, ECHO and TORN."""

    def __init__(self, books: Books, open_ones: set[Held]) -> None:
        self.books = books
        self.open_ones = open_ones
        self.head = b""
        self.kind = b""
        self.left = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.open_ones.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.kind:
            self.head += data
            if len(self.head) < HEADER.size:
                return
            self.ident, self.kind, self.left = HEADER.unpack_from(self.head)
            data = self.head[HEADER.size :]
            self.came, self.goes = Content(self.ident, "up"), Content(self.ident, "down")
        if data:
            self.books.check(self.came, data, f"server, stream {self.ident}")
            self.left -= len(data)
            if self.kind != HALF:
                self.transport.write(self.goes.take(len(data)))
            if self.left == 0 and self.kind == ECHO:
                self.transport.close()

    def eof_received(self) -> bool:
        if self.kind == HALF and self.left == 0:
            self.transport.write(self.goes.take(self.came.at))
        self.transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_ones.discard(self)
        if self.kind in (ECHO, HALF) and self.left != 0:
            self.books.error(f"server: stream {self.ident} ended {self.left} early: {exc!r}")
        if self.kind == HOLD and exc is not None:
            self.books.error(f"server: held stream {self.ident} was lost: {exc!r}")
        self.books.done["served"] += 1


class Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram with as many bytes of the other direction."""

    def __init__(self, books: Books) -> None:
        self.books = books

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        ident, _, length = HEADER.unpack_from(data)
        body = data[HEADER.size :]
        if len(body) != length:
            self.books.error(f"server: a datagram of {len(body)} bytes, sent were {length}")
        self.books.check(Content(ident, "up"), body, f"server, datagram {ident}")
        self.transport.sendto(data[: HEADER.size] + Content(ident, "down").take(length), addr)
        self.books.done["datagrams"] += 1


async def serve_stream(books: Books, reader: Any, writer: Any) -> None:
    kind = b""
    try:
        ident, kind, length = HEADER.unpack(await reader.readexactly(HEADER.size))
        came, goes = Content(ident, "up"), Content(ident, "down")
        if kind == BULK:
            while length:
                n = min(length, CHUNK)
                writer.write(goes.take(n))
                await writer.drain()
                length -= n
        if kind == HALF:
            while data := await reader.read(CHUNK):
                books.check(came, data, f"server, stream {ident}")
            if came.at != length:
                books.error(f"server: stream {ident} ended at {came.at} of {length}")
            writer.write(goes.take(length))
        while kind == HOLD or (kind in (ECHO, TORN) and length):
            data = await reader.read(CHUNK)
            if not data:
                break
            books.check(came, data, f"server, stream {ident}")
            length -= len(data)
            writer.write(goes.take(len(data)))
            await writer.drain()
        if kind == ECHO and length:
            books.error(f"server: stream {ident} ended {length} early")
        books.done["served"] += 1
    except TORN_ENDS as exc:
        # One that was torn before its header came is not told from the others.
        if kind in (ECHO, HALF, HOLD):
            books.error(f"server: stream {ident} broke: {exc!r}")
        books.done["torn"] += 1
    except Wrong:
        pass
    finally:
        writer.close()


async def main(books: Books) -> None:
    cert, folder = sys.argv[2:4]
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    open_ones: set[Held] = set()
    tasks: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    books.gauges["held"] = lambda: len(open_ones)

    async def serve(reader: Any, writer: Any) -> None:
        task: Any = asyncio.current_task()
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await serve_stream(books, reader, writer)

    unix = f"{folder}/{sys.argv[1]}.sock"
    held = await loop.create_server(lambda: Held(books, open_ones), "127.0.0.1", 0, backlog=4096)
    servers = [
        held,
        await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024),
        await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, ssl=context),
        await asyncio.start_unix_server(serve, unix, backlog=1024),
    ]
    udp, _ = await loop.create_datagram_endpoint(lambda: Datagrams(books), ("127.0.0.1", 0))
    ports = [one.sockets[0].getsockname()[1] for one in servers[:3]]
    ports.append(udp.get_extra_info("sockname")[1])
    say(
        kind="ready",
        ports=dict(zip(("held", "plain", "tls", "udp"), ports, strict=True)),
        unix=unix,
    )
    await stop.wait()
    for one in servers:
        one.close()
    udp.close()
    for protocol in list(open_ones):
        protocol.transport.abort()
    if tasks:
        await asyncio.wait(set(tasks), timeout=60)
    for task in list(tasks):
        books.error(f"server: still served at the end: {task!r}")
    for one in servers:
        await one.wait_closed()
    await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(run(main, f"server on {sys.argv[1]}", sys.argv[1]))
