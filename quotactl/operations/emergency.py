"""Throttles: what on-call switches, and what ends by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, InvalidInput
from quotactl.frozen import frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import rfc3339
from quotactl.ledger.views import Outcome, SwitchView
from quotactl.operations.acts import Act, Acts, check_why
from quotactl.operations.impact import Impact, impact_of
from quotactl.operations.switches import (
    DEFAULT_DURATION,
    THROTTLE_KINDS,
    describe,
    end_switch,
    ending,
    facts,
    find_switch,
    move_end,
    over,
    put_steps,
    switch_end,
    switch_on,
    switch_view,
    switches_moved,
    title,
)
from quotactl.policy.levers import Lever, lever, parse_ramp
from quotactl.policy.model import Scope, Step
from quotactl.policy.notation import duration_text, instant_text, parse_instant
from quotactl.policy.window import from_ms, moment_of, to_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

Approve = Callable[[Impact], None]

# Two throttles with these in common differ at most in name, reason, message and end.
_SAME = (
    "kind", "total", "amount_max", "period", "percent", "floor", "freeze_grants",
    "include_protected", "drill",
)  # fmt: skip


@frozen
class Timing:
    """When a throttle is wanted: as people write it."""

    at: str | datetime | None = None
    duration: str | timedelta | None = None
    until: str | datetime | None = None
    no_expiry: bool = False


class Emergency(Acts):
    """Acts on throttles."""

    def throttle_on(
        self,
        *,
        deny: bool = False,
        cap: str | None = None,
        total: str | None = None,
        scale: int | str | None = None,
        floor: int | str | None = None,
        resources: Sequence[str] = (),
        tiers: Sequence[str] = (),
        name: str | None = None,
        at: str | datetime | None = None,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        ramp: str | Sequence[int] | None = None,
        every: str | None = None,
        freeze_grants: bool = False,
        include_protected: bool = False,
        message: str | None = None,
        replace: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
        approve: Approve | None = None,
    ) -> Outcome:
        """Lower or stop what may be taken, from the next decision in every process on.

        One of `deny`, `cap` (`3/day` for each user), `total` (`40k/hour` for all users in
        scope together) and `scale` (percent, with an optional `floor`); `ramp` brings it on
        in steps of `every`. No resources means all, no tiers means all. It begins now, or
        `at` a moment, and ends after an hour or with its ramp unless `duration`, `until` or
        `no_expiry` say otherwise. `message` is what end users are told.

        `approve` is shown what it would do before anything is written, and raises to stop.
        """
        wanted = lever(
            deny=deny,
            cap=cap,
            total=total,
            scale=scale,
            floor=floor,
            resources=resources,
            tiers=tiers,
            name=name,
            ramp=ramp,
            every=every,
            freeze_grants=freeze_grants,
            include_protected=include_protected,
            message=message,
        )
        timing = Timing(at, duration, until, no_expiry)
        (outcome,) = self.pull(
            [wanted], timing, replace=replace, reason=reason, ticket=ticket, approve=approve
        )
        return outcome

    def pull(
        self,
        levers: Sequence[Lever],
        timing: Timing,
        *,
        replace: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
        approve: Approve | None = None,
    ) -> list[Outcome]:
        """`throttle_on` for what was read already, of several all or nothing.

        `approve` is shown what those that are not on already would do together.
        """
        why_needed = "a throttle"
        check_why(reason, ticket, why_needed)
        now_ms = to_ms(self._clock())
        with self._engine.reading() as book:
            throttles, removed, already = [], [], []
            promises: dict[Lever, Impact] = {}
            for wanted in levers:
                starts_at_ms, ends_at_ms = when(book, wanted, timing, now_ms)
                found = in_the_way(book, wanted, starts_at_ms, ends_at_ms, now_ms, replace=replace)
                if isinstance(found, Outcome):
                    already.append(found)
                    continue
                own = [row["id"] for row in found]
                removed += own
                throttles.append(wanted.throttle(book.policy, starts_at_ms, ends_at_ms))
                promises[wanted] = impact_of(book, throttles[-1:], own, now_ms)
            if not throttles:
                return already
            (impact, *more) = promises.values()
            if more:
                impact = impact_of(book, throttles, removed, now_ms)
        if approve is not None:
            # Not inside the transaction: a person may take long to answer.
            approve(impact)
        with self._act(reason=reason, ticket=ticket, why_needed=why_needed) as act:
            return [
                _told(
                    act,
                    put_on(act, wanted, timing, replace=replace, promise=promises.get(wanted)),
                )
                for wanted in levers
            ]

    def throttle_off(
        self,
        throttle: int | str,
        *,
        ramp: str | Sequence[int] | None = None,
        every: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Lift a throttle by id or name; what was below it holds again.

        With a `ramp` it goes in steps of `every`: in each, nobody has less than that part
        of the limit below it. Where that is unlimited, it holds until the last step.
        """
        parts, every_ms = parse_ramp(ramp, every)
        with self._act(reason=reason, ticket=ticket, why_needed="lifting a throttle") as act:
            switch = find_switch(act.book, throttle, THROTTLE_KINDS, act.now_ms)
            view = switch_view(act.book, switch, act.now_ms)
            if view.state in ("over", "lifted"):
                return Outcome(
                    False, f"throttle {title(switch)} is {view.state} already", view.to_dict()
                )
            if parts:
                return _ramp_off(act, switch, parts, every_ms)
            end_switch(act, switch)
            act.record(
                "throttle.off",
                subject=f"throttle {switch['id']}",
                before=facts(act.book, switch),
            )
            (lifted,) = act.book.rows("switch", {"id": switch["id"]})
            view = switch_view(act.book, lifted, act.now_ms)
            return Outcome(True, f"throttle {title(switch)} is off", view.to_dict())

    def throttle_extend(
        self,
        throttle: int | str,
        *,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Move the end of a throttle; `duration` counts from now, or from a start to come."""
        if duration is None and until is None and not no_expiry:
            raise InvalidInput("no new end is given", hint="--for 2h, --until 18:00 or --no-expiry")
        with self._act(reason=reason, ticket=ticket, why_needed="moving a throttle's end") as act:
            switch = _still_on(act, throttle)
            ends_at_ms = switch_end(
                act.book,
                act.now_ms,
                duration=duration,
                until=until,
                no_expiry=no_expiry,
                start_ms=max(act.now_ms, switch["starts_at_ms"]),
            )
            if ends_at_ms is not None and ends_at_ms <= switch["starts_at_ms"]:
                raise InvalidInput("the end lies before the start")
            until_text = ending(act, ends_at_ms)
            if switch["starts_at_ms"] > act.now_ms:
                at = instant_text(switch["starts_at_ms"], act.book.policy.calendar)
                until_text = f"from {at} {until_text}"
            if ends_at_ms == switch["ends_at_ms"]:
                view = switch_view(act.book, switch, act.now_ms)
                message = f"throttle {title(switch)} is on {until_text} already"
                return Outcome(False, message, view.to_dict())
            view = move_end(act, "throttle", switch, ends_at_ms)
            return Outcome(True, f"throttle {title(switch)} is on {until_text}", view.to_dict())

    def throttle_hold(
        self,
        throttle: int | str,
        *,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Stay at the present step of a ramp, until `throttle_resume`.

        The end stays where it is, or moves as told. Of a ramp that was lifting the
        throttle, the end moves to an hour from now unless told otherwise.
        """
        with self._act(reason=reason, ticket=ticket, why_needed="holding a ramp") as act:
            switch = _still_on(act, throttle)
            steps = act.book.steps_of(switch, held_too=True)
            view = switch_view(act.book, switch, act.now_ms)
            if not steps:
                raise Conflict(f"throttle {title(switch)} has no ramp to hold")
            if switch["starts_at_ms"] > act.now_ms:
                # There is no step to stay at: without its first one it would begin at 100%.
                raise Conflict(
                    f"throttle {title(switch)} is not on yet",
                    hint=f"lift it: quotactl throttle off {switch['id']}",
                )
            if switch["held_at_ms"] is not None:
                message = f"throttle {title(switch)} is held at {view.step}% already"
                return Outcome(False, message, view.to_dict())
            ahead = [step for step in steps if step.at_ms > act.now_ms]
            if not ahead:
                message = f"throttle {title(switch)} is at its last step, {view.step}%, already"
                return Outcome(False, message, view.to_dict())
            ends_at_ms = switch["ends_at_ms"]
            told = duration is not None or until is not None or no_expiry
            if told or any(step.lifting for step in ahead):
                ends_at_ms = switch_end(
                    act.book, act.now_ms, duration=duration, until=until, no_expiry=no_expiry
                )
            changed = {"held_at_ms": act.now_ms, "ends_at_ms": ends_at_ms}
            view = _change(act, "throttle.hold", switch, changed)
            message = f"throttle {title(switch)} is held at {view.step}%, {ending(act, ends_at_ms)}"
            return Outcome(True, message, view.to_dict())

    def throttle_resume(
        self, throttle: int | str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Go on with a ramp that was held: what was ahead then is as far ahead now.

        Where the end would lie before the last step, it moves by as much.
        """
        with self._act(reason=reason, ticket=ticket, why_needed="resuming a ramp") as act:
            switch = _still_on(act, throttle)
            held_at_ms = switch["held_at_ms"]
            if held_at_ms is None:
                view = switch_view(act.book, switch, act.now_ms)
                return Outcome(False, f"throttle {title(switch)} is not held", view.to_dict())
            late_ms = max(0, act.now_ms - held_at_ms)
            steps = act.book.steps_of(switch, held_too=True)
            ahead = [s for s in steps if s.at_ms > held_at_ms]
            before = facts(act.book, switch)
            moved = [Step(s.at_ms + late_ms, s.percent, s.lifting) for s in ahead]
            for step in ahead:
                _drop_step(act, switch, step)
            put_steps(act, switch["id"], moved)
            ends_at_ms = switch["ends_at_ms"]
            last = moved[-1]
            if last.lifting:
                ends_at_ms = last.at_ms
            elif ends_at_ms is not None and ends_at_ms <= last.at_ms:
                # Else it would end before its last step: later by what it was held for, and
                # not before that step has had its time.
                length_ms = steps[-1].at_ms - steps[-2].at_ms if len(steps) > 1 else late_ms
                ends_at_ms = max(ends_at_ms + late_ms, last.at_ms + max(1, length_ms))
            changed = {"held_at_ms": None, "ends_at_ms": ends_at_ms}
            view = _change(act, "throttle.resume", switch, changed, before=before)
            step = moved[0]
            at = instant_text(step.at_ms, act.book.policy.calendar)
            message = (
                f"throttle {title(switch)} goes on: {step.percent}% at {at}, "
                f"{ending(act, ends_at_ms)}"
            )
            return Outcome(True, message, view.to_dict())


def when(book: Reading, wanted: Lever, timing: Timing, now_ms: int) -> tuple[int, int | None]:
    """The start and end that were asked for, in ms; InvalidInput where they can't be."""
    starts_at_ms = now_ms
    if timing.at is not None:
        if isinstance(timing.at, datetime):
            starts_at_ms = to_ms(timing.at)
        elif isinstance(timing.at, str):
            starts_at_ms = parse_instant(timing.at, now_ms=now_ms, calendar=book.policy.calendar)
        else:
            raise InvalidInput(f"{timing.at!r} is not a moment", hint="such as 18:00")
        if starts_at_ms <= now_ms:
            raise InvalidInput(
                f"the start {rfc3339(from_ms(starts_at_ms))} is in the past",
                hint=f"it is {rfc3339(from_ms(now_ms))} now; leave --at out to begin at once",
            )
    duration = timing.duration
    if duration is None and wanted.duration_ms is not None and timing.until is None:
        duration = None if timing.no_expiry else timedelta(milliseconds=wanted.duration_ms)
    ends_at_ms = switch_end(
        book,
        now_ms,
        duration=duration,
        until=timing.until,
        no_expiry=timing.no_expiry,
        default=duration_text(wanted.ramp_ms) if wanted.ramp else DEFAULT_DURATION,
        start_ms=starts_at_ms,
    )
    if ends_at_ms is not None and ends_at_ms <= starts_at_ms:
        raise InvalidInput("the end lies before the start")
    steps = wanted.steps(starts_at_ms)
    if steps and ends_at_ms is not None and ends_at_ms <= steps[-1].at_ms:
        raise InvalidInput(
            f"the end lies before the ramp's last step, at {rfc3339(from_ms(steps[-1].at_ms))}",
            hint=f"--for {duration_text(wanted.ramp_ms)}",
        )
    return starts_at_ms, ends_at_ms


def put_on(
    act: Act,
    wanted: Lever,
    timing: Timing,
    *,
    replace: bool = False,
    preset: str | None = None,
    drill: bool = False,
    promise: Impact | None = None,
) -> tuple[Row, list[Row]] | Outcome:
    """Put one throttle on inside an act: its row and those that it replaced.

    An Outcome where it is on already; Conflict where another is in the way.
    """
    book = act.book
    starts_at_ms, ends_at_ms = when(book, wanted, timing, act.now_ms)
    found = in_the_way(
        book, wanted, starts_at_ms, ends_at_ms, act.now_ms, replace=replace, drill=drill
    )
    if isinstance(found, Outcome):
        return found
    for switch in found:
        end_switch(act, switch)
    values = {
        **_values(wanted, drill=drill),
        "name": wanted.name,
        "message": wanted.message,
        "preset": preset,
        "promise": None if promise is None else json.dumps(promise.to_dict()),
    }
    switch = switch_on(
        act,
        "throttle.on",
        values,
        wanted.scope(book.policy),
        starts_at_ms=starts_at_ms,
        ends_at_ms=ends_at_ms,
        steps=wanted.steps(starts_at_ms),
        replaced=found,
    )
    return switch, found


def _told(act: Act, put: tuple[Row, list[Row]] | Outcome) -> Outcome:
    """What putting a throttle on did, in words."""
    if isinstance(put, Outcome):
        return put
    switch, replaced = put
    view = switch_view(act.book, switch, act.now_ms)
    since = ""
    if switch["starts_at_ms"] > act.now_ms:
        since = f"from {instant_text(switch['starts_at_ms'], act.book.policy.calendar)} "
    was = ""
    if replaced:
        # Who takes back the new one may think that the old one is there again.
        was = f", in place of {', '.join(str(r['id']) for r in replaced)}, for good"
    message = (
        f"throttle {title(switch)} is {view.state}: {describe(view)}, "
        f"{since}{ending(act, switch['ends_at_ms'])}{was}"
    )
    return Outcome(True, message, view.to_dict())


def in_the_way(
    book: Reading,
    wanted: Lever,
    starts_at_ms: int,
    ends_at_ms: int | None,
    now_ms: int,
    *,
    replace: bool,
    drill: bool = False,
) -> list[Row] | Outcome:
    """What a new throttle would replace, or that it is on already.

    The same is on already where it is in force at the start of the new one; one that
    begins later leaves the time until then free, and is in nobody's way. Raises Conflict
    where something at the same time has the same targets, kind and period, or the same
    name, and replacing it was not asked for.
    """
    values = _values(wanted, drill=drill)
    scope: Scope = wanted.scope(book.policy)
    calendar = book.policy.calendar
    found = []
    for switch in book.rows("switch", {"ended_at_ms": None}):
        if switch["kind"] not in THROTTLE_KINDS or over(switch, now_ms):
            continue
        same_targets = book.scope_of(switch) == scope
        apart = (ends_at_ms is not None and ends_at_ms <= switch["starts_at_ms"]) or (
            switch["ends_at_ms"] is not None and switch["ends_at_ms"] <= starts_at_ms
        )
        same_time = same_targets and not apart
        same = (
            same_time
            and all(switch[field] == values[field] for field in _SAME)
            and _ramp_of(book, switch) == _ramp(wanted.steps(starts_at_ms), starts_at_ms)
        )
        if same and switch["starts_at_ms"] <= starts_at_ms:
            view = switch_view(book, switch, now_ms)
            since = ""
            if switch["starts_at_ms"] > now_ms:
                since = f"from {instant_text(switch['starts_at_ms'], calendar)} "
            end = instant_text(switch["ends_at_ms"], calendar)
            ends = "with no end" if switch["ends_at_ms"] is None else f"until {end}"
            return Outcome(
                False,
                f"throttle {title(switch)} is already {view.state} {since}{ends}; "
                f"to move it: quotactl throttle extend {switch['id']}",
                view.to_dict(),
            )
        alike = (
            same_time
            and not same
            and all(
                switch[field] == values[field] for field in ("kind", "total", "period", "drill")
            )
        )
        if alike or (wanted.name is not None and switch["name"] == wanted.name):
            found.append(switch)
    if found and not replace:
        view = switch_view(book, found[0], now_ms)
        raise Conflict(
            f"throttle {title(found[0])} is {view.state} for the same: {describe(view)}",
            hint="add --replace to put the new one in its place",
        )
    return found


def is_of(book: Reading, switch: Row, wanted: Lever, *, drill: bool = False) -> bool:
    """Whether a throttle's row is what a lever puts on, but for its ramp and its end."""
    values = _values(wanted, drill=drill)
    return (
        switch["kind"] in THROTTLE_KINDS
        and all(switch[field] == values[field] for field in _SAME)
        and book.scope_of(switch) == wanted.scope(book.policy)
    )


def _values(wanted: Lever, *, drill: bool) -> Row:
    return {
        "kind": "cap" if wanted.kind == "total" else wanted.kind,
        "total": int(wanted.kind == "total"),
        "amount_max": None if wanted.limit is None else wanted.limit.amount_max,
        "period": None if wanted.limit is None else wanted.limit.period.length_min,
        "percent": wanted.percent,
        "floor": wanted.floor,
        "freeze_grants": int(wanted.freeze_grants),
        "include_protected": int(wanted.include_protected),
        "drill": int(drill),
    }


def _ramp(steps: Sequence[Step], starts_at_ms: int) -> list[tuple[int, int, bool]]:
    return [(step.at_ms - starts_at_ms, step.percent, step.lifting) for step in steps]


def _ramp_of(book: Reading, switch: Row) -> list[tuple[int, int, bool]]:
    return _ramp(book.steps_of(switch), switch["starts_at_ms"])


def _still_on(act: Act, throttle: int | str) -> Row:
    """The row of a throttle that is on or scheduled; Conflict for one that is over."""
    switch = find_switch(act.book, throttle, THROTTLE_KINDS, act.now_ms)
    view = switch_view(act.book, switch, act.now_ms)
    if view.state in ("over", "lifted"):
        raise Conflict(f"throttle {title(switch)} is {view.state}", hint="quotactl throttle on …")
    return switch


def _ramp_off(act: Act, switch: Row, parts: tuple[int, ...], every_ms: int) -> Outcome:
    if switch["total"]:
        raise InvalidInput(
            "below a total there is no limit to go back to in parts",
            hint="lift it at once, or put a higher one in its place with --replace",
        )
    if switch["starts_at_ms"] > act.now_ms:
        raise InvalidInput(f"throttle {title(switch)} is not on yet", hint="lift it at once")
    present = [s for s in act.book.steps_of(switch) if s.lifting and s.at_ms <= act.now_ms]
    reached = present[-1].percent if present else -1
    if any(late <= early for early, late in zip((reached, *parts), parts, strict=False)):
        raise InvalidInput(
            "a ramp that lifts must rise" + (f", from {reached}% on" if present else ""),
            hint="such as 25%,50%,100%",
        )
    steps = [Step(act.now_ms + n * every_ms, part, lifting=True) for n, part in enumerate(parts)]
    ends_at_ms = steps[-1].at_ms
    if parts[-1] < 100 or len(parts) == 1:
        ends_at_ms += every_ms
        steps.append(Step(ends_at_ms, 100, lifting=True))
    # Those held back neither come any more nor have come, also where their time is past.
    came = set(act.book.steps_of(switch))
    before = facts(act.book, switch)
    for step in act.book.steps_of(switch, held_too=True):
        if (
            step not in came
            or step.at_ms > act.now_ms
            or (step.lifting and step.at_ms == act.now_ms)
        ):
            _drop_step(act, switch, step)
    put_steps(act, switch["id"], steps)
    changed = {"held_at_ms": None, "ends_at_ms": ends_at_ms}
    view = _change(act, "throttle.off", switch, changed, before=before)
    calendar = act.book.policy.calendar
    course = ", ".join(
        f"{step.percent}% {'now' if n == 0 else 'at ' + instant_text(step.at_ms, calendar)}"
        for n, step in enumerate(steps)
        if step.at_ms < ends_at_ms
    )
    message = f"throttle {title(switch)} is ramping off: {course}; {ending(act, ends_at_ms)}"
    return Outcome(True, message, view.to_dict())


def _drop_step(act: Act, switch: Row, step: Step) -> None:
    act.book.delete(
        "switch_step",
        {"switch_id": switch["id"], "at_ms": step.at_ms, "lifting": int(step.lifting)},
    )


def _change(
    act: Act, action: str, switch: Row, changed: Row, *, before: dict[str, Any] | None = None
) -> SwitchView:
    """Change a throttle's row with its audit row, and show it.

    `before` are its facts as they were, where its steps have been changed already.
    """
    if before is None:
        before = facts(act.book, switch)
    act.book.update("switch", {"id": switch["id"]}, changed)
    switches_moved(act)
    (row,) = act.book.rows("switch", {"id": switch["id"]})
    after = facts(act.book, row)
    if row["held_at_ms"] is not None:
        after["held_at"] = rfc3339(moment_of(row["held_at_ms"]))
    act.record(action, subject=f"throttle {switch['id']}", before=before, after=after)
    return switch_view(act.book, row, act.now_ms)
