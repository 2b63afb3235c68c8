"""Bug classes 1-10: who owns a descriptor."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import warnings
from typing import Any

import pytest
from netlib import LIMIT, CountedFile, Recorder, finish, link, pipe_files, reader, tcp_pair, writer

PIPE = subprocess.PIPE


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.bug(1)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_cancelled_connect_closes_another_users_socket(run: Any, after: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        number = near.fileno()
        protocol = Recorder()
        task = asyncio.ensure_future(loop.create_connection(lambda: protocol, sock=near))
        await turns(after)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.abort()
        async with asyncio.timeout(LIMIT):
            while near.fileno() != -1:
                await asyncio.sleep(0.001)
        with pytest.raises(OSError):
            os.fstat(number)
        other, peer = tcp_pair()  # the next user of the number
        spare = os.dup(other.fileno())
        assert number in (other.fileno(), peer.fileno(), spare)
        near.close()
        del near, task
        gc.collect()
        await turns(3)
        os.fstat(number)
        other.sendall(b"mine")
        assert await loop.sock_recv(peer, 100) == b"mine"
        os.close(spare)
        for sock in other, peer, far:
            sock.close()

    run(main())


@pytest.mark.bug(2, fails_on=("uvloop",))
@pytest.mark.parametrize("end", ["read", "write"])
def test_pipe_closed_twice(run: Any, end: str) -> None:
    """The file object's close() finds its descriptor open, and is called once."""

    async def main() -> None:
        r, w = os.pipe()
        kept, other = CountedFile(r if end == "read" else w), w if end == "read" else r
        transport, protocol = await (reader if end == "read" else writer)(kept)
        transport.close()
        await protocol.until("lost")
        await turns(2)
        assert kept.closed == 1
        os.close(other)

    run(main())


@pytest.mark.bug(3)
def test_cancelled_sock_connect_leaves_the_number_in_use(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            fillers = []
            pending = None
            for _ in range(8):  # until one has to wait: the backlog is full
                sock = socket.socket()
                sock.setblocking(False)
                fillers.append(sock)
                pending = asyncio.ensure_future(loop.sock_connect(sock, address))
                await asyncio.wait([pending], timeout=0.05)
                if not pending.done():
                    break
            assert pending is not None
            assert not pending.done()
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            number = fillers[-1].fileno()
            fillers.pop().close()
        near, far = tcp_pair()
        assert number in (near.fileno(), far.fileno(), listener.fileno()) or number > 0
        for sock in near, far:
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda p=protocol: p, sock=sock)
            transport.abort()
            await protocol.until("lost")
        for sock in fillers:
            sock.close()

    run(main())


@pytest.mark.bug(4, fails_on=("uvloop", "rloop"))
def test_pipe_that_is_a_file_aborts_the_process(run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for connect, mode in (loop.connect_read_pipe, "rb"), (loop.connect_write_pipe, "wb"):
            with open(tmp_path / "file", "ab"), open(tmp_path / "file", mode) as file:
                with pytest.raises(ValueError, match="only"):
                    await connect(Recorder, file)
                await turns(2)
                os.fstat(file.fileno())

    run(main())


@pytest.mark.bug(5, fails_on=("rloop", "zuvloop"))
def test_watching_a_transports_descriptor_aborts_the_process(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        sock = one.transport.get_extra_info("socket")
        for watch in loop.add_reader, loop.add_writer:
            with pytest.raises(RuntimeError, match="is used by transport"):
                watch(sock.fileno(), print)
        for forget in loop.remove_reader, loop.remove_writer:
            with pytest.raises(RuntimeError, match="is used by transport"):
                forget(sock.fileno())
        await one.send(b"still read")
        assert await one.protocol.until_data(10) == b"still read"
        await finish(one)

    run(main())


async def events_of_another(times: int) -> None:
    """Lets the loop poll: until another watched socket was seen ready so often."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")
        for _ in range(times):
            seen = loop.create_future()
            loop.add_reader(near, lambda seen=seen: seen.done() or seen.set_result(None))
            await seen
            loop.remove_reader(near)


@pytest.mark.bug(6)
def test_watcher_of_a_closed_descriptor_fires_for_the_next_owner(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[int] = []
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, wrong.append, number)
        await turns(2)
        near.close()
        far.close()
        new, peer = socket.socketpair()
        assert number in (new.fileno(), peer.fileno())
        new.send(b"for the new owner")
        peer.send(b"for the new owner")
        await events_of_another(3)
        assert wrong == []
        loop.remove_reader(number)
        new.close()
        peer.close()

    run(main())


@pytest.mark.bug(6, fails_on=("uvloop", "zuvloop"))
@pytest.mark.asyncio_is_flawed("the new owner's watcher never fires: epoll is not told of it")
def test_new_owner_of_a_watched_number_is_not_heard(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[int] = []
        right: list[int] = []
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, wrong.append, number)
        await turns(2)
        near.close()
        far.close()
        new, peer = socket.socketpair()
        try:
            loop.add_reader(number, right.append, number)
            new.send(b"for the new owner")
            peer.send(b"for the new owner")
            await events_of_another(3)
            loop.remove_reader(number)
            assert wrong == []
            assert right
        finally:
            new.close()
            peer.close()

    run(main())


@pytest.mark.bug(7, fails_on=("zuvloop",))
def test_pipe_end_inherited_by_another_child(run: Any) -> None:
    """The second child keeps all it inherits, and yet the first one's stdin comes to its end."""

    async def main() -> None:
        first = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        second = await asyncio.create_subprocess_exec("cat", stdin=PIPE, close_fds=False)
        out, _ = await first.communicate(b"through")
        assert out == b"through"
        assert second.returncode is None
        await second.communicate()

    run(main())


@pytest.mark.bug(8, fails_on=("uvloop",))
def test_descriptors_leak_to_children_or_lose_their_mode(run: Any) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        leaked, other = socket.socketpair()
        near.setblocking(False)
        leaked.set_inheritable(True)
        code = f"""
import os, socket
socket.socket(fileno={near.fileno()}).send(b"hello")
try:
    os.fstat({leaked.fileno()})
    print("leaked")
except OSError:
    print("closed")
"""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, pass_fds=[near.fileno()]
        )
        out, _ = await child.communicate()
        assert out == b"closed\n"
        assert far.recv(10) == b"hello"
        assert not os.get_blocking(near.fileno())
        for sock in near, far, leaked, other:
            sock.close()

    run(main())


@pytest.mark.bug(8)
def test_freed_number_in_pass_fds_is_our_pipe(run: Any) -> None:
    """A number that is free when the child is started names none of the loop's own pipes."""

    async def main() -> None:
        r, w = os.pipe()
        os.close(w)
        os.close(r)
        code = f"import os; print([os.path.exists(f'/proc/self/fd/{{n}}') for n in ({r}, {w})])"
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, pass_fds=[r, w]
            )
        except OSError:
            return  # refused: just as well
        out, _ = await asyncio.wait_for(child.communicate(), 20)
        assert child.returncode == 0
        assert out.startswith(b"[")

    run(main())


@pytest.mark.bug(9)
def test_socket_leaked_when_set_up_fails(run: Any, tmp_path: Any) -> None:
    """No ResourceWarning on any of these ways out (and no descriptor: the fixtures look)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = taken.getsockname()
            nobody = unused.getsockname()
            missing = str(tmp_path / "no" / "path")
            for failing in (
                loop.create_unix_server(Recorder, missing),
                loop.create_unix_connection(Recorder, missing),
                loop.create_server(Recorder, *address),
                loop.create_connection(Recorder, *nobody),
                loop.create_connection(Recorder, *nobody, local_addr=address),
                loop.create_datagram_endpoint(Recorder, local_addr=("192.0.2.1", 1)),
            ):
                with pytest.raises(OSError):
                    await failing

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


@pytest.mark.bug(9, fails_on=("uvloop",))
@pytest.mark.asyncio_is_flawed("the socket of a failed connection waits for the collector")
def test_socket_leaked_when_the_protocol_cannot_be_made(run: Any) -> None:
    def failing() -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(failing, *listener.getsockname())
            with pytest.raises(ZeroDivisionError):
                await loop.create_datagram_endpoint(failing, local_addr=("127.0.0.1", 0))
            assert len(os.listdir("/proc/self/fd")) == before

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


@pytest.mark.bug(10)
def test_socket_view_alive_after_the_transport_closed(run: Any) -> None:
    """What get_extra_info("socket") gave never speaks for the number's next owner."""

    async def main() -> None:
        one = await link()
        view = one.transport.get_extra_info("socket")
        number = view.fileno()
        await finish(one)
        with pytest.raises(OSError, match="Bad file"):
            for _ in range(100):  # other loops close it turns later
                os.fstat(number)
                await asyncio.sleep(0.001)
        new, peer = tcp_pair()
        assert number in (new.fileno(), peer.fileno())
        assert view.fileno() == -1
        with pytest.raises(OSError):
            view.getsockname()
        with pytest.raises(OSError):
            view.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        new.close()
        peer.close()

    run(main())


@pytest.mark.bug(10)
def test_pipe_view_alive_after_the_transport_closed(run: Any) -> None:
    async def main() -> None:
        r, w = pipe_files()
        transport, protocol = await reader(r)
        transport.close()
        await protocol.until("lost")
        assert r.closed
        w.close()

    run(main())
