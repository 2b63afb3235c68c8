"""Runs every check and says at the end which failed: `python tools/lint [NAME ...]`.

Names pick checks; without any, all run. Use the interpreter that has the tools of
tools/requirements-lint.txt and the build's needs (make lint does).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
C_TREES = ["csrc", "tests/c", "tests/fuzz", "benchmarks"]
PYTHON_TREES = ["python", "tests", "tools", "examples", "benchmarks", "setup.py"]


def run(*command: str | Path, **environment: str) -> bool:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}, check=False
    )
    return done.returncode == 0


def c_files(*trees: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for tree in trees for path in (ROOT / tree).rglob("*.[ch]")
    )


def python_trees() -> list[str]:
    return [tree for tree in PYTHON_TREES if (ROOT / tree).exists()]


def ruff() -> bool:
    checked = run(BIN / "ruff", "check", "--quiet", *python_trees())
    return run(BIN / "ruff", "format", "--quiet", "--diff", *python_trees()) and checked


def mypy() -> bool:
    typed = run(BIN / "mypy", "--strict", "python/hotloop", "tests/types")
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks").rglob("*.py"))
    return run(BIN / "mypy", "--strict", *files, MYPYPATH="benchmarks:python") and typed


def stubs() -> bool:
    """Does _core.pyi say what the built module has?"""
    command = [BIN / "stubtest", "hotloop._core", "--mypy-config-file", "pyproject.toml"]
    return run(*command, "--concise", "--allowlist", LINT / "stubtest.txt")


def clang_format() -> bool:
    command = [str(BIN / "clang-format"), "--dry-run", "-Werror", *c_files(*C_TREES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    named = {line.partition(":")[0] for line in done.stderr.splitlines()}
    for name in sorted(named.intersection(c_files(*C_TREES))):
        print(f"    {name} is not in format (make format)")
    return done.returncode == 0


def own(script: str) -> Callable[[], bool]:
    return lambda: run(sys.executable, LINT / script)


def werror(compiler: str) -> Callable[[], bool]:
    def check() -> bool:
        if shutil.which(compiler) is None:
            print(f"    {compiler} is not here: NOT CHECKED with it")
            return True
        # -O2: some warnings need the optimiser's analysis; and a level given turns LTO off.
        base = f"build/werror-{compiler}-{sys.version_info[0]}.{sys.version_info[1]}"
        return run(
            sys.executable, "setup.py", "-q", "build", "--build-base", base,
            CC=compiler, CFLAGS="-O2 -DNDEBUG", HOTLOOP_WERROR="1",
        ) and run(
            sys.executable, "setup.py", "-q", "build", "--build-base", base + "-debug",
            CC=compiler, CFLAGS="-O1 -UNDEBUG", HOTLOOP_WERROR="1",
        )  # fmt: skip

    return check


CHECKS: dict[str, Callable[[], bool]] = {
    "ruff": ruff,
    "mypy": mypy,
    "stubs": stubs,
    "clang-format": clang_format,
    "layering": own("layering.py"),
    "syscalls": own("syscalls.py"),
    "text": own("text.py"),
    "functions": own("functions.py"),
    "headers": own("headers.py"),
    "gcc -Werror": werror("gcc"),
    "clang -Werror": werror("clang"),
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are: {', '.join(CHECKS)}")
        return 2
    failed = []
    for name in names or CHECKS:
        start = time.monotonic()
        print(f"lint: {name}", flush=True)
        good = CHECKS[name]()
        print(f"    {'ok' if good else 'FAILED'} ({time.monotonic() - start:.1f} s)", flush=True)
        if not good:
            failed.append(name)
    print(f"lint: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
