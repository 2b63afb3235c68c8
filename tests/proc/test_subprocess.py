"""Child processes; stock asyncio is the oracle."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import hotloop

LIMIT = 30.0  # seconds that no event of a test may take
Run = Callable[[Coroutine[Any, Any, Any]], Any]
PIPE = subprocess.PIPE


class Recorder(asyncio.SubprocessProtocol):
    """Notes every call."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.data: dict[int, bytes] = {}
        self.transport: Any = None
        self._changed = asyncio.Event()

    def note(self, *what: Any) -> None:
        self.events.append(what)
        self._changed.set()

    async def until(self, name: str) -> None:
        async with asyncio.timeout(LIMIT):
            while name not in [event[0] for event in self.events]:
                self._changed.clear()
                await self._changed.wait()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data[fd] = self.data.get(fd, b"") + data
        if ("data", fd) not in self.events:
            self.note("data", fd)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.note("pipe_lost", fd, type(exc).__name__)

    def process_exited(self) -> None:
        self.note("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost", exc)


async def start(*args: Any, **kwargs: Any) -> tuple[Any, Recorder]:
    loop = asyncio.get_running_loop()
    transport, proto = await loop.subprocess_exec(Recorder, *args, **kwargs)
    return transport, proto


async def python(code: str, **kwargs: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, **kwargs)


async def output_of(code: str, **kwargs: Any) -> bytes:
    async with asyncio.timeout(LIMIT):
        child = await python(code, stdout=PIPE, **kwargs)
        out, _ = await child.communicate()
    assert child.returncode == 0
    return out


def is_gone(pid: int) -> bool:
    """Has the child been reaped?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ---- the order of events ----


def test_events_of_a_child(run: Run) -> None:
    async def main() -> None:
        transport, proto = await start(
            sys.executable, "-c",
            "import sys; d = sys.stdin.read(); sys.stdout.write(d * 2); sys.stderr.write('e')",
        )  # fmt: skip
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert proto.events == [("made",)]
        popen = transport.get_extra_info("subprocess")
        assert isinstance(popen, subprocess.Popen)
        assert transport.get_pid() == popen.pid
        assert transport.get_returncode() is None
        assert transport.get_protocol() is proto
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert transport.get_pipe_transport(2) is not None
        assert transport.get_pipe_transport(3) is None
        stdin.write(b"ab" * 100_000)
        stdin.close()
        await proto.until("lost")
        assert proto.data == {1: b"ab" * 200_000, 2: b"e"}
        names = [event[0] for event in proto.events]
        assert names[-1] == "lost"
        assert names.count("exited") == names.count("lost") == 1
        for fd in 0, 1, 2:
            assert ("pipe_lost", fd, "NoneType") in proto.events
        for fd in 1, 2:
            lost = proto.events.index(("pipe_lost", fd, "NoneType"))
            assert proto.events.index(("data", fd)) < lost
        assert transport.get_returncode() == popen.returncode == 0
        assert is_gone(popen.pid)
        transport.close()

    run(main())


def test_connection_lost_waits_for_the_pipes(run: Run) -> None:
    """A grandchild holds stdout: the process has exited, the transport is not done."""

    code = """
import os, sys
if os.fork():
    os._exit(7)
os.read(int(sys.argv[1]), 1)
os.write(1, b'late')
"""

    async def main() -> None:
        r, w = os.pipe()
        transport, proto = await start(
            sys.executable, "-c", code, str(r), stdin=None, stderr=None, pass_fds=[r]
        )
        os.close(r)
        await proto.until("exited")
        assert transport.get_returncode() == 7
        assert proto.events == [("made",), ("exited",)]
        os.write(w, b"x")
        os.close(w)
        await proto.until("lost")
        assert proto.data == {1: b"late"}
        assert proto.events[2:] == [("data", 1), ("pipe_lost", 1, "NoneType"), ("lost", None)]
        transport.close()

    run(main())


def test_a_child_without_pipes(run: Run) -> None:
    async def main() -> None:
        transport, proto = await start("true", stdin=None, stdout=None, stderr=None)
        await proto.until("lost")
        assert proto.events == [("made",), ("exited",), ("lost", None)]
        transport.close()

    run(main())


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_return_codes(run: Run, code: int) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_shell(f"exit {code}")
        assert await asyncio.wait_for(child.wait(), LIMIT) == code
        assert child.returncode == code

    run(main())


@pytest.mark.parametrize("how", ["terminate", "kill", "send_signal"])
def test_signals(run: Run, how: str) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        number = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}.get(how, signal.SIGUSR1)
        getattr(child, how)(*([number] if how == "send_signal" else []))
        assert await asyncio.wait_for(child.wait(), LIMIT) == -number
        with pytest.raises(ProcessLookupError):
            child.send_signal(number)

    run(main())


def test_a_stopped_child_has_not_exited(run: Run) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        child.send_signal(signal.SIGSTOP)
        child.send_signal(signal.SIGCONT)
        out, _ = await asyncio.wait_for(child.communicate(b"still here"), LIMIT)
        assert out == b"still here"
        assert child.returncode == 0

    run(main())


def test_many_children_and_no_zombie(run: Run) -> None:
    async def one(number: int) -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        text = str(number).encode() * 1000
        out, _ = await asyncio.wait_for(child.communicate(text), LIMIT)
        assert out == text
        assert child.returncode == 0
        assert is_gone(child.pid)

    async def main() -> None:
        await asyncio.gather(*[one(i) for i in range(20)])

    run(main())


def test_several_waiters(run: Run) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        waits = [asyncio.create_task(child.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert child.stdin is not None
        child.stdin.close()
        assert await asyncio.wait_for(asyncio.gather(*waits), LIMIT) == [0, 0, 0]

    run(main())


# ---- how it is started ----


def test_popen_keywords(run: Run, tmp_path: Any) -> None:
    async def main() -> None:
        code = "import os; print(os.getcwd(), os.environ.get('V'), os.getpgid(0) == os.getpid())"
        out = await output_of(code, cwd=tmp_path, env={"V": "v"}, process_group=0)
        assert out.decode().split() == [str(tmp_path), "v", "True"]
        assert await output_of("import os; print(os.environ.get('HOME'))", env={}) == b"None\n"
        assert await output_of("import os; print(os.getsid(0) == os.getpid())",
                               start_new_session=True) == b"True\n"  # fmt: skip
        assert await output_of("import os; print(oct(os.umask(0)))", umask=0o31) == b"0o31\n"
        everything: dict[str, Any] = {
            "close_fds": True, "restore_signals": False, "preexec_fn": None, "pass_fds": (),
            "creationflags": 0, "startupinfo": None, "executable": None, "pipesize": 4096,
            "user": None, "group": None, "extra_groups": None, "umask": -1,
        }  # fmt: skip
        assert await output_of("print(1)", **everything) == b"1\n"
        assert await output_of("print(1)", preexec_fn=lambda: None) == b"1\n"

    run(main())


def test_pipesize(run: Run) -> None:
    async def main() -> None:
        import fcntl

        transport, proto = await start("cat", pipesize=1 << 16)
        pipe = transport.get_pipe_transport(1).get_extra_info("pipe")
        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == 1 << 16
        transport.get_pipe_transport(0).close()
        await proto.until("lost")
        transport.close()

    run(main())


def test_pass_fds_and_nothing_else(run: Run) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        other, third = socket.socketpair()
        far.setblocking(False)
        for sock in other, third:
            sock.set_inheritable(True)
        code = f"""
import os, socket
socket.socket(fileno={far.fileno()}).send(b'hello')
for fd in {other.fileno()}, {third.fileno()}:
    try:
        os.fstat(fd)
    except OSError:
        print('closed')
"""
        out = await output_of(code, pass_fds=[far.fileno()])
        assert out == b"closed\nclosed\n"
        assert near.recv(10) == b"hello"
        assert not far.getblocking()
        assert not os.get_blocking(far.fileno())
        for sock in near, far, other, third:
            sock.close()

    run(main())


def test_our_ends_of_the_pipes_are_not_inherited(run: Run) -> None:
    """Else the first child would keep the second one's stdin open."""

    async def main() -> None:
        first = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        second = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for child in first, second:
            out, _ = await asyncio.wait_for(child.communicate(b"x"), LIMIT)
            assert out == b"x"

    run(main())


def test_stderr_into_stdout(run: Run) -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_shell(
            "echo one; echo two >&2", stdout=PIPE, stderr=subprocess.STDOUT
        )
        out, err = await asyncio.wait_for(child.communicate(), LIMIT)
        assert out == b"one\ntwo\n"
        assert err is None
        child = await asyncio.create_subprocess_shell(
            "echo one; echo two >&2", stdout=subprocess.DEVNULL, stderr=PIPE
        )
        assert await asyncio.wait_for(child.communicate(), LIMIT) == (None, b"two\n")

    run(main())


def test_files_and_sockets_as_standard_streams(run: Run, tmp_path: Any) -> None:
    (tmp_path / "in").write_bytes(b"from a file")

    async def main() -> None:
        near, far = socket.socketpair()
        with (tmp_path / "in").open("rb") as file:
            child = await asyncio.create_subprocess_exec("cat", stdin=file, stdout=far)
        far.close()
        assert await asyncio.wait_for(child.wait(), LIMIT) == 0
        assert near.recv(100) == b"from a file"
        near.close()

    run(main())


def test_written_before_the_spawn_leaves_before_the_child_writes(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        copy = near.dup()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        transport.write(b"header ")
        child = await asyncio.create_subprocess_exec("echo", "body", stdout=copy)
        copy.close()
        await asyncio.wait_for(child.wait(), LIMIT)
        assert far.recv(100) == b"header body\n"
        transport.close()
        await asyncio.sleep(0)
        far.close()

    run(main())


def test_bad_arguments(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        for keywords, text in [
            ({"universal_newlines": True}, "universal_newlines must be False"),
            ({"bufsize": 4096}, "bufsize must be 0"),
            ({"text": True}, "text must be False"),
            ({"encoding": "utf-8"}, "encoding must be None"),
            ({"errors": "strict"}, "errors must be None"),
        ]:
            for spawn in loop.subprocess_exec, loop.subprocess_shell:
                with pytest.raises(ValueError, match=f"^{text}$"):
                    await spawn(factory, "true", **keywords)  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"^shell must be False$"):
            await loop.subprocess_exec(factory, "true", shell=True)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"^shell must be True$"):
            await loop.subprocess_shell(factory, "true", shell=False)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"^cmd must be a string$"):
            await loop.subprocess_shell(factory, ["true"])  # type: ignore[call-overload]
        assert not made

    run(main())


@pytest.mark.parametrize(
    ("args", "keywords", "error"),
    [
        (("/no/such/program",), {}, FileNotFoundError),
        (("/",), {}, PermissionError),
        (("true", "nul\0byte"), {}, ValueError),
        (("true",), {"cwd": "/no/such/place"}, FileNotFoundError),
        (("true",), {"no_such_keyword": 1}, TypeError),
        (("true",), {"env": {"a=b": "c"}}, ValueError),
        (("true",), {"preexec_fn": lambda: 1 / 0}, subprocess.SubprocessError),
        ((5,), {}, TypeError),
        (("true", None), {}, TypeError),
        (("true",), {"stdin": 10**6}, OSError),
    ],
)
def test_a_child_that_cannot_be_started(
    run: Run, args: Any, keywords: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(error):
            await loop.subprocess_exec(Recorder, *args, **keywords)

    run(main())
    gc.collect()


def test_cancelled_while_it_is_started(run: Run) -> None:
    pids: list[int] = []

    class Noting(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            pids.append(self.pid)

    async def main() -> None:
        for turns in range(6):
            task = asyncio.create_task(
                asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                child = task.result()
                child.kill()
                await asyncio.wait_for(child.communicate(), LIMIT)
                continue
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, LIMIT)
        assert all(is_gone(pid) for pid in pids)

    original = subprocess.Popen
    subprocess.Popen = Noting  # type: ignore[misc]
    try:
        run(main())
    finally:
        subprocess.Popen = original  # type: ignore[misc]
    assert pids


def test_close_kills(run: Run) -> None:
    async def main() -> None:
        transport, proto = await start("sleep", "1000")
        transport.close()
        assert transport.is_closing()
        transport.close()
        await proto.until("lost")
        assert transport.get_returncode() == -signal.SIGKILL
        assert is_gone(transport.get_pid())

    run(main())


# ---- watching ----


def test_a_handler_of_sigchld_may_be_there(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, seen.set)
        child = await asyncio.create_subprocess_exec("true")
        assert await asyncio.wait_for(child.wait(), LIMIT) == 0
        await asyncio.wait_for(seen.wait(), LIMIT)
        assert is_gone(child.pid)
        assert loop.remove_signal_handler(signal.SIGCHLD)

    run(main())
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_in_a_thread(loop_kind: str) -> None:
    results: list[Any] = []

    async def main() -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        results.append(await asyncio.wait_for(child.communicate(b"x"), LIMIT))
        results.append(child.returncode)

    def factory() -> asyncio.AbstractEventLoop:
        if loop_kind == "asyncio":
            return asyncio.SelectorEventLoop()
        return hotloop.new_event_loop(backend=loop_kind.removeprefix("hotloop-"))

    def body() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(LIMIT)
    assert results == [(b"x", None), 0]


@pytest.fixture
def no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.mark.usefixtures("no_pidfd")
def test_without_pidfd_a_thread_waits(hotrun: Run) -> None:
    async def main() -> None:
        children = [await asyncio.create_subprocess_shell(f"exit {i}") for i in range(5)]
        codes = await asyncio.wait_for(asyncio.gather(*[c.wait() for c in children]), LIMIT)
        assert codes == [0, 1, 2, 3, 4]
        assert all(is_gone(child.pid) for child in children)
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        child.kill()
        assert await asyncio.wait_for(child.wait(), LIMIT) == -signal.SIGKILL

    hotrun(main())


@pytest.mark.usefixtures("no_pidfd")
def test_the_loop_closes_before_the_thread_is_done(
    hotrun: Run, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    r, w = os.pipe()

    async def main() -> tuple[Any, int]:
        transport, _ = await start("cat", stdin=r, stdout=None, stderr=None)
        return transport, transport.get_pid()

    transport, pid = hotrun(main())
    os.close(r)
    loop.close()
    os.close(w)
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio-waitpid-"):
            thread.join(LIMIT)
    assert is_gone(pid)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"that handles pid {pid} is closed" in caplog.records[0].getMessage()
    transport._proc.returncode = 0
    transport.close()


@pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning")  # the writer's, from 3.13 on
def test_the_loop_closes_before_the_child_ends(hotrun: Run, loop: Any) -> None:
    """Nothing is left but the Popen object's own duty to reap; stock asyncio leaks the pidfd."""

    async def main() -> Any:
        return await asyncio.create_subprocess_exec("cat", stdin=PIPE)

    child = hotrun(main())
    popen = child._transport.get_extra_info("subprocess")
    loop.close()
    close = inspect.getsource(asyncio.base_subprocess.BaseSubprocessTransport.close)
    if "is_closed()" in close:  # 3.14, and later ones of 3.13: lets the pipes be, kills the child
        child._transport.close()
    else:
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            child._transport.close()
    popen.kill()
    popen.wait(LIMIT)
    child._transport._pipes[0].pipe._pipe.close()
    child._transport._pipes[0].pipe._pipe = None
    del child
    gc.collect()


def test_somebody_else_reaped_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        r, w = os.pipe()
        transport, proto = await start("cat", stdin=r, stdout=None, stderr=None)
        os.close(r)
        os.close(w)
        os.waitpid(transport.get_pid(), 0)
        await proto.until("lost")
        assert transport.get_returncode() == 255
        transport.close()

    run(main())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "exit status already read:  will report returncode 255" in said[0]


def test_popen_reaped_it(hotrun: Run) -> None:
    """Stock asyncio reports 255 then, though the truth is at hand."""

    async def main() -> None:
        r, w = os.pipe()
        transport, proto = await start(
            "/bin/sh", "-c", "read x; exit 3", stdin=r, stdout=None, stderr=None
        )
        os.close(r)
        os.close(w)
        assert transport.get_extra_info("subprocess").wait(LIMIT) == 3
        await proto.until("lost")
        assert transport.get_returncode() == 3
        transport.close()

    hotrun(main())


# ---- what they say ----


def test_debug_log(run: Run, anyloop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="asyncio")
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = LIMIT

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, proto = await start("cat", stderr=None)
        transport.get_pipe_transport(0).close()
        await proto.until("lost")
        transport.close()
        transport, proto = await loop.subprocess_shell(
            Recorder, "true", stdin=None, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        await proto.until("lost")
        transport.close()

    run(main())
    said = [record.getMessage() for record in caplog.records]
    first = "execute program 'cat' stdin=<pipe> stdout=<pipe>"
    second = f"run shell command 'true' stdout=stderr={subprocess.DEVNULL}"
    for what in first, second:
        assert what in said
    for what in "execute program 'cat'", "run shell command 'true'":
        assert len([line for line in said if line.startswith(f"{what}: <")]) == 1
    assert len([line for line in said if " created: pid " in line]) == 2
    assert len([line for line in said if "exited with return code 0" in line]) == 2


def test_resource_warning(run: Run) -> None:
    async def main() -> None:
        transport, proto = await start("true", stdin=None, stdout=None, stderr=None)
        await proto.until("lost")
        shown = repr(transport)
        assert "returncode=0" in shown
        proto.transport = None
        with pytest.warns(ResourceWarning, match=r"^unclosed transport <.*returncode=0>$"):
            del transport, proto
            gc.collect()

    run(main())


def test_the_end_is_known_as_soon_as_it_is_reaped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 3.14 on nothing runs in between: a signal would go to whoever has the number next."""
    seen: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        reap = os.waitpid

        def waitpid(pid: int, options: int) -> tuple[int, int]:
            loop.call_soon_threadsafe(lambda: seen.append(child.returncode))
            return reap(pid, options)

        monkeypatch.setattr(os, "waitpid", waitpid)
        child.kill()
        await child.wait()
        monkeypatch.undo()

    run(main())
    assert seen == [-signal.SIGKILL if sys.version_info >= (3, 14) else None]
