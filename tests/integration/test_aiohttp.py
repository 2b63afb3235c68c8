"""aiohttp: client and server on one loop, plain and TLS."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from reallib import Program, Tls, flat

aiohttp = pytest.importorskip("aiohttp", reason="make integration installs it")
web: Any = pytest.importorskip("aiohttp.web", reason="make integration installs it")

BLOB = bytes(range(256)) * 4096  # 1 MiB
STARTED: Any = web.AppKey("started", asyncio.Event)
CANCELLED: Any = web.AppKey("cancelled", asyncio.Event)


async def hello(request: Any) -> Any:
    return web.Response(text=f"hello {request.match_info['name']}")


async def digest(request: Any) -> Any:
    sha = hashlib.sha256()
    async for chunk in request.content.iter_any():
        sha.update(chunk)
    return web.json_response({"sha256": sha.hexdigest()})


async def stream(request: Any) -> Any:
    response = web.StreamResponse()
    await response.prepare(request)
    for start in range(0, len(BLOB), 50_000):
        await response.write(BLOB[start : start + 50_000])
    await response.write_eof()
    return response


async def echo(request: Any) -> Any:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data.upper())
    return ws


async def slow(request: Any) -> Any:
    request.app[STARTED].set()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        request.app[CANCELLED].set()
        raise


@asynccontextmanager
async def serving(tls: Tls | None) -> AsyncIterator[tuple[str, Any]]:
    app = web.Application(client_max_size=1 << 24)
    app[STARTED], app[CANCELLED] = asyncio.Event(), asyncio.Event()
    app.add_routes([
        web.get("/hello/{name}", hello), web.post("/digest", digest),
        web.get("/stream", stream), web.get("/ws", echo), web.get("/slow", slow),
    ])  # fmt: skip
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server if tls else None)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}", app
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(tls: Tls | None, **options: Any) -> AsyncIterator[Any]:
    connector = aiohttp.TCPConnector(ssl=tls.client if tls else True, **options)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture(params=["plain", "tls"])
def security(request: pytest.FixtureRequest) -> Tls | None:
    return request.getfixturevalue("tls") if request.param == "tls" else None


def test_requests_side_by_side(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(security) as session:

            async def ask(name: str) -> str:
                async with session.get(f"{url}/hello/{name}") as response:
                    assert response.status == 200
                    text: str = await response.text()
                    return text

            names = [f"n{i}" for i in range(100)]
            assert await asyncio.gather(*map(ask, names)) == [f"hello {n}" for n in names]

    program(main())


def test_large_bodies_both_ways(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(security) as session:
            async with session.post(f"{url}/digest", data=BLOB) as response:
                assert (await response.json())["sha256"] == hashlib.sha256(BLOB).hexdigest()
            async with session.get(f"{url}/stream") as response:
                assert await response.read() == BLOB

    program(main())


def test_websocket(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(security) as session:
            async with session.ws_connect(f"{url}/ws") as ws:
                for i in range(100):
                    await ws.send_str(f"message {i}")
                    assert (await ws.receive_str()) == f"MESSAGE {i}"

    program(main())


def test_client_that_gives_up_cancels_the_handler(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, app), client(security) as session:
            request = asyncio.ensure_future(session.get(f"{url}/slow"))
            await app[STARTED].wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await app[CANCELLED].wait()

    program(main())


def test_flat_over_kept_alive_requests(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _), client(security) as session:

            async def step() -> None:
                async with session.get(f"{url}/hello/x") as response:
                    await response.read()

            await flat(step)

    program(main())


def test_flat_over_connections(program: Program, security: Tls | None) -> None:
    async def main() -> None:
        async with serving(security) as (url, _):
            async with client(security, force_close=True) as session:

                async def step() -> None:
                    async with session.get(f"{url}/hello/x") as response:
                        await response.read()

                await flat(step)

    program(main())
