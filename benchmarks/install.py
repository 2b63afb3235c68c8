"""Install what the benchmarks compare into this interpreter's environment: the extra `bench`.

One by one, and as wheels only: a peer without a wheel for this Python is said so and left out,
and is no error.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def wanted() -> list[str]:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    return [str(requirement) for requirement in extras["bench"]]


def install(requirement: str) -> str:
    """Empty, or why there is none."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--upgrade", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or [f"pip ended with {done.returncode}"])[-1]


def main() -> None:
    for requirement in wanted():
        print(f"\r\x1b[K{requirement}", end="", flush=True) if sys.stdout.isatty() else None
        reason = install(requirement)
        if reason:
            print(f"\nbenchmarks: without {requirement}: {reason}", flush=True)
    print("\r\x1b[K", end="") if sys.stdout.isatty() else None


if __name__ == "__main__":
    main()
