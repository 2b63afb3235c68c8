"""The examples that need nothing but Python, each asked by real clients, on every backend.

Those of other libraries are in tests/integration and tests/dask.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
from examplelib import EXAMPLES, OURS, example
from ports import free_port

ECHOES = ("echo_streams.py", "echo_protocol.py", "echo_sockets.py")
SIZE = 4 << 20  # more than the buffers of a connection hold


def ask(sock: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`, sent by a thread while this one reads."""
    sock.settimeout(120)
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    got = bytearray()
    while len(got) < len(data):
        piece = sock.recv(1 << 16)
        assert piece, f"an end after {len(got)} bytes"
        got += piece
    sender.join()
    return bytes(got)


def ask_in_pieces(sock: ssl.SSLSocket, data: bytes) -> bytes:
    """The same, a piece at a time: two threads may not share a TLS connection."""
    sock.settimeout(120)
    got = bytearray()
    for start in range(0, len(data), 1 << 16):
        piece = data[start : start + (1 << 16)]
        sock.sendall(piece)
        while len(got) < start + len(piece):
            came = sock.recv(1 << 16)
            assert came, f"an end after {len(got)} bytes"
            got += came
    return bytes(got)


@pytest.mark.parametrize("name", ECHOES)
def test_echo(name: str, backend: str, tmp_path: Path) -> None:
    port = free_port()
    with example(name, str(port), port=port, backend=backend, folder=tmp_path) as ran:
        there = ("127.0.0.1", port)
        clients = [socket.create_connection(there) for _ in range(10)]
        for number, client in enumerate(clients):
            text = b"client %d" % number
            assert ask(client, text) == text
        block = os.urandom(SIZE)
        assert ask(clients[0], block) == block
        # a client that leaves by a reset, with an echo on its way, disturbs nobody
        clients[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        clients[1].sendall(block[:100_000])
        clients[1].close()
        # the end of what a client sends: the rest of its echo, then an end
        clients[2].sendall(b"last")
        clients[2].shutdown(socket.SHUT_WR)
        clients[2].settimeout(60)
        assert b"".join(iter(lambda: clients[2].recv(100), b"")) == b"last"
        assert ask(clients[3], b"still here") == b"still here"
    # Ctrl-C came while most of them were connected
    for client in clients:
        client.close()
    assert ran == OURS


@pytest.fixture
def own_certificate(tmp_path: Path) -> tuple[Path, Path, ssl.SSLContext]:
    trustme = pytest.importorskip("trustme", reason="makes the certificate")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    cert, key, root = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(root))
    return cert, key, ssl.create_default_context(cafile=str(root))


def test_tls_proxy(
    backend: str, tmp_path: Path, own_certificate: tuple[Path, Path, ssl.SSLContext]
) -> None:
    cert, key, client = own_certificate
    behind, port = free_port(), free_port()
    files = ["--cert", str(cert), "--key", str(key)]
    args = ["--port", str(port), "--to", f"127.0.0.1:{behind}", *files]
    echo = example(ECHOES[0], str(behind), port=behind, backend=backend, folder=tmp_path)
    proxy = example("tls_proxy.py", *args, port=port, backend=backend, folder=tmp_path)
    with echo, proxy as ran:
        there = ("127.0.0.1", port)
        plain = socket.create_connection(there)
        with client.wrap_socket(plain, server_hostname="localhost") as sock:
            block = os.urandom(SIZE)
            assert ask_in_pieces(sock, block) == block
        with client.wrap_socket(
            socket.create_connection(there), server_hostname="localhost"
        ) as sock:
            sock.settimeout(60)
            assert ask_in_pieces(sock, b"short") == b"short"
            sock.unwrap().close()  # the end goes through to the echo, and its end comes back
    assert ran == OURS


def test_tls_proxy_makes_a_certificate(tmp_path: Path, backend: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    port, nobody = free_port(), free_port()
    args = ["--port", str(port), "--to", f"127.0.0.1:{nobody}"]
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with example("tls_proxy.py", *args, port=port, backend=backend, folder=tmp_path) as ran:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.settimeout(60)
        with trusting.wrap_socket(plain, server_hostname="localhost") as sock:
            assert sock.recv(1) == b""  # there is nobody behind it
    assert "no connection to" in (tmp_path / "tls_proxy.py.log").read_text()
    assert ran == OURS


def test_every_example_says_how_it_is_run() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert re.search(rf"^ *python examples/{path.name}\b", path.read_text(), re.MULTILINE), path


def test_every_example_is_in_the_list_and_run_by_a_test() -> None:
    tests = Path(__file__).resolve().parents[1]
    text = "".join(
        path.read_text()
        for folder in ("examples", "integration", "dask")
        for path in (tests / folder).glob("test_*.py")
    )
    for path in EXAMPLES.glob("*.py"):
        assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text(), path.name
        assert f'"{path.name}"' in text, path.name
