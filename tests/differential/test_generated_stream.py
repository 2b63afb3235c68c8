"""Generated operations on two stream transports that face each other; every byte is checked.

Both ends belong to the loop under test, over a socket pair. How data are cut up is no promise, so
what is kept is, for each end: its calls other than data_received(), what it got in all, what the
operations gave, and the state after the loop has come to rest. The two ends are never in order.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from duet import Recorder, compare, play
from hypothesis import given
from hypothesis import strategies as st

import hotloop

SIZES = st.sampled_from([0, 1, 2, 7, 100, 4096, 65536, 300_000])
ENDS = st.integers(0, 1)
REST = 0.002  # seconds; no event is waited for this way, the far end's bytes are

OPERATIONS = st.one_of(
    st.tuples(st.just("write"), ENDS, SIZES),
    st.tuples(st.just("write"), ENDS, SIZES),
    st.tuples(st.just("writelines"), ENDS, SIZES, SIZES),
    st.tuples(st.just("write mutable"), ENDS, SIZES),
    st.tuples(st.just("pause"), ENDS),
    st.tuples(st.just("resume"), ENDS),
    st.tuples(st.just("limits"), ENDS, st.sampled_from([None, 0, 1, 10, 65536]), SIZES),
    st.tuples(st.just("bad limits"), ENDS),
    st.tuples(st.just("eof"), ENDS),
    st.tuples(st.just("close"), ENDS),
    st.tuples(st.just("abort"), ENDS),
    st.tuples(st.just("look"), ENDS),
    st.tuples(st.just("rest"), ENDS),
    st.tuples(st.just("rest"), ENDS),
)
PROGRAMS = st.lists(OPERATIONS, min_size=1, max_size=15)


class End(asyncio.Protocol):
    def __init__(self, note: Any, keep_open: bool) -> None:
        self.note = note
        self.keep_open = keep_open
        self.got = bytearray()
        self.sent = 0  # a counter gives the bytes, so that each one is known
        self.lost = False
        self.eof = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        if self.lost or self.eof or not data:
            self.note("data at the wrong time")
        self.got += data

    def eof_received(self) -> bool:
        self.eof = True
        self.note("eof", len(self.got))
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.note("lost", type(exc).__name__)

    def next_bytes(self, size: int) -> bytes:
        start, self.sent = self.sent, self.sent + size
        block = bytes((n * 31 + (n >> 8)) % 251 for n in range(start, start + min(size, 64)))
        return (block * (size // 64 + 1))[:size]


class Pair:
    def __init__(self, rec: Recorder, keep_open: tuple[bool, bool]) -> None:
        self.rec = rec
        self.ends = [End(rec.party(f"end {n}"), keep_open[n]) for n in (0, 1)]
        self.written: list[bytearray] = [bytearray(), bytearray()]
        self.aborted = False

    async def open(self) -> None:
        for end, sock in zip(self.ends, socket.socketpair(), strict=True):
            await self.rec.loop.create_connection(lambda end=end: end, sock=sock)

    async def do(self, op: Any) -> None:
        name, n, *args = op
        end, note = self.ends[n], self.rec.party(f"operations {n}")
        if name == "rest":
            await self.rest()
            return
        try:
            result = getattr(self, "do_" + name.replace(" ", "_"))(n, end, *args)
        except Exception as exc:
            note(name, exc)
        else:
            note(name, result)

    def accepts(self, end: End) -> bool:
        """After close() too, as long as what was written before waits."""
        transport = end.transport
        waits = transport.is_closing() and transport.get_write_buffer_size() > 0
        return not transport._eof and (waits or not transport.is_closing())

    def do_write(self, n: int, end: End, size: int) -> None:
        if end.lost:  # asyncio: no attribute 'send', if it was closed with data waiting
            return
        data = end.next_bytes(size)
        if self.accepts(end):
            self.written[n] += data
        end.transport.write(data)

    def do_write_mutable(self, n: int, end: End, size: int) -> None:
        if end.lost:
            return
        data = bytearray(end.next_bytes(size))
        if self.accepts(end):
            self.written[n] += data
        end.transport.write(memoryview(data))

    def do_writelines(self, n: int, end: End, one: int, two: int) -> None:
        if end.transport.is_closing():
            return  # asyncio: 'NoneType' object is not callable
        # No empty parts: asyncio keeps them in its buffer for ever, and then never closes.
        parts = [end.next_bytes(size or 1) for size in (one, two)]
        if self.accepts(end):
            self.written[n] += b"".join(parts)
        end.transport.writelines(parts)
        # Until 3.13 asyncio forgets the high mark here; hotloop, like 3.14, does not.
        if hasattr(end.transport, "_maybe_pause_protocol") and not end.transport.is_closing():
            end.transport._maybe_pause_protocol()

    def do_pause(self, n: int, end: End) -> Any:
        return end.transport.pause_reading(), end.transport.is_reading()

    def do_resume(self, n: int, end: End) -> Any:
        return end.transport.resume_reading(), end.transport.is_reading()

    def do_limits(self, n: int, end: End, low: int | None, high: int) -> Any:
        end.transport.set_write_buffer_limits(high=high, low=low)
        return end.transport.get_write_buffer_limits()

    def do_bad_limits(self, n: int, end: End) -> None:
        end.transport.set_write_buffer_limits(high=1, low=2)

    def do_eof(self, n: int, end: End) -> None:
        end.transport.write_eof()

    def do_close(self, n: int, end: End) -> None:
        end.transport.close()

    def do_abort(self, n: int, end: End) -> None:
        if not end.lost:  # asyncio may do so twice, without a loop
            self.aborted = True
            end.transport.abort()

    def do_look(self, n: int, end: End) -> Any:
        transport = end.transport
        return transport.is_closing(), transport.is_reading(), transport.can_write_eof()

    async def rest(self) -> None:
        """Until nothing has happened for some turns."""
        quiet = 0
        seen: Any = None
        while quiet < 4:
            await asyncio.sleep(0 if quiet < 3 else REST)
            now = [(len(e.got), e.eof, e.lost, len(e.note.events)) for e in self.ends]
            quiet = quiet + 1 if now == seen else 0
            seen = now
        for n, end in enumerate(self.ends):
            note = self.rec.party(f"operations {n}")
            note("rest", len(end.got), end.lost, end.transport.is_closing())
            note(end.transport.get_write_buffer_size() if not end.lost else 0)

    def check(self) -> None:
        for n, end in enumerate(self.ends):
            sent = self.written[1 - n]
            whole = not self.aborted and end.eof
            assert end.got == (sent if whole else sent[: len(end.got)]), (
                "bytes were lost or changed"
            )


async def run_program(rec: Recorder, program: Any, keep_open: tuple[bool, bool]) -> None:
    rec.handler()
    pair = Pair(rec, keep_open)
    await pair.open()
    try:
        for op in program:
            await pair.do(op)
        await pair.rest()
        pair.check()
    finally:
        for end in pair.ends:
            if not end.lost:
                end.transport.abort()
        while not all(end.lost for end in pair.ends):
            await asyncio.sleep(0)


@given(PROGRAMS, st.tuples(st.booleans(), st.booleans()))
def test_two_ends(backend: str, program: Any, keep_open: tuple[bool, bool]) -> None:
    async def scenario(rec: Recorder) -> None:
        await run_program(rec, program, keep_open)

    theirs, _ = play(scenario, asyncio.SelectorEventLoop, brief=True)
    ours, _ = play(scenario, lambda: hotloop.new_event_loop(backend), brief=True)
    compare("test_two_ends", ours, theirs)
