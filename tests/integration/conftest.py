"""Real programs on hotloop: the loops they run on, and the servers that they talk to.

`make integration` installs what they need (the extra `integration`); the two database servers
come from the system's packages. A server runs on a free port, in a temporary folder, once per
test session, and is stopped at its end. What is missing skips the tests that need it, by name.

Everything runs through `program`, which proves that loop, tasks and futures were hotloop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import servers
from reallib import Program, Tls, prove_ours

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


@contextlib.contextmanager
def or_skip(server: contextlib.AbstractContextManager[int]) -> Iterator[int]:
    """What is not installed skips the tests that need it."""
    with contextlib.ExitStack() as stack:
        try:
            port = stack.enter_context(server)
        except servers.Missing as exc:
            pytest.skip(str(exc))
        yield port


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with or_skip(servers.redis(tmp_path_factory.mktemp("redis"))) as port:
        yield port


@pytest.fixture(scope="session")
def postgres_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """PostgreSQL for the user `tester` without a password."""
    with or_skip(servers.postgres(tmp_path_factory.mktemp("postgres"))) as port:
        yield port
