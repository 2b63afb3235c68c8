"""Flaws of asyncio that the scenarios came upon: hotloop does not repeat them.

Each test plays its few lines on hotloop, and on stock asyncio: the flaw must be there on the
versions it was seen on, and only there among those that were looked at (3.12.1, 3.13.0, 3.14 and
3.15). Releases between them may have mended it or not.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from typing import Any

import hotloop

Factory = Callable[[], asyncio.AbstractEventLoop]

OLD = sys.version_info[:3] in ((3, 12, 1), (3, 13, 0))
NEW = sys.version_info >= (3, 14)


class Notes(asyncio.Protocol):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def eof_received(self) -> bool:
        self.calls.append("eof_received")
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("connection_lost")
        self.lost.set()


async def one_end() -> tuple[Notes, Any]:
    near, far = socket.socketpair()
    notes = Notes()
    await asyncio.get_running_loop().create_connection(lambda: notes, sock=near)
    far.setblocking(False)
    return notes, far


async def drained(far: Any, size: int) -> int:
    loop, total = asyncio.get_running_loop(), 0
    while total < size:
        total += len(await loop.sock_recv(far, 65536))
    return total


def shows(factory: Factory, body: Callable[[], Any]) -> Any:
    """What the body returns; exceptions are what it may also return."""

    async def main() -> Any:
        try:
            return await body()
        except Exception as exc:
            return type(exc).__name__

    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(main())
    gc.collect()
    return result


def both(backend: str, body: Callable[[], Any]) -> tuple[Any, Any]:
    ours = shows(lambda: hotloop.new_event_loop(backend), body)
    return ours, shows(asyncio.SelectorEventLoop, body)


def test_writelines_and_the_high_mark(backend: str) -> None:
    async def body() -> Any:
        notes, far = await one_end()
        notes.transport.writelines([bytes(1_000_000)] * 3)
        paused = notes.calls[:]
        notes.transport.abort()
        await notes.lost.wait()
        far.close()
        return paused

    ours, stock = both(backend, body)
    assert ours == ["pause_writing"]
    assert not OLD or stock == []
    assert not NEW or stock == ours


def test_writelines_with_empty_parts(backend: str) -> None:
    async def body() -> Any:
        notes, far = await one_end()
        notes.transport.set_write_buffer_limits(high=1 << 30)
        notes.transport.writelines([b"", b"x", b""])
        await drained(far, 1)
        notes.transport.close()
        for _ in range(20):
            await asyncio.sleep(0)
        ended = notes.lost.is_set()
        notes.transport.abort()
        far.close()
        await asyncio.sleep(0)
        return ended

    ours, stock = both(backend, body)
    assert ours is True
    assert not OLD or stock is False
    assert not NEW or stock == ours


def test_writelines_when_it_is_over(backend: str) -> None:
    async def body() -> Any:
        notes, far = await one_end()
        notes.transport.abort()
        await notes.lost.wait()
        far.close()
        notes.transport.writelines([b"late"])
        return "nothing"

    ours, stock = both(backend, body)
    assert ours == "nothing"
    assert not OLD or stock == "AttributeError"
    assert not NEW or stock == ours


async def closed_with_data_waiting() -> Any:
    notes, far = await one_end()
    notes.transport.write(bytes(1_000_000))
    notes.transport.close()
    await drained(far, 1_000_000)
    await notes.lost.wait()
    far.close()
    return notes.transport


def test_abort_when_it_is_over(backend: str) -> None:
    async def body() -> Any:
        (await closed_with_data_waiting()).abort()
        return "nothing"

    ours, stock = both(backend, body)
    assert ours == "nothing"
    assert not OLD or stock == "AttributeError"
    assert not NEW or stock == ours


def test_write_when_it_is_over(backend: str) -> None:
    async def body() -> Any:
        (await closed_with_data_waiting()).write(b"late")
        return "nothing"

    ours, stock = both(backend, body)
    assert ours == "nothing"
    assert not OLD or stock == "AttributeError"
    assert not NEW or stock == ours


def test_names_of_eager_tasks(backend: str) -> None:
    async def body() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        seen = []

        async def first_step() -> None:
            seen.append(asyncio.current_task().get_name())  # type: ignore[union-attr]

        await loop.create_task(first_step(), name="named")
        return seen

    ours, stock = both(backend, body)
    assert ours == ["named"]
    assert not OLD or stock != ours
    assert not NEW or stock == ours
