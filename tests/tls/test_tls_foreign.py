"""Foreign code in the middle of TLS: methods and callbacks that end the connection."""

from __future__ import annotations

import asyncio
import gc
import ssl
from typing import Any

import pytest
from netlib import Recorder, tcp_pair
from tlslib import NAME, Boom, Certs, link, pair


def meddling(method: str, action: Any) -> Any:
    """An SSLObject class: its method calls action() once `armed` is set, then does its work."""

    class Meddling(ssl.SSLObject):
        armed = False

    def meddle(self: Any, *args: Any) -> Any:
        if Meddling.armed:
            Meddling.armed = False
            action()
        return getattr(ssl.SSLObject, method)(self, *args)

    setattr(Meddling, method, meddle)
    return Meddling


@pytest.mark.parametrize("action", ["abort", "close", "pause_reading"])
@pytest.mark.parametrize("method", ["read", "write"])
def test_ended_by_a_method(run: Any, handled: Any, certs: Certs, method: str, action: str) -> None:
    async def main() -> None:
        kind = meddling(method, lambda: getattr(client.transport, action)())
        context = certs.client_context()
        context.sslobject_class = kind
        ends = await pair(certs, client, client_context=context)
        kind.armed = True
        if method == "read":
            ends.server.transport.write(b"data")
            await client.until_true(lambda: not kind.armed)
        else:
            client.transport.write(b"data")
        gc.collect()
        await asyncio.sleep(0)
        await ends.abort()
        del context.sslobject_class  # a cycle through objects of _ssl: no collector sees it
        assert client.names().count("lost") == ends.server.names().count("lost") == 1

    client = Recorder()
    run(main())


def test_write_within_write(run: Any, handled: Any, certs: Certs) -> None:
    """asyncio stumbles over its own queue (an IndexError is reported); it is no crash."""

    async def main() -> None:
        kind = meddling("write", lambda: client.transport.write(b"i" * 100))
        context = certs.client_context()
        context.sslobject_class = kind
        ends = await pair(certs, client, client_context=context)
        kind.armed = True
        client.transport.write(b"o" * 100)
        await asyncio.sleep(0)
        await ends.abort()
        del context.sslobject_class  # as above

    client = Recorder()
    run(main())
    assert len(handled) <= 1


@pytest.mark.parametrize("error", [Boom, OSError, MemoryError, asyncio.CancelledError])
@pytest.mark.parametrize("method", ["read", "write"])
def test_method_raises(run: Any, handled: Any, certs: Certs, method: str, error: Any) -> None:
    def fail() -> None:
        raise error("meddled with")

    async def main() -> None:
        kind = meddling(method, fail)
        context = certs.client_context()
        context.sslobject_class = kind
        ends = await pair(certs, client_context=context)
        kind.armed = True
        if method == "read":
            ends.server.transport.write(b"data")
            await ends.client.until_true(lambda: not kind.armed)
        else:
            try:
                ends.client.transport.write(b"data")
            except asyncio.CancelledError:
                pass
        if not issubclass(error, asyncio.CancelledError):  # not an Exception: goes where it goes
            await ends.lost()
            assert ends.client.events[-1][1] == error.__name__
        else:
            await ends.abort()

    run(main())
    if issubclass(error, (Boom, MemoryError)):
        assert [type(one["exception"]) for one in handled] == [error]
    elif error is OSError:
        assert handled == []


@pytest.mark.parametrize("wrong", [None, "text", 5, 2.5])
def test_read_returns_no_bytes(run: Any, handled: Any, certs: Certs, wrong: Any) -> None:
    """What an overridden read() returns is the protocol's business, or an error: never a crash."""

    class Odd(ssl.SSLObject):
        armed = False

        def read(self, *args: Any) -> Any:
            data = super().read(*args)
            return wrong if Odd.armed else data

    async def main() -> None:
        context = certs.client_context()
        context.sslobject_class = Odd
        ends = await pair(certs, client_context=context)
        Odd.armed = True
        ends.server.transport.write(b"data")
        await ends.client.until("lost")
        await ends.abort()

    run(main())
    assert len(handled) <= 1


@pytest.mark.parametrize("wrong", [None, "text", b"bytes"])
def test_write_returns_no_number(run: Any, handled: Any, certs: Certs, wrong: Any) -> None:
    class Odd(ssl.SSLObject):
        def write(self, data: Any) -> Any:
            super().write(data)
            return wrong

    async def main() -> None:
        context = certs.client_context()
        context.sslobject_class = Odd
        ends = await pair(certs, client_context=context)
        ends.client.transport.write(b"data")
        await ends.lost()
        assert ends.client.events[-1] == ("lost", "TypeError")

    run(main())
    assert [type(one["exception"]) for one in handled] == [TypeError]


def test_sni_callback_cancels_the_client(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        context = certs.server_context()
        context.sni_callback = lambda *args: connecting.cancel() and None
        connecting = loop.create_task(
            loop.create_connection(
                Recorder, sock=near, ssl=certs.client_context(), server_hostname=NAME
            )
        )
        accepting = loop.create_task(loop.connect_accepted_socket(Recorder, far, ssl=context))
        with pytest.raises(asyncio.CancelledError):
            await connecting
        try:
            transport, protocol = await accepting
        except ConnectionResetError:
            pass
        else:
            transport.abort()
            await protocol.until("lost")
        await asyncio.sleep(0)

    run(main())


def test_sni_callback_cancels_its_own_side(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        context = certs.server_context()
        context.sni_callback = lambda *args: accepting.cancel() and None
        accepting = loop.create_task(loop.connect_accepted_socket(Recorder, far, ssl=context))
        connecting = loop.create_task(
            loop.create_connection(
                Recorder, sock=near, ssl=certs.client_context(), server_hostname=NAME
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await accepting
        try:
            transport, protocol = await connecting
        except ConnectionError:
            pass
        else:
            transport.abort()
            await protocol.until("lost")
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("action", ["abort", "close", "write", "pause_reading"])
def test_get_buffer_that_acts(run: Any, certs: Certs, action: str) -> None:
    class Acting(Recorder, asyncio.BufferedProtocol):
        armed = False

        def get_buffer(self, hint: int) -> Any:
            if self.armed:
                self.armed = False
                t = self.transport
                t.write(b"back") if action == "write" else getattr(t, action)()
                gc.collect()
            self.buffer = memoryview(bytearray(50))
            return self.buffer

        def buffer_updated(self, count: int) -> None:
            self.data_received(bytes(self.buffer[:count]))

    async def main() -> None:
        ends = await pair(certs, Acting())
        ends.client.armed = True
        ends.server.transport.write(b"d" * 120)
        await ends.client.until_true(lambda: not ends.client.armed)
        await ends.abort()
        assert ends.client.names().count("lost") == 1

    run(main())


def test_set_protocol_in_get_buffer(run: Any, certs: Certs) -> None:
    """The data of that read still goes where its buffer came from, or nowhere; no crash."""

    class Leaving(Recorder, asyncio.BufferedProtocol):
        armed = False

        def get_buffer(self, hint: int) -> Any:
            if self.armed:
                self.armed = False
                self.transport.set_protocol(later)
            return memoryview(bytearray(50))

        def buffer_updated(self, count: int) -> None:
            self.note("updated")

    async def main() -> None:
        ends = await pair(certs, Leaving())
        ends.client.armed = True
        ends.server.transport.write(b"first")
        await ends.client.until_true(lambda: not ends.client.armed)
        ends.server.transport.write(b"second")
        await later.until("data")
        ends.client.transport.abort()
        await later.until("lost")
        await ends.server.until("lost")

    later = Recorder()
    run(main())


def test_released_buffer(run: Any, handled: Any, certs: Certs) -> None:
    class Released(Recorder, asyncio.BufferedProtocol):
        armed = False

        def get_buffer(self, hint: int) -> Any:
            view = memoryview(bytearray(50))
            if self.armed:
                view.release()
            return view

        def buffer_updated(self, count: int) -> None: ...

    async def main() -> None:
        ends = await pair(certs, Released())
        ends.client.armed = True
        ends.server.transport.write(b"data")
        await ends.lost()
        assert ends.client.events[-1] == ("lost", "ValueError")

    run(main())
    assert [type(one["exception"]) for one in handled] == [ValueError]


def test_exception_handler_that_raises(run: Any, anyloop: Any, reports: Any, certs: Certs) -> None:
    class Bad(Recorder):
        def data_received(self, data: bytes) -> None:
            raise Boom

    def fail(loop: Any, context: Any) -> None:
        raise LookupError("the handler's")

    async def main() -> None:
        one = await link(certs, Bad())
        await one.peer.write(b"data")
        assert await one.lost() == ("lost", "Boom")
        one.peer.sock.close()

    anyloop.set_exception_handler(fail)
    run(main())
    assert [one.getMessage().splitlines()[0] for one in reports] == [
        "Unhandled error in exception handler"
    ]
