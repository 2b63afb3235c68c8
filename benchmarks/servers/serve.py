"""One application on one arm: prints its port, serves until its standard input ends.

python benchmarks/servers/serve.py APP ARM [--cpu N] [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arms import arm

from servers.apps import APPS


def until_input_ends() -> None:
    """In a thread, so that nothing of it is the loop's work; the end need not be tidy."""
    sys.stdin.buffer.read()
    os._exit(0)


async def serve(app: str) -> None:
    port = await APPS[app]()
    print(port, flush=True)
    threading.Thread(target=until_input_ends, daemon=True).start()
    await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("app", choices=APPS)
    parser.add_argument("arm")
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--seconds", type=int, default=120, help="that it lives at most")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(options.seconds)  # ends the process even if the loop hangs
    with asyncio.Runner(loop_factory=arm(options.arm).factory()) as runner:
        runner.run(serve(options.app))


if __name__ == "__main__":
    main()
