"""Datagrams in and out: addresses, flow control, errors, order."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from dgramlib import (
    EMPTY_IS_SENT,
    HEADER,
    LOST,
    Dgrams,
    drain,
    endpoint,
    finish,
    full,
    name_of,
    needs_ipv6,
    udp,
    unix_pair,
)


def test_echo(run: Any) -> None:
    class Echo(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(data, addr)

    async def main() -> None:
        a, pa = await endpoint(Echo())
        b, pb = await endpoint(remote_addr=name_of(a))
        c, pc = await endpoint()
        for i in range(50):
            b.sendto(b"b%d" % i)
            c.sendto(b"c%d" % i, name_of(a))
        assert await pb.until_got(50) == [b"b%d" % i for i in range(50)]
        assert await pc.until_got(50) == [b"c%d" % i for i in range(50)]
        assert {addr for _, addr in pb.got + pc.got} == {name_of(a)}
        assert all(type(data) is bytes and type(addr) is tuple for data, addr in pa.got)
        await finish(a, b, c)

    run(main())


@pytest.mark.parametrize("connected", [False, True])
def test_what_can_be_sent(run: Any, connected: bool) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        if connected:
            b, _ = await endpoint(remote_addr=name_of(a))
            to: tuple[Any, ...] = ()
        else:
            b, _ = await endpoint()
            to = (name_of(a),)
        wide = memoryview(bytes(range(8))).cast("H")
        for data in (b"1", bytearray(b"2"), memoryview(b"3"), memoryview(b"x4y")[1:2], wide):
            b.sendto(data, *to)
        b.sendto(addr=name_of(a), data=b"6")
        big = bytes(60000)
        b.sendto(big, *to)
        got = await pa.until_got(7)
        assert got == [b"1", b"2", b"3", b"4", bytes(range(8)), b"6", big]
        b.sendto(b"", *to)
        b.sendto(bytearray(), *to)
        b.sendto(b"last", *to)
        got = await pa.until_got(10 if EMPTY_IS_SENT else 8)
        assert got[7:] == ([b"", b""] if EMPTY_IS_SENT else []) + [b"last"]
        for wrong in ("text", None, 1, [1], (b"a",)):
            with pytest.raises(TypeError) as caught:
                b.sendto(wrong, *to)
            name = type(wrong).__name__
            assert str(caught.value) == (f"data argument must be a bytes-like object, not {name!r}")
        for args, kwargs in (((), {}), ((b"", None, 1), {}), ((b"",), {"to": 1})):
            with pytest.raises(TypeError):
                b.sendto(*args, **kwargs)
        with pytest.raises(TypeError):
            b.sendto(b"", data=b"")
        await finish(a, b)

    run(main())


def test_addresses_of_every_kind(run: Any) -> None:
    """What socket.sendto() takes is taken, names included, and refused as there."""

    class Str(str):
        pass

    class Int(int):
        pass

    async def main() -> None:
        a, pa = await endpoint()
        port = name_of(a)[1]
        b, pb = await endpoint()
        targets = [
            ("127.0.0.1", port),
            ("localhost", port),
            (Str("127.0.0.1"), Int(port)),
            (b"127.0.0.1", port),
            (bytearray(b"127.0.0.1"), port),
        ]
        for i, target in enumerate(targets):
            b.sendto(b"%d" % i, target)
        assert await pa.until_got(len(targets)) == [b"%d" % i for i in range(len(targets))]
        assert not pb.errors
        b.sendto(b"x", ("name.invalid", port))
        assert isinstance(pb.errors.pop(), socket.gaierror)
        await finish(a, b)

    run(main())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (None, TypeError),
        (("127.0.0.1", 70000), OverflowError),
        (("127.0.0.1", -1), OverflowError),
        (("127.0.0.1", "80"), TypeError),
        (["127.0.0.1", 80], TypeError),
        (("127.0.0.1", 80, 0, 0), TypeError),
        (("127.0.0.1\0", 80), TypeError),
        ("127.0.0.1", TypeError),
    ],
    ids=repr,
)
def test_bad_address_is_fatal(run: Any, handled: Any, target: Any, kind: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        a.sendto(b"x", target)
        assert a.is_closing()
        assert pa.events == ["made"]
        await asyncio.sleep(0)
        assert pa.events == ["made", ("lost", kind.__name__)]
        [context] = handled
        assert context["message"] == "Fatal write error on datagram transport"
        assert type(context["exception"]) is kind
        assert context["transport"] is a
        assert context["protocol"] is pa

    run(main())


def test_buffer_that_is_not_contiguous(run: Any, handled: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        a.sendto(memoryview(b"abcdef")[::2], name_of(a))
        await pa.until_event(("lost", "BufferError"))
        assert [c["message"] for c in handled] == ["Fatal write error on datagram transport"]

    run(main())


def test_remote_address_mismatch(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        b, pb = await endpoint(remote_addr=name_of(a))
        b.sendto(b"1", None)
        b.sendto(b"2", name_of(a))
        b.sendto(b"3", ("127.0.0.1", name_of(a)[1]))
        for foreign in (("127.0.0.1", 1), ("127.0.0.2", name_of(a)[1]), ("localhost", 1), "x", ()):
            with pytest.raises(ValueError) as caught:
                b.sendto(b"x", foreign)
            assert str(caught.value) == f"Invalid address: must be None or {name_of(a)}"
        with pytest.raises(TypeError):  # the data is looked at first
            b.sendto("x", ("127.0.0.1", 1))
        b.close()
        with pytest.raises(ValueError):
            b.sendto(b"x", ("127.0.0.1", 1))
        assert await pa.until_got(3) == [b"1", b"2", b"3"]
        await pb.until_event(LOST)
        await finish(a)

    run(main())


# ---- errors ----


def test_refused(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        b, pb = await endpoint(remote_addr=name_of(a))
        address = name_of(a)
        b.sendto(b"1")
        await pa.until_got(1)
        await finish(a)
        b.sendto(b"2")
        await pb.until_event("error")
        assert type(pb.errors[0]) is ConnectionRefusedError
        again, p = await endpoint(local_addr=address)
        b.sendto(b"3")
        assert await p.until_got(1) == [b"3"]
        again.sendto(b"4", p.got[0][1])
        assert await pb.until_got(1) == [b"4"]
        assert not b.is_closing()
        await finish(again, b)

    run(main())


def test_oversized(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        b, pb = await endpoint(remote_addr=name_of(a))
        b.sendto(bytes(70000))
        a.sendto(bytes(70000), name_of(a))
        for p in (pa, pb):
            assert [e.errno for e in p.errors] == [90]  # type: ignore[attr-defined]
        b.sendto(b"still there")
        assert await pa.until_got(1) == [b"still there"]
        await finish(a, b)

    run(main())


def test_watcher_survives_refusal(run: Any) -> None:
    """A refusal takes no add_reader() watcher away either."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gone = udp()
        address = gone.getsockname()
        gone.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(address)
            seen: asyncio.Queue[Any] = asyncio.Queue()

            def ready() -> None:
                try:
                    seen.put_nowait(sock.recv(100))
                except OSError as exc:
                    seen.put_nowait(type(exc))

            loop.add_reader(sock, ready)
            sock.send(b"x")
            assert await seen.get() is ConnectionRefusedError
            a, _ = await endpoint(local_addr=address)
            a.sendto(b"later", sock.getsockname())
            assert await seen.get() == b"later"
            loop.remove_reader(sock)
            await finish(a)

    run(main())


def test_error_received_raises(run: Any, handled: Any) -> None:
    class Bad(Dgrams):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise ZeroDivisionError

    async def main() -> None:
        gone, _ = await endpoint()
        b, pb = await endpoint(Bad(), remote_addr=name_of(gone))
        with pytest.raises(ZeroDivisionError):
            b.sendto(bytes(70000))
        assert handled == []
        await finish(gone)
        b.sendto(b"x")
        await pb.until(lambda: len(pb.errors) == 2)
        await asyncio.sleep(0)
        [context] = handled
        assert context["message"].startswith("Exception in callback ")
        assert "DatagramTransport._read_ready()" in context["message"]
        assert isinstance(context["exception"], ZeroDivisionError)
        assert not b.is_closing()
        await finish(b)

    run(main())


def test_datagram_received_raises(run: Any, handled: Any) -> None:
    class Bad(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ZeroDivisionError

    async def main() -> None:
        a, pa = await endpoint(Bad())
        b, _ = await endpoint(remote_addr=name_of(a))
        for data in (b"1", b"bad", b"2"):
            b.sendto(data)
        assert await pa.until_got(3) == [b"1", b"bad", b"2"]
        assert len(handled) == 1
        assert isinstance(handled[0]["exception"], ZeroDivisionError)
        assert not a.is_closing()
        await finish(a, b)

    run(main())


def test_keyboard_interrupt_leaves_the_run(anyloop: Any) -> None:
    class Bad(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            raise KeyboardInterrupt

    async def main() -> Any:
        a, _ = await endpoint(Bad())
        return a

    a = anyloop.run_until_complete(main())
    a.sendto(b"x", name_of(a))
    with pytest.raises(KeyboardInterrupt):
        anyloop.run_forever()
    assert not a.is_closing()
    anyloop.run_until_complete(finish(a))


# ---- flow control ----


@pytest.fixture
def flowrun(anyloop: Any) -> Any:
    """As `run`, for what stock asyncio 3.13 cannot do."""
    if sys.version_info[:2] == (3, 13) and isinstance(anyloop, asyncio.SelectorEventLoop):
        pytest.skip("stock asyncio 3.13 counts a datagram's header when it comes, not when it goes")
    return anyloop.run_until_complete


def test_queue_and_flow_control(flowrun: Any, tmp_path: Path) -> None:
    async def main() -> None:
        t, p, far, sent = await full(str(tmp_path / "far"))
        assert t.get_write_buffer_limits() == (16384, 65536)
        assert t.get_write_buffer_size() == 6 + HEADER
        assert p.events == ["made"]
        data = bytearray(b"mutable")
        t.sendto(data)
        data[:] = b"changed"
        view = memoryview(bytearray(b"viewed"))
        t.sendto(view)
        view[:] = b"hidden"
        t.sendto(memoryview(b"a-b-c")[::2])  # while something waits, any view will do
        assert t.get_write_buffer_size() == 6 + 7 + 6 + 3 + 4 * HEADER
        t.set_write_buffer_limits(high=30 + 5 * HEADER, low=8 + HEADER)
        assert p.events == ["made"]
        t.sendto(b"12345678")
        assert p.events == ["made"]  # 30 is not more than the mark
        t.sendto(b"9")
        assert p.events == ["made", "pause"]
        t.sendto(b"0")
        expected = [b"%06d" % i for i in range(sent)]
        expected += [b"mutable", b"viewed", b"abc", b"12345678", b"9", b"0"]
        got: list[bytes] = []
        while len(got) < len(expected):
            got += drain(far)
            await asyncio.sleep(0)
        assert got == expected
        await p.until_event("resume")
        assert p.events == ["made", "pause", "resume"]
        assert t.get_write_buffer_size() == 0
        t.set_write_buffer_limits(low=10)
        assert t.get_write_buffer_limits() == (10, 40)
        for high, low in ((5, 10), (-1, None), (0, -1)):
            with pytest.raises(ValueError):
                t.set_write_buffer_limits(high=high, low=low)
        await finish(t)
        far.close()

    flowrun(main())


def test_pause_at_once_when_limits_shrink(flowrun: Any, tmp_path: Path) -> None:
    async def main() -> None:
        t, p, far, _ = await full(str(tmp_path / "far"))
        t.set_write_buffer_limits(high=0)
        assert p.events == ["made", "pause"]
        drain(far)
        await p.until_event("resume")
        await finish(t)
        far.close()

    flowrun(main())


def test_flow_callbacks_that_raise(flowrun: Any, handled: Any, tmp_path: Path) -> None:
    class Bad(Dgrams):
        def pause_writing(self) -> None:
            super().pause_writing()
            raise ZeroDivisionError

        def resume_writing(self) -> None:
            super().resume_writing()
            raise ZeroDivisionError

    async def main() -> None:
        t, _, far, _ = await full(str(tmp_path / "far"))
        p = Bad()
        t.set_protocol(p)
        assert t.get_protocol() is p
        t.set_write_buffer_limits(high=0)
        drain(far)
        await p.until_event("resume")
        assert [c["message"] for c in handled] == [
            "protocol.pause_writing() failed",
            "protocol.resume_writing() failed",
        ]
        assert all(c["transport"] is t and c["protocol"] is p for c in handled)
        await finish(t)
        far.close()

    flowrun(main())


def test_error_while_the_queue_is_sent(flowrun: Any, tmp_path: Path) -> None:
    async def main() -> None:
        t, p, far, _ = await full(str(tmp_path / "far"))
        t.sendto(b"second")
        far.close()
        await p.until(lambda: len(p.errors) == 2)
        assert type(p.errors[0]) is ConnectionRefusedError  # the second: not connected any more
        assert t.get_write_buffer_size() == 0
        assert not t.is_closing()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await finish(t)
        assert p.events == ["made", "error", "error", LOST]

    flowrun(main())


def test_abort_right_after_an_error(hotrun: Any, tmp_path: Path) -> None:
    # stock asyncio still has its writer, which calls connection_lost() a second time
    async def main() -> None:
        t, p, far, _ = await full(str(tmp_path / "far"))
        far.close()
        await p.until_event("error")
        await finish(t)
        await asyncio.sleep(0)
        assert p.events == ["made", "error", LOST]

    hotrun(main())


def test_writes_from_resume_writing(flowrun: Any, tmp_path: Path) -> None:
    class More(Dgrams):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.sendto(b"more")

    async def main() -> None:
        t, _, far, sent = await full(str(tmp_path / "far"))
        p = More()
        p.transport = t
        t.set_protocol(p)
        t.set_write_buffer_limits(high=0)
        got = drain(far)
        await p.until_event("resume")
        while got[-1] != b"more":
            got += drain(far)
            await asyncio.sleep(0)
        assert got == [b"%06d" % i for i in range(sent)] + [b"more"]
        await finish(t)
        far.close()

    flowrun(main())


def test_close_sends_what_waits(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        t, p, far, sent = await full(str(tmp_path / "far"))
        t.close()
        t.sendto(b"also")  # as asyncio: taken while the queue is not empty
        await asyncio.sleep(0)
        assert t.is_closing()
        assert p.events == ["made"]
        got = []
        while LOST not in p.events:
            got += drain(far)
            await asyncio.sleep(0)
        got += drain(far)
        assert got == [b"%06d" % i for i in range(sent)] + [b"also"]
        far.close()

    run(main())


def test_abort_drops_what_waits(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        t, p, far, sent = await full(str(tmp_path / "far"))
        t.abort()
        assert p.events == ["made"]
        await asyncio.sleep(0)
        assert p.events == ["made", LOST]
        assert len(drain(far)) == sent - 1
        far.close()

    run(main())


# ---- reading ----


def test_pause_reading(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        assert a.is_reading()
        a.pause_reading()
        a.pause_reading()
        assert not a.is_reading()
        for i in range(5):
            a.sendto(b"%d" % i, name_of(a))
        for _ in range(5):
            await asyncio.sleep(0)
        assert pa.got == []
        a.resume_reading()
        a.resume_reading()
        assert await pa.until_got(5) == [b"%d" % i for i in range(5)]
        await finish(a)
        assert not a.is_reading()
        a.pause_reading()
        a.resume_reading()

    run(main())


@pytest.mark.parametrize("how", ["pause_reading", "close", "abort"])
def test_nothing_after(run: Any, how: str) -> None:
    """Not even what the same wake-up could have delivered."""

    class Stop(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"stop":
                getattr(self.transport, how)()

    async def main() -> None:
        a, pa = await endpoint(Stop())
        b, _ = await endpoint(remote_addr=name_of(a))
        for _ in range(40):  # now bursts are expected
            b.sendto(b"x")
        await pa.until_got(40)
        for data in (b"1", b"2", b"stop", b"3", b"4"):
            b.sendto(data)
        got = await pa.until_got(43)
        for _ in range(5):
            await asyncio.sleep(0)
        assert got[40:] == [b"1", b"2", b"stop"]
        assert len(pa.got) == 43
        if how == "pause_reading":
            a.resume_reading()
            assert (await pa.until_got(45))[43:] == [b"3", b"4"]
            a.close()
        await pa.until_event(LOST)
        await finish(b)

    run(main())


def test_a_turn_between_two_datagrams_is_seen_by_nobody(run: Any) -> None:
    """What datagram_received() schedules runs before the next one is delivered."""

    class Schedules(Dgrams):
        later = True

        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if self.later:
                asyncio.get_running_loop().call_soon(self.note, data)

    async def main() -> None:
        a, pa = await endpoint(Schedules())
        b, _ = await endpoint(remote_addr=name_of(a))
        pa.later = False
        for _ in range(60):
            b.sendto(b"x")
        await pa.until_got(60)
        pa.later = True
        del pa.events[:]
        data = [b"%d" % i for i in range(40)]
        for one in data:
            b.sendto(one)
        await pa.until(lambda: data[-1] in pa.events)
        assert pa.events == [event for one in data for event in ("datagram", one)]
        await finish(a, b)

    run(main())


def test_one_future_per_datagram(run: Any) -> None:
    """A task that waits for each datagram by a future gets each of them."""

    class One(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.future.set_result(data)

        future: Any

    async def main() -> None:
        loop = asyncio.get_running_loop()
        p = One()
        p.future = loop.create_future()
        a, _ = await endpoint(p)
        for i in range(100):
            a.sendto(b"%d" % i, name_of(a))
        for i in range(100):
            assert await p.future == b"%d" % i
            p.future = loop.create_future()
        await finish(a)

    run(main())


def test_stop_between_datagrams(anyloop: Any) -> None:
    class Stops(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"stop":
                anyloop.stop()

    async def main() -> Any:
        a, pa = await endpoint(Stops())
        for _ in range(40):
            a.sendto(b"x", name_of(a))
        await pa.until_got(40)
        for data in (b"1", b"stop", b"2"):
            a.sendto(data, name_of(a))
        return a, pa

    a, pa = anyloop.run_until_complete(main())
    anyloop.run_forever()
    assert [data for data, _ in pa.got[40:]] == [b"1", b"stop"]
    anyloop.run_until_complete(pa.until_got(43))
    anyloop.run_until_complete(finish(a))


def test_a_flood_starves_nobody(run: Any) -> None:
    """A socket that is never empty lets callbacks, timers and other sockets have their turns."""

    class Again(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if len(self.got) < 5000:
                self.transport.sendto(data, addr)  # to itself: there is always one

    async def main() -> None:
        loop = asyncio.get_running_loop()
        a, pa = await endpoint(Again())
        b, pb = await endpoint()
        for _ in range(3):
            a.sendto(b"x", name_of(a))
        await pa.until_got(200)
        timer = loop.create_future()
        loop.call_later(0, timer.set_result, None)
        at = len(pa.got)
        await timer
        assert len(pa.got) - at < 100
        b.sendto(b"y", name_of(b))
        at = len(pa.got)
        await pb.until_got(1)
        assert len(pa.got) - at < 200
        await pa.until_got(5000)
        await finish(a, b)

    run(main())


# ---- contexts ----


def test_contexts(flowrun: Any, tmp_path: Path) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    class InContext(Dgrams):
        def note(self, event: Any) -> None:
            super().note((event, var.get()))
            if event == "datagram":
                var.set("kept")

    async def main() -> None:
        var.set("made")
        a, pa = await endpoint(InContext())
        var.set("main")
        a.sendto(b"1", name_of(a))
        a.sendto(b"2", name_of(a))
        await pa.until_got(2)
        assert pa.events == [("made", "made"), ("datagram", "made"), ("datagram", "kept")]
        a.pause_reading()
        var.set("resumed")
        a.resume_reading()
        var.set("closed")
        a.sendto(b"3", name_of(a))
        await pa.until_got(3)
        a.close()
        await pa.until_event((LOST, "closed"))
        assert pa.events[3:] == [("datagram", "resumed"), (LOST, "closed")]

        t, _, far, _ = await full(str(tmp_path / "far"))
        p = InContext()
        t.set_protocol(p)
        t.set_write_buffer_limits(high=0)
        drain(far)
        await p.until_event(("resume", "closed"))
        await finish(t)
        far.close()

    flowrun(main())


# ---- other sockets ----


def test_socket_pair(hotrun: Any) -> None:
    # stock asyncio cannot send on one: its peer's name is empty
    async def main() -> None:
        near, far = unix_pair()
        t, p = await endpoint(sock=near)
        assert (name_of(t), t.get_extra_info("peername")) == ("", "")
        t.sendto(b"there")
        assert far.recv(100) == b"there"
        far.send(b"back")
        assert await p.until_got(1) == [b"back"]
        assert p.got == [(b"back", None)]
        await finish(t)
        far.close()

    hotrun(main())


def test_socket_class_with_methods_of_its_own(run: Any) -> None:
    class Counting(socket.socket):
        calls: list[str]

        def recvfrom(self, *args: Any) -> Any:
            self.calls.append("recvfrom")
            data, addr = super().recvfrom(*args)
            return data.upper(), addr

        def sendto(self, *args: Any) -> Any:
            self.calls.append("sendto")
            return super().sendto(*args)

        def send(self, *args: Any) -> Any:
            self.calls.append("send")
            return super().send(*args)

    async def main() -> None:
        sock = Counting(socket.AF_INET, socket.SOCK_DGRAM)
        sock.calls = []
        sock.bind(("127.0.0.1", 0))
        t, p = await endpoint(sock=sock)
        t.sendto(b"x", name_of(t))
        assert await p.until_got(1) == [b"X"]
        assert sock.calls[:2] == ["sendto", "recvfrom"]
        await finish(t)

        sock = Counting(socket.AF_INET, socket.SOCK_DGRAM)
        sock.calls = []
        with udp() as far:
            sock.connect(far.getsockname())
            t, p = await endpoint(sock=sock)
            t.sendto(b"y")
            assert far.recv(10) == b"y"
            assert sock.calls == ["send"]
            await finish(t)

    run(main())


def test_recvfrom_that_fails(run: Any, handled: Any) -> None:
    class Failing(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            super().recvfrom(*args)
            raise ZeroDivisionError

    async def main() -> None:
        sock = Failing(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        t, p = await endpoint(sock=sock)
        t.sendto(b"x", name_of(t))
        await p.until_event(("lost", "ZeroDivisionError"))
        assert [c["message"] for c in handled] == ["Fatal read error on datagram transport"]

    run(main())


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "0:0:0:0:0:0:0:1", "::0.0.0.1"])
def test_a_sender_is_named_as_by_recvfrom(run: Any, host: str) -> None:
    """However the same address was written when something was sent to it."""

    async def main() -> None:
        transport, protocol = await endpoint(local_addr=("::1", 0))
        other, answers = await endpoint(local_addr=("::1", 0))
        port, back = name_of(other)[1], name_of(transport)[1]
        for address in [(host, port), (host, port, 0), (host, port, 0, 0)]:
            protocol.got.clear()
            transport.sendto(b"there", address)
            await answers.until_got(1)
            answers.got.clear()
            other.sendto(b"back", (host, back))
            await protocol.until_got(1)
            assert protocol.got == [(b"back", ("::1", port, 0, 0))]
        await finish(transport, other)

    run(main())
