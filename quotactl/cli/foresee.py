"""`quotactl throttle preview` and `solve`: what a number would do, and which one fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Option
from quotactl.cli.guard import guard
from quotactl.cli.invocation import invocation
from quotactl.cli.levers import (
    Cap,
    Deny,
    Every,
    Floor,
    FreezeGrants,
    IncludeProtected,
    Message,
    Name,
    Ramp,
    Replace,
    Scale,
    StartsAt,
    Total,
)
from quotactl.cli.options import For, NoExpiry, Reason, Resources, Ticket, Tiers, Until
from quotactl.cli.outcome import opened, undo
from quotactl.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quotactl.api import Ledger
    from quotactl.operations.emergency import Timing
    from quotactl.policy.levers import Lever
    from quotactl.reports.capacity import Fit

Day = Annotated[
    str | None,
    Option("--day", metavar="DAY", help="The demand of this day: 2025-03-27, yesterday."),
]
Days = Annotated[
    str | None,
    Option("--days", metavar="N", help="That of the last N days, today included."),
]

_COLUMNS = ("users", "cut_off", "asked", "served", "refused")


def preview(
    name: Name = None,
    resource: Resources = None,
    tier: Tiers = None,
    deny: Deny = False,
    cap: Cap = None,
    total: Total = None,
    scale: Scale = None,
    floor: Floor = None,
    at: StartsAt = None,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    ramp: Ramp = None,
    every: Every = None,
    freeze_grants: FreezeGrants = False,
    include_protected: IncludeProtected = False,
    message: Message = None,
    replace: Replace = False,
    allow_impact: Annotated[bool, Option("--allow-impact", hidden=True)] = False,  # noqa: ARG001 - preview takes what `on` takes
    reason: Reason = None,  # noqa: ARG001
    ticket: Ticket = None,  # noqa: ARG001
    day: Day = None,
    days: Days = None,
) -> None:
    """What a throttle would do to the demand so far today; changes nothing.

    It takes what `throttle on` takes. Per tier: users with demand, those cut off at once,
    units asked for (used, granted and denied, repeated attempts too), served and refused.

    Examples:
      quotactl throttle preview --resource image --tier free --cap 1/day
      quotactl throttle preview --resource image --total 40k/hour --day yesterday
      quotactl throttle preview --resource image --scale 25% --days 7 --json
    """
    from quotactl.operations.emergency import Timing
    from quotactl.policy.levers import lever

    wanted = lever(
        deny=deny,
        cap=cap,
        total=total,
        scale=scale,
        floor=floor,
        resources=resource or (),
        tiers=tier or (),
        name=name,
        ramp=ramp,
        every=every,
        freeze_grants=freeze_grants,
        include_protected=include_protected,
        message=message,
    )
    with opened() as q:
        show(
            q, [wanted], Timing(at, duration, until, no_expiry), day=day, days=days, replace=replace
        )


def show(
    q: Ledger,
    levers: Sequence[Lever],
    timing: Timing | None = None,
    *,
    day: str | None = None,
    days: str | None = None,
    replace: bool = False,
) -> None:
    """Show what throttles would do."""
    from quotactl.policy.notation import parse_amount
    from quotactl.policy.window import to_ms
    from quotactl.reports.preview import preview as report

    this = invocation()
    outlook = report(
        q.engine,
        q.now_ms(),
        levers,
        timing,
        day=day,
        days=None if days is None else parse_amount(days, "days"),
        replace=replace,
    )
    if this.output in {"json", "jsonl"}:
        this.emit(outlook)
        return
    one = len({row.resource for row in outlook.tiers}) < 2
    rows = [row.to_dict() for row in outlook.tiers]
    if this.output == "table":
        everybody = {"tier": "all", "resource": "", "limit": "", "limit_under": ""}
        rows.append({**everybody, **outlook.total.to_dict()})
    this.emit(
        rows,
        columns=[
            "tier",
            *([] if one else ["resource"]),
            *("limit", "limit_under"),
            *_COLUMNS,
        ],
        title=_title(outlook.first_day, outlook.last_day),
    )
    if outlook.saved_per_hour:
        this.say(f"It would save {_units(outlook.saved_per_hour)} an hour.")
    if outlook.peak_hour is not None:
        from quotactl.policy.notation import instant_text

        with q.engine.reading() as book:
            at = instant_text(to_ms(outlook.peak_hour), book.policy.calendar)
        this.say(f"Most was asked for in the hour from {at}: {_units(outlook.peak_asked)}.")
    for warning in outlook.warnings:
        this.say(warning)


def _units(count: int) -> str:
    return f"{count} {'unit' if count == 1 else 'units'}"


def solve(
    capacity: Annotated[
        str, Option("--capacity", metavar="N/PERIOD", help="What there is: 40k/day.")
    ],
    resource: Annotated[str, Option("--resource", metavar="RESOURCE", help="What it is of.")],
    protect: Annotated[
        list[str] | None,
        Option("--protect", metavar="TIER", help="This tier first; repeatable."),
    ] = None,
    least: Annotated[
        list[str] | None,
        Option("--min", metavar="TIER=N/PERIOD", help="Not below: free=1/day; repeatable."),
    ] = None,
    day: Day = None,
    days: Days = None,
    apply: Annotated[bool, Option("--apply", help="Put the caps on, as `on` does.")] = False,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    replace: Replace = False,
    allow_impact: Annotated[
        bool, Option("--allow-impact", help="Also where users of a protected tier are hit.")
    ] = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Find the largest caps per user under which the recorded demand fits.

    One number for all tiers that are not protected, never above a tier's own limit;
    protected ones come first. The last line is the command that puts them on.

    Examples:
      quotactl throttle solve --capacity 40k/day --resource image
      quotactl throttle solve --capacity 40k/day --resource image --protect pro --min free=1/day
      quotactl throttle solve --capacity 5k/hour --resource image --apply --reason INC-9
    """
    from quotactl.operations.emergency import Timing
    from quotactl.policy.notation import parse_amount
    from quotactl.reports.capacity import find_caps

    this = invocation()
    with opened(throttles=not apply) as q:
        fit, levers = find_caps(
            q.engine,
            q.now_ms(),
            capacity=capacity,
            resource=resource,
            protect=protect or (),
            least=least or (),
            day=day,
            days=None if days is None else parse_amount(days, "days"),
            replace=replace,
            before=["--db", this.ledger] if this.ledger else [],
            after=_options(duration, until, reason, ticket, no_expiry=no_expiry, replace=replace),
        )
        if not apply:
            _show_fit(fit)
            return
        if not fit.fits:
            raise Conflict(
                f"even the least is {fit.short_by} units more than {fit.capacity}/{fit.period}",
                hint="nothing was changed",
            )
        put_on = q.admin.pull(
            levers,
            Timing(None, duration, until, no_expiry),
            replace=replace,
            reason=reason,
            ticket=ticket,
            approve=guard(q, allow_impact=allow_impact),
        )
        _show_fit(fit)
        for outcome in put_on:
            this.say(outcome.message)
            if outcome.changed:
                this.say(f"undo: {undo('throttle', 'off', str(outcome.item['id']))}")


def _options(
    duration: str | None,
    until: str | None,
    reason: str | None,
    ticket: str | None,
    *,
    no_expiry: bool,
    replace: bool,
) -> list[str]:
    """The options that `throttle on` is to have as well."""
    named = {"--for": duration, "--until": until, "--reason": reason, "--ticket": ticket}
    flags = {"--no-expiry": no_expiry, "--replace": replace}
    return [
        *(word for option, text in named.items() if text is not None for word in (option, text)),
        *(flag for flag, given in flags.items() if given),
    ]


def _show_fit(fit: Fit) -> None:
    this = invocation()
    if this.output in {"json", "jsonl"}:
        this.emit(fit)
        return
    per = f"/{fit.period}"
    this.emit(
        [
            {"tier": name, "cap": "none needed" if cap is None else f"{cap}{per}"}
            for name, cap in fit.caps.items()
        ],
        columns=["tier", "cap"],
    )
    if not fit.fits:
        this.say(
            f"It does not fit: even the least is {fit.served} {fit.resource}, "
            f"{fit.short_by} more than {fit.capacity}{per}."
        )
    else:
        this.say(f"Served would be {fit.served} of {fit.capacity} {fit.resource} per {fit.period}.")
    for warning in fit.warnings:
        this.say(warning)
    if fit.command:
        this.say(f"To put it on: {fit.command}")


def _title(first: str, last: str) -> str:
    return f"Demand of {first}" if first == last else f"Demand of {first} to {last}"
