"""The ASGI application that the uvicorn tests serve: plain ASGI, so that nothing is in between."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

VERSION = "one"  # the reload test changes this line


async def facts() -> dict[str, Any]:
    """What this program runs on, by the full names of the types."""
    loop = asyncio.get_running_loop()
    things = {"loop": loop, "task": asyncio.current_task(), "future": loop.create_future()}
    names = {key: f"{type(it).__module__}.{type(it).__name__}" for key, it in things.items()}
    return {**names, "version": VERSION, "pid": os.getpid()}


async def websocket(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await websocket(receive, send)
        return
    assert scope["type"] == "http", scope["type"]
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/facts":
        body = json.dumps(await facts()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(body), 100_000):
        part = body[start : start + 100_000]
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
