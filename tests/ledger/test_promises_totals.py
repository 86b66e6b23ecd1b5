"""A ceiling over the sum of all users: `throttle on --total 40k/hour`, and a resource's capacity.

It may not be passed in a window, first come, first served; it counts what the window had
before it came on; its own rule denies. Everything a limit promises holds for it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import Decision, Request
from quotactl.operations.batch import Batch
from quotactl.operations.emergency import Emergency, Timing, put_on
from quotactl.operations.people import Acts  # type: ignore[attr-defined]
from quotactl.policy.levers import lever

if TYPE_CHECKING:
    from conftest import MakeWorld, World
