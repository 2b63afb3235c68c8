"""Fails every system call and every allocation of hotloop, one at a time, in every program.

    python tests/faults/sweep.py [--short | --each | --long] [--only WORD ...] [--site WORD]

A cell is a program (scenarios.py), a backend, a site (inject.py), an errno, and which of the site's
calls fails. After each: nobody crashed or hung; whoever had to be told was told, by an OSError with
that errno, and nobody of anything else; no descriptor, task, transport or other object of hotloop's
is left; and the same loop serves an echo. Cells run in processes forked off for each program, so
that one that dies costs a cell. What counts is faults that fired.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import errno
import faulthandler
import gc
import json
import logging
import os
import random
import selectors
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from inject import MEMORY, OBJECTS, SHORT, Injector, errnos_of, name_of
from scenarios import GRACE, HOST, LIVES, SCENARIOS, Log, World

LIMIT = float(os.environ.get("TEST_LIMIT", 30))  # seconds that no cell may take
SOFT = (errno.EAGAIN, errno.EINTR, SHORT)

# What asyncio passes over in silence as well, or what has another way: nobody is told.
QUIET: dict[str, str] = {
    "close in": "a descriptor is closed whatever close() says",
    "getsockname in net/": "a transport without the name, as with asyncio",
    "getpeername in net/": "a transport without the name, as with asyncio",
    "read in core/wake.c": "the next turn reads it",
    "write in core/sigpair.c:hl_fdid_forward": "the descriptor is somebody else's",
    "fstat in core/poll_select.c:remember_rest": "one that is closed the next wait drops",
    "fstat in core/sigpair.c": "the descriptor is somebody else's",
    "epoll_ctl in core/poll_epoll.c:lessen": "one that is closed is not reported either",
    "epoll_ctl in core/poll_epoll.c:forget": "what is reported even so gets the loop another set",
    "read in core/sigpair.c:hl_sigpair_read": "what is there is read in the next turn",
    "socket in hotloop._net:_bind_sockets": "a family that is not here is passed over",
    "sock_close in hotloop._net:_connect_sock": "what went wrong before is what is said",
    "fstat in hotloop._sock:_sock_sendfile_native": "read and sent instead",
    "sendfile in hotloop._sock:_send": "read and sent instead",
    "pidfd_open in": "a thread waits instead",
    "waitpid in": "somebody else has reaped it: 255 is said, and a warning",
    "os_close in": "a descriptor is closed whatever close() says",
    "poll in net/write.c:hl_stream_would_send": "sent at once, and what is wrong is said then",
    "realloc in core/poll_epoll.c:make_room": "as many events a turn as there is room for",
}
QUIET_CODES: dict[tuple[str, str], str] = {
    ("epoll_pwait2", "ENOSYS"): "epoll_wait() does it",
    ("epoll_pwait2", "EPERM"): "epoll_wait() does it",
    ("pselect", "EBADF"): "closed descriptors are looked for, and dropped",
    ("accept4", "ECONNABORTED"): "there is no connection any more",
    ("epoll_ctl", "ENOENT"): "the other operation does it",
    ("epoll_ctl", "EEXIST"): "the other operation does it",
    ("stat", "ENOENT"): "somebody has removed it already",
    ("unlink", "ENOENT"): "somebody has removed it already",
    ("remove", "ENOENT"): "somebody has removed it already",
    ("connect", "EAGAIN"): "a Unix listener's queue is full",
    ("bind", "EADDRNOTAVAIL"): "the next address is tried",
}
CONNECTED = {"recv", "send", "sendmsg"}  # calls on a connection
# The call made again says how it really is, in another word.
SAID_AS = {errno.EEXIST: errno.ENOENT, errno.ENOENT: errno.EEXIST}


# What else is said where an object of Python's could not be made, as with asyncio.
AFTERMATH = (
    "Task was destroyed but it is pending!",  # its step or its wake-up was lost
    "readinto of closed file",  # the program is over, and sendfile() still reads: in a thread
    "seek of closed file",  # or as it ends
)
NEVER_MADE = "'NoneType' object has no attribute"  # a protocol whose connection_made() was lost

SHORT_SELECT = ("loop_life", "watchers", "echo", "udp", "pipe")  # of the short form
LOGGERS = ("asyncio", "concurrent.futures")


class Cell:
    def __init__(self, site: str, code: int, nth: int) -> None:
        self.site, self.code, self.nth = site, code, nth

    @property
    def call(self) -> str:
        return self.site.partition(" ")[0]

    def __str__(self) -> str:
        return f"{name_of(self.code)} at call {self.nth} of {self.site}"


def causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An exception with all that stands behind it."""
    seen: set[int] = set()
    todo = [exc]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def is_expected(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(is_expected, exc.exceptions))
    broken = (OSError, MemoryError, asyncio.IncompleteReadError, asyncio.CancelledError)
    if isinstance(exc, broken):
        return True
    if isinstance(exc, RuntimeError) and str(exc).startswith("[Errno "):
        return True  # add_signal_handler() makes one of any OSError
    if isinstance(exc, RuntimeError) and str(exc) == "Transport is closing":
        return True  # of loop.sendfile(), on a connection that is lost
    if "stopped before Future" in str(exc):
        return True  # the callback of a run that an error has ended, as with asyncio
    return isinstance(exc, asyncio.SendfileNotAvailableError)


def is_told(cell: Cell, told: list[BaseException], program: str) -> bool:
    if told and program.startswith("tls"):
        return True  # before the handshake is over a server's protocol hears of nothing
    for exc in told:
        for one in causes(exc):
            if cell.call in MEMORY and isinstance(one, MemoryError):
                return True
            if isinstance(one, OSError) and one.errno in (cell.code, SAID_AS.get(cell.code, -1)):
                return True
            if f"[Errno {cell.code}]" in str(one) or f"Error({cell.code}, " in str(one):
                return True
            if cell.code == errno.ENOMEM and isinstance(one, MemoryError):
                return True
    return False


def is_quiet(cell: Cell, program: str) -> bool:
    if program.startswith("spawn") and (cell.call in OBJECTS or "net/wpipe.c" in cell.site):
        return True  # a thread waits instead; and communicate() passes over what cannot be written
    watched = "poll_epoll.c:control" in cell.site or "poll_select.c:remember" in cell.site
    if program.startswith("spawn") and watched and cell.nth == 2:
        return True  # of the pidfd, after the wake-up: a thread waits instead
    if (cell.call, name_of(cell.code)) in QUIET_CODES:
        return True
    if program == "tls_cut" and "net/" in cell.site and cell.call in CONNECTED:
        return True  # of the server's handshake, when the client has gone: nobody hears of that
    if program.startswith("tls") and "hl_future_iter" in cell.site:
        return True  # a server's wait for its handshake: said in debug mode only, as by asyncio
    return any(cell.site.startswith(prefix) for prefix in QUIET)


def is_soft(cell: Cell) -> bool:
    """Is the call simply made again?"""
    if cell.call == "connect" and cell.code == errno.EALREADY:
        return "hotloop." in cell.site
    if cell.call == "connect" and cell.code in (errno.EAGAIN, errno.EINPROGRESS):
        return cell.code == errno.EINPROGRESS
    return cell.code in SOFT and "close" not in cell.call


# ---- one cell ----


class Runner:
    def __init__(self, injector: Injector, backend: str, program: str) -> None:
        self.injector, self.backend, self.program = injector, backend, program
        self.faults: list[str] = []  # of the cell that runs
        self.counts: dict[str, int] = {}  # calls of each site in the last run
        self.lenient = self.gave_up = False
        self.usual: tuple[type[BaseException], ...] = ()

    def blame(self, what: str) -> None:
        self.faults.append(what)

    def drive(self, world: World, loop: Any, make: Callable[[], Any]) -> Any:
        """Runs a coroutine to its end, through what comes out of run_forever() meanwhile."""
        world.phase += 1
        if self.lenient:
            try:
                loop.call_later(40 * GRACE, world.give_up, world.phase)
            except MemoryError as exc:  # this was the one that fails: the others do not
                world.told.append(exc)
        try:
            return self.drive_bounded(world, loop, make)
        finally:
            world.phase += 1

    def drive_bounded(self, world: World, loop: Any, make: Callable[[], Any]) -> Any:
        task = None
        for _ in range(20):
            try:
                if task is None:
                    coro = make()
                    try:
                        task = loop.create_task(coro)
                    except BaseException:
                        coro.close()
                        raise
                    if world.main is None:
                        world.main = task
                loop.run_until_complete(task)
            except BaseException as exc:
                if world.given_up == world.phase:
                    world.told.append(exc)
                    return None
                if task is None or not task.done():
                    world.told.append(exc)
                    continue
                if task.cancelled() or exc is not task.exception():
                    world.told.append(exc)
            if not task.cancelled() and task.exception() is not None:
                world.told.append(task.exception())
            elif not task.cancelled():
                return task.result()
            else:
                world.told.append(asyncio.CancelledError())
            return None
        self.blame(f"did not end in 20 runs: {world.told[-3:]}")
        return None

    def run_program(self, world: World, cell: Cell | None) -> None:
        def arm() -> None:
            if cell is not None:
                self.injector.arm(cell.site, cell.nth, cell.code)

        if self.program in LIVES:
            arm()
            try:
                LIVES[self.program](world)
            except BaseException as exc:
                world.told.append(exc)
            world.end()
            self.counts = {site.name: site.calls for site in self.injector if site.calls}
            return
        loop = world.loop = world.new_loop()
        try:
            arm()
            self.drive(world, loop, lambda: SCENARIOS[self.program](world))
            self.drive(world, loop, world.clean)
            world.fired_elsewhere = self.injector.disarm()
            self.counts = {site.name: site.calls for site in self.injector if site.calls}
            self.check_loop(world, loop)
        finally:
            loop.close()
            world.loop = world.main = None

    def check_loop(self, world: World, loop: Any) -> None:
        """It holds nothing any more, and still serves."""
        if self.lenient:
            world.open.clear()
        if world.open:
            self.blame(f"transports left: {world.open}")
        left = asyncio.all_tasks(loop)
        if left and not self.lenient:
            self.blame(f"tasks left: {left}")
        before = len(world.told)
        answer = self.drive(world, loop, echo)
        if answer != b"still here":
            self.blame(f"does not serve any more: {answer!r} {world.told[before:]}")
        del world.told[before:]
        loop.run_until_complete(loop.shutdown_default_executor())

    def run(self, cell: Cell | None) -> dict[str, Any]:
        self.faults = []
        # An object of Python's that could not be made is a call that asyncio would not have made
        # either: what waits for it waits for ever. No crash, and somebody is told.
        self.lenient = cell is not None and cell.call in OBJECTS
        before = left_over()
        world = World(self.backend, self.lenient and self.program in LIVES)
        # The silenced error: two attributes that only a sweep gives to its world.
        world.fired = self.peek  # type: ignore[attr-defined]
        world.fired_elsewhere = 0  # type: ignore[attr-defined]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            log = Log(world.told)
            for name in LOGGERS:
                logging.getLogger(name).addHandler(log)
            sys.unraisablehook = lambda unraisable: world.hear(unraisable.exc_value)
            self.run_program(world, cell)
            gc.collect()  # what says at its end that nobody has asked for its exception
            fired = max(self.injector.disarm(), world.fired_elsewhere)  # type: ignore[attr-defined]
            told = world.told
            self.usual, self.gave_up = world.usual, world.gave_up
            if cell is not None and fired:
                self.judge(cell, told)
            elif not all(isinstance(exc, world.usual) for exc in told):
                self.blame(f"failed without a fault: {told!r} {told_where(told)}")
            said = [repr(one)[:200] for one in told]
            sys.unraisablehook = sys.__unraisablehook__
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(log)
            world.__dict__.clear()
            told.clear()
            gc.collect()
            notes = [(w.category, str(w.message)) for w in warned]
            warned.clear()
            gc.collect()
        for category, text in notes:
            # of a task that could not be made, as with asyncio; and our watchdog is a thread
            if self.lenient and issubclass(category, ResourceWarning | DeprecationWarning):
                continue
            if (fired and "never awaited" in text) or "use of fork() may lead" in text:
                continue
            self.blame(f"warned: {category.__name__} {text}")
        if (after := left_over()) != before and not self.lenient:
            self.blame(f"left over: {difference(before, after)}")
        return {"fired": fired, "gave_up": self.gave_up, "faults": self.faults, "told": said}

    def peek(self) -> int:
        if self.injector.armed is None:
            return 0
        armed, code = self.injector.armed, self.injector.code
        fired = self.injector.disarm()
        self.injector.armed, self.injector.code = armed, code
        return fired

    def judge(self, cell: Cell, told: list[BaseException]) -> None:
        for exc in told:
            lost = self.lenient and (str(exc) in AFTERMATH or str(exc).startswith(NEVER_MADE))
            if not is_expected(exc) and not lost:
                self.blame(f"raised {exc!r}: {told_where([exc])}")
        if is_soft(cell):
            hard = [exc for exc in told if not isinstance(exc, self.usual)]
            if hard and not is_quiet(cell, self.program):
                self.blame(f"not tried again: {told!r}")
        elif (
            not is_told(cell, told, self.program)
            and not is_quiet(cell, self.program)
            and not self.gave_up
        ):
            self.blame(f"nobody was told (but of {told!r})")


def told_where(told: list[BaseException]) -> str:
    return "".join(
        "".join(traceback.format_exception(exc))[-900:] for exc in told if exc.__traceback__
    )


async def echo() -> bytes:
    """The proof that a loop works: a server, a client, ten bytes there and back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(10))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"still here")
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return data


MODULES = (
    "hotloop._core",
    "hotloop._server",
    "hotloop._subprocess",
    "asyncio.streams",
    "socket",
    "ssl",
)


def left_over() -> dict[str, int]:
    """What could have been left: descriptors, and objects of the kinds that matter."""
    counts: dict[str, int] = collections.Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__module__ in MODULES:
            counts[kind.__name__] += 1
    counts["descriptors"] = len(os.listdir("/proc/self/fd"))
    return counts


def difference(before: dict[str, int], after: dict[str, int]) -> str:
    names = sorted({*before, *after})
    return ", ".join(
        f"{name} {before.get(name, 0)} -> {after.get(name, 0)}"
        for name in names
        if before.get(name, 0) != after.get(name, 0)
    )


# ---- the process of a program ----


def occurrences_of(count: int, form: str) -> list[int]:
    """Which of a site's calls fail: the first; that and the last; or up to fifty."""
    if form == "short":
        return [1]
    return list(range(1, min(count, 50) + 1)) if form == "long" else sorted({1, min(count, 50)})


def plan_cells(program: str, counts: dict[str, int], form: str, only: str) -> list[Cell]:
    """Every site of a program × its errnos × some of its calls."""
    cells = []
    short = form == "short"
    for name, count in counts.items():
        if only not in name:
            continue
        codes = errnos_of(name)
        if not codes or (short and name.partition(" ")[0] in OBJECTS):
            continue
        if short:  # each program has others of the errnos, so that all of them come up
            first = zlib.crc32(program.encode())
            codes = list({codes[(first + i) % len(codes)]: 0 for i in range(2)})
        for code in codes:
            cells += [Cell(name, code, nth) for nth in occurrences_of(count, form)]
    return cells


def work(backend: str, program: str, out: Any, options: Any, start: int) -> None:
    """Measures the program, then runs its cells from number `start` on; a line for each."""

    def say(*what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    # The silenced error: stubs know it as a constant; a sweep cannot wait a second.
    asyncio.constants.ACCEPT_RETRY_DELAY = 0.005  # type: ignore[assignment]
    injector = Injector()
    runner = Runner(injector, backend, program)
    cells: list[Cell] = []
    for patched in (False, True):
        if patched:
            injector.patch()
        for _ in range(3):  # the last one counts
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            injector.reset()
            result = runner.run(None)
            if not patched:
                gc.collect()
                gc.freeze()
        if result["faults"]:
            say("broken", result["faults"])
            return
        counts = {name: n for name, n in runner.counts.items() if ("hotloop." in name) is patched}
        say("sites", list(counts))
        first = len(cells)
        cells += plan_cells(program, counts, options.form, options.site)
        for number in range(max(first, start), len(cells)):
            cell = cells[number]
            say("start", number, cell.site, cell.code, cell.nth)
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            say("end", number, runner.run(cell))
    faulthandler.cancel_dump_traceback_later()
    say("done")


class Worker:
    """A forked process, and what it says."""

    def __init__(self, backend: str, program: str, options: Any, start: int = 0) -> None:
        self.backend, self.program, self.options = backend, program, options
        self.cell: Cell | None = None
        self.number = start - 1
        self.done = False
        self.dump = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        read, write = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(read)
                os.dup2(self.dump.fileno(), 2)
                faulthandler.enable()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                with open(write, "w") as out:
                    work(backend, program, out, options, start)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        self.out = open(read)  # noqa: SIM115

    def ended(self) -> str:
        """How it ended, when that was not its own decision."""
        self.out.close()
        _, status = os.waitpid(self.pid, 0)
        self.dump.seek(0)
        text = self.dump.read().decode(errors="replace")
        self.dump.close()
        if self.done:
            return ""
        kind = "hung" if "Timeout (" in text else "crashed"
        return f"{kind} (status {status}):\n{text[-3000:]}"


# ---- all of it ----


class Sweep:
    def __init__(self, options: Any) -> None:
        self.options = options
        self.sites: dict[str, int] = {}  # site -> faults fired
        self.all_sites: set[str] = set()
        self.distinct: set[tuple[str, int, str, str]] = set()
        self.cells = self.fired = self.gave_up = self.crashes = self.hangs = self.leaks = 0
        self.failures: list[str] = []
        self.until = time.monotonic() + options.seconds
        self.kinds: dict[tuple[str, str], int] = collections.Counter()

    def fail(self, worker: Worker, what: str) -> None:
        key = f"{worker.program}/{worker.backend}: {worker.cell or 'without a fault'}"
        self.failures.append(f"{key}\n    {what}")
        kind = (worker.cell.site if worker.cell else worker.program, what[:24])
        self.kinds[kind] += 1
        if self.kinds[kind] <= self.options.show:
            print(f"FAILED {self.failures[-1]}", flush=True)

    def hear(self, worker: Worker, line: str) -> None:
        kind, *rest = json.loads(line)
        if kind == "sites":
            for name in rest[0]:
                self.sites.setdefault(name, 0)
        elif kind == "start":
            worker.number, site, code, nth = rest
            worker.cell = Cell(site, code, nth)
        elif kind == "broken":
            worker.done = True
            self.fail(worker, "; ".join(rest[0]))
        elif kind == "done":
            worker.done = True
        elif kind == "end":
            self.count(worker, rest[1])

    def count(self, worker: Worker, result: dict[str, Any]) -> None:
        cell = worker.cell
        assert cell is not None
        self.cells += 1
        if result["fired"]:
            self.fired += 1
            self.sites[cell.site] += 1
            self.distinct.add((cell.site, cell.code, worker.program, worker.backend))
        self.gave_up += result["gave_up"]
        for fault in result["faults"]:
            self.leaks += "left" in fault
            self.fail(worker, fault)

    def end(self, worker: Worker) -> Worker | None:
        """A worker is gone: the one that goes on behind the cell that it died in, or None."""
        how = worker.ended()
        if not how:
            return None
        if "hung" in how[:5]:
            self.hangs += 1
        else:
            self.crashes += 1
        self.fail(worker, how)
        if worker.cell is None:
            return None
        return Worker(worker.backend, worker.program, self.options, worker.number + 1)

    def run(self, todo: list[tuple[str, str]]) -> None:
        with selectors.DefaultSelector() as selector:
            while todo or selector.get_map():
                if time.monotonic() > self.until:
                    for key in selector.get_map().values():
                        os.kill(key.data.pid, signal.SIGKILL)
                    print("faults: stopped before the end, as asked")
                    break
                while todo and len(selector.get_map()) < self.options.jobs:
                    worker = Worker(*todo.pop(), self.options)
                    selector.register(worker.out, selectors.EVENT_READ, worker)
                for key, _ in selector.select():
                    worker = key.data
                    line = worker.out.readline()
                    if line:
                        self.hear(worker, line)
                        continue
                    selector.unregister(worker.out)
                    after = self.end(worker)
                    if after is not None:
                        selector.register(after.out, selectors.EVENT_READ, after)


def one_cell(program: str, backend: str, site: str, nth: str, code: str) -> int:
    """For a debugger: one cell in this process; says what the tasks wait for should it hang."""
    # The silenced error: stubs know it as a constant; a sweep cannot wait a second.
    asyncio.constants.ACCEPT_RETRY_DELAY = 0.005  # type: ignore[assignment]
    injector = Injector()
    runner = Runner(injector, backend, program)
    if "hotloop." in site:
        injector.patch()
    for _ in range(2):
        print(runner.run(None))

    def look() -> None:
        time.sleep(3)
        for thing in gc.get_objects():
            if isinstance(thing, World) and thing.loop is not None:
                print(thing.told, thing.gave_up, thing.open)
                for task in asyncio.all_tasks(thing.loop):
                    print(task)
                    task.print_stack()

    threading.Thread(target=look, daemon=True).start()
    faulthandler.dump_traceback_later(6, exit=True)
    number = SHORT if code == "short" else getattr(errno, code)
    result = runner.run(Cell(site, number, int(nth)))
    print(*(f"{key}: {value}" for key, value in result.items()), sep="\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    forms = {"short": "the first call of each site, two errnos", "each": "first and last, all"}
    for form, text in {**forms, "long": "the first fifty calls, all errnos"}.items():
        parser.add_argument(
            f"--{form}", dest="form", action="store_const", const=form, default="each", help=text
        )
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--site", default="")
    parser.add_argument("--backend", action="append", choices=("epoll", "select"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--show", type=int, default=1)
    parser.add_argument("--cell", nargs=5, metavar=("PROGRAM", "BACKEND", "SITE", "NTH", "ERRNO"))
    options = parser.parse_args()
    if options.cell:
        return one_cell(*options.cell)
    begin = time.monotonic()
    programs = [name for name in [*LIVES, *SCENARIOS] if not options.only or name in options.only]
    backends = options.backend or ["epoll", "select"]
    todo = [(backend, program) for backend in backends for program in programs]
    if options.form == "short":
        todo = [each for each in todo if each[0] == "epoll" or each[1] in SHORT_SELECT]
    if options.shuffle:
        random.shuffle(todo)
    sweep = Sweep(options)
    sweep.run(todo[::-1])
    native = {site.name for site in Injector() if site.native is not None}
    silent = sorted(native - {name for name, fired in sweep.sites.items() if fired})
    print(f"faults: sites in C that never failed: {', '.join(silent) or 'none'}")
    for (site, what), count in sorted(sweep.kinds.items()):
        print(f"faults: {count} x {site}: {what}")
    print(
        f"faults: {len(programs)} programs on {', '.join(backends)}; {len(sweep.sites)} sites"
        f" ({len(native)} of C), {sweep.cells} cells, {sweep.fired} faults fired,"
        f" {len(sweep.distinct)} distinct site × errno × program;"
        f" {sweep.gave_up} wake-ups lost with the object for them;"
        f" {sweep.crashes} crashes, {sweep.hangs} hangs, {sweep.leaks} leaks,"
        f" {len(sweep.failures)} failures; {time.monotonic() - begin:.0f} s"
    )
    return bool(sweep.failures)


if __name__ == "__main__":
    sys.exit(main())
