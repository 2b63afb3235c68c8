"""Protocols that raise in every one of their methods: one report each, and nobody else hurt."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dgramlib import Dgrams
from netlib import LIMIT, BufferedRecorder, Link, Recorder, finish, link

METHODS = (
    "connection_made",
    "data_received",
    "get_buffer",
    "buffer_updated",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
    "datagram_received",
    "error_received",
    "pipe_data_received",
    "pipe_connection_lost",
    "process_exited",
)


class Oops(Exception):
    """With a number, so that what is reported twice is seen."""


def raising(base: type, called: Counter[str], note: bool = True) -> Any:
    """A protocol class whose methods raise, having counted the call."""

    def method(name: str) -> Any:
        inherited = getattr(base, name, None)

        def call(self: Any, *args: Any) -> Any:
            called[name] += 1
            if note and inherited is not None and name not in ("get_buffer", "buffer_updated"):
                inherited(self, *args)
            raise Oops(name)

        return call

    return type("Raising", (base,), {n: method(n) for n in METHODS if hasattr(base, n)})


def check(handled: list[Any], called: Counter[str]) -> None:
    """Each call that raised was reported once."""
    raised = Counter(str(c["exception"]) for c in handled if type(c["exception"]) is Oops)
    assert raised == called
    assert [c for c in handled if type(c["exception"]) is not Oops] == []


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
@pytest.mark.parametrize("base", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("what", ["data", "eof", "flow", "close", "abort"])
def test_stream(run: Any, handled: list[Any], tcp: bool, base: Any, what: str) -> None:
    called: Counter[str] = Counter()

    async def main() -> None:
        other = await link(tcp=tcp)
        one = await link(raising(base, called)(), tcp=tcp)
        gone = weakref.ref(one.protocol)
        if what == "data":
            await one.send(b"hello")
        elif what == "eof":
            one.far.close()
        elif what == "flow":
            await one.fill()
            one.transport.close()
            one.far.setblocking(True)
            while await asyncio.to_thread(one.far.recv, 1 << 20):
                pass
        else:
            getattr(one.transport, what)()
        await one.lost()
        one.far.close()
        if what in ("data", "flow"):
            await turns()
        assert called["connection_lost"] == called["connection_made"] == 1
        if what == "flow":
            assert called["pause_writing"] == called["resume_writing"] == 1
        check(handled, called)
        handled.clear()
        await other.send(b"fine")
        await other.protocol.until_data(4)
        await finish(other)
        await turns()
        del one
        gc.collect()
        assert gone() is None

    run(main())


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_server(run: Any, handled: list[Any], family: str, tmp_path: Path) -> None:
    """All accepted connections raise; the server goes on, and is closed in the end."""
    called: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kind = raising(Recorder, called)
        if family == "inet":
            server = await loop.create_server(kind, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
        else:
            server = await loop.create_unix_server(kind, str(tmp_path / "s"))
            address = str(tmp_path / "s")
        for i in range(3):
            sock = socket.socket(server.sockets[0].family)
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, b"hello")
            async with asyncio.timeout(LIMIT):
                try:
                    assert await loop.sock_recv(sock, 1) == b""
                except ConnectionResetError:
                    pass
                while called["connection_lost"] <= i:
                    await asyncio.sleep(0)
            sock.close()
        server.close()
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()
        await turns()
        assert called == {"connection_made": 3, "data_received": 3, "connection_lost": 3}
        check(handled, called)
        handled.clear()

    run(main())


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_datagrams(run: Any, handled: list[Any], family: str, tmp_path: Path) -> None:
    called: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if family == "inet":
            kwargs: Any = {"local_addr": ("127.0.0.1", 0)}
            nobody: Any = ("127.0.0.1", 9)
        else:
            kwargs = {"local_addr": str(tmp_path / "d"), "family": socket.AF_UNIX}
            nobody = str(tmp_path / "nobody")
        kind = raising(Dgrams, called)
        transport, protocol = await loop.create_datagram_endpoint(kind, **kwargs)
        name = transport.get_extra_info("sockname")
        sock = socket.socket(
            socket.AF_INET if family == "inet" else socket.AF_UNIX, socket.SOCK_DGRAM
        )
        for count in range(1, 4):  # it goes on
            sock.sendto(b"hello", name)
            await protocol.until_got(count)
        if family == "unix":
            with pytest.raises(Oops, match="error_received"):
                transport.sendto(b"x", nobody)
            called["error_received"] -= 1
        assert not transport.is_closing()
        transport.close()
        await protocol.until_event(("lost", "NoneType"))
        await turns()
        sock.close()
        assert called["datagram_received"] == 3
        assert called["connection_lost"] == 1
        check(handled, +called)
        handled.clear()

    run(main())


def test_read_pipe(run: Any, handled: list[Any]) -> None:
    called: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        r, w = os.pipe()
        transport, protocol = await loop.connect_read_pipe(
            raising(Recorder, called), os.fdopen(r, "rb", 0)
        )
        for count in range(1, 4):  # unlike a socket's, a pipe's transport goes on
            os.write(w, b"x")
            await protocol.until_data(count)
        os.close(w)
        await protocol.until("lost")
        await turns()
        assert transport.is_closing()
        assert called == {
            "connection_made": 1,
            "data_received": 3,
            "eof_received": 1,
            "connection_lost": 1,
        }
        check(handled, called)
        handled.clear()

    run(main())


def test_write_pipe(run: Any, handled: list[Any]) -> None:
    called: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        r, w = os.pipe()
        transport, protocol = await loop.connect_write_pipe(
            raising(Recorder, called), os.fdopen(w, "wb", 0)
        )
        transport.write(bytes(300_000))
        transport.close()
        with os.fdopen(r, "rb", 0) as reader:
            assert len(await asyncio.to_thread(read_all, reader)) == 300_000
        await protocol.until("lost")
        await turns()
        assert called == {
            "connection_made": 1,
            "pause_writing": 1,
            "resume_writing": 1,
            "connection_lost": 1,
        }
        check(handled, called)
        handled.clear()

    run(main())


def read_all(file: Any) -> bytes:
    data = b""
    while some := file.read(1 << 20):
        data += some
    return data


class Child(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


def test_subprocess(run: Any, handled: list[Any]) -> None:
    called: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            raising(Child, called),
            sys.executable,
            "-c",
            "import os; os.write(1, b'out')",
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(LIMIT):
            await protocol.lost
        await turns()
        assert transport.get_returncode() == 0
        transport.close()
        assert called == {
            "connection_made": 1,
            "pipe_data_received": 1,
            "pipe_connection_lost": 2,
            "process_exited": 1,
            "connection_lost": 1,
        }
        check(handled, called)
        handled.clear()

    run(main())


def test_one_of_many(run: Any, handled: list[Any]) -> None:
    """Connections on the same loop, in the same turn, with writes that are being held."""
    called: Counter[str] = Counter()

    async def main() -> None:
        links: list[Link] = []
        for i in range(9):
            protocol = raising(Recorder, called)() if i % 3 == 1 else None
            links.append(await link(protocol))
        handled.clear()
        for one in links:
            await one.send(b"hello")
        for one in links:
            one.transport.write(b"answer")
        for i, one in enumerate(links):
            if i % 3 == 1:
                await one.lost()
                one.far.close()
                continue
            assert await one.protocol.until_data(5) == b"hello"
            assert await one.recv(6) == b"answer"
        await turns()
        assert called["data_received"] == called["connection_lost"] == 3
        handled.clear()
        await finish(*(one for i, one in enumerate(links) if i % 3 != 1))

    run(main())
