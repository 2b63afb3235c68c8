"""What the processes of a soak share: bytes that say whose they are, samples, errors.

Byte number n of a stream depends on the stream's id, its direction and n, so that a byte which
was lost, doubled, reordered or delivered to another connection is noticed where it arrives.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

PERIOD = 1021  # of a stream's bytes; prime, so that no buffer size hides a shift
HEADER = struct.Struct("!QcI")  # id, kind, length
SAMPLE = 5.0  # seconds between samples
TICK = 0.05  # what the probe of the loop's lag sleeps
MOST_ERRORS = 20

# Kinds of connections, as the server is told of them.
ECHO = b"E"  # `length` bytes come, as many go back
BULK = b"B"  # `length` bytes go out
HALF = b"F"  # `length` bytes come and then the end; as many go back
HOLD = b"H"  # as ECHO with no length: open for as long as the client likes
TORN = b"R"  # as ECHO, but the client may reset it at any time


class Content:
    """One direction of one stream: what the next n bytes must be."""

    def __init__(self, ident: int, direction: str) -> None:
        pattern = random.Random(f"{ident} {direction}").randbytes(PERIOD)
        self.twice = pattern * 2
        self.at = 0

    def take(self, n: int) -> bytes:
        start = self.at % PERIOD
        self.at += n
        if start + n <= 2 * PERIOD:
            return self.twice[start : start + n]
        return (self.twice * (n // (2 * PERIOD) + 2))[start : start + n]


class Wrong(Exception):
    """A byte that is not what it must be, or anything else that ends the run as failed."""


class Books:
    """What one process has seen; its samples go to standard output, a line of JSON each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.errors: list[str] = []
        self.failed = 0
        self.bytes = 0
        self.done: collections.Counter[str] = collections.Counter()
        self.gauges: dict[str, Callable[[], int]] = {}
        self.lags: list[float] = []
        self.skip_lag = False
        self.began = time.monotonic()

    def check(self, content: Content, data: bytes, what: str) -> None:
        at = content.at
        expected = content.take(len(data))
        self.bytes += len(data)
        if data != expected:
            wrong = next(i for i in range(len(data)) if data[i] != expected[i])
            self.error(f"{what}: wrong byte at {at + wrong} of a piece of {len(data)}")
            raise Wrong(what)

    def error(self, text: str) -> None:
        self.failed += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(f"{self.name}: {text}")
            say(kind="error", text=self.errors[-1])

    def handler(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        self.error(f"reported: {context.get('message')}: {exc!r}")

    async def probe(self) -> None:
        """How much later than asked a sleeper wakes up; a sample's own work is not counted."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK)
            if not self.skip_lag:
                self.lags.append(time.monotonic() - before - TICK)
            self.skip_lag = False

    async def sampler(self) -> None:
        while True:
            self.sample()
            self.skip_lag = True
            await asyncio.sleep(SAMPLE)

    def sample(self) -> None:
        say(
            kind="sample",
            at=round(time.monotonic() - self.began, 2),
            fds=open_descriptors(),
            rss=rss(),
            live=live_objects(),
            bytes=self.bytes,
            done=dict(self.done),
            **{name: gauge() for name, gauge in self.gauges.items()},
        )

    def end(self, before: int) -> None:
        """The last line: what is left when all is closed, against what there was before."""
        gc.collect()
        left = {k: v for k, v in live_objects().items() if k.endswith(("Transport", "Protocol"))}
        after = open_descriptors()
        if after > before:
            self.error(f"{after - before} descriptors left open: {names_of_descriptors()[-12:]}")
        if left:
            self.error(f"objects left: {left}")
        lags = sorted(self.lags) or [0.0]
        points = {f"p{p}": lags[min(int(len(lags) * p / 100), len(lags) - 1)] for p in (50, 90, 99)}
        say(
            kind="end",
            errors=self.failed,
            bytes=self.bytes,
            done=dict(self.done),
            lag={name: round(value, 4) for name, value in points.items()} | {"max": lags[-1]},
        )


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1


def names_of_descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found


def rss() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_objects() -> dict[str, int]:
    """How many objects there are of each type of hotloop's, and of what hangs on them."""
    counts = collections.Counter(map(type, gc.get_objects()))
    return {
        kind.__name__: n
        for kind, n in sorted(counts.items(), key=lambda item: item[0].__name__)
        if str(kind.__module__).startswith("hotloop") or kind in FOLLOWED
    }


FOLLOWED: tuple[type, ...] = (asyncio.StreamReader, asyncio.StreamWriter)


def run(main: Callable[[Books], Any], name: str, which: str) -> int:
    """Runs main(books) on the loop that `which` names, in a process that answers for itself."""
    books = Books(name)
    factory: Any = asyncio.SelectorEventLoop
    if which == "hotloop":
        import hotloop

        factory = hotloop.new_event_loop
    before = open_descriptors()

    async def outer() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(books.handler)
        loop.add_signal_handler(signal.SIGUSR1, lambda: books.done.update(signals=1))
        helpers = [asyncio.create_task(books.probe()), asyncio.create_task(books.sampler())]
        try:
            await main(books)
        finally:
            # Without a handler SIGUSR1 ends the process: none comes once the runner has heard.
            say(kind="ending")
            await loop.run_in_executor(None, sys.stdin.read)
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    try:
        asyncio.run(outer(), loop_factory=factory)
    except Wrong as exc:
        books.error(f"ended by {exc}")
    except Exception as exc:
        books.error(f"ended by {exc!r}")
    books.end(before)
    return 1 if books.failed else 0
