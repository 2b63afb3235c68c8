"""create_connection(): addresses, races, errors, and who closes which socket."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dgramlib import needs_ipv6
from netlib import LIMIT, Recorder, finish, link


class Listener:
    """A plain listening socket, and ports that nobody listens on."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *args: object) -> None:
        self.sock.close()


@pytest.fixture
def closed_port() -> Iterator[Callable[[], int]]:
    """Ports that refuse: taken for as long as the test runs, so that nobody listens there."""
    taken = []

    def take() -> int:
        taken.append(socket.socket())
        taken[-1].bind(("127.0.0.1", 0))
        port: int = taken[-1].getsockname()[1]
        return port

    yield take
    for sock in taken:
        sock.close()


async def cancel(connecting: asyncio.Task[Any]) -> None:
    """It may have come too late: then there is a connection, which is not kept."""
    connecting.cancel()
    try:
        transport, _ = await connecting
    except asyncio.CancelledError:
        pass
    else:
        transport.abort()


def infos(*addresses: Any) -> Callable[..., Any]:
    """A getaddrinfo() that knows these."""

    async def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> Any:
        asked.append((host, port, kwargs))
        families = [socket.AF_INET6 if ":" in a[0] else socket.AF_INET for a in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", a)
            for family, a in zip(families, addresses, strict=True)
        ]

    asked: list[Any] = []
    getaddrinfo.asked = asked  # type: ignore[attr-defined]
    return getaddrinfo


def test_connect(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Listener() as listener:
            transport, protocol = await loop.create_connection(Recorder, *listener.address)
            assert protocol.transport is transport
            assert protocol.events == ["made"]
            assert transport.get_extra_info("peername") == listener.address
            view = transport.get_extra_info("socket")
            assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.abort()
            await protocol.until("lost")

    run(main())


def test_overridden_getaddrinfo_and_sock_connect(anyloop: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as listener:
            loop.getaddrinfo = lookup = infos(listener.address)
            plain = loop.sock_connect
            connected: list[Any] = []

            async def sock_connect(sock: Any, address: Any) -> None:
                connected.append(address)
                await plain(sock, address)

            loop.sock_connect = sock_connect
            transport, protocol = await loop.create_connection(Recorder, "name", "service")
            assert connected == [listener.address]
            assert lookup.asked == [  # type: ignore[attr-defined]
                (
                    "name",
                    "service",
                    {"family": 0, "type": socket.SOCK_STREAM, "proto": 0, "flags": 0},
                )
            ]
            transport.abort()
            await protocol.until("lost")
            del loop.getaddrinfo, loop.sock_connect

    anyloop.run_until_complete(main())


def test_second_address_is_tried(run: Any, closed_port: Callable[[], int]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as listener:
            loop.getaddrinfo = infos(("127.0.0.1", closed_port()), listener.address)
            for delay in (None, 0.01):
                transport, protocol = await loop.create_connection(
                    Recorder, "name", 1, happy_eyeballs_delay=delay
                )
                assert transport.get_extra_info("peername") == listener.address
                transport.abort()
                await protocol.until("lost")
            del loop.getaddrinfo

    run(main())


@pytest.mark.parametrize("first", ["::1", "127.0.0.1"])
def test_slow_first_address_loses_the_race(
    anyloop: Any, closed_port: Callable[[], int], first: str
) -> None:
    """The second starts after the delay and wins; the first is cancelled, its socket closed."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as listener:
            slow = (first, closed_port())
            loop.getaddrinfo = infos(slow, listener.address)
            plain = loop.sock_connect
            calls: list[Any] = []

            async def sock_connect(sock: Any, address: Any) -> None:
                calls.append((address, loop.time()))
                if address == slow:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        calls.append(("cancelled", sock))
                await plain(sock, address)

            loop.sock_connect = sock_connect
            transport, protocol = await loop.create_connection(
                Recorder, "name", 1, happy_eyeballs_delay=0.05
            )
            (one, began), (two, went_on), (end, loser) = calls
            assert (one, two, end) == (slow, listener.address, "cancelled")
            assert went_on - began >= 0.05
            assert loser.fileno() == -1
            assert transport.get_extra_info("peername") == listener.address
            transport.abort()
            await protocol.until("lost")
            del loop.getaddrinfo, loop.sock_connect

    anyloop.run_until_complete(main())


def test_errors(run: Any, closed_port: Callable[[], int]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        one, two = closed_port(), closed_port()
        with pytest.raises(ConnectionRefusedError, match=f"'127.0.0.1', {one}"):
            await loop.create_connection(Recorder, "127.0.0.1", one)
        loop.getaddrinfo = infos(("127.0.0.1", one), ("127.0.0.1", two))
        with pytest.raises(OSError, match=f"Multiple exceptions: .*{one}.*, .*{two}"):
            await loop.create_connection(Recorder, "name", 1)
        with pytest.raises(ExceptionGroup, match="create_connection failed") as info:
            await loop.create_connection(Recorder, "name", 1, all_errors=True)
        assert [type(e) for e in info.value.exceptions] == [ConnectionRefusedError] * 2
        with pytest.raises(OSError, match="Multiple exceptions"):
            await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=0.01)
        loop.getaddrinfo = infos(("127.0.0.1", one), ("127.0.0.1", one))
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "name", 1)
        loop.getaddrinfo = infos()
        with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
            await loop.create_connection(Recorder, "name", 1)
        del loop.getaddrinfo

    run(main())


def test_local_addr(run: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as listener:
            transport, protocol = await loop.create_connection(
                Recorder, *listener.address, local_addr=("127.0.0.1", 0)
            )
            assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
            transport.abort()
            await protocol.until("lost")
            with pytest.raises(OSError, match="error while attempting to bind on address"):
                await loop.create_connection(
                    Recorder, *listener.address, local_addr=listener.address
                )
            with pytest.raises(OSError, match="no matching local address with family="):
                await loop.create_connection(Recorder, *listener.address, local_addr=("::1", 0))

    run(main())


def test_interleave(anyloop: Any) -> None:
    four = [("127.0.0.1", n) for n in (1, 2, 3)]
    six = [("::1", n, 0, 0) for n in (1, 2, 3)]
    expected = {
        1: [*sum(zip(four, six, strict=True), ())],
        2: [four[0], four[1], six[0], four[2], six[1], six[2]],
        None: four + six,
    }

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        tried: list[Any] = []

        async def sock_connect(sock: Any, address: Any) -> None:
            tried.append(address)
            raise OSError("no")

        loop.sock_connect = sock_connect
        loop.getaddrinfo = infos(*four, *six)
        for interleave, order in expected.items():
            tried.clear()
            with pytest.raises(OSError, match="no"):
                await loop.create_connection(Recorder, "name", 1, interleave=interleave)
            assert tried == order
        tried.clear()
        with pytest.raises(OSError, match="no"):
            await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=1)
        assert tried == expected[1]
        del loop.sock_connect, loop.getaddrinfo

    anyloop.run_until_complete(main())


def test_bad_arguments(run: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        async def fails(error: type[Exception], message: str, *args: Any, **kw: Any) -> None:
            with pytest.raises(error, match=message):
                await loop.create_connection(Recorder, *args, **kw)

        with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
            await fails(ValueError, "host and port was not specified and no sock")
            await fails(ValueError, "can not be specified at the same", "x", 1, sock=sock)
            await fails(ValueError, "A Stream Socket was expected", sock=udp)
            await fails(ValueError, "server_hostname is only", "x", 1, server_hostname="y")
            await fails(ValueError, "You must set server_hostname", sock=sock, ssl=True)
            for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                await fails(ValueError, f"{name} is only meaningful", "x", 0, **{name: 1})
            await fails(UnicodeError, "label", "x" * 70 + ".example", 1)

    run(main())


@pytest.mark.parametrize("turns", range(8))
def test_cancelled_connect(run: Any, turns: int) -> None:
    """Whenever it comes, the socket is closed once and nothing is left."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as listener:
            protocol = Recorder()
            task = asyncio.ensure_future(
                loop.create_connection(lambda: protocol, *listener.address)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancel(task)
            if protocol.transport is not None:
                await protocol.until("lost")
            for _ in range(3):
                await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("turns", range(6))
def test_cancelled_with_given_socket(run: Any, turns: int) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        a, b = socket.socketpair()
        protocol = Recorder()
        task = asyncio.ensure_future(loop.create_connection(lambda: protocol, sock=a))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(task)
        if turns == 0:  # it never began: the socket is still the caller's
            assert a.fileno() != -1
            a.close()
        else:
            await protocol.until("lost")
        assert a.fileno() == -1
        b.close()

    run(main())


def test_cancelled_race(hotrun: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Listener() as one, Listener() as two:
            loop.getaddrinfo = infos(one.address, two.address)
            for turns in range(12):
                protocol = Recorder()

                def factory(protocol: Recorder = protocol) -> Recorder:
                    return protocol

                task = asyncio.ensure_future(
                    loop.create_connection(factory, "name", 1, happy_eyeballs_delay=0)
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                await cancel(task)
                if protocol.transport is not None:
                    await protocol.until("lost")
                for _ in range(4):
                    await asyncio.sleep(0)
            del loop.getaddrinfo

    hotrun(main())


@pytest.mark.parametrize("bad", ["raises", None, object()])
def test_factory_fails(hotrun: Any, bad: Any) -> None:
    """Our socket is closed; a given one stays the caller's, up to 3.13."""

    def factory() -> Any:
        if bad == "raises":
            raise ZeroDivisionError
        return bad

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        error = ZeroDivisionError if bad == "raises" else AttributeError
        with Listener() as listener:
            with pytest.raises(error):
                await loop.create_connection(factory, *listener.address)
            near = socket.create_connection(listener.address)
            with pytest.raises(error):
                await loop.create_connection(factory, sock=near)
            if sys.version_info >= (3, 14):  # asyncio closes that one too
                assert near.fileno() == -1
                return
            assert near.fileno() != -1
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            transport.abort()
            await protocol.until("lost")

    hotrun(main())


def test_descriptor_reuse(run: Any) -> None:
    """Numbers go round fast; no byte may reach another connection."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        class Tagging(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(b"<" + data + b">")

        server = await loop.create_server(Tagging, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def client(n: int) -> None:
            tag = b"%06d" % n
            transport, protocol = await loop.create_connection(Recorder, *address)
            transport.write(tag)
            if n % 3 == 0:
                transport.abort()
            else:
                assert await protocol.until_data(8) == b"<" + tag + b">"
                transport.close()
            await protocol.until("lost")

        for batch in range(10):
            await asyncio.gather(*(client(batch * 20 + i) for i in range(20)))
        server.close()
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()

    run(main())


def test_streams(run: Any) -> None:
    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.writelines([b"one\n", b"two\n"])
            await writer.drain()
            assert await reader.readline() == b"ONE\n"
            writer.write(b"x" * 50_000 + b"\n")
            writer.write_eof()
            assert await reader.readline() == b"TWO\n"
            assert await reader.readline() == b"X" * 50_000 + b"\n"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


def test_stream_backpressure(run: Any) -> None:
    async def main() -> None:
        total = 4_000_000
        got = []

        async def handle(reader: Any, writer: Any) -> None:
            size = 0
            while data := await reader.read(10_000):
                size += len(data)
            got.append(size)
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(total // 100_000):
                writer.write(bytes(100_000))
                await writer.drain()
                assert writer.transport.get_write_buffer_size() <= 64 * 1024 + 100_000
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        assert got == [total]

    run(main())


def test_sendfile(run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = tmp_path / "file"
        content = bytes(range(256)) * 4000
        path.write_bytes(content)
        one = await link()
        with open(path, "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(one.transport, file))
            assert await one.recv(len(content)) == content
            assert await sending == len(content)
            assert file.tell() == len(content)
            one.transport.write(b"after")
            assert await one.recv(5) == b"after"
            await one.send(b"x")
            await one.protocol.until_data(1)
            sending = asyncio.ensure_future(loop.sendfile(one.transport, file, 10, 20))
            assert await one.recv(20) == content[10:30]
            assert await sending == 20
            one.transport.close()
            with pytest.raises(RuntimeError, match="Transport is closing"):
                await loop.sendfile(one.transport, file)
        await finish(one)

    run(main())


# ---- the short way, in C, and what keeps from it ----


def connected_by(loop: Any) -> bool:
    """Is a connection to a numeric address made without a socket object just now?"""
    try:
        connecting = loop._connect("127.0.0.1", 1, 0, 0)
    except OSError:
        return True
    if connecting is not None:
        connecting.close()
    return connecting is not None


def test_short_way_is_gone(hotrun: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        assert connected_by(loop)
        for host, port, family, proto in [
            ("localhost", 1, 0, 0),
            ("127.0.0.1", "1", 0, 0),
            ("127.0.0.1", 1, socket.AF_INET6, 0),
            ("::1", 1, socket.AF_INET, 0),
            ("::1%lo", 1, 0, 0),
            ("127.0.0.1\0", 1, 0, 0),
            (b"127.0.0.1", 1, 0, 0),
            ("127.0.0.1", 0, 0, 0),
            ("127.0.0.1", 65536, 0, 0),
            ("127.0.0.1", -1, 0, 0),
            ("127.0.0.1", 1, 0, socket.IPPROTO_UDP),
            ("127.0.0.1", 1, "x", 0),
            (None, 1, 0, 0),
        ]:
            assert loop._connect(host, port, family, proto) is None, (host, port)
        loop.set_debug(True)
        assert not connected_by(loop)
        loop.set_debug(False)
        assert connected_by(loop)

    hotrun(main())


def test_patched_sockets_are_used(anyloop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools that watch or forbid connections do it on socket.socket."""
    seen: list[Any] = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            seen.append(("class", address))
            super().connect(address)

    def connect(self: socket.socket, address: Any) -> None:
        seen.append(("method", address))
        plain(self, address)

    plain = socket.socket.connect

    async def once(address: Any) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.abort()
        await protocol.until("lost")

    async def main() -> None:
        with Listener() as listener:
            await once(listener.address)
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socket", Watched)
                await once(listener.address)
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "connect", connect)
                await once(listener.address)
            await once(listener.address)
            assert seen == [("class", listener.address), ("method", listener.address)]

    anyloop.run_until_complete(main())


@pytest.mark.parametrize(
    "name", ["sock_connect", "_ensure_resolved", "create_future", "_create_connection_transport"]
)
@pytest.mark.parametrize("where", ["instance", "class"])
def test_overridden_methods_are_called(
    make_loop: Any, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    loop: Any = make_loop()
    calls: list[str] = []

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return inherited(*args, **kwargs)

    inherited = getattr(loop, name)
    if where == "class":
        loop.close()
        kind = type("Overridden", (type(loop),), {name: override})
        loop = kind()
        inherited = getattr(super(kind, loop), name)
    else:
        setattr(loop, name, override.__get__(loop))

    async def main() -> None:
        with Listener() as listener:
            transport, protocol = await loop.create_connection(Recorder, *listener.address)
            transport.abort()
            await protocol.until("lost")

    try:
        loop.run_until_complete(main())
        assert name in calls
        if where == "instance":
            delattr(loop, name)
            assert connected_by(loop)
    finally:
        loop.close()


_AUDITED = """
import asyncio, socket, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event == "socket.connect" else None)
{install}
async def main():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, *address)
        transport.abort()
{run}
assert seen == ["socket.connect"], seen
"""


@pytest.mark.parametrize("run", ["hotloop.run(main())", "asyncio.run(main())"])
def test_audit_hooks_see_connections(run: str) -> None:
    program = _AUDITED.format(install="import hotloop" if "hot" in run else "", run=run)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("address", ["255.255.255.255", "ff02::1"])
def test_refused_at_once(anyloop: Any, address: str) -> None:
    """connect() itself fails: the same error as by sock_connect()."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.setblocking(False)
            with pytest.raises(OSError, match="Errno") as by_hand:
                await loop.sock_connect(sock, (address, 9))
        with pytest.raises(OSError, match="Errno") as short:
            await loop.create_connection(Recorder, address, 9)
        assert (type(short.value), short.value.args) == (
            type(by_hand.value),
            by_hand.value.args,
        )
        with pytest.raises(ExceptionGroup) as group:
            await loop.create_connection(Recorder, address, 9, all_errors=True)
        assert [e.args for e in group.value.exceptions] == [short.value.args]

    anyloop.run_until_complete(main())


def test_loop_closed_while_connecting(make_loop: Any) -> None:
    """The descriptor goes with the coroutine (the fixtures look for what is left)."""
    with Listener() as listener:
        loop = make_loop()
        connecting = loop.create_connection(Recorder, *listener.address)
        connecting.send(None)
        loop.close()
        connecting.close()


def test_stopped_in_the_factory(make_loop: Any) -> None:
    with Listener() as listener:
        loop = make_loop()
        made = []

        def factory() -> Recorder:
            made.append(Recorder())
            loop.stop()
            return made[0]

        task = loop.create_task(loop.create_connection(factory, *listener.address))
        loop.run_forever()
        assert made
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(made[0].until("lost"))
        loop.close()


@pytest.mark.parametrize("fails", [KeyError, KeyboardInterrupt])
def test_factory_raises_on_the_short_way(make_loop: Any, fails: type[BaseException]) -> None:
    with Listener() as listener:
        loop = make_loop()

        def factory() -> Recorder:
            raise fails

        with pytest.raises(fails):
            loop.run_until_complete(loop.create_connection(factory, *listener.address))
        loop.close()


@needs_ipv6
@pytest.mark.parametrize("host", ["::FFFF:127.0.0.1", "::ffff:7f00:1", "0::ffff:127.0.0.1"])
def test_the_error_tells_the_host_as_it_was_given(
    run: Callable[..., Any], closed_port: Callable[[], int], host: str
) -> None:
    port = closed_port()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, host, port)
        assert caught.value.strerror == f"Connect call failed {(host, port, 0, 0)}"

    run(main())
