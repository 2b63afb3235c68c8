"""The ways in: run, new_event_loop, the policy, install, and what stands behind them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import hotloop

NEW_POLICIES = sys.version_info >= (3, 14)  # deprecated, and no loop is made on the way


async def what_runs() -> tuple[type, type, type, str]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hotloop.EventLoop)
    return type(loop), type(asyncio.current_task()), type(loop.create_future()), loop.backend


def ours(backend: str) -> tuple[type, type, type, str]:
    return hotloop.EventLoop, hotloop.Task, hotloop.Future, backend


# ---- run ----


def test_run(backend: str) -> None:
    assert hotloop.run(what_runs(), backend=backend) == ours(backend)


def test_run_closes_its_loop_and_leaves_none_behind(backend: str) -> None:
    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = hotloop.run(main(), backend=backend)
    assert loop.is_closed()
    assert asyncio._get_running_loop() is None


@pytest.mark.parametrize("debug", [True, False])
def test_run_debug(backend: str, debug: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert hotloop.run(main(), debug=debug, backend=backend) is debug


def test_run_refuses_what_asyncio_refuses(backend: str) -> None:
    async def inner() -> None:
        coro = what_runs()
        with pytest.raises(
            RuntimeError, match=r"^asyncio\.run\(\) cannot be called from a running event loop$"
        ):
            hotloop.run(coro)
        coro.close()

    hotloop.run(inner(), backend=backend)
    for wrong in (3, what_runs, None):
        with pytest.raises((ValueError, TypeError)) as stock:
            asyncio.run(wrong)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError)) as caught:
            hotloop.run(wrong, backend=backend)  # type: ignore[arg-type]
        assert (caught.type, str(caught.value)) == (stock.type, str(stock.value))


def test_run_cancels_what_is_left(backend: str) -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(1)

    async def main() -> None:
        asyncio.create_task(forever())
        await asyncio.sleep(0)

    hotloop.run(main(), backend=backend)
    assert ended == [1]


# ---- new_event_loop ----


def test_loop_factory(backend: str) -> None:
    def factory() -> asyncio.AbstractEventLoop:
        return hotloop.new_event_loop(backend)

    assert asyncio.run(what_runs(), loop_factory=factory) == ours(backend)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(what_runs()) == ours(backend)
        assert runner.run(what_runs()) == ours(backend)


def test_backend_of_the_environment(
    backend: str, backends_here: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    for how in (hotloop.new_event_loop, hotloop.EventLoopPolicy().new_event_loop):
        with contextlib.closing(how()) as loop:
            assert loop.backend == backend  # type: ignore[attr-defined]
    with contextlib.closing(hotloop.new_event_loop("select")) as loop:
        assert loop.backend == "select"  # what is asked for goes before it
    monkeypatch.setenv("HOTLOOP_BACKEND", "")
    with contextlib.closing(hotloop.new_event_loop()) as loop:
        assert loop.backend == backends_here[0]


def test_unknown_backend(backends_here: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    named = ".*".join(("abacus", *backends_here))
    with pytest.raises(ValueError, match=named):
        hotloop.new_event_loop("abacus")
    with pytest.raises(TypeError):
        hotloop.new_event_loop(3)  # type: ignore[arg-type]
    monkeypatch.setenv("HOTLOOP_BACKEND", "abacus")
    with pytest.raises(ValueError, match=f"^HOTLOOP_BACKEND: .*{named}"):
        hotloop.new_event_loop()
    coro = what_runs()
    with pytest.raises(ValueError, match="abacus"):
        hotloop.run(coro)
    coro.close()


# ---- where hotloop does not run ----


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sys.version_info = (3, 11, 4, 'final', 0)", "needs CPython 3.12 or later, and this is"),
        ("sys.implementation.name = 'pypy'", "CPython only, and this is pypy 3."),
        ("sys.platform = 'win32'", "does not run on Windows"),
    ],
)
@pytest.mark.parametrize("door", ["hotloop", "hotloop.dask", "hotloop.__main__"])
def test_an_unsupported_place_is_named(change: str, said: str, door: str) -> None:
    out = run_python(
        # what the package imports of the standard library, as it is for the real place
        "import asyncio, functools, importlib, sys, typing\n"
        f"{change}\n"
        f"try: importlib.import_module({door!r})\n"
        "except ImportError as exc: print(exc)\n"
    )
    assert said in out
    assert out.count("\n") == 1


def test_a_build_for_another_python_is_named(tmp_path: Path) -> None:
    shutil.copytree(
        Path(hotloop.__file__).parent, tmp_path / "hotloop", ignore=shutil.ignore_patterns("*.so")
    )
    out = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "try: import hotloop\n"
        "except ImportError as exc: print(exc)\n"
    )
    assert "not built for this Python" in out
    assert sys.implementation.cache_tag in out


@pytest.mark.parametrize("name", ["__init__.py", "_check.py"])
def test_older_pythons_can_read_what_refuses_them(name: str) -> None:
    text = Path(hotloop.__file__).with_name(name).read_text()
    ast.parse(text, feature_version=(3, 9))


# ---- the policy ----


@pytest.fixture
def quiet_policy() -> Iterator[None]:
    """asyncio's own policy is back afterwards; its deprecation is not what is tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*policy", DeprecationWarning)
        yield
        asyncio.set_event_loop(None)
        asyncio.set_event_loop_policy(None)


def test_policy_makes_our_loops(
    backend: str, monkeypatch: pytest.MonkeyPatch, quiet_policy: None
) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    asyncio.set_event_loop_policy(hotloop.EventLoopPolicy())
    assert asyncio.run(what_runs()) == ours(backend)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        assert loop.run_until_complete(what_runs()) == ours(backend)


def test_install(backend: str, monkeypatch: pytest.MonkeyPatch, quiet_policy: None) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hotloop.install()
    said = [(w.category, w.filename) for w in caught]
    assert said == ([(DeprecationWarning, __file__)] if NEW_POLICIES else [])
    assert type(asyncio.get_event_loop_policy()) is hotloop.EventLoopPolicy
    assert asyncio.run(what_runs()) == ours(backend)


@pytest.mark.skipif(NEW_POLICIES, reason="since 3.14 get_event_loop() makes no loop")
def test_get_event_loop_makes_one_and_warns(quiet_policy: None) -> None:
    asyncio.set_event_loop_policy(hotloop.EventLoopPolicy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = asyncio.get_event_loop()
        assert asyncio.get_event_loop() is loop
    assert type(loop) is hotloop.EventLoop
    assert {(str(w.message), w.filename) for w in caught} == {
        ("There is no current event loop", __file__)
    }
    loop.close()


def test_get_event_loop_without_one(quiet_policy: None) -> None:
    asyncio.set_event_loop_policy(hotloop.EventLoopPolicy())
    said = []

    def ask() -> None:
        try:
            asyncio.get_event_loop()
        except RuntimeError as exc:
            said.append(str(exc))

    thread = threading.Thread(target=ask, name="Elsewhere")
    thread.start()
    thread.join()
    asyncio.set_event_loop(None)
    ask()
    assert said == [
        "There is no current event loop in thread 'Elsewhere'.",
        "There is no current event loop in thread 'MainThread'.",
    ]
    with pytest.raises(TypeError, match=r"^loop must be an instance of AbstractEventLoop or None"):
        asyncio.set_event_loop(3)  # type: ignore[arg-type]


# ---- what is exported ----


def test_types_are_asyncios() -> None:
    assert issubclass(hotloop.EventLoop, asyncio.AbstractEventLoop)
    assert issubclass(hotloop.Future, asyncio.Future)
    assert issubclass(hotloop.Task, asyncio.Task)
    assert issubclass(hotloop.Handle, asyncio.Handle)
    assert issubclass(hotloop.TimerHandle, asyncio.TimerHandle)
    for name in hotloop.__all__:
        assert hasattr(hotloop, name)


def run_python(code: str) -> str:
    env = os.environ | {"PYTHONPATH": str(Path(hotloop.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_import_has_no_side_effect_on_asyncio() -> None:
    """No warning, no policy, no loop, and asyncio's own types are what they were."""
    out = run_python(
        "import asyncio\n"
        "before = dict(vars(asyncio))\n"
        "import hotloop\n"
        "print(dict(vars(asyncio)) == before, asyncio.events._event_loop_policy,\n"
        "      asyncio._get_running_loop())\n"
    )
    assert out == "True None None\n"


def test_unknown_layout_falls_back_to_asyncios_types() -> None:
    """The check at import fails: asyncio's Task and Future, a warning, and all goes on."""
    layout = Path(hotloop.__file__).with_name("_layout.py")
    out = run_python(
        "import asyncio, importlib.util, sys, warnings\n"
        f"spec = importlib.util.spec_from_file_location('hotloop._layout', {str(layout)!r})\n"
        "layout = sys.modules['hotloop._layout'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(layout)\n"
        "known = layout.probe\n"
        "layout.probe = lambda: known()[:2] + (object(),) + known()[3:]\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import hotloop\n"
        "print([w.category.__name__ for w in caught])\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    async with asyncio.timeout(60):\n"
        "        await asyncio.gather(asyncio.sleep(0.001), asyncio.to_thread(id, 1))\n"
        "    print(hotloop.Task is asyncio.Task, hotloop.Future is asyncio.Future)\n"
        "    print(type(loop) is hotloop.EventLoop, type(asyncio.current_task()) is asyncio.Task)\n"
        "    print(type(loop.create_future()) is asyncio.Future, len(asyncio.all_tasks()))\n"
        "hotloop.run(main())\n"
    )
    assert out == "['RuntimeWarning']\nTrue True\nTrue True\nTrue 1\n"
