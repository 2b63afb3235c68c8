"""Children that cannot be started, keywords that need privileges, ends that come late."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

LIMIT = 30.0  # seconds that no event of a test may take
Run = Callable[[Coroutine[Any, Any, Any]], Any]
PIPE = subprocess.PIPE

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs the rights of root")


class Noted(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.events.append(("data", fd, data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.events.append(("pipe lost", fd))

    def process_exited(self) -> None:
        self.events.append("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


async def output_of(*args: Any, **kwargs: Any) -> bytes:
    async with asyncio.timeout(LIMIT):
        child = await asyncio.create_subprocess_exec(*args, stdout=PIPE, **kwargs)
        out, _ = await child.communicate()
    assert child.returncode == 0
    return out


def no_children() -> bool:
    """Neither running nor waiting to be reaped."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


# ---- not started ----


def starts(tmp_path: Path) -> dict[str, tuple[Any, dict[str, Any], Any]]:
    plain = tmp_path / "not executable"
    plain.write_text("true\n")
    odd = tmp_path / "no known format"
    odd.write_bytes(b"\x01\x02\x03")
    odd.chmod(0o755)
    lost = tmp_path / "no interpreter"
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o755)
    return {
        "not executable": ((plain,), {}, PermissionError),
        "no known format": ((odd,), {}, errno.ENOEXEC),
        "no interpreter": ((lost,), {}, FileNotFoundError),
        "a folder for cwd": (("true",), {"cwd": plain}, NotADirectoryError),
        "nul in cwd": (("true",), {"cwd": "a\0b"}, ValueError),
        "nul in env": (("true",), {"env": {"A": "a\0b"}}, ValueError),
        "nul in env's name": (("true",), {"env": {"A\0B": "a"}}, ValueError),
        "nul in executable": (("true",), {"executable": "tr\0ue"}, ValueError),
        "nul in program": (("tr\0ue",), {}, ValueError),
        "empty program": (("",), {}, (FileNotFoundError, PermissionError)),
        "too much": (("true", "x" * (1 << 22)), {}, errno.E2BIG),
        "bad fd": (("true",), {"stdout": 10**6}, errno.EBADF),
        "bad user": (("true",), {"user": "no-such-user"}, KeyError),
        "bad group": (("true",), {"group": -1}, ValueError),
        "bad umask": (("true",), {"umask": "x"}, TypeError),
        "startupinfo": (("true",), {"startupinfo": object()}, ValueError),
        "creationflags": (("true",), {"creationflags": 1}, ValueError),
        "pass_fds": (("true",), {"pass_fds": [-5]}, ValueError),
    }


@pytest.mark.parametrize("stdin", [PIPE, None])
def test_a_child_that_cannot_be_started(run: Run, stdin: Any, tmp_path: Path) -> None:
    """No event, no child, no descriptor."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for name, (args, kwargs, error) in starts(tmp_path).items():
            made: list[Noted] = []

            def factory(made: list[Noted] = made) -> Noted:
                made.append(Noted())
                return made[-1]

            kind = OSError if isinstance(error, int) else error
            with pytest.raises(kind) as caught:
                await loop.subprocess_exec(factory, *args, stdin=stdin, **kwargs)
            if isinstance(error, int):
                assert caught.value.errno == error, name
            assert len(made) == 1
            await asyncio.sleep(0)
            assert made[0].events == [], name
            assert no_children(), name

    run(main())


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_preexec_fn_raises(run: Run, error: BaseException) -> None:
    def fails() -> None:
        raise error

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
            await loop.subprocess_exec(Noted, "true", preexec_fn=fails)
        assert no_children()

    run(main())


# ---- keywords ----


@needs_root
def test_user_and_groups(run: Run) -> None:
    async def main() -> None:
        got = await output_of(
            sys.executable, "-I", "-c",
            "import os; print(os.getuid(), os.getgid(), *sorted(os.getgroups()))",
            user=0, group=0, extra_groups=[5, 7],
        )  # fmt: skip
        assert got.split() == [b"0", b"0", b"5", b"7"]
        assert (await output_of("id", "-u", user=12345)).split() == [b"12345"]
        assert (await output_of("id", "-g", group=12345)).split() == [b"12345"]

    run(main())


def test_executable(run: Run) -> None:
    async def main() -> None:
        out = await output_of("not sh", "-c", "echo $0 $1", "a", "b", executable="/bin/sh")
        assert out == b"a b\n"

    run(main())


@pytest.mark.parametrize("restore", [True, False])
def test_restore_signals(run: Run, restore: bool) -> None:
    """Python ignores SIGXFSZ; the child does only if that is not undone."""

    async def main() -> None:
        status = await output_of("cat", "/proc/self/status", restore_signals=restore)
        line = next(line for line in status.splitlines() if line.startswith(b"SigIgn"))
        ignored = int(line.split()[1], 16) >> (signal.SIGXFSZ - 1) & 1
        assert ignored == (not restore)

    run(main())


def test_close_fds_false(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        os.set_inheritable(w, True)
        code = f"import os; os.write({w}, b'inherited')"
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, close_fds=False)
        assert await asyncio.wait_for(child.wait(), LIMIT) == 0
        assert os.read(r, 100) == b"inherited"
        os.close(r)
        os.close(w)

    run(main())


# ---- the end ----


@pytest.mark.parametrize("name", ["kill", "terminate", "send_signal"])
def test_signals_after_the_end(run: Run, name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Noted, "true")
        args = (signal.SIGTERM,) if name == "send_signal" else ()
        await asyncio.wait_for(protocol.lost, LIMIT)
        with pytest.raises(ProcessLookupError):
            getattr(transport, name)(*args)
        transport.close()
        transport.close()
        with pytest.raises(ProcessLookupError):
            getattr(transport, name)(*args)
        assert transport.get_returncode() == 0
        assert no_children()

    run(main())


def without_pidfd(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError({"seccomp": errno.EPERM, "old": errno.ENOSYS, "full": errno.EMFILE}[how], "")

    if how == "missing":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.mark.parametrize("how", ["missing", "seccomp", "old", "full"])
def test_without_pidfd(hotrun: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    without_pidfd(monkeypatch, how)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Noted, "echo", "x", stdin=None)
        await asyncio.wait_for(protocol.lost, LIMIT)
        assert protocol.events[0] == "made"
        assert protocol.events[-1] == "lost"
        assert set(protocol.events[1:-1]) == {
            ("data", 1, b"x\n"), ("pipe lost", 1), ("pipe lost", 2), "exited",
        }  # fmt: skip
        with pytest.raises(ProcessLookupError):
            transport.kill()
        transport.close()
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        child.kill()
        assert await asyncio.wait_for(child.wait(), LIMIT) == -signal.SIGKILL
        assert no_children()

    hotrun(main())


def test_a_pidfd_that_cannot_be_watched(hotrun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """select() knows no descriptor from 1024 on: then a thread waits as well."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3000:
        pytest.skip("the hard limit of descriptors is too low")
    original = os.pidfd_open

    def high(pid: int, flags: int = 0) -> int:
        fd = original(pid, flags)
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 2000)
        finally:
            os.close(fd)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Noted, "true")
        await asyncio.wait_for(protocol.lost, LIMIT)
        transport.close()
        assert protocol.events[-1] == "lost"
        assert no_children()

    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, before[1]))
    try:
        monkeypatch.setattr(os, "pidfd_open", high)
        hotrun(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
