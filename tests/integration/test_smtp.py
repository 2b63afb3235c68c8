"""aiosmtpd: a mail server whose loop, in a thread of its own, is a hotloop; with STARTTLS."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ports import free_port
from reallib import Program, Tls, flat

import hotloop

controller: Any = pytest.importorskip("aiosmtpd.controller", reason="make integration installs it")
smtp: Any = pytest.importorskip("aiosmtpd.smtp", reason="make integration installs it")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aiosmtpd")

MAIL = "From: a@example.com\r\nTo: b@example.com\r\nSubject: x\r\n\r\n" + "line\r\n" * 1000


class Inbox:
    def __init__(self) -> None:
        self.mails: list[bytes] = []
        self.loops: set[type] = set()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.loops.add(type(asyncio.get_running_loop()))
        assert type(asyncio.current_task()) is hotloop.Task
        self.mails.append(envelope.content)
        return "250 OK"


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def server(
    inbox: Inbox, tls: Tls, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> Iterator[Any]:
    served = controller.Controller(
        inbox, hostname="127.0.0.1", port=free_port(), loop=loop_factory(), tls_context=tls.server
    )
    served.start()
    yield served
    served.stop()


def port_of(server: Any) -> int:
    port: int = server.server.sockets[0].getsockname()[1]
    return port


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "starttls"])
def test_mails(server: Any, inbox: Inbox, tls: Tls, secure: bool) -> None:
    with smtplib.SMTP("127.0.0.1", port_of(server), timeout=60) as mailer:
        if secure:
            mailer.starttls(context=tls.client)
        for _ in range(10):
            mailer.sendmail("a@example.com", ["b@example.com"], MAIL)
    assert inbox.mails == [MAIL.encode()] * 10
    assert inbox.loops == {hotloop.EventLoop}


def test_client_that_hangs_up_in_the_middle(server: Any, inbox: Inbox) -> None:
    rude = smtplib.SMTP("127.0.0.1", port_of(server), timeout=60)
    rude.ehlo()
    rude.mail("a@example.com")
    rude.sock.close()
    with smtplib.SMTP("127.0.0.1", port_of(server), timeout=60) as mailer:
        mailer.sendmail("a@example.com", ["b@example.com"], MAIL)
    assert inbox.mails == [MAIL.encode()]


def test_flat_over_mails(program: Program, inbox: Inbox) -> None:
    """The server's protocol by itself, one connection a mail, spoken to by streams."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> Any:
            return smtp.SMTP(inbox, hostname="here", loop=loop)

        server = await loop.create_server(protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def step() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert (await reader.readline()).startswith(b"220")
            for line in ("HELO me", "MAIL FROM:<a@x>", "RCPT TO:<b@x>", "DATA"):
                writer.write(line.encode() + b"\r\n")
                assert (await reader.readline())[:1] in b"23"
            writer.write(b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n")
            assert (await reader.readline()).startswith(b"250")
            assert (await reader.readline()).startswith(b"221")
            writer.close()
            await writer.wait_closed()
            inbox.mails.clear()

        await flat(step)
        server.close()
        await server.wait_closed()

    program(main())
