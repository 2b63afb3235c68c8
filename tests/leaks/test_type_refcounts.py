"""No type's reference count grows with its instances, and no memory with repetitions.

A heap type is owned by each of its instances; a dealloc that forgets to give that reference
back leaks the type one instance at a time, and nobody notices. Every heap type of the C core
is found through the collector, so a new one without a recipe here fails the test.
"""

from __future__ import annotations

import asyncio
import gc
import pathlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hotloop
from hotloop import _core

COUNT = 1000


def heap_types() -> dict[str, type]:
    """All types of the C core, exported or not, by name."""
    names = {"hotloop", "hotloop._core"}
    found = {}
    for cls in gc.get_objects():
        if not isinstance(cls, type) or cls.__module__ not in names:
            continue
        if getattr(_core, cls.__name__, None) is cls:
            found[cls.__name__] = cls
    return found


TYPES = heap_types()  # once: a frozen collector shows nothing


def make_handles(loop: Any) -> None:
    for _ in range(COUNT):
        loop.call_soon(int)
        loop.call_soon(int, 1, 2, 3, 4).cancel()
        hotloop.Handle(int, (), loop)
    loop.run_until_complete(asyncio.sleep(0))


def make_timers(loop: Any) -> None:
    for _ in range(COUNT):
        loop.call_later(0, int)
        loop.call_later(60, int).cancel()
    loop.run_until_complete(asyncio.sleep(0))


def make_futures(loop: Any) -> None:
    for _ in range(COUNT):
        loop.create_future()
        hotloop.Future(loop=loop).set_result(None)
        future = loop.create_future()
        iter(future)
        future.add_done_callback(bool)
        future.cancel()
    loop.run_until_complete(asyncio.sleep(0))


def make_tasks(loop: Any) -> None:
    async def waits(future: asyncio.Future[None]) -> None:
        await future

    async def main() -> None:
        for _ in range(COUNT):
            future = loop.create_future()
            task = loop.create_task(waits(future))
            await asyncio.sleep(0)
            assert repr(future)  # makes a TaskWakeup
            future.set_result(None)
            await task

    loop.run_until_complete(main())


def make_safe_handles(loop: Any) -> None:
    for number in range(COUNT):
        loop.call_soon_threadsafe(int, number)
    loop.run_until_complete(asyncio.sleep(0))


def make_loops(loop: Any) -> None:
    for _ in range(COUNT // 10):
        hotloop.new_event_loop(backend=loop.backend).close()


def make_connections(loop: Any) -> None:
    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello")
            transport.close()

    async def connect(address: Any) -> None:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        for _ in range(10):
            server = await loop.create_server(Server, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for _ in range(COUNT // 100):
                await connect(address)
            server.close()
            await server.wait_closed()

    loop.run_until_complete(main())


CERT = pathlib.Path(__file__).parents[1] / "features" / "localhost.pem"


def make_tls(loop: Any) -> None:
    """Connections that are closed, aborted, and that end in the middle of a handshake."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(CERT)
    context = ssl.create_default_context(cafile=CERT)

    async def main() -> None:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        for i in range(30):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address, ssl=context, server_hostname="localhost"
            )
            transport.write(b"hello")
            if i % 2:
                transport.abort()
            else:
                transport.close()
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            transport.write(b"\x16\x03\x01\x40\x00" + bytes(100))
            await asyncio.sleep(0.001)
            transport.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def make_datagrams(loop: Any) -> None:
    async def main() -> None:
        for _ in range(COUNT // 10):
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
            transport.close()
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def make_pipes(loop: Any) -> None:
    async def main() -> None:
        for _ in range(COUNT // 10):
            a, b = socket.socketpair()
            reader, _ = await loop.connect_read_pipe(asyncio.Protocol, a)
            writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, b)
            reader.close()
            writer.close()
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def make_receiving(loop: Any) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            b.setblocking(False)
            for _ in range(COUNT):
                waiting = loop.create_task(loop.sock_recv(a, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(b, b"x")
                assert await waiting == b"x"

    loop.run_until_complete(main())


# What makes instances of a type; several types share one recipe.
RECIPES: dict[str, Callable[[Any], None]] = {
    "Handle": make_handles,
    "_ThreadSafeHandle": make_safe_handles,
    "TimerHandle": make_timers,
    "Future": make_futures,
    "FutureIter": make_futures,
    "Task": make_tasks,
    "TaskWakeup": make_tasks,
    "EventLoop": make_loops,
    "StreamTransport": make_connections,
    "Listener": make_connections,
    "Connecting": make_connections,
    "Receiving": make_receiving,
    "TLSProtocol": make_tls,
    "SSLTransport": make_tls,
    "DatagramTransport": make_datagrams,
    "ReadPipeTransport": make_pipes,
    "WritePipeTransport": make_pipes,
}


@pytest.fixture
def quiet_collector() -> Iterator[None]:
    gc.collect()
    yield
    gc.collect()


def test_every_type_has_a_recipe() -> None:
    assert set(TYPES) - set(RECIPES) == set()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_type_is_not_leaked(loop: Any, name: str, quiet_collector: None) -> None:
    cls = TYPES[name]
    make = RECIPES[name]
    make(loop)  # fills caches and free lists
    gc.collect()
    before = sys.getrefcount(cls)
    make(loop)
    gc.collect()
    # Each recipe makes a hundred instances or more: a leak is not a matter of a few.
    assert abs(sys.getrefcount(cls) - before) < 20


@pytest.mark.parametrize("make", list(dict.fromkeys(RECIPES.values())), ids=lambda f: f.__name__)
def test_memory_is_flat(loop: Any, make: Callable[[Any], None], quiet_collector: None) -> None:
    if getattr(_core, "DatagramTransport", None) is None and make is make_datagrams:
        pytest.skip("this build has no datagram transport")
    if getattr(_core, "ReadPipeTransport", None) is None and make is make_pipes:
        pytest.skip("this build has no pipe transports")
    if sys.getallocatedblocks() == 0:
        pytest.skip("PYTHONMALLOC=malloc does not count blocks")
    make(loop)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(3):
        make(loop)
        gc.collect()
    # Three times a hundred objects and more: one block each would show.
    assert sys.getallocatedblocks() - before < 100
