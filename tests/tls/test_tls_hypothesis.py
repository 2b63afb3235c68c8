"""Any sequence of operations on both ends of a TLS connection, and what asyncio guarantees of it.

What comes is what was written, from its beginning and in order; it is all of it if nobody closed
early. connection_made() comes first and once, connection_lost() last and once, eof_received() at
most once with no data after it, pause_writing() and resume_writing() take turns, and nothing is
reported. HOTLOOP_EXAMPLES sets how many sequences are tried.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netlib import Recorder
from tlslib import Certs, Pair, pair

EXAMPLES = int(os.environ.get("HOTLOOP_EXAMPLES", "40"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([16383, 16384, 16385, 65536, 200_000, 700_000])
)
LIMITS = st.tuples(st.sampled_from([1, 100, 70_001, 600_000]), st.sampled_from([0, 1, 99, 70_000]))
PEACEFUL = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("writelines"), st.lists(SIZES, max_size=4)),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("resume"), st.none()),
    st.tuples(st.just("write limits"), LIMITS),
    st.tuples(st.just("read limits"), LIMITS),
    st.tuples(st.just("turns"), st.integers(1, 30)),
    st.tuples(st.just("echo"), st.integers(1, 100)),
)
ENDING = st.tuples(st.sampled_from(["close", "abort"]), st.none())
SIDES = st.booleans()


class End(Recorder):
    """Keeps what it wrote and what it got; answers `echo` pieces from data_received()."""

    def __init__(self, mark: int) -> None:
        super().__init__()
        self.mark = mark
        self.sent = bytearray()
        self.got = bytearray()
        self.echo = 0
        self.ended = False

    def piece(self, size: int) -> bytes:
        self.mark = (self.mark + 7) % 256
        return bytes([self.mark]) * size

    def write(self, size: int) -> None:
        data = self.piece(size)
        if not self.ended:
            self.sent += data
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert data
        self.got += data
        self.events.append("data")
        self._changed.set()
        if self.echo:
            size, self.echo = self.echo, 0
            self.write(size)

    async def act(self, what: str, how: Any) -> None:
        t = self.transport
        if what == "turns":
            for _ in range(how):
                await asyncio.sleep(0)
        elif self.ended or "lost" in self.names():
            return
        elif what == "write":
            self.write(how)
        elif what == "writelines":
            pieces = [self.piece(size) for size in how]
            self.sent += b"".join(pieces)
            t.writelines(pieces)
        elif what == "pause":
            t.pause_reading()
        elif what == "resume":
            t.resume_reading()
        elif what == "write limits":
            t.set_write_buffer_limits(max(how), min(how))
        elif what == "read limits":
            t.set_read_buffer_limits(max(how), min(how))
        elif what == "echo":
            self.echo = how
        else:
            self.ended = True
            getattr(t, what)()


def check_events(end: End) -> None:
    names = end.names()
    assert names[0] == "made"
    assert names[-1] == "lost"
    assert names.count("made") == names.count("lost") == 1
    if "eof" in names:
        assert names.count("eof") == 1
        assert "data" not in names[names.index("eof") :]
    turns = [name for name in names if name in ("pause", "resume")]
    assert turns == ["pause", "resume"] * (len(turns) // 2) + ["pause"] * (len(turns) % 2)


LOST = ("NoneType", "SSLError", "ConnectionResetError", "BrokenPipeError")


async def play(certs: Certs, steps: list[Any]) -> Pair:
    ends = await pair(certs, End(0), End(100))
    for side, (what, how) in steps:
        await (ends.server if side else ends.client).act(what, how)
    for end in (ends.client, ends.server):
        # One that is closed, too: an EOF that came while asyncio's transport was paused makes
        # close() wait for it to be resumed.
        if "lost" not in end.names():
            try:
                end.transport.resume_reading()
            except AttributeError:  # asyncio's, when close() has been called of a closing one
                pass
    return ends


@SETTINGS
@given(steps=st.lists(st.tuples(SIDES, PEACEFUL), max_size=25))
def test_everything_arrives(run: Any, handled: Any, certs: Certs, steps: list[Any]) -> None:
    async def main() -> None:
        ends = await play(certs, steps)
        client, server = ends.client, ends.server

        while len(client.got) < len(server.sent) or len(server.got) < len(client.sent):
            await server.until_true(lambda: len(server.got) >= len(client.sent))
            await client.until_true(lambda: len(client.got) >= len(server.sent))
        assert server.got == client.sent
        assert client.got == server.sent
        await ends.close()
        for end in (client, server):
            check_events(end)
            assert end.events[-1] == ("lost", "NoneType")

    run(main())
    assert handled == []


@SETTINGS
@given(
    steps=st.lists(st.tuples(SIDES, PEACEFUL), max_size=15),
    ending=st.tuples(SIDES, ENDING),
    rest=st.lists(st.tuples(SIDES, st.one_of(PEACEFUL, ENDING)), max_size=10),
)
def test_any_end(
    run: Any, handled: Any, certs: Certs, steps: list[Any], ending: Any, rest: list[Any]
) -> None:
    async def main() -> None:
        ends = await play(certs, [*steps, ending, *rest])
        await ends.lost()
        for end, other in ((ends.client, ends.server), (ends.server, ends.client)):
            check_events(end)
            assert end.events[-1][1] in LOST
            assert other.sent.startswith(end.got)
            assert end.transport.is_closing()

    run(main())
    assert handled == []
