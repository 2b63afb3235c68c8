"""The applications. Each is a coroutine function that starts a server and returns its port."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

SMALL = b"Hello, world!"
LARGE = b"x" * 10240


def reply(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


# ---- without a framework ----------------------------------------------------------------------


class Raw(asyncio.Protocol):
    """Answers each request head that it reads; they come whole from wrk."""

    answer = reply(SMALL)
    transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(self.answer)


async def raw() -> int:
    loop = asyncio.get_running_loop()
    return port_of(await loop.create_server(Raw, "127.0.0.1", 0, backlog=256))


async def http_streams() -> int:
    answer = reply(SMALL)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return port_of(await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256))


class FanOut(Raw):
    """A task for each request, which starts twenty and gathers their answers from a queue."""

    tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            task = asyncio.get_running_loop().create_task(self.handle())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def handle(self) -> None:
        answers: asyncio.Queue[int] = asyncio.Queue()

        async def part(number: int) -> None:
            await asyncio.sleep(0)
            answers.put_nowait(number)

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(part(number))
            total = sum([await answers.get() for _ in range(20)])
        self.transport.write(reply(b"%013d" % total))


async def fan_out() -> int:
    loop = asyncio.get_running_loop()
    return port_of(await loop.create_server(FanOut, "127.0.0.1", 0, backlog=256))


# ---- uvicorn, starlette, aiohttp ----------------------------------------------------------------


def asgi(body: bytes) -> Callable[..., Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def under_uvicorn(app: object) -> int:
    uvicorn: Any = importlib.import_module("uvicorn")
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", loop="none", lifespan="off",
        log_level="error", access_log=False, backlog=256,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
            raise RuntimeError("uvicorn ended")
        await asyncio.sleep(0.01)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


async def uvicorn_13() -> int:
    return await under_uvicorn(asgi(SMALL))


async def uvicorn_10k() -> int:
    return await under_uvicorn(asgi(LARGE))


async def starlette() -> int:
    applications: Any = importlib.import_module("starlette.applications")
    responses: Any = importlib.import_module("starlette.responses")
    routing: Any = importlib.import_module("starlette.routing")

    async def item(request: Any) -> Any:
        return responses.JSONResponse({"id": request.path_params["id"], "hello": "world"})

    return await under_uvicorn(applications.Starlette(routes=[routing.Route("/{id:int}", item)]))


async def aiohttp() -> int:
    web: Any = importlib.import_module("aiohttp.web")

    async def item(request: Any) -> Any:
        text = json.dumps({"id": int(request.match_info["id"]), "hello": "world"})
        return web.Response(text=text, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{id}", item)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=256)
    await site.start()
    port: int = runner.addresses[0][1]
    return port


APPS: dict[str, Callable[[], Awaitable[int]]] = {
    "raw": raw,
    "http_streams": http_streams,
    "uvicorn_13": uvicorn_13,
    "uvicorn_10k": uvicorn_10k,
    "starlette": starlette,
    "aiohttp": aiohttp,
    "fan_out": fan_out,
}
