"""Looks into an example from inside, without a change to it: Python imports this at start.

EXAMPLE_PROBE names the file that gets, at exit, the kinds of the loops that ran, of the tasks that
were seen on them, and of the futures that they make.
"""

import asyncio
import atexit
import json
import os

seen = {"loop": set(), "task": set(), "future": set()}
run, set_event_loop = asyncio.Runner.run, asyncio.set_event_loop


def name_of(what):
    kind = type(what)
    return f"{kind.__module__}.{kind.__qualname__}".replace("._core.", ".")


def look(loop):
    """Every few milliseconds, so that tasks of connections are seen too."""
    seen["loop"].add(name_of(loop))
    seen["future"].add(name_of(loop.create_future()))
    seen["task"].update(name_of(task) for task in asyncio.all_tasks(loop))
    loop.call_later(0.005, look, loop)


def watched_run(self, *args, **kwargs):
    loop = self.get_loop()
    loop.call_soon(look, loop)
    return run(self, *args, **kwargs)


def watched_set_event_loop(loop):
    """aiohttp's run_app() comes by here."""
    set_event_loop(loop)
    if loop is not None and not loop.is_closed():
        loop.call_soon(look, loop)


@atexit.register
def report():
    with open(os.environ["EXAMPLE_PROBE"], "w") as file:
        json.dump({kind: sorted(names) for kind, names in seen.items()}, file)


asyncio.Runner.run, asyncio.set_event_loop = watched_run, watched_set_event_loop
