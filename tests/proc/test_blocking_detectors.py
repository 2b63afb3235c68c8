"""Tools that look for blocking calls, as blockbuster does, find none that asyncio has not.

They wrap the functions of `os` that may block, look at the stack when one is called, and let pass
what they know of asyncio by file and function: starting a child waits for its exec, a server on a
path looks at the path. In place of the tool stands a wrapper that lets the same pass.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]

ALLOWED = {
    "asyncio/base_events.py": {"subprocess_exec", "subprocess_shell", "sendfile"},
    "asyncio/unix_events.py": {
        "create_unix_server",
        "_stop_serving",
        "_sock_sendfile_native_impl",
    },
}


def is_allowed() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        for file, functions in ALLOWED.items():
            if frame.f_code.co_filename.endswith(file) and frame.f_code.co_name in functions:
                return True
        frame = frame.f_back
    return False


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that such a tool would report."""
    found: list[str] = []

    def watch(place: Any, name: str) -> None:
        original = getattr(place, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not is_allowed():
                found.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, wrapper)

    watch(subprocess.Popen, "_execute_child")  # which reads until the child has started
    for name in ("stat", "unlink", "remove", "sendfile"):
        watch(os, name)
    return found


def test_children(run: Run, blocking: list[str]) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        assert await child.wait() == 0
        child = await asyncio.create_subprocess_shell("exit 3")
        assert await child.wait() == 3

    run(main())
    assert blocking == []


def test_servers_on_a_path(run: Run, tmp_path: Path, blocking: list[str]) -> None:
    path = str(tmp_path / "socket")

    async def main() -> None:
        for _ in range(2):  # the second finds the socket of the first where that is left there
            server = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, path)
            server.close()
            await server.wait_closed()

    run(main())
    assert blocking == []


def test_sendfile(run: Run, tmp_path: Path, blocking: list[str]) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"x" * 100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with content.open("rb") as file:
            await asyncio.get_running_loop().sendfile(writer.transport, file)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert len(await reader.read()) == 100_000
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
    assert blocking == []


def test_private_debug_flag(anyloop: Any) -> None:
    """Functions of asyncio's that are called with our loop read and set it."""
    assert anyloop._debug is anyloop.get_debug()
    anyloop._debug = not anyloop.get_debug()
    assert anyloop._debug is anyloop.get_debug()
    anyloop.set_debug(False)
    assert anyloop._debug is False
