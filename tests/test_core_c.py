"""The core has no Python in it, so its tests are plain C programs (tests/c), compiled here
together with csrc/core under the address and undefined-behaviour sanitizers, and run.

CC picks the compiler (default: cc).
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "csrc" / "core").glob("*.c"))
PROGRAMS = sorted((ROOT / "tests" / "c").glob("test_*.c"))

COMPILER = shlex.split(os.environ.get("CC", "cc"))
FLAGS = "-std=c11 -O1 -g -UNDEBUG -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror".split()
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
]
# check.h stands between the code under test and these, so that each of them can fail.
WRAPPED = ["malloc", "calloc", "realloc"]
WRAPPED_BY = {"test_poll": ["syscall"]}
# What stands in on other systems for what Linux has is tested here as well.
VARIANTS: list[tuple[str, Path, list[str]]] = [(source.stem, source, []) for source in PROGRAMS] + [
    ("test_wake-pipe", ROOT / "tests" / "c" / "test_wake.c", ["-DHL_WAKE_PIPE"]),
    *(
        (f"{name}-portable", ROOT / "tests" / "c" / f"{name}.c", ["-DHL_PORTABLE"])
        for name in ("test_wake", "test_sigpair", "test_poll")
    ),
]

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER[0]) is None, reason=f"no C compiler: {COMPILER[0]!r} is not on PATH"
)


@functools.cache
def sanitizers() -> list[str]:
    """The flags, if this compiler has the sanitizers' libraries and its programs run."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.c"), Path(folder, "probe")
        source.write_text("int main(void) { return 0; }\n")
        command = [*COMPILER, *SANITIZERS, str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return []
        if subprocess.run([str(program)], capture_output=True, check=False).returncode != 0:
            return []
    return SANITIZERS


def test_sanitizers_are_there() -> None:
    if not sanitizers():
        pytest.skip(f"{COMPILER[0]} has no sanitizers here: the C programs run without them")


@pytest.mark.parametrize(
    ("source", "defines"),
    [pytest.param(source, defines, id=name) for name, source, defines in VARIANTS],
)
def test_program(source: Path, defines: list[str], tmp_path: Path) -> None:
    program = tmp_path / source.stem
    wrapped = WRAPPED + WRAPPED_BY.get(source.stem, [])
    command = [
        *COMPILER,
        *FLAGS,
        *sanitizers(),
        *defines,
        f"-I{ROOT / 'csrc'}",
        f"-I{ROOT / 'tests' / 'c'}",
        str(source),
        *map(str, CORE),
        "-o",
        str(program),
        "-pthread",
        *(f"-Wl,--wrap={name}" for name in wrapped),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{shlex.join(command)}\n{built.stdout}{built.stderr}"

    # Whatever the caller preloads or asks of a sanitizer is meant for Python, not for these.
    drop = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")
    environ = {key: value for key, value in os.environ.items() if key not in drop}
    done = subprocess.run(
        [str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "ok " in done.stdout
