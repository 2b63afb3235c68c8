"""asyncio's streams, both ends on the measured loop."""

from __future__ import annotations

import asyncio
from itertools import repeat

from rows.registry import Spent, begin, row, since
from rows.transports import GROUP, KIB, port_of


async def echo_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def handlers_end() -> None:
    """Until the servers' handlers have seen the ends of their connections.

    What a runner would have to cancel, streams of 3.12 report as an error.
    """
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)


@row(GROUP, "streams_1k", "streams 1 KiB", 6_000, ("tcp", "1024", "1", "1"))
async def streams_1k(count: int) -> Spent:
    """A round trip: read() at the server, readexactly() at the client."""
    server = await asyncio.start_server(echo_reads, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    message = b"x" * KIB
    start = begin()
    for _ in repeat(None, count):
        writer.write(message)
        await reader.readexactly(KIB)
    spent = since(start)
    writer.close()
    server.close()
    await handlers_end()
    return spent


async def readline_round_trips(count: int, window: int) -> Spent:
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    lines = (b"x" * 99 + b"\n") * window
    start = begin()
    for _ in range(0, count, window):
        writer.write(lines)
        for _ in repeat(None, window):
            await reader.readline()
    spent = since(start)
    writer.close()
    server.close()
    await handlers_end()
    return spent


@row(GROUP, "streams_readline", "streams readline", 20_000)
async def streams_readline(count: int) -> Spent:
    """A line of 100 bytes there and back through readline(), fifty under way at a time."""
    return await readline_round_trips(count, 50)
