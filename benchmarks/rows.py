"""The rows of the comparison: each is one measured piece of work on a given loop.

A row is called with the loop's factory and a count, and returns the seconds that `count`
operations took. What is measured is inside the running loop; making and closing it is not.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Work = Callable[[int], Coroutine[Any, Any, float]]


@dataclass(frozen=True)
class Row:
    """A row: what one operation is, and how many make one round."""

    name: str
    count: int
    work: Work


ROWS: dict[str, Row] = {}


def row(name: str, count: int) -> Callable[[Work], Work]:
    """Register a coroutine function, which returns the seconds its count took."""

    def register(work: Work) -> Work:
        ROWS[name] = Row(name, count, work)
        return work

    return register


async def _nothing() -> None:
    pass


def _noop() -> None:
    pass


@row("call_soon", 50_000)
async def call_soon(count: int) -> float:
    """Schedule and run callbacks, a thousand a turn."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(count // 1000):
        for _ in range(1000):
            loop.call_soon(_noop)
        await asyncio.sleep(0)
    return time.perf_counter() - start


@row("call_soon chain", 30_000)
async def call_soon_chain(count: int) -> float:
    """A callback that schedules itself: one a turn."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    start = time.perf_counter()
    loop.call_soon(step)
    await done
    return time.perf_counter() - start


@row("call_soon_threadsafe", 50_000)
async def call_soon_threadsafe(count: int) -> float:
    """The same from the loop's own thread, a thousand a turn."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(count // 1000):
        for _ in range(1000):
            loop.call_soon_threadsafe(_noop)
        await asyncio.sleep(0)
    return time.perf_counter() - start


@row("call_later+cancel", 30_000)
async def call_later_cancel(count: int) -> float:
    """A time limit that is never reached."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(count // 100):
        handles = [loop.call_later(60, _noop) for _ in range(100)]
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(0)
    return time.perf_counter() - start


@row("sleep(0)", 30_000)
async def sleep_zero(count: int) -> float:
    """Give way to the loop for a turn."""
    start = time.perf_counter()
    for _ in range(count):
        await asyncio.sleep(0)
    return time.perf_counter() - start


@row("create-and-await", 20_000)
async def create_and_await(count: int) -> float:
    """Make a task of a coroutine that returns at once, and await it."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(count):
        await loop.create_task(_nothing())
    return time.perf_counter() - start


@row("gather 1000", 20_000)
async def gather(count: int) -> float:
    """Per coroutine gathered."""
    start = time.perf_counter()
    for _ in range(count // 1000):
        await asyncio.gather(*[_nothing() for _ in range(1000)])
    return time.perf_counter() - start


@row("ping-pong", 20_000)
async def ping_pong(count: int) -> float:
    """Two tasks that wake each other through futures; per wake-up."""
    loop = asyncio.get_running_loop()
    ball = [loop.create_future(), loop.create_future()]

    async def player(mine: int) -> None:
        for _ in range(count // 2):
            await ball[mine]
            ball[mine] = loop.create_future()
            ball[1 - mine].set_result(None)

    players = [loop.create_task(player(0)), loop.create_task(player(1))]
    await asyncio.sleep(0)
    start = time.perf_counter()
    ball[0].set_result(None)
    await asyncio.gather(*players)
    return time.perf_counter() - start


# ---- echo: the client is a process of its own, with blocking sockets ----------------------

_CLIENT = """
import socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
message = b"x" * 1024
with socket.create_connection(("127.0.0.1", port)) as s:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def round_trip():
        s.send(message)
        got = 0
        while got < len(message):
            got += len(s.recv(65536))
    for _ in range(100):
        round_trip()
    start = time.perf_counter()
    for _ in range(count):
        round_trip()
    print(time.perf_counter() - start)
"""


async def _drive(server: asyncio.Server, count: int) -> float:
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    client = subprocess.Popen(
        [sys.executable, "-S", "-c", _CLIENT, str(port), str(count)], stdout=subprocess.PIPE
    )
    output, _ = await loop.run_in_executor(None, client.communicate)
    server.close()
    return float(output)


class _Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@row("echo 1 KiB", 5_000)
async def echo_protocol(count: int) -> float:
    """Round trips over loopback TCP, the server a Protocol."""
    loop = asyncio.get_running_loop()
    return await _drive(await loop.create_server(_Echo, "127.0.0.1", 0), count)


async def _echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@row("echo 1 KiB streams", 5_000)
async def echo_streams(count: int) -> float:
    """The same with asyncio.start_server()."""
    return await _drive(await asyncio.start_server(_echo_streams, "127.0.0.1", 0), count)


class _Greet(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"!")  # type: ignore[attr-defined]


@row("connect+greet", 500)
async def connect_greet(count: int) -> float:
    """A connection over loopback TCP, accepted and greeted with a byte."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Greet, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    def connect() -> float:
        start = time.perf_counter()
        for _ in range(count):
            with socket.create_connection(address) as client:
                client.recv(1)
        return time.perf_counter() - start

    seconds = await loop.run_in_executor(None, connect)
    server.close()
    return seconds


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


@row("pipe 1 KiB", 10_000)
async def pipe_pass(count: int) -> float:
    """A message through a pipe, both ends on this loop."""
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    done = loop.create_future()
    bounce = _Bounce(count, done)
    source, _ = await loop.connect_read_pipe(lambda: bounce, io.FileIO(r, "r"))
    bounce.out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, io.FileIO(w, "w"))
    start = time.perf_counter()
    bounce.out.write(b"x" * 1024)
    await done
    seconds = time.perf_counter() - start
    bounce.out.close()
    source.close()
    return seconds


@row("spawn", 100)
async def spawn(count: int) -> float:
    """A child process, from its start to the end of communicate()."""
    start = time.perf_counter()
    for _ in range(count):
        child = await asyncio.create_subprocess_exec("/bin/true", stdout=subprocess.PIPE)
        await child.communicate()
    return time.perf_counter() - start


_UDP_CLIENT = """
import socket, sys, time
port, count, window = map(int, sys.argv[1:])
message = b"x" * 64
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect(("127.0.0.1", port))
    s.settimeout(10)
    def round_trips():
        for _ in range(window):
            s.send(message)
        for _ in range(window):
            s.recv(100)
    round_trips()
    start = time.perf_counter()
    for _ in range(count // window):
        round_trips()
    print(time.perf_counter() - start)
"""


class _EchoDatagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def _drive_udp(count: int, window: int) -> float:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_EchoDatagrams, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    command = [sys.executable, "-S", "-c", _UDP_CLIENT, str(port), str(count), str(window)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    output, _ = await loop.run_in_executor(None, client.communicate)
    transport.close()
    await asyncio.sleep(0)
    return float(output)


@row("udp echo", 5_000)
async def udp_echo(count: int) -> float:
    """Round trips of small datagrams, one under way at a time."""
    return await _drive_udp(count, 1)


@row("udp echo x50", 10_000)
async def udp_echo_burst(count: int) -> float:
    """The same with fifty under way: how fast datagrams that are there already are taken."""
    return await _drive_udp(count, 50)


def measure(work: Work, factory: LoopFactory, count: int) -> float:
    """Seconds of one round on a new loop."""
    with asyncio.Runner(loop_factory=factory) as runner:
        result: float = runner.run(_as_coroutine(work(count)))
        return result


async def _as_coroutine(awaitable: Awaitable[float]) -> float:
    return await awaitable
