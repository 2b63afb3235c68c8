"""A TLS proxy: takes TLS connections, and passes what comes to a server that knows no TLS.

    python examples/echo_streams.py &
    python examples/tls_proxy.py --to 127.0.0.1:8888
    openssl s_client -quiet -connect 127.0.0.1:8443

Without --cert and --key it makes a certificate for localhost, which nobody trusts (by openssl).
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import subprocess
import tempfile
from pathlib import Path

import hotloop


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()  # the slower side sets the pace of both
    if writer.can_write_eof():
        writer.write_eof()  # this side has said all; the other may go on
    else:
        writer.close()  # TLS cannot be closed by half


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_connection(self.host, self.port)
        except OSError as exc:
            print(f"no connection to {self.host}:{self.port}: {exc}", flush=True)
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(reader, to_there))
                both.create_task(copy(there, writer))
        except* OSError:
            pass  # one side is lost (or broke TLS), and the group has ended the other
        finally:
            to_there.close()
            writer.close()


def context(cert: str | None, key: str | None) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as folder:
        if cert is None:
            cert, key = str(Path(folder, "cert.pem")), str(Path(folder, "key.pem"))
            make = "req -x509 -newkey rsa:2048 -nodes -days 7 -subj /CN=localhost"
            names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
            command = ["openssl", *make.split(), "-addext", names, "-out", cert, "-keyout", key]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.load_cert_chain(cert, key)
    return made


async def main(port: int, to: str, tls: ssl.SSLContext) -> None:
    host, _, number = to.rpartition(":")
    server = await asyncio.start_server(Proxy(host, int(number)).relay, "127.0.0.1", port, ssl=tls)
    print(f"listening on 127.0.0.1:{port}, for {to}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--to", default="127.0.0.1:8888", help="HOST:PORT of the server")
    parser.add_argument("--cert", help="PEM file with the chain of certificates")
    parser.add_argument("--key", help="PEM file with the private key")
    given = parser.parse_args()
    try:
        hotloop.run(main(given.port, given.to, context(given.cert, given.key)))
    except KeyboardInterrupt:
        pass
