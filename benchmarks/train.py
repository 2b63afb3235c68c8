"""The training run of a build by profile: every row of the table, briefly, on hotloop.

    HOTLOOP_PGO=1 pip wheel .

setup.py runs it on a build that counts. A row that cannot run here (no openssl, no children) is
left out aloud; the profile is then without it.
"""

from __future__ import annotations

import sys

from rows import ROWS
from worker import measure

import hotloop

SHARE = 20  # of a row's operations; a profile needs shares, not seconds
LEAST = 20


def main() -> int:
    trained = 0
    for name, row in ROWS.items():
        try:
            for backend in ("epoll", "select"):
                count = max(min(LEAST, row.count), row.count // SHARE)
                measure(row.work, lambda backend=backend: hotloop.new_event_loop(backend), count)
        except Exception as exc:
            print(f"train: without {name}: {exc!r}", file=sys.stderr)
        else:
            trained += 1
    print(f"train: {trained} of {len(ROWS)} rows")
    return 0 if trained > len(ROWS) // 2 else 1


if __name__ == "__main__":
    sys.exit(main())
