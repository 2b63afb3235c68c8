"""The fuzz targets of the C core without libFuzzer: what they found once, and a few random inputs.

`make fuzz SECONDS=…` is the long form, which needs clang; this one is built with CC, any compiler.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_core_c import COMPILER, CORE, FLAGS, ROOT, WRAPPED, sanitizers

HERE = Path(__file__).resolve().parent
TARGETS = sorted(HERE.glob("fuzz_*.c"))
RANDOM = "300"  # inputs of the program's own generator


@pytest.mark.parametrize("source", TARGETS, ids=[path.stem for path in TARGETS])
def test_corpus(source: Path, tmp_path: Path) -> None:
    program = tmp_path / source.stem
    folders = [f"-I{ROOT / folder}" for folder in ("csrc", "tests/c", "tests/fuzz")]
    command = [*COMPILER, *FLAGS, *sanitizers(), "-DFUZZ_REPLAY", *folders, str(source)]
    command += [*map(str, CORE), "-o", str(program), "-pthread", "-lm"]
    command += [f"-Wl,--wrap={name}" for name in WRAPPED]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr

    seeds = sorted((HERE / "corpus" / source.stem.removeprefix("fuzz_")).glob("*"))
    drop = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")
    environ = {key: value for key, value in os.environ.items() if key not in drop}
    done = subprocess.run(
        [str(program), *map(str, seeds)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environ | {"FUZZ_RANDOM": RANDOM},
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert f"ok {len(seeds)} files" in done.stdout
