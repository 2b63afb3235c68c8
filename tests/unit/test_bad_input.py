"""Wrong arguments: the type of exception that asyncio raises, and a loop that goes on."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import sys
import warnings

import pytest
from helpers import raised, stream_pair, turn

NAN, INF = math.nan, math.inf


class Raises:
    """Every use of it is an error of its own."""

    def __call__(self, *args):
        raise ZeroDivisionError

    def __float__(self):
        raise ZeroDivisionError

    def __index__(self):
        raise ZeroDivisionError

    def __add__(self, other):
        raise ZeroDivisionError

    __radd__ = __lt__ = __gt__ = __add__

    def fileno(self):
        raise ZeroDivisionError


THINGS = [
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    NAN,
    INF,
    "text",
    b"bytes",
    [],
    (),
    {},
    object(),
    Raises(),
]


def calls(name):
    """Argument lists for a method: too few, too many, each thing in each place."""
    yield ()
    for thing in THINGS:
        yield (thing,)
        yield (thing, int)
        yield (int, thing)
        yield (thing, thing)
        yield (thing, int, thing)


def leaky(scenario, loop):
    """The answer of stock asyncio where it forgets to close a socket; we do not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        answer = scenario(loop)
        gc.collect()
    return answer


METHODS = [
    "call_later",
    "call_at",
    "set_task_factory",
    "set_exception_handler",
    "set_default_executor",
    "create_task",
    "run_until_complete",
    "remove_reader",
    "remove_writer",
    "add_signal_handler",
    "remove_signal_handler",
    "run_in_executor",
]


def argument_errors(loop, name):
    """What each bad call raises; nothing that is scheduled is left."""
    seen = []
    loop.set_exception_handler(lambda loop, context: None)
    for args in calls(name):
        if name == "run_in_executor" and (not args or args[0] is None):
            continue  # starts threads
        if name == "add_signal_handler" and args and args[0] in (0, 1, True):
            continue
        if name == "call_at" and args and not isinstance(args[0], int | float):
            continue  # asyncio takes it, and falls over it in the next turn
        try:
            answer = getattr(loop, name)(*args)
        except BaseException as exc:
            seen.append((plain_args(args), type(exc).__name__))
            continue
        seen.append((plain_args(args), "returned"))
        if isinstance(answer, asyncio.Handle):
            answer.cancel()
    loop.set_task_factory(None)
    loop.set_exception_handler(None)
    ran = []
    loop.call_soon(ran.append, 1)
    turn(loop)
    assert ran == [1]
    return seen


def plain_args(args):
    return [type(arg).__name__ if arg not in (0, 1, -1) else arg for arg in args]


@pytest.mark.parametrize("name", METHODS)
def test_arguments(same, name):
    same(argument_errors, name)


@pytest.mark.parametrize("name", ["call_soon", "call_soon_threadsafe"])
def test_callbacks_that_cannot_be_called(same, name, reports):
    """Found out when it is run, and reported then."""

    def scenario(loop):
        seen = []
        for args in ((), (None,), (1, 2), ("text",), (object(), 1)):
            try:
                getattr(loop, name)(*args)
                turn(loop)
                seen.append(len(reports))
            except TypeError:
                seen.append("TypeError")
        seen.append([record.exc_info[0].__name__ for record in reports])
        reports.clear()
        return seen

    same(scenario)


@pytest.mark.parametrize("name", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_unknown_keywords(anyloop, name):
    time_argument = (1,) if name in ("call_later", "call_at") else ()
    with pytest.raises(TypeError):
        getattr(anyloop, name)(*time_argument, int, nonsense=1)
    with pytest.raises(TypeError):
        getattr(anyloop, name)(*time_argument, int, **{"": 1})


def test_arguments_by_keyword(anyloop):
    seen = []
    anyloop.call_soon(callback=lambda: seen.append("soon"))
    anyloop.call_soon_threadsafe(callback=lambda: seen.append("threadsafe"))
    anyloop.call_later(delay=0, callback=lambda: seen.append("later"))
    anyloop.call_at(when=0, callback=lambda: seen.append("at"))
    turn(anyloop)
    assert sorted(seen) == ["at", "later", "soon", "threadsafe"]


@pytest.mark.parametrize("delay", [NAN, -NAN], ids=["nan", "-nan"])
@pytest.mark.parametrize("name", ["call_later", "call_at"])
def test_not_a_number(anyloop, name, delay):
    """Refused or run at some time, but the loop neither hangs nor loses other timers."""
    seen = []
    try:
        handle = getattr(anyloop, name)(delay, seen.append, "nan")
    except ValueError:
        handle = None
    for number in range(20):
        anyloop.call_later(0.001 * (number % 5), seen.append, number)
    timer = anyloop.call_later(60, anyloop.stop)

    async def main():
        async with asyncio.timeout(30):
            while len([one for one in seen if one != "nan"]) < 20:
                await asyncio.sleep(0.002)

    if handle is not None:
        handle.cancel()
    anyloop.run_until_complete(main())
    timer.cancel()


@pytest.mark.parametrize("delay", [NAN, INF, -INF, 1e400, -1, "1", None, 1j])
def test_sleep(same, delay):
    if delay != delay and sys.version_info < (3, 13):
        pytest.skip("asyncio.sleep() does not look at its argument: the timers' order decides")

    def scenario(loop):
        async def main():
            async with asyncio.timeout(0.005):
                await asyncio.sleep(delay)

        return raised(loop.run_until_complete, main())

    same(scenario)


@pytest.mark.parametrize(
    "options",
    [
        {"host": "127.0.0.1", "port": 1 << 16},
        {"host": "127.0.0.1", "port": -1},
        {"host": "127.0.0.1", "port": 1 << 70},
        {"host": "127.0.0.1", "port": "no such service"},
        {"host": "127.0.0.1", "port": 1.5},
        {"host": "127.0.0.1", "port": []},
        {"host": "127.0.0.1"},
        {"port": 80},
        {"host": 5, "port": 80},
        {"host": "127.0.0.1\0", "port": 80},
        {"host": "a" * 300, "port": 80},
        {"host": "127.0.0.1", "port": 80, "family": 999},
        {"host": "127.0.0.1", "port": 80, "ssl": "yes"},
        {"host": "127.0.0.1", "port": 80, "server_hostname": "x"},
        {"host": "127.0.0.1", "port": 80, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 80, "sock": 5},
        {"sock": "socket"},
        {"sock": None},
        {"nonsense": 1},
    ],
    ids=repr,
)
def test_create_connection(same, options):
    def scenario(loop):
        if "nonsense" in options:
            return raised(loop.create_connection, asyncio.Protocol, **options)
        return raised(loop.run_until_complete, loop.create_connection(asyncio.Protocol, **options))

    assert same(scenario) is not None


@pytest.mark.parametrize(
    "options",
    [
        {"host": "127.0.0.1", "port": 1 << 16},
        {"host": "127.0.0.1", "port": -1},
        {"host": "127.0.0.1", "port": 1 << 70},
        {"host": "127.0.0.1", "port": "no such service"},
        {"host": "192.0.2.1", "port": 0},
        {"host": ["127.0.0.1", 5], "port": 0},
        {"host": "127.0.0.1", "port": 0, "backlog": "x"},
        {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 0, "sock": 5},
        {},
        {"nonsense": 1},
    ],
    ids=repr,
)
def test_create_server(loop, stock_loop, options):
    def scenario(loop):
        if "nonsense" in options:
            return raised(loop.create_server, asyncio.Protocol, **options)
        return raised(loop.run_until_complete, loop.create_server(asyncio.Protocol, **options))

    assert scenario(loop) is not None
    assert scenario(loop) == leaky(scenario, stock_loop)


def test_sockets_of_the_wrong_kind(same):
    def scenario(loop):
        seen = []
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            for call in (
                lambda: loop.create_connection(asyncio.Protocol, sock=udp),
                lambda: loop.create_server(asyncio.Protocol, sock=udp),
                lambda: loop.connect_accepted_socket(asyncio.Protocol, udp),
            ):
                seen.append(raised(loop.run_until_complete, call()))
        return seen

    assert same(scenario) == [ValueError] * 3


def test_closed_sockets(same):
    def scenario(loop):
        seen = []
        for name in ("create_connection", "create_server"):
            sock = socket.socket()
            sock.close()
            coro = getattr(loop, name)(asyncio.Protocol, sock=sock)
            seen.append(raised(loop.run_until_complete, coro) is not None)
        return seen

    same(scenario)


@pytest.mark.parametrize("factory", [None, 5, "text", Raises()], ids=lambda v: type(v).__name__)
def test_protocol_factories(loop, stock_loop, factory):
    """The socket is closed and the error is the factory's."""

    def scenario(loop):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            coro = loop.create_connection(factory, *address)
            return raised(loop.run_until_complete, coro)

    assert scenario(loop) is not None
    assert scenario(loop) == leaky(scenario, stock_loop)


@pytest.mark.parametrize("data", ["text", None, 5, [1], object(), 1.5], ids=repr)
@pytest.mark.parametrize("method", ["write", "writelines"])
def test_transport_writes(same, data, method):
    def scenario(loop):
        async def main():
            with stream_pair() as (one, two):
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=one.dup())
                argument = data if method == "write" else [data]
                found = raised(getattr(transport, method), argument)
                transport.write(b"still works")
                assert await loop.sock_recv(two, 100) == b"still works"
                transport.close()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                return found

        return loop.run_until_complete(main())

    same(scenario)


def test_transport_limits(same):
    def scenario(loop):
        async def main():
            with stream_pair() as (one, _):
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=one.dup())
                seen = []
                for limits in ({"high": -1}, {"high": 1, "low": 2}, {"low": -5}, {"high": "x"}):
                    seen.append(raised(transport.set_write_buffer_limits, **limits))
                seen.append(transport.get_write_buffer_limits())
                seen.append(raised(transport.get_extra_info))
                seen.append(transport.get_extra_info("nonsense", "default"))
                transport.abort()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                return seen

        return loop.run_until_complete(main())

    same(scenario)


def test_foreign_futures_and_coroutines(anyloop, stock_loop):
    future = stock_loop.create_future()
    with pytest.raises(ValueError):
        anyloop.run_until_complete(future)

    async def main():
        with pytest.raises(ValueError):
            await asyncio.gather(future, anyloop.create_future())
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await future

    anyloop.run_until_complete(main())
    future.cancel()


def test_descriptors(same):
    """Closed, negative, huge, not numbers: the same types, and nothing watched."""
    import os

    def scenario(loop):
        seen = []
        one, two = os.pipe()
        os.close(one)
        os.close(two)
        for thing in (one, -1, 1 << 40, 1 << 70, "0", None, 1.5, object(), Raises()):
            for name in ("add_reader", "add_writer"):
                seen.append((type(thing).__name__, raised(getattr(loop, name), thing, int)))
        turn(loop, 2)
        return [(kind, error and error.__name__) for kind, error in seen]

    got = same(scenario)
    assert all(error for _, error in got)
