"""What a second thread with a loop of its own brings on a free-threaded Python.

    python benchmarks/threads.py [--rounds N] [--seconds S]

Runs echo (a client and a server on each loop, over loopback) and task work (trees of tasks that
await each other) for a fixed time on one thread, on two threads, and, as the control, in two
processes; in turns, several rounds of each, and prints the medians and how many times the work of
one two of them do, by the clock and by the processor time that they got. By the clock it holds
only where two processors are free; the other figure takes out what other programs take, and with
it what threads lose by sleeping while another has a lock: there, compare with the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import hotloop

Work = Callable[[float], Coroutine[Any, Any, int]]


async def echo(seconds: float) -> int:
    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    class Client(Server):
        count = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"x" * 1024)

        def data_received(self, data: bytes) -> None:
            self.count += 1
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    ends = [await loop.create_connection(Client, *address) for _ in range(10)]
    await asyncio.sleep(seconds)
    done = sum(client.count for _, client in ends)
    for transport, _ in ends:
        transport.abort()
    server.close()
    await asyncio.sleep(0)
    return done


async def tasks(seconds: float) -> int:
    async def leaf() -> int:
        await asyncio.sleep(0)
        return 1

    async def tree() -> int:
        loop = asyncio.get_running_loop()
        return sum([await task for task in [loop.create_task(leaf()) for _ in range(50)]])

    done, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        done += await tree()
    return done


class Rate(NamedTuple):
    clock: float  # operations a second
    cpu: float  # operations a second of processor time, times the threads that there are


def work(which: Work, seconds: float) -> Rate:
    """On a loop of its own, in this thread."""
    began, cpu = time.perf_counter(), time.thread_time()
    with asyncio.Runner(loop_factory=hotloop.new_event_loop) as runner:
        count = runner.run(which(seconds))
    cpu = time.thread_time() - cpu
    return Rate(count / (time.perf_counter() - began), count / cpu)


def together(found: list[Rate]) -> Rate:
    return Rate(sum(one.clock for one in found), sum(one.cpu for one in found))


def in_threads(which: Work, seconds: float, count: int) -> Rate:
    found: list[Rate] = []
    gate = threading.Barrier(count)

    def one() -> None:
        gate.wait()
        found.append(work(which, seconds))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return together(found)


def process(which: Work, seconds: float, gate: Any, found: Any) -> None:
    gate.wait()
    found.put(tuple(work(which, seconds)))


def in_processes(which: Work, seconds: float, count: int) -> Rate:
    context = multiprocessing.get_context("spawn")
    gate, found = context.Barrier(count), context.SimpleQueue()
    args = (which, seconds, gate, found)
    made = [context.Process(target=process, args=args) for _ in range(count)]
    for one in made:
        one.start()
    rates = [Rate(*found.get()) for _ in made]
    for one in made:
        one.join()
    return together(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, GIL {'on' if gil else 'off'}")
    for which in (echo, tasks):
        ways: dict[str, tuple[Callable[[Work, float, int], Rate], int]] = {
            "one thread": (in_threads, 1),
            "two threads": (in_threads, 2),
            "two processes": (in_processes, 2),
        }
        rates: dict[str, list[Rate]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (way, count) in ways.items():
                rates[name].append(way(which, options.seconds, count))
        one = Rate(*map(statistics.median, zip(*rates["one thread"], strict=True)))
        for name, found in rates.items():
            rate = Rate(*map(statistics.median, zip(*found, strict=True)))
            print(
                f"{which.__name__:6} {name:14}"
                f" {rate.clock:11,.0f} /s {rate.clock / one.clock:5.2f} x"
                f"   by processor time {rate.cpu:11,.0f} /s {rate.cpu / one.cpu:5.2f} x"
            )


if __name__ == "__main__":
    main()
