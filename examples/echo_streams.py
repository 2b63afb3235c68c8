"""An echo server, by streams: one coroutine for each connection.

python examples/echo_streams.py [PORT]        then: nc 127.0.0.1 8888
"""

from __future__ import annotations

import asyncio
import sys

import hotloop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()  # waits for a client that does not read, so that nothing piles up
    except ConnectionError:
        pass  # the client has gone without a word
    finally:
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{port}", flush=True)
    try:
        # serve_forever() would, on Ctrl-C, wait for clients that stay; so their tasks are
        # cancelled at the end of the run.
        await asyncio.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    try:
        hotloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8888))
    except KeyboardInterrupt:
        pass
