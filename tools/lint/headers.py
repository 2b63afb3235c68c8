"""Every header compiles alone: whoever includes it need not know what it leans on."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-fsyntax-only -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function".split()


def complaint_of(header: str) -> str:
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    include = ["-Icsrc", "-I", sysconfig.get_path("include")]
    done = subprocess.run(
        [*compiler, *FLAGS, *include, "-x", "c", "-"],
        input=f'#include "{header}"\n' * 2,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def main() -> int:
    headers = sorted(
        path.relative_to(ROOT / "csrc").as_posix() for path in (ROOT / "csrc").rglob("*.h")
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = [text for text in pool.map(complaint_of, headers) if text]
    for text in complaints:
        print(text, end="")
    print(f"    {len(headers)} headers, {len(complaints)} do not stand alone")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
