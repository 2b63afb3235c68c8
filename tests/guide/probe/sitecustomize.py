"""Looks into a guide program from inside, without a change to it: Python imports this at start.

On exit, GUIDE_PROBE names the file that gets what was seen: the seconds spent in Runner.run()
and the classes of loops, tasks and futures.
"""

import asyncio
import atexit
import functools
import json
import os
import time

seen = {"seconds": None, "loop": set(), "task": set(), "future": set(), "backend": set()}


def note(kind, thing):
    seen[kind].add(f"{type(thing).__module__}.{type(thing).__qualname__}")


def look(tasks=()):
    loop = asyncio.get_running_loop()
    note("loop", loop)
    seen["backend"].add(getattr(loop, "backend", "none"))
    note("future", loop.create_future())
    for task in {asyncio.current_task(), *asyncio.all_tasks(), *tasks}:
        if not isinstance(task, asyncio.Task):
            note("future", task)
            continue
        code = getattr(task.get_coro(), "cr_code", None)
        if type(task) is asyncio.Task and code is not None and "aiohttp" in code.co_filename:
            continue  # aiohttp calls that class by its name: no loop is asked
        note("task", task)
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is not None and not isinstance(waits_for, asyncio.Task | GATHERING):
            note("future", waits_for)


GATHERING = asyncio.tasks._GatheringFuture  # asyncio's own class on any loop
run, sleep, gather = asyncio.Runner.run, asyncio.sleep, asyncio.gather


@functools.wraps(run)
def timed_run(*args, **kwargs):
    began = time.monotonic()
    try:
        return run(*args, **kwargs)
    finally:
        seen["seconds"] = time.monotonic() - began


@functools.wraps(sleep)
async def seen_sleep(*args, **kwargs):
    look()
    try:
        return await sleep(*args, **kwargs)
    finally:
        look()


@functools.wraps(gather)
def seen_gather(*args, **kwargs):
    gathered = gather(*args, **kwargs)
    look(getattr(gathered, "_children", ()))
    return gathered


@atexit.register
def report():
    found = {key: sorted(v) if isinstance(v, set) else v for key, v in seen.items()}
    with open(os.environ["GUIDE_PROBE"], "w") as file:
        json.dump(found, file)


asyncio.Runner.run, asyncio.sleep, asyncio.gather = timed_run, seen_sleep, seen_gather
