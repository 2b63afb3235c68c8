"""Protocols that raise in one of their methods: reported once, all freed, others undisturbed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from netlib import Recorder
from tlslib import Boom, Certs, Echo, fill, greet, link, pair, started


def raising(method: str, error: type[BaseException] = Boom, base: Any = Recorder) -> Any:
    """A protocol that notes the call of one method and then raises."""

    class Raising(base):  # type: ignore[misc, valid-type]
        pass

    def fail(self: Any, *args: Any) -> Any:
        if method in ("connection_made", "connection_lost"):
            getattr(base, method)(self, *args)
        self.note(method)
        raise error(method)

    setattr(Raising, method, fail)
    return Raising()


class Buffered(Recorder, asyncio.BufferedProtocol):
    def get_buffer(self, hint: int) -> Any:
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


def check(handled: list[Any], message: str, error: type[BaseException] = Boom) -> None:
    assert [(one["message"], type(one["exception"])) for one in handled] == [(message, error)]


FATAL = "Fatal error on SSL protocol"


@pytest.mark.parametrize(
    ("method", "base"), [("data_received", Recorder), ("buffer_updated", Buffered)]
)
def test_data_is_refused(run: Any, handled: Any, certs: Certs, method: str, base: Any) -> None:
    async def main() -> None:
        ends = await pair(certs, raising(method, base=base))
        ends.server.transport.write(b"data")
        await ends.lost()
        assert ends.client.names() == ["made", method, "lost"]
        assert ends.client.events[-1] == ("lost", "Boom")

    run(main())
    check(handled, FATAL)


def test_get_buffer_raises(run: Any, handled: Any, certs: Certs) -> None:
    """asyncio asks for a buffer before there is data: right after the handshake."""

    class Later(Buffered):
        broken = False

        def get_buffer(self, hint: int) -> Any:
            if self.broken:
                raise Boom
            return super().get_buffer(hint)

    async def main() -> None:
        ends = await pair(certs, Later())
        ends.client.broken = True
        ends.server.transport.write(b"data")
        await ends.lost()
        assert ends.client.names()[-1] == "lost"
        assert ends.client.events[-1] == ("lost", "Boom")

    run(main())
    check(handled, FATAL)


def test_empty_buffer(run: Any, handled: Any, certs: Certs) -> None:
    """With nothing to read into asyncio sees no data: to it that is the end of the stream."""

    class Empty(Buffered):
        empty = False

        def get_buffer(self, hint: int) -> Any:
            return bytearray() if self.empty else super().get_buffer(hint)

    async def main() -> None:
        ends = await pair(certs, Empty())
        ends.client.empty = True
        ends.server.transport.write(b"data")
        await ends.lost()
        assert ends.client.data == b""
        assert ends.client.names()[-1] == "lost"

    run(main())
    assert len(handled) <= 1


@pytest.mark.parametrize("wrong", [None, 5, "text", b"constant"])
def test_buffer_of_a_wrong_kind(run: Any, handled: Any, certs: Certs, wrong: Any) -> None:
    class Wrong(Buffered):
        broken = False

        def get_buffer(self, hint: int) -> Any:
            return wrong if self.broken else super().get_buffer(hint)

    async def main() -> None:
        ends = await pair(certs, Wrong())
        ends.client.broken = True
        ends.server.transport.write(b"data")
        await ends.lost()
        assert ends.client.events[-1][1] in ("TypeError", "BufferError")

    run(main())
    assert [one["message"] for one in handled] == [FATAL]


@pytest.mark.parametrize("notify", [True, False])
def test_eof_received_raises(run: Any, handled: Any, certs: Certs, notify: bool) -> None:
    async def main() -> None:
        one = await link(certs, raising("eof_received"))
        if notify:
            await one.peer.notify()
        else:
            one.peer.sock.close()
        await one.lost()
        assert one.protocol.names() == ["made", "eof_received", "lost"]
        assert one.protocol.events[-1] == ("lost", "Boom")
        one.peer.sock.close()

    run(main())
    check(handled, "Error calling eof_received()")


def test_connection_lost_raises(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, raising("connection_lost"))
        await ends.close()
        await asyncio.sleep(0)
        assert ends.client.names()[-2:] == ["lost", "connection_lost"]

    run(main())
    assert [type(one["exception"]) for one in handled] == [Boom]
    assert handled[0]["message"].startswith("Exception in callback ")


def test_connection_made_raises_on_the_first_flight(run: Any, handled: Any, certs: Certs) -> None:
    """It is called while the handshake's last bytes are taken in: fatal to the connection."""

    async def main() -> None:
        protocol = raising("connection_made")
        with pytest.raises(Boom):
            await pair(certs, protocol)
        await protocol.until("lost")
        assert protocol.events == ["made", "connection_made", ("lost", "Boom")]
        await asyncio.sleep(0)

    with_server_left(run, main)
    check(handled, "Fatal error: protocol.buffer_updated() call failed.")


def with_server_left(run: Any, main: Any) -> None:
    """The other end of a pair that fails is left to itself: waits until it is gone as well."""

    async def whole() -> None:
        await main()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)

    run(whole())


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_flow_control_raises(run: Any, handled: Any, certs: Certs, method: str) -> None:
    """Reported, and no more: the connection goes on."""

    async def main() -> None:
        one = await link(certs, raising(method))
        one.transport.set_write_buffer_limits(high=1)
        total = await fill(one.transport)
        assert await one.peer.read(total) == bytes(total)
        await one.protocol.until("resume_writing" if method == "resume_writing" else "resume")
        one.transport.write(b"goes on")
        assert await one.peer.read(7) == b"goes on"
        await one.finish()

    run(main())
    check(handled, f"protocol.{method}() failed")
    assert set(handled[0]) == {"message", "exception", "transport", "protocol"}


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["data_received", "buffer_updated", "eof_received"])
def test_exit_leaves_run_forever(
    anyloop: Any, handled: Any, certs: Certs, error: Any, method: str
) -> None:
    protocol = raising(method, error, Buffered if method == "buffer_updated" else Recorder)
    ends = anyloop.run_until_complete(pair(certs, protocol))
    if method == "eof_received":
        ends.server.transport.close()
    else:
        ends.server.transport.write(b"data")
    with pytest.raises(error, match=method):
        anyloop.run_forever()
    assert method in protocol.events
    assert handled == []
    # The loop can be run again, and the connection be closed.
    ends.client.transport.abort()
    ends.server.transport.abort()
    anyloop.run_until_complete(ends.server.until("lost"))
    for _ in range(5):
        anyloop.run_until_complete(asyncio.sleep(0))


METHODS = ["data_received", "eof_received", "connection_lost", "connection_made", "pause_writing"]


@pytest.mark.parametrize("method", METHODS)
def test_server_and_others_go_on(run: Any, handled: Any, certs: Certs, method: str) -> None:
    count = 0

    def make() -> Any:
        nonlocal count
        count += 1
        return raising(method) if count == 2 else Echo()

    async def main() -> None:
        server, port = await started(certs, make)
        async with server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=certs.client_context()
            )
            victim = Recorder()
            loop = asyncio.get_running_loop()
            await loop.create_connection(
                lambda: victim, "127.0.0.1", port, ssl=certs.client_context()
            )
            victim.transport.write(b"data")
            await asyncio.sleep(0)
            victim.transport.close()
            await victim.until("lost")
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            await greet(certs, port)
            writer.close()
            await writer.wait_closed()

    run(main())
    expected = 0 if method == "pause_writing" else 1
    assert [type(one["exception"]) for one in handled] == [Boom] * expected


@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost"])
def test_all_is_freed(run: Any, handled: Any, certs: Certs, method: str) -> None:
    async def main() -> None:
        ends = await pair(certs, raising(method))
        ends.server.transport.write(b"data")
        await asyncio.sleep(0)
        ends.server.transport.close()
        await ends.client.until("lost")
        await ends.server.until("lost")
        for _ in range(3):
            await asyncio.sleep(0)
        found = [weakref.ref(ends.client.transport), weakref.ref(ends.client)]
        del ends
        handled.clear()
        gc.collect()
        assert [one() for one in found] == [None, None]

    run(main())


def test_raising_again_and_again_leaves_nothing(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        for _ in range(20):
            ends = await pair(certs, raising("data_received"), raising("data_received"))
            ends.client.transport.write(b"data")
            ends.server.transport.write(b"data")
            await ends.lost()

    run(main())
    assert {type(one["exception"]) for one in handled} == {Boom}
    assert 20 <= len(handled) <= 40
