"""A chat over WebSocket. The first message of a client is its name, all others go to everybody.

pip install websockets
python examples/chat.py [PORT]                then: python -m websockets ws://127.0.0.1:8765
"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

import hotloop

present: set[ServerConnection] = set()


async def chat(client: ServerConnection) -> None:
    try:
        name = await client.recv()
    except ConnectionClosed:
        return
    present.add(client)
    broadcast(present, f"* {name} is here")
    try:
        async for text in client:
            # Waits for nobody: a slow client holds up no other. Its messages pile up, until its
            # connection is closed for not answering a ping.
            broadcast(present, f"{name}: {text}")
    except ConnectionClosed:
        pass  # without a goodbye
    finally:
        present.discard(client)
        broadcast(present, f"* {name} has gone")


async def main(port: int) -> None:
    async with serve(chat, "127.0.0.1", port):  # at its end every client is told goodbye
        print(f"listening on ws://127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        hotloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
    except KeyboardInterrupt:
        pass
