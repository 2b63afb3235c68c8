"""Doors inside a program: asyncio's own, anyio, gRPC, IPython and Jupyter, executors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from doorlib import Run
from facts import facts, ours

import hotloop


async def say() -> dict[str, str]:
    await asyncio.sleep(0)
    return facts()


def test_run() -> None:
    assert ours(hotloop.run(say()))


def test_asyncio_run_with_a_factory() -> None:
    assert ours(asyncio.run(say(), loop_factory=hotloop.new_event_loop))


def test_runner() -> None:
    with asyncio.Runner(loop_factory=hotloop.new_event_loop) as runner:
        assert ours(runner.run(say()))
        assert ours(runner.run(say()))


EXECUTORS = """
import asyncio, concurrent.futures, multiprocessing, threading, hotloop

async def main():
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert await loop.run_in_executor(pool, sum, [1, 2]) == 3
        assert await asyncio.wrap_future(pool.submit(sum, [3, 4])) == 7
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as processes:
            assert await loop.run_in_executor(processes, sum, [5, 6]) == 11
    print("all well")

if __name__ == "__main__":
    hotloop.run(main())
"""


def test_to_thread_and_executors(run_file: Run) -> None:
    assert "all well" in run_file(EXECUTORS)


def test_anyio_run() -> None:
    anyio = pytest.importorskip("anyio", reason="make doors installs it")
    options = {"loop_factory": hotloop.new_event_loop}
    assert ours(anyio.run(say, backend="asyncio", backend_options=options))


GRPC = """
import asyncio, grpc, grpc.aio, hotloop
from facts import facts, ours

async def main():
    async def double(request, context):
        assert ours(facts())
        return request * 2

    async def count(request, context):
        for number in range(100):
            yield b"%d" % number

    server = grpc.aio.server()
    handlers = {
        "double": grpc.unary_unary_rpc_method_handler(double),
        "count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("door", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/door/double")
        assert await asyncio.gather(*(call(b"%d," % n) for n in range(50))) == [
            b"%d,%d," % (n, n) for n in range(50)
        ]
        stream = channel.unary_stream("/door/count")(b"")
        assert [item async for item in stream] == [b"%d" % n for n in range(100)]
    await server.stop(None)
    print("all well")

hotloop.run(main())
"""


def test_grpc(run_file: Run) -> None:
    pytest.importorskip("grpc", reason="make doors installs it, where there is a wheel")
    assert "all well" in run_file(GRPC)


IPYTHON = """
import hotloop
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from IPython.core.interactiveshell import InteractiveShell

hotloop.install()
shell = InteractiveShell.instance()
shell.loop_runner = hotloop.run
cell = "from facts import facts, ours; import asyncio; await asyncio.sleep(0); ours(facts())"
result = shell.run_cell(cell)
assert result.success and result.result is True, result
print("all well")
"""


def test_ipython_top_level_await(run_file: Run) -> None:
    pytest.importorskip("IPython", reason="make doors installs it")
    assert "all well" in run_file(IPYTHON)


JUPYTER = """
import asyncio, os, sys
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

CODE = "from facts import facts, ours; import asyncio; await asyncio.sleep(0); print(ours(facts()))"

async def main():
    manager = AsyncKernelManager(kernel_name="python3")
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, *"-m hotloop -m ipykernel_launcher -f {connection_file}".split()],
        language="python", display_name="on hotloop",
    )
    await manager.start_kernel(env=dict(os.environ))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        said = []
        hook = lambda message: said.append(message["content"])
        await client.execute_interactive(CODE, timeout=60, output_hook=hook)
        print([content["text"] for content in said if "text" in content], said)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

asyncio.run(main())
"""


def test_jupyter_top_level_await(run_file: Run) -> None:
    pytest.importorskip("ipykernel", reason="make doors installs it")
    assert "['True\\n']" in run_file(JUPYTER)


UNCHANGED = """
import asyncio
from facts import facts, ours

async def main():
    print(ours(facts()))

asyncio.run(main())
"""


def test_python_m_hotloop(run_file: Run) -> None:
    assert run_file(UNCHANGED, "-m", "hotloop") == "True\n"


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"epoll.*select"):
        hotloop.new_event_loop("kqueue")


def test_unknown_backend_in_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", "iocp")
    with pytest.raises(ValueError, match=r"HOTLOOP_BACKEND.*epoll.*select"):
        hotloop.new_event_loop()


INSTALL = """
import asyncio, sys, warnings, hotloop
warnings.simplefilter("ignore", DeprecationWarning)
case = sys.argv[1] if len(sys.argv) > 1 else CASE

async def main():
    hotloop.install()

if case == "running":
    asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop)
elif case == "over another":
    class Policy(asyncio.DefaultEventLoopPolicy):
        pass
    asyncio.set_event_loop_policy(Policy())
    hotloop.install()
elif case == "twice":
    hotloop.install()
    hotloop.install()
"""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("running", "RuntimeError: hotloop.install() while an event loop runs"),
        ("over another", "RuntimeError: another event loop policy is installed"),
        ("twice", ""),
    ],
)
def test_install_at_the_wrong_time(run_file: Run, case: str, said: str) -> None:
    out = run_file(f"CASE = {case!r}\n" + INSTALL, status=1 if said else 0)
    assert said in out
