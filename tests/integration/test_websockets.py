"""The websockets library: server and client on one loop, plain and TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from reallib import Program, Tls, flat

websockets: Any = pytest.importorskip("websockets", reason="make integration installs it")
from websockets.asyncio.client import connect  # noqa: E402
from websockets.asyncio.server import serve  # noqa: E402


@pytest.fixture(params=["plain", "tls"])
def security(request: pytest.FixtureRequest) -> Tls | None:
    return request.getfixturevalue("tls") if request.param == "tls" else None


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def serving(tls: Tls | None, handler: Any = echo) -> AsyncIterator[tuple[str, Any]]:
    options: dict[str, Any] = {"ssl": tls.server} if tls else {}
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", server


def client(url: str, tls: Tls | None, **options: Any) -> Any:
    if tls:
        options["ssl"] = tls.client
    return connect(url, proxy=None, **options)


def test_messages_of_all_sizes(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(url, security) as ws:
            for size in (0, 1, 125, 126, 65535, 65536, 900_000):
                for message in ("x" * size, b"x" * size):
                    await ws.send(message)
                    assert await ws.recv() == message

    program(main())


def test_fifty_clients(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _):

            async def talk(name: int) -> None:
                async with client(url, security) as ws:
                    for i in range(20):
                        await ws.send(f"{name}:{i}")
                        assert await ws.recv() == f"{name}:{i}"

            await asyncio.gather(*map(talk, range(50)))

    program(main())


def test_server_closes_with_clients_inside(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, server):
            clients = [await client(url, security) for _ in range(5)]
            server.close()
            await server.wait_closed()
            for ws in clients:
                with pytest.raises(websockets.ConnectionClosedOK):
                    await ws.recv()
                assert ws.close_code == 1001

    program(main())


def test_slow_reader_holds_the_sender(program: Program, security: Tls | None) -> None:
    """A client that does not read: the server's send() waits, and no byte is lost."""
    sent, message = 0, b"x" * 100_000

    async def flood(ws: Any) -> None:
        nonlocal sent
        for _ in range(400):
            await ws.send(message)
            sent += 1

    async def main() -> None:
        plain: dict[str, Any] = {"compression": None}
        async with serving(security, flood) as (url, _), client(url, security, **plain) as ws:
            seen = -1
            while seen != sent:  # until the sender does not get any further
                seen = sent
                await asyncio.sleep(0.1)
            assert sent < 400
            assert [len(await ws.recv()) for _ in range(400)] == [len(message)] * 400

    program(main())


def test_flat_over_messages(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(url, security) as ws:

            async def step() -> None:
                await ws.send(b"x" * 1000)
                await ws.recv()

            await flat(step)

    program(main())


def test_flat_over_connections(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _):

            async def step() -> None:
                async with client(url, security) as ws:
                    await ws.send("x")
                    await ws.recv()

            await flat(step)

    program(main())
