"""A datagram endpoint's beginning and end, and what it tells of itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import warnings
import weakref
from typing import Any

import pytest
from dgramlib import LOST, Dgrams, endpoint, finish, name_of, udp


def test_what_it_is(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        assert isinstance(a, asyncio.DatagramTransport)
        assert isinstance(a, asyncio.Transport)  # as asyncio's
        assert a.get_protocol() is pa
        sock = a.get_extra_info("socket")
        assert type(sock) is asyncio.trsock.TransportSocket
        assert sock.getsockname() == name_of(a)
        assert a.get_extra_info("peername") is None
        assert a.get_extra_info("other") is None
        assert a.get_extra_info("other", 5) == 5
        b, _ = await endpoint(remote_addr=name_of(a))
        assert b.get_extra_info("peername") == name_of(a)
        assert name_of(b)[0] == "127.0.0.1"
        for method in (a.write_eof, a.can_write_eof):
            with pytest.raises(NotImplementedError):
                method()
        with pytest.raises(NotImplementedError):
            a.write(b"")
        a.note = "of the user"
        assert a.note == "of the user"
        a.sendto = print  # may be replaced on the instance
        assert vars(a)["note"] == "of the user"
        assert weakref.ref(a)() is a
        assert a.max_size == 256 * 1024
        await finish(a, b)

    run(main())


def test_repr(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        shown = repr(a).replace("_SelectorDatagramTransport", "DatagramTransport")
        fd = a.get_extra_info("socket").fileno()
        assert shown == f"<DatagramTransport fd={fd} read=polling write=<idle, bufsize=0>>"
        a.close()
        shown = repr(a).replace("_SelectorDatagramTransport", "DatagramTransport")
        assert shown == f"<DatagramTransport closing fd={fd} read=idle write=<idle, bufsize=0>>"
        await pa.until_event(LOST)
        shown = repr(a).replace("_SelectorDatagramTransport", "DatagramTransport")
        assert shown == f"<DatagramTransport closed fd={fd}>"

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_close(run: Any, how: str) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        sock = a.get_extra_info("socket")
        getattr(a, how)()
        assert a.is_closing()
        assert pa.events == ["made"]
        assert sock.fileno() != -1
        a.sendto(b"to itself", name_of(a))  # sent, as asyncio does, and never delivered
        a.close()
        a.abort()
        await asyncio.sleep(0)
        assert pa.events == ["made", LOST]
        assert sock.fileno() == -1
        for method in (a.close, a.abort, a.pause_reading, a.resume_reading):
            method()
        assert a.get_write_buffer_size() == 0
        assert a.is_closing()
        assert a.get_protocol() is None
        assert name_of(a)[0] == "127.0.0.1"
        await asyncio.sleep(0)
        assert pa.events == ["made", LOST]

    run(main())


def test_sendto_when_it_is_over(hotrun: Any, caplog: pytest.LogCaptureFixture) -> None:
    # stock asyncio: an AttributeError of its own, but for endpoints with a remote address
    async def main() -> None:
        a, pa = await endpoint()
        b, pb = await endpoint(remote_addr=name_of(a))
        await finish(a, b)
        with caplog.at_level(logging.WARNING, "asyncio"):
            for t, to in ((a, name_of(b)), (b, None)):
                for _ in range(7):
                    t.sendto(b"x", to)
        assert [r.getMessage() for r in caplog.records] == ["socket.send() raised exception."] * 6
        assert pa.events == pb.events == ["made", LOST]

    hotrun(main())


def test_sendto_of_a_lost_remote(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        a, _ = await endpoint()
        b, _ = await endpoint(remote_addr=name_of(a))
        b.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(7):
                b.sendto(b"x")
        assert [r.getMessage() for r in caplog.records] == ["socket.send() raised exception."] * 3
        await finish(a)

    run(main())


def test_nothing_before_connection_made(run: Any) -> None:
    async def main() -> None:
        with udp() as early, udp() as near:
            early.sendto(b"early", near.getsockname())
            p = Dgrams()
            t, _ = await endpoint(p, sock=near.dup())
            await p.until_got(1)
            assert p.events == ["made", "datagram"]
            await finish(t)

    run(main())


def test_closed_in_connection_made(run: Any) -> None:
    class Closes(Dgrams):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.close()

    async def main() -> None:
        with udp() as near:
            near.sendto(b"x", near.getsockname())
            _, p = await endpoint(Closes(), sock=near.dup())
            await p.until_event(LOST)
            assert p.events == ["made", LOST]

    run(main())


def test_protocol_that_raises_everywhere(run: Any, handled: Any) -> None:
    class Bad(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def fail(self, name: str) -> None:
            self.calls.append(name)
            raise ZeroDivisionError(name)

        def connection_made(self, transport: Any) -> None:
            self.fail("made")

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.fail("datagram")

        def error_received(self, exc: Exception) -> None:
            self.fail("error")

        def connection_lost(self, exc: BaseException | None) -> None:
            self.fail("lost")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        p = Bad()
        t, _ = await endpoint(p)
        t.sendto(b"x", name_of(t))
        while "datagram" not in p.calls:
            await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            t.sendto(bytes(70000), name_of(t))
        sock = t.get_extra_info("socket")
        t.close()
        while "lost" not in p.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert p.calls == ["made", "datagram", "error", "lost"]
        assert [str(c["exception"]) for c in handled] == ["made", "datagram", "lost"]
        assert all(c["message"].startswith("Exception in callback ") for c in handled)
        assert sock.fileno() == -1
        assert not loop.is_closed()

    run(main())


def test_unclosed(run: Any) -> None:
    async def main() -> None:
        t, p = await endpoint()
        shown, fd = repr(t), t.get_extra_info("socket").fileno()
        p.transport = None
        t.pause_reading()  # else the loop keeps it
        idle = repr(t)
        assert shown != idle
        ref = weakref.ref(t)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop = asyncio.get_running_loop()
            getattr(loop, "_transports", {}).clear()
            del t, loop
            gc.collect()
        assert [str(w.message) for w in caught] == [f"unclosed transport {idle}"]
        assert caught[0].category is ResourceWarning
        del caught[:]  # the warning refers to the transport
        gc.collect()
        assert ref() is None
        with pytest.raises(OSError):
            socket.socket(fileno=fd)
        assert p.events == ["made"]

    run(main())


def test_cycle_is_collected(run: Any) -> None:
    async def main() -> Any:
        t, p = await endpoint()
        t.self = t
        p.kept = [t, p]
        await finish(t)
        return weakref.ref(t), weakref.ref(p)

    refs = run(main())
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_loop_closed_under_it(factory_of_loops: Any, loop_kind: str) -> None:
    import hotloop

    kind = loop_kind.removeprefix("hotloop-")
    loop = factory_of_loops(
        asyncio.SelectorEventLoop
        if kind == "asyncio"
        else lambda: hotloop.new_event_loop(backend=kind)
    )
    t, p = loop.run_until_complete(endpoint())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        t.close()
    assert t.is_closing()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        p.transport = None
        del t
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]


def test_socket_closed_behind_its_back(run: Any) -> None:
    async def main() -> None:
        with udp() as near:
            sock = near.dup()
        t, p = await endpoint(sock=sock)
        sock.close()
        with udp() as other:  # very likely under the same number
            t.sendto(b"x", other.getsockname())
            assert isinstance(p.errors[0], OSError)
            t.abort()
            await p.until_event(LOST)
            assert other.getsockname()[0] == "127.0.0.1"

    run(main())


def test_new_protocol(run: Any) -> None:
    async def main() -> None:
        a, pa = await endpoint()
        p = Dgrams()
        a.set_protocol(p)
        a.sendto(b"x", name_of(a))
        await p.until_got(1)
        assert pa.events == ["made"]
        a.close()
        await p.until_event(LOST)

    run(main())
