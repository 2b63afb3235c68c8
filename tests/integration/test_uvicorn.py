"""uvicorn: its command line with hotloop's factory, and httpx as the client on hotloop too."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, wait_for_port
from reallib import Program, Tls, flat
from servers import stop

httpx: Any = pytest.importorskip("httpx", reason="make integration installs it")
uvicorn: Any = pytest.importorskip("uvicorn", reason="make integration installs it")
websockets: Any = pytest.importorskip("websockets", reason="make integration installs it")
import asgi_app  # noqa: E402

HERE = Path(__file__).parent
OURS = {"loop": "hotloop.EventLoop", "task": "hotloop.Task", "future": "hotloop.Future"}


def names(facts: dict[str, Any]) -> dict[str, str]:
    return {key: re.sub(r"\._core\b", "", facts[key]) for key in OURS}


@contextmanager
def uvicorn_process(backend: str, folder: Path, *options: str) -> Iterator[tuple[int, Any]]:
    """uvicorn in a process of its own, as one starts it from a shell."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "asgi_app:app", "--port", str(port)]
    command += ["--loop", "hotloop:new_event_loop", *options]
    environment = {**os.environ, "HOTLOOP_BACKEND": backend, "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for_port(port, process)
        yield port, process
    finally:
        stop(process)
        sys.stdout.write((folder / "log").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(HERE / "asgi_app.py", tmp_path)
    return tmp_path


@pytest.fixture(params=["plain", "tls"])
def security(request: pytest.FixtureRequest) -> Tls | None:
    return request.getfixturevalue("tls") if request.param == "tls" else None


def tls_options(tls: Tls | None) -> list[str]:
    return ["--ssl-certfile", str(tls.cert), "--ssl-keyfile", str(tls.key)] if tls else []


def client(tls: Tls | None, port: int) -> Any:
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    return httpx.AsyncClient(base_url=url, verify=tls.client if tls else True, trust_env=False)


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_http(
    program: Program, backend: str, folder: Path, security: Tls | None, http: str
) -> None:
    if http == "httptools":
        pytest.importorskip("httptools", reason="has no wheel for this Python")

    async def main(port: int) -> None:
        async with client(security, port) as session:
            assert names((await session.get("/facts")).json()) == OURS
            bodies = [os.urandom(size) for size in (0, 1, 1000, 100_000, 3_000_000)]
            answers = await asyncio.gather(*(session.post("/", content=b) for b in bodies))
            assert [answer.content for answer in answers] == bodies

    with uvicorn_process(backend, folder, "--http", http, *tls_options(security)) as (port, _):
        program(main(port))


def test_websocket(program: Program, backend: str, folder: Path, security: Tls | None) -> None:
    async def main(port: int) -> None:
        options: dict[str, Any] = {"ssl": security.client} if security else {}
        url = f"{'wss' if security else 'ws'}://127.0.0.1:{port}"
        async with websockets.connect(url, proxy=None, **options) as ws:
            for i in range(100):
                await ws.send(f"message {i}")
                assert await ws.recv() == f"MESSAGE {i}"

    options = ["--ws", "websockets-sansio", *tls_options(security)]
    with uvicorn_process(backend, folder, *options) as (port, _):
        program(main(port))


def test_reload(program: Program, backend: str, folder: Path) -> None:
    """A changed file: another process, on a hotloop as well, answers at the same port."""

    async def main(port: int) -> None:
        async with client(None, port) as session:
            before = (await session.get("/facts")).json()
            assert before["version"] == "one"
            source = folder / "asgi_app.py"
            source.write_text(source.read_text().replace('"one"', '"two"'))
            for poll in itertools.count(1):
                if poll % 60 == 0:  # it takes no notice of a change before its own first look
                    os.utime(source)
                try:
                    after = (await session.get("/facts")).json()
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if after["version"] == "two":
                    break
                await asyncio.sleep(0.05)
            assert after["pid"] != before["pid"]
            assert names(after) == OURS

    with uvicorn_process(backend, folder, "--reload") as (port, _):
        program(main(port))


def test_workers(program: Program, backend: str, folder: Path) -> None:
    async def main(port: int) -> None:
        pids = set()
        while len(pids) < 2:
            async with client(None, port) as session:
                facts = (await session.get("/facts")).json()
            assert names(facts) == OURS
            pids.add(facts["pid"])

    with uvicorn_process(backend, folder, "--workers", "2") as (port, _):
        program(main(port))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_signal_ends_it_gracefully(backend: str, folder: Path, number: signal.Signals) -> None:
    with uvicorn_process(backend, folder) as (_, process):
        process.send_signal(number)
        process.wait(timeout=60)
        log = (folder / "log").read_text()
        assert "Finished server process" in log
        assert "Traceback" not in log or "KeyboardInterrupt" in log


def test_flat_over_requests(program: Program, security: Tls | None) -> None:
    """Server and client in one process, kept alive."""

    async def main() -> None:
        tls: dict[str, Any] = {}
        if security:
            tls = {"ssl_certfile": security.cert, "ssl_keyfile": security.key}
        config = uvicorn.Config(
            asgi_app.app, port=0, log_level="critical", lifespan="off", loop="none", ws="none",
            timeout_graceful_shutdown=5, **tls,
        )  # fmt: skip
        server = uvicorn.Server(config)
        served = asyncio.ensure_future(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with client(security, port) as session:
            await flat(lambda: session.post("/", content=b"x" * 1000))
        server.should_exit = True
        await served

    program(main())
