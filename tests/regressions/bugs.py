"""What went wrong in other event loops: the classes, by number, and where each is tested.

Sixty classes of bugs that fast loops shipped to their users were collected from their issue
trackers and by running them; each test of this folder is named after one and says which:

    @pytest.mark.bug(12, fails_on=("rloop",))
    def test_...

`fails_on` names the loops on which the test was seen to fail, in the versions of SEEN_ON; `make
regressions LOOP=uvloop` runs it there and compares. Every test runs on stock asyncio as well, so
that what it expects is itself tested. Where asyncio has the defect too, the test says

    @pytest.mark.asyncio_is_flawed("why", when=sys.version_info < (3, 14))

and must then fail on asyncio. The classes without a test are in NOT_APPLICABLE, with the reason.
test_bugs_table.py proves that all sixty are in one place or the other.

What a class has in common with io_uring, with Windows, with a TLS engine other than OpenSSL, or
with a foreign library's internals (libuv's handles, a Rust panic) has no counterpart here; where
what the user saw of it has one, that is what is tested.
"""

from __future__ import annotations

CLASSES = range(1, 61)

# The versions on which `fails_on` was seen: the first two on CPython 3.13, the others on 3.14.
SEEN_ON = {"uvloop": "0.23.0", "rloop": "0.5.0", "zuvloop": "0.0.17", "rsloop": "0.1.66"}

NOT_APPLICABLE: dict[int, str] = {}

# Present in the current release of those loops when the list was made: a test of the class must
# fail there, else it does not test what went wrong.
NOW: dict[int, tuple[str, ...]] = {
    2: ("uvloop",),
    4: ("uvloop", "rloop"),
    5: ("rloop",),
    11: ("uvloop",),
    12: ("rloop",),
    13: ("uvloop", "rloop"),
    14: ("rloop",),
    15: ("rloop",),
    17: ("zuvloop",),
    19: ("uvloop",),
    20: ("rsloop",),
    21: ("rloop",),
    22: ("rloop",),
    26: ("uvloop", "rloop"),
    33: ("rloop",),
    34: ("uvloop",),
    35: ("uvloop",),
    36: ("rloop",),
    39: ("uvloop",),
    44: ("rloop",),
    47: ("zuvloop",),
    48: ("rsloop",),
    54: ("uvloop", "rloop"),
    55: ("uvloop",),
    58: ("rloop",),
}


def door(kind: str) -> str:
    """A line of Python that defines new_event_loop() for 'asyncio', 'hotloop-epoll', 'uvloop'…"""
    if kind == "asyncio":
        return "from asyncio import SelectorEventLoop as new_event_loop\n"
    if kind.startswith("hotloop-"):
        backend = kind.removeprefix("hotloop-")
        return (
            "import functools, hotloop; "
            f"new_event_loop = functools.partial(hotloop.new_event_loop, backend={backend!r})\n"
        )
    return f"from {kind} import new_event_loop\n"
