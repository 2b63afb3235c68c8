"""The folders of csrc/ are layers: an include points down or stays, and names its layer.

    module.c  ->  net, proc  ->  loop  ->  sched  ->  py  ->  core

net and proc do not know each other, core knows no Python, and what differs between versions
of CPython is asked in one file only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
TOP = "(top)"  # module.c

MAY_INCLUDE = {"core": {"core"}}
for layer, below in [
    ("py", "core"),
    ("sched", "py"),
    ("loop", "sched"),
    ("net", "loop"),
    ("proc", "loop"),
]:
    MAY_INCLUDE[layer] = MAY_INCLUDE[below] | {layer}
MAY_INCLUDE[TOP] = MAY_INCLUDE["net"] | MAY_INCLUDE["proc"] | {TOP}

VERSION_MACRO = "PY_VERSION_" + "HEX"
VERSIONS_ARE_ASKED_IN = Path("py/pycompat.h")

INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^">]+)')


def layer_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else TOP


def faults_of(path: Path) -> list[tuple[int, str]]:
    layer = layer_of(path)
    if layer not in MAY_INCLUDE:
        return [(1, f"csrc/{layer}/ is no layer; there are {', '.join(MAY_INCLUDE)}")]
    faults = []
    for number, line in enumerate((CSRC / path).read_text().splitlines(), 1):
        if VERSION_MACRO in line and path != VERSIONS_ARE_ASKED_IN:
            faults.append((number, f"{VERSION_MACRO} belongs into {VERSIONS_ARE_ASKED_IN}"))
        match = INCLUDE.match(line)
        if match is None:
            continue
        bracket, name = match.groups()
        if bracket == "<":
            if layer == "core" and name.lower().startswith(("python.h", "structmember.h")):
                faults.append((number, "core/ does not include Python"))
            continue
        if not (CSRC / name).exists():
            faults.append((number, f'"{name}" is not a path from csrc/'))
            continue
        other = layer_of(Path(name))
        if name == "Python.h" or other not in MAY_INCLUDE[layer]:
            faults.append((number, f'{layer} may not include "{name}"'))
    return faults


def main() -> int:
    files = sorted(path.relative_to(CSRC) for path in CSRC.rglob("*.[ch]"))
    count = 0
    for path in files:
        for number, fault in faults_of(path):
            print(f"    csrc/{path}:{number}: {fault}")
            count += 1
    print(f"    {len(files)} files, {count} faults")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
