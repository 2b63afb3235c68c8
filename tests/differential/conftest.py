"""Nothing but the profiles of hypothesis: HOTLOOP_EXAMPLES=10000 runs that many of each."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "hotloop",
    max_examples=int(os.environ.get("HOTLOOP_EXAMPLES") or 100),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("hotloop")
