"""What several unit tests need."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

Loop = asyncio.AbstractEventLoop
LONG = 60.0  # seconds; what is only there so that a failure ends


def turn(loop: Loop, times: int = 1) -> None:
    """Runs the loop for exactly so many turns."""
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


def run(loop: Loop, main: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> Any:
    """run_until_complete() that cannot hang."""

    async def bounded() -> Any:
        async with asyncio.timeout(LONG):
            return await main

    return loop.run_until_complete(bounded())


def count_turns(loop: Loop, main: Any) -> tuple[int, Any]:
    """How many turns run_until_complete(main) takes, and its outcome."""
    turns = 0
    handle: asyncio.Handle | None = None

    def tick() -> None:
        nonlocal turns, handle
        turns += 1
        handle = loop.call_soon(tick)

    handle = loop.call_soon(tick)
    try:
        answer = outcome(loop.run_until_complete, main)
    finally:
        handle.cancel()
        turn(loop)
    return turns, answer


def plain(text: str) -> str:
    """A repr or message without what differs from one object or loop to the next."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"Task-\d+", "Task-N", text)
    return text.replace("hotloop._core.", "").replace("hotloop.", "").replace("_asyncio.", "")


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """('returned', value) or ('raised', type, message), for comparing two calls."""
    try:
        value = call(*args, **kwargs)
    except BaseException as exc:
        return ("raised", type(exc), plain(str(exc)))
    if value is None or isinstance(value, bool | int | float | str | bytes | tuple | list | dict):
        return ("returned", plain(repr(value)))
    return ("returned", type(value).__name__)


def raised(call: Callable[..., Any], *args: Any, **kwargs: Any) -> type[BaseException] | None:
    """The type of what the call raises; None if it returns."""
    try:
        call(*args, **kwargs)
    except BaseException as exc:
        return type(exc)
    return None


@contextmanager
def stream_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected, non-blocking sockets."""
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two non-blocking sockets, connected over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


@contextmanager
def in_thread(target: Callable[..., Any], *args: Any) -> Iterator[threading.Thread]:
    """Runs target in a thread for the time of the block; what it raises is raised here."""
    failed: list[BaseException] = []

    def body() -> None:
        try:
            target(*args)
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(LONG)
        assert not thread.is_alive(), "the thread did not end"
    if failed:
        raise failed[0]
