"""Bug classes 54-60: servers, names, lifetimes, releases."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import pathlib
import socket
import sys
import weakref
from typing import Any

import pytest
from dgramlib import endpoint, needs_ipv6
from dgramlib import finish as finish_dgram
from netlib import LIMIT, Recorder, finish, link

EMFILE = """
    import asyncio, resource, socket
    CLOSE = {close}
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
        made = []
        class Made(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
        server = await loop.create_server(Made, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.socket() for _ in range(3)]
        spare = []
        try:
            while True:
                spare.append(socket.socket())
        except OSError:
            pass
        for sock in clients:
            sock.connect(address)
        for _ in range(1000):
            if seen:
                break
            await asyncio.sleep(0.01)
        polls = 0
        while polls < 30:
            await asyncio.sleep(0.005)
            polls += 1
        print(len(seen), set(seen), len(made))
        if CLOSE:
            server.close()
        for sock in spare:
            sock.close()
        if CLOSE:
            await asyncio.sleep(1.2)
        else:
            while len(made) < 3:
                await asyncio.sleep(0.01)
        print(len(seen), len(made))
        for transport in made:
            transport.abort()
        server.close()
        await server.wait_closed()
        for sock in clients:
            sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
    loop = new_event_loop()
    loop.run_until_complete(asyncio.wait_for(main(), 40))
    loop.close()
"""


@pytest.mark.bug(54, fails_on=("uvloop", "rloop"))
@pytest.mark.asyncio_is_flawed("tries and reports as often as its backlog is long")
@pytest.mark.parametrize("close", [False, True])
def test_out_of_descriptors_storm_of_reports(program: Any, close: bool) -> None:
    """One report and a rest of a second; then the clients are served, unless it was closed."""
    out = program(EMFILE.format(close=close)).splitlines()
    assert out[0] == "1 {'socket.accept() out of system resource'} 0"
    assert out[1] == ("1 0" if close else "1 3")


@pytest.mark.bug(55, fails_on=("uvloop",))
def test_serve_forever_of_a_closed_server_hangs(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        serving = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(serving, LIMIT)
        with pytest.raises(RuntimeError, match="is closed"):
            await asyncio.wait_for(server.serve_forever(), LIMIT)

    run(main())


@pytest.mark.bug(55, fails_on=("uvloop",))
def test_wait_closed_does_not_wait(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        inside = Recorder()
        server = await loop.create_server(lambda: inside, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await inside.until("made")
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, LIMIT)

    run(main())


@pytest.mark.bug(55, fails_on=("uvloop",))
def test_host_named_twice_is_bound_twice(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        hosts = ["127.0.0.1", "127.0.0.1"]
        for server in (
            await loop.create_server(Recorder, hosts, 0),
            await loop.create_server(Recorder, hosts, 0, reuse_port=True),
        ):
            assert len(server.sockets) == 1
            server.close()
            await server.wait_closed()

    run(main())


@pytest.mark.bug(56)
def test_unix_path_of_a_successor_unlinked(run: Any, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "sock"
        first = await loop.create_unix_server(Recorder, path)
        os.unlink(path)
        second = await loop.create_unix_server(Recorder, path)
        first.close()
        assert path.exists()
        second.close()
        cleaned = not path.exists()
        for server in first, second:
            await server.wait_closed()
        assert cleaned is (sys.version_info >= (3, 13))  # before, nobody cleans up

    run(main())


@pytest.mark.bug(56)
def test_unix_path_that_is_no_socket_unlinked(run: Any, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_text("kept")
        with pytest.raises(OSError):
            await loop.create_unix_server(Recorder, path)
        assert path.read_text() == "kept"

    run(main())


@pytest.mark.bug(57)
def test_getaddrinfo_of_odd_hosts(run: Any) -> None:
    """What the socket module answers, by value or by exception."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for host, port in (
            ("", 80), (None, 80), ("", None), (None, "0"), ("127.0.0.1", "80"),
            (b"127.0.0.1", b"80"), ("::1", 80), ("127.1", 80), ("1", 0), ("127.0.0.1", -1),
            ("127.0.0.1", 70000), ("127.0.0.1", "no-such-service"), ("127.0.0.1\0", 1),
        ):  # fmt: skip
            for kind in socket.SOCK_STREAM, 0:
                expected = outcome_of(host, port, kind)
                try:
                    got: Any = await loop.getaddrinfo(host, port, type=kind)
                except Exception as exc:
                    got = (type(exc), *exc.args[:1])
                assert got == expected, (host, port, kind)
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo(None, None)
        assert caught.value.args[0] == socket.EAI_NONAME
        with pytest.raises(UnicodeError):
            await loop.getaddrinfo("x" * 70 + ".example", 1)

    run(main())


def outcome_of(host: Any, port: Any, kind: int) -> Any:
    try:
        return socket.getaddrinfo(host, port, type=kind)
    except Exception as exc:
        return (type(exc), *exc.args[:1])


@pytest.mark.bug(57, fails_on=("uvloop",))
@needs_ipv6
def test_zone_of_an_address_lost(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        index, name = next(one for one in socket.if_nameindex() if one[1] == "lo")
        for zone in name, str(index):
            found = await loop.getaddrinfo(f"fe80::1%{zone}", 80, type=socket.SOCK_STREAM)
            assert [one[4][3] for one in found] == [index]

    run(main())


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Told(Recorder):
    """Notes the context of every call."""

    def note(self, name: str, *what: Any) -> None:
        super().note(name, variable.get())


@pytest.mark.bug(58, fails_on=("rloop",))
def test_protocol_called_in_a_foreign_context(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Told] = []

        def factory() -> Told:
            made.append(Told())
            return made[-1]

        variable.set("server")
        server = await loop.create_server(factory, "127.0.0.1", 0)
        variable.set("client")
        protocol = Told()
        transport, _ = await loop.create_connection(
            lambda: protocol, *server.sockets[0].getsockname()
        )
        variable.set("later")
        transport.write(b"x")
        await protocol.until("made")
        async with asyncio.timeout(LIMIT):
            while not made:
                await asyncio.sleep(0)
        await made[0].until_data(1)
        made[0].transport.write(b"y")
        await protocol.until_data(1)
        transport.close()
        await protocol.until("lost")
        await made[0].until("lost")
        server.close()
        await server.wait_closed()
        assert set(protocol.events[:2]) == {("made", "client"), ("data", "client")}
        assert {one[1] for one in made[0].events} == {"server"}

    contextvars.copy_context().run(run, main())


@pytest.mark.bug(59)
@pytest.mark.asyncio_is_flawed(
    "transport and socket view are in a cycle", when=sys.version_info < (3, 14)
)
def test_closed_connection_waits_for_the_collector(run: Any) -> None:
    async def main() -> None:
        one = await link()
        refs = [weakref.ref(one.transport), weakref.ref(one.protocol)]
        gc.collect()
        gc.disable()
        try:
            await finish(one)
            one.protocol.transport = None
            del one
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [ref() for ref in refs] == [None, None]
        finally:
            gc.enable()

    run(main())


@pytest.mark.bug(59, fails_on=("uvloop", "rloop"))
def test_transport_is_no_asyncio_transport(run: Any) -> None:
    async def main() -> None:
        one = await link()
        datagrams, _ = await endpoint()
        for transport, kind in (
            (one.transport, asyncio.Transport),
            (datagrams, asyncio.DatagramTransport),
        ):
            assert isinstance(transport, kind)
            assert weakref.ref(transport)() is transport
            assert len({transport, transport}) == 1
        await finish(one)
        await finish_dgram(datagrams)

    run(main())


@pytest.mark.bug(59)
def test_closed_loop_never_freed(program: Any) -> None:
    out = program("""
        import asyncio, gc, weakref
        async def main():
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(1000, print)
        refs = []
        for _ in range(10):
            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            refs.append(weakref.ref(loop))
        del loop
        gc.collect()
        print(sum(ref() is not None for ref in refs))
    """)
    assert out == "0"


@pytest.mark.bug(60, fails_on=("uvloop",))
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="no policy makes a loop there any more")
def test_policy_makes_no_loop(program: Any, loop_kind: str) -> None:
    """asyncio.get_event_loop() in the main thread makes a loop, under a policy as without."""
    name = loop_kind.partition("-")[0]
    policy = "DefaultEventLoopPolicy" if name == "asyncio" else "EventLoopPolicy"
    out = program(f"""
        import asyncio, warnings, {name}
        warnings.simplefilter("ignore")
        asyncio.set_event_loop_policy({name}.{policy}())
        loop = asyncio.get_event_loop()
        assert loop is asyncio.get_event_loop()
        print(loop.run_until_complete(asyncio.sleep(0, "made")))
        loop.close()
    """)
    assert out == "made"


@pytest.mark.bug(60)
def test_built_for_the_builders_processor(run: Any) -> None:
    """No flag of the build names a processor (run on no loop in particular)."""
    top = pathlib.Path(__file__).parents[2]
    for name in "setup.py", "Makefile", "pyproject.toml":
        text = (top / name).read_text()
        assert "-march" not in text
        assert "-mtune" not in text
