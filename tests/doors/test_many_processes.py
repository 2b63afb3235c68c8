"""One port, many processes: SO_REUSEPORT under every start method of multiprocessing."""

from __future__ import annotations

import pytest
from doorlib import Run

PROGRAM = """
import asyncio, multiprocessing, os, socket, sys
import hotloop

async def serve(port, ready):
    async def answer(reader, writer):
        writer.write(str(os.getpid()).encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True)
    ready.release()
    await server.serve_forever()

def worker(port, ready):
    hotloop.run(serve(port, ready))

async def ask(port, pids):
    seen = set()
    while seen != pids:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen.add(int(await reader.read()))
        writer.close()

async def idle():
    await asyncio.sleep(0)

if __name__ == "__main__":
    hotloop.run(idle())  # a loop has run here before: its children must not mind
    context = multiprocessing.get_context(METHOD)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        ready = context.Semaphore(0)
        workers = [context.Process(target=worker, args=(port, ready)) for _ in range(3)]
        for process in workers:
            process.start()
        for _ in workers:
            ready.acquire()
        hotloop.run(ask(port, {process.pid for process in workers}))
        for process in workers:
            process.terminate()
            process.join()
    print("all seen")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_reuse_port(run_file: Run, method: str) -> None:
    assert "all seen" in run_file(f"METHOD = {method!r}\n" + PROGRAM)
