"""create_datagram_endpoint(): its arguments, its errors, the sockets it makes."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from dgramlib import LOST, Dgrams, endpoint, finish, name_of, needs_ipv6, udp

ONLY_DGRAM = sys.version_info < (3, 13)


@pytest.mark.parametrize(
    ("kwargs", "kind", "text"),
    [
        ({}, ValueError, "unexpected address family"),
        ({"local_addr": "localhost"}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("::1", 1, 0, 0)}, TypeError, "2-tuple is expected"),
        ({"remote_addr": ["127.0.0.1", 1]}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("127.0.0.1", 70000)}, OverflowError, "port must be 0-65535"),
        ({"remote_addr": ("127.0.0.1", 70000)}, OverflowError, "port must be 0-65535"),
        ({"local_addr": ("127.0.0.1", -1)}, OverflowError, "port must be 0-65535"),
        ({"local_addr": b"x", "family": socket.AF_UNIX}, TypeError, "string is expected"),
        ({"remote_addr": ("a", 1), "family": socket.AF_UNIX}, TypeError, "string is expected"),
        ({"local_addr": ("192.0.2.1", 0)}, OSError, None),
        ({"family": 999}, OSError, None),
        (
            {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 9)},
            ValueError,
            "can not get address information",
        ),
    ],
    ids=str,
)
def test_bad_arguments(run: Any, kwargs: Any, kind: Any, text: str | None) -> None:
    async def main() -> None:
        def factory() -> None:
            raise AssertionError("not reached")

        with pytest.raises(kind) as caught:
            await asyncio.get_running_loop().create_datagram_endpoint(factory, **kwargs)
        assert text is None or text in str(caught.value)

    run(main())


def test_sock_and_modifiers(run: Any) -> None:
    async def main() -> None:
        with udp() as sock:
            with pytest.raises(ValueError) as caught:
                await endpoint(
                    sock=sock, local_addr=("127.0.0.1", 0), reuse_port=True, flags=0, proto=17
                )
            assert str(caught.value) == (
                "socket modifier keyword arguments can not be used when sock is specified. "
                "(local_addr=('127.0.0.1', 0), proto=17, reuse_port=True)"
            )
            assert sock.fileno() != -1

    run(main())


def test_stream_socket(run: Any) -> None:
    async def main() -> None:
        with socket.socket() as sock:
            with pytest.raises(ValueError) as caught:
                await endpoint(sock=sock)
            kind = "UDP Socket" if ONLY_DGRAM else "datagram socket"
            assert str(caught.value) == f"A {kind} was expected, got {sock!r}"
            assert sock.gettimeout() is None

    run(main())


def test_options(run: Any) -> None:
    async def main() -> None:
        t1, _ = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True, allow_broadcast=True)
        t2, _ = await endpoint(local_addr=name_of(t1), reuse_port=True)
        plain, _ = await endpoint(family=socket.AF_INET)
        for option, expected in (
            (socket.SO_REUSEPORT, (1, 1, 0)),
            (socket.SO_BROADCAST, (1, 0, 0)),
            (socket.SO_REUSEADDR, (0, 0, 0)),
        ):
            found = tuple(
                t.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, option)
                for t in (t1, t2, plain)
            )
            assert found == expected
        with pytest.raises(OSError) as caught:
            await endpoint(local_addr=name_of(t1))
        assert caught.value.errno == errno.EADDRINUSE
        assert name_of(plain) == ("0.0.0.0", 0)
        await finish(t1, t2, plain)

    run(main())


def test_local_and_remote(run: Any) -> None:
    async def main() -> None:
        with udp() as far:
            t, p = await endpoint(local_addr=("localhost", 0), remote_addr=far.getsockname())
            assert t.get_extra_info("peername") == far.getsockname()
            t.sendto(b"there")
            data, addr = far.recvfrom(100)
            assert (data, addr) == (b"there", name_of(t))
            far.sendto(b"back", addr)
            assert await p.until_got(1) == [b"back"]
            await finish(t)

    run(main())


def test_broadcast_does_not_connect(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        t, p = await endpoint(remote_addr=name_of(a), allow_broadcast=True)
        assert t.get_extra_info("peername") is None
        t.sendto(b"to the remote address")
        await pa.until_got(1)
        other, _ = await endpoint()
        port = t.get_extra_info("socket").getsockname()[1]
        other.sendto(b"from another", ("127.0.0.1", port))
        assert await p.until_got(1) == [b"from another"]
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            t.sendto(b"x", name_of(other))
        await finish(a, t, other)

    run(main())


@needs_ipv6
def test_ipv6(run: Any, handled: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint(local_addr=("::1", 0))
        b, pb = await endpoint(local_addr=("::1", 0))
        assert len(name_of(a)) == 4
        port = name_of(a)[1]
        for target in (("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("0:0::1", port)):
            b.sendto(b"x", target)
        await pa.until_got(4)
        assert {addr for _, addr in pa.got} == {name_of(b)}
        a.sendto(b"back", pa.got[0][1])
        await pb.until_got(1)
        c, pc = await endpoint(remote_addr=("::1", port))
        c.sendto(b"y", ("::1", port, 0, 0))
        for foreign in (("::1", port), ("::1", port, 1, 0), ("::1", port, 0, 1)):
            with pytest.raises(ValueError, match="Invalid address"):
                c.sendto(b"y", foreign)
        await pa.until_got(5)
        # scopes and flow labels out of their range, as the socket module
        for target in (("::1", port, 0x100000, 0), ("::1", 70000)):
            d, pd = await endpoint(local_addr=("::1", 0))
            d.sendto(b"z", target)
            assert d.is_closing()
            assert isinstance(handled.pop()["exception"], OverflowError)
            await pd.until_event(("lost", "OverflowError"))
        await finish(a, b, c)
        assert pc.events[-1] == LOST

    run(main())


# ---- Unix sockets ----


def test_unix_path(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        path, other = str(tmp_path / "a"), str(tmp_path / "b")
        a, pa = await endpoint(local_addr=path, family=socket.AF_UNIX)
        assert name_of(a) == path
        b, pb = await endpoint(local_addr=other, remote_addr=path, family=socket.AF_UNIX)
        assert b.get_extra_info("peername") == path
        b.sendto(b"one")
        await pa.until_got(1)
        assert pa.got == [(b"one", other)]
        a.sendto(b"two", other)
        await pb.until_got(1)
        assert pb.got == [(b"two", path)]
        a.sendto(b"by the address that it came from", pa.got[0][1])
        await pb.until_got(2)
        c, _ = await endpoint(family=socket.AF_UNIX)
        assert name_of(c) == ""
        c.sendto(b"without a name", path)
        await pa.until_got(2)
        assert pa.got[1] == (b"without a name", None)
        await finish(a, b, c)
        assert os.path.exists(path)  # nobody removes it, but the next one takes its place

        again, p = await endpoint(local_addr=path, family=socket.AF_UNIX)
        again.close()
        await p.until_event(LOST)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_unix_abstract(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint(local_addr="\0hotloop-test-a", family=socket.AF_UNIX)
        assert name_of(a) == b"\0hotloop-test-a"
        b, pb = await endpoint(
            local_addr="\0hotloop-test-b", remote_addr="\0hotloop-test-a", family=socket.AF_UNIX
        )
        b.sendto(b"x")
        await pa.until_got(1)
        assert pa.got == [(b"x", b"\0hotloop-test-b")]
        a.sendto(b"y", pa.got[0][1])
        a.sendto(b"z", "\0hotloop-test-b")
        assert await pb.until_got(2) == [b"y", b"z"]
        await finish(a, b)

    run(main())


def test_unix_path_that_is_no_socket(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(OSError) as caught:
            await endpoint(local_addr=str(path), family=socket.AF_UNIX)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.read_text() == "mine"

    run(main())


def test_unix_stale_path_that_cannot_be_looked_at(
    run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        path = str(tmp_path / "file" / "below")
        with caplog.at_level(logging.ERROR, "asyncio"), pytest.raises(OSError):
            await endpoint(local_addr=path, family=socket.AF_UNIX)
        [record] = caplog.records
        assert record.getMessage().startswith(
            f"Unable to check or remove stale UNIX socket {path!r}: NotADirectoryError("
        )

    run(main())


def test_unix_connect_to_nobody(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await endpoint(remote_addr=str(tmp_path / "none"), family=socket.AF_UNIX)

    run(main())


# ---- failures on the way ----


def test_factory_raises_leaves_no_socket(hotrun: Any) -> None:
    # stock asyncio leaves the socket to the garbage collector, and its warning
    async def main() -> None:
        def factory() -> None:
            raise RuntimeError("no protocol")

        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="no protocol"):
            await loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
        with pytest.raises(AttributeError, match="connection_made"):
            await loop.create_datagram_endpoint(object, local_addr=("127.0.0.1", 0))
        with udp() as sock:
            with pytest.raises(RuntimeError, match="no protocol"):
                await loop.create_datagram_endpoint(factory, sock=sock)
            assert sock.fileno() != -1
        gc.collect()

    hotrun(main())


def test_cancelled_while_waiting(run: Any) -> None:
    async def main() -> None:
        p = Dgrams()
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            loop.create_datagram_endpoint(lambda: p, local_addr=("127.0.0.1", 0))
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await p.until_event(LOST)
        assert p.events == ["made", LOST]

    run(main())


def test_several_candidates_first_error(anyloop: Any) -> None:
    loop = anyloop
    asked = []

    async def getaddrinfo(host: str, port: int, **hints: Any) -> Any:
        asked.append((host, port, hints))
        kind, proto = socket.SOCK_DGRAM, 17
        return [
            (socket.AF_INET, kind, proto, "", ("192.0.2.7", port)),
            (socket.AF_INET, kind, 0, "", (host_works, port)),
        ]

    async def main() -> None:
        t, _ = await endpoint(local_addr=("some.name", 0))
        assert name_of(t)[0] == "127.0.0.1"
        await finish(t)

    async def all_fail() -> None:
        with pytest.raises(OSError) as caught:
            await endpoint(local_addr=("some.name", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL

    loop.getaddrinfo = getaddrinfo
    host_works = "127.0.0.1"
    loop.run_until_complete(main())
    host_works = "192.0.2.8"
    loop.run_until_complete(all_fail())
    hints = {"family": 0, "type": socket.SOCK_DGRAM, "proto": 0, "flags": 0}
    assert asked == [("some.name", 0, hints)] * 2


def test_empty_resolution(anyloop: Any) -> None:
    async def getaddrinfo(*args: Any, **hints: Any) -> Any:
        return []

    async def main() -> None:
        with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
            await endpoint(local_addr=("some.name", 0))

    anyloop.getaddrinfo = getaddrinfo
    anyloop.run_until_complete(main())


def test_descriptor_of_another_transport(run: Any) -> None:
    async def main() -> None:
        t, _ = await endpoint()
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(t.get_extra_info("socket").fileno(), print)
        with socket.socket(fileno=os.dup(t._sock_fd)) as other:
            again, _ = await endpoint(sock=other.dup())
            await finish(again)
        await finish(t)

    run(main())


def test_debug_log(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        with caplog.at_level(logging.DEBUG, "asyncio"):
            a, pa = await endpoint()
            b, pb = await endpoint(remote_addr=name_of(a))
        asyncio.get_running_loop().set_debug(False)
        told = [(r.levelno, r.getMessage()) for r in caplog.records if "endpoint" in r.msg]
        address = "('127.0.0.1', 0)"
        assert told == [
            (
                logging.INFO,
                f"Datagram endpoint local_addr={address} remote_addr=None created: ({a!r}, {pa!r})",
            ),
            (
                logging.DEBUG,
                f"Datagram endpoint remote_addr={name_of(a)!r} created: ({b!r}, {pb!r})",
            ),
        ]
        await finish(a, b)

    run(main())
