"""The doors: the tools through which programs get their event loop, each run as users run it.

`make doors` installs them. Every test ends in the same proof: the program inside the tool says
that its loop, its task and its future are hotloop's. HOTLOOP_BACKEND picks the poller.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doorlib import Run, Serve, end, environment, wait_for_answer

# With the first callback libffi opens its own file, and keeps it: Jupyter's client makes one.
ctypes.CFUNCTYPE(None)(lambda: None)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """serve(module, *args, port=…): `python -m module args` until the test ends; the process."""
    started = []

    def start(*args: str, port: int, **more: str) -> subprocess.Popen[Any]:
        log = (tmp_path / f"log{len(started)}").open("w")
        process = subprocess.Popen(
            [sys.executable, *args], cwd=tmp_path, env=environment(**more), stdout=log, stderr=log
        )
        started.append((process, log))
        wait_for_answer(port, process)
        return process

    yield start
    for process, log in started:
        end(process)
        log.close()
        sys.stdout.write(Path(log.name).read_text())


@pytest.fixture
def run_file(tmp_path: Path) -> Run:
    """run_file(text, *args): a file with that text under `python ARGS file`; what it printed."""

    def run(text: str, *args: str, status: int = 0, name: str = "program.py", **more: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, *args, str(path)],
            cwd=tmp_path, env=environment(**more), capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
