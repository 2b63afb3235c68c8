"""What hotloop does differently on purpose, as far as scenarios show it.

Each row: the scenario (its function's name), the track that differs, and why. A row whose
track is equal again is an error, so the table is never longer than it has to be.
docs/compatibility.md names these too.
"""

from __future__ import annotations

DELIBERATE: list[tuple[str, str, str]] = [
    (
        "test_serving_is_cancelled",
        "warnings",
        "a cancelled create_server() closes its sockets; asyncio leaves them to be collected",
    ),
    (
        "test_debug_messages",
        "future",
        "debug mode: the line that called create_future(), not asyncio's own line in it",
    ),
    (
        "test_callback_that_cancels_itself_and_raises",
        "handler",
        "a report names the callback; asyncio's says None() once its handle was cancelled",
    ),
    (
        "test_repr_after_a_failed_write",
        "shown",
        "a held write has not failed yet, and a repr sends nothing",
    ),
    (
        "test_serve_forever",
        "warnings",
        "a cancelled create_server() closes its sockets; asyncio leaves them to be collected",
    ),
]


def tracks_of(scenario: str) -> set[str]:
    return {track for name, track, _ in DELIBERATE if name == scenario}
