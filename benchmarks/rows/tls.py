"""TLS, both ends on the measured loop."""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import subprocess
import tempfile
from collections.abc import Awaitable
from typing import Any

from rows.registry import Spent, row
from rows.transports import GROUP, KIB, Asker, Echo, port_of, round_trips


@functools.cache
def certificate() -> tuple[tempfile.TemporaryDirectory[str], str, str]:
    """A certificate and its key, made now; the folder lasts as long as this process.

    rsloop opens the files again when it makes a connection.
    """
    folder = tempfile.TemporaryDirectory()
    cert, key = os.path.join(folder.name, "cert"), os.path.join(folder.name, "key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    command += f" -days 1 -subj /CN=localhost -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder, cert, key


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate()[1:])
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _tls(count: int, size: int) -> Spent:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context())
    port = port_of(server)
    context = client_context()

    def connect() -> Awaitable[tuple[Any, Any]]:
        return loop.create_connection(lambda: Asker(size), "127.0.0.1", port, ssl=context)

    return await round_trips(server, connect, count)


@row(GROUP, "tls_echo_1k", "TLS echo 1 KiB", 4_000)
async def tls_1k(count: int) -> Spent:
    """A round trip over TLS."""
    return await _tls(count, KIB)


@row(GROUP, "tls_echo_100k", "TLS echo 100 KiB", 600)
async def tls_100k(count: int) -> Spent:
    """A round trip of 100 KiB over TLS, which is seven records."""
    return await _tls(count, 100 * KIB)
