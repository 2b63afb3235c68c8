"""What hotloop is doing while something fails: some forty short programs.

Each is a coroutine of its `World`, which notes every error that anybody is told of, ends what is
left over, and gives a program up a little after trouble was reported, since what it waits for may
never come. A program ends well, or with an OSError, or with what a broken connection means to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hotloop

HOST = "127.0.0.1"
CERTIFICATE = Path(__file__).resolve().parents[1] / "features" / "localhost.pem"
GRACE = 0.03  # seconds from a report until the program is given up
LARGE = 400_000

Scenario = Callable[["World"], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
LIVES: dict[str, Callable[[World], None]] = {}  # these make their own loops


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def life(function: Callable[[World], None]) -> Callable[[World], None]:
    LIVES[function.__name__] = function
    return function


class Log(logging.Handler):
    """What is logged is told too: of a file that could not be removed, say."""

    def __init__(self, told: list[BaseException]) -> None:
        super().__init__(logging.WARNING)
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(OSError(record.getMessage()))


class World:
    """One run of one program."""

    def __init__(self, backend: str, lenient: bool) -> None:
        self.backend = backend
        self.lenient = lenient
        self.patience: threading.Thread | None = None
        self.over = threading.Event()
        self.loop: Any = None
        self.told: list[BaseException] = []  # whoever was told of an error
        self.open: set[Any] = set()  # transports whose connection_lost() has not come
        self.cleaners: list[Callable[[], Any]] = []
        self.main: asyncio.Task[None] | None = None
        self.gave_up = False
        self.phase = self.given_up = 0  # which run of the loop this is; which was given up
        self.usual: tuple[type[BaseException], ...] = ()  # what happens without a fault as well

    def new_loop(self) -> Any:
        loop = hotloop.new_event_loop(self.backend)
        loop.set_exception_handler(self.report)
        if self.lenient and self.main is None:
            self.patience = threading.Thread(target=self.stop, args=(loop,))
            self.patience.start()
        return loop

    def stop(self, loop: Any) -> None:
        """For programs that run loops of their own, again for each run; in another thread."""
        while not self.over.wait(40 * GRACE):
            self.gave_up = True
            with contextlib.suppress(RuntimeError):  # it is closed by now
                loop.call_soon_threadsafe(loop.stop)

    def end(self) -> None:
        if self.patience is not None:
            self.over.set()
            self.patience.join()

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        self.hear(context.get("exception") or RuntimeError(context["message"]))

    def hear(self, exc: BaseException | None) -> None:
        if exc is None:
            return
        self.told.append(exc)
        if self.loop is not None and self.main is not None and not self.loop.is_closed():
            self.loop.call_later(GRACE, self.main.cancel)
            if isinstance(exc, MemoryError):
                self.loop.call_later(10 * GRACE, self.give_up, self.phase)

    def give_up(self, phase: int) -> None:
        """A wake-up has been lost with the memory for it: as with asyncio, but it was told.

        It can be the one that was to stop the loop, so whether tasks are done says nothing."""
        if phase == self.phase:
            self.gave_up = True
            self.given_up = phase
            self.loop.stop()

    def keep(self, thing: Any) -> Any:
        """Closed at the end, if it has not been before."""
        self.cleaners.append(thing.close)
        return thing

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        for end in ends:
            self.keep(end).setblocking(False)
        return ends

    def folder(self) -> Path:
        made = tempfile.TemporaryDirectory(prefix="hl-")
        self.cleaners.append(made.cleanup)
        return Path(made.name)

    async def serve(self, factory: Any, **how: Any) -> Any:
        server = self.keep(await self.loop.create_server(factory, HOST, 0, **how))
        return server.sockets[0].getsockname()[1]

    async def streams(self, serve: Any, tls: bool = False) -> Any:
        """A server of streams and a client of it: the client's two ends."""

        async def guarded(reader: Any, writer: Any) -> None:
            try:
                await serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.hear(exc)
            finally:
                writer.close()
                try:
                    # Of a start_tls() that was given up the protocol never hears the end, as with
                    # asyncio.
                    async with asyncio.timeout(20 * GRACE):
                        await writer.wait_closed()
                except OSError as exc:
                    self.hear(exc)

        how: dict[str, Any] = {"ssl": server_context()} if tls else {}
        server = self.keep(await asyncio.start_server(guarded, HOST, 0, **how))
        port = server.sockets[0].getsockname()[1]
        how = {"ssl": client_context()} if tls else {}
        reader, writer = await asyncio.open_connection(HOST, port, **how)
        self.keep(writer)
        self.cleaners.append(lambda: self.hear(reader.exception()))
        return reader, writer

    async def clean(self) -> None:
        """Ends what the program has left; errors of an end are told as well."""
        await self.end_transports()
        while self.cleaners:
            try:
                self.cleaners.pop()()
            except BaseException as exc:
                self.told.append(exc)
        await self.end_transports()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if tasks:
            for task in tasks:
                self.loop.call_later(GRACE, task.cancel)
            # A wake-up that was lost does not come now either.
            lost = self.gave_up or any(isinstance(exc, MemoryError) for exc in self.told)
            done, _ = await asyncio.wait(tasks, timeout=20 * GRACE if lost else None)
            for task in done:
                if not task.cancelled() and task.exception() is not None:
                    self.told.append(task.exception())
        await self.end_transports()

    async def end_transports(self) -> None:
        for transport in list(self.open):
            try:
                getattr(transport, "abort", transport.close)()
            except BaseException as exc:
                self.told.append(exc)
        for _ in range(4):
            await asyncio.sleep(0)


class Peer(asyncio.Protocol):
    """Tells its world of errors; `lost` is done when the connection is over."""

    # None where connection_made() failed for want of memory: what follows comes all the same.
    transport: Any = None

    def __init__(self, world: World) -> None:
        self.world = world
        self.data = b""
        self.lost = world.loop.create_future()
        self.came = asyncio.Event()
        self.eof = False
        self.room = asyncio.Event()
        self.room.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.came.set()

    def eof_received(self) -> bool | None:
        self.eof = True
        self.came.set()
        return None

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.world.open.discard(self.transport)
        self.world.hear(exc)
        self.came.set()
        self.room.set()
        if not self.lost.done():
            self.lost.set_result(None)

    async def until(self, size: int) -> bytes:
        while len(self.data) < size and not self.lost.done() and not self.eof:
            self.came.clear()
            await self.came.wait()
        return self.data


class Echo(Peer):
    def data_received(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


class Buffered(asyncio.BufferedProtocol, Peer):
    def get_buffer(self, hint: int) -> bytearray:
        self.buffer = bytearray(4096)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        if self.transport is not None:
            self.transport.write(bytes(self.buffer[:count]))


class Letters(Peer, asyncio.DatagramProtocol):
    """Datagrams; an error ends the wait."""

    echo = False

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.echo:
            self.transport.sendto(data, addr)
        else:
            self.data += data
            self.came.set()

    def error_received(self, exc: BaseException) -> None:
        self.world.hear(exc)


class Mirror(Letters):
    echo = True


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context(trusting: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def echoes(client: Any, data: bytes, whole: bool = True) -> None:
    client.transport.write(data)
    got = await client.until(len(data))
    assert got == data[: len(got)], "bytes of somebody else"
    assert len(got) == len(data) or client.lost.done() or client.eof or not whole


# ---- the life of a loop ----


@life
def loop_life(world: World) -> None:
    loop = world.new_loop()
    try:
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


@life
def loop_run(world: World) -> None:
    async def main() -> int:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001, i)) for i in range(3)]
        return sum(task.result() for task in tasks)

    with asyncio.Runner(loop_factory=world.new_loop) as runner:
        assert runner.run(main()) == 3


@life
def loop_forked(world: World) -> None:
    """The child of a fork opens the poller and the wake-up anew, and watches what was watched."""
    loop = world.new_loop()
    a, b = socket.socketpair()
    answer = os.memfd_create("answer")
    try:
        loop.add_reader(a, loop.stop)
        loop.call_soon(loop.stop)
        loop.run_forever()
        pid = os.fork()
        if pid == 0:
            said = b"failed"
            try:
                b.send(b"x")
                for _ in range(3):
                    try:
                        loop.run_forever()
                        break
                    except (OSError, MemoryError) as exc:
                        os.pwrite(answer, repr((type(exc).__name__, exc.args)).encode(), 0)
                said = b"served"
            finally:
                os.pwrite(answer, said + b" " + str(world.fired()).encode(), 4096)
                os._exit(0)
        os.waitpid(pid, 0)
        raised, ended = os.pread(answer, 4096, 0).rstrip(b"\0"), os.pread(answer, 99, 4096)
        assert ended.startswith(b"served"), ended
        world.fired_elsewhere = int(ended.split()[1])
        if raised:
            name, args = eval(raised)
            world.told.append((MemoryError if name == "MemoryError" else OSError)(*args))
    finally:
        loop.close()
        for fd in (a, b):
            fd.close()
        os.close(answer)


@life
def loop_signals(world: World) -> None:
    """Two loops with handlers, over somebody else's wakeup descriptor."""
    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    first = second = None
    try:
        first = world.new_loop()
        second = world.new_loop()
        for loop in (first, second):
            loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        for loop in (first, second):
            loop.call_later(0.02, loop.stop)
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.run_forever()
    finally:
        for loop in (first, second):
            if loop is not None:
                loop.close()
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(read)
        os.close(write)


# ---- scheduling ----


@scenario
async def callbacks(world: World) -> None:
    """More than the ready queue holds at first."""
    ran: list[int] = []
    for i in range(3000):
        world.loop.call_soon(ran.append, i)
    await asyncio.sleep(0)
    assert ran == sorted(set(ran)), "out of order, or twice"


@scenario
async def timers(world: World) -> None:
    ran: list[int] = []
    handles = [world.loop.call_later(0, ran.append, i) for i in range(300)]
    for handle in handles[::3]:
        handle.cancel()
    while len(ran) < 200:
        await asyncio.sleep(0)
    assert ran == [i for i in range(300) if i % 3]


@scenario
async def tasks(world: World) -> None:
    future = world.loop.create_future()

    async def waits(i: int) -> int:
        await asyncio.sleep(0)
        await asyncio.shield(future)
        return i

    made = []
    try:
        made = [asyncio.create_task(waits(i)) for i in range(12)]
        world.loop.call_soon(future.set_result, None)
        assert await asyncio.gather(*made) == list(range(12))
    finally:
        for task in made:
            task.cancel()


@scenario
async def factories(world: World) -> None:
    """A task factory, and a loop whose call_at() is overridden."""
    seen = []

    def call_at(when: float, callback: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(when)
        return type(world.loop).call_at(world.loop, when, callback, *args, **kwargs)

    world.loop.set_task_factory(lambda loop, coro, **kw: hotloop.Task(coro, loop=loop, **kw))
    world.loop.call_at = call_at
    try:
        await asyncio.create_task(asyncio.sleep(0.001))
        assert seen
    finally:
        world.loop.set_task_factory(None)
        del world.loop.call_at


@scenario
async def queues(world: World) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    async def producer() -> None:
        for i in range(10):
            await queue.put(i)

    made = asyncio.create_task(producer())
    made.add_done_callback(lambda t: t.cancelled() or world.hear(t.exception()))
    try:
        async with asyncio.timeout(5):
            assert [await queue.get() for _ in range(10)] == list(range(10))
    finally:
        made.cancel()


@scenario
async def threads(world: World) -> None:
    """Work in a thread; its end wakes the loop."""
    future = world.loop.create_future()

    def work() -> str:
        world.loop.call_soon_threadsafe(future.set_result, 1)
        return "done"

    assert await world.loop.run_in_executor(None, work) == "done"
    assert await future == 1


@scenario
async def signals(world: World) -> None:
    came = asyncio.Event()
    world.cleaners.append(lambda: world.loop.remove_signal_handler(signal.SIGUSR1))
    world.loop.add_signal_handler(signal.SIGUSR1, came.set)
    for _ in range(100):  # one that was lost on its way is sent again
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.001)
        if came.is_set():
            return
    raise OSError("no signal came")


# ---- descriptors ----


@scenario
async def watchers(world: World) -> None:
    a, b = world.pair()
    got = world.loop.create_future()

    def on_read() -> None:
        if not got.done():
            got.set_result(a.recv(10))

    def on_write() -> None:
        world.loop.remove_writer(b)
        b.send(b"hello")

    world.cleaners.append(lambda: (world.loop.remove_reader(a), world.loop.remove_writer(b)))
    world.loop.add_reader(a, on_read)
    world.loop.add_writer(b, on_write)
    assert await got == b"hello"
    world.loop.add_writer(a, lambda: None)
    world.loop.remove_reader(a)
    await asyncio.sleep(0)


@scenario
async def handles_by_hand(world: World) -> None:
    came: list[int] = []
    handle = hotloop.Handle(came.append, (1,), world.loop)
    timer = hotloop.TimerHandle(world.loop.time(), came.append, (2,), world.loop)
    handle._run()
    timer._run()
    timer.cancel()
    assert came == [1, 2] or world.told


@scenario
async def many_descriptors(world: World) -> None:
    """More than the tables hold at first."""
    ends = [world.pair() for _ in range(150)]
    came: set[int] = set()
    done = world.loop.create_future()

    def on_read(i: int, end: socket.socket) -> None:
        end.recv(10)
        came.add(i)
        if len(came) == len(ends) and not done.done():
            done.set_result(None)

    def unwatch() -> None:
        for a, _ in ends:
            world.loop.remove_reader(a)

    world.cleaners.append(unwatch)
    for i, (a, b) in enumerate(ends):
        world.loop.add_reader(a, on_read, i, a)
        b.send(b"x")
    await done


@scenario
async def sock_stream(world: World) -> None:
    loop = world.loop
    listener = world.keep(socket.socket())
    listener.setblocking(False)
    listener.bind((HOST, 0))
    listener.listen()
    client = world.keep(socket.socket())
    client.setblocking(False)

    async def serve() -> None:
        conn, _ = await loop.sock_accept(listener)
        world.keep(conn)
        try:
            got = 0
            while got < LARGE:
                data = await loop.sock_recv(conn, 65536)
                if not data:
                    break
                got += len(data)
            await loop.sock_sendall(conn, b"thanks")
        finally:
            conn.close()

    server = asyncio.create_task(serve())
    server.add_done_callback(lambda t: t.cancelled() or world.hear(t.exception()))
    await loop.sock_connect(client, listener.getsockname())
    await loop.sock_sendall(client, bytes(LARGE))
    buffer = bytearray(6)
    count = await loop.sock_recv_into(client, buffer)
    assert buffer[:count] == b"thanks"[:count]
    await server


@scenario
async def sock_datagrams(world: World) -> None:
    loop = world.loop
    a, b = (world.keep(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (a, b):
        sock.setblocking(False)
        sock.bind((HOST, 0))
    waits = asyncio.create_task(loop.sock_recvfrom(b, 100))
    try:
        await asyncio.sleep(0)
        await loop.sock_sendto(a, b"ping", b.getsockname())
        data, addr = await waits
        assert (data, addr) == (b"ping", a.getsockname())
        await loop.sock_sendto(b, b"pong", addr)
        buffer = bytearray(10)
        assert (await loop.sock_recvfrom_into(a, buffer))[0] == 4
    finally:
        waits.cancel()


@scenario
async def sock_sendfile(world: World) -> None:
    a, b = world.pair()
    file = world.keep(tempfile.TemporaryFile())  # noqa: SIM115 (closed by the world)
    file.write(b"0123456789" * 1000)
    file.seek(0)
    sends = asyncio.create_task(world.loop.sock_sendfile(a, file))
    sends.add_done_callback(lambda t: t.cancelled() or world.hear(t.exception()))
    got = b""
    while len(got) < 10000:
        got += await world.loop.sock_recv(b, 4096)
    assert await sends == 10000


# ---- streams ----


@scenario
async def refused(world: World) -> None:
    world.usual = (ConnectionError,)
    sock = world.keep(socket.socket())
    sock.bind((HOST, 0))
    try:
        await world.loop.create_connection(lambda: Peer(world), *sock.getsockname())
    except ConnectionRefusedError as exc:
        world.told.append(exc)
        return
    raise OSError("connected to nobody")


@scenario
async def resolved(world: World) -> None:
    """Two families by name, one after the other."""
    port = await world.serve(lambda: Echo(world))
    _, client = await world.loop.create_connection(
        lambda: Peer(world), "localhost", port, happy_eyeballs_delay=0.01, local_addr=(HOST, 0)
    )
    await echoes(client, b"hello")


@scenario
async def echo(world: World) -> None:
    port = await world.serve(lambda: Echo(world))
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    for _ in range(3):
        client.data = b""
        await echoes(client, b"hello")
    transport.close()
    await client.lost


@scenario
async def echo_large(world: World) -> None:
    port = await world.serve(lambda: Echo(world))
    _, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    await echoes(client, os.urandom(64) * (LARGE // 64))


@scenario
async def echo_buffered(world: World) -> None:
    port = await world.serve(lambda: Buffered(world))
    _, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    await echoes(client, b"0123456789" * 2000)


@scenario
async def many_pieces(world: World) -> None:
    """Writes that leave together, by writelines() too, into a reader that is slow."""
    port = await world.serve(lambda: Peer(world), backlog=1)
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    while len(world.open) < 2:
        await asyncio.sleep(0.001)
    server = next(each for each in world.open if each is not transport).get_protocol()
    server.transport.pause_reading()
    transport.set_write_buffer_limits(1000)
    for i in range(40):
        transport.write(b"%02d" % i)
    transport.write(bytes(2**22))
    for _ in range(40):
        transport.writelines([b"some", bytearray(b"more"), b"pieces"])
    server.transport.resume_reading()
    await client.room.wait()
    transport.write_eof()
    size = 80 + 2**22 + 40 * 14
    got = await server.until(size)
    assert len(got) == size or server.lost.done() or server.eof
    server.transport.close()
    await client.lost


@scenario
async def stream_echo(world: World) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        while data := await reader.readline():
            writer.write(data)
            await writer.drain()

    reader, writer = await world.streams(serve)
    for i in range(4):
        writer.write(b"%d\n" % i)
        assert await reader.readline() in (b"%d\n" % i, b"")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@scenario
async def stream_drains(world: World) -> None:
    """From the second drain() of a step on, the kernel is asked whether a send would fail."""

    async def serve(reader: Any, writer: Any) -> None:
        while data := await reader.readline():
            for _ in range(3):
                writer.write(data)
                await writer.drain()

    reader, writer = await world.streams(serve)
    writer.write(b"three times\n")
    for _ in range(3):
        assert await reader.readline() in (b"three times\n", b"")
    writer.close()
    await writer.wait_closed()


@scenario
async def stream_bulk(world: World) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        data = await reader.readexactly(LARGE)
        writer.write(data)
        await writer.drain()

    reader, writer = await world.streams(serve)
    writer.write(bytes(LARGE))
    await writer.drain()
    assert len(await reader.readexactly(LARGE)) == LARGE


@scenario
async def half_close(world: World) -> None:
    class Answers(Peer):
        def eof_received(self) -> bool:
            self.transport.write(self.data[::-1])
            self.transport.close()
            return True

    port = await world.serve(lambda: Answers(world))
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    transport.write(b"drawer")
    transport.write_eof()
    assert await client.until(6) in (b"reward", b"r", b"")
    await client.lost


@scenario
async def aborted(world: World) -> None:
    world.usual = (ConnectionError,)
    port = await world.serve(lambda: Echo(world))
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    transport.write(b"hello")
    transport.abort()
    await client.lost
    await world.loop.create_connection(lambda: Peer(world), HOST, port)


@scenario
async def many_clients(world: World) -> None:
    port = await world.serve(lambda: Echo(world), backlog=5)
    clients = []
    for _ in range(8):
        clients.append(await world.loop.create_connection(lambda: Peer(world), HOST, port))
    await asyncio.gather(*(echoes(client, b"hello") for _, client in clients))


@scenario
async def server_ends(world: World) -> None:
    server = world.keep(await world.loop.create_server(lambda: Echo(world), HOST, 0))
    port = server.sockets[0].getsockname()[1]
    _, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    await echoes(client, b"hello")
    server.close()
    if hasattr(server, "abort_clients"):
        server.abort_clients()
    else:
        client.transport.abort()
    await client.lost
    await server.wait_closed()


@scenario
async def adopted(world: World) -> None:
    """Sockets that were there already."""
    a, b = world.pair()
    await world.loop.create_connection(lambda: Echo(world), sock=a)
    _, client = await world.loop.create_connection(lambda: Peer(world), sock=b)
    client.transport.get_extra_info("socket").getsockname()
    await echoes(client, b"hello")
    listener = world.keep(socket.create_server((HOST, 0)))
    client = world.keep(socket.create_connection(listener.getsockname()))
    conn, _ = listener.accept()
    conn.setblocking(False)
    world.keep(conn)
    await world.loop.connect_accepted_socket(lambda: Echo(world), conn)
    client.setblocking(False)
    await world.loop.sock_sendall(client, b"hello")
    await world.loop.sock_recv(client, 10)


@scenario
async def unix(world: World) -> None:
    path = str(world.folder() / "socket")
    world.keep(await world.loop.create_unix_server(lambda: Echo(world), path))
    _, client = await world.loop.create_unix_connection(lambda: Peer(world), path)
    await echoes(client, b"hello")


@scenario
async def sendfile(world: World) -> None:
    port = await world.serve(lambda: Peer(world))
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    file = world.keep(tempfile.TemporaryFile())  # noqa: SIM115 (closed by the world)
    file.write(bytes(LARGE))
    file.seek(0)
    transport.write(b"head")
    assert await world.loop.sendfile(transport, file) == LARGE
    file = io.BytesIO(bytes(1000))  # no descriptor: read and written
    assert await world.loop.sendfile(transport, file) == 1000
    transport.close()
    await client.lost


# ---- TLS ----


@scenario
async def tls_echo(world: World) -> None:
    port = await world.serve(lambda: Echo(world), ssl=server_context())
    transport, client = await world.loop.create_connection(
        lambda: Peer(world), HOST, port, ssl=client_context()
    )
    await echoes(client, b"hello")
    transport.close()
    await client.lost


@scenario
async def tls_large(world: World) -> None:
    port = await world.serve(lambda: Echo(world), ssl=server_context())
    _, client = await world.loop.create_connection(
        lambda: Peer(world), HOST, port, ssl=client_context()
    )
    await echoes(client, bytes(LARGE))


@scenario
async def tls_streams(world: World) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        while data := await reader.readline():
            writer.write(data)
            await writer.drain()

    reader, writer = await world.streams(serve, tls=True)
    for i in range(3):
        writer.write(b"%d\n" % i)
        assert await reader.readline() in (b"%d\n" % i, b"")
    writer.close()
    await writer.wait_closed()


@scenario
async def tls_refused(world: World) -> None:
    """A certificate that the client does not trust."""
    world.usual = (ssl.SSLError,)
    port = await world.serve(lambda: Echo(world), ssl=server_context())
    try:
        await world.loop.create_connection(
            lambda: Peer(world), "localhost", port, ssl=client_context(trusting=False)
        )
    except OSError as exc:
        world.told.append(exc)
        return
    raise AssertionError("a stranger's certificate was accepted")


@scenario
async def tls_upgrade(world: World) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        await reader.readline()
        writer.write(b"go\n")
        await writer.start_tls(server_context())
        writer.write(await reader.readline())
        await writer.drain()

    reader, writer = await world.streams(serve)
    writer.write(b"tls?\n")
    if await reader.readline() == b"go\n":
        await writer.start_tls(client_context(), server_hostname="localhost")
        writer.write(b"hello\n")
        assert await reader.readline() in (b"hello\n", b"")


@scenario
async def tls_cut(world: World) -> None:
    """The peer goes in the middle of a handshake, and of a connection."""
    world.usual = (ConnectionError,)
    port = await world.serve(lambda: Echo(world), ssl=server_context())
    transport, client = await world.loop.create_connection(lambda: Peer(world), HOST, port)
    transport.write(b"\x16\x03\x01")
    transport.abort()
    await client.lost
    transport, client = await world.loop.create_connection(
        lambda: Peer(world), HOST, port, ssl=client_context()
    )
    transport.write(b"hello")
    transport.abort()
    await client.lost


@scenario
async def tls_sendfile(world: World) -> None:
    port = await world.serve(lambda: Peer(world), ssl=server_context())
    transport, _ = await world.loop.create_connection(
        lambda: Peer(world), HOST, port, ssl=client_context()
    )
    file = world.keep(tempfile.TemporaryFile())  # noqa: SIM115 (closed by the world)
    file.write(bytes(20000))
    file.seek(0)
    assert await world.loop.sendfile(transport, file) == 20000


# ---- datagrams ----


async def letters(world: World, server: Any, client: Any) -> None:
    """An echo; what was lost is sent again, as with UDP in life."""
    for _ in range(100):
        client.transport.sendto(b"hello")
        if client.data or client.transport.is_closing() or server.transport.is_closing():
            break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.002):
                await client.came.wait()
    assert client.data[:5] in (b"hello", b"")


@scenario
async def udp(world: World) -> None:
    loop = world.loop
    _, server = await loop.create_datagram_endpoint(lambda: Mirror(world), (HOST, 0))
    addr = server.transport.get_extra_info("sockname")
    _, client = await loop.create_datagram_endpoint(
        lambda: Letters(world), remote_addr=addr, allow_broadcast=True
    )
    await letters(world, server, client)
    client.transport.sendto(b"more", addr)
    client.transport.close()
    server.transport.close()
    await client.lost
    await server.lost


@scenario
async def udp_backlog(world: World) -> None:
    """More than the receiver's buffer takes: what waits is sent when there is room."""
    a, b = world.pair(socket.SOCK_DGRAM)
    _, sender = await world.loop.create_datagram_endpoint(lambda: Letters(world), sock=a)
    for _ in range(400):
        sender.transport.sendto(bytes(1000))
    transport, receiver = await world.loop.create_datagram_endpoint(lambda: Letters(world), sock=b)
    world.keep(transport)
    while not receiver.data and not receiver.transport.is_closing():
        await asyncio.sleep(0.001)
    sender.transport.close()
    await sender.lost


@scenario
async def unix_letters(world: World) -> None:
    folder = world.folder()
    loop = world.loop
    _, server = await loop.create_datagram_endpoint(
        lambda: Mirror(world), str(folder / "server"), family=socket.AF_UNIX
    )
    _, client = await loop.create_datagram_endpoint(
        lambda: Letters(world),
        str(folder / "client"),
        str(folder / "server"),
        family=socket.AF_UNIX,
    )
    await letters(world, server, client)


# ---- pipes and children ----


async def pipes(world: World) -> tuple[Any, Any]:
    read, write = os.pipe()
    reader = world.keep(open(read, "rb", 0))  # noqa: SIM115 (closed by the world)
    writer = world.keep(open(write, "wb", 0))  # noqa: SIM115 (closed by the world)
    _, receiver = await world.loop.connect_read_pipe(lambda: Peer(world), reader)
    _, sender = await world.loop.connect_write_pipe(lambda: Peer(world), writer)
    return receiver, sender


@scenario
async def pipe(world: World) -> None:
    receiver, sender = await pipes(world)
    sender.transport.write(b"hello")
    got = await receiver.until(5)
    assert got == b"hello"[: len(got)]
    sender.transport.close()
    await receiver.lost
    await sender.lost


@scenario
async def pipe_bulk(world: World) -> None:
    """More than a pipe holds, in many pieces, and more than one reads at once."""
    receiver, sender = await pipes(world)
    receiver.transport.pause_reading()
    size = 0
    for piece in [b"x" * 70000, *[b"some", b"more"] * 30, b"y" * LARGE]:
        sender.transport.write(piece)
        size += len(piece)
    receiver.transport.resume_reading()
    got = await receiver.until(size)
    assert len(got) == size or receiver.lost.done() or sender.lost.done()
    receiver.transport.close()
    await sender.lost


@scenario
async def pipe_streams(world: World) -> None:
    read, write = os.pipe()
    file = world.keep(open(read, "rb", 0))  # noqa: SIM115 (closed by the world)
    other = world.keep(open(write, "wb", 0))  # noqa: SIM115 (closed by the world)
    reader = asyncio.StreamReader()
    # One that cannot be watched is reported, and stays open until its owner closes it, as with
    # asyncio.
    transport, _ = await world.loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    world.keep(transport)
    other.write(b"hello\n")
    assert await reader.readline() in (b"hello\n", b"")
    other.close()
    await reader.read()


async def ended(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@contextlib.asynccontextmanager
async def child(*command: str, **how: Any) -> AsyncIterator[Any]:
    process = await asyncio.create_subprocess_exec(*command, **how)
    try:
        yield process
    finally:
        # what is awaited here must be, whatever becomes of the program
        await asyncio.shield(asyncio.ensure_future(ended(process)))
        process._transport.close()


@scenario
async def spawn(world: World) -> None:
    async with child("true") as process:
        assert await process.wait() in (0, 255)


@scenario
async def spawn_talks(world: World) -> None:
    pipe = subprocess.PIPE
    async with child("cat", stdin=pipe, stdout=pipe, stderr=pipe) as process:
        out, err = await process.communicate(b"hello" * 100)
        assert (out, err) == (b"hello" * 100, b"") or world.told or len(out) < 500
