"""csrc/ calls the system and its allocators through one door each, so that both can be failed.

System calls: core/sys.h (hl_sys_*). Memory: core/mem.h (hl_malloc and its kin) and, for what Python
allocates, py/mem.h (hl_type_alloc, hl_gc_new, hl_pymem_*). What is handed out by CPython's own
functions, a str or a tuple, is not ours to fail.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"

CALLS = (
    "accept accept4 bind close connect dup dup2 dup3 epoll_create epoll_create1 epoll_ctl"
    " epoll_pwait epoll_pwait2 epoll_wait eventfd execve fcntl fork fstat getpeername getsockname"
    " getsockopt ioctl kill kqueue kevent listen lseek lstat open openat pidfd_open pipe pipe2 poll"
    " ppoll pread prctl pselect pwrite read readv recv recvfrom recvmmsg recvmsg select send"
    " sendfile sendmmsg sendmsg sendto setsockopt shutdown sigaction signal signalfd socket"
    " socketpair splice stat syscall timerfd_create timerfd_settime unlink vfork wait4 waitid"
    " waitpid write writev"
).split()
MEMORY = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "aligned_alloc",
    "posix_memalign",
    "strdup",
]
PYTHON_MEMORY = [
    "PyMem_(?:Raw)?(?:Malloc|Calloc|Realloc|New|Resize)",
    "PyObject_(?:Malloc|Calloc|Realloc|New|NewVar|GC_New|GC_NewVar)",
    "tp_alloc",
]


def call_of(names: list[str], before: str = r"(?<![\w.>])") -> re.Pattern[str]:
    return re.compile(before + r"(" + "|".join(names) + r")\s*\(")


# The second of them is of sys.h, and has what takes several calls on other systems.
SYSTEM = {Path("core/sys.h"), Path("core/portable.h"), Path("core/sys.c")}

# A call, not a member (`ops->close(p)`), nor part of a longer name. tp_alloc is always a member.
RULES = [
    (call_of(CALLS), SYSTEM, "core/sys.h has hl_sys_{}()"),
    (call_of(MEMORY), {Path("core/mem.h")}, "core/mem.h has hl_{}()"),
    (call_of(PYTHON_MEMORY, r"\b"), {Path("py/mem.h")}, "instead of {}(): see py/mem.h"),
]
NO_CODE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def code_of(text: str) -> str:
    """The text with comments and strings blanked; lines stay where they are."""
    return NO_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def faults_of(path: Path) -> list[tuple[int, str]]:
    faults = []
    for number, line in enumerate(code_of((CSRC / path).read_text()).splitlines(), 1):
        for pattern, allowed, advice in RULES:
            if path not in allowed:
                faults += [(number, advice.format(name)) for name in pattern.findall(line)]
    return faults


def main() -> int:
    files = sorted(path.relative_to(CSRC) for path in CSRC.rglob("*.[ch]"))
    count = 0
    for path in files:
        for number, fault in faults_of(path):
            print(f"    csrc/{path}:{number}: {fault}")
            count += 1
    print(f"    {len(files)} files, {count} faults")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
