"""Servers under wrk. A row names an application of servers/; its work is servers/wrk.py's."""

from rows.registry import Row, add

GROUP = "servers"

for _name, _title, _says in (
    ("raw", "raw protocol", "an asyncio.Protocol that answers with 13 bytes"),
    ("http_streams", "streams", "asyncio.start_server(), readuntil(), 13 bytes"),
    ("uvicorn_13", "uvicorn 13 B", "uvicorn with httptools, 13 bytes"),
    ("uvicorn_10k", "uvicorn 10 KiB", "uvicorn with httptools, 10 KiB"),
    ("starlette", "starlette", "a route with a parameter and a JSON answer, under uvicorn"),
    ("aiohttp", "aiohttp", "aiohttp.web, a route with a parameter, a JSON answer"),
    ("fan_out", "fan-out handler", "a task a request, which starts 20 that answer by a queue"),
):
    add(Row(_name, _title, GROUP, 1, f"A request: {_says}."))
