"""Properties draw the same examples every time, and a slow machine fails none of them."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "quotactl", deadline=None, derandomize=not os.environ.get("QUOTACTL_LONG"), database=None
)
settings.load_profile("quotactl")
