"""Database servers for tests: on a free port, in a folder of their own, stopped at the end.

They come from the system's packages; Missing says which one is not there. Used by the fixtures of
`make integration` and by `make suites`, so it needs nothing beyond Python.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports import free_port, wait_for_port


class Missing(Exception):
    """A server that is not installed, or cannot be run here; its text says so."""


def stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_program(name: str, *folders: Path) -> str:
    """A server's program, in one of `folders` or on PATH."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def _debug_commands(program: str) -> list[str]:
    """What lets redis-py's suite ask for errors with DEBUG: from Redis 7.0 on that is off."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    major = re.search(r"v=(\d+)", text)
    return ["--enable-debug-command", "local"] if major and int(major[1]) >= 7 else []


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A Redis server, empty; its port."""
    port = free_port()
    options = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {folder}".split()
    program = find_program("redis-server")
    command = [program, *options, "--save", "", *_debug_commands(program)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def _wait_for_postgres(ready: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """It listens before it takes queries: until pg_isready says that it does."""
    wait_for_port(port, process)
    command = [ready, "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-t", "10"]
    while subprocess.run(command, check=False).returncode != 0:
        if process.poll() is not None:
            raise Missing("PostgreSQL has ended by itself")
        time.sleep(0.05)


def postgres_folders() -> list[Path]:
    """Where PostgreSQL's programs may be, beside PATH: the newest first."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(folders, key=lambda folder: int(folder.parent.name), reverse=True)


def _postgres_user(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then the user whom it comes with gets the folder."""
    if os.getuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise Missing(
            "running as root, and there is no user `postgres` to run the server as"
        ) from None
    os.chown(folder, account.pw_uid, account.pw_gid)
    for parent in folder.parents:  # the server's user has to get there
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[int]:
    """PostgreSQL for the user `tester` without a password; its port."""
    port, places = free_port(), postgres_folders()
    initdb, server = find_program("initdb", *places), find_program("postgres", *places)
    ready = find_program("pg_isready", *places)
    user = _postgres_user(folder)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    subprocess.run(
        [initdb, "-D", data, "-U", "tester", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"],
        check=True, capture_output=True, cwd=folder, env=environment, **user,
    )  # fmt: skip
    options = f"-D {data} -p {port} -h 127.0.0.1 -k {folder} -c fsync=off".split()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [server, *options],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, env=environment, **user,
        )  # fmt: skip
    try:
        _wait_for_postgres(ready, port, process)
        yield port
    finally:
        stop(process)


# Stands for one of PostgreSQL's programs where root calls it: gives its user what the caller made.
AS_POSTGRES = """\
#!/bin/sh
data=
for word; do
    [ "$data" = next ] && data=$word && break
    [ "$word" = -D ] && data=next
done
[ -d "$data" ] && chown -R postgres: "$data"
exec setpriv --reuid=postgres --regid=postgres --clear-groups {program} "$@"
"""


@contextlib.contextmanager
def postgres_programs(folder: Path) -> Iterator[Path]:
    """A folder with PostgreSQL's programs, for those who start servers of their own."""
    real = Path(find_program("pg_ctl", *postgres_folders())).resolve().parent
    if not _postgres_user(folder):
        yield real
        return
    for program in real.iterdir():
        stand_in = folder / program.name
        stand_in.write_text(AS_POSTGRES.format(program=program))
        stand_in.chmod(0o755)
    yield folder
