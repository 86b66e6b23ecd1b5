"""`quotactl throttle report` and `grant add --from-throttle`: what it cost, and making good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from quotactl.cli.declared import Argument, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import parse_count
from quotactl.cli.outcome import conclude, opened, rehearsed
from quotactl.errors import InvalidInput

if TYPE_CHECKING:
    from quotactl.ledger.views import Outcome
    from quotactl.policy.window import Calendar
    from quotactl.reports.aftermath import Aftermath, Moment

Throttle = Annotated[str, Argument(metavar="ID|NAME", help="As `throttle list` shows it.")]


def report(
    throttle: Throttle,
    limit: Annotated[
        str | None,
        Option("--limit", metavar="N", help="How many of the most affected; else 10."),
    ] = None,
    markdown: Annotated[
        bool, Option("--markdown", help="As a section for the post-mortem.")
    ] = False,
) -> None:
    """What became of a throttle, and whom it cost what.

    While it is on, and once it is over: who did what when, what was denied, and what that
    cost by tier, by day and to the users whom it hit most. Cost does not count repeated
    attempts: per user and window it is min(demand, limit) - min(used, limit). Of a drill it
    is what it would have cost. `throttle report` and `report throttle` are the same.

    Examples:
      quotactl throttle report 42
      quotactl throttle report gpu-melt --markdown >> post-mortem.md
      quotactl report throttle gpu-melt --limit 100 --json | jq .top
    """
    from quotactl.reports.aftermath import USERS_SHOWN, aftermath

    this = invocation()
    if markdown and this.format is not None:
        raise InvalidInput(f"both Markdown and {this.format} are asked for")
    count = USERS_SHOWN if limit is None else parse_count(limit, USERS_SHOWN)
    with opened() as q:
        found = aftermath(q.engine, throttle, q.now_ms(), limit=count)
        with q.engine.reading() as book:
            calendar = book.policy.calendar
    if markdown:
        if not this.quiet:
            this.write(_markdown(found, calendar))
    elif this.output == "table":
        _show(found, calendar)
    else:
        this.emit(found)


def make_good(
    throttle: str,
    *,
    each: str | None,
    limit_to: str | None,
    resource: str | None,
    duration: str | None,
    until: str | None,
    priority: int,
    dry_run: bool,
    reason: str | None,
    ticket: str | None,
) -> None:
    """Give everybody whom a throttle hit a grant, or with `dry_run` say to whom."""
    from quotactl.policy.notation import parse_amount

    if each is None:
        raise InvalidInput("how much each gets is missing", hint="--each 3")
    units = parse_amount(each, "each")
    with opened() as q:
        admin = rehearsed(q) if dry_run else q.admin
        outcome = admin.make_good(
            throttle,
            each=units,
            limit_to=limit_to,
            resource=resource,
            priority=priority,
            duration=duration,
            until=until,
            reason=reason,
            ticket=ticket,
        )
        if dry_run:
            _show_rehearsed(outcome)
        else:
            conclude(outcome)


def _show_rehearsed(outcome: Outcome) -> None:
    this = invocation()
    this.say("dry run, nothing is changed:")
    if this.output != "table":
        # The audit row that it names is not there.
        outcome.item.pop("audit_id", None)
        conclude(outcome)
        return
    this.say(outcome.message)
    if outcome.changed:
        this.emit(outcome.item["tiers"], columns=["tier", "resource", "users", "units"])


# ---- the report for people


def _facts(found: Aftermath, calendar: Calendar) -> dict[str, Any]:
    """The report's head, in words."""
    from quotactl.frozen import changed
    from quotactl.operations.switches import describe, span_text
    from quotactl.policy.notation import instant_text
    from quotactl.policy.window import to_ms

    view = found.throttle
    # As it came on: how it went stands in the timeline.
    steps = tuple(step for step in view.steps if not step.lifting)
    start_ms = to_ms(view.starts_at)
    facts: dict[str, Any] = {
        "what": describe(changed(view, steps=steps, held_at=None)),
        "state": view.state,
        "by": view.actor,
        "reason": view.reason,
        "ticket": view.ticket,
        "message": view.message,
        "from": instant_text(start_ms, calendar),
    }
    if found.ended_at is not None:
        end_ms = to_ms(found.ended_at)
        facts["to"] = instant_text(end_ms, calendar)
        if end_ms > start_ms:
            facts["lasted"] = span_text(end_ms - start_ms)
    else:
        ends_at_ms = None if view.ends_at is None else to_ms(view.ends_at)
        facts["ends"] = "never" if ends_at_ms is None else instant_text(ends_at_ms, calendar)
    would = "would have " if view.drill else ""
    denied, total = found.denied, found.total
    facts[f"{would}denied"] = (
        f"{_count(denied.units, 'unit')} in {_count(denied.requests, 'request')}, "
        "repeated attempts counted"
    )
    facts[f"{would}cost"] = f"{_count(total.cost, 'unit')} to {_count(total.users, 'user')}"
    if found.made_good_id is not None:
        facts["made good"] = f"audit row {found.made_good_id}"
    return {name: value for name, value in facts.items() if value is not None}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(found: Aftermath) -> str:
    view = found.throttle
    return f"{view.id} ({view.name})" if view.name else str(view.id)


def _moment(moment: Moment, calendar: Calendar) -> dict[str, Any]:
    """A moment as a row of a table."""
    from quotactl.policy.notation import instant_text
    from quotactl.policy.window import to_ms

    why = " ".join(filter(None, (moment.reason, moment.ticket and f"({moment.ticket})")))
    return {
        "at": instant_text(to_ms(moment.at), calendar),
        "who": moment.actor,
        "what": ": ".join(filter(None, (moment.what.removeprefix("throttle."), moment.detail))),
        "reason": why or None,
    }


def _several(found: Aftermath) -> tuple[bool, bool]:
    """Whether there is more than one resource, and more than one day."""
    resources = {row.resource for row in found.tiers}
    return len(resources) > 1, len({row.day for row in found.days}) > 1


def _show(found: Aftermath, calendar: Calendar) -> None:
    this = invocation()
    if this.quiet and this.format is None:
        return
    resources, days = _several(found)
    resource = ["resource"] if resources else []
    this.emit(_facts(found, calendar), title=f"Throttle {_name(found)}")
    rows = [_moment(moment, calendar) for moment in found.timeline]
    this.write("\n")
    this.emit(rows, columns=["at", "who", "what", "reason"], title="Timeline")
    this.write("\n")
    this.emit(found.tiers, columns=["tier", *resource, "users", "cost", "denied"], title="By tier")
    if days:
        this.write("\n")
        this.emit(found.days, columns=["day", *resource, "users", "cost", "denied"], title="By day")
    this.write("\n")
    columns = ["user", "tier", *resource, "cost", "asked", "used", "granted"]
    this.emit(found.top, columns=columns, title="Most affected")
    this.write("\n")
    this.emit([{"notes": note} for note in found.notes], columns=["notes"])


def _markdown(found: Aftermath, calendar: Calendar) -> str:
    from quotactl.render import markdown as md

    resources, days = _several(found)
    resource = {"resource": "Resource"} if resources else {}
    facts = [
        f"**{name[:1].upper()}{name[1:]}:** {md.text(value)}"
        for name, value in _facts(found, calendar).items()
    ]
    parts = [md.heading(f"Throttle {md.text(_name(found))}"), md.bullets(facts)]

    def section(title: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
        body = md.table(rows, columns) if rows else "none\n"
        parts.append(f"\n{md.heading(title, 3)}{body}")

    columns = {"at": "At", "who": "Who", "what": "What", "reason": "Reason"}
    rows = [_moment(moment, calendar) for moment in found.timeline]
    section("Timeline", [{k: md.text(v) for k, v in row.items()} for row in rows], columns)
    costs = {**resource, "users": "Users", "cost": "Units it cost", "denied": "Units denied"}
    section("By tier", [_cells(row.to_dict()) for row in found.tiers], {"tier": "Tier", **costs})
    if days:
        section("By day", [_cells(row.to_dict()) for row in found.days], {"day": "Day", **costs})
    section(
        "Most affected",
        [_cells(row.to_dict()) for row in found.top],
        {"user": "User", "tier": "Tier", **resource, "cost": "Units it cost", "asked": "Asked",
         "used": "Used", "granted": "Paid by grants"},
    )  # fmt: skip
    section_notes = md.bullets([md.text(note) for note in found.notes])
    parts.append(f"\n{md.heading('Notes', 3)}{section_notes}")
    return "".join(parts)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row's values as cells: users' ids come from anybody, names of tiers from admins."""
    from quotactl.render import markdown as md

    cells = {name: v if isinstance(v, int) else md.text(v) for name, v in row.items()}
    if "user" in row:
        cells["user"] = md.code(row["user"])
    return cells
