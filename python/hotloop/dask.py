"""Dask distributed on hotloop.

    python -m hotloop -m dask scheduler
    dask worker --preload-nanny hotloop.dask tcp://scheduler:8786
    LocalCluster(preload_nanny=["hotloop.dask"])       # in a program under hotloop

A scheduler makes its loop before it looks at its preloads, so it is started through
`python -m hotloop`; a nanny, which starts the worker's process, takes this module as a preload.
Importing it makes hotloop the loop that asyncio makes from then on in that process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hotloop
from hotloop._default import make_ours_the_default

__all__ = ("dask_setup",)


class _OnHotloop:
    """A worker's factory, as it was, that imports this module in the worker's process.

    The nanny sends its factory there pickled, and it is unpickled before the loop is made.
    """

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.factory(*args, **options)


def dask_setup(server: Any) -> None:
    """Dask's hook for preloads: the process of a nanny's worker will run on hotloop.

    RuntimeError on a scheduler, or on a worker without a nanny, that runs on another loop.
    """
    if hasattr(server, "Worker") and hasattr(server, "instantiate"):
        if not isinstance(server.Worker, _OnHotloop):
            server.Worker = _OnHotloop(server.Worker)
    elif not isinstance(asyncio.get_running_loop(), hotloop.EventLoop):
        kind = type(server).__name__.lower()
        raise RuntimeError(
            f"this {kind} has its event loop already: start it as `python -m hotloop -m dask "
            f"{kind} …`; a worker with a nanny takes `--preload-nanny hotloop.dask`"
        )


make_ours_the_default()
