"""What the nouns share: open the ledger, do one thing, tell what came of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from quotactl.cli.invocation import invocation, without_password

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from quotactl.api import Ledger
    from quotactl.ledger.values import Decision
    from quotactl.ledger.views import Outcome
    from quotactl.operations.admin import Admin
    from quotactl.render import Record

Item = TypeVar("Item")

# Of a decision, what is shown on a terminal also where it is no or 0.
_ALWAYS = ("allowed", "used", "remaining")


@contextmanager
def opened(*, notice: bool = True, throttles: bool = True) -> Iterator[Ledger]:
    """Open the ledger that was named, for whoever acts.

    When all went well, one last line on stderr says that a throttle is on or enforcement
    is not; `notice` False leaves it out, for what gateways and cron run, and `throttles`
    False that of a throttle, where the command has told of one.
    """
    import quotactl

    this = invocation()
    with quotactl.connect(this.db, actor=this.actor, warn=this.warn) as q:
        yield q
        if notice:
            note_in_force(q, throttles=throttles)


def note_in_force(q: Ledger, *, throttles: bool = True) -> None:
    """Say in one line what is out of the ordinary now, if anything is."""
    this = invocation()
    if this.quiet:
        return
    if not throttles:
        # Before what is needed to tell of it is loaded: nearly always there is none.
        with q.engine.reading() as book:
            if not book.policy.enforcements:
                return
    from quotactl.reports.listing import in_force

    if text := in_force(q.engine, q.now_ms(), throttles=throttles):
        this.say(text)


def person_is_watching() -> bool:
    """Tell whether what is said on stderr is read by somebody now."""
    return sys.stderr.isatty() and not invocation().quiet


def conclude(outcome: Outcome, *, columns: Sequence[str] | None = None) -> None:
    """Say what an act did; as data only to a program or where a format was named."""
    this = invocation()
    this.say(outcome.message)
    if this.format is not None or not sys.stdout.isatty():
        this.emit(outcome, columns=columns)


def show_decision(decision: Decision) -> None:
    """Write a decision to stdout; on a terminal without what has nothing to tell."""
    this = invocation()
    if this.output != "table":
        this.emit(decision)
        return
    rule = decision.rule
    fields = decision.to_dict() | {
        "limit": f"{'unlimited' if decision.limit is None else decision.limit}/{decision.period}",
        "rule": " ".join(str(p) for p in (rule.kind, rule.name or rule.id) if p is not None),
    }
    if decision.period is None:
        del fields["limit"]
    asked = ("user", "resource", "tier", "period")
    this.emit(
        {
            name: value
            for name, value in fields.items()
            if name not in asked and (name in _ALWAYS or value)
        }
    )


def rehearsed(q: Ledger) -> Admin:
    """The same acts, but undone at their end: to see what one would do before asking."""
    from quotactl.operations.admin import Admin
    from quotactl.operations.rehearsal import Rehearsal

    return Admin(Rehearsal(q.engine), q.clock, invocation().actor, notify=False)


def undo(*words: str) -> str:
    """The command line that undoes what was just done, on the ledger that was named."""
    import shlex

    ledger = invocation().ledger
    where = ["--db", without_password(ledger)] if ledger else []
    return shlex.join(["quotactl", *where, *words, "--reason", "over"])


def show(
    rows: Sequence[Record] | Iterator[Record],
    columns: Sequence[str],
    *,
    words: Mapping[str, str] | None = None,
    caption: str | None = None,
    title: str | None = None,
) -> None:
    """Write a list to stdout; row by row where it comes so (see `Invocation.emit`).

    `words` say what None means in a column (`limit`: unlimited); JSON keeps null.
    """
    if words:
        each = (worded(row, words) for row in rows)
        rows = list(each) if isinstance(rows, Sequence) else each
    invocation().emit(rows, columns=columns, caption=caption, title=title)


class FirstOf(Generic[Item]):
    """The first so many of a list that comes one by one, which is closed then; `more` tells,
    after the last of them, whether there were others."""

    def __init__(self, items: Generator[Item, None, None], count: int) -> None:
        self._items = items
        self._count = count
        self.more = False

    def __iter__(self) -> Iterator[Item]:
        for number, item in enumerate(self._items):
            if number == self._count:
                self.more = True
                self._items.close()
                return
            yield item


def worded(row: Record, words: Mapping[str, str]) -> dict[str, Any]:
    """Put words in the place of None, by column; JSON keeps null."""
    from collections.abc import Mapping

    plain = dict(row if isinstance(row, Mapping) else row.to_dict())
    if invocation().output in {"json", "jsonl"}:
        return plain
    return {k: words[k] if v is None and k in words else v for k, v in plain.items()}


def note_new_user(q: Ledger, user: str) -> None:
    """Tell a person that nobody has heard of this user yet: it may be a slip of the pen."""
    if not person_is_watching():
        return
    with q.engine.reading() as book:
        if not book.rows("user", {"name": user}):
            invocation().say(f"{user} is a new user")
