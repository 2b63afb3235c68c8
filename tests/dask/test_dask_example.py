"""The example: a cluster made by the program itself, all of it on hotloop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="make dask installs it")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dask_cluster.py"


def test_example(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "20000"],
        cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "workers run on hotloop.EventLoop",
        "the scheduler on hotloop.EventLoop",
        "primes below 20000 are 2262",
    ]
