"""What a program inside a tool says of the loop it runs on; imported by the programs in here."""

from __future__ import annotations

import asyncio
import os

OURS = {"loop": "hotloop.EventLoop", "task": "hotloop.Task", "future": "hotloop.Future"}


def name_of(what: object) -> str:
    kind = type(what)
    return f"{kind.__module__}.{kind.__qualname__}".replace("._core.", ".")


def facts() -> dict[str, str]:
    """To be called in a task: whose loop, task and future these are, and in which process."""
    loop = asyncio.get_running_loop()
    return {
        "loop": name_of(loop),
        "task": name_of(asyncio.current_task()),
        "future": name_of(loop.create_future()),
        "pid": str(os.getpid()),
    }


def ours(said: dict[str, str]) -> bool:
    return {key: said[key] for key in OURS} == OURS
