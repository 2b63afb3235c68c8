"""One scenario, played on stock asyncio and on hotloop; what the two recorded must be equal.

A scenario is a function that takes a `Recorder` (`rec`) and perhaps parameters of pytest:

    @scenario                       # async: runs on rec.loop, as the main task
    async def test_a(rec): ...
    @scenario(clock=True)           # time is counted in turns, each event carries its turn
    async def test_b(rec): ...
    @scenario                       # sync: runs rec.loop itself, or none at all
    def test_c(rec): ...
    @scenario(cancel=True)          # again and again, cancelled at each suspension in turn,
    async def test_d(rec): ...      # with clock=True after each turn

Tracks: each party of a scenario writes on a track of its own (`rec.party(name)`); what happens
on two tracks in one turn is in no order, what happens on one track is. By themselves are kept:
`outcome` (the result or exception), `logs` (logger asyncio), `warnings`, `unraisable`.

Normalisation, all there is (`normal`): addresses of objects and ids; numbers of descriptors,
ports and processes, numbers in the names of tasks, threads and temporary folders; names of the
classes of loops and transports; the place (file and line) of code of asyncio or hotloop;
durations and points of time on the real clock in log texts; the line in which asyncio names its
selector is dropped, and so is the list of frames of where an object was made. Scenarios of
streams and of TLS keep data joined, and of bytes on the wire only how they end: how they are cut
into calls and records, and how long a signature is, is no promise.
Differences that are deliberate are in differences.py and must still be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import differences

import hotloop

LIMIT = (
    20.0  # seconds of real time that a scenario may take; only there so that a hang is a failure
)
TURN = 0.125  # what one turn takes on the counted clock
MOST_CANCELS = 80
MOST_TURNS = 5000
LAST_TURNS = 4

Event = tuple[Any, ...]
Tracks = dict[str, list[Event]]

CLASSES = {
    "StreamTransport": "_SelectorSocketTransport",
    "DatagramTransport": "_SelectorDatagramTransport",
    "ReadPipeTransport": "_UnixReadPipeTransport",
    "WritePipeTransport": "_UnixWritePipeTransport",
    "SubprocessTransport": "_UnixSubprocessTransport",
    "SSLTransport": "_SSLProtocolTransport",
    "TLSProtocol": "SSLProtocol",
}
RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"created at \(most recent call last\):(\n  .*)*", "created at ..."),
    (r"<\w+\.\.\.[^()<>]*(?:<[^<>]*)?>+\)", "<...>)"),  # 3.12 cuts reprs of arguments short
    (r"\b0x[0-9a-f]+", "0x*"),
    (r"\b(fd|pid|id)=\d+", r"\1=*"),
    (r"\b(fd|pid|process|FD) \d+", r"\1 *"),
    (r"\b(\d+\.\d+\.\d+\.\d+'), \d+", r"\1, *"),
    (r"\b(\d+\.\d+\.\d+\.\d+):\d+", r"\1:*"),
    (r"\b(Task|Thread|asyncio|MainThread|Dummy)([-_])\d+", r"\1\2*"),
    (r"\S*hotloop\.(_core\.)?EventLoop\b|\S*_UnixSelectorEventLoop\b", "LOOP"),
    (r"\bhotloop\._core\.", "asyncio."),
    (r"\b(?:asyncio|_asyncio|hotloop)\.(?:\w+\.)?(\w+Transport|\w+Protocol)\b", r"\1"),
    (
        r"(?<![\w.])(" + "|".join(CLASSES) + r")\b",
        lambda found: CLASSES[found[1]],
    ),
    (r"\S*/(?:asyncio|hotloop)/\w+\.py(?::\d+|\", line \d+)", "LIB:*"),
    (r"\S*/(?:asyncio|hotloop)/\w+\.py", "LIB"),
    (r"/\S*/(\w+\.py)", r"\1"),
    (r"\b(took|after|in) \d+\.\d+", r"\1 *"),
    (r"\bwhen=\d+\.\d+", "when=*"),
    (r"_UnixSelector|_Selector(?=EventLoop)", ""),
    (r"\S*/duet-\w+/", "TMP/"),
    (r"\.c:\d+\)", ".c:*)"),
    (r"\b(BaseEventLoop|_Unix\w+|BaseSelectorEventLoop)\.(?=\w+\()", ""),
]
COMPILED = [(re.compile(pattern), into) for pattern, into in RULES]


def normal(what: object) -> str:
    """The text, or the repr of anything else, without what no two runs have in common."""
    text = what if isinstance(what, str) else repr(what)
    for pattern, into in COMPILED:
        text = pattern.sub(into, text)
    return text


def freeze(what: Any) -> Any:
    """A value as it is kept: exceptions in full, containers by parts, plain data as it is."""
    if isinstance(what, BaseException):
        return describe(what)
    if what is None or type(what) in (int, float, bool, bytes, complex):
        return what
    if type(what) is tuple and len(what) == 2 and what[0] == "127.0.0.1":
        return "address"
    if type(what) in (list, tuple, set, frozenset):
        parts = [freeze(part) for part in what]
        return (type(what).__name__, sorted(parts, key=repr) if "set" in str(type(what)) else parts)
    if type(what) is dict:
        return {normal(str(key)): freeze(value) for key, value in what.items()}
    return normal(what)


def describe(exc: BaseException | None, depth: int = 3) -> Any:
    """Type, text, group members, cause and context."""
    if exc is None or depth == 0:
        return None
    told: dict[str, Any] = {"type": type(exc).__qualname__, "text": normal(str(exc))}
    told["args"] = [normal(arg) for arg in exc.args]
    if isinstance(exc, BaseExceptionGroup):
        told["members"] = [describe(one, depth) for one in exc.exceptions]
    told["cause"] = describe(exc.__cause__, depth - 1)
    told["context"] = describe(exc.__context__, depth - 1)
    return told


class Party:
    """One list of events, in order."""

    def __init__(self, rec: Recorder, name: str) -> None:
        self.rec = rec
        self.events = rec.tracks.setdefault(name, [])

    def __call__(self, *what: Any) -> None:
        event = tuple(freeze(part) for part in what)
        self.events.append((self.rec.turn, *event) if self.rec.clock else event)


class LogTrack(logging.Handler):
    def __init__(self, note: Party) -> None:
        super().__init__(0)
        self.note = note

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("Using selector"):  # there is no selector in hotloop
            return
        exc = record.exc_info[1] if record.exc_info else None
        self.note(record.levelname, record.getMessage(), exc)


class Recorder:
    """What a scenario is given: the loop under test, tracks, and ways to end what it began."""

    def __init__(self, factory: Callable[[], Any], clock: bool) -> None:
        self.tracks: Tracks = {}
        self.clock = clock
        self.turn = 0
        self.loops: list[Any] = []
        self.factory = factory
        self.note = self.party("main")
        self.cancel_at: int | None = None  # the turn in which the main task is cancelled
        self.main: Any = None
        self.hung = ""
        self.ticking: Any = None
        self.brief = False

    @functools.cached_property
    def loop(self) -> Any:
        return self.make_loop()

    def make_loop(self) -> Any:
        loop = self.factory()
        self.loops.append(loop)
        if self.clock:
            loop.time = lambda: self.turn * TURN
        return loop

    def party(self, name: str) -> Party:
        return Party(self, name)

    def handler(self, name: str = "handler") -> None:
        """Exception handler calls go to a track: message, keys, exception."""
        note = self.party(name)

        def handle(loop: Any, context: dict[str, Any]) -> None:
            note(context.get("message"), sorted(context), context.get("exception"))

        self.loop.set_exception_handler(handle)

    @contextlib.contextmanager
    def raises(self, what: str = "", note: Party | None = None) -> Iterator[None]:
        """The block's exception, or that there was none, becomes an event."""
        try:
            yield
        except BaseException as exc:
            (note or self.note)(what, exc)
        else:
            (note or self.note)(what, "no exception")

    def attempt(self, what: str, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """The result or the exception of a call becomes an event."""
        try:
            result = call(*args, **kw)
        except BaseException as exc:
            self.note(what, exc)
        else:
            self.note(what, result)

    def refuses(self, what: str, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Like attempt(), but without the text: how wrong arguments are worded is no promise."""
        try:
            self.note(what, call(*args, **kw))
        except BaseException as exc:
            self.note(what, type(exc).__name__)

    def start_clock(self, loop: Any) -> None:
        """One turn of the loop, one step of the clock, for as long as the loop runs."""

        def tick() -> None:
            self.turn += 1
            if self.turn > MOST_TURNS:
                self.give_up()
            if self.turn == self.cancel_at:
                self.main.cancel("by the driver")
            self.ticking = loop.call_soon(tick)

        self.ticking = loop.call_soon(tick)

    def give_up(self) -> None:
        self.hung = "the scenario does not end"
        raise KeyboardInterrupt


class Counted:
    """Awaits a coroutine and counts its suspensions; at one of them its task is cancelled."""

    def __init__(self, coro: Any, loop: Any, cancel_at: int | None) -> None:
        self.coro = coro
        self.loop = loop
        self.cancel_at = cancel_at
        self.suspended = 0

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._met(self.coro.send(value))

    def throw(self, *what: Any) -> Any:
        return self._met(self.coro.throw(*what))

    def close(self) -> None:
        self.coro.close()

    def _met(self, waits_for: Any) -> Any:
        if self.suspended == self.cancel_at:
            self.loop.call_soon(asyncio.current_task(self.loop).cancel, "by the driver")
        self.suspended += 1
        return waits_for


async def settle(counted: Any) -> Any:
    return await counted


@contextlib.contextmanager
def watched(rec: Recorder) -> Iterator[None]:
    """Keeps what reaches the log, the warnings and the hook for unraisable exceptions."""
    logger = logging.getLogger("asyncio")
    kept = logger.handlers[:], logger.level, logger.propagate, sys.unraisablehook
    unraisable = rec.party("unraisable")
    logger.handlers[:], logger.propagate = [LogTrack(rec.party("logs"))], False
    logger.setLevel(logging.DEBUG)
    sys.unraisablehook = lambda said: unraisable(said.err_msg, said.exc_value)
    gc.disable()
    if rec.brief:
        gc.freeze()  # what lies about is not looked at again
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
            gc.collect()
        note = rec.party("warnings")
        for warning in caught:
            note(warning.category.__name__, str(warning.message))
    finally:
        gc.enable()
        logger.handlers[:], logger.propagate, sys.unraisablehook = kept[0], kept[2], kept[3]
        logger.setLevel(kept[1])


def end(rec: Recorder) -> None:
    """What the scenario left: tasks are named and cancelled, loops closed."""
    for loop in rec.loops:
        if loop.is_closed():
            continue
        loop.set_task_factory(None)
        left = asyncio.all_tasks(loop)
        rec.party("end")("tasks left", len(left))
        for task in left:
            task.cancel()
        for _ in range(LAST_TURNS):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    rec.loops.clear()
    vars(rec).pop("loop", None)
    asyncio.set_event_loop(None)


def play(
    body: Callable[..., Any],
    factory: Callable[[], Any],
    clock: bool = False,
    count: bool = False,
    cancel_at: int | None = None,
    brief: bool = False,
    **kw: Any,
) -> tuple[Tracks, int]:
    """One run; the tracks, and how often the scenario was suspended, or its turns.

    brief: garbage from before is left alone, for those who play thousands.
    """
    rec = Recorder(factory, clock)
    rec.brief = brief
    counted: Counted | None = None
    with watched(rec):
        try:
            if inspect.iscoroutinefunction(body):
                coro = body(rec, **kw)
                if count:
                    counted = Counted(coro, rec.loop, cancel_at)
                    coro = settle(counted)
                rec.main = rec.loop.create_task(coro, name="main")
                del coro
                if cancel_at == 0 and clock:
                    rec.main.cancel("by the driver")
                rec.cancel_at = cancel_at
                if clock:
                    rec.start_clock(rec.loop)
                else:
                    rec.ticking = rec.loop.call_later(LIMIT, rec.give_up)
                result = rec.loop.run_until_complete(rec.main)
            else:
                result = body(rec, **kw)
        except BaseException as exc:
            if isinstance(exc, AssertionError | NameError):
                raise  # a mistake of the scenario, not an event
            rec.party("outcome")("raised", exc)
        else:
            rec.party("outcome")("returned", result)
            del result
        assert not rec.hung, rec.hung
        if rec.ticking is not None:
            rec.ticking.cancel()
        rec.main = None
        turns = rec.turn
        end(rec)
    rec.tracks = {name: events for name, events in rec.tracks.items() if events}
    return rec.tracks, turns if clock else counted.suspended if counted else 0


def first_difference(where: str, ours: list[Event], theirs: list[Event]) -> str:
    pairs = enumerate(itertools.zip_longest(ours, theirs, fillvalue="nothing"))
    nth, (mine, stock) = next((nth, both) for nth, both in pairs if both[0] != both[1])
    return f"{where}, event {nth}\nhotloop: {mine}\nasyncio: {stock}"


def compare(name: str, ours: Tracks, theirs: Tracks) -> set[str]:
    """Equal, but for the tracks that differences.py names for this scenario; those that differ."""
    known = differences.tracks_of(name)
    differ = set()
    for track in sorted(set(ours) | set(theirs)):
        mine, stock = ours.get(track, []), theirs.get(track, [])
        if track in known:
            differ |= {track} if mine != stock else set()
        else:
            assert mine == stock, first_difference(f"{name}, track {track!r}", mine, stock)
    return differ


def scenario(
    body: Callable[..., Any] | None = None, *, clock: bool = False, cancel: bool = False
) -> Any:
    """Makes a test of a scenario: see the top of this file."""
    if body is None:
        return functools.partial(scenario, clock=clock, cancel=cancel)

    differed: set[str] = set()
    how = clock, cancel and not clock  # counted by turns, or by suspensions

    def both(backend: str, cancel_at: int | None, **kw: Any) -> int:
        theirs, count = play(body, asyncio.SelectorEventLoop, *how, cancel_at, **kw)
        ours, mine = play(body, lambda: hotloop.new_event_loop(backend), *how, cancel_at, **kw)
        differed.update(compare(body.__name__, ours, theirs))
        assert mine == count, f"{mine} turns or suspensions, under asyncio {count}"
        return count

    def test(backend: str, **kw: Any) -> None:
        count = both(backend, None, **kw)
        if cancel:
            assert 0 < count <= MOST_CANCELS
            for nth in range(count):
                both(backend, nth, **kw)
        equal = differences.tracks_of(body.__name__) - differed
        assert not equal, f"{equal} equal now; to be taken out of differences.py"

    own = list(inspect.signature(body).parameters.values())[1:]
    first = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    test.__name__ = body.__name__
    test.__doc__ = body.__doc__
    test.__module__ = body.__module__
    test.pytestmark = getattr(body, "pytestmark", [])  # type: ignore[attr-defined]
    return test
