"""The input of TLS: `fuzz_tls.py --seconds N [FILE ...]`, coverage-guided by atheris where it is.

An input is a program for the peer of a TLS connection of hotloop's: genuine records of a genuine
handshake, sent whole, in pieces, corrupted, doubled, reordered, with bytes that are none, with
ends and resets at any place, while the connection under test writes, pauses, closes. Whatever
comes: what the application gets is what the peer's application wrote, from its beginning; the
events are in order; nothing is reported; nothing is left.

With atheris (and clang) hotloop is built for it, with AddressSanitizer, and libFuzzer chooses the
inputs by coverage of the C code. Without, this file mutates inputs by itself, on the hotloop that
is installed. With FILEs it only runs those.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import logging
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CERT = HERE.parent / "features" / "localhost.pem"
CORPUS = HERE / "corpus" / "tls"
BUILD = ROOT / "build" / "fuzz-tls"
PRELOAD = "asan_with_fuzzer.so"  # atheris brings it
ENDS = (OSError, ssl.SSLError, asyncio.CancelledError)  # of a connection attempt
MOST = 80  # operations of one program
PATTERN = bytes(i % 251 for i in range(66_000))
TURNS = 200  # in which a connection that was aborted must have come to its end


def contexts(version: int) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.load_cert_chain(CERT)
    client.load_verify_locations(CERT)
    only = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)[version]
    for context in (server, client):
        context.minimum_version = context.maximum_version = only
    return server, client


class Victim(asyncio.Protocol):
    """The application on hotloop's side."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.got = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.events.append("data")
        self.got += data

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")

    def check(self) -> None:
        if self.events:
            assert self.events[0] == "made", self.events
            assert self.events[-1] == "lost", self.events
            assert self.events.count("made") == self.events.count("lost") == 1
            rest = self.events[self.events.index("eof") :] if "eof" in self.events else []
            assert "data" not in rest, self.events


class Play:
    """One program: the peer's side, by hand."""

    def __init__(self, fuzz: Fuzz, data: bytes) -> None:
        self.data, self.at = data, 0
        self.loop = fuzz.loop
        how = self.byte()
        self.server_side = bool(how & 1)  # of the victim
        server, client = fuzz.contexts[how >> 1 & 1]
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours, theirs = (server, client) if self.server_side else (client, server)
        name = None if self.server_side else "localhost"
        self.tls = theirs.wrap_bio(
            self.incoming,
            self.outgoing,
            not self.server_side,
            "localhost" if name is None else None,
        )
        self.pending = bytearray()  # of the peer, not yet sent
        self.sent = bytearray()  # by the peer's application
        self.ready = False
        self.open = True
        self.ended = False  # by close() or abort() of the victim's transport
        self.victim = Victim()
        if self.server_side:
            making: Any = self.loop.connect_accepted_socket(
                lambda: self.victim, self.near, ssl=ours
            )
        else:
            making = self.loop.create_connection(
                lambda: self.victim, sock=self.near, ssl=ours, server_hostname=name
            )
        self.making = self.loop.create_task(making)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def turns(self, n: int) -> None:
        for _ in range(n):
            self.loop.stop()
            self.loop.run_forever()

    def think(self) -> None:
        """The peer goes on with its handshake, and reads what came."""
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            while self.tls.read(65536):
                pass
        except (ssl.SSLError, OSError):
            pass
        self.pending += self.outgoing.read()

    def hear(self) -> None:
        try:
            while data := self.far.recv(65536):
                self.incoming.write(data)
        except OSError:
            pass
        self.think()

    def send(self, data: bytes) -> None:
        try:
            if self.open and data:
                self.far.send(data)
        except OSError:
            self.open = False

    # ---- operations, picked by the input ----

    def op_genuine(self, n: int) -> None:
        for _ in range(1 + n % 4):
            self.hear()
            self.send(bytes(self.pending))
            self.pending.clear()
            self.turns(2)

    def op_piece(self, n: int) -> None:
        self.hear()
        self.send(bytes(self.pending[:n]))
        del self.pending[:n]
        self.turns(1)

    def op_corrupt(self, n: int) -> None:
        if self.pending:
            self.pending[(n * 7) % len(self.pending)] ^= 1 + self.byte() % 255

    def op_drop(self, n: int) -> None:
        del self.pending[self.byte() : n + 1]

    def op_double(self, n: int) -> None:
        self.pending += self.pending[: n * 8]

    def op_foreign(self, n: int) -> None:
        piece = self.data[self.at : self.at + n]
        self.at += n
        self.pending[:0] = piece

    def op_record(self, n: int) -> None:
        """A record with a header that looks right: any type, any length, any body."""
        kind = (20, 21, 22, 23, 24, n)[self.byte() % 6]
        body = self.data[self.at : self.at + n % 64]
        self.at += n % 64
        length = len(body) if n & 64 else n * 256
        self.send(bytes((kind, 3, 3, length >> 8 & 255, length & 255)) + body)
        self.turns(1)

    def op_eof(self, n: int) -> None:
        try:
            self.far.shutdown(socket.SHUT_WR if n % 2 else socket.SHUT_RDWR)
        except OSError:
            pass
        self.turns(1)

    def op_peer_writes(self, n: int) -> None:
        if self.ready:
            start = len(self.sent) % 251
            data = PATTERN[start : start + 1 + n * n]
            try:
                self.sent += data[: self.tls.write(data)]
            except ssl.SSLError:
                pass
            self.pending += self.outgoing.read()

    def op_peer_ends(self, n: int) -> None:
        if self.ready:
            try:
                self.tls.unwrap()
            except (ssl.SSLError, OSError):
                pass
            self.pending += self.outgoing.read()

    def op_victim(self, n: int) -> None:
        transport = self.victim.transport
        if transport is None or "lost" in self.victim.events or transport._ssl_protocol is None:
            return  # a close() just before connection_lost() parts them as well
        what = ("write", "write", "pause", "resume", "close", "abort", "limits")[n % 7]
        if what == "write":
            transport.write(bytes(n * n))
        elif what == "pause":
            transport.pause_reading()
        elif what == "resume":
            transport.resume_reading()
        elif what == "limits":
            transport.set_write_buffer_limits(n * 10, n)
        elif what != "close" or not self.ended:
            # With asyncio as with us a second close() parts the transport from its protocol: what
            # else is called then raises AttributeError, and abort() does nothing any more.
            getattr(transport, what)()
            self.ended = self.ended or what in ("close", "abort")
        self.turns(n % 2)

    OPS = (
        op_genuine,
        op_genuine,
        op_genuine,
        op_piece,
        op_piece,
        op_corrupt,
        op_drop,
        op_double,
        op_foreign,
        op_record,
        op_eof,
        op_peer_writes,
        op_peer_writes,
        op_peer_ends,
        op_victim,
        op_victim,
    )

    def run(self) -> None:
        self.think()
        self.turns(1)
        for _ in range(MOST):
            if self.at >= len(self.data):
                break
            operation = self.OPS[self.byte() % len(self.OPS)]
            operation(self, self.byte())

    def end(self) -> None:
        self.far.close()
        if self.victim.transport is not None:
            self.victim.transport.abort()
        self.making.cancel()
        for _ in range(TURNS):
            if self.making.done() and self.victim.events[-1:] in ([], ["lost"]):
                break
            self.turns(1)
        assert self.making.done(), "the connection attempt never ends"
        try:
            self.making.result()
        except ENDS:
            pass
        self.near.close()
        self.turns(2)
        self.victim.check()
        assert self.sent.startswith(self.victim.got), "bytes that the peer did not write"


def descriptors() -> list[str]:
    """What is open, by name, so that what is left over says whose it is."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return sorted(found)


class Fuzz:
    def __init__(self) -> None:
        import hotloop

        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.loop = hotloop.new_event_loop()
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.reports.append(context))
        self.contexts = (contexts(0), contexts(1))
        self.count = 0
        self.open: list[str] = []

    def one(self, data: bytes) -> None:
        self.count += 1
        play = Play(self, data)
        try:
            play.run()
        finally:
            play.end()
        assert not self.reports, self.reports
        if self.count % 200 == 0:
            del play
            gc.collect()
            now = descriptors()
            assert not self.open or len(now) <= len(self.open), f"{now}, there were {self.open}"
            self.open = now


# ---- ways to run it ----


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds) if seeds and rng.random() < 0.7 else b"")
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.choice([1, 2, 2, 4, 16, 40]))
    return bytes(data[:240])


def by_ourselves(seconds: float, seeds: list[bytes]) -> int:
    fuzz, rng = Fuzz(), random.Random()
    end = time.monotonic() + seconds
    kept = list(seeds)
    while time.monotonic() < end:
        data = mutated(rng, kept)
        try:
            fuzz.one(data)
        except BaseException:
            Path("crash-tls").write_bytes(data)
            raise
        if rng.random() < 0.02:
            kept = [*kept[-200:], data]
    print(f"fuzz: {fuzz.count} executions, without atheris")
    return 0


def built_for_atheris() -> Path:
    environ = {"CC": "clang", "CFLAGS": "-O1 -g -UNDEBUG -fsanitize=address,fuzzer-no-link"}
    where = ["--build-base", str(BUILD / "base"), "--build-lib", str(BUILD / "lib")]
    command = [sys.executable, "setup.py", "-q", "build", *where]
    subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=True)
    return BUILD / "lib"


def by_atheris(seconds: int) -> int:
    """Again, in a process with libFuzzer and AddressSanitizer loaded before everything else."""
    import atheris

    environ = {
        "LD_PRELOAD": str(Path(atheris.path(), PRELOAD)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(built_for_atheris()),
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--inside", "--seconds", str(seconds)]
    return subprocess.run(command, env=os.environ | environ, check=False).returncode


def inside(seconds: int) -> int:
    import atheris

    folder = Path("corpus-tls")
    folder.mkdir(exist_ok=True)
    arguments = [sys.argv[0], str(folder), *([str(CORPUS)] if CORPUS.is_dir() else [])]
    arguments += [f"-max_total_time={seconds}", "-max_len=240", "-len_control=0", "-timeout=60"]
    # The names of new functions come from a symbolizer: a process with two pipes, which stay open.
    arguments += ["-print_funcs=0"]
    atheris.Setup([*arguments, "-print_final_stats=1", "-rss_limit_mb=4096"], Fuzz().one)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("files", nargs="*", type=Path)
    args = parser.parse_args()
    if args.inside:
        return inside(args.seconds)
    if args.files:
        fuzz = Fuzz()
        for path in args.files:
            fuzz.one(path.read_bytes())
        print(f"fuzz: {fuzz.count} executions")
        return 0
    there = importlib.util.find_spec("atheris") is not None and shutil.which("clang") is not None
    if there and not args.plain:
        return by_atheris(args.seconds)
    seeds = [path.read_bytes() for path in sorted(CORPUS.glob("*"))]
    return by_ourselves(args.seconds, seeds)


if __name__ == "__main__":
    sys.exit(main())
