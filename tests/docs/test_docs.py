"""The documents keep up with the tree: links, paths, commands, names, code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hotloop

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
INDENTED = re.compile(r"^    (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(csrc|python|tests|tools|docs|examples|benchmarks|\.ci)/[\w./*{},-]*")
FOLDERS = [ROOT / name for name in ("csrc", "python/hotloop", "tests", "docs", ".")]

page_by_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text())


def code_of(page: Path) -> list[str]:
    """What stands in a page as code: spans and indented lines."""
    text = prose(page)
    return SPAN.findall(text) + INDENTED.findall(text)


def anchors(page: Path) -> set[str]:
    """The names that headings get."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}


@page_by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@page_by_page
def test_links_of_the_sites_pages_stay_in_it(page: Path) -> None:
    """docs/ is also a site, in which nothing else of the tree is to be found."""
    if ROOT / "docs" not in page.parents:
        return
    for target in LINK.findall(prose(page)):
        if not target.startswith(("http:", "https:", "mailto:")):
            there = (page.parent / target.partition("#")[0]).resolve()
            assert there.is_relative_to(ROOT / "docs"), target


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation, page.name


@page_by_page
def test_places_in_the_tree_exist(page: Path) -> None:
    for span in SPAN.findall(prose(page)):
        if PLACE.fullmatch(span) and not any(sign in span for sign in "*{"):
            assert (ROOT / span).exists(), span


@page_by_page
def test_source_files_that_are_named_exist(page: Path) -> None:
    for span in SPAN.findall(prose(page)):
        if re.fullmatch(r"[\w./]*\w+\.[ch]", span) and "NAME" not in span:
            name = Path(span).name
            trees = [ROOT / tree for tree in ("csrc", "tests/c", "benchmarks")]
            assert any(found for tree in trees for found in tree.rglob(name)), span


@page_by_page
def test_make_targets_exist(page: Path) -> None:
    rules = re.findall(r"^([a-z][\w -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    for code in code_of(page):
        match = re.match(r"(?:\w+=\S+ )*make ([a-z][\w-]*)", code)
        if match:
            assert match[1] in targets, code


@page_by_page
def test_names_of_hotloop_exist(page: Path) -> None:
    for span in SPAN.findall(prose(page)):
        match = re.match(r"hotloop\.([A-Za-z]\w*)", span)
        if match and match[1] != "git":
            modules = ("_core", "dask")
            assert hasattr(hotloop, match[1]) or match[1] in modules, span


@page_by_page
def test_python_in_the_documents_compiles(page: Path) -> None:
    for language, code in FENCED.findall(page.read_text()):
        if language == "python":
            ast.parse(code)


def test_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs/api.md").read_text()
    for name in hotloop.__all__:
        assert f"`hotloop.{name}" in text, name


def test_architecture_names_every_source_file() -> None:
    """Each C file stands on the page of its subject."""
    text = "".join(page.read_text() for page in ROOT.glob("docs/*.md"))
    for path in (ROOT / "csrc").rglob("*.c"):
        assert f"{path.name}`" in text or f"{path.stem}.[ch]`" in text, path.relative_to(ROOT)


def test_readme_is_one_screen() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line[:1] != "|"]
    assert len(lines) < 60


@pytest.mark.parametrize("door", ["run", "loop_factory", "install"])
def test_the_readmes_program_runs(door: str, tmp_path: Path) -> None:
    """Its example has three doors in a row; each is run by itself."""
    [code] = [code for language, code in FENCED.findall((ROOT / "README.md").read_text())]
    head, doors = code.replace("sleep(1)", "sleep(0)").split("\n\nhotloop.run(")
    calls = ("hotloop.run(" + doors).splitlines()
    chosen = {"run": calls[:1], "loop_factory": calls[1:2], "install": calls[2:]}[door]
    program = tmp_path / "program.py"
    program.write_text("\n".join([head, "", *chosen, ""]))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program)]
    subprocess.run(command, check=True, timeout=120)
