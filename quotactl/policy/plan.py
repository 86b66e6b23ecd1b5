"""Policy files: what one says, how it is written, and how two policies differ.

A policy file is complete: what it leaves out is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quotactl.errors import InvalidInput
from quotactl.frozen import frozen
from quotactl.policy.levers import Preset, one_limit, preset_table, preset_text, read_preset
from quotactl.policy.model import Limit, Policy
from quotactl.policy.notation import check_name, check_unit, limit_text, parse_limit, shown


@frozen
class ResourcePlan:
    """A resource in a policy file; `capacity` is the most that all users may have of it."""

    unit: str | None = None
    capacity: Limit | None = None


@frozen
class TierPlan:
    """A tier in a policy file; `limits` by resource name."""

    protected: bool
    limits: Mapping[str, tuple[Limit, ...]]


@frozen
class Plan:
    """What a policy file says; `zone` and `default_tier` None leave the ledger's."""

    zone: str | None
    default_tier: str | None
    resources: Mapping[str, ResourcePlan]
    tiers: Mapping[str, TierPlan]
    presets: Mapping[str, Preset]


@frozen
class Change:
    """One difference: `change` is add, set or remove; `what` is the key in the file."""

    change: str
    what: str
    before: str | None
    after: str | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "what": self.what,
            "before": self.before,
            "after": self.after,
        }


def plan_of(policy: Policy, presets: Mapping[str, Preset]) -> Plan:
    """A policy in force, and the presets beside it, as a file would say it."""
    default = policy.default_tier
    return Plan(
        zone=policy.zone,
        default_tier=None if default is None else default.name,
        resources={r.name: ResourcePlan(r.unit, r.capacity) for r in policy.resources.values()},
        tiers={
            tier.name: TierPlan(
                tier.protected,
                {
                    policy.resources[resource_id].name: limits
                    for resource_id, limits in tier.limits.items()
                    if resource_id in policy.resources
                },
            )
            for tier in policy.tiers.values()
        },
        presets=presets,
    )


def read_plan(document: Mapping[str, Any]) -> Plan:
    """A policy file's content, checked; InvalidInput names the key that is wrong."""
    _known(document, {"zone", "default_tier", "resource", "tier", "preset"}, "")
    zone = document.get("zone")
    if zone is not None and not isinstance(zone, str):
        raise InvalidInput(f"zone {shown(zone)} is not a name")
    resources: dict[str, ResourcePlan] = {}
    for name, table in _tables(document, "resource", ""):
        check_name(name, "resource")
        resources[name] = _read_resource(name, table)
    tiers: dict[str, TierPlan] = {}
    for name, table in _tables(document, "tier", ""):
        check_name(name, "tier")
        tiers[name] = _read_tier(name, table, resources)
    default_tier = document.get("default_tier")
    if default_tier is not None and not isinstance(default_tier, str):
        raise InvalidInput(f"default_tier {shown(default_tier)} is not a name")
    if default_tier is not None and default_tier not in tiers:
        raise InvalidInput(f"default_tier {shown(default_tier)} is not a tier of this file")
    if tiers and default_tier is None:
        raise InvalidInput("default_tier is missing", hint="name the tier of unknown users")
    presets: dict[str, Preset] = {}
    for name, table in _tables(document, "preset", ""):
        presets[name] = read_preset(name, table)
        _check_named(name, "resource", presets[name].resources, resources)
        _check_named(name, "tier", presets[name].tiers, tiers)
    return Plan(zone, default_tier, resources, tiers, presets)


def differences(present: Plan, wanted: Plan) -> tuple[Change, ...]:
    """What would have to change, in the order of the file."""
    changes: list[Change] = []

    def compare(what: str, before: str | None, after: str | None) -> None:
        if before == after:
            return
        change = "add" if before is None else "remove" if after is None else "set"
        changes.append(Change(change, what, before, after))

    if wanted.zone is not None:
        compare("zone", present.zone, wanted.zone)
    if wanted.default_tier is not None:
        compare("default_tier", present.default_tier, wanted.default_tier)
    for name in _both(present.resources, wanted.resources):
        key = f"resource.{quoted(name)}"
        was, now = present.resources.get(name), wanted.resources.get(name)
        compare(
            key, None if was is None else was.unit or "", None if now is None else now.unit or ""
        )
        compare(f"{key}.capacity", _capacity_text(was), _capacity_text(now))
    for name in _both(present.tiers, wanted.tiers):
        key = f"tier.{quoted(name)}"
        old, new = present.tiers.get(name), wanted.tiers.get(name)
        compare(key, _shape(old), _shape(new))
        old_limits = {} if old is None else old.limits
        new_limits = {} if new is None else new.limits
        for resource in _both(old_limits, new_limits):
            compare(
                f"{key}.limits.{quoted(resource)}",
                limit_text(old_limits[resource]) if resource in old_limits else None,
                limit_text(new_limits[resource]) if resource in new_limits else None,
            )
    for name in _both(present.presets, wanted.presets):
        compare(
            f"preset.{quoted(name)}",
            preset_text(present.presets[name]) if name in present.presets else None,
            preset_text(wanted.presets[name]) if name in wanted.presets else None,
        )
    return tuple(changes)


def to_toml(plan: Plan) -> str:
    """A plan as a policy file; reading it back gives the same plan."""
    lines = []
    if plan.zone is not None:
        lines.append(f"zone = {_string(plan.zone)}")
    if plan.default_tier is not None:
        lines.append(f"default_tier = {_string(plan.default_tier)}")
    for name, resource in plan.resources.items():
        lines += ["", f"[resource.{quoted(name)}]"]
        if resource.unit is not None:
            lines.append(f"unit = {_string(resource.unit)}")
        if resource.capacity is not None:
            lines.append(f"capacity = {_string(str(resource.capacity))}")
    for name, tier in plan.tiers.items():
        lines += ["", f"[tier.{quoted(name)}]"]
        if tier.protected:
            lines.append("protected = true")
        if tier.limits:
            lines.append(f"[tier.{quoted(name)}.limits]")
            lines += [
                f"{quoted(listed)} = {_string(limit_text(limits))}"
                for listed, limits in tier.limits.items()
            ]
    for name, preset in plan.presets.items():
        lines += _preset_lines(f"preset.{quoted(name)}", preset)
    return "\n".join(lines).lstrip("\n") + "\n"


def quoted(name: str) -> str:
    """A name as a TOML key: bare where it can be."""
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _string(name)


def _read_resource(name: str, table: Mapping[str, Any]) -> ResourcePlan:
    key = f"resource.{name}"
    _known(table, {"unit", "capacity"}, f"{key}.")
    unit, text = table.get("unit"), table.get("capacity")
    if unit is not None:
        check_unit(unit, f"{key}.unit")
    if text is None:
        return ResourcePlan(unit)
    if not isinstance(text, str):
        raise InvalidInput(f"{key}.capacity is not a text", hint='write it as "2M/day"')
    try:
        return ResourcePlan(unit, one_limit("capacity", text))
    except InvalidInput as error:
        raise InvalidInput(f"{key}.capacity: {error.message}", hint=error.hint) from None


def _check_named(name: str, what: str, named: tuple[str, ...], there: Mapping[str, object]) -> None:
    for one in named:
        if one not in there:
            raise InvalidInput(
                f"preset.{name} names the {what} {one}, which is not in this file",
                hint=f"add [{what}.{quoted(one)}]",
            )


def _read_tier(
    name: str, table: Mapping[str, Any], resources: Mapping[str, ResourcePlan]
) -> TierPlan:
    key = f"tier.{name}"
    _known(table, {"protected", "limits"}, f"{key}.")
    protected = table.get("protected", False)
    if not isinstance(protected, bool):
        raise InvalidInput(f"{key}.protected is neither true nor false")
    limits = table.get("limits", {})
    if not isinstance(limits, Mapping):
        raise InvalidInput(f"{key}.limits is not a table")
    found = {}
    for resource, text in limits.items():
        if resource not in resources:
            raise InvalidInput(
                f"{key}.limits.{resource} names no resource of this file",
                hint=f"add [resource.{quoted(resource)}]",
            )
        if not isinstance(text, str):
            raise InvalidInput(f"{key}.limits.{resource} is not a text", hint='write it as "3/day"')
        try:
            found[resource] = parse_limit(text)
        except InvalidInput as error:
            raise InvalidInput(
                f"{key}.limits.{resource}: {error.message}", hint=error.hint
            ) from None
    return TierPlan(protected, found)


def _known(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(
                f"{where}{key} is not a key of a policy file",
                hint=f"known here: {', '.join(sorted(known))}",
            )


def _tables(
    document: Mapping[str, Any], key: str, where: str
) -> list[tuple[str, Mapping[str, Any]]]:
    tables = document.get(key, {})
    if not isinstance(tables, Mapping):
        raise InvalidInput(f"{where}{key} is not a table", hint=f"write [{key}.NAME]")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise InvalidInput(
                f"{where}{key}.{name} is not a table", hint=f"write [{key}.{quoted(name)}]"
            )
    return list(tables.items())


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*one, *other]))


def _capacity_text(resource: ResourcePlan | None) -> str | None:
    return None if resource is None or resource.capacity is None else str(resource.capacity)


def _preset_lines(key: str, preset: Preset) -> list[str]:
    table = preset_table(preset)
    lines = ["", f"[{key}]"]
    if "enforcement" in table:
        lines.append(f"enforcement = {_value(table['enforcement'])}")
    for row in table.get("throttle", []):
        lines.append(f"[[{key}.throttle]]")
        lines += [f"{field} = {_value(value)}" for field, value in row.items()]
    return lines


def _value(value: Any) -> str:
    """A value of a preset's table in TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _string(value)


def _shape(tier: TierPlan | None) -> str | None:
    if tier is None:
        return None
    return "protected" if tier.protected else "not protected"


def _string(text: str) -> str:
    escaped = "".join(
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text
    )
    return f'"{escaped}"'
