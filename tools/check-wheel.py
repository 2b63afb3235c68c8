"""Installs a wheel where no compiler is in reach, and runs the guide on it.

aiohttp, which one of the guide's programs uses, is installed beside it.

python tools/check-wheel.py hotloop-….whl
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEPT = ("PIP_", "HOME", "LANG", "SSL_", "http", "HTTP")
ROOT = Path(__file__).resolve().parents[1]


def main(wheel: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        bare = {key: value for key, value in os.environ.items() if key.startswith(KEPT)}
        bare["PATH"] = f"{folder}/bin"
        began = time.monotonic()
        python = f"{folder}/bin/python"
        install = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        install += ["--only-binary=:all:"]
        subprocess.run([*install, wheel, "aiohttp"], env=bare, cwd=folder, check=True)
        demo = [python, str(ROOT / "examples" / "guide" / "demo.py")]
        done = subprocess.run(
            demo, env=bare, cwd=folder, stdout=subprocess.PIPE, text=True, check=False
        )
        took = time.monotonic() - began
    if done.returncode:
        print(f"wheel: the guide failed on {wheel.name}\n{done.stdout}")
        return 1
    print(f"wheel: {wheel.name}, {wheel.stat().st_size} bytes; installed and ran in {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
