"""What on-call pulls: throttles and presets as they are written, before they are in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quotactl.errors import InvalidInput
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class EnforcementLever:
    """An enforcement mode that a preset brings with it."""

    mode: Mode
    resources: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    duration_ms: int | None = None


@dataclass(frozen=True)
class Preset:
    """Several throttles and at most one enforcement mode, under one name."""

    throttles: tuple[Lever, ...]
    enforcement: EnforcementLever | None = None


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
        limit = _one_limit("cap" if total is None else "total", cap if total is None else total)
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
    return Preset(
        tuple(_read_lever(f"{where}.throttle", row) for row in rows),
        enforcement,
    )


def preset_table(preset: Preset) -> dict[str, Any]:
    """A preset as a policy file says it; reading it back gives the same preset."""
    table: dict[str, Any] = {}
    if preset.enforcement is not None:
        mode = preset.enforcement
        facts = {"mode": mode.mode, "resource": mode.resources, "tier": mode.tiers}
        table["enforcement"] = _plain(facts, mode.duration_ms)
    if preset.throttles:
        table["throttle"] = [_lever_table(one) for one in preset.throttles]
    return table


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
        if value not in (None, (), False)
    }


def _read_lever(where: str, row: Mapping[str, Any]) -> Lever:
    _known(row, _LEVER_KEYS, where)
    for key in ("deny", "freeze_grants", "include_protected"):
        if not isinstance(row.get(key, False), bool):
            raise InvalidInput(f"{where}.{key} is neither true nor false")
    for key in ("name", "cap", "total", "scale", "ramp", "every", "message", "for"):
        if not isinstance(row.get(key, ""), str):
            raise InvalidInput(f"{where}.{key} is not a text")
    try:
        return lever(
            deny=row.get("deny", False),
            cap=row.get("cap"),
            total=row.get("total"),
            scale=row.get("scale"),
            floor=row.get("floor"),
            resources=_names(row.get("resource", []), "resource"),
            tiers=_names(row.get("tier", []), "tier"),
            name=row.get("name"),
            ramp=row.get("ramp"),
            every=row.get("every"),
            freeze_grants=row.get("freeze_grants", False),
            include_protected=row.get("include_protected", False),
            message=row.get("message"),
            duration_ms=parse_duration(row["for"]) if "for" in row else None,
        )
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", hint=error.hint) from None


def _read_enforcement(where: str, found: Any) -> EnforcementLever:
    table = {"mode": found} if isinstance(found, str) else found
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where} is neither a mode nor a table", hint='such as "shadow"')
    _known(table, _ENFORCEMENT_KEYS, where)
    mode: Any = table.get("mode")
    if mode not in ("shadow", "off"):
        raise InvalidInput(f"{where} {shown(mode)} is not known", hint="shadow or off")
    duration = table.get("for")
    if not isinstance(duration, str | None):
        raise InvalidInput(f"{where}.for is not a text", hint="such as 2h")
    return EnforcementLever(
        mode,
        tuple(_names(table.get("resource", []), "resource")),
        tuple(_names(table.get("tier", []), "tier")),
        None if duration is None else parse_duration(duration),
    )


def _known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(
                f"{where}.{key} is not a key of a policy file",
                hint=f"known here: {', '.join(sorted(known))}",
            )


def _names(found: Any, what: str) -> list[str]:
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        raise InvalidInput(f"{what} is neither a name nor a list of names")
    return [check_name(name, what) for name in names]


def _one_limit(what: str, text: Any) -> Limit:
    limits = parse_limit(text)
    if len(limits) != 1 or limits[0].amount_max is None:
        raise InvalidInput(f"{what} {text!r} is not one ceiling", hint="such as 3/day")
    return limits[0]


def _whole(what: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidInput(f"{what} {value!r} is out of range", hint=f"0 to {most}")
    return value
