"""An echo server, by the loop's sock_* methods: plain sockets, awaited.

python examples/echo_sockets.py [PORT]        then: nc 127.0.0.1 8888
"""

from __future__ import annotations

import asyncio
import socket
import sys

import hotloop


async def echo(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with client:
        try:
            while data := await loop.sock_recv(client, 1 << 16):
                await loop.sock_sendall(client, data)
        except ConnectionError:
            pass  # the client has gone without a word


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        listener.setblocking(False)  # what all sock_* methods ask for
        print(f"listening on 127.0.0.1:{port}", flush=True)
        # The group keeps the tasks alive, and cancels them when this one is cancelled.
        async with asyncio.TaskGroup() as clients:
            while True:
                client, _ = await loop.sock_accept(listener)
                clients.create_task(echo(client))


if __name__ == "__main__":
    try:
        hotloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8888))
    except KeyboardInterrupt:
        pass
