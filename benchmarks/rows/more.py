"""Rows beside the table: what else a change may slow down. `make bench` runs them if asked to."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
from itertools import repeat
from typing import Any

from rows.registry import Spent, begin, row, since
from rows.streams import echo_lines, handlers_end, readline_round_trips
from rows.tls import client_context, server_context
from rows.traffic import udp
from rows.transports import port_of

GROUP = "more"


async def lines_on_new_connections(count: int, serving: Any, asking: Any) -> Spent:
    """A connection through streams, with these contexts of TLS or None; a line each way; closed."""
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0, ssl=serving)
    port = port_of(server)
    start = begin()
    for _ in repeat(None, count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=asking)
        writer.write(b"hello\n")
        await reader.readline()
        writer.close()
        await writer.wait_closed()
    spent = since(start)
    server.close()
    await handlers_end()
    return spent


@row(GROUP, "open_connection", "open_connection", 500)
async def open_connection(count: int) -> Spent:
    """A connection through streams, a line each way, closed."""
    return await lines_on_new_connections(count, None, None)


@row(GROUP, "tls_handshake", "TLS handshake", 100)
async def tls_handshake(count: int) -> Spent:
    """A TLS connection through streams, a line each way, closed."""
    return await lines_on_new_connections(count, server_context(), client_context())


@row(GROUP, "bulk_streams", "bulk 64 MiB, streams", 64)
async def bulk_streams(count: int) -> Spent:
    """A MiB of 64 from a StreamWriter with drain() into a StreamReader."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 18):
            pass
        writer.close()
        done.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    chunk = bytes(1 << 18)
    start = begin()
    for _ in range(count * 4):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
    await done
    spent = since(start)
    writer.close()
    server.close()
    await handlers_end()
    return spent


@row(GROUP, "udp_512_x50", "UDP 512 B, 50 under way", 20_000)
async def udp_burst(count: int) -> Spent:
    """A datagram there and back, fifty under way at a time."""
    return await udp(count, 512, 50)


@row(GROUP, "streams_readline_x1", "streams readline, 1 at a time", 5_000)
async def readline_one(count: int) -> Spent:
    """A line of 100 bytes there and back through readline(), one under way at a time."""
    return await readline_round_trips(count, 1)


class _Bounce(asyncio.Protocol):
    """Sends on what comes out of one pipe into another, and counts the rounds."""

    def __init__(self, rounds: int, done: asyncio.Future[None]) -> None:
        self.rounds = rounds
        self.done = done
        self.out: asyncio.WriteTransport

    def data_received(self, data: bytes) -> None:
        self.rounds -= 1
        if self.rounds > 0:
            self.out.write(data)
        elif not self.done.done():
            self.done.set_result(None)


@row(GROUP, "pipe_1k", "pipe 1 KiB", 10_000)
async def pipe_pass(count: int) -> Spent:
    """A message through a pipe, both ends on this loop."""
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    done = loop.create_future()
    bounce = _Bounce(count, done)
    source, _ = await loop.connect_read_pipe(lambda: bounce, io.FileIO(r, "r"))
    bounce.out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, io.FileIO(w, "w"))
    start = begin()
    bounce.out.write(b"x" * 1024)
    await done
    spent = since(start)
    bounce.out.close()
    source.close()
    return spent


class _Count(asyncio.Protocol):
    """Takes a number of bytes."""

    def __init__(self, expected: int, done: asyncio.Future[None]) -> None:
        self.left = expected
        self.done = done

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left <= 0 and not self.done.done():
            self.done.set_result(None)


@row(GROUP, "sendfile", "sendfile", 64)
async def sendfile(count: int) -> Spent:
    """A MiB of a file, sent and received."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    server = await loop.create_server(lambda: _Count(count << 20, done), "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port_of(server))
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1 << 20))
        file.flush()
        start = begin()
        for _ in repeat(None, count):
            await loop.sendfile(transport, file, fallback=False)
        await done
        spent = since(start)
    transport.close()
    server.close()
    return spent
