"""Runs the asyncio guide's programs on hotloop and says what they ran on: `make demo`."""

from __future__ import annotations

import asyncio
import sys
import time

from doors import GUIDE, PROGRAMS, with_last_line

import hotloop


class Witness:
    """Makes the loops for the programs, and looks from inside at what runs on them."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, type]] = set()
        self.backends: set[str] = set()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = hotloop.new_event_loop()
        loop.call_soon(self.look)  # its first turn will be the program's first, too
        return loop

    def look(self) -> None:
        loop = asyncio.get_running_loop()
        self.backends.add(getattr(loop, "backend", "?"))
        self.seen.add(("loop", type(loop)))
        self.seen.add(("future", type(loop.create_future())))
        self.seen.update(("task", type(task)) for task in asyncio.all_tasks())

    def classes(self, what: str) -> str:
        return ", ".join(
            f"{cls.__module__}.{cls.__qualname__}" for kind, cls in self.seen if kind == what
        )

    def is_all_ours(self) -> bool:
        ours = {("loop", hotloop.EventLoop), ("task", hotloop.Task), ("future", hotloop.Future)}
        return self.seen == ours


def run(name: str) -> bool:
    """Runs one program; was all of it on hotloop?"""
    print(f"--- {name}", flush=True)
    witness = Witness()
    text = with_last_line((GUIDE / name).read_text(), "asyncio.run({main}, loop_factory=LOOPS)")
    code = compile(text, str(GUIDE / name), "exec", dont_inherit=True)
    began = time.monotonic()
    exec(code, {"__name__": "__main__", "LOOPS": witness.new_event_loop})
    took = time.monotonic() - began
    print(
        f"    [{took:.2f} s on the loop {witness.classes('loop')}, "
        f"backend {', '.join(witness.backends)}; "
        f"task {witness.classes('task')}; future {witness.classes('future')}]\n",
        flush=True,
    )
    return witness.is_all_ours()


def main() -> int:
    print(f"hotloop {hotloop.__version__} on Python {sys.version.split()[0]}\n")
    sys.argv[1:] = []  # the programs must not take our arguments for theirs
    strangers = [name for name in PROGRAMS if not run(name)]
    for name in strangers:
        print(f"{name} did not run on hotloop alone", file=sys.stderr)
    return 1 if strangers else 0


if __name__ == "__main__":
    raise SystemExit(main())
