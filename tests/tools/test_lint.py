"""The lint's own checks find what they are there to find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

LINT = Path(__file__).resolve().parents[2] / "tools" / "lint"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lint_{name}", LINT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def layering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("layering")
    monkeypatch.setattr(module, "CSRC", tmp_path)
    for layer in ("core", "py", "sched", "loop", "net", "proc"):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "a.h").write_text("")
    return module


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/x.c", "#include <Python.h>"),
        ("core/x.c", '#include "py/a.h"'),
        ("sched/x.c", '#include "loop/a.h"'),
        ("net/x.c", '# include "proc/a.h"'),
        ("proc/x.c", '#include "net/a.h"'),
        ("loop/x.c", '#include "a.h"'),  # the layer has to be named
        ("loop/x.c", "#if PY_VERSION_HEX > 0"),
        ("other/x.c", ""),
    ],
)
def test_layering_refuses(layering: ModuleType, path: str, line: str) -> None:
    file = layering.CSRC / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(line + "\n")
    assert len(layering.faults_of(Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/x.c", "#include <errno.h>"),
        ("py/pycompat.h", "#if PY_VERSION_HEX > 0"),
        ("net/x.c", '#include "core/a.h"'),
        ("module.c", '#include "proc/a.h"'),
    ],
)
def test_layering_allows(layering: ModuleType, path: str, line: str) -> None:
    (layering.CSRC / path).write_text(line + "\n")
    assert layering.faults_of(Path(path)) == []


@pytest.mark.parametrize(
    ("path", "line", "faults"),
    [
        ("net/x.c", "    (void)close(fd);", 1),
        ("net/x.c", "    n = sock ? recv(fd, p, n, 0) : read(fd, p, n);", 2),
        ("core/x.c", "    v = realloc(v, n);", 1),
        ("sched/x.c", "    op = type->tp_alloc(type, 0);", 1),
        ("loop/x.c", "    v = PyMem_Malloc(n);", 1),
        ("core/sys.h", "    return close(fd);", 0),
        ("core/mem.h", "#define hl_malloc(n) malloc(n)", 0),
        ("net/x.c", "    hl_sys_close(fd); /* close() */", 0),
        ("net/x.c", "    ops->close(p); do_close(p);", 0),
        ("net/x.c", '    say("close() failed");', 0),
        ("net/x.c", "    free(v);", 0),
    ],
)
def test_syscalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, line: str, faults: int
) -> None:
    module = load("syscalls")
    monkeypatch.setattr(module, "CSRC", tmp_path)
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(line + "\n")
    assert len(module.faults_of(Path(path))) == faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("fine\n", 0),
        ("/ROOT/here\n".lower(), 1),
        ("HTTPS://PYPI.org\n".lower(), 1),
        ("blank \n", 1),
        ("x\n" * 1501, 1),
        ("x" * 89 + "\n", 1),
    ],
)
def test_text(tmp_path: Path, text: str, faults: int) -> None:
    file = tmp_path / "x.c"
    file.write_text(text)
    assert len(load("text").faults_of(file)) == faults


@pytest.mark.parametrize(("comments", "failed"), [(5, 1), (15, 0), (30, 1)])
def test_share_of_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comments: int, failed: int
) -> None:
    pytest.importorskip("lizard", reason="is in the environment of the lint only")
    module = load("functions")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "csrc").mkdir()
    code = ["static int", "f(void)", "{", "    return 0;", "}"]
    lines = ["/* why */"] * comments + code + [""] * (100 - comments - len(code))
    (tmp_path / "csrc" / "x.c").write_text("\n".join(lines) + "\n")
    assert module.main() == failed
