"""Rows of the feature table in docs/compatibility.md: transports, servers, datagrams, names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from dgramlib import endpoint, name_of
from dgramlib import finish as finish_endpoints
from netlib import BufferedRecorder, Recorder, finish, link, tcp_pair

Run = Callable[[Any], Any]


async def serve(factory: Any = Recorder, **kwargs: Any) -> tuple[Any, Any]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, **kwargs)
    return server, server.sockets[0].getsockname()


async def connect(address: Any, **kwargs: Any) -> Recorder:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(Recorder, *address, **kwargs)
    return protocol


async def gone(*protocols: Recorder) -> None:
    for protocol in protocols:
        protocol.transport.close()
    for protocol in protocols:
        await protocol.until("lost")


# ---- stream transports ----


def test_half_close(run: Run) -> None:
    """After the peer's eof we still write, and it gets everything; one eof, one end."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        one = await link(protocol)
        await one.send(b"request")
        one.far.shutdown(socket.SHUT_WR)
        await protocol.until("eof")
        assert not one.transport.is_closing()
        late = bytes(range(256)) * 2000
        one.transport.write(late)
        one.transport.write_eof()
        assert await one.recv(len(late) + 1) == late
        one.transport.close()
        assert await one.lost() == ("lost", "NoneType")
        assert [name for name in protocol.names() if name not in ("pause", "resume")] == [
            "made", "data", "eof", "lost",
        ]  # fmt: skip
        one.far.close()

    run(main())


def test_buffered_protocol(run: Run) -> None:
    async def main() -> None:
        plain, buffered = Recorder(), BufferedRecorder()
        one = await link(plain)
        await one.send(b"first")
        await plain.until_data(5)
        one.transport.set_protocol(buffered)
        assert one.transport.get_protocol() is buffered
        await one.send(b"second, longer than the buffer of the protocol")
        assert await buffered.until_data(46) == b"second, longer than the buffer of the protocol"
        one.transport.set_protocol(plain)
        await one.send(b"third")
        assert await plain.until_data(10) == b"firstthird"
        await finish(one)

    run(main())


def test_extra_info_socket(run: Run) -> None:
    async def main() -> None:
        one = await link()
        view = one.transport.get_extra_info("socket")
        assert isinstance(view, asyncio.trsock.TransportSocket)
        view.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert view.family == socket.AF_INET
        assert view.getpeername() == one.far.getsockname()
        view.shutdown(socket.SHUT_WR)
        assert await one.recv(1) == b""
        await finish(one)
        assert view.fileno() == -1

    run(main())


def test_transport_isinstance(run: Run) -> None:
    async def main() -> None:
        one = await link()
        assert isinstance(one.transport, asyncio.Transport)
        datagrams, _ = await endpoint()
        assert isinstance(datagrams, asyncio.DatagramTransport)
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        reader, _ = await loop.connect_read_pipe(Recorder, os.fdopen(read_end, "rb", 0))
        writer, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(write_end, "wb", 0))
        assert isinstance(reader, asyncio.ReadTransport)
        assert isinstance(writer, asyncio.WriteTransport)
        await finish(one)
        await finish_endpoints(datagrams)
        await gone(reader.get_protocol(), protocol)

    run(main())


def test_transport_weakref(run: Run) -> None:
    async def main() -> None:
        one = await link()
        datagrams, _ = await endpoint()
        known: Any = weakref.WeakKeyDictionary({one.transport: 1, datagrams: 2})
        assert known[one.transport] == 1
        assert known[datagrams] == 2
        await finish(one)
        await finish_endpoints(datagrams)

    run(main())


def test_write_buffer_limits(run: Run) -> None:
    async def main() -> None:
        one = await link()
        assert one.transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        one.transport.set_write_buffer_limits(high=1000)
        assert one.transport.get_write_buffer_limits() == (250, 1000)
        one.transport.set_write_buffer_limits(high=1000, low=10)
        assert one.transport.get_write_buffer_limits() == (10, 1000)
        with pytest.raises(ValueError, match="must be >="):
            one.transport.set_write_buffer_limits(high=1, low=2)
        total = await one.fill(high=None)
        while "pause" not in one.protocol.events:
            one.transport.write(bytes(1000))
            total += 1000
        assert len(await one.recv(total)) == total
        await one.protocol.until("resume")
        await finish(one)

    run(main())


async def lines_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


def test_streams_are_asyncios_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_connection() and start_server(): their classes, coroutines, and what is patched in them.

    So a library's isinstance(), a StreamReader that a debugger or a test has patched, and a read
    that is made a task all do what asyncio's documentation says.
    (rsloop's reader is no StreamReader, and its readline() takes the line when it is called.)
    """
    served: list[tuple[Any, Any]] = []

    async def serve(reader: Any, writer: Any) -> None:
        served.append((reader, writer))
        await lines_back(reader, writer)

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"one\ntwo\nthree\nfour\n")
        # a coroutine does nothing before it is awaited, and can be made a task
        later = reader.readline()
        assert asyncio.iscoroutine(later)
        assert await reader.readline() == b"one\n"
        assert await later == b"two\n"
        assert await asyncio.create_task(reader.readline()) == b"three\n"
        for one, other in ((reader, writer), *served):
            assert isinstance(one, asyncio.StreamReader)
            assert isinstance(other, asyncio.StreamWriter)
            assert isinstance(other.transport.get_protocol(), asyncio.StreamReaderProtocol)
        # a method of the class that is replaced is the one that runs
        readline = asyncio.StreamReader.readline

        async def marked(self: asyncio.StreamReader) -> bytes:
            return b"patched: " + await readline(self)

        monkeypatch.setattr(asyncio.StreamReader, "readline", marked)
        assert await reader.readline() == b"patched: four\n"
        monkeypatch.undo()
        writer.close()
        await writer.wait_closed()
        await served[0][1].wait_closed()
        server.close()

    run(main())


def far_and_near() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection, the first one non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.setblocking(False)
    return far, near


def test_callbacks_run_between_reads(run: Run) -> None:
    """What data_received() schedules runs before the next one, whatever waits to be read.

    So one peer that fills its socket holds up neither a timer nor another connection.
    (uvloop, zuvloop and rloop read up to fifteen times in a row, rsloop twice.)
    """
    events: list[str] = []

    class Noting(asyncio.Protocol):
        def __init__(self) -> None:
            self.left = 0

        def data_received(self, data: bytes) -> None:
            events.append("read")
            self.left -= len(data)
            loop.call_soon(events.append, "callback")

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        far, near = far_and_near()
        with far:
            protocol = Noting()
            with contextlib.suppress(BlockingIOError):
                while True:
                    protocol.left += far.send(bytes(1 << 20))
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            while protocol.left > 0:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            transport.close()
            await asyncio.sleep(0)

    loop: asyncio.AbstractEventLoop
    run(main())
    assert events == ["read", "callback"] * (len(events) // 2)
    assert len(events) >= 4


def test_written_bytes_leave_with_the_callback(run: Run) -> None:
    """What a callback has written is with the far end before the next callback runs.

    (zuvloop keeps it for longer, in which a blocking call of the program holds it back.)
    """
    seen: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far, near = far_and_near()
        with far:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
            await asyncio.sleep(0)
            looked = loop.create_future()

            def look() -> None:
                with contextlib.suppress(BlockingIOError):
                    seen.append(far.recv(100))
                looked.set_result(None)

            loop.call_soon(transport.write, b"out by now")
            loop.call_soon(look)
            await looked
            transport.close()
            await asyncio.sleep(0)

    run(main())
    assert seen == [b"out by now"]


def test_importing_leaves_asyncio_alone(loop_kind: str) -> None:
    """The module of a loop replaces no function and no method of asyncio's for the other loops."""
    module = "hotloop" if loop_kind.startswith("hotloop-") else loop_kind
    program = """
import asyncio, asyncio.subprocess, importlib, ssl, sys
homes = asyncio, asyncio.streams, asyncio.subprocess, asyncio.events, asyncio.tasks, ssl
owners = [*homes, asyncio.StreamReader, asyncio.StreamWriter, ssl.SSLContext]
def look():
    return [dict(vars(one)) for one in owners]
before = look()
importlib.import_module(sys.argv[1])
for one, was, now in zip(owners, before, look(), strict=True):
    for name, value in was.items():
        if callable(value) and now.get(name) is not value:
            print(one.__name__, name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == ""


def test_sendfile(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        near, far = tcp_pair()
        with open(path, "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(one.transport, file))
            assert await one.recv(512000) == path.read_bytes()
            assert await sending == 512000
            sending = asyncio.ensure_future(loop.sock_sendfile(near, file, 10, 1000))
            got = b""
            while len(got) < 1000:
                got += await loop.sock_recv(far, 1000)
            assert got == path.read_bytes()[10:1010]
            assert await sending == 1000
        near.close()
        far.close()
        await finish(one)

    run(main())


def test_sock_datagram_methods(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
            assert await loop.sock_recvfrom(two, 100) == (b"hello", one.getsockname())
            waiting = asyncio.ensure_future(loop.sock_recvfrom_into(two, buffer := bytearray(9)))
            await asyncio.sleep(0)
            await loop.sock_sendto(one, b"again", two.getsockname())
            assert await waiting == (5, one.getsockname())
            assert buffer[:5] == b"again"

    run(main())


def test_connect_accepted_socket(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        transport, protocol = await loop.connect_accepted_socket(Recorder, near)
        assert transport.get_extra_info("peername") == far.getsockname()
        await loop.sock_sendall(far, b"x")
        assert await protocol.until_data(1) == b"x"
        await gone(protocol)
        far.close()

    run(main())


def test_happy_eyeballs(run: Run) -> None:
    """The second address is tried while the first hangs; all_errors gives a group."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server, address = await serve()
        connecting = loop.sock_connect

        async def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
            kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [
                (socket.AF_INET, *kind, ("127.0.0.2", 1)),
                (socket.AF_INET, *kind, address),
            ]

        async def sock_connect(sock: Any, to: Any) -> None:
            if to != address:
                await loop.create_future()  # never
            await connecting(sock, to)

        loop.getaddrinfo, loop.sock_connect = getaddrinfo, sock_connect
        protocol = await connect(
            ("name", 1), happy_eyeballs_delay=0.001, interleave=1, all_errors=True
        )
        assert protocol.transport.get_extra_info("peername") == address
        await gone(protocol)

        async def refuse(sock: Any, to: Any) -> None:
            raise OSError(f"not {to}")

        loop.sock_connect = refuse
        with pytest.raises(ExceptionGroup, match="create_connection failed") as group:
            await connect(("name", 1), happy_eyeballs_delay=0.001, all_errors=True)
        assert len(group.value.exceptions) == 2
        del loop.getaddrinfo, loop.sock_connect
        server.close()

    run(main())


# ---- servers ----


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has keep_alive from 3.13 on")
def test_keep_alive(run: Run) -> None:
    async def main() -> None:
        server, _ = await serve(keep_alive=True)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        server.close()

    run(main())


def test_reuse_port(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, address = await serve(reuse_port=True)
        second = await loop.create_server(Recorder, *address, reuse_port=True)
        first.close()
        protocol = await connect(address)
        await gone(protocol)
        second.close()
        await second.wait_closed()

    run(main())


def test_list_of_hosts(run: Run) -> None:
    """Each address is bound once, however often the list names it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        server = await loop.create_server(Recorder, hosts, 0)
        found = sorted(sock.getsockname()[0] for sock in server.sockets)
        assert found == ["127.0.0.1", "127.0.0.2"]
        server.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has these from 3.13 on")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_close_and_abort_clients(run: Run, how: str) -> None:
    async def main() -> None:
        server, address = await serve()
        assert isinstance(server, asyncio.AbstractServer)
        assert isinstance(server, asyncio.Server)  # what the documentation promises
        clients = [await connect(address) for _ in range(3)]
        await asyncio.sleep(0.01)
        server.close()
        getattr(server, how)()
        for client in clients:
            await client.until("lost")
        await server.wait_closed()

    run(main())


def test_wait_closed(run: Run) -> None:
    async def main() -> None:
        made: list[Recorder] = []
        server, address = await serve(lambda: made.append(Recorder()) or made[-1])
        client = await connect(address)
        while not made or made[0].transport is None:
            await asyncio.sleep(0.001)
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0.005)
        assert not waiting.done()
        await gone(client)
        await waiting
        assert "lost" in made[0].names()

    run(main())


def test_unix_sockets(run: Run, tmp_path: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        echo = {}

        class Echo(Recorder):
            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        server = await loop.create_unix_server(lambda: echo.setdefault("p", Echo()), path)
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.write(b"hello")
        assert await protocol.until_data(5) == b"hello"
        await gone(protocol, echo["p"])
        server.close()
        await server.wait_closed()
        assert os.path.exists(path) is (sys.version_info < (3, 13))  # cleanup_socket since
        if sys.version_info >= (3, 13):
            kept = await loop.create_unix_server(Recorder, path, cleanup_socket=False)
            kept.close()
            assert os.path.exists(path)

    run(main())


# ---- datagrams, pipes ----


def test_udp_endpoint(run: Run) -> None:
    async def main() -> None:
        one, first = await endpoint()
        two, second = await endpoint(remote_addr=name_of(one))
        two.sendto(b"hello")
        assert await first.until_got(1) == [b"hello"]
        one.sendto(b"back", first.got[0][1])
        assert await second.until_got(1) == [b"back"]
        await finish_endpoints(one, two)

    run(main())


def test_udp_pause_reading(run: Run) -> None:
    async def main() -> None:
        one, protocol = await endpoint()
        one.pause_reading()
        assert not one.is_reading()
        for number in range(5):
            one.sendto(b"%d" % number, name_of(one))
        await asyncio.sleep(0.005)
        assert protocol.got == []
        one.resume_reading()
        assert await protocol.until_got(5) == [b"0", b"1", b"2", b"3", b"4"]
        await finish_endpoints(one)

    run(main())


def test_pipes(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        _, reader = await loop.connect_read_pipe(Recorder, os.fdopen(read_end, "rb", 0))
        writing, writer = await loop.connect_write_pipe(Recorder, os.fdopen(write_end, "wb", 0))
        data = bytes(range(256)) * 2000
        writing.write(data)
        assert await reader.until_data(len(data)) == data
        writing.write_eof()
        await writer.until("lost")
        await reader.until("lost")
        assert "eof" in reader.names()

    run(main())


# ---- names ----


def test_dns(run: Run) -> None:
    """A numeric address takes no thread; a name is looked up outside of the loop's thread."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked = ("127.0.0.1", 80)
        assert await loop.getaddrinfo(*asked, type=socket.SOCK_STREAM) == socket.getaddrinfo(
            *asked, type=socket.SOCK_STREAM
        )
        found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        assert found == socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        numbers = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(asked, numbers) == ("127.0.0.1", "80")

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6_zone(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        index, name = socket.if_nameindex()[0]
        for zone in (name, str(index)):
            for kind in (0, socket.SOCK_STREAM):
                try:
                    expected = socket.getaddrinfo(f"fe80::1%{zone}", 80, type=kind)
                except OSError as exc:
                    pytest.skip(f"no link-local addresses here: {exc}")
                found = await loop.getaddrinfo(f"fe80::1%{zone}", 80, type=kind)
                assert found == expected
                assert {entry[4][3] for entry in found} == {index}

    run(main())
