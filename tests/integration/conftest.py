"""Real programs on hotloop: the loops they run on, and the servers that they talk to.

`make integration` installs what they need (the extra `integration`); the two database servers
come from the system's packages. A server runs on a free port, in a temporary folder, once per
test session, and is stopped at its end. What is missing skips the tests that need it, by name.

Everything runs through `program`, which proves that loop, tasks and futures were hotloop's.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from reallib import Program, Tls, free_port, prove_ours, stop, wait_for_port

import hotloop

trustme = pytest.importorskip("trustme", reason="make integration installs it")


# ---- running a program --------------------------------------------------------------------


@pytest.fixture
def loop_factory(backend: str) -> Callable[[], asyncio.AbstractEventLoop]:
    return lambda: hotloop.new_event_loop(backend=backend)


@pytest.fixture
def program(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Program:
    """Runs a coroutine as asyncio.run() would, on a hotloop, with a limit against hanging."""

    def run(coro: Coroutine[Any, Any, Any]) -> Any:
        async def main() -> Any:
            await prove_ours()
            async with asyncio.timeout(300):
                return await coro

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())

    return run


# ---- certificates ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("certs")
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    cert, key, root = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(key))
    ca.cert_pem.write_to_path(str(root))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return Tls(server, ssl.create_default_context(cafile=root), cert, key, root)


# ---- servers in processes of their own ---------------------------------------------------------


def find_program(name: str, *folders: Path) -> str:
    """A server's program, in one of `folders` or on PATH; else the test is skipped."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    options = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {folder}".split()
    command = [find_program("redis-server"), *options, "--save", ""]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def wait_for_postgres(ready: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """It listens before it takes queries: until pg_isready says that it does."""
    wait_for_port(port, process)
    command = [ready, "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-t", "10"]
    while subprocess.run(command, check=False).returncode != 0:
        assert process.poll() is None, "PostgreSQL has ended by itself"
        time.sleep(0.05)


def _newest_postgres() -> list[Path]:
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(folders, key=lambda folder: int(folder.parent.name), reverse=True)


@pytest.fixture(scope="session")
def postgres_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """PostgreSQL for the user `tester` without a password; it refuses to run as root."""
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    places = _newest_postgres()
    initdb, postgres = find_program("initdb", *places), find_program("postgres", *places)
    ready = find_program("pg_isready", *places)
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root, and there is no user `postgres` to run the server as")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents:  # the server's user has to get there
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    subprocess.run(
        [initdb, "-D", data, "-U", "tester", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"],
        check=True, capture_output=True, cwd=folder, env=environment, **user,
    )  # fmt: skip
    options = f"-D {data} -p {port} -h 127.0.0.1 -k {folder} -c fsync=off".split()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [postgres, *options],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, env=environment, **user,
        )  # fmt: skip
    try:
        wait_for_postgres(ready, port, process)
        yield port
    finally:
        stop(process)
