"""The examples that stand on other libraries, each asked by clients of its kind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from examplelib import OURS, example
from ports import free_port
from reallib import Program

NOT_HERE = "make integration installs it"
httpx: Any = pytest.importorskip("httpx", reason=NOT_HERE)
websockets: Any = pytest.importorskip("websockets.asyncio.client", reason=NOT_HERE)


def test_chat(program: Program, backend: str, tmp_path: Path) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}"

    async def join(name: str) -> Any:
        socket = await websockets.connect(url, proxy=None)
        await socket.send(name)
        assert await socket.recv() == f"* {name} is here"
        return socket

    async def main() -> None:
        ada = await join("Ada")
        bob = await join("Bob")
        assert await ada.recv() == "* Bob is here"
        for number in range(100):
            await bob.send(f"{number} ☎")
        for reader in (ada, bob):
            assert [await reader.recv() for _ in range(100)] == [
                f"Bob: {number} ☎" for number in range(100)
            ]
        quiet = await websockets.connect(url, proxy=None)  # leaves before it has a name
        await quiet.close()
        ada.transport.abort()  # without a goodbye
        assert await bob.recv() == "* Ada has gone"
        crowd = [await join(f"number {number}") for number in range(20)]
        await crowd[-1].send("hello, everybody")
        for reader in crowd:
            while await reader.recv() != "number 19: hello, everybody":
                pass
        await asyncio.gather(*(one.close() for one in [*crowd, bob]))

    with example("chat.py", str(port), port=port, backend=backend, folder=tmp_path) as ran:
        program(main())
    assert ran == OURS


def test_http_api(program: Program, backend: str, tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"

    async def main() -> None:
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=120) as http:
            assert (await http.get("/notes")).json() == []
            said = await http.post("/notes", json={"text": "milk"})
            assert (said.status_code, said.json()) == (201, {"id": 1, "text": "milk"})
            # many at once: each gets a number of its own
            answers = await asyncio.gather(
                *(http.post("/notes", json={"text": f"note {n}"}) for n in range(50))
            )
            assert sorted(answer.json()["id"] for answer in answers) == list(range(2, 52))
            assert (await http.delete("/notes/1")).status_code == 204
            assert (await http.delete("/notes/1")).status_code == 404
            for body in (b"", b"milk", b"[]", b"{}", b"\xff"):
                assert (await http.post("/notes", content=body)).status_code == 400, body
            injected = "'); DROP TABLE note; --"
            assert (await http.post("/notes", json={"text": injected})).status_code == 201
            notes = (await http.get("/notes")).json()
            assert sorted(note["text"] for note in notes) == sorted(
                [f"note {n}" for n in range(50)] + [injected]
            )

    args = [str(port), str(tmp_path / "notes.sqlite")]
    with example("http_api.py", *args, port=port, backend=backend, folder=tmp_path) as ran:
        program(main())
    # aiohttp makes the tasks of its handlers by the name asyncio.Task: docs/doors.md
    assert set(ran["task"]) >= set(OURS["task"])
    assert {**ran, "task": OURS["task"]} == OURS
