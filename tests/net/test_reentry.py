"""Callbacks that do the unusual: fork, end the connection by hand, come back to life."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import warnings
from typing import Any

import pytest
from dgramlib import LOST, endpoint
from netlib import LIMIT, BufferedRecorder, Link, Recorder, finish, link, tcp_pair

import hotloop


async def full(one: Link) -> None:
    """The socket takes no more, but the transport does not know it yet."""
    sock = socket.socket(fileno=os.dup(one.transport.get_extra_info("socket").fileno()))
    with sock:
        sock.setblocking(False)
        try:
            while True:
                sock.send(bytes(65536))
        except BlockingIOError:
            pass


def test_fork_while_held_writes_leave(run: Any) -> None:
    """pause_writing() may start a child, before which all held writes leave: also these."""

    class Forks(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            with warnings.catch_warnings():  # threads of earlier tests may still be ending
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    async def main() -> None:
        first, last = await link(), await link()
        stuck = await link(Forks())
        await full(stuck)
        stuck.transport.set_write_buffer_limits(high=0)
        first.transport.write(b"first")
        stuck.transport.write(b"stuck")
        last.transport.write(b"last")
        await asyncio.sleep(0)
        assert stuck.protocol.names().count("pause") == 1
        assert await first.recv(5) == b"first"
        assert await last.recv(4) == b"last"
        first.transport.write(b"again")  # the list of held writes is as good as new
        last.transport.write(b"too")
        assert await first.recv(5) == b"again"
        assert await last.recv(3) == b"too"
        await finish(first, last, stuck)

    run(main())


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
def test_nothing_works_after_connection_lost_by_hand(hotrun: Any, kind: type[Recorder]) -> None:
    """asyncio's transports have no loop any more and raise AttributeError."""

    async def main() -> None:
        one = await link(kind())
        t = one.transport
        t.pause_reading()
        t._call_connection_lost(None)
        t.resume_reading()
        t.write(b"x")
        t.writelines([b"x"])
        t.write_eof()
        t.set_write_buffer_limits(high=0)
        t.close()
        t.abort()
        t._call_connection_lost(None)
        assert t.is_closing()
        assert t.get_write_buffer_size() == 0
        assert one.protocol.names() == ["made", "lost"]
        one.far.close()
        await asyncio.sleep(0)

    hotrun(main())


@pytest.mark.parametrize("method", ["data_received", "eof_received", "get_buffer"])
def test_connection_lost_by_hand_while_reading(
    hotrun: Any, handled_hot: list[Any], method: str
) -> None:
    base = BufferedRecorder if method == "get_buffer" else Recorder

    class Ends(base):  # type: ignore[misc,valid-type]
        pass

    def end(self: Any, *args: Any) -> Any:
        self.transport._call_connection_lost(None)
        stranger.append(os.open("/dev/null", os.O_RDONLY))  # takes the number
        return bytearray(5) if method == "get_buffer" else True

    setattr(Ends, method, end)
    stranger: list[int] = []

    async def main() -> None:
        one = await link(Ends())
        if method == "eof_received":
            one.far.close()
        else:
            await one.send(b"hello")
        await one.protocol.until("lost")
        await asyncio.sleep(0)
        one.far.close()

    hotrun(main())
    for fd in stranger:
        os.close(fd)
    assert len(stranger) == 1


@pytest.mark.parametrize("kind", ["stream", "write pipe"])
def test_brought_back_by_the_warning(hotrun: Any, kind: str) -> None:
    """The ResourceWarning of an abandoned transport names it: whoever keeps that has it again.

    Its descriptor is closed by then, and the number may be a stranger's.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, peer = socket.socketpair()
        peer.setblocking(False)
        if kind == "stream":
            near, far = tcp_pair()
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            transport.pause_reading()  # nothing but us keeps it now
            others = [far.detach()]
        else:
            master, slave = os.openpty()  # a terminal's writing end is not watched
            transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(slave, "wb", 0))
            others = [master]
        number = transport.get_extra_info("socket" if kind == "stream" else "pipe").fileno()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport, protocol
            await asyncio.sleep(0)
            gc.collect()
        back = [w.source for w in caught if "unclosed transport" in str(w.message)]
        assert len(back) == 1
        stranger = os.dup2(left.fileno(), number)
        back[0].write(b"to nobody")
        if kind == "stream":
            back[0].writelines([b"to nobody"])
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        back[0].abort()
        await asyncio.sleep(0)
        os.close(stranger)
        left.close()
        peer.close()
        for fd in others:
            os.close(fd)

    hotrun(main())


def test_datagram_endpoint_ended_by_its_socket(hotrun: Any, handled_hot: list[Any]) -> None:
    class Odd(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            transport._call_connection_lost(None)
            return b"data", None

    transport: Any = None

    async def main() -> None:
        nonlocal transport
        sock = Odd(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", sock.getsockname())
        transport, protocol = await endpoint(sock=sock)
        await protocol.until_event(LOST)
        await asyncio.sleep(0)
        assert protocol.got == []

    hotrun(main())
    assert [type(context["exception"]) for context in handled_hot] == [AttributeError]


def test_close_from_call_later_while_out_of_descriptors(backend: str, reports: list[Any]) -> None:
    """asyncio accepts on, from the socket that is closed by then, and reports that as well."""

    class Loop(hotloop.EventLoop):
        def call_later(self, delay: float, callback: Any, *args: Any, **kw: Any) -> Any:
            if delay == 1:
                server.close()
            return super().call_later(delay, callback, *args, **kw)

    server: Any = None

    async def main() -> None:
        nonlocal server
        server = await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.socket() as sock:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            used = os.dup(0)
            os.close(used)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            try:
                sock.connect(address)
                async with asyncio.timeout(LIMIT):
                    while server.is_serving():
                        await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.sleep(0)

    loop = Loop(backend=backend)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert len(reports) == 1
    assert "socket.accept() out of system resource" in reports[0].message


def test_backlog_of_zero(hotrun: Any) -> None:
    """Up to 3.13 asyncio accepts none of them, and turns at full speed meanwhile."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, backlog=0)
        _, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        async with asyncio.timeout(LIMIT):
            while not server._clients:
                await asyncio.sleep(0)
        server.close_clients()
        await protocol.until("lost")
        server.close()
        await server.wait_closed()

    hotrun(main())


def test_a_stale_transport_does_not_stop_its_successor(hotrun: Any) -> None:
    """Its socket was closed by somebody else, and another connection got the number."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: made.pop(), "127.0.0.1", 0)
        one, made = await link(), [new := Recorder()]
        far = socket.socket()
        far.connect(server.sockets[0].getsockname())
        number = one.transport._sock.fileno()
        one.transport._sock.close()
        await new.until("made")
        assert new.transport._sock.fileno() == number
        one.transport.abort()
        await one.lost()
        far.sendall(b"hello")
        await new.until_data(5)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(number, print)
        one.far.close()
        server.close()
        await finish(Link(loop, new, new.transport, far))

    hotrun(main())


class Odd:
    """A buffer that has `call` run when it is taken, when it is given back, or when asked."""

    def __init__(self, when: str, call: Any, data: bytearray) -> None:
        self.when, self.call, self.data = when, call, data

    def run(self, when: str) -> None:
        if when == self.when:
            self.when = ""
            self.call()

    def __buffer__(self, flags: int) -> memoryview:
        self.run("taken")
        return memoryview(self.data)

    def __release_buffer__(self, view: memoryview) -> None:
        self.run("given back")
        view.release()

    def __len__(self) -> int:
        self.run("len")
        return len(self.data)

    def __bool__(self) -> bool:
        self.run("bool")
        return True

    def __del__(self) -> None:
        self.run("gone")


ENDS = ["abort", "close", "_call_connection_lost"]


def ender(transport: Any, end: str) -> Any:
    args = (None,) if end == "_call_connection_lost" else ()
    return lambda: getattr(transport, end)(*args)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("when", ["taken", "given back", "len", "bool", "gone"])
def test_buffers_that_run_code(hotrun: Any, handled_hot: list[Any], when: str, end: str) -> None:
    """In writelines(), in get_buffer(), and as what eof_received() returns."""

    class Gets(BufferedRecorder):
        def get_buffer(self, hint: int) -> Any:
            self.buffer = bytearray(16)
            return Odd(when, ender(self.transport, end), self.buffer)

        def eof_received(self) -> Any:
            super().eof_received()
            return Odd(when, ender(self.transport, end), bytearray(1))

    async def main() -> None:
        one = await link()
        for held in (b"", b"held"):
            if held:
                one.transport.write(held)
            one.transport.writelines(
                [b"a", Odd(when, ender(one.transport, end), bytearray(b"b")), b"c"]
            )
        one.transport.abort()
        await one.lost()
        one.far.close()
        two = await link(Gets())
        with contextlib.suppress(OSError):
            await two.send(b"hello")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await two.send(b"again")
        two.far.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        two.transport.abort()
        await two.lost()
        assert two.protocol.names().count("lost") == 1

    hotrun(main())
    assert {type(context["exception"]) for context in handled_hot} <= {AttributeError}


@pytest.mark.parametrize("end", ENDS)
def test_lengths_and_addresses_that_run_code(hotrun: Any, end: str) -> None:
    class Long(bytearray):
        call: Any = None

        def __len__(self) -> int:
            call, self.call = self.call, None
            if call is not None:
                call()
            return super().__len__()

    class Address(tuple[Any, ...]):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            ender(transport, end)()
            return True

        __hash__ = tuple.__hash__

    transport: Any = None

    async def main() -> None:
        nonlocal transport
        loop = asyncio.get_running_loop()
        one = await link()
        data = Long(b"data")
        data.call = ender(one.transport, end)
        one.transport.write(data)
        one.transport.abort()
        await one.lost()
        one.far.close()
        transport, protocol = await endpoint(remote_addr=("127.0.0.1", 9))
        transport.sendto(b"x", Address(("127.0.0.1", 9)))
        transport.abort()
        await protocol.until_event(LOST)
        r, w = os.pipe()
        pipe, recorder = await loop.connect_write_pipe(Recorder, os.fdopen(w, "wb", 0))
        data = Long(b"data")
        data.call = ender(pipe, end)
        pipe.write(data)
        pipe.abort()
        await recorder.until("lost")
        os.close(r)

    hotrun(main())


@pytest.mark.parametrize("what", ["closes itself", "schedules", "raises", "lies"])
def test_fileno_that_runs_code(hotrun: Any, what: str) -> None:
    class Sock(socket.socket):
        def fileno(self) -> int:
            number = super().fileno()
            if what == "closes itself":
                self.close()
            elif what == "raises":
                raise LookupError("no number")
            elif what == "lies":
                return 1 << 40
            else:
                asyncio.get_running_loop().call_soon(int)
            return number

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for call in (
            lambda s: loop.create_connection(Recorder, sock=s),
            lambda s: loop.connect_read_pipe(Recorder, s),
            lambda s: loop.connect_write_pipe(Recorder, s),
            lambda s: loop.sock_recv(s, 10),
        ):
            near, far = socket.socketpair()
            sock = Sock(near.family, near.type, near.proto, near.detach())
            sock.setblocking(False)
            task = asyncio.ensure_future(call(sock))
            await asyncio.wait([task], timeout=0.05)
            far.close()
            try:
                result = await task
            except (OSError, ValueError, LookupError, OverflowError):
                result = None
            if isinstance(result, tuple):
                transport, protocol = result
                (getattr(transport, "abort", transport.close))()
                await protocol.until("lost")
            sock.close()

    hotrun(main())
