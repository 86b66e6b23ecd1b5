"""For all tests: the machine's own settings are not theirs."""

from __future__ import annotations

import os

# It names commands that would be run.
os.environ["QUOTACTL_CONFIG"] = "/dev/null"
# Hundreds of tests start the program: compiled anew each time it starts three times as slowly.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
