"""anyio on hotloop: task groups, cancel scopes, sockets, threads, processes, through its runner."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from reallib import flat, prove_ours

anyio: Any = pytest.importorskip("anyio", reason="make integration installs it")

Run = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    """anyio.run() with hotloop as its asyncio back end's loop."""

    def start(main: Callable[[], Any]) -> Any:
        async def proved() -> Any:
            await prove_ours()
            with anyio.fail_after(300):
                return await main()

        return anyio.run(proved, backend="asyncio", backend_options={"loop_factory": loop_factory})

    return start


def test_task_group_and_memory_stream(run: Run) -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](10)
        got: list[int] = []

        async def produce(sender: Any, start: int) -> None:
            async with sender:
                for i in range(start, start + 100):
                    await sender.send(i)

        async def consume() -> None:
            async with receive:
                async for item in receive:
                    got.append(item)

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            async with send:
                for start in range(0, 1000, 100):
                    group.start_soon(produce, send.clone(), start)
        assert sorted(got) == list(range(1000))

    run(main)


def test_cancel_scopes_nested_and_shielded(run: Run) -> None:
    async def main() -> None:
        log: list[str] = []

        async def worker(name: str) -> None:
            try:
                await anyio.sleep(3600)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                    log.append(name)

        with anyio.move_on_after(0.05) as outer:
            async with anyio.create_task_group() as group:
                for i in range(10):
                    group.start_soon(worker, f"w{i}")
                with anyio.move_on_after(0.01) as inner:
                    await anyio.sleep(3600)
                assert inner.cancelled_caught
                assert not log
        assert outer.cancelled_caught
        assert sorted(log) == [f"w{i}" for i in range(10)]

    run(main)


def test_error_in_one_cancels_the_others(run: Run) -> None:
    async def main() -> None:
        ended = 0

        async def wait() -> None:
            nonlocal ended
            try:
                await anyio.sleep(3600)
            finally:
                ended += 1

        async def fail() -> None:
            await anyio.lowlevel.checkpoint()
            raise KeyError("x")

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wait)
                group.start_soon(fail)
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]
        assert ended == 20

    run(main)


def test_sockets(run: Run) -> None:
    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def handle(stream: Any) -> None:
            async with stream:
                async for chunk in stream:
                    await stream.send(chunk)

        async def talk(n: int) -> None:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                data = bytes([n]) * 100_000
                async with anyio.create_task_group() as both:
                    both.start_soon(stream.send, data)
                    got = b""
                    while len(got) < len(data):
                        got += await stream.receive()
                assert got == data

        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, handle)
            async with anyio.create_task_group() as clients:
                for n in range(20):
                    clients.start_soon(talk, n)
            group.cancel_scope.cancel()
        await listener.aclose()

    run(main)


def test_unix_and_udp_sockets(run: Run, tmp_path: Any) -> None:
    async def main() -> None:
        async with await anyio.create_unix_listener(tmp_path / "s") as listener:

            async def handle(stream: Any) -> None:
                async with stream:
                    await stream.send((await stream.receive()).upper())

            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, handle)
                async with await anyio.connect_unix(tmp_path / "s") as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"HELLO"
                group.cancel_scope.cancel()
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as one:
            port = one.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as two:
                await two.send(b"ping")
                data, sender = await one.receive()
                assert data == b"ping"
                await one.sendto(b"pong", *sender)
                assert await two.receive() == b"pong"

    run(main)


def test_threads_and_processes(run: Run) -> None:
    async def main() -> None:
        def work(n: int) -> int:
            anyio.from_thread.run(anyio.sleep, 0)
            return n * n

        results: dict[int, int] = {}

        async def one(n: int) -> None:
            results[n] = await anyio.to_thread.run_sync(work, n)

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(one, n)
        assert results == {n: n * n for n in range(50)}

        code = "import sys; sys.stdout.write(sys.stdin.read().upper())"
        done = await anyio.run_process([sys.executable, "-c", code], input=b"text" * 10_000)
        assert done.stdout == b"TEXT" * 10_000
        with anyio.move_on_after(0.05):
            await anyio.run_process([sys.executable, "-c", "import time; time.sleep(3600)"])

    run(main)


def test_flat_over_task_groups(run: Run) -> None:
    async def step() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(anyio.sleep, 3600)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    run(lambda: flat(step))
