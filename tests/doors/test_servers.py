"""Web servers and frameworks: each started as its own manual says, its loop ours."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from doorlib import Serve, get
from facts import OURS, ours
from ports import free_port

import hotloop

FACTORY = "hotloop:new_event_loop"


def need(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason="make doors installs it, where there is a wheel")


@pytest.mark.parametrize("app", ["plain", "starlette", "fastapi", "quart", "django", "socketio"])
def test_uvicorn(serve: Serve, app: str) -> None:
    need("uvicorn", *([app] if app != "plain" else []))
    port = free_port()
    name = "apps:plain" if app == "plain" else f"apps:{app}"
    factory = [] if app == "plain" else ["--factory"]
    serve("-m", "uvicorn", name, *factory, "--loop", FACTORY, "--port", str(port), port=port)
    assert ours(get(port))


def test_fastapi_thread(serve: Serve) -> None:
    """A plain function of FastAPI's runs in a worker thread: anyio's to_thread, on our loop."""
    need("uvicorn", "fastapi")
    port = free_port()
    options = ["--factory", "--loop", FACTORY, "--port", str(port)]
    serve("-m", "uvicorn", "apps:fastapi", *options, port=port)
    assert get(port, "/thread") == {"here": "a worker thread"}


def seen_processes(port: int, count: int) -> set[str]:
    pids: set[str] = set()
    while len(pids) < count:
        said = get(port)
        assert ours(said)
        pids.add(said["pid"])
    return pids


def test_uvicorn_workers(serve: Serve) -> None:
    need("uvicorn")
    port = free_port()
    options = ["--loop", FACTORY, "--workers", "2", "--port", str(port)]
    serve("-m", "uvicorn", "apps:plain", *options, port=port)
    seen_processes(port, 2)


WORKER = """
from uvicorn_worker import UvicornWorker


class HotloopWorker(UvicornWorker):
    CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "loop": "hotloop:new_event_loop"}
"""


def test_gunicorn_with_uvicorns_worker(serve: Serve, tmp_path: Any) -> None:
    need("gunicorn", "uvicorn", "uvicorn_worker")
    (tmp_path / "worker.py").write_text(WORKER)
    port = free_port()
    options = ["-k", "worker.HotloopWorker", "-w", "2", "-b", f"127.0.0.1:{port}"]
    process = serve("-m", "gunicorn", "apps:plain", *options, port=port)
    before = seen_processes(port, 2)
    process.send_signal(signal.SIGHUP)  # a graceful reload: all workers are new ones
    after = before
    while after & before:
        try:
            after = seen_processes(port, 2)
        except ConnectionError:  # uvicorn closes connections that have not asked yet
            continue


def test_hypercorn(serve: Serve) -> None:
    """hypercorn's own -k knows asyncio, uvloop and trio; `-m hotloop` makes asyncio's ours."""
    need("hypercorn")
    port = free_port()
    options = ["-k", "asyncio", "-w", "0", "-b", f"127.0.0.1:{port}", "apps:plain"]
    serve("-m", "hotloop", "-m", "hypercorn", *options, port=port)
    assert ours(get(port))


HYPERCORN = """
import sys, asyncio, hotloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from apps import plain

config = Config()
config.bind = ["127.0.0.1:" + sys.argv[1]]
asyncio.run(serve(plain, config), loop_factory=hotloop.new_event_loop)
"""


def test_hypercorn_in_a_program(serve: Serve, tmp_path: Any) -> None:
    need("hypercorn")
    port = free_port()
    (tmp_path / "program.py").write_text(HYPERCORN)
    serve("program.py", str(port), port=port)
    assert ours(get(port))


AIOHTTP = """
import sys, hotloop
from aiohttp import web
from facts import facts

async def answer(request):
    return web.json_response(facts())

app = web.Application()
app.router.add_get("/facts", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=hotloop.new_event_loop())
"""


def test_aiohttp_run_app(serve: Serve, tmp_path: Any) -> None:
    need("aiohttp")
    port = free_port()
    (tmp_path / "program.py").write_text(AIOHTTP)
    serve("program.py", str(port), port=port)
    said = get(port)
    # Its handlers run in an asyncio.Task that it makes by that very name.
    assert (said["loop"], said["future"]) == (OURS["loop"], OURS["future"])


TORNADO = """
import sys, asyncio, json, hotloop
import tornado.web
from facts import facts

class Facts(tornado.web.RequestHandler):
    async def get(self):
        self.finish(json.dumps(facts()))

async def main():
    tornado.web.Application([("/facts", Facts)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

hotloop.run(main())
"""


def test_tornado(serve: Serve, tmp_path: Any) -> None:
    need("tornado")
    port = free_port()
    (tmp_path / "program.py").write_text(TORNADO)
    serve("program.py", str(port), port=port)
    assert ours(get(port))


def test_socketio_call(serve: Serve) -> None:
    """An event and its answer, with python-socketio's client on hotloop too."""
    need("uvicorn", "socketio", "aiohttp")
    import socketio

    port = free_port()
    options = ["--factory", "--loop", FACTORY, "--port", str(port)]
    serve("-m", "uvicorn", "apps:socketio", *options, port=port)

    async def main() -> Any:
        client = socketio.AsyncClient()
        await client.connect(f"http://127.0.0.1:{port}")
        try:
            return await client.call("where", timeout=60)
        finally:
            await client.disconnect()
            await asyncio.sleep(0.1)

    assert ours(hotloop.run(main()))
