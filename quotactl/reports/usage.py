"""Usage and demand: by user, tier, resource, day or hour; and who took most."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from quotactl.errors import InvalidInput, NotFound
from quotactl.frozen import frozen
from quotactl.ledger.loaded import tier_or_default
from quotactl.ledger.values import rfc3339
from quotactl.operations.days import strays_of
from quotactl.policy.notation import parse_date
from quotactl.policy.window import HALF_DAY_MS, Window, from_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

GROUPS = ("user", "tier", "resource", "day", "hour")
TOP_BY = ("used", "granted", "denied", "shadow_denied")
SPAN_DAYS_MAX = 3660


@frozen
class Span:
    """Whole days, from one date to another, both included."""

    first: date
    last: date

    def dates(self) -> list[date]:
        """Every date in it."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


@frozen
class UsageRow:
    """Units of one resource for one user, tier, day or hour; `key` says which.

    `used` is after refunds and resets. `requests` counts what was decided; by
    user it is not kept.
    """

    group: str
    key: str
    resource: str
    tier: str | None
    requests: int | None
    used: int
    granted: int
    denied: int
    shadow_denied: int

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.group != "resource":
            fields[self.group] = self.key
        fields["resource"] = self.resource
        if self.group == "user":
            fields["tier"] = self.tier
        else:
            fields["requests"] = self.requests
        fields |= {
            "used": self.used,
            "granted": self.granted,
            "denied": self.denied,
            "shadow_denied": self.shadow_denied,
        }
        return fields


UsageRows: TypeAlias = Generator[UsageRow, None, None]


def columns_of(group: str) -> list[str]:
    """The columns of a usage report."""
    return list(UsageRow(group, "", "", None, None, 0, 0, 0, 0).to_dict())


def span_of(
    book: Reading,
    now_ms: int,
    *,
    day: str | None = None,
    days: int | None = None,
    first: str | None = None,
    last: str | None = None,
) -> Span:
    """The days asked for: one, the last `days` with today, or from one to another.

    None of them is today, in the ledger's zone.
    """
    given = [day is not None, days is not None, first is not None or last is not None]
    if given.count(True) > 1:
        raise InvalidInput("the days are given twice", hint="--day, or --days, or --from and --to")
    today = book.policy.calendar.date_of(now_ms)
    if day is not None:
        one = _day(day, today)
        return Span(one, one)
    if days is not None:
        if not 1 <= days <= SPAN_DAYS_MAX:
            raise InvalidInput(f"{days} days are out of range", hint=f"1 to {SPAN_DAYS_MAX}")
        return Span(today - timedelta(days=days - 1), today)
    span = Span(
        today if first is None else _day(first, today), today if last is None else _day(last, today)
    )
    if span.last < span.first:
        raise InvalidInput(f"{span.last} lies before {span.first}")
    if (span.last - span.first).days >= SPAN_DAYS_MAX:
        raise InvalidInput("the span is too long", hint=f"at most {SPAN_DAYS_MAX} days")
    return span


def usage(
    engine: Engine,
    now_ms: int,
    *,
    by: str = "tier",
    day: str | None = None,
    days: int | None = None,
    first: str | None = None,
    last: str | None = None,
    resource: str | None = None,
    tier: str | None = None,
    user: str | None = None,
    limit: int | None = None,
) -> tuple[Span, list[UsageRow]]:
    """Units by `by`, one of user, tier, resource, day and hour.

    By user the largest come first, at most `limit`; else in order of the key.
    """
    span, rows = usage_flowing(
        engine,
        now_ms,
        by=by,
        day=day,
        days=days,
        first=first,
        last=last,
        resource=resource,
        tier=tier,
        user=user,
        limit=limit,
    )
    return span, list(rows)


def usage_flowing(
    engine: Engine,
    now_ms: int,
    *,
    by: str,
    day: str | None,
    days: int | None,
    first: str | None,
    last: str | None,
    resource: str | None,
    tier: str | None,
    user: str | None,
    limit: int | None,
) -> tuple[Span, UsageRows]:
    """The same with the rows one by one, however many users there are: from a transaction
    that ends with the last of them, or when they are closed."""
    if by not in GROUPS:
        raise InvalidInput(f"usage by {by!r} is not kept", hint=f"by {', '.join(GROUPS)}")
    if user is not None and by not in ("user", "day"):
        raise InvalidInput("one user's usage is kept by day", hint="--by user or --by day")
    if tier is not None and (by == "user" or user is not None):
        raise InvalidInput("a tier's usage is kept by tier, resource, day and hour")

    def rows(book: Reading, span: Span) -> Iterator[UsageRow]:
        resource_ids = _resource_ids(book, resource)
        user_id = None if user is None else _user_id(book, user)
        if by == "user":
            return _by_user(book, span, resource_ids, user_id=user_id, limit=limit)
        if user_id is not None:
            return iter(_by_day(book, span, resource_ids, user_id))
        return iter(_by_demand(book, span, resource_ids, by=by, tier=tier))

    return _flowing(
        engine,
        lambda book: span_of(book, now_ms, day=day, days=days, first=first, last=last),
        rows,
    )


def top(
    engine: Engine,
    now_ms: int,
    *,
    by: str = "used",
    day: str | None = None,
    days: int | None = None,
    first: str | None = None,
    last: str | None = None,
    resource: str | None = None,
    limit: int = 10,
) -> tuple[Span, list[UsageRow]]:
    """The users with the most units `by`: used, granted, denied or shadow_denied."""
    span, rows = top_flowing(
        engine,
        now_ms,
        by=by,
        day=day,
        days=days,
        first=first,
        last=last,
        resource=resource,
        limit=limit,
    )
    return span, list(rows)


def top_flowing(
    engine: Engine,
    now_ms: int,
    *,
    by: str,
    day: str | None,
    days: int | None,
    first: str | None,
    last: str | None,
    resource: str | None,
    limit: int,
) -> tuple[Span, UsageRows]:
    """The same with the rows one by one, as those of `usage_flowing`."""
    if by not in TOP_BY:
        raise InvalidInput(f"nobody is at the top by {by!r}", hint=f"by {', '.join(TOP_BY)}")
    if limit < 1:
        raise InvalidInput(f"limit {limit} is out of range", hint="1 or more")

    def rows(book: Reading, span: Span) -> Iterator[UsageRow]:
        ids = _resource_ids(book, resource)
        for row in _by_user(book, span, ids, user_id=None, limit=limit, order=by):
            if getattr(row, by) > 0:
                yield row

    return _flowing(
        engine,
        lambda book: span_of(book, now_ms, day=day, days=days, first=first, last=last),
        rows,
    )


def _flowing(
    engine: Engine,
    span_in: Callable[[Reading], Span],
    rows_in: Callable[[Reading, Span], Iterable[UsageRow]],
) -> tuple[Span, UsageRows]:
    """The span, and rows one by one; both from one transaction, begun here."""

    def flow() -> Generator[Span | UsageRow, None, None]:
        with engine.reading() as book:
            span = span_in(book)
            yield span
            yield from rows_in(book, span)

    rows = flow()
    span = next(rows)
    assert isinstance(span, Span)
    return span, cast("UsageRows", rows)


def _by_user(
    book: Reading,
    span: Span,
    resource_ids: list[int],
    *,
    user_id: int | None,
    limit: int | None,
    order: str = "used",
) -> Iterator[UsageRow]:
    # Once, not for each of all users.
    resources = {id_: book.resource_name(id_) for id_ in resource_ids}
    for found in book.usage_of_users(
        _starts(book, span, resource_ids),
        resource_ids,
        user_id=user_id,
        by_day=False,
        order=order,
        limit=limit,
    ):
        tier = tier_or_default(book.policy, found["tier_id"])
        yield UsageRow(
            group="user",
            key=found["name"] if found["name"] is not None else f"#{found['user_id']}",
            resource=resources[found["resource_id"]],
            tier=None if tier is None else tier.name,
            requests=None,
            **{field: found[field] for field in TOP_BY},
        )


def _by_day(book: Reading, span: Span, resource_ids: list[int], user_id: int) -> list[UsageRow]:
    calendar = book.policy.calendar
    rows: dict[tuple[str, int], UsageRow] = {}
    for found in book.usage_of_users(
        _starts(book, span, resource_ids),
        resource_ids,
        user_id=user_id,
        by_day=True,
        order="used",
        limit=None,
    ):
        tier = tier_or_default(book.policy, found["tier_id"])
        key = calendar.date_of(calendar.day_charged(found["starts_at_ms"])[0]).isoformat()
        before = rows.get((key, found["resource_id"]))
        rows[key, found["resource_id"]] = UsageRow(
            group="day",
            key=key,
            resource=book.resource_name(found["resource_id"]),
            tier=None if tier is None else tier.name,
            requests=None,
            **{
                field: found[field] + (0 if before is None else getattr(before, field))
                for field in TOP_BY
            },
        )
    return list(rows.values())


def _starts(book: Reading, span: Span, resource_ids: list[int]) -> list[int]:
    """The starts that counters of a span's days can bear."""
    windows = [window_of(book, on) for on in span.dates()]
    starts = [w.starts_at_ms for w in windows if w.reset_at_ms > w.starts_at_ms]
    return starts + _strays_in(
        book, resource_ids, Window(windows[0].starts_at_ms, windows[-1].reset_at_ms)
    )


def _strays_in(book: Reading, resource_ids: list[int], span: Window) -> list[int]:
    """The starts of days in a span that were counted when the zone had other rules."""
    charged = book.policy.calendar.day_charged
    first_ms = span.starts_at_ms - HALF_DAY_MS
    strays = {s for id_ in resource_ids for s in strays_of(book, id_, first_ms)}
    return sorted(s for s in strays if span.starts_at_ms <= charged(s)[0] < span.reset_at_ms)


def _by_demand(
    book: Reading, span: Span, resource_ids: list[int], *, by: str, tier: str | None
) -> list[UsageRow]:
    starts_at_ms = window_of(book, span.first).starts_at_ms
    reset_at_ms = window_of(book, span.last).reset_at_ms
    tier_id = None
    if tier is not None:
        tier_id = book.policy.tier_named(tier).id
    group = {"tier": "tier_id", "resource": "resource_id"}.get(by, "hour_ms")
    sums: dict[tuple[str, int], list[int]] = {}
    for row in book.usage_of_demand(starts_at_ms, reset_at_ms, resource_ids, group, tier_id):
        key = _demand_key(book, by, row["key"])
        values = sums.setdefault((key, row["resource_id"]), [0, 0, 0, 0, 0])
        for position, field in enumerate(
            ("requests", "used", "granted", "denied", "shadow_denied")
        ):
            values[position] += row[field]
    return [
        UsageRow(by, key, book.resource_name(resource_id), None, *values)
        for (key, resource_id), values in sums.items()
    ]


def _demand_key(book: Reading, by: str, key: int) -> str:
    if by == "tier":
        return book.tier_name(key) if key else "-"
    if by == "resource":
        return book.resource_name(key)
    if by == "day":
        return book.policy.calendar.date_of(key).isoformat()
    return rfc3339(from_ms(key)) or ""


def window_of(book: Reading, on: date) -> Window:
    """A date's day in the ledger's zone."""
    calendar = book.policy.calendar
    try:
        return Window(calendar.start_of(on), calendar.start_of(on + timedelta(days=1)))
    except OverflowError:
        raise InvalidInput(f"day {on} is out of range") from None


def _day(text: str, today: date) -> date:
    if text == "today":
        return today
    if text == "yesterday":
        return today - timedelta(days=1)
    return parse_date(text)


def _resource_ids(book: Reading, name: str | None) -> list[int]:
    """A resource's id by name, or all there ever were."""
    if name is None:
        return [row["id"] for row in book.rows("resource")]
    found = book.rows("resource", {"name": name})
    if not found:
        raise NotFound(f"no resource {name!r}")
    return [row["id"] for row in found]


def _user_id(book: Reading, name: str) -> int:
    found = book.rows("user", {"name": name})
    if not found:
        raise NotFound(f"no user {name!r}")
    return int(found[0]["id"])
