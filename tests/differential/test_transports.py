"""Life cycles of streams, datagrams, pipes, children and servers: each party's calls, in order."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from typing import Any

import pytest
from duet import Recorder, scenario


class Boom(Exception):
    pass


class Notes(asyncio.Protocol, asyncio.DatagramProtocol):
    """Notes each call on a track; data_received() only notes how much there is in all."""

    raises: str = ""  # the call that raises Boom
    keep_open: Any = None

    def __init__(self, rec: Recorder, name: str) -> None:
        self.note = rec.party(name)
        self.got = b""
        self.changed = asyncio.Event()
        self.calls: list[str] = []

    def _called(self, name: str, *what: Any) -> None:
        self.note(name, *what)
        self.calls.append(name)
        self.changed.set()
        if self.raises == name:
            raise Boom(name)

    async def until(self, test: Any) -> None:
        while not test():
            self.changed.clear()
            await self.changed.wait()

    async def lost(self) -> None:
        await self.until(lambda: "connection_lost" in self.calls)

    async def data(self, size: int) -> bytes:
        await self.until(lambda: len(self.got) >= size)
        return self.got

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("connection_made", type(transport).__mro__[-3].__name__)

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()
        if self.raises == "data_received":
            raise Boom("data_received")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._called("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self._called("error_received", exc)

    def eof_received(self) -> Any:
        self._called("eof_received", len(self.got))
        return self.keep_open

    def pause_writing(self) -> None:
        self._called("pause_writing")

    def resume_writing(self) -> None:
        self._called("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._called("connection_lost", exc)


def sockets(kind: str) -> tuple[socket.socket, socket.socket]:
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


KINDS = pytest.mark.parametrize("kind", ["unix", "tcp"])


async def one_end(rec: Recorder, kind: str = "unix", **attributes: Any) -> tuple[Notes, Any]:
    near, far = sockets(kind)
    notes = Notes(rec, "near")
    vars(notes).update(attributes)
    await rec.loop.create_connection(lambda: notes, sock=near)
    far.setblocking(False)
    return notes, far


async def finish(notes: Notes, far: socket.socket) -> None:
    notes.transport.abort()
    await notes.lost()
    far.close()


async def receive(rec: Recorder, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = await rec.loop.sock_recv(sock, 65536)
        if not some:
            break
        data += some
    return data


# ---- streams ----


@scenario
@KINDS
async def test_close_by_us(rec: Recorder, kind: str) -> None:
    near, far = await one_end(rec, kind)
    rec.note(repr(near.transport), near.transport.is_closing())
    near.transport.write(b"last")
    near.transport.close()
    near.transport.close()
    rec.note(near.transport.is_closing(), near.transport.is_reading(), near.calls)
    near.transport.write(b"ignored")
    await near.lost()
    rec.note(await receive(rec, far, 10), repr(near.transport))
    for name in ("close", "abort", "pause_reading", "resume_reading", "write_eof"):
        rec.attempt(name, getattr(near.transport, name))
    for name in ("peername", "sockname", "compression", "cipher", "sslcontext", "nothing"):
        rec.attempt(name, near.transport.get_extra_info, name)
    for _ in range(7):
        rec.attempt("write", near.transport.write, b"x")
    far.close()


@scenario
@KINDS
@pytest.mark.parametrize("keep_open", [None, False, True])
async def test_close_by_the_peer(rec: Recorder, kind: str, keep_open: Any) -> None:
    near, far = await one_end(rec, kind, keep_open=keep_open)
    await rec.loop.sock_sendall(far, b"data")
    await near.data(4)
    far.shutdown(socket.SHUT_WR)
    await near.until(lambda: "eof_received" in near.calls)
    near.transport.write(b"answer")
    rec.note(near.transport.is_closing(), near.transport.is_reading())
    if keep_open:
        near.transport.close()
    await near.lost()
    rec.note(len(await receive(rec, far, 6)))
    far.close()


@scenario
@KINDS
async def test_write_after_close(rec: Recorder, kind: str) -> None:
    """It is sent as long as something written before close() waits."""
    near, far = await one_end(rec, kind)
    near.transport.write(bytes(5_000_000))
    near.transport.close()
    near.transport.write(b"afterwards")
    data = await receive(rec, far, 6_000_000)
    rec.note(len(data), data[-10:])
    await near.lost()
    far.close()


@scenario
@KINDS
@pytest.mark.parametrize(
    "ask", ["is_reading", "is_closing", "get_write_buffer_size", "resume_reading"]
)
async def test_write_to_nobody(rec: Recorder, kind: str, ask: str) -> None:
    """Whoever asks right after a write that failed is told."""
    near, far = await one_end(rec, kind, keep_open=True)
    far.close()
    await near.until(lambda: "eof_received" in near.calls)
    if kind == "tcp":
        near.transport.write(b"answered by a reset")
        await asyncio.sleep(0.02)
    near.transport.write(b"to nobody")
    rec.attempt(ask, getattr(near.transport, ask))
    rec.note(near.transport.is_reading(), near.transport.is_closing())
    await near.lost()


@scenario
async def test_repr_after_a_failed_write(rec: Recorder) -> None:
    near, far = await one_end(rec, keep_open=True)
    far.close()
    await near.until(lambda: "eof_received" in near.calls)
    near.transport.write(b"to nobody")
    rec.party("shown")(repr(near.transport))
    rec.note(near.transport.is_closing(), repr(near.transport))
    await near.lost()


@scenario
@KINDS
async def test_half_close_by_us(rec: Recorder, kind: str) -> None:
    near, far = await one_end(rec, kind)
    rec.note(near.transport.can_write_eof())
    near.transport.write(b"question")
    near.transport.write_eof()
    near.transport.write_eof()
    rec.attempt("write", near.transport.write, b"more")
    rec.attempt("writelines", near.transport.writelines, [b"more"])
    rec.note(await receive(rec, far, 100))
    await rec.loop.sock_sendall(far, b"answer")
    await near.data(6)
    far.close()
    await near.lost()


@scenario
@KINDS
async def test_reset(rec: Recorder, kind: str) -> None:
    near, far = await one_end(rec, kind)
    near.transport.write(bytes(3_000_000))
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    await near.lost()
    near.transport.write(b"x")


@scenario
@pytest.mark.parametrize(
    "call",
    ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing"]
    + ["connection_lost"],
)
async def test_protocol_that_raises(rec: Recorder, call: str) -> None:
    rec.handler()
    near, far = await one_end(rec, raises=call)
    near.transport.set_write_buffer_limits(high=1)
    near.transport.write(bytes(2_000_000))
    await receive(rec, far, 2_000_000)
    await rec.loop.sock_sendall(far, b"data")
    if call in ("data_received", "eof_received"):
        far.shutdown(socket.SHUT_WR)
    else:
        await near.data(4)
        near.transport.close()
    await near.lost()
    far.close()


@scenario
@pytest.mark.parametrize("high", [None, 0, 1, 2, 4096, 1 << 40])
@pytest.mark.parametrize("low", [None, 0, 1, 4096])
async def test_flow_control(rec: Recorder, high: int | None, low: int | None) -> None:
    near, far = await one_end(rec)
    transport = near.transport
    rec.attempt("limits", transport.set_write_buffer_limits, high, low)
    rec.note(transport.get_write_buffer_limits())
    transport.write(b"")
    transport.write(b"x" * 2_000_000)
    rec.note(near.calls, transport.get_write_buffer_size() > 0)
    transport.write(b"y")
    total = len(await receive(rec, far, 2_000_001))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rec.note(total, near.calls, transport.get_write_buffer_size())
    await finish(near, far)


@scenario
async def test_bad_arguments(rec: Recorder) -> None:
    near, far = await one_end(rec)
    transport = near.transport
    for data in ("text", None, 1, [b"x"]):
        rec.attempt("write", transport.write, data)
    for limits in ((-1, None), (1, 2), (0, 1), (None, -1)):
        rec.attempt("limits", transport.set_write_buffer_limits, *limits)
    rec.attempt("protocol", transport.set_protocol, None)
    rec.note(transport.get_protocol())
    transport.set_protocol(near)
    for data in (b"b", bytearray(b"a"), memoryview(b"m")):
        rec.attempt("good", transport.write, data)
    rec.note(await receive(rec, far, 3))
    await finish(near, far)


@scenario
async def test_pause_and_resume(rec: Recorder) -> None:
    near, far = await one_end(rec)
    transport = near.transport
    for name in ("pause_reading", "pause_reading", "resume_reading", "resume_reading"):
        rec.attempt(name, getattr(transport, name))
        rec.note(transport.is_reading(), repr(transport))
    transport.pause_reading()
    await rec.loop.sock_sendall(far, b"held")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rec.note(near.got)
    transport.resume_reading()
    await near.data(4)
    transport.pause_reading()
    far.close()
    await asyncio.sleep(0)
    rec.note(near.calls)
    transport.close()
    await near.lost()


@scenario
async def test_abort_with_data_waiting(rec: Recorder) -> None:
    near, far = await one_end(rec)
    near.transport.write(bytes(5_000_000))
    rec.note(near.transport.get_write_buffer_size() > 0)
    near.transport.abort()
    rec.note(near.transport.get_write_buffer_size(), near.transport.is_closing())
    await near.lost()
    far.close()


# ---- connecting and serving ----


def accept_into(rec: Recorder, made: list[Notes]) -> Any:
    def accept() -> Notes:
        made.append(Notes(rec, f"server {len(made)}"))
        return made[-1]

    return accept


@scenario
@KINDS
async def test_connect_and_echo(rec: Recorder, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        path = f"{folder}/socket"
        made: list[Notes] = []
        client = Notes(rec, "client")
        accept = accept_into(rec, made)
        if kind == "tcp":
            server = await rec.loop.create_server(accept, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await rec.loop.create_connection(lambda: client, *address)
        else:
            server = await rec.loop.create_unix_server(accept, path)
            await rec.loop.create_unix_connection(lambda: client, path)
        client.transport.write(b"ping")
        client.transport.write_eof()
        await client.lost()
        await made[0].lost()
        server.close()
        await server.wait_closed()
        rec.note(os.path.exists(path), made[0].got)
        if kind == "unix":
            with rec.raises("again"):
                await rec.loop.create_unix_connection(lambda: client, path)


@scenario(cancel=True)
async def test_connecting_is_cancelled(rec: Recorder) -> None:
    # The far end is a plain socket: nothing of the loop runs beside the client.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Notes(rec, "client")
        try:
            await rec.loop.create_connection(lambda: client, *listener.getsockname())
            far = listener.accept()[0]
            far.setblocking(False)
            await rec.loop.sock_sendall(far, b"ping")
            rec.note(await client.data(4))
            far.close()
            await client.lost()
        finally:
            if client.calls:
                client.transport.abort()


@scenario(cancel=True)
async def test_serving_is_cancelled(rec: Recorder) -> None:
    server = await rec.loop.create_server(lambda: Notes(rec, "s"), "127.0.0.1", 0)
    server.close()
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        server = await rec.loop.create_unix_server(lambda: Notes(rec, "s"), f"{folder}/s")
        try:
            await server.start_serving()
        finally:
            server.close()
        await server.wait_closed()


@scenario
async def test_connecting_badly(rec: Recorder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        def protocol() -> Notes:
            raise Boom("factory")

        for what, kw in {
            "refused": {"host": "127.0.0.1", "port": port},
            "nothing": {},
            "both": {"host": "127.0.0.1", "port": port, "sock": taken},
            "datagram": {"sock": socket.socket(type=socket.SOCK_DGRAM)},
            "hostname": {"host": "127.0.0.1", "port": port, "server_hostname": "x"},
            "no name": {"sock": taken, "ssl": True},
            "handshake": {"host": "127.0.0.1", "port": port, "ssl_handshake_timeout": 1},
            "local": {"host": "127.0.0.1", "port": port, "local_addr": ("127.0.0.1", port)},
            "family": {"host": "127.0.0.1", "port": port, "family": socket.AF_INET6},
            "all": {"host": "127.0.0.1", "port": port, "all_errors": True},
            "eyeballs": {"host": "127.0.0.1", "port": port, "happy_eyeballs_delay": 0.1},
        }.items():
            with rec.raises(what):
                await rec.loop.create_connection(protocol, **kw)
            if "sock" in kw and kw["sock"] is not taken:
                kw["sock"].close()
        with rec.raises("in use"):
            taken.listen()
            await rec.loop.create_server(protocol, "127.0.0.1", port)
        near, far = socket.socketpair()
        with rec.raises("factory"):
            await rec.loop.create_connection(protocol, sock=near)
        near.close()
        far.close()


@scenario
@pytest.mark.parametrize("how", ["close", "close_clients", "abort_clients", "context"])
async def test_server_closes_with_clients_inside(rec: Recorder, how: str) -> None:
    if not hasattr(asyncio.Server, "close_clients") and how.endswith("clients"):
        return
    made: list[Notes] = []
    server = await rec.loop.create_server(accept_into(rec, made), "127.0.0.1", 0)
    rec.note(server.is_serving(), len(server.sockets), repr(server))
    clients = []
    for n in range(2):
        clients.append(Notes(rec, f"client {n}"))
        address = server.sockets[0].getsockname()
        await rec.loop.create_connection(lambda: clients[-1], *address)
        while len(made) <= n:
            await asyncio.sleep(0.001)
    if how == "context":
        async with server:
            rec.note(server.is_serving())
            for notes in clients:
                notes.transport.close()
    else:
        server.close()
        if how != "close":
            getattr(server, how)()
    rec.note(server.is_serving(), len(server.sockets), server.get_loop() is rec.loop, repr(server))
    with rec.raises("start"):
        await server.start_serving()
    with rec.raises("forever"):
        await server.serve_forever()
    for notes in clients:
        notes.transport.close()
    for notes in clients + made:
        await notes.lost()
    await server.wait_closed()


@scenario(cancel=True)
async def test_serve_forever(rec: Recorder) -> None:
    server = await rec.loop.create_server(lambda: Notes(rec, "s"), "127.0.0.1", 0)
    async with server:
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        with rec.raises("twice"):
            await server.serve_forever()
        task.cancel()
        with rec.raises("forever"):
            await task
    rec.note(server.is_serving())


# ---- asyncio's streams ----


@scenario(cancel=True)
async def test_streams(rec: Recorder) -> None:
    near, far = socket.socketpair()
    writer = far_writer = None
    try:
        reader, writer = await asyncio.open_connection(sock=near)
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        writer.writelines([b"one\ntwo\n", b"xxEND", b"12345"])
        await writer.drain()
        rec.note(await far_reader.readline(), await far_reader.readline())
        rec.note(await far_reader.readuntil(b"END"), await far_reader.readexactly(5))
        writer.write(b"rest")
        writer.write_eof()
        rec.note(await far_reader.read(), far_reader.at_eof())
        with rec.raises("exactly"):
            await far_reader.readexactly(3)
        far_writer.write(b"bye")
        far_writer.close()
        await far_writer.wait_closed()
        rec.note(await reader.read(10), await reader.read(10))
    finally:
        for one in (writer, far_writer):
            if one is not None:
                one.close()
        near.close()
        far.close()


@scenario
async def test_stream_limits_and_errors(rec: Recorder) -> None:
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near, limit=8)
    far.sendall(b"0123456789abcdef\nab\n")
    for call in (reader.readline, reader.readline, reader.readline):
        with rec.raises("line"):
            far.sendall(b"0123456789" if call is None else b"")
            rec.note(await call())
            far.sendall(b"z\n")
    waits = asyncio.ensure_future(reader.read(100))
    await asyncio.sleep(0)
    with rec.raises("second"):
        await reader.readexactly(1)
    far.close()
    rec.note(await waits)
    with rec.raises("until"):
        await reader.readuntil(b"")
    writer.close()
    await writer.wait_closed()
    with rec.raises("drain"):
        await writer.drain()


# ---- datagrams ----


@scenario
@pytest.mark.parametrize("connected", [False, True])
async def test_udp(rec: Recorder, connected: bool) -> None:
    server, client = Notes(rec, "server"), Notes(rec, "client")
    await rec.loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 0))
    address = server.transport.get_extra_info("sockname")
    await rec.loop.create_datagram_endpoint(
        lambda: client,
        remote_addr=address if connected else None,
        local_addr=None if connected else ("127.0.0.1", 0),
    )
    rec.note(repr(client.transport))
    for data in (b"one", b"", b"three"):
        rec.attempt("send", client.transport.sendto, data, None if connected else address)
    await server.until(lambda: "datagram_received" in server.calls)
    rec.attempt("text", client.transport.sendto, "text", address)
    rec.attempt("elsewhere", client.transport.sendto, b"x", ("127.0.0.1", 9))
    rec.attempt("huge", client.transport.sendto, bytes(70_000), None if connected else address)
    client.transport.close()
    rec.note(client.transport.is_closing())
    await client.lost()
    server.transport.abort()
    await server.lost()


@scenario
async def test_unix_datagrams(rec: Recorder) -> None:
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        one, two = Notes(rec, "one"), Notes(rec, "two")
        make = rec.loop.create_datagram_endpoint
        unix = socket.AF_UNIX
        await make(lambda: two, local_addr=f"{folder}/two", family=unix)
        await make(
            lambda: one, local_addr=f"{folder}/one", remote_addr=f"{folder}/two", family=unix
        )
        one.transport.sendto(b"hello")
        await two.until(lambda: "datagram_received" in two.calls)
        two.transport.close()
        await two.lost()
        rec.attempt("send", one.transport.sendto, b"x")
        rec.attempt("elsewhere", one.transport.sendto, b"x", f"{folder}/three")
        one.transport.close()
        await one.lost()


@scenario
async def test_datagram_endpoints_made_badly(rec: Recorder) -> None:
    make = rec.loop.create_datagram_endpoint
    near, far = socket.socketpair()
    for what, kw in {
        "nothing": {},
        "stream": {"sock": near},
        "text": {"local_addr": "text"},
        "families": {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)},
    }.items():
        with rec.raises(what):
            await make(lambda: Notes(rec, "p"), **kw)
    near.close()
    far.close()


# ---- pipes and children ----


@scenario
async def test_pipes(rec: Recorder) -> None:
    reading, writing = os.pipe()
    source, sink = Notes(rec, "read"), Notes(rec, "write")
    await rec.loop.connect_read_pipe(lambda: source, os.fdopen(reading, "rb", 0))
    await rec.loop.connect_write_pipe(lambda: sink, os.fdopen(writing, "wb", 0))
    rec.note(repr(source.transport), repr(sink.transport), sink.transport.can_write_eof())
    sink.transport.set_write_buffer_limits(0)
    sink.transport.write(b"x" * 200_000)
    await source.data(200_000)
    await sink.until(lambda: "resume_writing" in sink.calls)
    sink.transport.write_eof()
    await source.lost()
    await sink.lost()


@scenario
async def test_write_pipe_whose_reader_leaves(rec: Recorder) -> None:
    reading, writing = os.pipe()
    sink = Notes(rec, "write")
    await rec.loop.connect_write_pipe(lambda: sink, os.fdopen(writing, "wb", 0))
    os.close(reading)
    await sink.lost()
    sink.transport.write(b"x")
    with tempfile.TemporaryFile() as file:
        with rec.raises("file"):
            await rec.loop.connect_read_pipe(lambda: sink, file)
        with rec.raises("file"):
            await rec.loop.connect_write_pipe(lambda: sink, file)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", code]


@scenario
@pytest.mark.parametrize(
    "code", ["pass", "exit(3)", "print(input()[::-1])", "import os; os.abort()"]
)
async def test_children(rec: Recorder, code: str) -> None:
    child = await asyncio.create_subprocess_exec(
        *python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    rec.note(child.returncode)
    rec.note(await child.communicate(b"hello\n"), child.returncode, await child.wait())
    for name in ("kill", "terminate"):
        rec.attempt(name, getattr(child, name))


class Child(asyncio.SubprocessProtocol):
    def __init__(self, rec: Recorder) -> None:
        self.rec = rec
        self.over = rec.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.rec.party("made")(repr(transport))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.rec.party(f"pipe {fd}")(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.rec.party(f"pipe {fd}")("lost", exc)

    def process_exited(self) -> None:
        self.rec.party("exit")("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.rec.party("exit")("lost", exc)
        self.over.set_result(None)


@scenario
@pytest.mark.parametrize("how", ["ends", "kill", "close"])
async def test_child_transport(rec: Recorder, how: str) -> None:
    code = "print('out', flush=True)" if how == "ends" else "input()"
    transport, child = await rec.loop.subprocess_exec(lambda: Child(rec), *python(code))
    rec.note(transport.get_returncode(), transport.get_pipe_transport(7), transport.is_closing())
    if how != "ends":
        getattr(transport, how)()
    await child.over
    rec.note(transport.get_returncode() if how != "close" else None, repr(transport))
    for name in ("kill", "close", "terminate"):
        rec.attempt(name, getattr(transport, name))


@scenario
async def test_children_made_badly(rec: Recorder) -> None:
    for what, args, kw in (
        ("missing", ("/nowhere/at-all",), {}),
        ("text", (1,), {}),
        ("universal", ("x",), {"universal_newlines": True}),
        ("shell", ("x",), {"shell": True}),
        ("buffer", ("x",), {"bufsize": 1}),
        ("encoding", ("x",), {"encoding": "utf-8"}),
    ):
        with rec.raises(what):
            await rec.loop.subprocess_exec(lambda: Child(rec), *args, **kw)
    with rec.raises("list"):
        await rec.loop.subprocess_shell(lambda: Child(rec), ["ls"])
