"""The training run of a build by profile: the rows of the table, briefly, on hotloop.

    HOTLOOP_PGO=1 pip wheel .

setup.py runs it on a build that counts. A row that cannot run here (no openssl, no children) is
left out aloud; the profile is then without it.
"""

from __future__ import annotations

import functools
import sys

from rows import ROWS
from worker import measure

import hotloop

SHARE = 20  # of a row's operations; a profile needs shares, not seconds
LEAST = 20


def main() -> int:
    trained = 0
    rows = {row.name: row.work for row in ROWS.values() if row.work and not row.once}
    for name, work in rows.items():
        count = max(min(LEAST, ROWS[name].count), ROWS[name].count // SHARE)
        try:
            for backend in ("epoll", "select"):
                measure(work, functools.partial(hotloop.new_event_loop, backend), count)
        except Exception as exc:
            print(f"train: without {name}: {exc!r}", file=sys.stderr)
        else:
            trained += 1
    print(f"train: {trained} of {len(rows)} rows")
    return 0 if trained > len(rows) // 2 else 1


if __name__ == "__main__":
    sys.exit(main())
