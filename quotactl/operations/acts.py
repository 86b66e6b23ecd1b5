"""What every administrative act shares: who acts, when, and its row in the audit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import InvalidInput, NotFound
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import rfc3339
from quotactl.operations.announced import ANNOUNCED, Announced
from quotactl.policy.model import Resource, Tier
from quotactl.policy.notation import (
    INSTANT_MAX_MS,
    check_id,
    check_name,
    check_text,
    parse_duration,
    parse_instant,
)
from quotactl.policy.window import from_ms, to_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading, Writing

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The machine's clock, as aware UTC."""
    return datetime.now(UTC)


def system_actor() -> str:
    """The OS user, the one behind sudo if there is one."""
    sudo_user = os.environ.get("SUDO_USER")
    if sudo_user:
        return sudo_user
    # Not getpass.getuser(): that believes LOGNAME and USER, which anyone can set.
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's bare uid
        return f"uid:{os.getuid()}"


def actor_named(actor: str | None) -> str:
    """Who acts: the one that was named, else the OS user. InvalidInput for what is no id."""
    return check_id(system_actor() if actor is None else actor, "actor")


class Act:
    """One act under way: a transaction, its time, and who does it why."""

    def __init__(
        self, book: Writing, now_ms: int, actor: str, reason: str | None, ticket: str | None
    ) -> None:
        self.book = book
        self.now_ms = now_ms
        self.actor = actor
        self.reason = reason
        self.ticket = ticket
        self.announced: list[Announced] = []

    def record(
        self,
        action: str,
        *,
        user_id: int | None = None,
        subject: str | None = None,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> int:
        """Write the act's audit row; returns its id."""
        # Here, so that a gateway's consume need not load hashlib and json.
        from quotactl.operations import audit

        audit_id = audit.record(
            self.book,
            now_ms=self.now_ms,
            actor=self.actor,
            action=action,
            user_id=user_id,
            subject=subject,
            before=before,
            after=after,
            reason=self.reason,
            ticket=self.ticket,
        )
        if action.partition(".")[0] in ANNOUNCED:
            newest = self.book.last_audit()
            assert newest is not None and newest[0] == audit_id
            self.announced.append(newest)
        return audit_id

    def resource(self, name: str) -> Resource:
        check_name(name, "resource")
        return self.book.policy.resource_named(name)

    def tier(self, name: str) -> Tier:
        check_name(name, "tier")
        return self.book.policy.tier_named(name)

    def find_user(self, name: str) -> Row:
        """The row of a known user; NotFound for one that nobody has heard of."""
        check_id(name, "user")
        rows = self.book.rows("user", {"name": name})
        if not rows:
            raise NotFound(f"no user {name!r}", hint="nothing was ever set or consumed for them")
        return rows[0]

    def intern_user(self, name: str) -> tuple[Row, bool]:
        """The row of a user, made if need be, and whether it is new."""
        check_id(name, "user")
        rows = self.book.rows("user", {"name": name})
        if rows:
            return rows[0], False
        user_id = self.book.insert("user", {"name": name, "created_at_ms": self.now_ms})
        return self.book.rows("user", {"id": user_id})[0], True

    def end(
        self,
        *,
        duration: str | timedelta | None,
        until: str | datetime | None,
        default: str | None = None,
    ) -> int | None:
        """The end that was asked for, in ms since the epoch, or None: see `end_of`."""
        return end_of(self.book, self.now_ms, duration=duration, until=until, default=default)


def end_of(
    book: Reading,
    now_ms: int,
    *,
    duration: str | timedelta | None,
    until: str | datetime | None,
    default: str | None = None,
    start_ms: int | None = None,
) -> int | None:
    """The end that was asked for, in ms since the epoch, or None.

    `duration` is `2h` or a timedelta, counted from `start_ms` or now, `until` a moment as
    people write it or an aware datetime; `default` is the duration where neither is given.
    """
    if not isinstance(duration, str | timedelta | None):
        raise InvalidInput(f"{duration!r} is not a duration", hint="such as 2h")
    if not isinstance(until, str | datetime | None):
        raise InvalidInput(f"{until!r} is not a moment", hint="such as 18:00")
    if duration is not None and until is not None:
        raise InvalidInput("both a duration and an end are given", hint="give one of them")
    if duration is None and until is None:
        duration = default
    if isinstance(duration, str):
        ends_at_ms = (now_ms if start_ms is None else start_ms) + parse_duration(duration)
    elif duration is not None:
        length_ms = duration // timedelta(milliseconds=1)
        if length_ms <= 0:
            raise InvalidInput("the duration is empty")
        ends_at_ms = (now_ms if start_ms is None else start_ms) + length_ms
    elif until is None:
        return None
    elif isinstance(until, datetime):
        ends_at_ms = to_ms(until)
    else:
        ends_at_ms = parse_instant(until, now_ms=now_ms, calendar=book.policy.calendar)
    if ends_at_ms >= INSTANT_MAX_MS:
        raise InvalidInput("the end is out of range", hint="leave it out for no end at all")
    if ends_at_ms <= now_ms:
        raise InvalidInput(
            f"the end {rfc3339(from_ms(ends_at_ms))} is in the past",
            hint=f"it is {rfc3339(from_ms(now_ms))} now",
        )
    return ends_at_ms


def check_why(reason: str | None, ticket: str | None, why_needed: str | None) -> None:
    """InvalidInput for a reason that is missing where one is needed, or can't be stored."""
    if reason is not None:
        check_text(reason, "reason")
    elif why_needed is not None:
        raise InvalidInput(f"{why_needed} needs a reason", hint="--reason 'why'")
    if ticket is not None:
        check_text(ticket, "ticket", length_max=256)


class Acts:
    """Base of the groups of administrative acts; each method is one transaction.

    After the commit of what is ANNOUNCED the host's commands are told, unless `notify` is
    False; `warn` gets a line for each that failed, which changes nothing about the act.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        actor: str | None = None,
        *,
        notify: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._actor = actor
        self._notify = notify
        self._warn = warn

    @contextmanager
    def _act(
        self,
        *,
        reason: str | None = None,
        ticket: str | None = None,
        why_needed: str | None = None,
    ) -> Iterator[Act]:
        """Begin an act. `why_needed` names what may not be done without a reason."""
        check_why(reason, ticket, why_needed)
        actor = actor_named(self._actor)
        with self._engine.writing() as book:
            act = Act(book, to_ms(self._clock()), actor, reason, ticket)
            yield act
        if act.announced and self._notify:
            from quotactl.operations.notify import send

            send(self._engine, self._clock, actor=actor, announced=act.announced, warn=self._warn)
