"""The doors to hotloop, each as the one line that a program ends with.

The programs here end as the asyncio guide has them, with `asyncio.run(main())`, and so run on
stock asyncio; `python -m hotloop program.py` runs that same text on hotloop.
"""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).resolve().parent
PROGRAMS = ("greet.py", "restaurant.py", "requests_.py", "processing.py")

LAST_LINES = {
    "asyncio": "asyncio.run({main})",
    "run": "import hotloop; hotloop.run({main})",
    "loop_factory": "import hotloop; asyncio.run({main}, loop_factory=hotloop.new_event_loop)",
    "policy": "import hotloop; hotloop.install(); asyncio.run({main})",
}


def with_last_line(text: str, line: str) -> str:
    """The text of a program with another last line, {main} being what it ran there."""
    match = re.fullmatch(r"(.*\n)asyncio\.run\((.*)\)\n", text, re.DOTALL)
    if match is None:
        raise ValueError("the program does not end with asyncio.run(...)")
    body, main = match.groups()
    return body + line.format(main=main) + "\n"
