"""Presets: several throttles and an enforcement mode, put on and lifted under one name.

A preset is defined in the policy file and is no switch itself: what came on with it is
told by the column `preset` of each switch, and stays as it is when the file changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, NotFound
from quotactl.frozen import changed, frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.views import Outcome, SwitchView
from quotactl.operations.acts import Act, Acts, check_why
from quotactl.operations.administer import presets_of
from quotactl.operations.emergency import Approve, Timing, in_the_way, put_on, when
from quotactl.operations.enforcement import weaken
from quotactl.operations.impact import Impact, impact_of
from quotactl.operations.switches import (
    ENFORCEMENT_KINDS,
    THROTTLE_KINDS,
    describe,
    end_switch,
    ending,
    facts,
    over,
    switch_end,
    switch_view,
    title,
    whom,
)
from quotactl.policy.levers import EnforcementLever, Preset, scope_of
from quotactl.policy.model import Throttle
from quotactl.policy.notation import check_name
from quotactl.policy.window import to_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

DRILL_DURATION = "10m"


class PresetActs(Acts):
    """Acts on presets; each is one transaction, whatever the number of throttles."""

    def preset_on(
        self,
        name: str,
        *,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        replace: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
        approve: Approve | None = None,
    ) -> Outcome:
        """Put everything that a preset names on, or nothing of it.

        Each ends when the preset says, an hour from now if it says nothing; `duration`,
        `until` or `no_expiry` are for all of them instead. What is on already is left as it
        is. Conflict where something else is on for the same, unless `replace` puts the
        preset's in its place. `approve` is shown what all throttles together would do
        before anything is written, and raises to stop.
        """
        why_needed = "a preset"
        check_why(reason, ticket, why_needed)
        timing = Timing(None, duration, until, no_expiry)
        now_ms = to_ms(self._clock())
        with self._engine.reading() as book:
            preset = preset_named(book, name)
            with _naming(name):
                ahead = _look_ahead(book, preset, timing, now_ms, replace=replace)
        if approve is not None and ahead.promises:
            # Not inside the transaction: a person may take long to answer.
            approve(ahead.impact)
        with self._act(reason=reason, ticket=ticket, why_needed=why_needed) as act:
            if preset_named(act.book, name) != preset:
                raise Conflict(f"preset {name!r} was changed meanwhile", hint="look again")
            done = _Done(act)
            with _naming(name):
                for number, one in enumerate(preset.throttles):
                    promise = ahead.promises.get(number)
                    put = put_on(act, one, timing, replace=replace, preset=name, promise=promise)
                    if isinstance(put, Outcome):
                        done.left(int(put.item["id"]), put.message)
                    else:
                        done.on(*put)
                if preset.enforcement is not None:
                    _put_mode(done, preset.enforcement, timing, name, replace=replace)
            if not done.ids:
                return Outcome(False, done.message(f"preset {name} is on already"), done.item(name))
            act.record(
                "preset.on",
                subject=f"preset {name}",
                after={"on": done.ids, "already_on": done.already},
            )
            return Outcome(True, done.message(f"preset {name} is on"), done.item(name))

    def preset_off(
        self, name: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Lift all that came on with a preset, a drill too; what was below holds again.

        Also of a preset that is not in the policy any more. What was on before the preset
        did not come with it, and stays.
        """
        check_name(name, "preset")
        with self._act(reason=reason, ticket=ticket, why_needed="lifting a preset") as act:
            book = act.book
            switches = switches_of(book, name, act.now_ms)
            item: dict[str, Any] = {"preset": name, "lifted": [s["id"] for s in switches]}
            if not switches:
                if not book.rows("switch", {"preset": name}):
                    preset_named(book, name)
                return Outcome(False, f"preset {name} is off already", item)
            for switch in switches:
                before = facts(book, switch)
                end_switch(act, switch)
                if switch["kind"] in THROTTLE_KINDS:
                    act.record("throttle.off", subject=f"throttle {switch['id']}", before=before)
                else:
                    subject = f"enforcement {switch['id']}"
                    act.record("enforcement.on", subject=subject, before={"switches": [before]})
            act.record("preset.off", subject=f"preset {name}", before={"on": item["lifted"]})
            told = ", ".join(_what(switch) for switch in switches)
            drill = all(switch["drill"] for switch in switches)
            message = f"{'the drill of ' if drill else ''}preset {name} is off: {told}"
            return Outcome(True, message, item)

    def preset_drill(
        self,
        name: str,
        *,
        duration: str | timedelta | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Try a preset's throttles on what is asked for from now on, denying nobody.

        For ten minutes unless `duration` says otherwise. What they would have denied is
        counted apart, under their ids. The preset's enforcement mode is not tried.
        """
        with self._act(reason=reason, ticket=ticket, why_needed="a drill") as act:
            book = act.book
            preset = preset_named(book, name)
            if not preset.throttles:
                raise Conflict(
                    f"preset {name!r} has no throttle to try", hint=f"quotactl preset show {name}"
                )
            done = _Done(act)
            mine = [s for s in switches_of(book, name, act.now_ms) if s["drill"]]
            if mine:
                for switch in mine:
                    done.left(switch["id"], _line(act, switch))
                message = f"a drill of preset {name} is on already"
                return Outcome(False, done.message(message), done.item(name))
            timing = Timing(duration=DRILL_DURATION if duration is None else duration)
            with _naming(name):
                _check_alone(act, preset)
                for one in preset.throttles:
                    # Without its name: the real one must find that free.
                    nameless = changed(one, name=None)
                    put = put_on(act, nameless, timing, preset=name, drill=True)
                    assert not isinstance(put, Outcome), "a drill was on that no preset has"
                    done.on(*put)
            act.record("preset.drill", subject=f"preset {name}", after={"on": done.ids})
            message = f"a drill of preset {name} is on, and denies nobody"
            if preset.enforcement is not None:
                message += "; its enforcement mode is no part of it"
            return Outcome(True, done.message(message), done.item(name))


def preset_named(book: Reading, name: str) -> Preset:
    """The preset of that name; NotFound, with those that there are."""
    check_name(name, "preset")
    presets = presets_of(book)
    if name not in presets:
        known = ", ".join(presets) or "none yet; a policy file defines them"
        raise NotFound(f"no preset {name!r}", hint=f"known: {known}")
    return presets[name]


def switches_of(book: Reading, name: str, now_ms: int) -> list[Row]:
    """What came on with a preset and is on or scheduled, drills too, oldest first."""
    rows = book.rows("switch", {"preset": name, "ended_at_ms": None})
    return [switch for switch in rows if not over(switch, now_ms)]


# ---- in detail


@frozen
class _Ahead:
    """What would come on: the promise of each throttle that is not on yet, by its place in
    the preset, and the impact of all of them together."""

    promises: dict[int, Impact]
    impact: Impact


def _look_ahead(
    book: Reading, preset: Preset, timing: Timing, now_ms: int, *, replace: bool
) -> _Ahead:
    """Refuse what would be refused, and estimate the rest, before anybody is asked."""
    throttles: list[Throttle] = []
    removed: list[int] = []
    promises = {}
    for number, one in enumerate(preset.throttles):
        starts_at_ms, ends_at_ms = when(book, one, timing, now_ms)
        found = in_the_way(book, one, starts_at_ms, ends_at_ms, now_ms, replace=replace)
        if isinstance(found, Outcome):
            continue
        throttle = one.throttle(book.policy, starts_at_ms, ends_at_ms)
        ids = [row["id"] for row in found]
        # Of each alone: that is what its own report is compared with.
        promises[number] = impact_of(book, [throttle], ids, now_ms)
        throttles.append(throttle)
        removed += ids
    if preset.enforcement is not None:
        _mode_in_the_way(book, preset.enforcement, now_ms, replace=replace)
        _mode_end(book, preset.enforcement, timing, now_ms)
    if len(promises) == 1:
        return _Ahead(promises, next(iter(promises.values())))
    return _Ahead(promises, impact_of(book, throttles, removed, now_ms))


class _Done:
    """What became of each part of a preset, and how that is told."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.views: list[SwitchView] = []
        self.ids: list[int] = []
        self.already: list[int] = []
        self.lines: list[str] = []

    def on(self, switch: Row, replaced: list[Row]) -> None:
        """Note what came on."""
        was = f", in place of {', '.join(_what(row) for row in replaced)}" if replaced else ""
        self.ids.append(switch["id"])
        self.views.append(switch_view(self.act.book, switch, self.act.now_ms))
        self.lines.append(_line(self.act, switch) + was)

    def left(self, id_: int, line: str) -> None:
        """Note what was on already and was left as it is."""
        self.already.append(id_)
        self.lines.append(line)

    def message(self, head: str) -> str:
        return "\n  ".join([f"{head}:", *self.lines])

    def item(self, name: str) -> dict[str, Any]:
        """The ids of what came on and of what was on, and what came on as it is shown."""
        throttles = [view.to_dict() for view in self.views if view.kind not in ENFORCEMENT_KINDS]
        modes = [view.to_dict() for view in self.views if view.kind in ENFORCEMENT_KINDS]
        return {
            "preset": name,
            "on": self.ids,
            "already_on": self.already,
            "throttles": throttles,
            "enforcement": modes[0] if modes else None,
        }


def _put_mode(
    done: _Done, mode: EnforcementLever, timing: Timing, name: str, *, replace: bool
) -> None:
    act = done.act
    book = act.book
    found = _mode_in_the_way(book, mode, act.now_ms, replace=replace)
    same = next((row for row in found if row["kind"] == mode.mode), None)
    if same is not None:
        until = ending(act, same["ends_at_ms"])
        done.left(same["id"], f"enforcement {same['id']} is {mode.mode} already {until}")
        return
    scope = scope_of(book.policy, mode.resources, mode.tiers)
    ends_at_ms = _mode_end(book, mode, timing, act.now_ms)
    outcome = weaken(act, mode.mode, scope, ends_at_ms, end_is_named=False, preset=name)
    done.on(book.rows("switch", {"id": outcome.item["id"]})[0], found)


def _mode_in_the_way(
    book: Reading, mode: EnforcementLever, now_ms: int, *, replace: bool
) -> list[Row]:
    """The enforcement switches that are on for exactly a mode's scope."""
    scope = scope_of(book.policy, mode.resources, mode.tiers)
    found = [
        row
        for row in book.rows("switch", {"ended_at_ms": None})
        if row["kind"] in ENFORCEMENT_KINDS
        and not over(row, now_ms)
        and book.scope_of(row) == scope
    ]
    if found and not replace and all(row["kind"] != mode.mode for row in found):
        view = switch_view(book, found[0], now_ms)
        raise Conflict(
            f"enforcement is {view.kind} for {whom(view)}",
            hint=f"add --replace to make it {mode.mode}",
        )
    return found


def _mode_end(book: Reading, mode: EnforcementLever, timing: Timing, now_ms: int) -> int | None:
    duration = timing.duration
    if duration is None and timing.until is None and not timing.no_expiry and mode.duration_ms:
        duration = timedelta(milliseconds=mode.duration_ms)
    return switch_end(
        book, now_ms, duration=duration, until=timing.until, no_expiry=timing.no_expiry
    )


def _check_alone(act: Act, preset: Preset) -> None:
    """Conflict where a drill of another preset has the same users and resources.

    A request is counted under one drill alone, so each would be told too little.
    """
    book = act.book
    scopes = [one.scope(book.policy) for one in preset.throttles]
    for row in book.rows("switch", {"drill": 1, "ended_at_ms": None}):
        if not over(row, act.now_ms) and any(book.scope_of(row).meets(own) for own in scopes):
            raise Conflict(
                f"a drill of preset {row['preset']!r} is on for some of the same, "
                f"{ending(act, row['ends_at_ms'])}",
                hint=f"to end it: quotactl preset off {row['preset']}",
            )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which preset a tier or resource is gone."""
    try:
        yield
    except NotFound as error:
        raise NotFound(
            f"preset {name!r} names what is not there: {error.message}", hint=error.hint
        ) from None


def _line(act: Act, switch: Row) -> str:
    view = changed(switch_view(act.book, switch, act.now_ms), drill=False)
    return f"{_what(switch)}: {describe(view)}, {ending(act, switch['ends_at_ms'])}"


def _what(switch: Row) -> str:
    if switch["drill"]:
        return f"drill {switch['id']}"
    return f"{'throttle' if switch['kind'] in THROTTLE_KINDS else 'enforcement'} {title(switch)}"
