"""What every test stands on: the loops to run on, and the proof that nothing is left behind.

Fixtures for loops:
  backend    'epoll', then 'select': one run of the test on each. HOTLOOP_BACKEND or --backend
             (may be given several times) restrict it.
  loop       a hotloop on `backend`, closed at the end.
  make_loop  a function that makes further ones.
  anyloop    stock asyncio's loop, then a hotloop on each backend: for tests that state what
             asyncio does and ask the same of hotloop.
  run        runs a coroutine on `anyloop`; `handled` is what that hands to its exception handler.
  hotrun     runs one on `loop`: where stock asyncio has a defect; `handled_hot` likewise.

After each test: no task is pending on its loops, the asyncio logger has got no error (nothing
reached the default exception handler), no descriptor is open that was not before. A test that
provokes reports asks for `reports`, the list of those log records, and checks it itself.
Unraisable exceptions and warnings are errors by pytest's own settings (pyproject.toml).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import hotloop

BACKENDS = ("epoll", "select")
FDS = "/proc/self/fd"
SANITIZER_LOG = os.environ.get("TSAN_OPTIONS", "").partition("log_path=")[2].partition(":")[0]
FAILED = pytest.StashKey[bool]()  # set once a phase of the test has failed

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


# A shell starts background jobs with Ctrl-C ignored; tests and the children that they start
# are about what it does otherwise.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", action="append", choices=BACKENDS, help="run on this one only")


def pytest_report_header(config: pytest.Config) -> str:
    return f"hotloop: {hotloop.__file__}, backends: {', '.join(chosen_backends(config))}"


def is_here(backend: str) -> bool:
    """Does this system, and this build, have it? (`make portable` builds without epoll.)"""
    try:
        hotloop.new_event_loop(backend).close()
    except ValueError:
        return False
    return True


BACKENDS_HERE = tuple(filter(is_here, BACKENDS))


def chosen_backends(config: pytest.Config) -> list[str]:
    asked = config.getoption("--backend") or os.environ.get("HOTLOOP_BACKEND", "").split()
    return [name for name in BACKENDS_HERE if name in asked or not asked]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    backends = chosen_backends(metafunc.config)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends, indirect=True)
    if "loop_kind" in metafunc.fixturenames:
        other = os.environ.get("REGRESSION_LOOP")
        kinds = [other] if other else ["asyncio"] + ["hotloop-" + name for name in backends]
        metafunc.parametrize("loop_kind", kinds, indirect=True)


def pytest_collection_finish() -> None:
    # What collection left lives on anyhow; without it each gc.collect() below costs a tenth.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def backends_here() -> tuple[str, ...]:
    """Their names, the preferred one first."""
    return BACKENDS_HERE


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def loop_kind(request: pytest.FixtureRequest) -> str:
    """'asyncio', 'hotloop-epoll' or 'hotloop-select': which loop `anyloop` is.

    Or the module that REGRESSION_LOOP names, with its new_event_loop().
    """
    name: str = request.param
    return name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed or hasattr(report, "wasxfail"):
        item.stash[FAILED] = True
    return report


class ErrorRecords(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def open_descriptors() -> dict[str, str]:
    """Number -> what it is. Empty where there is no /proc."""
    found = {}
    for name in os.listdir(FDS) if os.path.isdir(FDS) else ():
        try:
            found[name] = os.readlink(f"{FDS}/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
        if SANITIZER_LOG and found[name].startswith(SANITIZER_LOG):  # opened at its first finding
            del found[name]
    return found


@pytest.fixture
def reports(nothing_left: ErrorRecords) -> list[logging.LogRecord]:
    """Error records of the asyncio logger; a test that takes them answers for them."""
    return nothing_left.records


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[ErrorRecords]:
    handler = ErrorRecords()
    logger = logging.getLogger("asyncio")
    before = open_descriptors()
    logger.addHandler(handler)
    try:
        yield handler
        gc.collect()
    finally:
        logger.removeHandler(handler)
    if FAILED in request.node.stash:  # its traceback keeps alive what it had, and one error will do
        return
    # caplog: the test looks at the log by itself
    if not {"reports", "caplog"} & set(request.fixturenames):
        said = [logging.Formatter().format(record) for record in handler.records]
        assert not said, "reported to the exception handler:\n" + "\n".join(said)
    after = open_descriptors()
    new = {number: what for number, what in after.items() if before.get(number) != what}
    assert len(after) <= len(before), f"descriptors left open: {new}"


@pytest.fixture
def factory_of_loops(
    request: pytest.FixtureRequest, nothing_left: ErrorRecords
) -> Iterator[Callable[[LoopFactory], asyncio.AbstractEventLoop]]:
    """Makes loops by any factory; at the end they have no task left and are closed."""
    made: list[asyncio.AbstractEventLoop] = []

    def make(factory: LoopFactory) -> asyncio.AbstractEventLoop:
        made.append(factory())
        return made[-1]

    yield make
    left = []
    for loop in made:
        assert not loop.is_running(), f"{loop!r} still runs"
        left += asyncio.all_tasks(loop)
        loop.close()
    if FAILED not in request.node.stash:
        assert not left, f"tasks left: {left}"


@pytest.fixture
def make_loop(
    backend: str, factory_of_loops: Callable[[LoopFactory], asyncio.AbstractEventLoop]
) -> LoopFactory:
    return lambda: factory_of_loops(lambda: hotloop.new_event_loop(backend=backend))


@pytest.fixture
def loop(make_loop: LoopFactory) -> asyncio.AbstractEventLoop:
    return make_loop()


@pytest.fixture
def anyloop(
    loop_kind: str, factory_of_loops: Callable[[LoopFactory], asyncio.AbstractEventLoop]
) -> asyncio.AbstractEventLoop:
    if loop_kind == "asyncio":
        return factory_of_loops(asyncio.SelectorEventLoop)
    if not loop_kind.startswith("hotloop-"):
        return factory_of_loops(importlib.import_module(loop_kind).new_event_loop)
    name = loop_kind.removeprefix("hotloop-")
    return factory_of_loops(lambda: hotloop.new_event_loop(backend=name))


@pytest.fixture
def gil() -> bool:
    """Has this interpreter one, switched on?"""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture
def limit() -> float | None:
    """Seconds after which `run` and `hotrun` give up, so that a hang is a failure; None: never.

    A folder whose tests may hang has a fixture of its own.
    """
    return None


def runner(loop: asyncio.AbstractEventLoop, limit: float | None) -> Run:
    async def bounded(main: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(limit):
            return await main

    # without a limit as bare as can be: some tests count turns and timers
    if limit is None:
        return loop.run_until_complete
    return lambda main: loop.run_until_complete(bounded(main))


@pytest.fixture
def run(anyloop: asyncio.AbstractEventLoop, limit: float | None) -> Run:
    return runner(anyloop, limit)


@pytest.fixture
def hotrun(loop: asyncio.AbstractEventLoop, limit: float | None) -> Run:
    return runner(loop, limit)


def take_reports(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: found.append(context))
    return found


@pytest.fixture
def handled(anyloop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    return take_reports(anyloop)


@pytest.fixture
def handled_hot(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    return take_reports(loop)
