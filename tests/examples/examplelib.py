"""Runs a program of examples/ as its reader would, and says afterwards what it ran on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports import wait_for_port

import hotloop

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROBE = Path(__file__).resolve().parent / "probe"
OURS = {"loop": ["hotloop.EventLoop"], "task": ["hotloop.Task"], "future": ["hotloop.Future"]}


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
