"""Descriptors treated as badly as programs do, and who is told of what: never the wrong one.

Numbers are closed behind the loop's back, duplicated, taken over by other files, watched and
unwatched, also from callbacks of the same turn. A callback may run only as long as it is the one
that was registered last, and only if the file that it was registered for is ready; and it must
run if its number was left alone. (Stock asyncio does not hold this, so there is no such test.)
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from machinelib import Machine, hammer, make_loop

FIRST = 300  # numbers that the program works on; what it needs itself lies below
NUMBERS = 6
NUMBER = st.integers(0, NUMBERS - 1)
SIDE = st.sampled_from(["reader", "writer"])
ASKED = {"reader": select.POLLIN, "writer": select.POLLOUT}
MUST = {"reader": select.POLLIN | select.POLLHUP, "writer": select.POLLOUT | select.POLLERR}


class File:
    """One end of a pair, under any number of numbers."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.numbers: set[int] = set()
        self.lost_while_watched: set[int] = set()
        self.touched = False  # in this turn: what was ready may be so no more
        self.closed_in = -1

    def ready_for(self) -> int:
        for number in self.numbers:
            poller = select.poll()
            poller.register(FIRST + number, select.POLLIN | select.POLLOUT)
            return sum(events for _, events in poller.poll(0))
        return 0


class Watch:
    def __init__(self, file: File | None, action: Any) -> None:
        self.file = file
        self.intact = file is not None
        self.action = action
        self.told = False


class DescriptorMachine(Machine):
    @initialize()
    def start(self) -> None:
        self.loop = make_loop(self.kind)
        self.at: dict[int, File] = {}
        self.files: list[File] = []
        self.watches: dict[tuple[int, str], Watch] = {}
        self.wrong: list[str] = []
        self.iterations = 0
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.reports.append(context))

    # ---- the program's side ----

    def let_go(self, number: int) -> None:
        file = self.at.pop(number, None)
        for side in ASKED:
            watch = self.watches.get((number, side))
            if watch is not None:
                watch.intact = False
                if file is not None:
                    file.lost_while_watched.add(number)
        if file is not None:
            file.numbers.discard(number)
            file.touched = True
            if not file.numbers:
                file.closed_in = self.iterations
                file.peer.close()
                self.files.remove(file)

    def take(self, number: int, file: File) -> None:
        file.numbers.add(number)
        self.let_go(number)
        self.at[number] = file
        file.numbers.add(number)

    @rule(number=NUMBER)
    def open(self, number: int) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        os.dup2(near.fileno(), FIRST + number)
        near.close()
        file = File(far)
        self.files.append(file)
        self.take(number, file)

    @rule(number=NUMBER, to=NUMBER)
    def duplicate(self, number: int, to: int) -> None:
        file = self.at.get(number)
        if file is not None and number != to:
            os.dup2(FIRST + number, FIRST + to)
            self.take(to, file)

    @rule(number=NUMBER)
    def close(self, number: int) -> None:
        if number in self.at:
            os.close(FIRST + number)
            self.let_go(number)

    @rule(number=NUMBER, what=st.sampled_from(["send", "read", "fill", "hang up"]))
    def use(self, number: int, what: str) -> None:
        file = self.at.get(number)
        if file is None:
            return
        file.touched = True
        try:
            if what == "send":
                file.peer.send(b"x")
            elif what == "read":
                os.read(FIRST + number, 100_000)
            elif what == "fill":
                while True:
                    os.write(FIRST + number, bytes(65536))
            else:
                file.peer.close()
        except OSError:  # full, empty, or closed
            pass

    # ---- the loop's side ----

    def called(self, number: int, side: str, watch: Watch) -> None:
        watch.told = True
        if self.watches.get((number, side)) is not watch:
            self.wrong.append(f"{side} of {number} was called after its time")
        elif watch.file is None or not (
            # Queued together with the callback that closed it.
            watch.file.numbers or watch.file.closed_in == self.iterations
        ):
            self.wrong.append(f"{side} of {number} was called for a file that is closed")
        elif not watch.file.touched:
            asked = ASKED[side] | select.POLLHUP | select.POLLERR
            if not watch.file.ready_for() & asked:
                self.wrong.append(f"{side} of {number} was called, and is not ready")
        if watch.action is not None:
            what, *args = watch.action
            getattr(self, what)(*args)

    @rule(
        number=NUMBER,
        side=SIDE,
        action=st.one_of(
            st.none(),
            st.none(),
            st.tuples(st.just("unwatch"), NUMBER, SIDE),
            st.tuples(st.just("watch"), NUMBER, SIDE),
            st.tuples(st.just("close"), NUMBER),
            st.tuples(st.just("open"), NUMBER),
            st.tuples(st.just("duplicate"), NUMBER, NUMBER),
            st.tuples(st.just("use"), NUMBER, st.sampled_from(["send", "read", "hang up"])),
        ),
    )
    def watch(self, number: int, side: str, action: Any = None) -> None:
        other = "writer" if side == "reader" else "reader"
        file = self.at.get(number)
        across = self.watches.get((number, other))
        stale = across is not None and across.file is not file
        if file is not None and stale and number in file.lost_while_watched:
            # It lost the number to another file and got it back: nobody can tell that here.
            self.unwatch(number, other)
            stale = False
        before = self.watches.get((number, side))
        made = Watch(file if file is not None else before.file if before else None, action)
        made.intact = file is not None
        add: Any = getattr(self.loop, f"add_{side}")
        try:
            add(FIRST + number, self.called, number, side, made)
        except OSError:
            assert file is None
            return
        self.watches[number, side] = made
        if file is not None and stale:
            del self.watches[number, other]

    @rule(number=NUMBER, side=SIDE)
    def unwatch(self, number: int, side: str) -> None:
        remove: Any = getattr(self.loop, f"remove_{side}")
        there = self.watches.pop((number, side), None) is not None
        assert remove(FIRST + number) == there

    @rule()
    def turn(self) -> None:
        for file in self.files:
            file.touched = False
        before = dict(self.watches)
        for watch in before.values():
            watch.told = False
        for _ in range(3):  # a poll may be left out while there is work
            self.iterations += 1
            self.loop.stop()
            self.loop.run_forever()
        self.iterations += 1  # closed from here on is closed before the next one
        assert not self.wrong
        assert not self.reports
        for (number, side), watch in before.items():
            same = self.watches.get((number, side)) is watch
            if same and watch.intact and watch.file is not None and not watch.file.touched:
                ready = watch.file.ready_for() & MUST[side]
                assert watch.told or not ready, f"{side} of {number} was not told"

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "loop"):
            for number in list(self.at):
                self.close(number)
            self.loop.close()


def test_descriptors(backend: str) -> None:
    hammer(DescriptorMachine, f"hotloop-{backend}", steps=60)


def test_another_file_by_the_time_the_poller_is_renewed(backend: str) -> None:
    """What is left of 0's first file makes the loop take another poller, to which 1 is new."""
    machine = type("Once", (DescriptorMachine,), {"kind": f"hotloop-{backend}"})()
    machine.start()
    machine.open(number=1)
    machine.open(number=2)
    machine.duplicate(number=2, to=0)
    machine.watch(number=0, side="writer")
    machine.watch(number=1, side="writer")
    machine.open(number=0)
    machine.open(number=1)
    machine.watch(number=0, side="reader")
    machine.turn()
    machine.teardown()


@pytest.mark.parametrize("number", [1, 3])
def test_closed_by_a_callback_of_the_same_turn(backend: str, number: int) -> None:
    """Both were ready when the poller was asked; the one that is queued first closes the other."""
    machine = type("Once", (DescriptorMachine,), {"kind": f"hotloop-{backend}"})()
    machine.start()
    machine.open(number=number)
    machine.open(number=2)
    machine.watch(number=2, side="writer", action=("close", number))
    machine.watch(number=number, side="writer", action=("close", 2))
    machine.turn()
    machine.turn()
    machine.teardown()
