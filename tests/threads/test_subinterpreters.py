"""Interpreters with a GIL of their own, a loop in each."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from interplib import Interpreter

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="3.12's own _asyncio crashes in them; test_subinterpreters of the features",
)

WORK = """
import asyncio, os, socket
import hotloop

ROUNDS = {rounds}

async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()

async def talk(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(ROUNDS):
        line = b"%d %d\\n" % ({number}, number)
        writer.write(line)
        assert await reader.readexactly(len(line)) == line
    writer.close()
    await writer.wait_closed()

async def child(number):
    await asyncio.sleep(0)
    return number

async def main():
    loop = asyncio.get_running_loop()
    assert type(loop) is hotloop.EventLoop, loop
    assert {{task.get_loop() for task in asyncio.all_tasks()}} == {{loop}}
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(talk(port) for _ in range(3)))
    server.close()
    await server.wait_closed()
    assert await asyncio.gather(*map(child, range(ROUNDS))) == list(range(ROUNDS))
    assert await loop.run_in_executor(None, lambda: 42) == 42
    done = loop.create_future()
    loop.call_later(0.001, done.set_result, {number})
    assert await done == {number}
    try:
        loop.add_signal_handler(1, print)
    except (RuntimeError, ValueError):
        pass
    else:
        raise AssertionError("a signal handler, in this interpreter")

hotloop.run(main())
os.write({fd}, b"{number}\\n")
"""


@pytest.fixture
def interpreters() -> Iterator[list[Interpreter]]:
    made = [Interpreter() for _ in range(3)]
    yield made
    for one in made:
        one.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_one_at_a_time(interpreters: list[Interpreter], pipe: tuple[int, int]) -> None:
    for number, one in enumerate(interpreters):
        one.run(WORK.format(rounds=50, number=number, fd=pipe[1]))
    assert os.read(pipe[0], 100) == b"0\n1\n2\n"


def test_again_in_the_same_interpreter(
    interpreters: list[Interpreter], pipe: tuple[int, int]
) -> None:
    for _ in range(3):
        interpreters[0].run(WORK.format(rounds=20, number=1, fd=pipe[1]))
    assert os.read(pipe[0], 100) == b"1\n1\n1\n"


def test_side_by_side(
    interpreters: list[Interpreter], pipe: tuple[int, int], make_loop: Any
) -> None:
    """Three of them in threads, and a loop of the main interpreter that waits for them."""
    loop = make_loop()
    errors: list[BaseException] = []

    def work(one: Interpreter, number: int) -> None:
        try:
            one.run(WORK.format(rounds=300, number=number, fd=pipe[1]))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(one, number)) for number, one in enumerate(interpreters)
    ]

    async def main() -> int:
        turns = 0
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.001)
            turns += 1
        assert len(asyncio.all_tasks()) == 1, "those of other interpreters are shown here"
        return turns

    assert loop.run_until_complete(main()) > 0
    assert not errors, errors[0]
    assert sorted(os.read(pipe[0], 100).split()) == [b"0", b"1", b"2"]


def test_signals_stay_with_the_main_one(
    interpreters: list[Interpreter], pipe: tuple[int, int], make_loop: Any
) -> None:
    """A loop elsewhere neither takes nor loses them."""
    loop = make_loop()
    seen: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    interpreters[0].run(WORK.format(rounds=5, number=0, fd=pipe[1]))
    os.kill(os.getpid(), signal.SIGUSR1)

    async def main() -> None:
        while not seen:
            await asyncio.sleep(0.001)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert loop.remove_signal_handler(signal.SIGUSR1)


LEFT = {
    "closed": "loop.close()",
    "forgotten": "del loop",
    "kept": "",
    "pending": "task = loop.create_task(never()); loop.run_until_complete(asyncio.sleep(0))",
    "queued": "loop.call_soon(print, 'never'); loop.call_later(60, print, 'never')",
    "cycle": "loop.itself = loop; loop.call_later(60, loop.stop)",
}


@pytest.mark.parametrize("left", LEFT)
def test_ends_with_a_loop(left: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An interpreter that ends with a loop in any state takes it along, and no one else's."""
    one = Interpreter()
    one.run(
        """
        import asyncio, hotloop, logging, warnings
        warnings.simplefilter("ignore")
        logging.disable()
        async def never():
            await asyncio.get_running_loop().create_future()
        loop = hotloop.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        """
        + LEFT[left]
    )
    one.close()
    assert "never" not in capfd.readouterr().out
