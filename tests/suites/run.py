"""Whole suites of other projects on hotloop, with stock asyncio beside it as the control.

    python tests/suites/run.py --environments .venv-suites [--docs] [--again] [NAME ...]

For each package of table.py: its sdist is fetched, an environment of its own is made (and kept),
the suite runs on asyncio and on hotloop. A test that is worse on hotloop is run again by itself, a
few times on both: what fails only on hotloop is a difference, and the exit status says so, unless
the table has the reason. What fails on both is the suite's business, and what passes alone is
reported as unsteady.

build/suites.json keeps the newest result of each package, --docs writes the table from it into
docs/compatibility.md. A run in which no loop of hotloop's ran is an error, not a result.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "integration")]

# After the path is set, by which they are found.
import servers  # noqa: E402
from table import SUITES, Suite  # noqa: E402

import hotloop  # noqa: E402

BUILD = ROOT / "build" / "suites"
RESULTS = ROOT / "build" / "suites.json"
DOCUMENT = ROOT / "docs" / "compatibility.md"
MARKS = ("<!-- suites: begin -->", "<!-- suites: end -->")
CONTROL, OURS = "asyncio", "hotloop"
BAD = ("failed", "error", "crashed", "hung")
REPEATS = 3  # of a test that differs
RESTARTS = 5  # of a suite that ended before its end, without the test that it was at
VERSION = ".".join(map(str, sys.version_info[:2]))


class NoResult(Exception):
    """A run that says nothing about the suite: the others go on, and the exit status is 1."""


# ---- environments ------------------------------------------------------------------------------


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def environment(suite: Suite, folder: Path) -> Path:
    """The interpreter of the suite's environment: made anew where the table has changed."""
    place = folder / suite.name
    python = place / "bin" / "python"
    wanted = [suite.requirement, *suite.requires]
    stamp = place / ".ready"
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"suites: making {place.name}'s environment", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip(python, "install", "--prefer-binary", *wanted)
        stamp.write_text(digest)
    # A link and not an installation: what is tested is always what was built last, and nothing
    # else of the environment that it is in.
    link = packages(place) / "hotloop"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(hotloop.__file__).resolve().parent)
    return python


def packages(place: Path) -> Path:
    return place / "lib" / f"python{VERSION}" / "site-packages"


def sources(suite: Suite, python: Path) -> Path:
    """The folder to run in: what the suite needs of its sdist, laid anew each time."""
    if not suite.keep:
        return packages(python.parents[1])
    archives = BUILD / "sdists"
    archives.mkdir(parents=True, exist_ok=True)
    pattern = f"{suite.name.replace('-', '[-_]')}-{suite.version}.tar.gz"
    if not list(archives.glob(pattern)):
        pip(
            python, "download", "--no-deps", "--no-binary", suite.name,
            "-d", str(archives), suite.requirement,
        )  # fmt: skip
    (archive,) = archives.glob(pattern)
    folder = BUILD / f"{suite.name}-{VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.partition("/")[0] in suite.keep:
                tar.extract(member, folder, filter="data")
    return folder


# ---- one run -----------------------------------------------------------------------------------


@dataclass
class Run:
    """What came of the tests that were collected; worse than passed has a text."""

    collected: list[str] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    made: int = 0  # loops, by the policy under test
    ran: int = 0
    started: str = ""  # the test that it was at
    finished: bool = False

    def read(self, result: Path) -> None:
        for line in result.read_text().splitlines() if result.exists() else ():
            self.add(json.loads(line))

    def add(self, entry: dict[str, Any]) -> None:
        if "start" in entry:
            self.started = entry["start"]
        elif "collected" in entry:
            self.collected = entry["collected"]
            self.left_out = entry["left_out"]
        elif "test" in entry:
            test, outcome = entry["test"], entry["outcome"]
            if self.outcomes.get(test) not in BAD:  # a failure stays one, whatever teardown says
                self.outcomes[test] = outcome
                self.texts[test] = entry["text"]
        else:
            self.made, self.ran = entry["made"], entry["ran"]
            self.finished = True

    def counts(self) -> dict[str, int]:
        counts = collections.Counter(self.outcomes.values())
        return {
            "passed": counts["passed"] + counts["xfailed"] + counts["xpassed"],
            "failed": sum(counts[bad] for bad in BAD),
            "skipped": counts["skipped"],
        }


@dataclass
class Place:
    """Where a suite runs, and with what."""

    suite: Suite
    python: Path
    folder: Path
    services: dict[str, object]  # their names, and what there is to say of each: mostly a port

    def environment(self, arm: str, result: Path, only: list[str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "PG")) and "proxy" not in name.lower()
        }
        own = {name: text.format(**self.services) for name, text in self.suite.environment.items()}
        return {
            **kept,
            **own,
            "PYTHONPATH": str(HERE / "inside"),
            "PYTHONFAULTHANDLER": "1",
            "SUITE_LOOP": arm,
            "SUITE_RESULT": str(result),
            "SUITE_WITHOUT": json.dumps([*self.suite.without]),
            "SUITE_ONLY": json.dumps(only),
        }

    def configuration(self) -> list[str]:
        """Tests that are run where they are installed get none: pytest would find hotloop's."""
        if self.suite.keep:
            return []
        empty = BUILD / "empty.ini"
        empty.write_text("[pytest]\n")
        return ["-c", str(empty), "--rootdir", str(self.folder)]

    def once(self, arm: str, label: str, only: list[str], without: list[str]) -> Run:
        """One process; what it does not get to is not in the result."""
        stem = f"{self.suite.name}-{VERSION}-{label}"
        result, log = BUILD / f"{stem}.jsonl", BUILD / f"{stem}.log"
        result.unlink(missing_ok=True)
        environment = self.environment(arm, result, only)
        environment["SUITE_WITHOUT"] = json.dumps([*self.suite.without, *without])
        arguments = [text.format(**self.services) for text in self.suite.arguments]
        paths = sorted({test.partition("::")[0] for test in only}) or self.suite.paths
        command = [
            str(self.python), "-m", "pytest", "-q", "-p", "hotloop_suite",
            "-p", "no:cacheprovider", "--continue-on-collection-errors",
            *self.configuration(), *arguments, *paths,
        ]  # fmt: skip
        run = Run()
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                process.wait(self.suite.minutes * 60)
            except subprocess.TimeoutExpired:
                out.write(f"suites: not at its end after {self.suite.minutes} minutes\n")
                ended = "hung"
            else:
                ended = "crashed"
            finally:
                with contextlib.suppress(ProcessLookupError):  # its children too
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        run.read(result)
        if not run.finished and run.started and run.started not in run.outcomes:
            run.outcomes[run.started] = ended
            run.texts[run.started] = f"{ended}: see {log.name}"
        return run

    def run(self, arm: str) -> Run:
        """The suite to its end, or as near as it gets: what broke it is left out, then again."""
        broken: dict[str, str] = {}
        for _ in range(RESTARTS):
            run = self.once(arm, arm, [], [*broken])
            if run.finished or not run.started:
                break
            broken[run.started] = run.outcomes[run.started]
        else:
            raise NoResult(f"{self.suite.name} does not get to its end on {arm}")
        run.outcomes.update(broken)
        if not run.collected:
            raise NoResult(f"{self.suite.name} ran no test on {arm}: see its log")
        if not run.ran:
            raise NoResult(f"no loop of {arm}'s ran in {self.suite.name}'s suite")
        return run


@contextlib.contextmanager
def prepared(suite: Suite, environments: Path) -> Iterator[Place]:
    python = environment(suite, environments)
    folder = sources(suite, python)
    with contextlib.ExitStack() as stack:
        services = {}
        if suite.service:
            data = stack.enter_context(tempfile.TemporaryDirectory(prefix="hotloop-suites-"))
            start = getattr(servers, suite.service)
            services[suite.service] = stack.enter_context(start(Path(data)))
        yield Place(suite, python, folder, services)


# ---- judging -----------------------------------------------------------------------------------


def worse(control: Run, ours: Run) -> list[str]:
    """What is well on asyncio and not here. A test that we skip, or never came to, was not run."""

    def lost(test: str) -> bool:
        there, here = control.outcomes[test], ours.outcomes.get(test, "not run")
        return there not in BAD and (
            here in (*BAD, "not run") or (here, there) == ("skipped", "passed")
        )

    return [test for test in control.outcomes if lost(test)] + [
        test for test, here in ours.outcomes.items() if here in BAD and test not in control.outcomes
    ]


def again(place: Place, test: str) -> dict[str, list[str]]:
    """The test by itself, in turn on both, so that what else the machine does hits both."""
    seen: dict[str, list[str]] = {OURS: [], CONTROL: []}
    for _ in range(REPEATS):
        for arm, outcomes in seen.items():
            run = place.once(arm, f"{arm}-again", [test], [])
            outcomes.append(run.outcomes.get(test, "not run"))
    return seen


def verdict(seen: dict[str, list[str]]) -> str:
    """'difference': ours fails more often; 'unsteady': passes alone; 'both': the control fails too.

    "not run" is a failure: what is collected on one loop only is as good as lost on the other.
    """
    ours, control = (
        sum(outcome in (*BAD, "not run") for outcome in seen[arm]) for arm in (OURS, CONTROL)
    )
    if not ours:
        return "unsteady"
    return "difference" if ours > control else "both"


def looked_at_again(place: Place, test: str, seen: dict[str, str]) -> dict[str, Any]:
    """What a doubtful test is recorded as."""
    runs = again(place, test)
    return {
        "verdict": verdict(runs),
        "outcome": seen["outcome"],
        "text": seen["text"],
        **runs,
    }


def run_suite(suite: Suite, environments: Path) -> dict[str, Any]:
    """Both arms, and what is to be said of them."""
    started = time.monotonic()
    with prepared(suite, environments) as place:
        print(f"suites: {suite.name} {suite.version} on asyncio", flush=True)
        control = place.run(CONTROL)
        print(f"suites: {suite.name} {suite.version} on hotloop", flush=True)
        ours = place.run(OURS)
        doubtful = {}
        for test in worse(control, ours):
            outcome, text = ours.outcomes.get(test, "not run"), ours.texts.get(test, "")
            doubtful[test] = looked_at_again(place, test, {"outcome": outcome, "text": text})
    return {
        "version": suite.version,
        "python": platform.python_version(),
        "hotloop": hotloop.__version__,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - started),
        "loops": {"made": ours.made, "ran": ours.ran},
        "left out": {"tests": ours.left_out, "why": suite.without},
        CONTROL: control.counts(),
        OURS: ours.counts(),
        "fails on both": sorted(
            test for test, outcome in ours.outcomes.items()
            if outcome in BAD and control.outcomes.get(test) in BAD
        ),
        "doubtful": doubtful,
    }  # fmt: skip


def run_doubtful(suite: Suite, environments: Path) -> dict[str, Any]:
    """The newest result, with what was doubtful in it looked at anew."""
    result: dict[str, Any] = load()[f"{suite.name} {VERSION}"]
    with prepared(suite, environments) as place:
        for test, seen in result["doubtful"].items():
            result["doubtful"][test] = looked_at_again(place, test, seen)
    return result


def differences(result: dict[str, Any], kind: str = "difference") -> list[str]:
    return [test for test, seen in result["doubtful"].items() if seen["verdict"] == kind]


def judged(suite: Suite, result: dict[str, Any]) -> bool:
    """Whether it fails where it has no excuse, or has an excuse that it does not need."""
    found = {*differences(result)}
    for test in sorted(found - {*suite.presumes}):
        print(f"  WORSE THAN ASYNCIO: {test}")
    for test in sorted({*suite.presumes} - found):
        print(f"  PASSES: {test}: take it out of the table")
    return found == {*suite.presumes}


# ---- telling -----------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(key: str, result: dict[str, Any]) -> None:
    """Into what is there: each package, on each Python, has its newest result."""
    results = load()
    results[key] = result
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def short(test: str) -> str:
    """Without its file, which is a path in somebody else's tree."""
    return test.rpartition("::")[2]


def cell(counts: dict[str, int]) -> str:
    return f"{counts['passed']} / {counts['failed']} / {counts['skipped']}"


def row(suite: Suite, result: dict[str, Any]) -> str:
    cells = (
        suite.name,
        result["version"],
        result["python"],
        cell(result[CONTROL]),
        cell(result[OURS]),
        str(len(differences(result))),
        str(result["loops"]["ran"]),
        result["date"],
    )
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, Any]) -> str:
    """In Markdown: passed, failed and skipped of each; what cannot be run, and why."""
    lines = [
        "| package | version | Python | asyncio: passed / failed / skipped | hotloop: the same "
        "| only hotloop fails | hotloop's loops | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for suite in SUITES:
        mine = [
            results[key]
            for key in sorted(results)
            if key.partition(" ")[0] == suite.name and results[key]["version"] == suite.version
        ]
        lines += [row(suite, result) for result in mine]
        if not mine and not suite.missing:
            continue
        if suite.note:
            notes.append(f"- {suite.name}: {suite.note}")
        notes += [
            f"- {suite.name}, left out: {what}: {why}." for what, why in suite.without.items()
        ]
        notes += [
            f"- {suite.name}, fails on hotloop only: {short(test)}: {why}."
            for test, why in suite.presumes.items()
        ]
        if suite.missing:
            notes.append(f"- {suite.name} {suite.version} is not among them: {suite.missing}.")
    return "\n".join([*lines, "", *notes])


def publish(results: dict[str, Any]) -> None:
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise SystemExit(f"suites: {DOCUMENT.name} has no marks {MARKS[0]} … {MARKS[1]}")
    DOCUMENT.write_text(f"{before}{begin}\n{table(results)}\n{end}{after}")


def tell(suite: Suite, result: dict[str, Any]) -> None:
    print(row(suite, result), flush=True)
    for kind in ("difference", "unsteady", "both"):
        for test in differences(result, kind):
            seen = result["doubtful"][test]
            last = seen["text"].strip().splitlines()
            print(f"  {kind}: {test}: {seen['outcome']}: {last[-1] if last else ''}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-suites")
    parser.add_argument("--docs", action="store_true", help="write the table into the documents")
    parser.add_argument(
        "--again", action="store_true", help="of the newest result, only what was worse on hotloop"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options = parser.parse_args()
    known = {suite.name: suite for suite in SUITES}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(known)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what it started, as Ctrl-C

    worst = 0
    for suite in [known[name] for name in options.names] or SUITES:
        if suite.missing:
            print(f"suites: {suite.name} {suite.version}: {suite.missing}")
            continue
        run = run_doubtful if options.again else run_suite
        try:
            result = run(suite, options.environments.resolve())
        except NoResult as error:
            print(f"suites: {error}", flush=True)
            worst = 1
            continue
        save(f"{suite.name} {VERSION}", result)
        tell(suite, result)
        worst |= not judged(suite, result)
    print(table(load()))
    if options.docs:
        publish(load())
    print("suites: NOT AS ON ASYNCIO" if worst else "suites: ok")
    return worst


if __name__ == "__main__":
    sys.exit(main())
