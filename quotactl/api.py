"""A ledger that is open, as programs use it: `quotactl.connect()` and `create()`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from quotactl.engines.opening import making_ledger, open_engine
from quotactl.engines.sqlite.door import TIMEOUT_S
from quotactl.errors import InvalidInput, QuotaError
from quotactl.ledger.values import Decision, Refund, Request, Settlement
from quotactl.operations import consume as consuming
from quotactl.operations import reserve as reserving
from quotactl.operations.acts import Clock, actor_named, system_clock
from quotactl.policy.notation import check_text
from quotactl.policy.window import calendar_of, to_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine
    from quotactl.operations.admin import Admin
    from quotactl.operations.close import Closing
    from quotactl.operations.verify import Verification
    from quotactl.reports.explain import Explanation

# What nearly all ask: without a datetime it takes a third.
_MACHINES = system_clock


class Ledger:
    """Asks and consumes; `admin` holds what administrators do.

    `clock` returns aware datetimes and is asked once for each call, so that
    tests and replays pass time in. Closes with the `with` block, or `close()`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Clock | None,
        actor: str | None,
        notify: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.clock: Clock = clock or system_clock
        self._actor = actor
        self._notify = notify
        self._warn = warn
        self._admin: Admin | None = None

    # ---- consuming

    def check(self, *, user: str, resource: str, amount: int = 1) -> Decision:
        """What `consume` would answer; takes nothing, writes nothing.

        Raises InvalidInput for an id or amount that can't be, NotFound for an
        unknown resource.
        """
        return consuming.check(self.engine, user, resource, amount, self.now_ms())

    def consume(
        self, *, user: str, resource: str, amount: int = 1, idempotency_key: str | None = None
    ) -> Decision:
        """Take `amount` units, all or nothing, and say how it was decided.

        A denied request takes nothing. The same key with the same request gives
        the first answer again and takes nothing more; with another it raises
        Conflict. Raises LedgerBusy when the turn does not come in time, and
        ClockBehind in a day that is closed; both are safe to try again.
        """
        return consuming.consume(
            self.engine, user, resource, amount, idempotency_key, self.now_ms()
        )

    def consume_many(self, requests: Sequence[Request]) -> list[Decision | QuotaError]:
        """Decide requests in order, in one transaction; a bad one has its error in its place."""
        return consuming.consume_many(self.engine, requests, self.now_ms())

    def refund(
        self,
        *,
        idempotency_key: str | None = None,
        entry_id: int | None = None,
        amount: int | None = None,
        refund_key: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Refund:
        """Give back what was taken under a key or by an entry, or `amount` of it.

        `refund_key` names this refund, so that a retry gives back nothing more.
        Raises Conflict for more than is left.
        """
        return consuming.refund(
            self.engine,
            self.now_ms(),
            actor=actor_named(self._actor),
            idempotency_key=idempotency_key,
            entry_id=entry_id,
            amount=amount,
            refund_key=refund_key,
            reason=reason,
            ticket=ticket,
        )

    def reserve(
        self,
        *,
        user: str,
        resource: str,
        amount: int = 1,
        ttl_s: float = 120,
        idempotency_key: str | None = None,
    ) -> Decision:
        """Hold units for `ttl_s` seconds. The decision has a `reservation_id` if allowed."""
        request = Request(user, resource, amount, idempotency_key)
        return reserving.reserve(self.engine, request, self.now_ms(), ttl_s=ttl_s)

    def post(self, reservation_id: int, amount: int | None = None) -> Settlement:
        """Keep what was held, or `amount` of it, and free the rest. Repeated: already so."""
        return reserving.post(self.engine, reservation_id, self.now_ms(), amount=amount)

    def void(self, reservation_id: int) -> Settlement:
        """Free what was held. Repeated: already so."""
        return reserving.void(self.engine, reservation_id, self.now_ms())

    def explain(
        self, *, user: str, resource: str, amount: int = 1, at: datetime | str | None = None
    ) -> Explanation:
        """Why a request is decided as it is: every rule that could have had a say.

        Now, or `at` a moment that is past or to come: an aware datetime, or a text such
        as `18:00` or `2025-03-28 09:00`. Its `decision` is what `check` answers, or answered
        then; None where what is needed was pruned, or the audit does not hold it. Writes
        nothing. Raises InvalidInput for what can't be asked, NotFound for a resource that
        there is not, or was not.
        """
        from quotactl.reports.explain import explain

        return explain(
            self.engine, self.now_ms(), user=user, resource=resource, amount=amount, at=at
        )

    # ---- administering

    @property
    def admin(self) -> Admin:
        """What administrators do: the operations that the command line's nouns call."""
        if self._admin is None:
            from quotactl.operations.admin import Admin

            self._admin = Admin(
                self.engine, self.clock, self._actor, notify=self._notify, warn=self._warn
            )
        return self._admin

    def close_days(self) -> Closing:
        """Close every day that is over and not closed yet; what cron runs."""
        from quotactl.operations.close import close_days

        return close_days(self.engine, self.clock, actor=self._actor)

    def verify(self) -> Verification:
        """Rebuild counters and grant balances from entries and compare; `.ok`, `.differences`."""
        from quotactl.operations.verify import verify

        return verify(self.engine, self.now_ms())

    # ---- itself

    def now_ms(self) -> int:
        """The clock's time, in milliseconds since the epoch."""
        clock = self.clock
        return time.time_ns() // 1_000_000 if clock is _MACHINES else to_ms(clock())

    def close(self) -> None:
        """Let go of the file."""
        self.engine.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    db: str | Path,
    *,
    clock: Clock | None = None,
    actor: str | None = None,
    timeout_s: float = TIMEOUT_S,
    notify: bool = True,
    warn: Callable[[str], None] | None = None,
) -> Ledger:
    """Open a ledger; never creates one.

    `timeout_s` is how long a write may wait for its turn before LedgerBusy. The host's
    commands are told of throttles, enforcement and presets, but for a ledger that stands
    for nothing (`notify=False`); one that fails is a line for `warn`, else a warning.
    Raises NotFound, LedgerCorrupt or SchemaMismatch.
    """
    engine = open_engine(db, timeout_s=timeout_s)
    return Ledger(engine, clock=clock, actor=actor, notify=notify, warn=warn)


def create(
    db: str | Path,
    *,
    name: str | None = None,
    zone: str = "UTC",
    clock: Clock | None = None,
    actor: str | None = None,
    notify: bool = True,
    group: str | None = None,
) -> Ledger:
    """Make a new ledger and open it; Conflict if the file exists.

    It appears under its name whole, with its first audit row, or not at all.
    `zone` is the IANA name of the zone whose calendar days count; `notify` as for `connect`.
    Its owner alone may read and write it, and with `group` that group of the machine's.
    """
    from quotactl.operations.admin import record_founding

    if name is None:
        name = Path(db).stem
    check_text(name, "name", length_max=256)
    check_zone(zone)
    actor = actor_named(actor)
    clock = clock or system_clock
    now_ms = to_ms(clock())
    with making_ledger(db, name=name, zone=zone, now_ms=now_ms, group=group) as book:
        record_founding(book, now_ms, actor=actor, name=name, zone=zone)
    return connect(db, clock=clock, actor=actor, notify=notify)


def check_zone(zone: str) -> str:
    """The zone's name, or InvalidInput for one that is not known."""
    try:
        calendar_of(zone)
    except (KeyError, ValueError, OSError):
        raise InvalidInput(f"zone {zone!r} is not known", hint="such as Europe/Rome") from None
    return zone
