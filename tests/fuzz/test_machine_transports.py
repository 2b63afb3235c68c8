"""Two ends of a connection that do anything at any time: bytes, and the order of events.

What an end gets is what the other wrote, from its beginning, in order; all of it if nobody closed
or reset. connection_made() comes first, connection_lost() last and once; nothing comes while
reading is paused or after close(); pause_writing() and resume_writing() take turns. The other end
is a transport of the same loop, or a plain socket that the program plays by hand.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from machinelib import Machine, hammer, make_loop

SIZES = st.one_of(
    st.integers(1, 300), st.sampled_from([4096, 65535, 65536, 65537, 262144, 700_000])
)
REACTIONS = st.sampled_from(
    ["nothing", "nothing", "write", "write much", "pause", "resume", "eof", "close", "abort"]
)
SECRET = {"sent", "got", "buffer"}  # of what a report names
LINGER = struct.pack("ii", 1, 0)
PATIENCE = 30.0  # seconds in which nothing happens


def numbered(start: int, n: int, salt: int) -> bytes:
    """Bytes of a stream from its byte number `start` on; no short period hides a shift."""
    period = bytes((i * i + i // 7 + salt) % 251 for i in range(1021))
    return (period * (n // 1021 + 2))[start % 1021 : start % 1021 + n]


class End:
    """What both kinds of ends keep."""

    def __init__(self, salt: int) -> None:
        self.salt = salt
        self.sent = bytearray()
        self.got = bytearray()
        self.gone = False  # closed, aborted or reset by ourselves
        self.ended = False  # no more is written
        self.wrong: list[str] = []

    def __str__(self) -> str:
        what = {name: value for name, value in vars(self).items() if name not in SECRET}
        return f"{type(self).__name__}: {len(self.got)} got, {len(self.sent)} sent, {what}"

    def next(self, n: int) -> bytes:
        return numbered(len(self.sent), n, self.salt)


class LoopEnd(End):
    def __init__(self, salt: int) -> None:
        super().__init__(salt)
        self.events: list[str] = []
        self.reactions: dict[str, str] = {}
        self.paused = False
        self.resumed = 0
        self.error: BaseException | None = None

    # ---- as a protocol ----

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def took(self, data: bytes) -> None:
        if self.paused or self.gone:
            self.wrong.append(f"data while {'paused' if self.paused else 'closed'}")
        if not data:
            self.wrong.append("no data")
        self.events.append("data")
        self.got += data
        self.react("data")

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.react("eof")
        return True

    def pause_writing(self) -> None:
        self.events.append("full")
        self.react("full")

    def resume_writing(self) -> None:
        self.events.append("room")
        self.react("room")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self.events.append("lost")

    def react(self, event: str) -> None:
        self.act(self.reactions.pop(event, "nothing"), 1000)

    # ---- what it can be told to do ----

    def act(self, what: str, n: int) -> None:
        t = self.transport
        if "lost" in self.events or self.gone:
            return
        if what.startswith("write") and not self.ended:
            self.write(what, n if what != "write much" else 300_000)
        elif what == "pause":
            t.pause_reading()
            self.paused = True
        elif what == "resume":
            self.resumed += self.paused
            self.paused = False
            t.resume_reading()
        elif what == "eof" and not self.ended:
            self.ended = True
            try:
                t.write_eof()
            except OSError:  # reset by the peer, which no event has told yet: asyncio's too
                pass
        elif what in ("close", "abort"):
            self.gone = True
            getattr(t, what)()

    def write(self, how: str, n: int) -> None:
        data = self.next(n)
        self.sent += data
        if how == "write changing":
            changing = bytearray(data)
            self.transport.write(changing)
            changing[:] = bytes(n)
        elif how == "write view":
            self.transport.write(memoryview(b"?" + data)[1:])
        elif how == "writelines":
            third = n // 3
            self.transport.writelines([data[:third], bytearray(data[third:])])
        else:
            self.transport.write(data)

    def check(self) -> None:
        names = self.events
        assert not self.wrong
        assert names[0] == "made"
        assert names.count("made") == 1
        # Reading that is resumed after the end tells the end again, with asyncio too.
        assert names.count("eof") <= 1 + self.resumed
        assert "lost" not in names[:-1]
        if "eof" in names:
            assert "data" not in names[names.index("eof") :]
        turns = [name for name in names if name in ("full", "room")]
        assert turns == (["full", "room"] * len(turns))[: len(turns)]


class Plain(LoopEnd, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.took(data)


class Buffered(LoopEnd, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(5000)
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        self.took(bytes(self.buffer[:n]))


class RawEnd(End):
    """A socket without a loop."""

    def __init__(self, salt: int, sock: socket.socket) -> None:
        super().__init__(salt)
        self.sock = sock
        self.events: list[str] = []

    def act(self, what: str, n: int) -> None:
        if self.gone:
            return
        try:
            if what.startswith("write") and not self.ended:
                data = self.next(n)
                self.sent += data[: self.sock.send(data)]
            elif what == "resume":
                data = self.sock.recv(n)
                self.got += data
                self.events += [] if data else ["eof"]
            elif what == "eof" and not self.ended:  # once over both ways, the kernel refuses
                self.ended = True
                self.sock.shutdown(socket.SHUT_WR)
            elif what in ("close", "abort"):
                self.gone = True
                if what == "abort" and self.sock.family == socket.AF_INET:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                self.sock.close()
        except BlockingIOError:
            pass
        except OSError:  # the transport was aborted
            self.gone = True
            self.sock.close()

    def check(self) -> None:
        pass


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


class TransportMachine(Machine):
    @initialize(
        tcp=st.booleans(),
        raw=st.booleans(),
        buffered=st.tuples(st.booleans(), st.booleans()),
        small=st.booleans(),
    )
    def start(self, tcp: bool, raw: bool, buffered: Any, small: bool) -> None:
        self.loop = make_loop(self.kind)
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.report(context))
        socks = tcp_pair() if tcp else socket.socketpair()
        for sock in socks:
            sock.setblocking(False)
            if small and not tcp:  # where a small buffer is a slow one
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.ends: list[Any] = [self.adopt(socks[0], buffered[0], 1)]
        self.ends.append(RawEnd(2, socks[1]) if raw else self.adopt(socks[1], buffered[1], 2))
        self.peaceful = True

    def report(self, context: Any) -> None:
        # asyncio loses a connection twice that is closed in resume_writing().
        if self.kind != "asyncio" or "_call_connection_lost()" not in context["message"]:
            self.reports.append(context)

    def adopt(self, sock: socket.socket, buffered: bool, salt: int) -> LoopEnd:
        end: Any = Buffered(salt) if buffered else Plain(salt)
        made = self.loop.create_connection(lambda: end, sock=sock)
        self.loop.run_until_complete(made)
        adopted: LoopEnd = end
        return adopted

    @rule(
        side=st.integers(0, 1),
        size=SIZES,
        what=st.sampled_from(
            ["write", "write", "write changing", "write view", "writelines", "pause", "resume"]
        ),
    )
    def work(self, side: int, what: str, size: int) -> None:
        if what == "write changing" and self.kind == "asyncio":
            what = "write"  # asyncio sends what a buffer has become until it leaves
        self.ends[side].act(what, size)

    @rule(
        side=st.integers(0, 1),
        what=st.sampled_from(["eof", "eof", "close", "abort"]),
        often=st.integers(0, 4),
    )
    def end_it(self, side: int, what: str, often: int) -> None:
        if often == 0:
            self.ends[side].act(what, 0)

    @rule(
        side=st.integers(0, 1),
        event=st.sampled_from(["data", "eof", "full", "room"]),
        what=REACTIONS,
    )
    def will_react(self, side: int, event: str, what: str) -> None:
        end = self.ends[side]
        if isinstance(end, LoopEnd):
            end.reactions[event] = what

    @rule(
        side=st.integers(0, 1), limits=st.sampled_from([(0, 0), (1, 0), (1000, 10), (None, None)])
    )
    def limit(self, side: int, limits: Any) -> None:
        end = self.ends[side]
        if isinstance(end, LoopEnd) and not end.gone and "lost" not in end.events:
            end.transport.set_write_buffer_limits(*limits)

    @rule(n=st.integers(1, 5))
    def turns(self, n: int) -> None:
        for _ in range(n):
            self.loop.stop()
            self.loop.run_forever()

    @invariant()
    def bytes_are_right(self) -> None:
        if hasattr(self, "ends"):
            for end, other in (self.ends, self.ends[::-1]):
                assert other.sent.startswith(end.got)
                end.check()
            assert not self.reports

    def all_came(self) -> bool:
        first, second = self.ends
        return first.got == second.sent and second.got == first.sent

    def until(self, what: Any) -> None:
        since, before = time.monotonic(), None
        while not what():
            now = [(len(end.got), len(end.events)) for end in self.ends]
            if now != before:
                since, before = time.monotonic(), now
            else:
                time.sleep(0.001)  # the kernel's timers for a full connection
            assert time.monotonic() < since + PATIENCE, (
                f"nothing more happens: {[str(end) for end in self.ends]}"
            )
            for end in self.ends:
                end.act("resume", 1 << 20)
            self.turns(5)
        self.bytes_are_right()

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "ends"):
            return
        for end in self.ends:
            if isinstance(end, LoopEnd):
                end.reactions.clear()
        if not any(end.gone for end in self.ends):
            self.until(lambda: self.all_came() or any(end.gone for end in self.ends))
            for end in self.ends:
                end.act("eof", 0)
            self.until(lambda: all("eof" in end.events for end in self.ends))
            assert self.all_came()
            assert not any(end.gone for end in self.ends)
        for end in self.ends:
            end.act("close", 0)
            # What waits for a peer that never reads again is given up.
            if isinstance(end, LoopEnd) and "lost" not in end.events:
                self.turns(2)
                if end.transport.get_write_buffer_size():
                    end.transport.abort()
        loops = [end for end in self.ends if isinstance(end, LoopEnd)]
        self.until(lambda: all("lost" in end.events for end in loops))
        assert all(isinstance(end.error, OSError | None) for end in loops)
        self.loop.close()


def test_transports(loop_kind: str) -> None:
    hammer(TransportMachine, loop_kind, steps=50)
