"""TLS and what lies around it: contexts, debug mode, sendfile, the descriptor, memory."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import sys
import weakref
from typing import Any

import pytest
from netlib import Recorder, tcp_pair
from tlslib import NAME, Certs, Echo, arrived, fill, greet, link, pair, started

ONE_CONTEXT = sys.version_info >= (3, 15)
VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="none")


class InContext(Recorder):
    """Notes what the variable is in each callback."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}

    def note(self, name: str, *what: Any) -> None:
        self.seen.setdefault(name, set()).add(VAR.get())
        super().note(name, *what)


# ---- contexts ----


@pytest.mark.parametrize("server_side", [False, True])
def test_callbacks_run_in_the_context_of_the_connect(
    run: Any, certs: Certs, server_side: bool
) -> None:
    """From 3.15 on a transport has one context for life; before, a watch has that of its setter."""
    resuming = "connecting" if ONE_CONTEXT else "main"

    async def main() -> None:
        VAR.set("main")

        async def connect() -> Any:
            VAR.set("connecting")
            return await link(certs, InContext(), server_side)

        one = await asyncio.create_task(connect())
        one.transport.set_write_buffer_limits(high=1)
        await one.peer.write(b"data")
        await one.protocol.until("data")
        total = 0
        while "pause" not in one.protocol.events:
            one.transport.write(bytes(65536))
            total += 65536
        await one.peer.read(total)
        await one.protocol.until("resume")
        await one.peer.notify()
        await one.lost()
        one.peer.sock.close()
        seen = one.protocol.seen
        assert set(seen) == {"made", "data", "pause", "resume", "eof", "lost"}
        assert (seen.pop("pause"), seen.pop("resume")) == ({"main"}, {resuming})
        assert set.union(*seen.values()) == {"connecting"}

    run(main())


def test_callbacks_of_a_servers_connections(run: Any, certs: Certs) -> None:
    found: list[InContext] = []

    def make() -> InContext:
        found.append(InContext())
        return found[-1]

    async def main() -> None:
        VAR.set("serving")
        server, port = await started(certs, make)
        VAR.set("later")
        async with server:
            client = Recorder()
            await asyncio.get_running_loop().create_connection(
                lambda: client, "127.0.0.1", port, ssl=certs.client_context()
            )
            client.transport.write(b"data")
            await client.until("made")
            while not found:
                await asyncio.sleep(0)
            await found[0].until("data")
            client.transport.close()
            await client.until("lost")
            await found[0].until("lost")
            assert set.union(*found[0].seen.values()) == {"serving"}

    run(main())


def test_resume_reading_keeps_the_context_it_is_called_in(run: Any, certs: Certs) -> None:
    """What waited comes by a call_soon() of resume_reading()."""

    async def main() -> None:
        VAR.set("connecting")
        one = await link(certs, InContext())
        one.transport.pause_reading()
        await one.peer.write(b"waits")
        await arrived(one.transport)
        VAR.set("resuming")
        one.transport.resume_reading()
        await one.protocol.until("data")
        assert one.protocol.seen["data"] == {"resuming"}
        await one.finish()

    run(main())


# ---- debug mode ----


def messages(caplog: Any, *parts: str) -> list[str]:
    texts = [one.getMessage() for one in caplog.records if one.levelname == "DEBUG"]
    return [text for text in texts if any(part in text for part in parts)]


def test_debug_log_of_a_connection(run: Any, anyloop: Any, certs: Certs, caplog: Any) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 60.0

    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(b"data")
        await ends.server.until_data(4)
        await ends.close()

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        run(main())
    assert len(messages(caplog, "starts SSL handshake")) == 2
    took = messages(caplog, "SSL handshake took")
    assert len(took) == 2
    assert all(text.endswith(" ms") for text in took)


def test_debug_log_of_an_eof(run: Any, anyloop: Any, certs: Certs, caplog: Any) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 60.0

    async def main() -> None:
        one = await link(certs)
        one.peer.sock.close()
        await one.lost()

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        run(main())
    assert [t for t in messages(caplog, "received EOF") if t.endswith("received EOF")]


def test_nothing_is_logged_without_debug(run: Any, certs: Certs, caplog: Any) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(b"data")
        await ends.server.until_data(4)
        await ends.close()

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        run(main())
    assert messages(caplog, "SSL", "EOF") == []


def test_data_in_debug_mode(run: Any, anyloop: Any, certs: Certs) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 60.0

    async def main() -> None:
        ends = await pair(certs, server=Echo())
        ends.client.transport.write(bytes(200_000))
        await ends.client.until_data(200_000)
        await ends.close()

    run(main())


# ---- sendfile ----


@pytest.mark.parametrize(("offset", "count"), [(0, None), (0, 100_000), (12_345, None), (5, 1)])
def test_sendfile(run: Any, certs: Certs, tmp_path: Any, offset: int, count: Any) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "data"
    path.write_bytes(data)
    expected = data[offset:] if count is None else data[offset : offset + count]

    async def main() -> None:
        ends = await pair(certs)
        loop = asyncio.get_running_loop()
        ends.client.transport.write(b"head")
        with path.open("rb") as file:
            sent = await loop.sendfile(ends.client.transport, file, offset, count)
            assert sent == len(expected)
        ends.client.transport.write(b"tail")
        whole = b"head" + expected + b"tail"
        await ends.server.until_data(len(whole))
        assert ends.server.data == whole
        ends.server.transport.write(b"the protocol is back")
        await ends.client.until_data(20)
        await ends.close()

    run(main())


def test_sendfile_to_a_slow_reader(run: Any, certs: Certs, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(6_000_000))

    async def main() -> None:
        one = await link(certs)
        loop = asyncio.get_running_loop()
        with path.open("rb") as file:
            sending = asyncio.create_task(loop.sendfile(one.transport, file))
            for _ in range(50):
                await asyncio.sleep(0)
            got = await one.peer.read(6_000_000)
            assert await sending == 6_000_000
        assert got == bytes(6_000_000)
        await one.finish()

    run(main())


def test_sendfile_without_fallback(run: Any, certs: Certs, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"data")

    async def main() -> None:
        ends = await pair(certs)
        with path.open("rb") as file:
            with pytest.raises(RuntimeError, match="fallback is disabled"):
                await asyncio.get_running_loop().sendfile(
                    ends.client.transport, file, fallback=False
                )
        await ends.close()

    run(main())


def test_sendfile_on_a_closing_transport(run: Any, certs: Certs, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"data")

    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.close()
        with path.open("rb") as file:
            with pytest.raises(RuntimeError, match="Transport is closing"):
                await asyncio.get_running_loop().sendfile(ends.client.transport, file)
        await ends.close()

    run(main())


# ---- the descriptor is the transport's ----


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_descriptor_cannot_be_watched(run: Any, certs: Certs, method: str) -> None:
    async def main() -> None:
        ends = await pair(certs)
        loop = asyncio.get_running_loop()
        fd = ends.client.transport.get_extra_info("socket").fileno()
        with pytest.raises(RuntimeError, match="is used by transport"):
            getattr(loop, method)(fd, print)
        await ends.close()

    run(main())


@pytest.mark.parametrize("method", ["remove_reader", "remove_writer"])
def test_watch_cannot_be_removed(run: Any, certs: Certs, method: str) -> None:
    async def main() -> None:
        ends = await pair(certs)
        loop = asyncio.get_running_loop()
        fd = ends.client.transport.get_extra_info("socket").fileno()
        with pytest.raises(RuntimeError, match="is used by transport"):
            getattr(loop, method)(fd)
        await ends.close()

    run(main())


def test_descriptor_in_the_middle_of_the_handshake(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        task = loop.create_task(
            loop.create_connection(
                Recorder, sock=near, ssl=certs.client_context(), server_hostname=NAME
            )
        )
        await loop.sock_recv(far, 10_000)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(near.fileno(), print)
        far.close()
        with pytest.raises(ConnectionResetError):
            await task

    run(main())


def test_descriptor_is_free_after_the_end(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        sock = ends.client.transport.get_extra_info("socket")
        fd = sock.fileno()
        await ends.abort()
        await asyncio.sleep(0)
        assert sock.fileno() == -1
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main())


# ---- memory ----


def test_freed_after_close(run: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server = certs.client_context(), certs.server_context()
        ends = await pair(certs, client_context=client, server_context=server)
        ends.client.transport.write(b"data")
        await ends.server.until_data(4)
        await ends.close()
        await asyncio.sleep(0)
        found = {
            "context": weakref.ref(client),
            "server's context": weakref.ref(server),
            "protocol": weakref.ref(ends.client),
            "transport": weakref.ref(ends.client.transport),
            "server's transport": weakref.ref(ends.server.transport),
            "ssl object": weakref.ref(ends.client.transport.get_extra_info("ssl_object")),
        }
        del client, server, ends
        gc.collect()
        assert [name for name, one in found.items() if one() is not None] == []

    run(main())


def test_protocol_is_let_go_at_the_end(run: Any, certs: Certs) -> None:
    """Whoever keeps the transport of an ended connection does not keep its protocol."""

    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        await ends.close()
        await asyncio.sleep(0)
        ref = weakref.ref(ends.client)
        del ends
        gc.collect()
        assert ref() is None
        assert t.is_closing()

    run(main())


def test_freed_after_a_failed_handshake(run: Any, certs: Certs) -> None:
    refs: list[Any] = []

    async def fail() -> None:
        near, far = tcp_pair()
        protocol, context = Recorder(), certs.client_context()
        refs.extend([weakref.ref(protocol), weakref.ref(context)])
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            loop.create_connection(lambda: protocol, sock=near, ssl=context, server_hostname=NAME)
        )
        await loop.sock_recv(far, 10_000)
        far.close()
        try:
            await task
        except ConnectionResetError:
            pass

    async def main() -> None:
        await fail()
        await asyncio.sleep(0)
        gc.collect()
        assert [one() for one in refs] == [None, None]

    run(main())


def test_written_data_is_let_go(run: Any, certs: Certs) -> None:
    """What could not be sent is gone with the connection, even if the transport is kept."""

    class Data(bytes):
        """Can be referred to weakly... by its owner."""

    async def main() -> None:
        one = await link(certs)
        await fill(one.transport)
        data = Data(100_000)
        before = sys.getrefcount(data)
        one.transport.write(data)
        await one.finish()
        await asyncio.sleep(0)
        gc.collect()
        assert sys.getrefcount(data) == before
        assert one.transport.get_write_buffer_size() == 0

    run(main())


def test_many_connections_leave_nothing(run: Any, certs: Certs) -> None:
    def count() -> dict[str, int]:
        gc.collect()
        found: dict[str, int] = {}
        for one in gc.get_objects():
            name = type(one).__name__
            found[name] = found.get(name, 0) + 1
        return found

    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            for _ in range(5):
                await greet(certs, port)
            before = count()
            for _ in range(60):
                await greet(certs, port)
            await asyncio.sleep(0)
            after = count()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        # asyncio keeps up to a hundred cancelled timers
        kept = {"TimerHandle", "Context", "method", "hamt", "cell"}
        assert {name: n for name, n in grown.items() if n >= 30 and name not in kept} == {}

    run(main())
