"""What docs/compatibility.md says of hotloop where it differs from asyncio, as far as no other
test has it; and what it says that libraries may rely on."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import weakref
from collections.abc import Callable
from typing import Any

from netlib import Recorder, finish, link
from test_features_tls import client_context, connect, gone, server_context, serving

Run = Callable[[Any], Any]
Loop = Any


# ---- differences ----


def test_held_write(hotrun: Run) -> None:
    """Small writes of one callback leave when it returns: in it, the far end has nothing yet."""

    async def main() -> None:
        one = await link()
        loop = asyncio.get_running_loop()
        seen: list[Any] = []

        def peek() -> bytes | None:
            try:
                return one.far.recv(100, socket.MSG_PEEK)
            except BlockingIOError:
                return None

        def write() -> None:
            one.transport.write(b"head")
            seen.append(peek())  # asyncio: b"head"
            one.transport.write(b"body")

        loop.call_soon(write)
        loop.call_soon(lambda: seen.append(peek()))
        await asyncio.sleep(0)
        assert seen == [None, b"headbody"]
        one.transport.write(b"and")
        assert one.transport.get_write_buffer_size() == 0  # whoever asks has it sent first
        assert peek() == b"headbodyand"
        await finish(one)

    hotrun(main())


def test_not_a_base_event_loop(loop: Loop) -> None:
    """No private machinery of asyncio's to patch: who tries gets an AttributeError."""
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert not isinstance(loop, asyncio.BaseEventLoop)
    for name in ("_run_once", "_ready", "_scheduled", "_selector"):
        assert not hasattr(loop, name)


# ---- what libraries may rely on ----


def test_isinstance(anyloop: Loop, run: Run) -> None:
    async def main() -> None:
        one = await link()
        server = await anyloop.create_server(Recorder, "127.0.0.1", 0)
        child = await asyncio.create_subprocess_exec("true")
        transport: Any = child._transport  # type: ignore[attr-defined]
        for value, cls in (
            (asyncio.current_task(), asyncio.Task),
            (asyncio.current_task(), asyncio.Future),
            (anyloop.create_future(), asyncio.Future),
            (one.transport, asyncio.Transport),
            (server, asyncio.Server),
            (transport, asyncio.SubprocessTransport),
            (transport.get_extra_info("subprocess"), subprocess.Popen),
        ):
            assert isinstance(value, cls)
            assert weakref.ref(value)() is value
        assert await child.wait() == 0
        server.close()
        await finish(one)

    run(main())


def test_private_names_of_tasks(anyloop: Loop, run: Run) -> None:
    async def main() -> None:
        waits_for = anyloop.create_future()

        async def body() -> None:
            await waits_for

        task = anyloop.create_task(body())
        assert not task._must_cancel
        task.cancel()
        assert task._must_cancel
        await asyncio.gather(task, return_exceptions=True)

        task = anyloop.create_task(body())
        await asyncio.sleep(0)
        assert task._fut_waiter is waits_for
        [(wakeup, context)] = waits_for._callbacks
        assert wakeup.__self__ is task
        assert context is task.get_context()
        assert waits_for._asyncio_future_blocking is False
        waits_for.set_result(None)
        await task

    run(main())


def test_settable_attributes(anyloop: Loop, run: Run) -> None:
    """What is set on a loop or a transport is what is called, by C code too."""

    async def main() -> None:
        called: list[str] = []
        create_future, call_soon = anyloop.create_future, anyloop.call_soon
        anyloop.create_future = lambda: called.append("future") or create_future()
        anyloop.call_soon = lambda *a, **k: called.append("soon") or call_soon(*a, **k)
        await asyncio.sleep(0.001)
        assert called[0] == "future"
        assert "soon" in called
        del anyloop.create_future, anyloop.call_soon
        one = await link()
        written: list[bytes] = []
        one.transport.write = written.append
        one.transport.write(b"x")
        writer = asyncio.StreamWriter(one.transport, one.protocol, None, anyloop)
        writer.write(b"y")
        assert written == [b"x", b"y"]
        del one.transport.write
        await finish(one)

    run(main())


def test_private_names_of_transports(run: Run) -> None:
    async def main() -> None:
        one = await link()
        assert isinstance(one.transport._sock, socket.socket)
        assert one.transport._sock.fileno() == one.transport.get_extra_info("socket").fileno()
        assert one.transport._loop is asyncio.get_running_loop()
        assert one.transport._protocol is one.protocol
        await finish(one)

    run(main())


def test_private_names_of_tls_transports(run: Run) -> None:
    async def main() -> None:
        async with serving(server_context()) as (address, _):
            context = client_context()
            protocol = await connect(address, context)
            transport = protocol.transport
            assert transport._ssl_protocol is not None
            assert transport.get_extra_info("sslcontext") is context
            assert weakref.ref(transport)() is transport
            await gone(protocol)

    run(main())


def test_extra_info_of_pipes_and_children(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        file = os.fdopen(read_end, "rb", 0)
        transport, protocol = await loop.connect_read_pipe(Recorder, file)
        assert transport.get_extra_info("pipe") is file
        os.close(write_end)
        await protocol.until("lost")
        child, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "true")
        assert isinstance(child.get_extra_info("subprocess"), subprocess.Popen)
        assert await child._wait() == 0
        child.close()

    run(main())
