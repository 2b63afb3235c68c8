"""docs/compatibility.md keeps its word: each line of it names tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "compatibility.md"
NONE = "-"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="the documents are not here")


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}.*?$(.*?)(?=^## |\Z)", text(), re.M | re.S)
    assert found, f"no section {title!r}"
    return found[1]


def rows() -> list[list[str]]:
    """The feature table, without its head: the cells of each row."""
    lines = [line for line in section("Features").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def feature_tests() -> set[str]:
    return {name for path in TESTS.glob("features/test_*.py") for name in names_in(path)}


def test_rows_name_their_tests() -> None:
    known = feature_tests()
    assert len(rows()) > 50
    for feature, ours, *_, test in rows():
        named = re.fullmatch(r"`(test_\w+)`", test)
        if named:
            assert named[1] in known, f"{feature}: there is no {test}"
        else:
            assert test == NONE, f"{feature}: what is {test!r}?"
            assert re.fullmatch(r"N \[\d+\]", ours), f"{feature}: {ours} without a test"


def test_rows_that_are_no_say_why() -> None:
    reasons = set(re.findall(r"^(\d+)\. ", section("Features"), re.M))
    referred = set()
    for row in rows():
        assert len(row) == len(rows()[0]), row
        for cell in row:
            referred.update(re.findall(r"\[(\d+)\]", cell))
        if row[1].startswith("N"):
            assert re.fullmatch(r"N \[\d+\]", row[1]), f"{row[0]}: no reason is given"
    assert referred == reasons


def test_no_row_is_there_twice() -> None:
    features = [row[0] for row in rows()]
    assert len(features) == len(set(features))


def test_every_feature_test_is_named() -> None:
    """A test of a row that no row names is a row that was forgotten."""
    named = set(re.findall(r"\btest_\w+", text()))
    files = [path for path in TESTS.glob("features/test_*.py") if path != Path(__file__)]
    there = {name for path in files for name in names_in(path)}
    assert there - named - {"test_native_types", "test_metadata_says_what_holds"} == set()


def test_lines_name_tests_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text())
    assert len(named) > 30
    for file, test in named:
        path = TESTS / file
        assert path.is_file(), f"there is no {path}"
        assert test in names_in(path), f"{file} has no {test}"


def test_differences_of_the_scenarios_are_named() -> None:
    """What tests/differential allows to differ is told to the reader."""
    tree = ast.parse((TESTS / "differential" / "differences.py").read_text(encoding="utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign))
    assert table is not None
    allowed = {name for name, _, _ in ast.literal_eval(table)}
    named = re.findall(r"`differential/\w+\.py::(test_\w+)`", section("Differences"))
    assert len(allowed) > 4
    assert allowed - set(named) == set()


@pytest.mark.parametrize("title", ["Differences", "Nested runs", "What libraries may rely on"])
def test_each_line_has_a_test(title: str) -> None:
    items = re.split(r"^- ", section(title), flags=re.M)[1:]
    assert len(items) >= 4
    for item in items:
        assert re.search(r"\.py::test_\w+`", item), f"without a test: {item.splitlines()[0]}"
