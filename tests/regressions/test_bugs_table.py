"""Every class of bugs is tested, or listed with the reason why it cannot be."""

from __future__ import annotations

import importlib
import inspect
import pathlib
from collections.abc import Iterator
from typing import Any

from bugs import CLASSES, NOT_APPLICABLE, NOW, SEEN_ON


def bug_tests() -> Iterator[tuple[str, Any]]:
    """Name and marker of each test of this folder."""
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        if path != pathlib.Path(__file__):
            module = importlib.import_module(path.stem)
            for name, test in vars(module).items():
                if name.startswith("test_"):
                    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "bug"]
                    assert len(marks) == 1, f"{path.name}: {name} is about no one class"
                    yield name, marks[0]


def test_all_classes_are_tested_or_listed() -> None:
    tested = {mark.args[0] for _, mark in bug_tests()}
    assert tested | set(NOT_APPLICABLE) == set(CLASSES)
    assert tested & set(NOT_APPLICABLE) == set()
    assert all(NOT_APPLICABLE.values())


def test_what_is_wrong_now_fails_there() -> None:
    seen: dict[int, set[str]] = {}
    for name, mark in bug_tests():
        loops = set(mark.kwargs.get("fails_on", ()))
        assert loops <= set(SEEN_ON), name
        seen.setdefault(mark.args[0], set()).update(loops)
    for number, loops in NOW.items():
        assert set(loops) <= seen[number], f"class {number}"


def test_every_test_runs_on_asyncio_too() -> None:

    kinds = {"anyloop", "run", "handled", "loop_kind", "program", "source"}
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, test in vars(module).items():
            if name.startswith("test_") and module.__name__ != __name__:
                assert set(inspect.signature(test).parameters) & kinds, name
