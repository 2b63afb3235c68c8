"""`make soak MINUTES=… [CONNECTIONS=…]`: all kinds of load at once, every byte checked.

Two pairs of processes: a server on hotloop with clients on stock asyncio, and the other way
round; beside them a server that runs out of descriptors again and again. Each pair holds
CONNECTIONS all the time, in as many client processes as the limit of descriptors asks for.
Fails on a wrong byte, on anything reported or left over, on a lost held connection, and where
descriptors, memory or objects of hotloop grow (trend.py). Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trend import trend

HERE = Path(__file__).resolve().parent
CERT = HERE.parent / "features" / "localhost.pem"
RESERVE = 600  # descriptors of a process beside the connections that it holds
PATIENCE = 900.0  # for the processes to come to an end after their time
# What growth is noise: absolute, and as a share of the level.
TOLERANCE = {"fds": (40, 0.05), "rss": (12 << 20, 0.10), "live": (300, 0.10)}


class Process:
    """One process of the soak, and what it has said."""

    def __init__(self, name: str, hot: bool) -> None:
        self.name, self.hot = name, hot
        self.samples: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.end: dict[str, Any] | None = None
        self.ending = False
        self.ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def start(self, script: str, *args: object) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / script),
            *map(str, args),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self.readers = [asyncio.create_task(self.listen()), asyncio.create_task(self.complaints())]

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if said["kind"] == "sample":
                self.samples.append(said)
            elif said["kind"] == "error":
                self.error(said["text"])
            elif said["kind"] == "ending":
                self.ending = True
                assert self.process.stdin is not None
                self.process.stdin.close()
            elif said["kind"] == "end":
                self.end = said
            elif not self.ready.done():
                self.ready.set_result(said)
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"{self.name} ended before it was ready"))
            self.ready.exception()  # nobody waits for those that are never ready

    async def complaints(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if len(self.errors) < 200:
                self.error(f"{self.name} wrote: {line.decode(errors='replace').rstrip()}")

    def error(self, text: str) -> None:
        self.errors.append(text)
        print(f"soak: {text}", flush=True)

    async def finish(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds + PATIENCE):
                code = await self.process.wait()
                await asyncio.gather(*self.readers)
        except TimeoutError:
            self.process.kill()
            self.error(f"{self.name} hangs")
            return
        if code != 0 or self.end is None:
            self.error(f"{self.name} ended with {code}, {'un' * (self.end is None)}announced")

    def trends(self) -> dict[str, Any]:
        """Of hotloop's processes; the rows of stock asyncio are in the report for comparison."""
        rows = {name: [one[name] for one in self.samples] for name in ("fds", "rss")}
        for kind in sorted({kind for one in self.samples for kind in one["live"]}):
            rows[f"live {kind}"] = [one["live"].get(kind, 0) for one in self.samples]
        found = {}
        for name, row in rows.items():
            what = trend(row, *TOLERANCE[name.partition(" ")[0]])
            if what is not None:
                found[name] = vars(what)
                if what.grows and self.hot:
                    self.error(f"{self.name}: {name} grows from {what.early} to {what.late}")
        return found


async def pair(server: str, client: str, args: Any, folder: str) -> list[Process]:
    """A server on one loop and clients on the other: all of them run when this returns."""
    serving = Process(f"server on {server}", server == "hotloop")
    await serving.start("server.py", server, CERT, folder)
    ready = await asyncio.wait_for(serving.ready, 120)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = hard - RESERVE
    if args.connections > most:
        raise SystemExit(f"soak: a process may have {hard} descriptors here, the server needs more")
    parts = -(-args.connections // most)
    processes = [serving]
    for part in range(parts):
        share = args.connections // parts + (part < args.connections % parts)
        one = Process(f"client {part} on {client}", client == "hotloop")
        seconds = args.minutes * 60
        seed = args.seed + part + (1000 if client == "hotloop" else 0)
        await one.start("client.py", client, CERT, seconds, share, seed, json.dumps(ready))
        processes.append(one)
    return processes


async def signals(processes: list[Process]) -> None:
    while True:
        await asyncio.sleep(1.0)
        for one in processes:
            if one.samples and not one.ending:
                one.process.send_signal(signal.SIGUSR1)


async def progress(processes: list[Process]) -> None:
    while True:
        await asyncio.sleep(60)
        last = [one.samples[-1] for one in processes if one.samples]
        held = [one.samples[-1].get("held") for one in processes if one.samples]
        total = sum(one["bytes"] for one in last)
        print(f"soak: {time.strftime('%X')} {total >> 20} MiB checked, held {held}", flush=True)


def least_held(process: Process, count: int) -> int:
    """The fewest held at once from the first moment on at which all were."""
    held = [one.get("held", 0) for one in process.samples]
    full = next((i for i, n in enumerate(held) if n >= count), None)
    return min(held[full:]) if full is not None else max(held, default=0)


async def main(args: Any) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hot = await pair("hotloop", "asyncio", args, folder)
        stock = await pair("asyncio", "hotloop", args, folder)
        few = Process("exhaust on hotloop", True)
        await few.start("exhaust.py", "hotloop", args.minutes * 60)
        everyone = [*hot, *stock, few]
        helpers = [
            asyncio.create_task(signals([*hot, *stock])),
            asyncio.create_task(progress(everyone)),
        ]
        await asyncio.gather(
            *(one.finish(args.minutes * 60) for one in [*hot[1:], *stock[1:], few])
        )
        for helper in helpers:
            helper.cancel()
        for serving in (hot[0], stock[0]):
            if serving.process.returncode is None:
                serving.process.terminate()
        await asyncio.gather(hot[0].finish(0), stock[0].finish(0))

    for clients in (hot[1:], stock[1:]):
        held = sum(least_held(one, one.samples[-1].get("held", 0)) for one in clients)
        if held != args.connections:
            clients[0].error(f"{clients[0].name}: {held} of {args.connections} held all the time")
    report = {one.name: describe(one) for one in everyone}
    errors = [text for one in everyone for text in one.errors]
    total = sum(one.end["bytes"] for one in everyone if one.end)
    done = {
        name: sum(one["done"].get(name, 0) for one in ends(everyone)) for name in names(everyone)
    }
    summary = {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "bytes": total,
        "held": {"hotloop server": args.connections, "asyncio server": args.connections},
        "done": done,
        "errors": errors,
        "processes": report,
    }
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(json.dumps(summary, indent=1) + "\n")
    for one in everyone:
        print(f"soak: {one.name}: lag {(one.end or {}).get('lag')}, {line(one)}")
    lag = (hot[0].end or {"lag": {}})["lag"]
    print(f"soak: done {done}")
    print(
        f"soak: {'FAILED' if errors else 'ok'}: {summary['minutes']} minutes, {total} bytes "
        f"checked, "
        f"{done.get('served', 0) + done.get('torn', 0)} connections served, "
        f"{args.connections} held to each server, lag of the hotloop server "
        f"p50 {lag.get('p50')} p99 {lag.get('p99')} s, {len(errors)} errors; {args.report}"
    )
    return 1 if errors else 0


def ends(everyone: list[Process]) -> list[dict[str, Any]]:
    return [one.end for one in everyone if one.end]


def names(everyone: list[Process]) -> list[str]:
    return sorted({name for end in ends(everyone) for name in end["done"]})


def line(one: Process) -> str:
    if not one.samples:
        return "no samples"
    row = one.samples[int(len(one.samples) * 0.3) :]
    rss = [each["rss"] >> 20 for each in row]
    fds = [each["fds"] for each in row]
    return f"fds {min(fds)}-{max(fds)}, RSS {rss[0]} to {rss[-1]} MiB"


def describe(one: Process) -> dict[str, Any]:
    keep = one.samples[:: max(1, len(one.samples) // 100)]
    return {"end": one.end, "trends": one.trends(), "errors": one.errors, "samples": keep}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=1000, help="held to each server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=HERE.parents[1] / "build" / "soak.json")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(asyncio.run(main(arguments)))
