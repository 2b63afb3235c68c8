"""The load: wrk on one CPU against a server on another."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from runner import HERE, Failed, Figures, Setting, kill_group, run, why

CONNECTIONS = 50
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


def available() -> str:
    """Where wrk is; empty where it is not."""
    return shutil.which("wrk") or ""


def other_cpu(cpu: int | None) -> int | None:
    """A CPU for the load; the server's own, if there is but one."""
    others = sorted(os.sched_getaffinity(0) - {cpu})
    return others[-1] if others else cpu


def read_report(text: str) -> tuple[float, float, int]:
    """Requests a second, the 99th percentile in microseconds, and the number of requests."""
    bad = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*[1-9].*", text)
    if bad:
        raise Failed(f"wrk: {bad[0]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    total = re.search(r"(\d+) requests in", text)
    if not rate or not slow or not total or not int(total[1]):
        raise Failed("wrk: no request was answered")
    return float(rate[1]), float(slow[1]) * UNITS[slow[2]], int(total[1])


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes of a process that are in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_port(server: subprocess.Popen[bytes], errors: IO[bytes], seconds: float) -> int:
    """The port that the server prints when it listens."""
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise Failed(f"the server did not start within {seconds:.0f} s")
    printed = server.stdout.readline()
    if not printed.strip().isdigit():
        server.wait(5)
        errors.seek(0)
        raise Failed(why(server.returncode, errors.read().decode(errors="replace")))
    return int(printed)


def load(server: subprocess.Popen[bytes], port: int, setting: Setting) -> Figures:
    """A short warm-up, then one measured run."""
    pinned = ["taskset", "-c", str(other_cpu(setting.cpu))] if shutil.which("taskset") else []
    url = f"http://127.0.0.1:{port}/7"
    command = [*pinned, available(), "-t1", f"-c{CONNECTIONS}", "--latency"]
    run([*command, "-d1s", url], setting.seconds)
    cpu = cpu_seconds(server.pid)
    text = run([*command, f"-d{setting.load}s", url], setting.seconds + setting.load)
    cpu = cpu_seconds(server.pid) - cpu
    rate, slow, total = read_report(text)
    rss = memory(server.pid)
    return {"wall": [1e9 / rate], "cpu": [cpu / total * 1e9], "p99": [slow], "rss": [float(rss)]}


def ask(app: str, arm: str, setting: Setting) -> Figures:
    """What an application does on an arm. A server that dies fails the load, not the benchmark."""
    command = [sys.executable, str(HERE / "servers" / "serve.py"), app, arm]
    command += ["--seconds", str(int(2 * setting.seconds) + setting.load + 10)]
    if setting.cpu is not None:
        command += ["--cpu", str(setting.cpu)]
    with tempfile.TemporaryFile() as errors:
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            port = read_port(server, errors, min(setting.seconds, 30))
            try:
                return load(server, port, setting)
            except (Failed, OSError) as failed:
                time.sleep(0.2)
                if server.poll() is None:
                    raise Failed(str(failed)) from None
                errors.seek(0)
                said = errors.read().decode(errors="replace")
                raise Failed(why(server.returncode, said)) from None
        finally:
            kill_group(server.pid)
            server.communicate()
