"""What no committed file may hold: the paths of one machine, package hosts, and too many lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 1500
# Built from parts, so that this file passes its own check.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"/wo" "rk/",
            r"(?<![\w.])/ro" "ot/",
            r"/fa" "rm/",
            r"/tmp/" r"(wt|scratch)",
            r"/op" "t/(wheels|pypi)",
            r"https?://(py" r"pi|files\.pythonhosted|deb\.debian)",
        ]
    )
)
LONG_LINES = {".c": 88, ".h": 88}


def files() -> list[Path]:
    """What is or would be committed. Without git (an unpacked sdist) there is nothing to keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.splitlines() if done.returncode == 0 else []
    return [ROOT / name for name in sorted(set(names)) if (ROOT / name).is_file()]


def faults_of(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        return []
    faults = []
    if len(lines) > MOST_LINES:
        faults.append(f"{len(lines)} lines, over {MOST_LINES}: which second thing does it own?")
    longest = LONG_LINES.get(path.suffix)
    for number, line in enumerate(lines, 1):
        match = FORBIDDEN.search(line)
        if match:
            faults.append(f"line {number}: holds {match[0]!r}")
        if longest and len(line) > longest:
            faults.append(f"line {number}: {len(line)} columns, over {longest}")
        if line != line.rstrip():
            faults.append(f"line {number}: blank at its end")
    return faults


def main() -> int:
    count = 0
    paths = files()
    for path in paths:
        for fault in faults_of(path):
            print(f"    {path.relative_to(ROOT)}: {fault}")
            count += 1
    print(f"    {len(paths)} files, {count} faults")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
