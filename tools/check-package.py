"""Builds an sdist, installs it (so: builds from it) into a fresh environment and runs on it.

python tools/check-package.py FOLDER     works in FOLDER, which is emptied first
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import asyncio

async def main():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__

print(asyncio.run(main()))
"""


def run(*command: str | Path, **options: object) -> str:
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=options.get("cwd", ROOT), capture_output=True, text=True)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"package: {' '.join(parts)} failed\n{done.stdout}{done.stderr}")
    text: str = done.stdout
    return text


def missing_from(sdist: Path) -> list[str]:
    """Tracked files that the sdist does not hold. Nothing outside of a git checkout."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if not (ROOT / ".git").exists():
        return []
    return sorted(set(run("git", "ls-files").splitlines()) - held)


def unhardened(library: Path) -> list[str]:
    """What SECURITY.md promises of a released build, and this one has not. Needs binutils."""
    if shutil.which("readelf") is None or any(
        flag.startswith("-O") for flag in os.environ.get("CFLAGS", "").split()
    ):
        return []
    said = run("readelf", "--wide", "--dynamic", "--program-headers", "--dyn-syms", library)
    promised = {
        "full RELRO": "GNU_RELRO" in said and "BIND_NOW" in said,
        "canaries on stacks": "__stack_chk_fail" in said,
        "checked copies": "__memcpy_chk" in said or "__memset_chk" in said,
    }
    return [name for name, there in promised.items() if not there]


def main(folder: Path) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build = f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build)
    (sdist,) = folder.glob("*.tar.gz")
    missing = missing_from(sdist)
    if missing:
        print(f"package: not in {sdist.name}: {', '.join(missing)}")
        return 1

    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", sdist)
    (library,) = folder.glob("venv/lib/python*/site-packages/hotloop/_core*.so")
    if missing := unhardened(library):
        print(f"package: {library.name} has no {', no '.join(missing)}")
        return 1
    (folder / "program.py").write_text(PROGRAM)
    said = run(python, "-m", "hotloop", folder / "program.py", cwd=folder).strip()
    print(f"package: {sdist.name} ({os.path.getsize(sdist)} bytes) builds; runs on {said}")
    return said.partition(".")[0] != "hotloop"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
