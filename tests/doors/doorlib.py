"""What the tests of the doors share: a first answer, the end of a process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports import START

HERE = Path(__file__).parent


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def get(port: int, path: str = "/facts") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())


def wait_for_answer(port: int, process: subprocess.Popen[Any]) -> Any:
    deadline = time.monotonic() + START
    while True:
        try:
            return get(port)
        # No HTTP: another program's answer, which had that port for a moment.
        except (OSError, http.client.HTTPException):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


Serve = Callable[..., Any]
Run = Callable[..., str]
