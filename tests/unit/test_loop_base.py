"""The Python half of the loop: each test states what asyncio does and asks it of both loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import importlib
import logging
import re
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers import raised

import hotloop

Loop = asyncio.AbstractEventLoop


async def nothing() -> None:
    pass


# ---- run_until_complete ----


def test_run_until_complete_result_and_exception(anyloop: Loop) -> None:
    async def main(fail: bool) -> int:
        await asyncio.sleep(0)
        if fail:
            raise LookupError("no")
        return 7

    assert anyloop.run_until_complete(main(False)) == 7
    with pytest.raises(LookupError, match="no"):
        anyloop.run_until_complete(main(True))


def test_run_until_complete_of_a_done_future_still_runs_a_turn(anyloop: Loop) -> None:
    called = []
    future = anyloop.create_future()
    future.set_result(3)
    anyloop.call_soon(called.append, 1)
    assert anyloop.run_until_complete(future) == 3
    assert called == [1]


def test_run_until_complete_stopped_early(anyloop: Loop) -> None:
    task = None

    async def main() -> None:
        nonlocal task
        task = asyncio.current_task()
        anyloop.call_soon(anyloop.stop)
        await asyncio.sleep(3600)

    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        anyloop.run_until_complete(main())
    assert task is not None
    assert not task._log_destroy_pending  # type: ignore[attr-defined]
    assert not task._callbacks  # type: ignore[attr-defined]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        anyloop.run_until_complete(task)


def test_run_until_complete_leaves_a_given_future_as_it_was(anyloop: Loop) -> None:
    future = anyloop.create_future()
    anyloop.call_soon(anyloop.stop)
    with pytest.raises(RuntimeError, match="stopped before"):
        anyloop.run_until_complete(future)
    assert not future._callbacks  # type: ignore[attr-defined]
    future.cancel()


def test_run_until_complete_base_exception(anyloop: Loop) -> None:
    """It comes out at once, is not reported, and does not stop the loop's next run."""

    async def main(error: type[BaseException]) -> None:
        raise error

    for error in (SystemExit, KeyboardInterrupt):
        with pytest.raises(error):
            anyloop.run_until_complete(main(error))
        gc.collect()
    assert anyloop.run_until_complete(asyncio.sleep(0, "on")) == "on"


def test_run_until_complete_refuses(anyloop: Loop, loop_kind: str) -> None:
    async def main() -> None:
        coro = nothing()
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            anyloop.run_until_complete(coro)
        other = asyncio.SelectorEventLoop() if loop_kind != "asyncio" else hotloop.new_event_loop()
        with pytest.raises(
            RuntimeError, match=r"^Cannot run the event loop while another loop is running$"
        ):
            other.run_until_complete(coro)
        other.close()
        coro.close()

    anyloop.run_until_complete(main())
    with pytest.raises(TypeError, match=r"^An asyncio.Future, a coroutine or an awaitable is requ"):
        anyloop.run_until_complete(lambda: 1)  # type: ignore[arg-type]
    other = asyncio.SelectorEventLoop()
    future = other.create_future()
    with pytest.raises(ValueError, match="The future belongs to a different loop"):
        anyloop.run_until_complete(future)
    other.close()
    anyloop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        anyloop.run_until_complete(coro)
    coro.close()


# ---- running state ----


def test_running_loop_and_hooks_are_put_back(anyloop: Loop) -> None:
    before = sys.get_asyncgen_hooks()
    seen = []

    def look() -> None:
        seen.append(asyncio.get_running_loop())
        seen.append(sys.get_asyncgen_hooks() != before)

    anyloop.call_soon(look)
    anyloop.call_soon(anyloop.stop)
    anyloop.run_forever()
    assert seen == [anyloop, True]
    assert sys.get_asyncgen_hooks() == before
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_hooks_are_put_back_after_a_base_exception(anyloop: Loop) -> None:
    before = sys.get_asyncgen_hooks()
    anyloop.call_soon(sys.exit)
    with pytest.raises(SystemExit):
        anyloop.run_forever()
    assert sys.get_asyncgen_hooks() == before
    assert asyncio._get_running_loop() is None
    assert not anyloop.is_running()


def test_origin_tracking_follows_debug(anyloop: Loop) -> None:
    depths = []

    def look() -> None:
        depths.append(sys.get_coroutine_origin_tracking_depth())

    async def main() -> None:
        look()
        anyloop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        look()
        anyloop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        look()

    sys.set_coroutine_origin_tracking_depth(3)
    try:
        anyloop.set_debug(True)
        anyloop.run_until_complete(main())
        look()
    finally:
        sys.set_coroutine_origin_tracking_depth(0)
    assert depths == [10, 3, 10, 3]


# ---- repr, __del__ ----


def test_repr(anyloop: Loop) -> None:
    name = type(anyloop).__name__
    prefix = "hotloop." if isinstance(anyloop, hotloop.EventLoop) else ""
    anyloop.set_debug(False)
    assert repr(anyloop) == f"<{prefix}{name} running=False closed=False debug=False>"
    anyloop.set_debug(True)
    anyloop.close()
    assert repr(anyloop) == f"<{prefix}{name} running=False closed=True debug=True>"


def test_unclosed_loop_warns_and_closes(backend: str) -> None:
    loop = hotloop.new_event_loop(backend)
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match=r"^unclosed event loop <hotloop\.EventLoop running=F"):
        del loop
        gc.collect()
    assert gone() is None


def test_loop_that_could_not_be_made_does_not_warn(backends_here: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="abacus") as caught:
            hotloop.new_event_loop("abacus")
        gc.collect()
    assert all(name in str(caught.value) for name in backends_here)


# ---- exception handlers ----


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_default_handler_text(anyloop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    stack = asyncio.format_helpers.extract_stack(sys._getframe(), 1)  # type: ignore[attr-defined]
    error = ZeroDivisionError("by zero")
    anyloop.default_exception_handler(
        {"message": "it broke", "exception": error, "zebra": 1, "apple": "x"}
    )
    anyloop.call_exception_handler({"source_traceback": stack, "future": 3})
    anyloop.call_exception_handler({"handle_traceback": stack})
    anyloop.call_exception_handler({})
    assert messages(caplog)[0] == "it broke\napple: 'x'\nzebra: 1"
    info = caplog.records[0].exc_info
    assert info is not None
    assert info[:2] == (ZeroDivisionError, error)
    lines = messages(caplog)[1].split("\n")
    assert lines[:3] == [
        "Unhandled exception in event loop",
        "future: 3",
        "source_traceback: Object created at (most recent call last):",
    ]
    assert "test_default_handler_text" in lines[3]
    assert "handle_traceback: Handle created at (most recent call last):" in messages(caplog)[2]
    assert messages(caplog)[3] == "Unhandled exception in event loop"
    assert not caplog.records[3].exc_info
    assert all(record.name == "asyncio" for record in caplog.records)


def test_handle_traceback_in_debug(anyloop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LookupError("x")

    anyloop.set_debug(True)
    anyloop.call_soon(fail)
    anyloop.run_until_complete(nothing())
    assert messages(caplog)[0].startswith("Exception in callback test_handle_traceback_in_debug.")
    assert "\nsource_traceback: Object created at" in messages(caplog)[0]
    assert "in test_handle_traceback_in_debug" in messages(caplog)[0]

    caplog.clear()
    anyloop.call_soon(anyloop.call_exception_handler, {"message": "m"})
    anyloop.run_until_complete(nothing())
    assert messages(caplog)[0].startswith(
        "m\nhandle_traceback: Handle created at (most recent call last):\n"
    )


def test_custom_handler(anyloop: Loop) -> None:
    got: list[Any] = []
    handler = lambda *args: got.append(args)  # noqa: E731
    assert anyloop.get_exception_handler() is None
    anyloop.set_exception_handler(handler)
    assert anyloop.get_exception_handler() is handler
    context = {"message": "m"}
    anyloop.call_exception_handler(context)
    assert got == [(anyloop, context)]
    with pytest.raises(TypeError, match=r"^A callable object or None is expected, got 'spam'$"):
        anyloop.set_exception_handler("spam")  # type: ignore[arg-type]
    assert anyloop.get_exception_handler() is handler
    anyloop.set_exception_handler(None)
    assert anyloop.get_exception_handler() is None


def test_custom_handler_runs_in_the_context_of_the_thing(anyloop: Loop) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    context = contextvars.copy_context()
    context.run(var.set, "inside")
    got = []
    anyloop.set_exception_handler(lambda loop, context: got.append(var.get()))

    async def main() -> None:
        pass

    task = anyloop.create_task(main(), context=context)
    handle = anyloop.call_soon(lambda: None, context=context)
    for thing in ({"task": task}, {"future": task}, {"handle": handle}, {"handle": 3}, {}):
        anyloop.call_exception_handler(thing)
    assert got == ["inside", "inside", "inside", "none", "none"]
    anyloop.run_until_complete(task)


def test_handler_that_raises(anyloop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def handler(loop: Loop, context: dict[str, Any]) -> None:
        raise AttributeError("in the handler")

    anyloop.set_exception_handler(handler)
    anyloop.call_exception_handler({"message": "m"})
    assert messages(caplog) == ["Unhandled error in exception handler\ncontext: {'message': 'm'}"]
    info = caplog.records[0].exc_info
    assert info is not None
    assert info[0] is AttributeError


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_handler_that_exits(anyloop: Loop, error: type[BaseException]) -> None:
    def handler(loop: Loop, context: dict[str, Any]) -> None:
        raise error

    anyloop.set_exception_handler(handler)
    with pytest.raises(error):
        anyloop.call_exception_handler({"message": "m"})


def test_default_handler_that_raises(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    class Loop(hotloop.EventLoop):
        def default_exception_handler(self, context: dict[str, Any]) -> None:
            raise context.get("what", GeneratorExit)  # type: ignore[misc]

    loop = Loop(backend)
    loop.call_exception_handler({"what": OSError})
    loop.set_exception_handler(lambda loop, context: 1 / 0)
    loop.call_exception_handler({})
    assert messages(caplog) == [
        "Exception in default exception handler",
        "Exception in default exception handler while handling an unexpected error "
        "in custom exception handler",
    ]
    loop.set_exception_handler(None)
    with pytest.raises(KeyboardInterrupt):
        loop.call_exception_handler({"what": KeyboardInterrupt})
    loop.close()


# ---- executors ----


def test_run_in_executor(anyloop: Loop) -> None:
    async def main() -> Any:
        return await anyloop.run_in_executor(None, threading.current_thread)

    thread = anyloop.run_until_complete(main())
    assert thread is not threading.current_thread()
    assert thread.name.startswith("asyncio_")
    anyloop.run_until_complete(anyloop.shutdown_default_executor())
    assert not thread.is_alive()


def test_run_in_a_given_executor(anyloop: Loop) -> None:
    class Inline(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as exc:
                future.set_exception(exc)
            return future

    executor = Inline()
    assert anyloop.run_until_complete(anyloop.run_in_executor(executor, pow, 2, 5)) == 32
    with pytest.raises(ZeroDivisionError):
        anyloop.run_until_complete(anyloop.run_in_executor(executor, divmod, 1, 0))
    with pytest.raises(TypeError, match=r"^executor must be ThreadPoolExecutor instance$"):
        anyloop.set_default_executor(executor)  # type: ignore[arg-type]


def test_default_executor_is_the_one_set(anyloop: Loop) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        anyloop.set_default_executor(executor)
        name = anyloop.run_until_complete(
            anyloop.run_in_executor(None, lambda: threading.current_thread().name)
        )
        assert name == "mine_0"


def test_run_in_executor_checks_in_debug(anyloop: Loop) -> None:
    anyloop.set_debug(True)
    coro = nothing()
    with pytest.raises(TypeError, match=r"^coroutines cannot be used with run_in_executor\(\)$"):
        anyloop.run_in_executor(None, coro)  # type: ignore[arg-type]
    coro.close()
    with pytest.raises(TypeError, match=r"^coroutines cannot be used with run_in_executor\(\)$"):
        anyloop.run_in_executor(None, nothing)
    with pytest.raises(
        TypeError, match=r"^a callable object was expected by run_in_executor\(\), g"
    ):
        anyloop.run_in_executor(None, 3)  # type: ignore[arg-type]


def test_executor_after_shutdown_and_close(anyloop: Loop) -> None:
    anyloop.run_until_complete(anyloop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
        anyloop.run_in_executor(None, print)
    with ThreadPoolExecutor(1) as executor:
        assert anyloop.run_until_complete(anyloop.run_in_executor(executor, pow, 2, 3)) == 8
    anyloop.close()
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        anyloop.run_in_executor(None, print)


def test_close_does_not_wait_for_the_executor(anyloop: Loop) -> None:
    release, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(60)

    future = anyloop.run_in_executor(None, work)
    started.wait(60)
    future.cancel()
    anyloop.run_until_complete(nothing())
    anyloop.close()
    release.set()


def test_shutdown_default_executor_timeout(backend: str, make_loop: Any) -> None:
    loop = make_loop()
    release, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(60)

    async def main() -> None:
        future = loop.run_in_executor(None, work)
        started.wait(60)
        with pytest.warns(RuntimeWarning, match=r"executor did not .* within 0\.01 seconds"):
            await loop.shutdown_default_executor(timeout=0.01)
        release.set()
        await future

    loop.run_until_complete(main())


def test_a_cancelled_job_is_taken_off_the_executor(anyloop: Loop) -> None:
    release, started = threading.Event(), threading.Event()
    ran = []

    def work() -> None:
        started.set()
        release.wait(60)

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            first = anyloop.run_in_executor(executor, work)
            waiting = anyloop.run_in_executor(executor, ran.append, 1)
            started.wait(60)
            assert waiting.cancel()
            await asyncio.sleep(0)  # the executor hears of it in the next turn
            release.set()
            await first
        assert ran == []

    anyloop.run_until_complete(main())


def test_jobs_that_the_executor_cancels(anyloop: Loop) -> None:
    release, started = threading.Event(), threading.Event()

    def work() -> int:
        started.set()
        release.wait(60)
        return 1

    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        first = anyloop.run_in_executor(executor, work)
        waiting = anyloop.run_in_executor(executor, work)
        started.wait(60)
        executor.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        release.set()
        assert await first == 1

    anyloop.run_until_complete(main())


@pytest.mark.parametrize(
    "kind",
    [
        concurrent.futures.CancelledError,
        concurrent.futures.InvalidStateError,
        concurrent.futures.TimeoutError,
        KeyError,
        pytest.param(
            StopIteration,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 13), reason="a future of 3.12 refuses it and never ends"
            ),
        ),
    ],
)
def test_what_a_job_raises(kind: type[Exception], anyloop: Loop) -> None:
    def fail() -> None:
        raise kind("why")

    async def main(loop: Loop) -> Any:
        try:
            await loop.run_in_executor(None, fail)
        except BaseException as exc:
            return type(exc), exc.args, type(exc.__cause__)

    stock = asyncio.new_event_loop()
    got = []
    for loop in (anyloop, stock):
        got.append(loop.run_until_complete(main(loop)))
        loop.run_until_complete(loop.shutdown_default_executor())
    stock.close()
    assert got[0] == got[1]


@pytest.mark.parametrize("end", ["result", "exception", "cancelled"])
def test_a_job_that_ends_in_the_loops_own_thread(end: str, anyloop: Loop) -> None:
    """asyncio settles the future at once from 3.14 on, in a callback before that."""
    made: list[Future[Any]] = []

    class Later(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            made.append(Future())
            return made[-1]

    async def main() -> Any:
        future = anyloop.run_in_executor(Later(), print)
        if end == "result":
            made[0].set_result(1)
        elif end == "exception":
            made[0].set_exception(KeyError())
        else:
            made[0].cancel()
        seen = [future.done()]
        for _ in range(2):
            await asyncio.sleep(0)
            seen.append(future.done())
        if end != "cancelled":
            future.exception()
        return seen

    at_once = sys.version_info >= (3, 14)
    assert anyloop.run_until_complete(main()) == [at_once, True, True]


def test_a_job_that_ends_after_the_loop_is_closed(anyloop: Loop, caplog: Any) -> None:
    made: list[Future[Any]] = []

    class Later(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            made.append(Future())
            return made[-1]

    futures = [anyloop.run_in_executor(Later(), print) for _ in range(2)]
    futures[1].cancel()
    anyloop.run_until_complete(nothing())
    anyloop.close()
    made[0].set_result(1)
    made[1].cancel()
    assert not futures[0].done()
    assert not caplog.records


def test_a_job_has_the_same_names_in_texts(anyloop: Loop) -> None:
    """In the future's repr, and in the report about a result that nobody waits for any more."""
    made: list[Future[Any]] = []

    class Later(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            made.append(Future())
            return made[-1]

    def texts(loop: Loop) -> list[str]:
        found = []
        loop.set_exception_handler(lambda loop, context: found.append(context["message"]))
        future = loop.run_in_executor(Later(), print)
        found.append(repr(future))
        future.set_result(1)
        loop.run_until_complete(nothing())
        made.pop().set_result(2)
        loop.run_until_complete(nothing())
        loop.set_exception_handler(None)
        return [re.sub(r" at [^ ]+:\d+| at 0x\w+", "", text) for text in found]

    stock = asyncio.new_event_loop()
    expected = texts(stock)
    stock.close()
    assert texts(anyloop) == expected
    assert len(expected) == 2


# ---- asynchronous generators ----


def test_shutdown_asyncgens(anyloop: Loop) -> None:
    ended = []

    async def generate() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    agen = generate()

    async def main() -> None:
        await anext(agen)

    anyloop.run_until_complete(main())
    assert not ended
    anyloop.run_until_complete(anyloop.shutdown_asyncgens())
    assert ended == [1]
    late = generate()

    async def too_late() -> None:
        with pytest.warns(ResourceWarning, match="was scheduled after loop.shutdown_asyncgens"):
            await anext(late)
        await late.aclose()

    anyloop.run_until_complete(too_late())


def test_shutdown_asyncgens_reports(anyloop: Loop) -> None:
    async def generate() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise LookupError("at the end")

    agen = generate()

    async def main() -> None:
        await anext(agen)

    got: list[dict[str, Any]] = []
    anyloop.set_exception_handler(lambda loop, context: got.append(context))
    anyloop.run_until_complete(main())
    anyloop.run_until_complete(anyloop.shutdown_asyncgens())
    (context,) = got
    assert context["message"] == (
        f"an error occurred during closing of asynchronous generator {agen!r}"
    )
    assert isinstance(context["exception"], LookupError)
    assert context["asyncgen"] is agen


def test_dropped_asyncgen_is_closed_by_the_loop(anyloop: Loop) -> None:
    ended = anyloop.create_future()

    async def generate() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            ended.set_result(asyncio.get_running_loop())

    async def main() -> None:
        async for _ in generate():
            break
        gc.collect()
        assert await ended is anyloop

    anyloop.run_until_complete(main())


# ---- names and addresses ----

HOSTS: list[Any] = [
    "127.0.0.1", b"127.0.0.1", "::1", b"::1", "0.0.0.0", "::", "::ffff:1.2.3.4", "1.2.3",
    "127.1", "0x7f.0.0.1", "0127.0.0.1", "256.0.0.1", "::1%lo", "fe80::1%nosuch", "::1%1", "[::1]",
    " 127.0.0.1", "127.0.0.1 ", "127.0.0.1\0", "1" * 70, "", b"", None, 127,
    bytearray(b"127.0.0.1"), "\u0661.2.3.4",
]  # fmt: skip
PORTS: list[Any] = [
    80, "80", b"80", None, "http", b"http", "", b"", 0, -1, 65535, 65536, 70000, 2**40, "070",
    "80 ", "+80", "\u0668\u0660", True, 1.5, "nosuchservice",
]  # fmt: skip
KEYWORDS: list[dict[str, Any]] = [
    {},
    {"type": socket.SOCK_STREAM},
    {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP},
    {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP},
    {"type": socket.SOCK_RAW},
    {"type": 77},
    {"family": socket.AF_INET},
    {"family": socket.AF_INET6},
    {"family": socket.AF_UNIX},
    {"family": 999},
    {"flags": socket.AI_PASSIVE},
    {"flags": socket.AI_CANONNAME},
    {"flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV},
    {"flags": socket.AI_ADDRCONFIG},
    {"flags": socket.AI_V4MAPPED, "family": socket.AF_INET6},
    {"flags": 1 << 20},
    {"flags": None},
    {"type": socket.SOCK_STREAM, "flags": 0.0},
]


def is_local(host: Any) -> bool:
    """Would the C library answer it without asking a name server?"""
    return host not in ("256.0.0.1", "[::1]", " 127.0.0.1", "127.0.0.1 ", "\u0661.2.3.4")


async def outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except Exception as exc:
        return type(exc), exc.args


async def plainly(*args: Any, **kwargs: Any) -> Any:
    return socket.getaddrinfo(*args, **kwargs)


@pytest.mark.parametrize("host", [h for h in HOSTS if is_local(h)], ids=ascii)
def test_getaddrinfo_answers_as_socket_does(host: Any, make_loop: Any) -> None:
    loop = make_loop()

    async def main() -> None:
        for port in PORTS:
            for keywords in KEYWORDS:
                expected = await outcome(plainly(host, port, **keywords))
                got = await outcome(loop.getaddrinfo(host, port, **keywords))
                assert got == expected, (host, port, keywords)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, 1, 2, 3, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:1.2.3.4", "1:0:0:0:0:0:0:8"])
def test_getaddrinfo_gives_the_same_types(host: str, kind: int, make_loop: Any) -> None:
    loop = make_loop()
    for port in (0, 80, 65535, 65536, -1, True, 1 << 70):
        for proto in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 999):
            asked = {"type": kind, "proto": proto}
            expected = loop.run_until_complete(outcome(plainly(host, port, **asked)))
            got = loop.run_until_complete(outcome(loop.getaddrinfo(host, port, **asked)))
            assert repr(got) == repr(expected), (port, asked)
    loop.run_until_complete(loop.shutdown_default_executor())


def test_numeric_literals_are_resolved_without_an_executor(make_loop: Any) -> None:
    loop = make_loop()
    loop.run_until_complete(loop.shutdown_default_executor())
    expected = socket.getaddrinfo("127.0.0.1", 80)
    assert loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80)) == expected
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_until_complete(loop.getaddrinfo("localhost", 80))


@pytest.mark.parametrize("where", ["socket", "_socket"])
def test_a_replaced_getaddrinfo_is_asked(
    where: str, make_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    module = importlib.import_module(where)
    real = module.getaddrinfo

    def fake(*args: Any) -> Any:
        asked.append(args)
        return real(*args)

    monkeypatch.setattr(module, "getaddrinfo", fake)
    loop = make_loop()
    loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
    assert asked == [("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0, 0)]


AUDITED = """
import asyncio, socket, sys, hotloop
events = []
sys.addaudithook(lambda name, args: events.append(args) if name == "socket.getaddrinfo" else None)
asked = [("127.0.0.1", 80, socket.SOCK_STREAM, 0), ("::1", 0, 2, socket.IPPROTO_UDP)]
for host, port, type, proto in asked:
    socket.getaddrinfo(host, port, type=type, proto=proto)
loop = hotloop.new_event_loop()
for host, port, type, proto in asked:
    loop.run_until_complete(loop.getaddrinfo(host, port, type=type, proto=proto))
loop.close()
assert len(events) == 4 and events[:2] == events[2:], events
"""


def test_an_audit_hook_hears_of_numeric_literals() -> None:
    subprocess.run([sys.executable, "-c", AUDITED], check=True, timeout=60)


def test_numeric_literals_need_no_thread(make_loop: Any) -> None:
    loop = make_loop()
    loop.run_in_executor = None

    async def main() -> None:
        for host in ("127.0.0.1", b"10.0.0.1", "::1", b"::ffff:1.2.3.4"):
            for port in (80, "80", b"80", None):
                for keywords in ({}, {"type": socket.SOCK_STREAM}, {"flags": socket.AI_PASSIVE}):
                    assert await loop.getaddrinfo(host, port, **keywords)

    loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.getaddrinfo("127.0.0.1", 80).send(None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_getaddrinfo_log_in_debug(
    host: str, anyloop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    anyloop.set_debug(True)
    asked = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
    anyloop.run_until_complete(anyloop.getaddrinfo(host, 80, **asked))
    anyloop.slow_callback_duration = 0.0
    anyloop.run_until_complete(anyloop.getaddrinfo(host, 80))
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if "address info" in r.message]
    query = f"{host}:80, type={asked['type']!r}, flags={asked['flags']!r}"
    assert lines[0] == ("DEBUG", f"Get address info {query}")
    assert lines[1][0] == "DEBUG"
    assert lines[1][1].startswith(f"Getting address info {query} took ")
    assert "ms: [(<AddressFamily." in lines[1][1]
    assert lines[2] == ("DEBUG", f"Get address info {host}:80")
    assert lines[3][0] == "INFO"
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


def test_getnameinfo(anyloop: Loop) -> None:
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    got = anyloop.run_until_complete(anyloop.getnameinfo(("127.0.0.1", 80), flags))
    assert got == ("127.0.0.1", "80")
    with pytest.raises(TypeError):
        anyloop.run_until_complete(anyloop.getnameinfo("127.0.0.1"))  # type: ignore[arg-type]
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


# ---- closing ----


def test_close(anyloop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
            anyloop.close()

    anyloop.run_until_complete(main())
    anyloop.set_debug(True)
    caplog.clear()
    shown = repr(anyloop)
    anyloop.close()
    anyloop.close()
    assert messages(caplog) == [f"Close {shown}"]


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"name": "n"},
        {"context": None},
        {"eager_start": False},
        {"priority": 3},
        dict.fromkeys("abcdefgh", 1),
    ],
    ids=lambda keywords: "".join(keywords) or "none",
)
def test_what_a_task_factory_is_handed(same, keywords):
    """From 3.14 on whatever create_task() was given, also what no Task of asyncio's knows."""

    def scenario(loop):
        handed = []

        async def main():
            pass

        def factory(loop, coro, **kwargs):
            handed.append(kwargs)
            coro.close()
            return "anything"

        coro = main()
        loop.set_task_factory(factory)
        try:
            answer = raised(loop.create_task, coro, **keywords)
        finally:
            coro.close()
        return answer, handed

    same(scenario)
