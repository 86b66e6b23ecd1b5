"""For all tests: the machine's own configuration is not theirs to run commands from."""

from __future__ import annotations

import os

os.environ["QUOTACTL_CONFIG"] = "/dev/null"
