"""Bug classes 47-53: signals, child processes, fork."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from netlib import LIMIT

PIPE = subprocess.PIPE


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.lost = asyncio.Event()

    def process_exited(self) -> None:
        self.events.append("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set()


@pytest.mark.bug(47, fails_on=("zuvloop",))
def test_ctrl_c_waits_for_the_next_event(source: Any) -> None:
    """Nothing will ever happen in that loop: Ctrl-C alone ends its sleep."""
    text = """
        import time
        loop = new_event_loop()
        loop.call_soon(lambda: print("idle", flush=True))
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
    """
    with subprocess.Popen(source(text), stdin=PIPE, stdout=PIPE, stderr=PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"idle\n"
        asleep(child.pid)
        child.send_signal(signal.SIGINT)
        try:
            out, err = child.communicate(timeout=LIMIT)
        finally:
            child.kill()
        assert (out, err) == (b"interrupted\n", b"")


def asleep(pid: int) -> None:
    """Returns once the process sleeps in its poll, having nothing more to do."""
    for _ in range(1000):
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        where = pathlib.Path(f"/proc/{pid}/wchan").read_text()
        if state == "S" and ("poll" in where or "select" in where or where in {"0", ""}):
            break
        time.sleep(0.01)
    time.sleep(0.05)


@pytest.mark.bug(48, fails_on=("rsloop",))
def test_handler_lost_to_signal_signal(anyloop: Any) -> None:
    """A handler set by signal.signal() over the loop's: both are told."""
    got: list[str] = []

    def told(what: str) -> None:
        got.append(what)
        anyloop.stop()

    anyloop.add_signal_handler(signal.SIGUSR1, told, "loop")
    signal.signal(signal.SIGUSR1, lambda *args: got.append("python"))
    anyloop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    anyloop.call_later(LIMIT, anyloop.stop)
    anyloop.run_forever()
    assert sorted(got) == ["loop", "python"]
    anyloop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.bug(48, fails_on=("uvloop",))
def test_wakeup_descriptor_not_given_back(program: Any) -> None:
    """Loop after loop, run after run: each hears its signals, and nothing is left set."""
    out = program("""
        import os, signal
        def hear(loop, number):
            got = []
            loop.add_signal_handler(number, lambda: (got.append(1), loop.stop()))
            for _ in range(2):
                loop.call_soon(os.kill, os.getpid(), number)
                loop.call_later(20, loop.stop)
                loop.run_forever()
            print(len(got))
        one = new_event_loop()
        hear(one, signal.SIGUSR1)
        one.close()
        two = new_event_loop()
        hear(two, signal.SIGUSR2)
        hear(two, signal.SIGUSR1)
        two.close()
        print(signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL)
    """)
    assert out == "2\n2\n2\n-1 True"


@pytest.mark.bug(49, fails_on=("uvloop",))
def test_sigchld_reserved_for_the_loop(run: Any) -> None:
    """The user hears of SIGCHLD, and the child is reaped and reported all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, heard.set)
        transport, protocol = await loop.subprocess_exec(
            Recorder, "true", stdin=None, stdout=None, stderr=None
        )
        async with asyncio.timeout(LIMIT):
            await protocol.lost.wait()
            await heard.wait()
        assert protocol.events == ["exited", "lost"]
        assert transport.get_returncode() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(transport.get_pid(), 0)
        loop.remove_signal_handler(signal.SIGCHLD)
        transport.close()

    run(main())


@pytest.mark.bug(49)
def test_zombies(run: Any) -> None:
    async def main() -> None:
        async def one(n: int) -> int:
            child = await asyncio.create_subprocess_exec("sh", "-c", f"exit {n}")
            assert await child.wait() == n
            return child.pid

        pids = await asyncio.gather(*(one(n) for n in range(10)))
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(main())


@pytest.mark.bug(50)
def test_hang_up_of_a_childs_pipe_not_seen(run: Any) -> None:
    """The child closes its end of stdin and ends: the transport's end follows unasked."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            Recorder, "sh", "-c", "exec 0<&-; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(LIMIT):
            await protocol.lost.wait()
        assert protocol.events == ["exited", "lost"]
        assert transport.get_returncode() == 3
        transport.close()

    run(main())


@pytest.mark.bug(50)
def test_stderr_into_stdout_goes_to_the_parents(run: Any) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo out; echo err >&2", stdout=PIPE, stderr=subprocess.STDOUT
        )
        out, err = await child.communicate()
        assert (out, err) == (b"out\nerr\n", None)

    run(main())


@pytest.mark.bug(50)
def test_empty_environment_inherited(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv("SECRET", "1")
        code = "import os; print(os.environ.get('SECRET'))"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=PIPE, env={}
        )
        out, _ = await child.communicate()
        assert out == b"None\n"

    run(main())


KEYWORDS: list[dict[str, Any]] = [
    {"close_fds": True},
    {"close_fds": False},
    {"restore_signals": False},
    {"restore_signals": True},
    {"preexec_fn": None},
    {"pass_fds": ()},
    {"creationflags": 0, "startupinfo": None},
    {"executable": "/bin/sh"},
    {"pipesize": 4096},
    {"pipesize": -1},
    {"user": None, "group": None, "extra_groups": None, "umask": -1},
    {"umask": 0o22},
    {"process_group": 0},
    {"start_new_session": True},
    {"universal_newlines": False, "shell": False, "bufsize": 0},
    {"text": None, "encoding": None, "errors": None},
    {"cwd": "/"},
]


@pytest.mark.bug(51, fails_on=("uvloop", "zuvloop"))
def test_popen_keyword_refused(run: Any) -> None:
    async def main() -> None:
        refused = []
        for keywords in KEYWORDS:
            try:
                child = await asyncio.create_subprocess_exec(
                    "/bin/sh", "-c", "echo x", stdout=PIPE, **keywords
                )
            except (TypeError, ValueError) as exc:
                refused.append((keywords, exc))
                continue
            out, _ = await child.communicate()
            assert out == b"x\n", keywords
        assert refused == []

    run(main())


@pytest.mark.bug(52, fails_on=("uvloop",))
def test_failed_spawn_breaks_the_loop(run: Any) -> None:
    async def main() -> None:
        for argv, error in (
            (("/nonexistent/program",), FileNotFoundError),
            (("/",), PermissionError),
            (("echo", "a\0b"), ValueError),
            (("echo\0", "b"), ValueError),
        ):
            with pytest.raises(error):
                await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert (await child.communicate(b"fine"))[0] == b"fine"

    run(main())


@pytest.mark.bug(52, fails_on=("uvloop", "zuvloop"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_preexec_fn_blocks_the_loop(run: Any) -> None:
    """It runs in the child, before the program; what it raises is SubprocessError here."""

    async def main() -> None:
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=PIPE, stdout=PIPE, preexec_fn=lambda: os.write(1, b"first ")
        )
        out, _ = await asyncio.wait_for(child.communicate(b"then"), LIMIT)
        assert out == b"first then"
        with pytest.raises(subprocess.SubprocessError):
            await asyncio.create_subprocess_exec("cat", preexec_fn=lambda: 1 / 0)

    run(main())


@pytest.mark.bug(53)
def test_fork_from_a_thread_freezes_the_child(program: Any) -> None:
    """The child of a fork makes a loop of its own, and the parent's goes on."""
    out = program("""
        import asyncio, os, signal, threading, warnings
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        codes = []
        def fork():
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                code = 1
                try:
                    mine = new_event_loop()
                    code = mine.run_until_complete(asyncio.sleep(0.001, 7))
                    mine.close()
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        async def main():
            thread = threading.Thread(target=fork)
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0.001)
            asyncio._set_running_loop(None)
            fork()
            asyncio._set_running_loop(loop)
            await asyncio.sleep(0.001)
        loop.run_until_complete(main())
        loop.close()
        print(codes)
    """)
    assert out == "[7, 7]"


@pytest.mark.bug(53)
def test_child_of_a_c_library_freezes_in_the_fork_handler(program: Any) -> None:
    """A C library starts a program while the loop runs and another thread holds the GIL."""
    out = program("""
        import asyncio, ctypes, threading
        libc = ctypes.CDLL(None)
        loop = new_event_loop()
        stop = threading.Event()
        def spin():
            while not stop.is_set():
                pass
        async def main():
            thread = threading.Thread(target=spin)
            thread.start()
            codes = [await loop.run_in_executor(None, libc.system, b"exit 3") for _ in range(3)]
            stop.set()
            thread.join()
            return codes
        print(loop.run_until_complete(main()))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """)
    assert out == "[768, 768, 768]"


@pytest.mark.bug(53, fails_on=("uvloop",))
def test_child_started_beside_a_subinterpreter_is_fatal(program: Any) -> None:
    out = program("""
        import asyncio
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        async def main():
            child = await asyncio.create_subprocess_exec("true")
            return await child.wait()
        loop = new_event_loop()
        other = interpreters.create()
        print(loop.run_until_complete(main()))
        interpreters.destroy(other)
        loop.close()
    """)
    assert out == "0"
