"""Rows of the feature table in docs/compatibility.md: what hotloop is built for, and its types."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import hotloop

PACKAGE = Path(hotloop.__file__).parent


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120)


def test_python_version() -> None:
    """The interpreter that runs this is one that the table names."""
    assert sys.version_info[:2] in {(3, 12), (3, 13), (3, 14), (3, 15)}
    assert sys.implementation.name == "cpython"


def test_native_types() -> None:
    """No fallback: the layout of asyncio's own types is known for this interpreter."""
    assert hotloop.Task.__module__.startswith("hotloop")
    assert hotloop.Future.__module__.startswith("hotloop")


def test_typing() -> None:
    """The package is marked as typed, and the C module's stub has all that it exports."""
    assert (PACKAGE / "py.typed").is_file()
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    stubbed = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    core = sys.modules["hotloop._core"]
    types = {name for name, value in vars(core).items() if isinstance(value, type)}
    assert {"EventLoop", "Future", "Handle", "Task", "TimerHandle"} <= stubbed & types
    assert not {name for name in types if not name.startswith("_")} - stubbed


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this is about builds without a GIL"
)
def test_without_a_gil() -> None:
    """3.13 does not turn it on for hotloop; later ones do, until they are tested."""
    done = run_python("-c", "import hotloop, sys; print(sys._is_gil_enabled())")
    assert done.stdout.strip() == str(sys.version_info >= (3, 14)), done.stderr


def test_subinterpreters() -> None:
    """With a GIL of their own, from 3.13 on: more of it in tests/threads.

    On 3.12, whose own _asyncio crashes in them: an ImportError, and nothing worse.
    """
    new = sys.version_info >= (3, 13)
    made = "_interpreters" if new else "_xxsubinterpreters"
    code = f"""
import os
import {made} as interpreters
inner = interpreters.create({"'isolated'" if new else "isolated=True"})
interpreters.run_string(inner, '''
try:
    import asyncio, hotloop
    print("answer:", hotloop.run(asyncio.sleep(0, 42)), flush=True)
except ImportError as exc:
    print("refused:", exc, flush=True)
''')
interpreters.destroy(inner)
import hotloop
print("fine here", flush=True)
os._exit(0)  # 3.12's own _asyncio, imported twice so, crashes at the end
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("answer: 42" if new else "refused")
    assert second == "fine here"


def test_metadata_says_what_holds() -> None:
    """No classifier and no dependency that the table would contradict."""
    try:
        meta = importlib.metadata.metadata("hotloop")
    except importlib.metadata.PackageNotFoundError:
        text = (PACKAGE.parents[1] / "pyproject.toml").read_text()
        assert 'requires-python = ">=3.12"' in text
        assert "dependencies = []" in text
    else:
        assert meta["Requires-Python"] == ">=3.12"
        needs = meta.get_all("Requires-Dist") or []
        assert all("extra ==" in need for need in needs)
