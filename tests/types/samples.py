"""Programs as users write them: the lint has mypy read them, strictly; nothing here is run."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from collections.abc import Coroutine
from typing import Any, assert_type

import hotloop


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def the_doors() -> None:
    assert_type(hotloop.run(answer()), int)
    assert_type(hotloop.run(answer(), debug=True, backend="select"), int)
    assert_type(asyncio.run(answer(), loop_factory=hotloop.new_event_loop), int)
    with asyncio.Runner(loop_factory=hotloop.new_event_loop) as runner:
        assert_type(runner.run(answer()), int)
    loop = hotloop.new_event_loop()
    assert_type(loop, hotloop.EventLoop)
    assert_type(loop.run_until_complete(answer()), int)
    loop.close()
    hotloop.install()
    policy: asyncio.AbstractEventLoopPolicy = hotloop.EventLoopPolicy()
    asyncio_loop: asyncio.AbstractEventLoop = policy.new_event_loop()
    asyncio_loop.close()


async def scheduling(loop: hotloop.EventLoop) -> None:
    def callback(a: int, b: str) -> None: ...

    handle: asyncio.Handle = loop.call_soon(callback, 1, "x")
    handle.cancel()
    timer = loop.call_later(0.5, callback, 1, "x", context=contextvars.copy_context())
    assert_type(timer.when(), float)
    loop.call_soon(callback, 1)  # type: ignore[arg-type]  # an argument is missing
    loop.call_soon_threadsafe(callback, 1, "x")
    assert_type(loop.time(), float)
    assert_type(await loop.run_in_executor(None, len, "x"), int)


async def futures_and_tasks(loop: hotloop.EventLoop) -> None:
    task: asyncio.Task[int] = loop.create_task(answer())
    assert_type(await task, int)
    ours: hotloop.Future[str] = hotloop.Future(loop=loop)
    ours.set_result("x")
    assert_type(await ours, str)
    ours.set_result(1)  # type: ignore[arg-type]  # no str
    future: asyncio.Future[Any] = loop.create_future()
    future.add_done_callback(lambda done: done.result())
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(answer()).result(), int)


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def connections(loop: hotloop.EventLoop, context: ssl.SSLContext) -> None:
    server: asyncio.AbstractServer = await loop.create_server(Echo, "127.0.0.1", 0, ssl=context)
    async with server:
        transport, protocol = await loop.create_connection(Echo, "127.0.0.1", 1, ssl=context)
        assert_type(protocol, Echo)
        transport.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", 1)
    writer.write(await reader.read(10))
    process = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
    assert_type(await process.wait(), int)


def factory[T](
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    return hotloop.Task(coro, loop=loop, **options)
