"""A server that runs out of descriptors, again and again: `exhaust.py LOOP SECONDS`.

It has few descriptors, and its clients are sockets of the same process, which take what there
is: accept() fails, and so does a connection of the loop's own. After each round all are closed,
every descriptor comes back, and the loop serves again.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from typing import Any

from soaklib import Books, Content, open_descriptors, run

LIMIT = 64
OUT = "socket.accept() out of system resource"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def use_one(books: Books, port: int, ident: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = Content(ident, "up")
    data = content.take(5000)
    writer.write(data)
    books.check(Content(ident, "up"), await reader.readexactly(len(data)), f"exhaust, {ident}")
    writer.close()
    await writer.wait_closed()


def take_all(port: int) -> list[socket.socket]:
    """Connects without waiting until there is no descriptor left."""
    taken = []
    try:
        while True:
            one = socket.socket()
            taken.append(one)
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
    except OSError:
        return taken


async def main(books: Books) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    loop = asyncio.get_running_loop()
    reported = 0

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal reported
        reported += 1
        if context.get("message") != OUT:
            books.handler(loop, context)

    loop.set_exception_handler(handler)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await use_one(books, port, 0)
    before = open_descriptors()
    end = time.monotonic() + float(sys.argv[2])
    number = 0
    while time.monotonic() < end:
        number += 1
        seen = reported
        taken = take_all(port)
        while reported == seen:  # accept() has failed
            await asyncio.sleep(0.05)
        try:
            await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            pass
        else:
            books.error("exhaust: a connection without a descriptor")
        for one in taken:
            one.close()
        del taken
        async with asyncio.timeout(120):
            await use_one(books, port, number)
            while open_descriptors() > before:
                await asyncio.sleep(0.05)
        books.done["exhausted"] += 1
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    sys.exit(run(main, f"exhaust on {sys.argv[1]}", sys.argv[1]))
