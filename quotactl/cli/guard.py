"""The question that is asked before a throttle hits many, or those who are protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotactl.cli.invocation import invocation
from quotactl.errors import NeedsConfirmation

if TYPE_CHECKING:
    from collections.abc import Callable

    from quotactl.api import Ledger
    from quotactl.operations.impact import Impact


def guard(q: Ledger, *, allow_impact: bool) -> Callable[[Impact], None]:
    """Return the question that is asked about what a throttle would do, if there is need."""

    def approve(impact: Impact) -> None:
        from quotactl.policy.notation import parse_percent
        from quotactl.policy.settings import value_of

        this = invocation()
        if impact.protected_hit and not allow_impact:
            raise NeedsConfirmation(
                "users of a protected tier would get less",
                hint=f"to go ahead: {this.command_with('--allow-impact')}",
            )
        with q.engine.reading() as book:
            most = parse_percent(value_of(book.settings, "impact_limit"))
        why = []
        if impact.all_resources:
            why.append("this is for every resource")
        if impact.share_percent > most:
            about = f" (estimated from {impact.sampled} counters)" if impact.estimated else ""
            why.append(
                f"it cuts off {impact.cut_off} of {impact.active} active users at once, "
                f"{impact.share_percent}%{about}"
            )
        if why:
            this.confirm(f"{'; '.join(why)[:1].upper()}{'; '.join(why)[1:]}. Put it on?")

    return approve
