"""The asyncio guide's programs through every door, on every backend, with the guide's output.

All of them run side by side in processes of their own, before the first test looks at one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hotloop

HERE = Path(__file__).resolve().parent
GUIDE = HERE.parents[1] / "examples" / "guide"
sys.path.insert(0, str(GUIDE))
from doors import LAST_LINES, PROGRAMS, with_last_line  # noqa: E402

sys.path.remove(str(GUIDE))

# aiohttp's extensions, built for release builds, crash a debug build of Python, hotloop or not.
NO_EXTENSIONS = "AIOHTTP MULTIDICT YARL FROZENLIST PROPCACHE".split()
DEBUG_BUILD = hasattr(sys, "gettotalrefcount")
EXTENSIONS = {f"{name}_NO_EXTENSIONS": "1" for name in NO_EXTENSIONS} if DEBUG_BUILD else {}

TIMEOUT = 120  # seconds; for a process that hangs
SIDE_BY_SIDE = 9

RESTAURANT = [
    *(f"Attending to table {n}" for n in range(1, 6)),
    *(f"Taking order from table {n}" for n in range(1, 6)),
    *(f"Serving food to table {n}" for n in range(1, 6)),
]
PROCESSING = [
    *(f"Processing {n}..." for n in range(1, 6)),
    *(f"Finished processing {n}: Result is {2 * n}" for n in range(1, 6)),
    "All results: [2, 4, 6, 8, 10]",
]
# Seconds that the sleeps of a program take one after another, and what the loop may add.
SECONDS = {"greet.py": (1.0, 1.3), "restaurant.py": (3.0, 3.3), "processing.py": (2.0, 2.3)}


class Case(NamedTuple):
    program: str
    door: str  # one of LAST_LINES, or "-m hotloop"
    backend: str

    def __str__(self) -> str:
        return "-".join(self)


@dataclass
class Outcome:
    status: int
    output: list[str]
    errors: str
    probe: dict[str, Any]


OURS = [
    Case(program, door, backend)
    for program in PROGRAMS
    for door in [*LAST_LINES, "-m hotloop"]
    for backend in ("epoll", "select")
    if door != "asyncio"
]
STOCK = [Case(program, "asyncio", "none") for program in PROGRAMS]


def run_case(case: Case, folder: Path) -> Outcome:
    program = GUIDE / case.program
    command = ["-m", "hotloop", str(program)]
    if case.door != "-m hotloop":
        changed = folder / f"{case}.py"
        changed.write_text(with_last_line(program.read_text(), LAST_LINES[case.door]))
        command = [str(changed)]
    probe = folder / f"{case}.json"
    where = [str(HERE / "probe"), str(Path(hotloop.__file__).parents[1])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(where),
        "PYTHONWARNINGS": "ignore::DeprecationWarning",  # policies, from 3.14 on
        "GUIDE_PROBE": str(probe),
        "HOTLOOP_BACKEND": case.backend,
        **EXTENSIONS,
    }
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=folder, capture_output=True, timeout=TIMEOUT
    )
    return Outcome(
        done.returncode,
        done.stdout.decode().splitlines(),
        done.stderr.decode(),
        json.loads(probe.read_text()) if probe.exists() else {},
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Outcome]:
    folder = tmp_path_factory.mktemp("guide")
    cases = sorted([*OURS, *STOCK], key=lambda case: case.program == "requests_.py")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        done = dict(zip(cases, pool.map(lambda case: run_case(case, folder), cases), strict=True))
    for case, outcome in done.items():
        limit = SECONDS.get(case.program, (0, 1e9))[1]
        for _ in range(5):  # the machine may have been busy: the first that is in time counts
            if outcome.status != 0 or outcome.probe["seconds"] <= limit:
                break
            done[case] = outcome = run_case(case, folder)
    return done


def check_output(program: str, output: list[str]) -> None:
    if program == "greet.py":
        assert output == ["Hello, Hashim!"]
    elif program == "restaurant.py":
        assert output == RESTAURANT
    elif program == "processing.py":
        assert output == PROCESSING
    else:  # whichever page is there first
        line = re.compile(r"Fetched http://127\.0\.0\.1:\d+/(\w+) with (\d+) characters\.")
        found = sorted(match.groups() for match in map(line.fullmatch, output) if match)
        assert found == [("github", "300000"), ("openai", "20000"), ("python", "1000")]
        assert len(output) == 3


@pytest.mark.parametrize("case", [*OURS, *STOCK], ids=str)
def test_output(case: Case, outcomes: dict[Case, Outcome]) -> None:
    outcome = outcomes[case]
    assert (outcome.status, outcome.errors) == (0, "")
    check_output(case.program, outcome.output)


@pytest.mark.parametrize("case", OURS, ids=str)
def test_loop_tasks_and_futures_are_ours(case: Case, outcomes: dict[Case, Outcome]) -> None:
    probe = outcomes[case].probe
    assert probe["backend"] == [case.backend]
    for kind, name in (("loop", "EventLoop"), ("task", "Task"), ("future", "Future")):
        assert probe[kind] == [f"hotloop.{name}"]


@pytest.mark.parametrize("case", STOCK, ids=str)
def test_stock_asyncio_runs_them_without_us(case: Case, outcomes: dict[Case, Outcome]) -> None:
    probe = outcomes[case].probe
    assert not [
        name for kind in ("loop", "task", "future") for name in probe[kind] if "hotloop" in name
    ]


@pytest.mark.parametrize("case", [c for c in OURS if c.program in SECONDS], ids=str)
def test_sleeps_overlap(case: Case, outcomes: dict[Case, Outcome]) -> None:
    least, most = SECONDS[case.program]
    assert least <= outcomes[case].probe["seconds"] <= most


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_in_the_programs_knows_hotloop(program: str) -> None:
    text = (GUIDE / program).read_text()
    assert "hotloop" not in text
    assert with_last_line(text, LAST_LINES["asyncio"]) == text
