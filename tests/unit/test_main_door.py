"""`python -m hotloop …` against plain `python …`: exit status, output and errors are the same.

Every command line runs both ways, all side by side, before the first test looks at one.
"""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hotloop

TIMEOUT = 120  # seconds; for a process that hangs

SHOW = '''"""The module's docstring."""
import pickle
import sys
import __main__

class Thing:
    pass

spec = __main__.__spec__
print(sys.argv, sys.path[0], __name__, __main__.__file__, __doc__)
print(sorted(vars(__main__)), __package__, type(__loader__))
print(spec and (spec.name, spec.origin))
print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, __builtins__)
print(sys.excepthook is sys.__excepthook__, sys.flags.safe_path)
'''
FILES = {
    "show.py": SHOW,
    "folder/__main__.py": SHOW,
    "package/__init__.py": "",
    "package/__main__.py": SHOW,
    "package/boom.py": "def f():\n    1 / 0\nf()\n",
    "package/typo.py": "x = = 1\n",
    "empty/readme": "",
    "latin.py": "# coding: latin-1\nprint(ascii('\xe9'))\n",
    "boom.py": (
        "def f():\n"
        "    try:\n"
        "        1 / 0\n"
        "    except Exception as exc:\n"
        "        raise ValueError('x') from exc\n"
        "f()\n"
    ),
    "typo.py": "x = = 1\n",
    "exits.py": "import sys\nsys.exit('bye')\n",
    "exits7.py": "import asyncio, sys\nasync def main():\n    sys.exit(7)\nasyncio.run(main())\n",
    "async_boom.py": (
        "import asyncio, traceback\n"
        "async def main():\n"
        "    raise ValueError('x')\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except ValueError as exc:\n"
        "    print(traceback.extract_tb(exc.__traceback__)[0].name)\n"
        "    print(traceback.extract_tb(exc.__traceback__)[-1].name)\n"
    ),
    "interrupt.py": "raise KeyboardInterrupt\n",
    "interrupted_loop.py": (
        "import asyncio, signal\n"
        "async def main():\n"
        "    asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    except asyncio.CancelledError:\n"
        "        print('cancelled')\n"
        "        raise\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except KeyboardInterrupt:\n"
        "    raise KeyboardInterrupt('again') from None\n"
    ),
    "hook.py": (
        "import atexit, sys, threading, time\n"
        "atexit.register(print, 'atexit', globals()['__name__'])\n"
        "threading.Thread(target=lambda: (time.sleep(.1), print('thread', later))).start()\n"
        "later = 3\n"
        "sys.excepthook = lambda *what: print(what[0], what[2].tb_frame.f_code.co_name)\n"
        "1 / 0\n"
    ),
    "last.py": (
        "import atexit, sys, traceback\n"
        "atexit.register(lambda: print(traceback.extract_tb(sys.last_traceback)[0].name))\n"
        "1 / 0\n"
    ),
    "pool.py": (
        "import multiprocessing, sys\n"
        "class Thing:\n"
        "    pass\n"
        "def make(_):\n"
        "    return Thing()\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            print(method, type(pool.map(make, [1])[0]) is Thing)\n"
    ),
    "warns.py": "import warnings\nwarnings.warn('old', DeprecationWarning)\n",
}
COMMANDS = [
    ["show.py", "a", "-b", "--c", "-m"],
    ["./show.py"],
    ["{cwd}/show.py"],
    ["link.py"],
    ["../{name}/show.py"],
    ["latin.py"],
    ["-m", "package", "x", "y"],
    ["-m", "show", "-m"],
    ["-mshow", "x"],
    ["folder", "q"],
    ["./folder"],
    ["archive.zip", "w"],
    ["show.pyc", "a"],
    ["boom.pyc"],
    ["boom.py"],
    ["-m", "boom"],
    ["-m", "package.boom"],
    ["typo.py"],
    ["-m", "typo"],
    ["-m", "package.typo"],
    ["exits.py"],
    ["exits7.py"],
    ["async_boom.py"],
    ["interrupt.py"],
    ["-m", "interrupt"],
    ["interrupted_loop.py"],
    ["hook.py"],
    ["last.py"],
    ["pool.py"],
    ["warns.py"],
    ["-m", "warns"],
    ["nofile.py"],
    ["package/nofile"],
    ["-m", "nomodule"],
    ["-m", "package.nomodule"],
    ["empty"],
    ["-c", "import sys; print(sys.argv, sys.path[0], sorted(globals()))", "a"],
    ["-c", "1/0"],
    ["-c", "x = ="],
    ["-"],
    ["-", "a", "b"],
]
STDIN = b"import sys\nprint(sys.argv, sys.path[0], sorted(globals()), __file__)\n"

Done = tuple[int, str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="latin-1")
    (folder / "elsewhere").mkdir()
    (folder / "link.py").symlink_to(folder / "show.py")
    for name in ("show", "boom"):
        py_compile.compile(str(folder / f"{name}.py"), str(folder / f"{name}.pyc"))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    return folder


def run(folder: Path, *args: str, **more_env: str) -> Done:
    args = tuple(arg.format(cwd=folder, name=folder.name) if "{" in arg else arg for arg in args)
    env = os.environ | {"PYTHONPATH": str(Path(hotloop.__file__).parents[1])} | more_env
    env.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, input=STDIN, capture_output=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def both_ways(folder: Path) -> list[tuple[Done, Done]]:
    """(plain, on hotloop) for each of COMMANDS."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        plain = [pool.submit(run, folder, *args) for args in COMMANDS]
        ours = [pool.submit(run, folder, "-m", "hotloop", *args) for args in COMMANDS]
        return [(a.result(), b.result()) for a, b in zip(plain, ours, strict=True)]


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[" ".join(c) for c in COMMANDS])
def test_as_plain_python(number: int, both_ways: list[tuple[Done, Done]]) -> None:
    plain, ours = both_ways[number]
    assert ours == plain


def test_the_cases_are_what_they_seem(both_ways: list[tuple[Done, Done]]) -> None:
    plain = dict(zip(map(" ".join, COMMANDS), (a for a, _ in both_ways), strict=True))
    assert plain["exits7.py"][0] == 7
    assert plain["interrupt.py"][0] == -2
    assert plain["interrupted_loop.py"][:2] == (-2, "cancelled\n")
    assert plain["hook.py"][1] == (
        "<class 'ZeroDivisionError'> <module>\nthread 3\natexit __main__\n"
    )
    assert plain["pool.py"][1] == "fork True\nspawn True\n"


MAKES = {
    "run": "asyncio.run(main())",
    "runner": "with asyncio.Runner() as runner:\n    runner.run(main())",
    "new_event_loop": (
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\nloop.close()"
    ),
    "policy reset": "asyncio.set_event_loop_policy(None)\nasyncio.run(main())",
    "policy subclass": (
        "class Policy(asyncio.DefaultEventLoopPolicy):\n"
        "    pass\n"
        "asyncio.set_event_loop_policy(Policy())\n"
        "asyncio.run(main())"
    ),
    "policy": (
        "loop = asyncio.get_event_loop_policy().new_event_loop()\n"
        "loop.run_until_complete(main())\n"
        "loop.close()"
    ),
    "unittest": (
        "import unittest\n"
        "class Test(unittest.IsolatedAsyncioTestCase):\n"
        "    async def test(self):\n"
        "        await main()\n"
        "unittest.main(exit=False)"
    ),
}


@pytest.mark.parametrize("way", MAKES)
def test_asyncio_makes_our_loop(way: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    print(type(loop), loop.backend, type(asyncio.current_task()).__module__)\n"
        f"{MAKES[way]}\n"
    )
    status, output, errors = run(
        tmp_path, "-W", "ignore::DeprecationWarning", "-m", "hotloop", "program.py",
        HOTLOOP_BACKEND="select",
    )  # fmt: skip
    assert status == 0, errors
    # IsolatedAsyncioTestCase keeps a task of its own; the module tells whose they are.
    assert output == f"{hotloop.EventLoop} select {hotloop.Task.__module__}\n"


def test_usage(tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, "-m", "hotloop")
    assert (status, output) == (2, "")
    assert errors.startswith("usage: python -m hotloop ")
    for option in ("-m", "-c"):
        status, output, errors = run(tmp_path, "-m", "hotloop", option)
        assert (status, output) == (2, "")
        assert errors.startswith(f"Argument expected for the {option} option\nusage: ")
    status, output, errors = run(tmp_path, "-m", "hotloop", "--nonsense")
    assert (status, output) == (2, "")
    assert errors.startswith("Unknown option: --nonsense\nusage: ")


def test_help_and_version(tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, "-m", "hotloop", "--help")
    assert (status, errors) == (0, "")
    assert "HOTLOOP_BACKEND" in output
    assert run(tmp_path, "-m", "hotloop", "--version") == (
        0,
        f"hotloop {hotloop.__version__}\n",
        "",
    )


def test_safe_path(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(sys.path[0], sys.argv)")
    plain = run(tmp_path, "-P", "program.py", "x")
    assert run(tmp_path, "-P", "-m", "hotloop", "program.py", "x") == plain


def test_unknown_backend_in_the_environment(tmp_path: Path, backends_here: tuple[str, ...]) -> None:
    status, _, errors = run(
        tmp_path, "-m", "hotloop", "-c", "import asyncio; asyncio.new_event_loop()",
        HOTLOOP_BACKEND="abacus",
    )  # fmt: skip
    assert status == 1
    last = errors.splitlines()[-1]
    assert last.startswith("ValueError: HOTLOOP_BACKEND: ")
    for word in ("abacus", *backends_here):
        assert word in last
