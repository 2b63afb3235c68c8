"""The sock_*() coroutines, next to stock asyncio's."""

from __future__ import annotations

import array
import asyncio
import errno
import gc
import io
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

Loop = Any
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def tcp() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    for sock in (a, b):
        sock.setblocking(False)
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def udp() -> Iterator[Pair]:
    socks = []
    for _ in range(2):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        socks.append(sock)
    yield socks[0], socks[1]
    for sock in socks:
        sock.close()


def run(loop: Loop, coro: Any) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(30):
            return await coro

    return loop.run_until_complete(limited())


async def soon(loop: Loop, coro: Any, func: Any, *args: Any) -> Any:
    """Awaits coro with func(*args) called once it waits."""
    task = loop.create_task(coro)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    func(*args)
    return await task


def test_are_coroutines(anyloop: Loop, pair: Pair) -> None:
    a = pair[0]
    for coro in (
        anyloop.sock_recv(a, 1),
        anyloop.sock_recv_into(a, bytearray(1)),
        anyloop.sock_recvfrom(a, 1),
        anyloop.sock_recvfrom_into(a, bytearray(1)),
        anyloop.sock_sendall(a, b""),
        anyloop.sock_sendto(a, b"", None),
        anyloop.sock_connect(a, None),
        anyloop.sock_accept(a),
        anyloop.sock_sendfile(a, None),
    ):
        assert asyncio.iscoroutine(coro)
        coro.close()


def test_recv_at_once_and_later(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    b.send(b"now")
    assert run(anyloop, anyloop.sock_recv(a, 10)) == b"now"
    assert run(anyloop, soon(anyloop, anyloop.sock_recv(a, 10), b.send, b"later")) == b"later"
    b.close()
    assert run(anyloop, anyloop.sock_recv(a, 10)) == b""
    assert anyloop.remove_reader(a) is False


def test_recv_into(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    buf = bytearray(10)
    b.send(b"now")
    assert run(anyloop, anyloop.sock_recv_into(a, buf)) == 3
    assert run(anyloop, soon(anyloop, anyloop.sock_recv_into(a, buf), b.send, b"later")) == 5
    assert bytes(buf[:5]) == b"later"
    view = memoryview(buf)[5:]
    b.send(b"x")
    assert run(anyloop, anyloop.sock_recv_into(a, view)) == 1
    with pytest.raises(TypeError):
        run(anyloop, anyloop.sock_recv_into(a, b"read-only"))


def test_recvfrom(anyloop: Loop, udp: Pair) -> None:
    a, b = udp
    here, there = a.getsockname(), b.getsockname()
    b.sendto(b"now", here)
    assert run(anyloop, anyloop.sock_recvfrom(a, 10)) == (b"now", there)
    assert run(anyloop, soon(anyloop, anyloop.sock_recvfrom(a, 10), b.sendto, b"later", here)) == (
        b"later",
        there,
    )
    buf = bytearray(10)
    b.sendto(b"into", here)
    assert run(anyloop, anyloop.sock_recvfrom_into(a, buf)) == (4, there)
    assert run(
        anyloop, soon(anyloop, anyloop.sock_recvfrom_into(a, buf, 2), b.sendto, b"ab", here)
    ) == (2, there)
    assert bytes(buf[:4]) == b"abto"
    with pytest.raises(ValueError):
        run(anyloop, anyloop.sock_recvfrom_into(a, bytearray(2), 20))


def test_sendto(anyloop: Loop, udp: Pair) -> None:
    a, b = udp
    assert run(anyloop, anyloop.sock_sendto(a, b"hello", b.getsockname())) == 5
    assert run(anyloop, anyloop.sock_recvfrom(b, 10)) == (b"hello", a.getsockname())
    with pytest.raises(OverflowError):
        run(anyloop, anyloop.sock_sendto(a, b"x", ("127.0.0.1", 70000)))


def test_sendall_more_than_fits(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    data = os.urandom(3_000_000)

    async def go() -> bytes:
        got = bytearray()
        task = anyloop.create_task(anyloop.sock_sendall(a, data))
        while len(got) < len(data):
            got += await anyloop.sock_recv(b, 65536)
        assert await task is None
        return bytes(got)

    assert run(anyloop, go()) == data
    assert anyloop.remove_writer(a) is False


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sendall_buffers(anyloop: Loop, pair: Pair, kind: Any) -> None:
    a, b = pair
    run(anyloop, anyloop.sock_sendall(a, kind(b"data")))
    assert b.recv(10) == b"data"
    run(anyloop, anyloop.sock_sendall(a, kind(b"")))


def test_sendall_wide_items(loop: Loop, pair: Pair) -> None:
    """Stock asyncio waits for room here and then sends parts of it twice."""
    a, b = pair
    data = array.array("i", range(100))
    run(loop, loop.sock_sendall(a, data))
    assert b.recv(1000) == data.tobytes()
    big = array.array("i", range(300_000))

    async def go() -> None:
        got = bytearray()
        task = loop.create_task(loop.sock_sendall(a, big))
        while len(got) < 4 * len(big):
            got += await loop.sock_recv(b, 65536)
        await task
        assert bytes(got) == big.tobytes()

    run(loop, go())


def test_sendall_error_while_waiting(anyloop: Loop, tcp: Pair) -> None:
    a, b = tcp
    b.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async def go() -> None:
        task = anyloop.create_task(anyloop.sock_sendall(a, bytes(20_000_000)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        b.close()
        with pytest.raises(ConnectionError):
            await task

    run(anyloop, go())


def test_connect_and_accept(anyloop: Loop) -> None:
    async def go(family: int, host: str) -> None:
        with socket.socket(family) as listener, socket.socket(family) as client:
            listener.bind((host, 0))
            listener.listen()
            listener.setblocking(False)
            client.setblocking(False)
            accepting = anyloop.create_task(anyloop.sock_accept(listener))
            await asyncio.sleep(0)
            assert await anyloop.sock_connect(client, listener.getsockname()) is None
            conn, address = await accepting
            with conn:
                assert conn.gettimeout() == 0
                assert address == client.getsockname()
                await anyloop.sock_sendall(client, b"hello")
                assert await anyloop.sock_recv(conn, 10) == b"hello"

    run(anyloop, go(socket.AF_INET, "127.0.0.1"))
    if socket.has_ipv6:
        run(anyloop, go(socket.AF_INET6, "::1"))


def test_connect_by_name(anyloop: Loop) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            await anyloop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    run(anyloop, go())
    run(anyloop, anyloop.shutdown_default_executor())


def test_connect_unix(anyloop: Loop) -> None:
    async def go(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(path)
            listener.listen()
            client.setblocking(False)
            await anyloop.sock_connect(client, path)

    with tempfile.TemporaryDirectory() as folder:
        run(anyloop, go(folder + "/s"))


def refusing_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
    return address


def test_connect_refused(anyloop: Loop) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        address = refusing_address()
        with pytest.raises(ConnectionRefusedError) as info:
            run(anyloop, anyloop.sock_connect(client, address))
        assert info.value.errno == errno.ECONNREFUSED
        assert str(address) in str(info.value)
        assert anyloop.remove_writer(client) is False


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 70000), ("127.0.0.1",), ("::1", 80), None, 5], ids=repr
)
def test_connect_bad_address(anyloop: Loop, address: Any) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises((OSError, TypeError, ValueError, OverflowError)) as info:
            run(anyloop, anyloop.sock_connect(client, address))
        assert not isinstance(info.value, TimeoutError)
    run(anyloop, anyloop.shutdown_default_executor())


def test_accept_several(anyloop: Loop) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            clients = []
            for _ in range(5):
                clients.append(socket.create_connection(listener.getsockname()))
                conn, address = await anyloop.sock_accept(listener)
                clients.append(conn)
                assert address == clients[-2].getsockname()
            for sock in clients:
                sock.close()

    run(anyloop, go())


def calls(loop: Loop, sock: socket.socket) -> dict[str, Any]:
    return {
        "recv": lambda: loop.sock_recv(sock, 10),
        "recv_into": lambda: loop.sock_recv_into(sock, bytearray(10)),
        "recvfrom": lambda: loop.sock_recvfrom(sock, 10),
        "recvfrom_into": lambda: loop.sock_recvfrom_into(sock, bytearray(10)),
        "sendall": lambda: loop.sock_sendall(sock, b"x"),
        "sendto": lambda: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
        "connect": lambda: loop.sock_connect(sock, ("127.0.0.1", 9)),
        "accept": lambda: loop.sock_accept(sock),
        "sendfile": lambda: loop.sock_sendfile(sock, io.BytesIO(b"x")),
    }


def test_blocking_socket_in_debug_mode(anyloop: Loop) -> None:
    anyloop.set_debug(True)
    with socket.socket() as sock:
        for call in calls(anyloop, sock).values():
            coro = call()
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                run(anyloop, coro)


def test_ssl_socket(anyloop: Loop) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with socket.socket() as plain:
        plain.setblocking(False)
        with context.wrap_socket(plain, do_handshake_on_connect=False) as sock:
            for call in calls(anyloop, sock).values():
                coro = call()
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    run(anyloop, coro)


def test_closed_socket(anyloop: Loop) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    for call in calls(anyloop, sock).values():
        coro = call()
        with pytest.raises(OSError, match=r"\[Errno 9\]"):
            run(anyloop, coro)


def test_cancel_leaves_no_watcher(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    waiting = ("recv", "recv_into", "recvfrom", "recvfrom_into")

    async def go() -> None:
        for name in waiting:
            task = anyloop.create_task(calls(anyloop, a)[name]())
            await asyncio.sleep(0)
            task.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert anyloop.remove_reader(a) is False
        task = anyloop.create_task(anyloop.sock_sendall(a, bytes(5_000_000)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert anyloop.remove_writer(a) is False

    run(anyloop, go())
    assert b.recv(1)


def test_cancelled_connect(anyloop: Loop) -> None:
    """The number of a descriptor whose connect was cancelled is free for its next user."""

    async def go() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = listener.getsockname()
            fillers = []
            while True:  # until the backlog is full and a connect has to wait
                client = socket.socket()
                client.setblocking(False)
                task = anyloop.create_task(anyloop.sock_connect(client, address))
                done, _ = await asyncio.wait([task], timeout=0.2)
                if not done:
                    break
                fillers.append(client)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert anyloop.remove_writer(client) is False
            client.close()
            for filler in fillers:
                filler.close()
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            b.send(b"x")
            assert await anyloop.sock_recv(a, 1) == b"x"

    run(anyloop, go())


def test_cancelled_accept_closes_what_came_too_late(loop: Loop) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            task = loop.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0)
            with socket.create_connection(listener.getsockname()) as client:
                while not task._fut_waiter.done():
                    await asyncio.sleep(0)
                    if task._fut_waiter is None:
                        pytest.skip("the task was woken before it could be cancelled")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                client.settimeout(30)
                assert client.recv(1) == b""

    run(loop, go())


def test_socket_closed_while_waiting(anyloop: Loop, pair: Pair) -> None:
    """The task stays put; cancelling it takes no watcher away from the number's next user."""
    a, b = pair
    got: list[str] = []

    async def go() -> None:
        task = anyloop.create_task(anyloop.sock_recv(a, 1))
        await asyncio.sleep(0)
        number = a.fileno()
        anyloop._add_reader(number, got.append, "second")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        b.send(b"x")
        while not got:
            await asyncio.sleep(0)
        assert anyloop.remove_reader(number) is True

    run(anyloop, go())


def test_two_writers_of_one_socket_and_a_reader(anyloop: Loop, pair: Pair) -> None:
    a, b = pair

    async def go() -> None:
        reading = anyloop.create_task(anyloop.sock_recv(a, 10))
        sending = anyloop.create_task(anyloop.sock_sendall(a, bytes(1_000_000)))
        await asyncio.sleep(0)
        total = 0
        while total < 1_000_000:
            total += len(await anyloop.sock_recv(b, 100_000))
        await sending
        await anyloop.sock_sendall(b, b"back")
        assert await reading == b"back"

    run(anyloop, go())


def test_nothing_is_kept(anyloop: Loop, pair: Pair) -> None:
    a, b = pair

    class Buffer(bytearray):
        pass

    async def go() -> None:
        buf = Buffer(10)
        await soon(anyloop, anyloop.sock_recv_into(a, buf), b.send, b"x")

    run(anyloop, go())
    gc.collect()
    assert not any(type(thing) is Buffer for thing in gc.get_objects())


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (5, 70_000), (0, 1)])
@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_sendfile(anyloop: Loop, tcp: Pair, offset: int, count: int | None, size: int) -> None:
    a, b = tcp
    data = os.urandom(size)
    expected = data[offset:][:count]

    async def go(file: Any) -> None:
        got = bytearray()
        task = anyloop.create_task(anyloop.sock_sendfile(a, file, offset, count))
        while len(got) < len(expected):
            got += await anyloop.sock_recv(b, 65536)
        assert await task == len(expected)
        assert bytes(got) == expected
        if expected:
            assert file.tell() == offset + len(expected)

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        run(anyloop, go(file))
    run(anyloop, go(io.BytesIO(data)))
    run(anyloop, anyloop.shutdown_default_executor())
    assert anyloop.remove_writer(a) is False


def test_sendfile_bad_arguments(anyloop: Loop, tcp: Pair, udp: Pair) -> None:
    a, _ = tcp
    with tempfile.TemporaryFile() as file:
        file.write(b"data")
        file.flush()

        def refused(error: type[Exception], *args: Any, **kwargs: Any) -> None:
            with pytest.raises(error):
                run(anyloop, anyloop.sock_sendfile(*args, **kwargs))

        refused(ValueError, udp[0], file)
        refused(TypeError, a, file, 1.5)
        refused(ValueError, a, file, -1)
        refused(TypeError, a, file, 0, "1")
        refused(ValueError, a, file, 0, 0)
        refused(ValueError, a, file, 0, -1)
        refused(asyncio.SendfileNotAvailableError, a, io.BytesIO(b"x"), fallback=False)
        with tempfile.TemporaryFile("w") as text:
            refused(ValueError, a, text)


def test_ensure_resolved_as_asyncio(anyloop: Loop) -> None:
    addresses: list[tuple[Any, ...]] = [
        ("127.0.0.1", 80),
        (b"127.0.0.1", 80),
        ("127.0.0.1", "80"),
        ("127.0.0.1", None),
        ("127.0.0.1", ""),
        ("127.0.0.1", b"80"),
        ("::1", 80),
        ("::1", 80, 1, 2),
    ]

    async def go(loop: Loop) -> list[Any]:
        found = []
        for address in addresses:
            for type in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                found += await loop._ensure_resolved(address, type=type, loop=loop)
        return found

    stock = asyncio.SelectorEventLoop()
    try:
        assert run(anyloop, go(anyloop)) == run(stock, go(stock))
    finally:
        stock.close()


# ---- the short way of sock_recv(), in C, and what keeps from it ----


def is_short(loop: Loop, sock: Any, size: Any = 10) -> bool:
    waiting = loop._recv(sock, size)
    if waiting is not None:
        waiting.close()
    return waiting is not None


def test_recv_short_way(loop: Loop, pair: Pair) -> None:
    class Own(socket.socket):
        pass

    a, _ = pair
    assert is_short(loop, a)
    for size in (0, -1, 1 << 30, 1 << 100, 10.0, True, None):
        assert not is_short(loop, a, size), size
    with Own(fileno=a.detach()) as own:
        own.setblocking(False)
        assert not is_short(loop, own)
        sock = socket.socket(fileno=own.detach())
        with sock:
            for timeout, short in ((None, False), (1, False), (0, True)):
                sock.settimeout(timeout)
                assert is_short(loop, sock) is short
        assert not is_short(loop, sock)
    assert not is_short(loop, object())


def test_recv_patched(anyloop: Loop, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair
    seen: list[int] = []

    def recv(self: socket.socket, size: int) -> bytes:
        seen.append(size)
        return plain(self, size)

    plain = socket.socket.recv

    async def main() -> None:
        waiting = asyncio.ensure_future(anyloop.sock_recv(a, 10))
        await asyncio.sleep(0)
        await anyloop.sock_sendall(b, b"one")
        assert await waiting == b"one"
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "recv", recv)
            await anyloop.sock_sendall(b, b"two")
            assert await anyloop.sock_recv(a, 11) == b"two"
        await anyloop.sock_sendall(b, b"three")
        assert await anyloop.sock_recv(a, 12) == b"three"
        assert seen == [11]

    run(anyloop, main())


@pytest.mark.parametrize("name", ["_add_reader", "_remove_reader", "create_future"])
def test_recv_overridden(loop: Loop, pair: Pair, name: str) -> None:
    a, b = pair
    calls: list[str] = []
    inherited = getattr(loop, name)

    def override(*args: Any) -> Any:
        calls.append(name)
        return inherited(*args)

    async def main() -> None:
        setattr(loop, name, override)
        assert not is_short(loop, a)
        waiting = asyncio.ensure_future(loop.sock_recv(a, 10))
        await asyncio.sleep(0)
        await loop.sock_sendall(b, b"one")
        assert await waiting == b"one"
        delattr(loop, name)
        assert calls
        assert is_short(loop, a)

    run(loop, main())


def test_recv_twice_on_one_socket(anyloop: Loop, pair: Pair) -> None:
    """The second takes the first one's place, which waits for ever."""
    a, b = pair

    async def main() -> None:
        first = asyncio.ensure_future(anyloop.sock_recv(a, 10))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(anyloop.sock_recv(a, 10))
        await asyncio.sleep(0)
        await anyloop.sock_sendall(b, b"x")
        assert await second == b"x"
        assert not first.done()
        first.cancel()
        third = asyncio.ensure_future(anyloop.sock_recv(a, 10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert first.cancelled()
        await anyloop.sock_sendall(b, b"y")
        assert await third == b"y"

    run(anyloop, main())


def test_recv_reset_while_waiting(anyloop: Loop, tcp: Pair) -> None:
    a, b = tcp

    async def main() -> None:
        waiting = asyncio.ensure_future(anyloop.sock_recv(a, 10))
        await asyncio.sleep(0)
        b.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        b.close()
        with pytest.raises(ConnectionResetError) as info:
            await waiting
        assert info.value.errno == errno.ECONNRESET
        assert anyloop.remove_reader(a) is False

    run(anyloop, main())


def test_recv_refuses_a_transports_socket(anyloop: Loop, tcp: Pair) -> None:
    a, _ = tcp

    async def main() -> None:
        transport, _ = await anyloop.create_connection(asyncio.Protocol, sock=a)
        transport.pause_reading()
        with pytest.raises(RuntimeError, match="is used by transport"):
            await anyloop.sock_recv(a, 10)
        transport.close()
        await asyncio.sleep(0)

    run(anyloop, main())


def test_recv_on_a_closed_loop(loop: Loop, pair: Pair) -> None:
    waiting = loop.sock_recv(pair[0], 10)
    waiting.send(None)
    loop.close()
    waiting.close()
