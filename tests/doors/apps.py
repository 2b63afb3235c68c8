"""One small application per web framework; each says at /facts on what it runs."""

from __future__ import annotations

import json
import sys
from typing import Any

from facts import facts


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI without a framework; /echo gives the body back."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps(facts()).encode() if scope["path"] == "/facts" else body
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Any) -> Any:
        return JSONResponse(facts())

    return Starlette(routes=[Route("/facts", answer)])


def fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/facts")
    async def answer() -> dict[str, str]:
        return facts()

    @app.get("/thread")
    def in_a_thread() -> dict[str, str]:
        return {"here": "a worker thread"}

    return app


def quart() -> Any:
    from quart import Quart

    app = Quart(__name__)

    @app.get("/facts")
    async def answer() -> dict[str, str]:
        return facts()

    return app


def django() -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import JsonResponse
    from django.urls import path

    async def answer(request: Any) -> Any:
        return JsonResponse(facts())

    settings.configure(
        ROOT_URLCONF="urls", SECRET_KEY="for a test", ALLOWED_HOSTS=["*"], DEBUG=False
    )
    sys.modules["urls"] = type(sys)("urls")
    # A module made here has no attributes that a type checker knows: hence the silenced error.
    sys.modules["urls"].urlpatterns = [path("facts", answer)]  # type: ignore[attr-defined]
    return get_asgi_application()


def socketio() -> Any:
    import socketio

    server = socketio.AsyncServer(async_mode="asgi")

    # The silenced error: python-socketio has types in some versions.
    @server.event  # type: ignore[untyped-decorator, unused-ignore]
    async def where(_sid: str) -> dict[str, str]:
        return facts()

    return socketio.ASGIApp(server, plain)
