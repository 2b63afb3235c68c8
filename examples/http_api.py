"""An HTTP API with a database: notes, kept in SQLite.

pip install aiohttp
python examples/http_api.py [PORT [FILE]]

curl -d '{"text": "milk"}' 127.0.0.1:8080/notes         {"id": 1, "text": "milk"}
curl 127.0.0.1:8080/notes                               [{"id": 1, "text": "milk"}]
curl -X DELETE 127.0.0.1:8080/notes/1
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from typing import Any

from aiohttp import web

import hotloop

Row = dict[str, Any]
DATABASE = web.AppKey("database", str)


def query(path: str, sql: str, *values: object) -> list[Row]:
    """Runs in a thread; a connection of its own, since SQLite's are bound to their thread."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        with connection:  # commits, or rolls back
            return [dict(row) for row in connection.execute(sql, values)]


async def ask(request: web.Request, sql: str, *values: object) -> list[Row]:
    # SQLite blocks: in a thread it holds up no other request.
    return await asyncio.to_thread(query, request.app[DATABASE], sql, *values)


async def add(request: web.Request) -> web.Response:
    try:
        text = (await request.json())["text"]
    except (ValueError, TypeError, KeyError):  # no JSON, no object, no text in it
        raise web.HTTPBadRequest(text='a note is {"text": …}\n') from None
    [note] = await ask(request, "INSERT INTO note (text) VALUES (?) RETURNING *", str(text))
    return web.json_response(note, status=201)


async def show_all(request: web.Request) -> web.Response:
    return web.json_response(await ask(request, "SELECT * FROM note ORDER BY id"))


async def remove(request: web.Request) -> web.Response:
    number = int(request.match_info["id"])
    if not await ask(request, "DELETE FROM note WHERE id = ? RETURNING id", number):
        raise web.HTTPNotFound(text=f"there is no note {number}\n")
    return web.Response(status=204)


def make_app(path: str) -> web.Application:
    query(path, "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    app = web.Application()
    app[DATABASE] = path
    app.add_routes([web.get("/notes", show_all), web.post("/notes", add)])
    app.add_routes([web.delete(r"/notes/{id:\d{1,18}}", remove)])
    return app


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    app = make_app(sys.argv[2] if len(sys.argv) > 2 else "notes.sqlite")
    web.run_app(app, host="127.0.0.1", port=port, loop=hotloop.new_event_loop())
