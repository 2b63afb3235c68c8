"""How `make suites` judges: what counts against hotloop, what does not, what is no result."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SUITES = Path(__file__).resolve().parents[1] / "suites"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"suites_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load(SUITES / "run.py")


def outcomes(runner: ModuleType, **tests: str) -> Any:
    run = runner.Run()
    for test, outcome in tests.items():
        run.add({"test": test, "outcome": outcome, "text": ""})
    return run


@pytest.mark.parametrize(
    ("control", "ours", "worse"),
    [
        ("passed", "failed", True),
        ("passed", "error", True),
        ("passed", "hung", True),
        ("passed", "skipped", True),
        ("skipped", "failed", True),
        ("xfailed", "failed", True),
        ("passed", "passed", False),
        ("failed", "failed", False),
        ("error", "failed", False),
        ("failed", "passed", False),
        ("skipped", "skipped", False),
        ("skipped", "passed", False),
        ("passed", "xpassed", False),
    ],
)
def test_worse(runner: ModuleType, control: str, ours: str, worse: bool) -> None:
    there, here = outcomes(runner, test=control), outcomes(runner, test=ours)
    assert runner.worse(there, here) == (["test"] if worse else [])


def test_what_did_not_run_is_worse(runner: ModuleType) -> None:
    there, here = outcomes(runner, one="passed", two="failed"), outcomes(runner)
    assert runner.worse(there, here) == ["one"]
    assert runner.worse(outcomes(runner), outcomes(runner, new="failed", well="passed")) == ["new"]


def test_an_error_at_the_end_of_a_test_counts(runner: ModuleType) -> None:
    run = outcomes(runner, test="passed")
    run.add({"test": "test", "outcome": "error", "text": "at teardown"})
    assert run.outcomes == {"test": "error"}
    run = outcomes(runner, test="failed")
    run.add({"test": "test", "outcome": "skipped", "text": ""})
    assert run.counts() == {"passed": 0, "failed": 1, "skipped": 0}


@pytest.mark.parametrize(
    ("control", "ours", "verdict"),
    [
        (["passed"] * 3, ["failed"] * 3, "difference"),
        (["passed"] * 3, ["passed", "passed", "failed"], "difference"),
        (["passed"] * 3, ["not run"] * 3, "difference"),
        (["passed"] * 3, ["passed"] * 3, "unsteady"),
        (["passed", "failed", "passed"], ["failed"] * 3, "difference"),
        (["passed", "failed", "passed"], ["passed", "passed", "failed"], "both"),
        (["error"] * 3, ["failed"] * 3, "both"),
    ],
)
def test_verdict(runner: ModuleType, control: list[str], ours: list[str], verdict: str) -> None:
    assert runner.verdict({"asyncio": control, "hotloop": ours}) == verdict


@pytest.mark.parametrize(
    ("found", "presumes", "well"),
    [
        ([], {}, True),
        (["a"], {"a": "why"}, True),
        (["a"], {}, False),
        (["a", "b"], {"a": "why"}, False),
        ([], {"a": "why"}, False),
    ],
)
def test_an_excuse_is_needed_and_used(
    runner: ModuleType, found: list[str], presumes: dict[str, str], well: bool
) -> None:
    suite = runner.Suite("name", "1.0", presumes=presumes)
    doubtful = {test: {"verdict": "difference"} for test in found}
    doubtful["c"] = {"verdict": "unsteady"}
    assert runner.judged(suite, {"doubtful": doubtful}) is well


def test_a_run_that_broke_off(runner: ModuleType, tmp_path: Path) -> None:
    lines = [
        {"collected": ["a", "b"], "left_out": 1},
        {"start": "a"},
        {"test": "a", "outcome": "passed", "text": ""},
        {"start": "b"},
    ]
    result = tmp_path / "result"
    result.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = runner.Run()
    run.read(result)
    assert (run.started, run.finished, run.ran) == ("b", False, 0)
    run.add({"made": 3, "ran": 2})
    assert (run.finished, run.made, run.ran) == (True, 3, 2)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("tests/test_a.py::test_b[1]", True),
        ("tests/test_a.py::test_b", True),
        ("tests/test_a.py", True),
        ("tests", True),
        ("tests/test_a.py::test_", False),
        ("tests/test_", False),
    ],
)
def test_what_is_left_out(name: str, left_out: bool) -> None:
    plugin = load(SUITES / "inside" / "hotloop_suite.py")
    assert plugin.belongs("tests/test_a.py::test_b[1]", name) is left_out


def test_the_table_goes_between_its_marks(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "page.md"
    monkeypatch.setattr(runner, "DOCUMENT", document)
    first, last = runner.MARKS
    document.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    suite = runner.SUITES[0]
    counts = {"passed": 5, "failed": 1, "skipped": 2}
    seen = {"verdict": "difference", "outcome": "failed", "text": ""}
    result = {
        "version": suite.version,
        "python": "3.13.0",
        "date": "2026-11-25",
        "loops": {"made": 7, "ran": 6},
        "asyncio": {**counts, "passed": 6, "failed": 0},
        "hotloop": counts,
        "doubtful": {"test": seen, "other": {**seen, "verdict": "unsteady"}},
    }
    runner.publish({f"{suite.name} 3.13": result})
    text = document.read_text()
    assert text.startswith(f"before\n{first}\n")
    assert text.endswith(f"{last}\nafter\n")
    assert "old" not in text
    row = (
        f"| {suite.name} | {suite.version} | 3.13.0 | 6 / 0 / 2 | 5 / 1 / 2 | 1 | 6 | 2026-11-25 |"
    )
    assert row in text
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="no marks"):
        runner.publish({})


def test_every_suite_is_pinned_and_each_omission_has_a_reason(runner: ModuleType) -> None:
    assert len({suite.name for suite in runner.SUITES}) == len(runner.SUITES)
    for suite in runner.SUITES:
        assert all("==" in requirement for requirement in suite.requires), suite.name
        assert all(suite.without.values()), suite.name
        assert suite.missing or suite.requires, suite.name
