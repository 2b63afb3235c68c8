"""Runs the regression tests on another loop and says which it fails, one line each.

    python tests/regressions/run.py uvloop [pytest's -k expression]

Each test has a process of its own with a time limit, so that a crash or a hang costs that test
alone. Ends with 1 if a test marked as failing on that loop, in the version of bugs.SEEN_ON,
passes: a fixed bug, or a weak test.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from bugs import SEEN_ON

HERE = pathlib.Path(__file__).parent
LIMIT = 60  # seconds for a test
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]


def collect(loop: str, only: str) -> list[str]:
    """The tests' ids, without those about the folder itself."""
    done = subprocess.run(
        [*PYTEST, "--collect-only", "-k", only or "test", str(HERE)],
        env={**os.environ, "REGRESSION_LOOP": loop},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode not in (0, 5) or not found:
        sys.exit(done.stdout + done.stderr)
    return [one for one in found if "test_bugs_table" not in one]


def outcome(loop: str, test: str) -> str:
    """'' if it passes, else why not in a few words."""
    with subprocess.Popen(
        [*PYTEST, "--tb=line", "--show-capture=no", test],
        env={**os.environ, "REGRESSION_LOOP": loop, "TEST_LIMIT": "5"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # the test's own children end with it
    ) as child:
        try:
            text, _ = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return f"hangs ({LIMIT} s)"
    if child.returncode < 0:
        return f"ends the process: {signal.Signals(-child.returncode).name}"
    if child.returncode == 0:
        return ""
    if child.returncode != 1:  # pytest's own trouble is no verdict on the loop
        raise RuntimeError(f"{test} could not be run:\n{text}")
    said = re.findall(r"^(?:/\S+: |E +)(?!\[)(.+)$", text, re.MULTILINE)
    return next(iter(said), "fails")[:110]


def marks() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Name of a test -> its class, and the loops on which it was seen to fail."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "net"), str(HERE.parent / "tls")]
    from test_bugs_table import bug_tests

    return {
        name: (mark.args[0], tuple(mark.kwargs.get("fails_on", ()))) for name, mark in bug_tests()
    }


def bare_name(test: str) -> str:
    return test.partition("::")[2].partition("[")[0]


def main() -> int:
    loop = sys.argv[1]
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    version = importlib.metadata.version(loop)
    tests = collect(loop, only)
    table = marks()
    print(f"{loop} {version}: {len(tests)} tests", flush=True)
    failed, failing, classes = 0, set(), set()
    with ThreadPoolExecutor(2) as pool:
        tests.sort(key=lambda test: table[bare_name(test)][0])
        for test, said in zip(
            tests, pool.map(lambda test: outcome(loop, test), tests), strict=True
        ):
            if said:
                failed += 1
                failing.add(bare_name(test))
                classes.add(table[bare_name(test)][0])
                number = table[bare_name(test)][0]
                print(f"{number:3d}  {test.partition('::')[2]}: {said}", flush=True)
    print(f"{failed} of {len(tests)} tests fail, of {len(classes)} classes")
    ran = {bare_name(test) for test in tests}
    seen = {name for name in ran if loop in table[name][1]}
    for name in sorted(seen - failing):
        print(f"passes, though it was seen to fail on {SEEN_ON[loop]}: {name}")
    for name in sorted(failing - seen):
        print(f"not marked with fails_on: {name}")
    return 1 if version == SEEN_ON.get(loop) and seen - failing else 0


if __name__ == "__main__":
    sys.exit(main())
