"""Refuses, in one sentence, a Python or a system that hotloop does not run on.

Imported before anything else of the package, and so written for older Pythons too.
"""

from __future__ import annotations

import sys

MINIMUM = (3, 12)


def reason() -> str | None:
    """Why hotloop does not run here; None: it should."""
    here = "{} {}.{}".format(sys.implementation.name, *sys.version_info[:2])
    if sys.implementation.name != "cpython":
        return f"hotloop runs on CPython only, and this is {here}: stay with asyncio's own loop"
    if sys.version_info[:2] < MINIMUM:
        return "hotloop needs CPython {}.{} or later, and this is {}".format(*MINIMUM, here)
    if sys.platform == "win32":
        return "hotloop does not run on Windows: stay with asyncio's own loop there"
    return None


_why = reason()
if _why is not None:
    raise ImportError(_why, name="hotloop")
try:
    import hotloop._core  # noqa: F401 - only to see whether it is there
except ModuleNotFoundError as exc:
    if exc.name != "hotloop._core":
        raise
    raise ImportError(
        f"hotloop is here, but not built for this Python ({sys.implementation.cache_tag}, "
        f"{sys.platform}): `pip install --force-reinstall hotloop` with this very interpreter",
        name="hotloop._core",
    ) from None
