"""Bad names and addresses, sockets of the wrong kind, queues that are full."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from dgramlib import Dgrams
from netlib import LIMIT, Recorder, finish, link

UNLINKS = sys.version_info >= (3, 13)  # cleanup_socket is true by default


def sockets_of_each_kind() -> dict[str, socket.socket]:
    closed = socket.socket()
    closed.close()
    return {
        "tcp": socket.socket(),
        "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": socket.socket(socket.AF_UNIX),
        "unix dgram": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "unix seqpacket": socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "closed": closed,
    }


# what each method refuses by its kind; what it does not may still fail by itself
@pytest.mark.parametrize("kind", ["tcp", "udp", "unix", "unix dgram", "unix seqpacket", "closed"])
@pytest.mark.parametrize(
    ("method", "takes"),
    [
        ("create_connection", {"tcp", "unix", "closed"}),
        ("create_server", {"tcp", "unix", "closed"}),
        ("connect_accepted_socket", {"tcp", "unix", "closed"}),
        ("create_unix_connection", {"unix"}),
        ("create_unix_server", {"unix"}),
    ],
)
def test_sock_of_a_wrong_kind(
    run: Any, handled: list[Any], method: str, kind: str, takes: set[str]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = sockets_of_each_kind()
        sock = made[kind]
        call: Any = getattr(loop, method)
        if kind not in takes:
            with pytest.raises(ValueError, match=r"Socket was expected, got <socket\.socket "):
                await call(Recorder, sock=sock)
            assert kind == "closed" or sock.fileno() >= 0
        elif kind == "closed":
            with pytest.raises((OSError, ValueError)):
                await call(Recorder, sock=sock)
        elif "server" in method and kind == "tcp":
            server = await call(Recorder, sock=sock)
            server.close()
        elif "server" not in method:  # not connected: it is lost as soon as it is read
            transport, protocol = await call(Recorder, sock=sock)
            await protocol.until("lost")
            assert transport.is_closing()
        for sock in made.values():
            sock.close()

    run(main())


@pytest.mark.parametrize("port", [70000, -1, 1 << 80])
@pytest.mark.parametrize("method", ["create_connection", "create_server"])
def test_ports_out_of_range(run: Any, method: str, port: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OverflowError):
            await getattr(loop, method)(Recorder, "127.0.0.1", port)

    run(main())


def test_ports_as_text(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for zero in ("0", b"0", "", None):
            server = await loop.create_server(Recorder, "127.0.0.1", zero)  # type: ignore[call-overload]
            port = server.sockets[0].getsockname()[1]
            assert port > 0
            for text in (str(port), str(port).encode()):
                transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", text)
                assert transport.get_extra_info("peername") == ("127.0.0.1", port)
                transport.abort()
                await protocol.until("lost")
            server.close()
        for bad in ("no-such-service", "12x"):
            with pytest.raises(socket.gaierror):
                await loop.create_connection(Recorder, "127.0.0.1", bad)  # type: ignore[call-overload]
            with pytest.raises(socket.gaierror):
                await loop.create_server(Recorder, "127.0.0.1", bad)  # type: ignore[call-overload]

    run(main())


# ---- Unix paths ----


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("x" * 200, OSError),
        ("no/such/folder/sock", FileNotFoundError),
        (5, TypeError),
        (1.5, TypeError),
    ],
    ids=repr,
)
def test_unix_paths(
    run: Any, path: Any, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by all the methods that take one, or by none; nothing is left open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        outcomes: list[Any] = []
        for call in (loop.create_unix_server, loop.create_unix_connection):
            try:
                made = await call(Recorder, path)
            except Exception as exc:
                outcomes.append(type(exc))
            else:
                outcomes.append(made)
        assert all(issubclass(outcome, error) for outcome in outcomes), outcomes

    monkeypatch.chdir(tmp_path)
    run(main())


@pytest.mark.parametrize(
    ("path", "error"),
    [("nul\0inside", ValueError), (b"nul\0inside", ValueError), ("", IndexError)],
    ids=repr,
)
def test_unix_paths_that_make_asyncio_leave_a_socket_open(
    hotrun: Any, path: Any, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(error):
            await loop.create_unix_server(Recorder, path)
        with pytest.raises(OSError):
            await loop.create_unix_connection(Recorder, path)

    monkeypatch.chdir(tmp_path)
    hotrun(main())


@pytest.mark.parametrize("kind", [str, bytes, Path])
def test_unix_path_kinds(run: Any, tmp_path: Path, kind: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "sock"
        given = os.fsencode(path) if kind is bytes else kind(path)
        server = await loop.create_unix_server(Recorder, given)
        transport, protocol = await loop.create_unix_connection(Recorder, given)
        transport.abort()
        await protocol.until("lost")
        server.close()
        await asyncio.sleep(0)
        assert path.exists() is not UNLINKS

    run(main())


@pytest.mark.parametrize("kind", [str, bytes])
def test_abstract_names(run: Any, kind: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        name: Any = f"\0hotloop-test-{os.getpid()}"
        name = name.encode() if kind is bytes else name
        server = await loop.create_unix_server(Recorder, name)
        transport, protocol = await loop.create_unix_connection(Recorder, name)
        assert transport.get_extra_info("peername") == os.fsencode(name)
        with pytest.raises(OSError, match="already in use"):
            await loop.create_unix_server(Recorder, name)
        transport.abort()
        await protocol.until("lost")
        server.close()
        server = await loop.create_unix_server(Recorder, name)  # gone with its socket
        server.close()

    run(main())


@pytest.mark.skipif(not UNLINKS, reason="cleanup_socket is new in Python 3.13")
@pytest.mark.parametrize("cleanup", [True, False])
@pytest.mark.parametrize("now", ["ours", "gone", "a file", "another socket"])
def test_cleanup_socket(
    run: Any, reports: list[Any], tmp_path: Path, cleanup: bool, now: str
) -> None:
    """Only what is still the server's own socket is removed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "sock"
        server = await loop.create_unix_server(Recorder, path, cleanup_socket=cleanup)
        other = socket.socket(socket.AF_UNIX)
        kept = tmp_path / "kept"
        if now != "ours":
            path.rename(kept)  # so that its inode is not used again
        if now == "a file":
            path.touch()
        elif now == "another socket":
            other.bind(str(path))
        server.close()
        other.close()
        assert path.exists() is (now not in ("ours", "gone") or (now == "ours" and not cleanup))

    run(main())
    assert reports == []


def test_stale_path_is_replaced_and_others_are_not(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        server = await loop.create_unix_server(Recorder, path)
        server.close()
        path.unlink(missing_ok=True)
        for make in (path.touch, path.mkdir, lambda: os.mkfifo(path)):
            make()
            kind = stat.S_IFMT(path.stat().st_mode)
            with pytest.raises(OSError, match="already in use") as caught:
                await loop.create_unix_server(Recorder, path)
            assert caught.value.errno == errno.EADDRINUSE
            assert stat.S_IFMT(path.stat().st_mode) == kind
            path.rmdir() if path.is_dir() else path.unlink()

    run(main())


def test_unix_server_whose_queue_is_full(hotrun: Any, tmp_path: Path) -> None:
    """connect() has done nothing then. asyncio says that the connection is there."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "sock")
        waiting = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            with pytest.raises(BlockingIOError):
                async with asyncio.timeout(LIMIT):
                    for _ in range(10):
                        waiting.append(await loop.create_unix_connection(Recorder, path))
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    await loop.sock_connect(sock, path)
        for transport, protocol in waiting:
            transport.abort()
            await protocol.until("lost")

    hotrun(main())


# ---- servers on several sockets ----


def test_hosts_are_bound_once_each(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3", "127.0.0.2"]
        keep: Any = {"keep_alive": True} if sys.version_info >= (3, 13) else {}
        server = await loop.create_server(factory, hosts, 0, reuse_port=True, **keep)
        names = [sock.getsockname() for sock in server.sockets]
        assert sorted(host for host, _ in names) == sorted(set(hosts))
        for sock in server.sockets:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == len(keep)
        again = await loop.create_server(factory, *names[0], reuse_port=True)
        again.close()
        await again.wait_closed()
        for name in names:
            transport, protocol = await loop.create_connection(Recorder, *name)
            assert transport.get_extra_info("peername") == name
            transport.close()
            await protocol.until("lost")
        async with asyncio.timeout(LIMIT):
            while len(made) < len(names):
                await asyncio.sleep(0)
        for protocol in made:
            await protocol.until("lost")
        server.close()
        await server.wait_closed()

    run(main())


def test_one_of_the_sockets_cannot_be_bound(run: Any) -> None:
    """None of the others is left open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.3", 0)) as taken:
            port = taken.getsockname()[1]
            hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
            with pytest.raises(OSError, match="attempting to bind") as caught:
                await loop.create_server(Recorder, hosts, port)
            assert caught.value.errno == errno.EADDRINUSE
            for host in hosts[:2]:
                with socket.create_server((host, port)):
                    pass

    run(main())


# ---- the pipe methods ----


@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
def test_closed_file_objects(hotrun: Any, method: str) -> None:
    """asyncio raises the same, and then in a finaliser, for want of a pipe."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        r, w = os.pipe()
        with os.fdopen(r, "rb", 0) as reader, os.fdopen(w, "wb", 0) as writer:
            pass
        with pytest.raises(ValueError, match="closed file"):
            await getattr(loop, method)(Recorder, reader if "read" in method else writer)
        sock = socket.socket()
        sock.close()
        with pytest.raises(OSError):
            await getattr(loop, method)(Recorder, sock)

    hotrun(main())


def test_fifo_opened_both_ways(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "fifo"
        os.mkfifo(path)
        both = os.open(path, os.O_RDWR)
        reading, reader = await loop.connect_read_pipe(Recorder, os.fdopen(os.dup(both), "rb", 0))
        writing, writer = await loop.connect_write_pipe(
            Recorder, os.fdopen(os.open(path, os.O_WRONLY), "wb", 0)
        )
        writing.write(b"hello")
        assert await reader.until_data(5) == b"hello"
        writing.close()
        await writer.until("lost")
        os.write(both, b" again")  # no end, for we could still write
        assert await reader.until_data(11) == b"hello again"
        reading.close()
        await reader.until("lost")
        os.close(both)

    run(main())


def test_oversized_and_refused_datagrams_leave_the_endpoint_usable(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            name = peer.getsockname()
            peer.close()
            transport, protocol = await loop.create_datagram_endpoint(Dgrams, remote_addr=name)
        transport.sendto(bytes(100_000))
        await protocol.until(lambda: protocol.errors)
        assert protocol.errors[0].errno == errno.EMSGSIZE  # type: ignore[attr-defined]
        transport.sendto(b"nobody there")
        await protocol.until(lambda: len(protocol.errors) > 1)
        assert type(protocol.errors[1]) is ConnectionRefusedError
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(name)
            peer.setblocking(False)
            transport.sendto(b"hello")
            data, sender = await loop.sock_recvfrom(peer, 100)
            assert data == b"hello"
            peer.sendto(b"back", sender)
            assert await protocol.until_got(1) == [b"back"]
        transport.abort()
        await protocol.until_event(("lost", "NoneType"))

    run(main())


@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvfrom_into", "accept"])
def test_timeout_of_a_sock_method(run: Any, name: str) -> None:
    """The watcher is gone, and the socket as good as new."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        one = await link()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        args: Any = {
            "recv": (one.far, 10),
            "recv_into": (one.far, bytearray(10)),
            "recvfrom": (one.far, 10),
            "recvfrom_into": (one.far, bytearray(10)),
            "accept": (listener,),
        }[name]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await getattr(loop, "sock_" + name)(*args)
        assert not loop.remove_reader(args[0])
        one.transport.write(b"x")
        client = socket.create_connection(listener.getsockname())
        result = await getattr(loop, "sock_" + name)(*args)
        if name == "accept":
            result[0].close()
        else:
            assert result in (b"x", 1, (b"x", None), (1, None))
        client.close()
        listener.close()
        await finish(one)

    run(main())
