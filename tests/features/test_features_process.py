"""Rows of the feature table in docs/compatibility.md: child processes, signals, fork."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hotloop

Run = Callable[[Any], Any]
Loop = Any
PIPE = subprocess.PIPE


async def output(code: str, **kwargs: Any) -> bytes:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE, **kwargs)
    out, _ = await child.communicate()
    assert child.returncode == 0
    return out


@pytest.fixture
def handlers() -> Iterator[None]:
    """The test leaves its signals as they were."""
    watched = (signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT)
    before = [signal.getsignal(sig) for sig in watched]
    yield
    for sig, handler in zip(watched, before, strict=True):
        signal.signal(sig, handler)


def script(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(text), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# ---- child processes ----


def test_subprocess(run: Run) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert await child.communicate(b"hello") == (b"hello", None)
        shell = await asyncio.create_subprocess_shell("exit 3")
        assert await shell.wait() == 3

    run(main())


def test_popen_keywords(run: Run) -> None:
    code = "import os; print(os.getpgid(0) == os.getpid(), oct(os.umask(0)))"

    async def main() -> None:
        assert await output(code, process_group=0, umask=0o31) == b"True 0o31\n"
        assert await output("print(1)", pipesize=1 << 16) == b"1\n"
        if os.geteuid() == 0:  # else nobody may ask for them
            user, group = pwd.getpwuid(65534).pw_name, grp.getgrgid(65534).gr_name
            child = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", "id -u; id -g; id -G",
                stdout=PIPE, cwd="/", user=user, group=group, extra_groups=[65534],
            )  # fmt: skip
            assert (await child.communicate())[0].split() == [b"65534"] * 3

    run(main())


def test_preexec_fn(run: Run) -> None:
    async def main() -> None:
        assert (
            await output("import os; print(os.getcwd())", preexec_fn=lambda: os.chdir("/"))
            == b"/\n"
        )

    run(main())


def test_popen_defaults_given(run: Run) -> None:
    """A keyword given at its default is no error."""

    async def main() -> None:
        kwargs: dict[str, Any] = {
            "close_fds": True, "restore_signals": False, "start_new_session": False,
            "preexec_fn": None, "pass_fds": (), "cwd": None, "env": None, "executable": None,
            "startupinfo": None, "creationflags": 0, "user": None, "group": None,
            "extra_groups": None, "umask": -1, "pipesize": -1, "process_group": None,
        }  # fmt: skip
        assert await output("print(1)", **kwargs) == b"1\n"

    run(main())


def test_child_watching(anyloop: Loop, run: Run) -> None:
    """Many exits at once are all seen, nothing stays a zombie, SIGCHLD is not used for it."""
    before = signal.getsignal(signal.SIGCHLD)

    async def main() -> None:
        children = [await asyncio.create_subprocess_exec("true") for _ in range(10)]
        assert await asyncio.gather(*[child.wait() for child in children]) == [0] * 10
        for child in children:
            with pytest.raises(ProcessLookupError):
                os.kill(child.pid, 0)  # a zombie would still have its number

    run(main())
    assert signal.getsignal(signal.SIGCHLD) is before


def test_user_sigchld_handler(anyloop: Loop, run: Run, handlers: None) -> None:
    async def main() -> None:
        seen = asyncio.Event()
        anyloop.add_signal_handler(signal.SIGCHLD, seen.set)
        child = await asyncio.create_subprocess_exec("true")
        assert await child.wait() == 0
        await seen.wait()
        assert anyloop.remove_signal_handler(signal.SIGCHLD)

    run(main())


# ---- signals ----


def test_ctrl_c_while_idle(backend: str) -> None:
    """No handler, the next event an hour away: the interrupt ends the run at once."""
    done = script(
        """
        import asyncio, os, signal, sys, threading, time
        import hotloop

        async def main():
            pid = os.getpid()

            def interrupt():
                with open(f"/proc/{pid}/task/{pid}/stat") as file:
                    while file.read().rpartition(")")[2].split()[0] != "S":  # not yet asleep
                        file.seek(0)
                        time.sleep(0.001)
                os.kill(pid, signal.SIGINT)

            threading.Thread(target=interrupt).start()
            await asyncio.sleep(3600)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop = hotloop.new_event_loop(sys.argv[1])
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        backend,
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_signal_over_loop_handler(anyloop: Loop, run: Run, handlers: None) -> None:
    """signal.signal() set over add_signal_handler(): both run."""

    async def main() -> None:
        seen = asyncio.Event()
        also = []
        anyloop.add_signal_handler(signal.SIGUSR1, seen.set)
        signal.signal(signal.SIGUSR1, lambda number, frame: also.append(number))
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()
        assert also == [signal.SIGUSR1]
        anyloop.remove_signal_handler(signal.SIGUSR1)

    run(main())


# ---- fork ----


def in_child(body: Callable[[], None]) -> int:
    """The exit code of a forked child that runs body."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        body()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork() beside other threads
def test_fork(anyloop: Loop, loop_kind: str) -> None:
    """Forked inside a callback, the child has no running loop, is told so, and makes its own."""
    name = loop_kind.removeprefix("hotloop-")
    factory = asyncio.SelectorEventLoop
    if loop_kind != "asyncio":
        factory = lambda: hotloop.new_event_loop(name)  # noqa: E731

    def body() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="already running"):
            anyloop.run_forever()
        done = threading.Event()

        async def main() -> int:
            asyncio.get_running_loop().call_soon_threadsafe(done.set)
            await asyncio.sleep(0.001)
            return 5

        assert asyncio.run(main(), loop_factory=factory) == 5
        assert done.is_set()

    async def main() -> None:
        assert in_child(body) == 0
        await asyncio.sleep(0)

    anyloop.run_until_complete(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_with_a_stopped_loop(loop: Loop) -> None:
    """A server made before the fork serves in the child; neither process feels the other's loop.

    With asyncio's both share one kernel set: what the child unwatches is gone for the parent.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    got: list[bytes] = []
    loop.add_reader(ours, lambda: got.append(ours.recv(10)))

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))

    async def in_the_child() -> None:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            assert await loop.run_in_executor(None, os.getpid) == os.getpid()
        assert loop.remove_reader(ours)
        server.close()

    assert in_child(lambda: loop.run_until_complete(in_the_child())) == 0
    theirs.send(b"x")

    async def in_the_parent() -> None:
        async with asyncio.timeout(20):
            while not got:
                await asyncio.sleep(0.001)

    loop.run_until_complete(in_the_parent())
    assert got == [b"x"]
    loop.remove_reader(ours)
    server.close()
    ours.close()
    theirs.close()
