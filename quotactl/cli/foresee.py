"""`quotactl throttle preview` and `solve`: what a number would do, and which one fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotactl.errors import InvalidInput

if TYPE_CHECKING:
    from quotactl.operations.emergency import Timing
    from quotactl.policy.levers import Lever


def show_preview(
    wanted: Lever, timing: Timing, *, replace: bool, reason: str | None, ticket: str | None
) -> None:
    """Show what a throttle would do."""
    raise InvalidInput("a dry run is not there yet")
