"""The rows of the comparison: each is one measured piece of work on a given loop.

A row is called with the loop's factory and a count, and returns the seconds that `count`
operations took. What is measured is inside the running loop; making and closing it is not.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
import subprocess
import sys
import tempfile
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
kind, address, size, count, line = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
message = b"x" * (size - line) + b"\\n" * line
if kind == "unix":
    s = socket.socket(socket.AF_UNIX)
    s.connect(address)
else:
    s = socket.create_connection(("127.0.0.1", int(address)))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if kind == "tls":
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    s = context.wrap_socket(s)
s.settimeout(30)
def round_trip():
    s.sendall(message)
    got = 0
    while got < size:
        some = len(s.recv(262144))
        if not some:
            raise SystemExit("the server hung up")
        got += some
for _ in range(min(count, 100)):
    round_trip()
start = time.perf_counter()
for _ in range(count):
    round_trip()
print(time.perf_counter() - start)
s.close()
"""


async def _ask(script: str, *args: object) -> float:
    """What a client program prints: its seconds. It runs while the loop serves it."""
    command = [sys.executable, "-S", "-c", script, *map(str, args)]
    loop = asyncio.get_running_loop()
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    output, _ = await loop.run_in_executor(None, client.communicate)
    if client.returncode:
        raise RuntimeError("the client failed")
    return float(output)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _drive(
    server: asyncio.Server,
    count: int,
    kind: str = "tcp",
    size: int = 1024,
    address: str | None = None,
    line: bool = False,
) -> float:
    where = port_of(server) if address is None else address
    try:
        return await _ask(_CLIENT, kind, where, size, count, int(line))
    finally:
        server.close()


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


@row("echo 100 KiB", 1_000)
async def echo_large(count: int) -> float:
    """The same with messages that take several reads."""
    loop = asyncio.get_running_loop()
    return await _drive(await loop.create_server(_Echo, "127.0.0.1", 0), count, size=102_400)


class _EchoTwice(_Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data[:100])
        self.transport.write(data[100:])


@row("echo in two writes", 5_000)
async def echo_two_writes(count: int) -> float:
    """A head and a body, as a web server writes them."""
    loop = asyncio.get_running_loop()
    return await _drive(await loop.create_server(_EchoTwice, "127.0.0.1", 0), count)


class _EchoBuffered(asyncio.BufferedProtocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.buffer = memoryview(bytearray(65536))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


@row("echo buffered", 5_000)
async def echo_buffered(count: int) -> float:
    """The same, the server a BufferedProtocol."""
    loop = asyncio.get_running_loop()
    return await _drive(await loop.create_server(_EchoBuffered, "127.0.0.1", 0), count)


@row("echo unix", 5_000)
async def echo_unix(count: int) -> float:
    """Round trips over a Unix socket."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        server = await loop.create_unix_server(_Echo, path)
        return await _drive(server, count, "unix", address=path)


def _tls() -> ssl.SSLContext:
    """A context with a certificate that is made now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        key, cert = os.path.join(folder, "key"), os.path.join(folder, "cert")
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        command += f" -days 1 -subj /CN=localhost -keyout {key} -out {cert}"
        subprocess.run(command.split(), check=True, capture_output=True)
        context.load_cert_chain(cert, key)
    return context


@row("tls echo 1 KiB", 3_000)
async def echo_tls(count: int) -> float:
    """Round trips over TLS."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0, ssl=_tls())
    return await _drive(server, count, "tls")


@row("tls echo 100 KiB", 500)
async def echo_tls_large(count: int) -> float:
    """The same with messages of seven records."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0, ssl=_tls())
    return await _drive(server, count, "tls", size=102_400)


async def _echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@row("echo 1 KiB streams", 5_000)
async def echo_streams(count: int) -> float:
    """The same as the first with asyncio.start_server()."""
    return await _drive(await asyncio.start_server(_echo_streams, "127.0.0.1", 0), count)


async def _echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


@row("echo lines", 5_000)
async def echo_lines(count: int) -> float:
    """Lines of a hundred bytes through readline()."""
    server = await asyncio.start_server(_echo_lines, "127.0.0.1", 0)
    return await _drive(server, count, size=100, line=True)


@row("echo sock_*", 5_000)
async def echo_sock(count: int) -> float:
    """The same as the first with sock_accept(), sock_recv() and sock_sendall()."""
    loop = asyncio.get_running_loop()

    async def serve(listener: socket.socket) -> None:
        peer, _ = await loop.sock_accept(listener)
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := await loop.sock_recv(peer, 65536):
                await loop.sock_sendall(peer, data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        serving = loop.create_task(serve(listener))
        port = listener.getsockname()[1]
        seconds = await _ask(_CLIENT, "tcp", port, 1024, count, 0)
        await serving
    return seconds


# ---- bulk: per MiB ------------------------------------------------------------------------

_SEND_BULK = """
import socket, sys, time
data = bytes(1 << 20)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
    s.settimeout(30)
    start = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
    print(time.perf_counter() - start)
"""

_RECV_BULK = """
import socket, sys, time
buffer = bytearray(1 << 20)
left = int(sys.argv[2]) << 20
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
    s.settimeout(30)
    start = time.perf_counter()
    while left:
        got = s.recv_into(buffer)
        if not got:
            raise SystemExit("the server hung up")
        left -= got
    print(time.perf_counter() - start)
"""


class _Sink(asyncio.Protocol):
    """Takes everything and hangs up at the end."""


@row("bulk receive", 64)
async def bulk_receive(count: int) -> float:
    """64 MiB from a client that fills the socket."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Sink, "127.0.0.1", 0)
    seconds = await _ask(_SEND_BULK, port_of(server), count)
    server.close()
    return seconds


@row("bulk send", 64)
async def bulk_send(count: int) -> float:
    """64 MiB through a StreamWriter with drain()."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = bytes(1 << 20)
        for _ in range(count):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seconds = await _ask(_RECV_BULK, port_of(server), count)
    server.close()
    return seconds


@row("bulk receive streams", 64)
async def bulk_receive_streams(count: int) -> float:
    """64 MiB into a StreamReader, read as it comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 20):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seconds = await _ask(_SEND_BULK, port_of(server), count)
    server.close()
    return seconds


@row("sendfile", 64)
async def sendfile(count: int) -> float:
    """64 MiB of a file, a MiB a call."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1 << 20))
        done = loop.create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for _ in range(count):
                    await loop.sendfile(writer.transport, file, fallback=False)
            except Exception as exc:
                done.set_exception(exc)
            else:
                done.set_result(None)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        asked = loop.create_task(_ask(_RECV_BULK, port_of(server), count))
        results = await asyncio.gather(done, asked, return_exceptions=True)
        server.close()
    await done  # why it could not be sent is the reason, rather than what the client saw
    if isinstance(results[1], BaseException):
        raise results[1]
    return results[1]


# ---- connections --------------------------------------------------------------------------


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


@row("connect+close", 500)
async def connect_close(count: int) -> float:
    """A connection that the client closes at once, until the server has heard of all."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    class Counting(asyncio.Protocol):
        def connection_lost(self, exc: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

    server = await loop.create_server(Counting, "127.0.0.1", 0, backlog=count)
    address = server.sockets[0].getsockname()

    def connect() -> None:
        for _ in range(count):
            socket.create_connection(address).close()

    start = time.perf_counter()
    await loop.run_in_executor(None, connect)
    await done
    seconds = time.perf_counter() - start
    server.close()
    return seconds


@row("open_connection", 500)
async def open_connection(count: int) -> float:
    """Both ends of a connection on this loop, a line each way."""
    server = await asyncio.start_server(_echo_lines, "127.0.0.1", 0)
    port = port_of(server)
    start = time.perf_counter()
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        await reader.readline()
        writer.close()
        await writer.wait_closed()
    seconds = time.perf_counter() - start
    server.close()
    return seconds


# ---- pipes, child processes, datagrams ----------------------------------------------------


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


@row("child's pipes", 3_000)
async def child_pipes(count: int) -> float:
    """A line to a child and back, through its stdin and stdout."""
    pipe = subprocess.PIPE
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None
    start = time.perf_counter()
    for _ in range(count):
        child.stdin.write(b"a line of text\n")
        await child.stdout.readline()
    seconds = time.perf_counter() - start
    child.stdin.close()
    await child.wait()
    return seconds


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
    seconds = await _ask(_UDP_CLIENT, port, count, window)
    transport.close()
    await asyncio.sleep(0)
    return seconds


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
