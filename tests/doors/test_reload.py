"""Servers in many processes, reloaded while they are asked: no answer is wrong, none is lost."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from doorlib import Serve
from ports import free_port

# HOTLOOP_REQUESTS=100000 for the long form.
REQUESTS = int(os.environ.get("HOTLOOP_REQUESTS") or 5000)
CLIENTS = 8

pytest.importorskip("uvicorn", reason="make doors installs it")


class Client:
    """Asks on one connection kept alive; every answer must be the request's own body.

    A server that ends closes connections that wait for a request, and one may be on its way
    just then: HTTP says that a client repeats it on a new connection if not a byte of an
    answer has come (RFC 9110, 9.2.2). A part of an answer, or a refused connection, is a loss.
    """

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.number = number
        self.connection: Any = None
        self.answered = 0
        self.repeated = 0
        self.lost: list[BaseException | str] = []

    def ask(self, body: bytes) -> None:
        for _ in range(20):
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                self.connection.connect()
            try:
                self.connection.request("POST", "/echo", body)
                answer = self.connection.getresponse()
            except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
                self.connection.close()
                self.connection = None
                self.repeated += 1
                continue
            got = answer.read()
            if answer.status != 200 or got != body:
                self.lost.append(f"{answer.status}: {got[:50]!r} for {body[:50]!r}")
            if answer.will_close:
                self.connection.close()
                self.connection = None
            self.answered += 1
            return
        self.lost.append("no server took the request")

    def run(self) -> None:
        for number in range(REQUESTS // CLIENTS):
            try:
                self.ask(b"%d of client %d " % (number, self.number) * 20)
            except BaseException as exc:
                self.lost.append(exc)
                return


def load(port: int, during: Any) -> list[Client]:
    """All clients at work in threads; during() again and again until they are done."""
    clients = [Client(port, number) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        during()
    for thread in threads:
        thread.join()
    for client in clients:
        if client.connection is not None:
            client.connection.close()
    return clients


def check(clients: list[Client]) -> None:
    assert [client.lost for client in clients if client.lost] == []
    assert sum(client.answered for client in clients) == REQUESTS // CLIENTS * CLIENTS


def test_gunicorn_reload_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn_worker", reason="make doors installs it")
    (tmp_path / "worker.py").write_text(
        "from uvicorn_worker import UvicornWorker\n"
        "class HotloopWorker(UvicornWorker):\n"
        "    CONFIG_KWARGS = {'loop': 'hotloop:new_event_loop', 'access_log': False}\n"
    )
    port = free_port()
    options = ["-k", "worker.HotloopWorker", "-w", "2", "-b", f"127.0.0.1:{port}"]
    process = serve("-m", "gunicorn", "apps:plain", *options, port=port)
    reloads = 0

    def reload() -> None:
        nonlocal reloads
        process.send_signal(signal.SIGHUP)
        reloads += 1
        time.sleep(1)

    check(load(port, reload))
    assert reloads > 0


def test_uvicorn_workers_replaced_lose_nothing(serve: Serve) -> None:
    """uvicorn's supervisor: SIGHUP restarts its workers one by one."""
    port = free_port()
    options = ["--loop", "hotloop:new_event_loop", "--workers", "2", "--no-access-log"]
    process = serve("-m", "uvicorn", "apps:plain", *options, "--port", str(port), port=port)

    def reload() -> None:
        process.send_signal(signal.SIGHUP)
        time.sleep(2)

    check(load(port, reload))
