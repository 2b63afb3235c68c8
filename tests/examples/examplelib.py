"""Runs a program of examples/ as its reader would, and says afterwards what it ran on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hotloop

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROBE = Path(__file__).resolve().parent / "probe"
START = 60.0  # seconds until a server takes connections
OURS = {"loop": ["hotloop.EventLoop"], "task": ["hotloop.Task"], "future": ["hotloop.Future"]}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def example(name: str, *args: str, port: int, backend: str, folder: Path) -> Iterator[Any]:
    """`python examples/name args` while it serves; then Ctrl-C, which must end it quietly.

    Gives a dictionary that afterwards holds what ran: kinds of loops, tasks and futures.
    """
    report, log = folder / f"{name}.json", folder / f"{name}.log"
    path = [str(PROBE), str(Path(hotloop.__file__).parents[1])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "EXAMPLE_PROBE": str(report),
        "HOTLOOP_BACKEND": backend,
    }
    ran: dict[str, list[str]] = {}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *args],
            cwd=folder,
            env=env,
            stdout=out,
            stderr=out,
        )
        try:
            wait_for_port(port, process)
            yield ran
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    said = log.read_text()
    # 3.12's own streams report a handler that is cancelled at the end of the run.
    known = sys.version_info < (3, 13) and "StreamReaderProtocol.connection_made.<locals>" in said
    assert known or "Traceback" not in said, said
    ran.update(json.loads(report.read_text()))
