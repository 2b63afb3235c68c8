"""Child processes: started by `subprocess.Popen`, their end seen through a pidfd.

Nothing of SIGCHLD is used, so that a program may have a handler of its own.  Where there is no
pidfd (an old kernel, a sandbox, no descriptor left) a thread waits.  Either way the child is
reaped on the loop's thread, in the callback that tells the transport: a signal sent until then
cannot hit a stranger that got its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import threading
from asyncio import base_events, base_subprocess
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object

_thread_numbers = itertools.count()

# From 3.14 on no callback runs between the reaping of a child and the news of it.
_PUBLISHES_AT_ONCE: bool = sys.version_info >= (3, 14)


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio's, which leaves open how a child is started."""

    _gone: asyncio.Future[None] | None = None  # for a child that nobody was connected to

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self._proc = subprocess.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr,
            universal_newlines=False, bufsize=bufsize, **kwargs,
        )  # fmt: skip

    def _process_exited(self, returncode: int) -> None:
        super()._process_exited(returncode)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def _ended_unconnected(self, failed: bool) -> None:
        """Waits for the child after its pipes could not be connected, or nobody waits for them.

        Up to some 3.13 asyncio's _wait() would wait for ever: for a pipe that never was, too. Not
        failed: connecting goes on, and what it has not come to yet is its own to close.
        """
        assert self._proc is not None
        if failed:
            for fd, file in enumerate((self._proc.stdin, self._proc.stdout, self._proc.stderr)):
                if file is not None and self._pipes.get(fd) is None:
                    file.close()
        if self._returncode is None:
            self._gone = self._loop.create_future()
            await self._gone


def _reap(proc: subprocess.Popen[bytes]) -> int:
    """The exit code of a child that has ended; whoever else waited for it may have it already.

    The Popen object is told at once: left alone with a child that is gone it would say 0.
    """
    if proc.returncode is not None:
        return proc.returncode
    try:
        _, status = os.waitpid(proc.pid, 0)
    except ChildProcessError:
        logger.warning(
            "child process pid %d exit status already read:  will report returncode 255", proc.pid
        )
        proc.returncode = 255
    else:
        proc.returncode = os.waitstatus_to_exitcode(status)
    return proc.returncode


class SubprocessMixin(Base):
    """Child processes of a loop; a base of LoopBase."""

    _pidfds: set[int] | None = None  # ours to close

    if TYPE_CHECKING:

        def _flush_writes(self) -> None: ...

        async def subprocess_shell[P: asyncio.BaseProtocol](
            self,
            protocol_factory: Callable[[], P],
            cmd: str | bytes,
            *,
            stdin: Any = subprocess.PIPE,
            stdout: Any = subprocess.PIPE,
            stderr: Any = subprocess.PIPE,
            universal_newlines: Any = False,
            shell: Any = True,
            bufsize: Any = 0,
            encoding: Any = None,
            errors: Any = None,
            text: Any = None,
            **kwargs: Any,
        ) -> tuple[asyncio.SubprocessTransport, P]: ...

        async def subprocess_exec[P: asyncio.BaseProtocol](
            self,
            protocol_factory: Callable[[], P],
            program: Any,
            *args: Any,
            stdin: Any = subprocess.PIPE,
            stdout: Any = subprocess.PIPE,
            stderr: Any = subprocess.PIPE,
            universal_newlines: Any = False,
            shell: Any = False,
            bufsize: Any = 0,
            encoding: Any = None,
            errors: Any = None,
            text: Any = None,
            **kwargs: Any,
        ) -> tuple[asyncio.SubprocessTransport, P]: ...
    else:
        # asyncio's own, in the running version: the checks, the log lines, and the call of
        # _make_subprocess_transport(). Starting a child waits for its exec; tools that look for
        # blocking calls let that pass, and know it by these functions and their file.
        subprocess_shell = base_events.BaseEventLoop.subprocess_shell
        subprocess_exec = base_events.BaseEventLoop.subprocess_exec
        _log_subprocess = base_events.BaseEventLoop._log_subprocess

    async def _make_subprocess_transport(
        self, protocol: Any, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any,
        bufsize: int, extra: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        self._flush_writes()  # the child may have what they go to, and starting it takes a while
        waiter = self.create_future()
        transport: Any = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize,
            waiter=waiter, extra=extra, **kwargs,
        )  # fmt: skip
        self._watch_child(transport, transport._proc)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._ended_unconnected(not waiter.cancelled())
            raise
        return transport

    # ---- the end of a child ----

    def _watch_child(self, transport: Any, proc: subprocess.Popen[bytes]) -> None:
        if not self._watch_pidfd(transport, proc):
            threading.Thread(
                target=self._wait_child,
                args=(transport, proc),
                name=f"asyncio-waitpid-{next(_thread_numbers)}",
                daemon=True,
            ).start()

    def _watch_pidfd(self, transport: Any, proc: subprocess.Popen[bytes]) -> bool:
        """Whether the child's end will be seen that way."""
        try:
            pidfd = os.pidfd_open(proc.pid)
        except (AttributeError, OSError):
            return False
        try:
            self.add_reader(pidfd, self._pidfd_ready, pidfd, transport, proc)
        except (ValueError, OSError, MemoryError):  # too high a number for select(), no memory
            os.close(pidfd)
            return False
        if self._pidfds is None:
            self._pidfds = set()
        self._pidfds.add(pidfd)
        return True

    def _pidfd_ready(self, pidfd: int, transport: Any, proc: subprocess.Popen[bytes]) -> None:
        self.remove_reader(pidfd)
        if self._pidfds is not None:
            self._pidfds.discard(pidfd)
        with contextlib.suppress(OSError):  # closed even so; the child's end must be told
            os.close(pidfd)
        if _PUBLISHES_AT_ONCE:
            transport._process_exited(_reap(proc))
        else:  # in a turn of its own: what asyncio's child watchers do, and programs see the order
            self.call_soon_threadsafe(transport._process_exited, _reap(proc))

    def _wait_child(self, transport: Any, proc: subprocess.Popen[bytes]) -> None:
        """The body of the thread that waits for one child, and leaves it a zombie."""
        try:
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # somebody else has reaped it: _reap() says so
        try:
            self.call_soon_threadsafe(self._child_exited, transport, proc)
        except RuntimeError:
            if not self.is_closed():
                raise
            logger.warning("Loop %r that handles pid %r is closed", self, proc.pid)
            _reap(proc)

    def _child_exited(self, transport: Any, proc: subprocess.Popen[bytes]) -> None:
        transport._process_exited(_reap(proc))

    def _close_children(self) -> None:
        """The loop is closing: children that still run are their Popen objects' business."""
        pidfds, self._pidfds = self._pidfds, None
        for pidfd in pidfds or ():
            os.close(pidfd)
