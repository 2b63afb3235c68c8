"""Every descriptor that a loop makes is close-on-exec: what a child executes gets none of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netlib import LIMIT, Recorder

FDS = "/proc/self/fd"


def inheritable() -> set[str]:
    """What a child that is executed would get, beside what the test's own process was given."""
    found = set()
    for name in os.listdir(FDS):
        try:
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.add(f"{name}: {os.readlink(f'{FDS}/{name}')}")
        except OSError:  # of the listing itself
            continue
    return found


@pytest.mark.skipif(not os.path.isdir(FDS), reason="needs /proc")
def test_descriptors_are_close_on_exec(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    before = inheritable()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        path = str(tmp_path / "socket")
        servers = [
            await loop.create_server(Recorder, "localhost", 0),
            await loop.create_unix_server(Recorder, path),
        ]
        address = servers[0].sockets[0].getsockname()
        ends: list[Any] = [
            await loop.create_connection(Recorder, *address[:2]),
            await loop.create_unix_connection(Recorder, path),
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)),
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, family=socket.AF_UNIX, local_addr=str(tmp_path / "dgram")
            ),
        ]
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            accepted, _ = await accepting
            pipe = asyncio.subprocess.PIPE
            child = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
            await asyncio.sleep(0)  # servers have their connections
            assert inheritable() == before
            accepted.close()
            async with asyncio.timeout(LIMIT):
                await child.communicate()
        for transport, _ in ends:
            transport.abort()
        for server in servers:
            server.close()
        loop.remove_signal_handler(signal.SIGUSR1)
        for _ in range(10):
            await asyncio.sleep(0)

    loop = make_loop()
    loop.run_until_complete(main())
