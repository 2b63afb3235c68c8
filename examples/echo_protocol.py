"""An echo server, by a Protocol: callbacks, no task for a connection; the fastest of the three.

python examples/echo_protocol.py [PORT]       then: nc 127.0.0.1 8888
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import hotloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    # The client does not read what it gets back: no more is read of it until it does.
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    # There is no eof_received(): the transport then closes once all is written.


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{port}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    try:
        hotloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8888))
    except KeyboardInterrupt:
        pass
