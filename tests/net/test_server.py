"""Servers: accepting, closing, waiting, and what goes wrong while accepting."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import pytest
from netlib import LIMIT, Recorder, reset


class Accepting:
    """A server whose protocols are kept in `made`."""

    def __init__(self) -> None:
        self.made: list[Recorder] = []
        self.server: Any = None

    async def start(self, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        args = args or ("127.0.0.1", 0)
        self.server = await loop.create_server(self.factory, *args, **kwargs)
        return self.server

    def factory(self) -> Recorder:
        self.made.append(Recorder())
        return self.made[-1]

    @property
    def address(self) -> Any:
        return self.server.sockets[0].getsockname()

    async def client(self) -> socket.socket:
        sock = socket.create_connection(self.address[:2])
        sock.setblocking(False)
        count = len(self.made) + 1
        async with asyncio.timeout(LIMIT):
            while len(self.made) < count or "made" not in self.made[-1].events:
                await asyncio.sleep(0)
        return sock


def test_accept_and_echo(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        assert isinstance(server, asyncio.AbstractServer)
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        sock = await a.client()
        t = a.made[0].transport
        assert t.get_extra_info("peername") == sock.getsockname()
        assert t.get_extra_info("sockname") == sock.getpeername()
        view = t.get_extra_info("socket")
        assert (view.family, view.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert view.gettimeout() == 0
        assert not view.get_inheritable()
        sock.send(b"x")
        await a.made[0].until_data(1)
        sock.close()
        await a.made[0].until("lost")
        assert a.made[0].names() == ["made", "data", "eof", "lost"]
        server.close()
        await server.wait_closed()

    run(main())


def test_ipv6(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        try:
            await a.start("::1", 0)
        except OSError:
            pytest.skip("no IPv6 on this machine")
        sock = await a.client()
        t = a.made[0].transport
        assert t.get_extra_info("peername") == sock.getsockname()
        assert t.get_extra_info("sockname") == sock.getpeername()
        assert len(t.get_extra_info("peername")) == 4
        sock.close()
        await a.made[0].until("lost")
        a.server.close()

    run(main())


def test_peername_though_the_client_is_gone(run: Any) -> None:
    async def main() -> None:
        names: list[Any] = []

        class P(Recorder):
            def connection_made(self, transport: Any) -> None:
                names.append(transport.get_extra_info("peername"))

            def connection_lost(self, exc: Any) -> None:
                gone.append(1)

        gone: list[int] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(P, "127.0.0.1", 0)
        expected = []
        for _ in range(20):
            sock = socket.create_connection(server.sockets[0].getsockname())
            expected.append(sock.getsockname())
            reset(sock)
        async with asyncio.timeout(LIMIT):
            while len(gone) < 20:
                await asyncio.sleep(0.001)
        assert sorted(names) == sorted(expected)
        server.close()
        await server.wait_closed()

    run(main())


def test_many_at_once(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        await a.start(backlog=200)
        socks = [socket.create_connection(a.address) for _ in range(150)]
        async with asyncio.timeout(LIMIT):
            while len(a.made) < 150:
                await asyncio.sleep(0.001)
        for sock in socks:
            sock.close()
        for protocol in a.made:
            await protocol.until("lost")
        a.server.close()
        await a.server.wait_closed()

    run(main())


def test_contexts_of_connections(run: Any) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> None:
        seen: list[tuple[str, str]] = []

        class P(Recorder):
            def __init__(self) -> None:
                super().__init__()
                seen.append(("factory", var.get()))
                var.set("factory")

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                seen.append(("made", var.get()))
                var.set("made")

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                seen.append(("data", var.get()))

        var.set("server")
        a = Accepting()
        a.factory = lambda: a.made.append(P()) or a.made[-1]  # type: ignore
        await a.start()
        var.set("later")
        for _ in range(2):
            sock = await a.client()
            sock.send(b"x")
            await a.made[-1].until_data(1)
            sock.close()
            await a.made[-1].until("lost")
        # From 3.15 on a connection has one context for all of its calls.
        last = "made" if sys.version_info >= (3, 15) else "factory"
        assert seen == [("factory", "server"), ("made", "factory"), ("data", last)] * 2
        a.server.close()

    run(main())


def test_close_and_wait_closed(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        first, second = await a.client(), await a.client()
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()
        address = a.address
        server.close()
        server.close()
        assert not server.is_serving()
        assert server.sockets == ()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        first.close()
        await a.made[0].until("lost")
        await asyncio.sleep(0)
        assert not waiting.done()
        second.close()
        await waiting
        await server.wait_closed()
        server.close()

    run(main())


def test_abandoned_connection_is_no_longer_waited_for(hotrun: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        sock = await a.client()
        a.made[0].transport.pause_reading()  # nothing watches it: only the cycle holds it
        server.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            a.made.clear()
            gc.collect()
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()
        sock.close()

    hotrun(main())


def test_failed_transport_is_not_waited_for(hotrun: Any, handled_hot: Any) -> None:
    """What fails after the server has counted the connection takes it back."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)

        def call_soon(*args: Any, **kwargs: Any) -> Any:
            del loop.call_soon
            raise ZeroDivisionError

        loop.call_soon = call_soon
        sock = socket.create_connection(server.sockets[0].getsockname())
        sock.setblocking(False)
        async with asyncio.timeout(LIMIT):
            assert await loop.sock_recv(sock, 10) == b""
            server.close()
            await server.wait_closed()
        sock.close()
        assert [type(c["exception"]) for c in handled_hot] == [ZeroDivisionError]
        handled_hot.clear()

    hotrun(main())


def test_wait_closed_without_connections(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()  # it has not been closed yet
        server.close()
        await waiting

    run(main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_close_or_abort_clients(hotrun: Any, how: str) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        socks = [await a.client() for _ in range(3)]
        while not a.made[0].transport.get_write_buffer_size():
            a.made[0].transport.write(bytes(100_000))
        getattr(server, how)()
        assert all(p.transport.is_closing() for p in a.made)
        await a.made[1].until("lost")
        await a.made[2].until("lost")
        assert ("lost" in a.made[0].names()) is (how == "abort_clients")
        for sock in socks:
            sock.close()
        await a.made[0].until("lost")
        server.close()
        await server.wait_closed()
        getattr(server, how)()

    hotrun(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has them from 3.13 on")
def test_close_clients_as_asyncio(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        sock = await a.client()
        server.close()
        server.close_clients()
        await server.wait_closed()
        assert a.made[0].events == ["made", ("lost", "NoneType")]
        sock.close()

    run(main())


def test_serve_forever(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start(start_serving=False)
        assert not server.is_serving()
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        assert server.is_serving()
        with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
            await server.serve_forever()
        sock = await a.client()
        sock.close()
        await a.made[0].until("lost")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(main())


def test_serve_forever_ends_with_close(run: Any) -> None:
    async def main() -> None:
        server = await Accepting().start()
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_start_serving(run: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start(start_serving=False)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(a.address)
        await server.start_serving()
        await server.start_serving()
        (await a.client()).close()
        await a.made[0].until("lost")
        async with server:
            pass
        assert server.sockets == ()

    run(main())


def test_server_never_started(run: Any) -> None:
    async def main() -> None:
        server = await Accepting().start(start_serving=False)
        server.close()
        await server.wait_closed()

    run(main())


def test_close_from_the_factory(hotrun: Any) -> None:
    """The connection that was being made comes too late; asyncio trips over an assertion."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def factory() -> Recorder:
            server.close()
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        socks = [socket.create_connection(address) for _ in range(3)]
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()
        for sock in socks:
            try:
                assert sock.recv(10) == b""  # accepted, then closed
            except ConnectionResetError:  # not accepted at all
                pass
            sock.close()
        assert [p.events for p in made] == [[]]

    hotrun(main())


def test_factory_raises(hotrun: Any, handled_hot: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        error = ZeroDivisionError("no protocol")

        def factory() -> Any:
            raise error

        server = await loop.create_server(factory, "127.0.0.1", 0)
        sock = socket.create_connection(server.sockets[0].getsockname())
        sock.setblocking(False)
        async with asyncio.timeout(LIMIT):
            assert await loop.sock_recv(sock, 10) == b""
        sock.close()
        assert handled_hot == [
            {
                "message": "Error on transport creation for incoming connection",
                "exception": error,
            }
        ]
        handled_hot.clear()
        server.close()
        await server.wait_closed()

    hotrun(main())


@pytest.mark.parametrize("bad", [None, object(), 5])
def test_factory_gives_no_protocol(hotrun: Any, handled_hot: Any, bad: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: bad, "127.0.0.1", 0)
        sock = socket.create_connection(server.sockets[0].getsockname())
        sock.setblocking(False)
        async with asyncio.timeout(LIMIT):
            assert await loop.sock_recv(sock, 10) == b""
        sock.close()
        assert [type(c["exception"]) for c in handled_hot] == [AttributeError]
        handled_hot.clear()
        server.close()
        await server.wait_closed()

    hotrun(main())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_from_the_factory(loop: Any, error: type[BaseException]) -> None:
    def factory() -> Any:
        raise error

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    sock = socket.create_connection(server.sockets[0].getsockname())
    with pytest.raises(error):
        loop.run_forever()
    server.close()
    loop.run_until_complete(server.wait_closed())
    assert sock.recv(10) == b""
    sock.close()


EMFILE = """
    import asyncio, gc, resource, socket, sys, time
    import hotloop

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.set_exception_handler(lambda loop, context: seen.append(context))
        made = []
        class P(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
        server = await loop.create_server(P, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.run_in_executor  # nothing: no thread is needed
        clients = []
        for _ in range(3):
            sock = socket.socket()
            clients.append(sock)
        spare = []
        while True:
            try:
                spare.append(socket.socket())
            except OSError:
                break
        for sock in clients:
            sock.connect(address)
        began = time.monotonic()
        cpu = time.process_time()
        while not seen:
            await asyncio.sleep(0.01)
        assert not made
        await asyncio.sleep(0.5)
        assert len(seen) == 1, seen
        assert seen[0]["message"] == "socket.accept() out of system resource", seen
        assert seen[0]["exception"].errno == 24, seen
        assert seen[0]["socket"].fileno() == server.sockets[0].fileno()
        for sock in spare:
            sock.close()
        if CLOSE:
            server.close()
            await asyncio.sleep(1.0)
            assert not made
            assert len(seen) == 1
        else:
            while len(made) < 3:
                await asyncio.sleep(0.01)
            assert time.monotonic() - began >= 1.0
            assert time.process_time() - cpu < 0.9
            assert len(seen) == 1, seen
            for t in made:
                t.abort()
            server.close()
        await server.wait_closed()
        for sock in clients:
            sock.close()
        print("ok")

    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    hotloop.run(main())
"""


@pytest.mark.parametrize("close", [False, True])
def test_out_of_descriptors(backend: str, close: bool) -> None:
    """One report, a rest of a second, then it goes on; nothing after close()."""
    code = textwrap.dedent(EMFILE).replace("CLOSE", str(close))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "HOTLOOP_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ok", "")


def test_listening_socket_shut_down(hotrun: Any, handled_hot: Any) -> None:
    async def main() -> None:
        a = Accepting()
        server = await a.start()
        server._sockets[0].shutdown(socket.SHUT_RDWR)
        while not handled_hot:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [c["exception"].errno for c in handled_hot] == [errno.EINVAL]
        handled_hot.clear()
        server.close()
        await server.wait_closed()

    hotrun(main())


# ---- create_server's arguments ----


def test_hosts(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for host in (None, "", "localhost", ["127.0.0.1", "127.0.0.1", "localhost"]):
            server = await loop.create_server(Recorder, host, 0)
            names = [s.getsockname()[:2] for s in server.sockets]
            assert names
            assert len({s.family for s in server.sockets}) == len(names)
            server.close()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, family=socket.AF_INET)
        server.close()
        with pytest.raises(socket.gaierror):
            await loop.create_server(Recorder, "::1", 0, family=socket.AF_INET)

    run(main())


def test_port_in_use(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as busy:
            address = busy.getsockname()
            with pytest.raises(OSError, match="error while attempting to bind on address") as info:
                await loop.create_server(Recorder, *address)
            assert info.value.errno == errno.EADDRINUSE
            assert repr(address) in str(info.value)
            assert str(info.value).lower() == str(info.value).replace("Errno", "errno")

    run(main())


@pytest.mark.parametrize("port", [70000, -1])
def test_port_out_of_range(run: Any, port: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            await loop.create_server(Recorder, "127.0.0.1", port)
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            await loop.create_connection(Recorder, "127.0.0.1", port)

    run(main())


def test_address_not_available(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            await loop.create_server(Recorder, "192.0.2.1", 0)

    run(main())


def test_socket_options(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Recorder, "127.0.0.1", 0, reuse_port=True, reuse_address=False
        )
        view = server.sockets[0]
        assert view.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not view.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        second = await loop.create_server(
            Recorder, *view.getsockname(), reuse_port=True, reuse_address=False
        )
        second.close()
        server.close()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        server.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has keep_alive from 3.13 on")
def test_keep_alive(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, keep_alive=True)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        server.close()

    run(main())


def test_given_socket(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        a = Accepting()
        server = await loop.create_server(a.factory, sock=sock)
        a.server = server
        client = await a.client()
        client.close()
        await a.made[0].until("lost")
        server.close()
        assert sock.fileno() == -1

    run(main())


def test_bad_arguments(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def fails(error: type[Exception], message: str, *args: Any, **kw: Any) -> None:
            with pytest.raises(error, match=message):
                await loop.create_server(Recorder, *args, **kw)

        with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
            await fails(ValueError, "Neither host/port nor sock were specified")
            await fails(ValueError, "can not be specified at the same", "x", 1, sock=sock)
            await fails(ValueError, "A Stream Socket was expected", sock=udp)
            await fails(TypeError, "ssl argument must be", "127.0.0.1", 0, ssl=True)
            for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                await fails(ValueError, f"{name} is only meaningful", "x", 0, **{name: 1})
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.connect_accepted_socket(Recorder, udp)
            with pytest.raises(ValueError, match="ssl_handshake_timeout is only meaningful"):
                await loop.connect_accepted_socket(Recorder, sock, ssl_handshake_timeout=1)

    run(main())


def test_connect_accepted_socket(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            conn, _ = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(Recorder, conn)
        client.send(b"x")
        await protocol.until_data(1)
        assert transport.get_extra_info("peername") == client.getsockname()
        transport.close()
        await protocol.until("lost")
        assert conn.fileno() == -1
        client.close()

    run(main())


def test_repr(run: Any) -> None:
    async def main() -> None:
        server = await Accepting().start()
        assert repr(server) == f"<Server sockets={server.sockets!r}>"
        server.close()
        assert repr(server) == "<Server sockets=()>"

    run(main())


def test_debug_log(anyloop: Any, caplog: Any) -> None:
    anyloop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        a = Accepting()
        server = await a.start()
        transport, p = await loop.create_connection(Recorder, *a.address)
        transport.close()
        await p.until("lost")
        while not a.made:
            await asyncio.sleep(0)
        await a.made[0].until("lost")
        server.close()

    anyloop.run_until_complete(main())
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "is serving" in text
    assert "got a new connection from ('127.0.0.1', " in text
    assert " connected to 127.0.0.1:" in text


# ---- Unix sockets ----


def test_unix_server(run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "sock")
        made: list[Recorder] = []
        server = await loop.create_unix_server(
            lambda: made.append(Recorder()) or made[-1],
            path,  # type: ignore
        )
        transport, _ = await loop.create_unix_connection(Recorder, path)
        transport.write(b"x")
        while not made:
            await asyncio.sleep(0)
        await made[0].until_data(1)
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        assert made[0].transport.get_extra_info("peername") == ""
        assert made[0].transport.get_extra_info("sockname") == path
        transport.close()
        await made[0].until("lost")
        server.close()
        assert os.path.exists(path) is (sys.version_info < (3, 13))
        # a stale path is taken over
        server = await loop.create_unix_server(Recorder, path)
        server.close()
        with pytest.raises(ValueError, match="no path and sock were specified"):
            await loop.create_unix_connection(Recorder)
        with pytest.raises(ValueError, match="path was not specified, and no sock specified"):
            await loop.create_unix_server(Recorder)
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, path + "-none")
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="is already in use"):
            await loop.create_unix_server(Recorder, str(tmp_path / "file"))
        with socket.socket() as tcp:
            for call in (loop.create_unix_connection, loop.create_unix_server):
                with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
                    await call(Recorder, sock=tcp)
        abstract = await loop.create_unix_server(Recorder, f"\0hotloop-test-{os.getpid()}")
        abstract.close()

    run(main())


def test_unix_path_replaced(hotrun: Any, tmp_path: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = str(tmp_path / "sock")
        first = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
        second = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
        first.close()
        assert os.path.exists(path)  # the second's
        second.close()
        assert not os.path.exists(path)

    hotrun(main())
