"""A port for a server that a test starts as a process, and when the server answers on it."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import Any

START = 60.0  # seconds that a server may take until it answers


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has: for programs that cannot say which one they took."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    """Until somebody answers there, or the process that should is gone."""
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
