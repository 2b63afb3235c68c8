"""Bug classes 33-38: datagrams."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any

import pytest
from dgramlib import LOST, Dgrams, endpoint, finish, name_of, udp
from netlib import LIMIT


def unused_address() -> Any:
    with udp() as sock:
        return sock.getsockname()


@pytest.mark.bug(33, fails_on=("rloop",))
def test_failed_send_closes_the_endpoint(run: Any) -> None:
    async def main() -> None:
        address = unused_address()
        transport, protocol = await endpoint(remote_addr=address)
        transport.sendto(b"to nobody")
        await protocol.until(lambda: protocol.errors)
        assert [type(one) for one in protocol.errors] == [ConnectionRefusedError]
        assert not transport.is_closing()
        there, other = await endpoint(local_addr=address)
        transport.sendto(b"hello")
        assert await other.until_got(1) == [b"hello"]
        await finish(transport, there)

    run(main())


@pytest.mark.bug(33)
def test_too_large_a_datagram_closes_the_endpoint(run: Any) -> None:
    async def main() -> None:
        transport, protocol = await endpoint()
        there, other = await endpoint()
        transport.sendto(bytes(70_000), name_of(there))
        await protocol.until(lambda: protocol.errors)
        assert not transport.is_closing()
        transport.sendto(b"hello", name_of(there))
        assert await other.until_got(1) == [b"hello"]
        await finish(transport, there)

    run(main())


@pytest.mark.bug(34, fails_on=("uvloop",))
def test_refusal_takes_the_watcher_away(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        address = unused_address()
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
            assert await asyncio.wait_for(seen.get(), LIMIT) is ConnectionRefusedError
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
                late.bind(address)
                late.sendto(b"later", sock.getsockname())
                assert await asyncio.wait_for(seen.get(), LIMIT) == b"later"
            loop.remove_reader(sock)

    run(main())


@pytest.mark.bug(35, fails_on=("uvloop",))
def test_port_cut_to_sixteen_bits(run: Any, handled: Any) -> None:
    """70000 is not 4464. asyncio tells the exception handler of it; nothing is sent."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            port = sock.getsockname()[1] + 65536
            transport, protocol = await endpoint()
            try:
                transport.sendto(b"astray", ("127.0.0.1", port))
            except OverflowError as exc:
                handled.append({"exception": exc})
            for _ in range(3):
                await asyncio.sleep(0)
            assert [type(one["exception"]) for one in handled] == [OverflowError]
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            await finish(transport)
            await protocol.until_event(("lost", "OverflowError"))

    run(main())


@pytest.mark.bug(36, fails_on=("rloop",))
def test_connected_endpoint_sends_to_a_stranger(run: Any) -> None:
    async def main() -> None:
        there, other = await endpoint()
        stranger, nothing = await endpoint()
        transport, _ = await endpoint(remote_addr=name_of(there))
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"astray", name_of(stranger))
        transport.sendto(b"1", name_of(there))
        transport.sendto(b"2")
        transport.sendto(b"3", None)
        assert await other.until_got(3) == [b"1", b"2", b"3"]
        assert nothing.got == []
        await finish(there, stranger, transport)

    run(main())


@pytest.mark.bug(36)
def test_connected_endpoint_and_abstract_names(run: Any) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
            far.bind("")  # the kernel picks an abstract name
            far.setblocking(False)
            name = far.getsockname().decode()
            transport, _ = await endpoint(remote_addr=name, family=socket.AF_UNIX)
            with pytest.raises(ValueError, match="Invalid address"):
                transport.sendto(b"astray", name + "\0")
            transport.sendto(b"hello", name)
            assert await asyncio.get_running_loop().sock_recv(far, 10) == b"hello"
            await finish(transport)

    run(main())


@pytest.mark.bug(37)
def test_endpoint_with_both_addresses_cannot_send(run: Any) -> None:
    async def main() -> None:
        there, other = await endpoint()
        transport, protocol = await endpoint(
            local_addr=("127.0.0.1", 0), remote_addr=name_of(there)
        )
        transport.sendto(b"hello")
        assert await other.until_got(1) == [b"hello"]
        there.sendto(b"back", name_of(transport))
        assert await protocol.until_got(1) == [b"back"]
        assert protocol.errors == []
        await finish(there, transport)

    run(main())


@pytest.mark.bug(37)
def test_collected_endpoint_aborts_the_process(program: Any) -> None:
    out = program("""
        import asyncio, gc, warnings
        warnings.simplefilter("ignore")
        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(3):
                await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0),
                    remote_addr=("127.0.0.1", 9))
                gc.collect()
                await asyncio.sleep(0)
        loop = new_event_loop()
        loop.run_until_complete(main())
        gc.collect()
        loop.close()
        print("whole")
    """)
    assert out == "whole"


@pytest.mark.bug(38)
@pytest.mark.parametrize("how", ["close", "abort"])
def test_datagram_after_close(run: Any, how: str) -> None:
    class Closing(Dgrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            getattr(self.transport, how)()

    async def main() -> None:
        transport, protocol = await endpoint(Closing())
        with udp() as sock:
            for _ in range(5):
                sock.sendto(b"x", name_of(transport))
            await protocol.until_event(LOST)
        assert protocol.events == ["made", "datagram", LOST]

    run(main())


@pytest.mark.bug(38)
def test_datagram_before_connection_made(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = udp()
        sock.setblocking(False)
        with udp() as other:
            other.sendto(b"early", sock.getsockname())
            transport, protocol = await loop.create_datagram_endpoint(Dgrams, sock=sock)
            assert await protocol.until_got(1) == [b"early"]
        assert protocol.events == ["made", "datagram"]
        await finish(transport)

    run(main())


@pytest.mark.bug(38)
def test_long_datagram_cut(run: Any) -> None:
    async def main() -> None:
        transport, protocol = await endpoint()
        whole = bytes(range(256)) * 255 + b"end"
        with udp() as sock:
            sock.sendto(whole, name_of(transport))
            sock.sendto(b"", name_of(transport))
            assert await protocol.until_got(2) == [whole, b""]
        ref = weakref.ref(transport)
        await finish(transport)
        protocol.transport = transport = None
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        assert ref() is None

    run(main())
