"""sendfile(): what is sent, where the file stands afterwards, and ends in the middle."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from netlib import LIMIT, Link, Recorder, finish, link, reset

SIZE = 3_000_000
DATA = bytes(range(256)) * (SIZE // 256) + b"rest"
SEEKS_ALWAYS = sys.version_info >= (3, 14)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    return file


class Untold(io.FileIO):
    """A file that os.sendfile() cannot be asked about."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def opened(path: Path, native: bool) -> Any:
    return path.open("rb") if native else Untold(str(path))


def narrow(one: Link) -> None:
    """So that the file does not fit into the buffers on the way."""
    one.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    one.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


async def take(one: Link, size: int) -> bytes:
    data = await one.recv(size)
    assert len(data) == size
    return data


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("how", ["transport", "socket"])
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (5, None), (0, 100), (1000, 2_000_000), (len(DATA) - 3, 100)]
)
def test_offset_and_count(
    run: Any, path: Path, native: bool, how: str, offset: int, count: int | None
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        sender, taker = socket.socketpair()
        sender.setblocking(False)
        taker.setblocking(False)
        expected = DATA[offset:] if count is None else DATA[offset : offset + count]
        far = one.far
        with opened(path, native) as file:
            file.seek(7)
            if how == "transport":
                one.transport.write(b"before")
                taken = asyncio.create_task(take(one, 6 + len(expected) + 5))
                sent = await loop.sendfile(one.transport, file, offset, count)
                one.transport.write(b"after")
                before, after = b"before", b"after"
            else:
                one.far = taker  # until `taken` has all: it may come in pieces
                taken = asyncio.create_task(take(one, len(expected)))
                sent = await loop.sock_sendfile(sender, file, offset, count)
                before = after = b""
            assert sent == len(expected)
            if native or offset or SEEKS_ALWAYS:
                assert await taken == before + expected + after
                assert file.tell() == offset + sent
            else:  # asyncio up to 3.13 goes on from where the file stands
                taken.cancel()
        await asyncio.wait([taken])
        one.far = far
        sender.close()
        taker.close()
        await finish(one)

    if not native and not offset and not SEEKS_ALWAYS:
        pytest.skip("asyncio up to 3.13 does not go to offset 0 of such a file")
    run(main())


@pytest.mark.parametrize("native", [True, False])
def test_peer_resets_in_the_middle(run: Any, path: Path, native: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        narrow(one)
        with opened(path, native) as file:
            sending = asyncio.create_task(loop.sendfile(one.transport, file, 5))
            await take(one, 100_000)
            reset(one.far)
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(LIMIT):
                    await sending
            assert 100_000 < file.tell() <= len(DATA)
        one.transport.abort()
        await one.lost()

    run(main())


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("when", ["at once", "after a while"])
@pytest.mark.parametrize("end", ["abort", "close"])
def test_transport_ends_in_the_middle(
    hotrun: Any, path: Path, native: bool, when: str, end: str
) -> None:
    """asyncio waits for ever, for a descriptor that is closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        narrow(one)
        with opened(path, native) as file:
            sending = asyncio.create_task(loop.sendfile(one.transport, file))
            if when == "after a while":
                await take(one, 100_000)
            else:
                await asyncio.sleep(0)
            getattr(one.transport, end)()
            async with asyncio.timeout(LIMIT):
                with pytest.raises(ConnectionError):
                    await sending
        await one.lost()
        one.far.close()

    hotrun(main())


@pytest.mark.parametrize("native", [True, False])
def test_cancelled_in_the_middle(hotrun: Any, path: Path, native: bool) -> None:
    """With asyncio the file's position is set later, if the socket is ever ready again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        narrow(one)
        with opened(path, native) as file:
            sending = asyncio.create_task(loop.sendfile(one.transport, file))
            await take(one, 100_000)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert 100_000 <= file.tell() <= len(DATA)
        await one.send(b"still alive")  # reading has been resumed
        await one.protocol.until_data(11)
        assert one.transport.get_protocol() is one.protocol
        await finish(one)

    hotrun(main())


class OnlyReads(io.RawIOBase):
    """No descriptor, no position, and nothing in it."""

    def readinto(self, buffer: Any) -> int:
        return 0


def test_kinds_of_files(run: Any, tmp_path: Path, path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        with path.open() as text, pytest.raises(ValueError, match="binary mode"):
            await loop.sendfile(one.transport, text)
        with path.open("rb") as closed:
            pass
        with pytest.raises(ValueError, match="closed file"):
            await loop.sendfile(one.transport, closed)
        for offset, count, kind in [
            (-1, None, ValueError),
            (0, 0, ValueError),
            (0, -5, ValueError),
            (1.5, None, TypeError),
            (0, 1.5, TypeError),
        ]:
            with path.open("rb") as file, pytest.raises(kind):
                await loop.sendfile(one.transport, file, offset, count)  # type: ignore[arg-type]
        assert await loop.sendfile(one.transport, io.BytesIO(b"memory")) == 6
        assert await one.recv(6) == b"memory"
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(one.transport, io.BytesIO(b"memory"), fallback=False)
        (tmp_path / "empty").touch()
        with (tmp_path / "empty").open("rb") as file:
            assert await loop.sendfile(one.transport, file) == 0
        r, w = os.pipe()
        with open(r, "rb", 0) as pipe:
            os.write(w, b"through a pipe")
            os.close(w)
            assert await loop.sendfile(one.transport, pipe) == 0  # its size, says the system
        if SEEKS_ALWAYS:
            with pytest.raises(io.UnsupportedOperation, match="seek"):
                await loop.sendfile(one.transport, OnlyReads())  # type: ignore[arg-type]
        else:
            assert await loop.sendfile(one.transport, OnlyReads()) == 0  # type: ignore[arg-type]
        await finish(one)

    run(main())


def test_two_at_a_time(hotrun: Any, path: Path) -> None:
    """asyncio: KeyError, and write() is let in between."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one = await link()
        with path.open("rb") as file, path.open("rb") as other:
            first = asyncio.create_task(loop.sendfile(one.transport, file))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="Empty waiter is already set"):
                await loop.sendfile(one.transport, other)
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                one.transport.write(b"x")
            await take(one, len(DATA))
            assert await first == len(DATA)
        one.transport.close()
        with pytest.raises(RuntimeError, match="Transport is closing"):
            await loop.sendfile(one.transport, io.BytesIO(b""))
        await one.lost()
        one.far.close()

    hotrun(main())


def test_not_for_pipes_and_datagrams(run: Any, path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        r, w = os.pipe()
        reader = os.fdopen(r, "rb", 0)
        transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(w, "wb", 0))
        with path.open("rb") as file:
            with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
                await loop.sendfile(transport, file)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                with pytest.raises(ValueError, match="only SOCK_STREAM"):
                    await loop.sock_sendfile(sock, file)
        transport.close()
        await protocol.until("lost")
        reader.close()

    run(main())
