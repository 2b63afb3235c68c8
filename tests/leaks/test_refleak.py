"""The leak check itself: it sees the smallest leak, and nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import asyncio, logging, os, sys

kept = []

def test_empty():
    pass

def test_loop_and_log():
    async def main():
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
        logging.getLogger("any").error("kept by pytest until the end")
    asyncio.run(main())
    print("as this is")

def test_object():
    kept.append(object())

def test_descriptor():
    os.open("/dev/null", os.O_RDONLY)
"""


@pytest.mark.skipif(
    sys.getallocatedblocks() == 0, reason="PYTHONMALLOC=malloc: nobody counts the blocks"
)
def test_what_it_finds(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "refleak", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("test_it.py::")]
    assert len(found) == 2, done.stdout + done.stderr
    assert found[0].startswith("test_it.py::test_object leaks: ")
    assert "'blocks': [1, 1, 1]" in found[0]
    assert found[1] == "test_it.py::test_descriptor leaks: {'descriptors': [1, 1, 1]}"
    assert "2 failed, 2 passed" in done.stdout
