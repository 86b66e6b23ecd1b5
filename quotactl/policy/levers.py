"""What on-call pulls: throttles and presets as they are written, before they are in force."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quotactl.errors import InvalidInput
from quotactl.frozen import frozen
from quotactl.policy.model import AMOUNT_MAX, Limit, Mode, Policy, Scope, Step, Throttle
from quotactl.policy.notation import (
    check_name,
    check_text,
    duration_text,
    parse_duration,
    parse_limit,
    parse_number,
    parse_percent,
    shown,
)

DEFAULT_EVERY = "30m"
STEPS_MAX = 100
MESSAGE_LENGTH_MAX = 500


@frozen
class Lever:
    """One throttle as it was asked for, checked, with names and no times.

    `limit` is that of a cap or total; `ramp` are percentages, each for `every_ms`.
    """

    kind: str
    limit: Limit | None = None
    percent: int | None = None
    floor: int | None = None
    resources: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    name: str | None = None
    freeze_grants: bool = False
    include_protected: bool = False
    ramp: tuple[int, ...] = ()
    every_ms: int = 0
    message: str | None = None
    # For a preset: how long it stays on, unless told otherwise.
    duration_ms: int | None = None

    @property
    def ramp_ms(self) -> int:
        """How long all steps of the ramp take, the last one too."""
        return len(self.ramp) * self.every_ms

    def steps(self, starts_at_ms: int) -> tuple[Step, ...]:
        """The ramp's steps for a start."""
        return tuple(
            Step(starts_at_ms + number * self.every_ms, percent, lifting=False)
            for number, percent in enumerate(self.ramp)
        )

    def scope(self, policy: Policy) -> Scope:
        """Names as ids; NotFound for one that is unknown."""
        return scope_of(policy, self.resources, self.tiers)

    def throttle(self, policy: Policy, starts_at_ms: int, ends_at_ms: int | None) -> Throttle:
        """The throttle it would be, under the id 0."""
        return Throttle(
            id=0,
            name=self.name,
            kind=self.kind,  # type: ignore[arg-type]
            scope=self.scope(policy),
            amount_max=None if self.limit is None else self.limit.amount_max,
            period=None if self.limit is None else self.limit.period,
            percent=self.percent,
            floor=self.floor,
            freeze_grants=self.freeze_grants,
            include_protected=self.include_protected,
            starts_at_ms=starts_at_ms,
            ends_at_ms=ends_at_ms,
            steps=self.steps(starts_at_ms),
            message=self.message,
        )


@frozen
class EnforcementLever:
    """An enforcement mode that a preset brings with it."""

    mode: Mode
    resources: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    duration_ms: int | None = None


@frozen
class Preset:
    """Several throttles and at most one enforcement mode, under one name."""

    throttles: tuple[Lever, ...]
    enforcement: EnforcementLever | None = None

    @property
    def resources(self) -> tuple[str, ...]:
        """Every resource that it names."""
        return tuple(dict.fromkeys(name for one in self._levers for name in one.resources))

    @property
    def tiers(self) -> tuple[str, ...]:
        """Every tier that it names."""
        return tuple(dict.fromkeys(name for one in self._levers for name in one.tiers))

    @property
    def _levers(self) -> tuple[Lever | EnforcementLever, ...]:
        return (*self.throttles, *(() if self.enforcement is None else (self.enforcement,)))


def lever(
    *,
    deny: bool = False,
    cap: str | None = None,
    total: str | None = None,
    scale: int | str | None = None,
    floor: int | str | None = None,
    resources: Sequence[str] = (),
    tiers: Sequence[str] = (),
    name: str | None = None,
    ramp: str | Sequence[int] | None = None,
    every: str | None = None,
    freeze_grants: bool = False,
    include_protected: bool = False,
    message: str | None = None,
    duration_ms: int | None = None,
) -> Lever:
    """Check what was asked for; InvalidInput says what is wrong with it.

    One of `deny`, `cap` (`3/day`), `total` (`40k/hour`) and `scale` (percent). A ramp
    alone is a scale: its percentages are of the limits. With a cap or total they are of
    its number.
    """
    if isinstance(resources, str) or isinstance(tiers, str):
        raise InvalidInput("resources and tiers are lists of names")
    parts, every_ms = parse_ramp(ramp, every)
    given = [deny, cap is not None, total is not None, scale is not None]
    if given.count(True) == 0 and parts:
        scale = 100
    elif given.count(True) != 1:
        raise InvalidInput(
            "a throttle is one of deny, cap, total and scale", hint="such as --cap 3/day"
        )
    if deny and parts:
        raise InvalidInput("nothing can't come in parts", hint="a ramp goes with a cap or scale")
    if floor is not None and scale is None:
        raise InvalidInput("a floor goes with a scale alone")
    if name is not None:
        check_name(name, "throttle")
        if name.isdecimal():
            raise InvalidInput(f"throttle {name!r} would be taken for an id")
    if message is not None:
        check_text(message, "message", length_max=MESSAGE_LENGTH_MAX)
    limit = percent = None
    if cap is not None or total is not None:
        limit = one_limit("cap" if total is None else "total", cap if total is None else total)
    elif scale is not None:
        percent = parse_percent(scale) if isinstance(scale, str) else _whole("scale", scale, 100)
    if floor is not None:
        floor = parse_number(floor, "floor") if isinstance(floor, str) else floor
        floor = _whole("floor", floor, AMOUNT_MAX)
    kind = "deny" if deny else "cap" if cap else "total" if total else "scale"
    return Lever(
        kind=kind,
        limit=limit,
        percent=percent,
        floor=floor,
        resources=tuple(dict.fromkeys(resources)),
        tiers=tuple(dict.fromkeys(tiers)),
        name=name,
        freeze_grants=freeze_grants or deny,
        include_protected=include_protected,
        ramp=parts,
        every_ms=every_ms,
        message=message,
        duration_ms=duration_ms,
    )


def parse_ramp(ramp: str | Sequence[int] | None, every: str | None) -> tuple[tuple[int, ...], int]:
    """`10%,25%,100%` with `30m` as the percentages and how long each step lasts in ms."""
    if ramp is None:
        if every is not None:
            raise InvalidInput("how long a step lasts goes with a ramp", hint="--ramp 10%,50%,100%")
        return (), 0
    if isinstance(ramp, str):
        parts = tuple(parse_percent(part.strip()) for part in ramp.split(","))
    else:
        parts = tuple(_whole("step", part, 100) for part in ramp)
    if not parts:
        raise InvalidInput("the ramp has no step", hint="such as 10%,25%,50%,100%")
    if len(parts) > STEPS_MAX:
        raise InvalidInput(f"the ramp has {len(parts)} steps", hint=f"at most {STEPS_MAX}")
    return parts, parse_duration(every or DEFAULT_EVERY)


def scope_of(policy: Policy, resources: Sequence[str], tiers: Sequence[str]) -> Scope:
    """Names as ids, none as all; NotFound for one that is unknown."""
    return Scope(
        frozenset(policy.resource_named(check_name(name, "resource")).id for name in resources)
        if resources
        else None,
        frozenset(policy.tier_named(check_name(name, "tier")).id for name in tiers)
        if tiers
        else None,
    )


# ---- in words


def lever_text(one: Lever) -> str:
    """What a throttle does: `cap 3/day for tier free, image`."""
    what = one.kind
    if one.limit is not None:
        what += f" {one.limit}"
    elif one.percent is not None:
        what += f" {one.percent}%"
    if one.floor is not None:
        what += f" but at least {one.floor}"
    extras = []
    if one.ramp:
        steps = ", ".join(f"{part}%" for part in one.ramp)
        extras.append(f"in steps {steps}, {duration_text(one.every_ms)} each")
    if one.freeze_grants and one.kind != "deny":
        extras.append("grants frozen")
    if one.include_protected:
        extras.append("protected ones too")
    extra = f" ({'; '.join(extras)})" if extras else ""
    return f"{what} for {_whom(one)}{extra}"


def mode_text(mode: EnforcementLever) -> str:
    """What an enforcement mode does: `enforcement shadow for tier free, all resources`."""
    return f"enforcement {mode.mode} for {_whom(mode)}"


def preset_text(preset: Preset) -> str:
    """A preset in one line, whole: two that differ read differently."""
    parts = []
    for one in preset.throttles:
        text = lever_text(one)
        if one.duration_ms is not None:
            text += f", for {duration_text(one.duration_ms)}"
        if one.name is not None:
            text += f", named {one.name}"
        if one.message is not None:
            text += f", saying {json.dumps(one.message, ensure_ascii=False)}"
        parts.append(text)
    if preset.enforcement is not None:
        text = mode_text(preset.enforcement)
        if preset.enforcement.duration_ms is not None:
            text += f", for {duration_text(preset.enforcement.duration_ms)}"
        parts.append(text)
    return "; ".join(parts)


def _whom(one: Lever | EnforcementLever) -> str:
    # No comma between names: where the tiers end and the resources begin must be seen.
    tiers = f"tier {' and '.join(one.tiers)}" if one.tiers else "all tiers"
    resources = " and ".join(one.resources) if one.resources else "all resources"
    return f"{tiers}, {resources}"


# ---- in a policy file

_LEVER_KEYS = (
    "name", "resource", "tier", "deny", "cap", "total", "scale", "floor", "for",
    "ramp", "every", "freeze_grants", "include_protected", "message",
)  # fmt: skip
_ENFORCEMENT_KEYS = ("mode", "resource", "tier", "for")


def read_preset(name: str, table: Mapping[str, Any]) -> Preset:
    """`[preset.NAME]` of a policy file; InvalidInput names the key that is wrong."""
    check_name(name, "preset")
    where = f"preset.{name}"
    _known(table, ("throttle", "enforcement"), where)
    rows = table.get("throttle", [])
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InvalidInput(f"{where}.throttle is no list of tables", hint=f"[[{where}.throttle]]")
    enforcement = None
    if "enforcement" in table:
        enforcement = _read_enforcement(f"{where}.enforcement", table["enforcement"])
    if not rows and enforcement is None:
        raise InvalidInput(f"{where} does nothing", hint=f"[[{where}.throttle]]")
    throttles: list[Lever] = []
    for number, row in enumerate(rows, start=1):
        try:
            one = _read_lever(f"{where}.throttle", row)
            _check_apart(f"{where}.throttle", one, throttles)
        except InvalidInput as error:
            if len(rows) == 1:
                raise
            which = f"{error.message} (throttle {number} of {len(rows)})"
            raise InvalidInput(which, hint=error.hint) from None
        throttles.append(one)
    return Preset(tuple(throttles), enforcement)


def preset_table(preset: Preset) -> dict[str, Any]:
    """A preset as a policy file says it; reading it back gives the same preset."""
    table: dict[str, Any] = {}
    if preset.enforcement is not None:
        mode = preset.enforcement
        facts = {"mode": mode.mode, "resource": mode.resources, "tier": mode.tiers}
        plain = _plain(facts, mode.duration_ms)
        table["enforcement"] = mode.mode if plain == {"mode": mode.mode} else plain
    if preset.throttles:
        table["throttle"] = [_lever_table(one) for one in preset.throttles]
    return table


def _check_apart(where: str, one: Lever, others: Sequence[Lever]) -> None:
    """Refuse two throttles of a preset that would be in each other's way."""
    for other in others:
        if one.name is not None and one.name == other.name:
            raise InvalidInput(f"{where}.name {one.name!r} is taken by another of this preset")
        if _place(one) == _place(other):
            raise InvalidInput(
                f"{where} is for the same as another of this preset: "
                f"{lever_text(one)}, and {lever_text(other)}",
                hint="one for the same tiers, resources, kind and period",
            )


def _place(one: Lever) -> tuple[object, ...]:
    """What only one throttle at a time can have: its targets, kind and period."""
    period = None if one.limit is None else one.limit.period
    return one.kind, period, frozenset(one.resources), frozenset(one.tiers)


def _lever_table(one: Lever) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": one.name, "resource": one.resources, "tier": one.tiers}
    if one.kind == "deny":
        facts["deny"] = True
    elif one.kind == "scale":
        facts |= {"scale": f"{one.percent}%", "floor": one.floor}
    else:
        facts[one.kind] = str(one.limit)
    if one.ramp:
        facts["ramp"] = ",".join(f"{part}%" for part in one.ramp)
        facts["every"] = duration_text(one.every_ms)
    facts["freeze_grants"] = one.freeze_grants and one.kind != "deny"
    facts["include_protected"] = one.include_protected
    facts["message"] = one.message
    return _plain(facts, one.duration_ms)


def _plain(facts: dict[str, Any], duration_ms: int | None) -> dict[str, Any]:
    if duration_ms is not None:
        facts["for"] = duration_text(duration_ms)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in facts.items()
        # Not `in (None, (), False)`: a floor of 0 equals False.
        if value is not None and value is not False and value != ()
    }


def _read_lever(where: str, row: Mapping[str, Any]) -> Lever:
    _known(row, _LEVER_KEYS, where)
    for key in ("deny", "freeze_grants", "include_protected"):
        if not isinstance(row.get(key, False), bool):
            raise InvalidInput(f"{where}.{key} is neither true nor false")
    for key in ("name", "cap", "total", "scale", "ramp", "every", "message"):
        if not isinstance(row.get(key, ""), str):
            raise InvalidInput(f"{where}.{key} is not a text")
    if not isinstance(row.get("floor", ""), int | str):
        raise InvalidInput(f"{where}.floor is neither a number nor a text", hint="such as 1 or 40k")
    duration_ms = _read_duration(f"{where}.for", row)
    try:
        one = lever(
            deny=row.get("deny", False),
            cap=row.get("cap"),
            total=row.get("total"),
            scale=row.get("scale"),
            floor=row.get("floor"),
            resources=_names(row, "resource"),
            tiers=_names(row, "tier"),
            name=row.get("name"),
            ramp=row.get("ramp"),
            every=row.get("every"),
            freeze_grants=row.get("freeze_grants", False),
            include_protected=row.get("include_protected", False),
            message=row.get("message"),
            duration_ms=duration_ms,
        )
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", hint=error.hint) from None
    if one.ramp and duration_ms is not None and duration_ms <= one.ramp_ms - one.every_ms:
        raise InvalidInput(
            f"{where}.for {duration_text(duration_ms)} ends before the ramp's last step",
            hint=f"the ramp takes {duration_text(one.ramp_ms)}",
        )
    return one


def _read_enforcement(where: str, found: Any) -> EnforcementLever:
    table = {"mode": found} if isinstance(found, str) else found
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where} is neither a mode nor a table", hint='such as "shadow"')
    _known(table, _ENFORCEMENT_KEYS, where)
    mode: Any = table.get("mode")
    if mode is None:
        raise InvalidInput(f"{where}.mode is missing", hint="shadow or off")
    if mode not in ("shadow", "off"):
        raise InvalidInput(f"{where} {shown(mode)} is not known", hint="shadow or off")
    duration_ms = _read_duration(f"{where}.for", table)
    try:
        resources, tiers = _names(table, "resource"), _names(table, "tier")
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", hint=error.hint) from None
    return EnforcementLever(mode, resources, tiers, duration_ms)


def _read_duration(where: str, table: Mapping[str, Any]) -> int | None:
    if "for" not in table:
        return None
    if not isinstance(table["for"], str):
        raise InvalidInput(f"{where} is not a text", hint="such as 2h")
    try:
        return parse_duration(table["for"])
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", hint=error.hint) from None


def _known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(
                f"{where}.{key} is not a key of a policy file",
                hint=f"known here: {', '.join(sorted(known))}",
            )


def _names(table: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """One name or several; none at all where the key is left out."""
    if what not in table:
        return ()
    found = table[what]
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        raise InvalidInput(f"{what} is neither a name nor a list of names")
    if not names:
        # Who writes an empty list hardly means everybody.
        raise InvalidInput(f"{what} names none", hint=f"leave {what} out for all of them")
    return tuple(dict.fromkeys(check_name(name, what) for name in names))


def one_limit(what: str, text: Any) -> Limit:
    """A text as the one ceiling that it is: `3/day`, not several and not `unlimited`."""
    limits = parse_limit(text)
    if len(limits) != 1 or limits[0].amount_max is None:
        raise InvalidInput(f"{what} {text!r} is not one ceiling", hint="such as 3/day")
    return limits[0]


def _whole(what: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidInput(f"{what} {value!r} is out of range", hint=f"0 to {most}")
    return value
