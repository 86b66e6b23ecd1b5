"""Policy files: written and read back, compared, refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.errors import InvalidInput
from quotactl.policy.levers import EnforcementLever, Lever, Preset, lever, preset_text
from quotactl.policy.model import AMOUNT_MAX, Limit
from quotactl.policy.plan import (
    Change,
    Plan,
    ResourcePlan,
    TierPlan,
    differences,
    quoted,
    read_plan,
    to_toml,
)
from quotactl.policy.window import DAY, MONTH, WEEK, period_of_length

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,8}", fullmatch=True)
# What a unit may be called: not blank, no control characters but newline and tab.
units = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n\t"\\'), max_size=8
).filter(str.strip)
periods = st.sampled_from((DAY, WEEK, MONTH)) | st.integers(1, 1439).map(period_of_length)
ceilings = st.builds(Limit, periods, st.integers(0, AMOUNT_MAX))
limits = st.dictionaries(
    periods,
    st.none() | st.integers(0, AMOUNT_MAX),
    min_size=1,
    max_size=3,
).map(lambda found: tuple(Limit(p, found[p]) for p in sorted(found, key=lambda p: p.length_min)))


messages = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n\t"\\'), max_size=8
).filter(str.strip)
durations = st.integers(1, 9 * 86_400).map(lambda seconds: seconds * 1000)
percentages = st.integers(0, 100)


@st.composite
def levers(draw: st.DrawFn, resources: list[str], tiers: list[str]) -> Lever:
    kind = draw(st.sampled_from(("deny", "cap", "total", "scale")))
    ramp = (
        None if kind == "deny" else draw(st.none() | st.lists(percentages, min_size=1, max_size=3))
    )
    every = None if ramp is None else draw(st.sampled_from(("30m", "90s", "1d2h")))
    one = lever(
        deny=kind == "deny",
        cap=str(draw(ceilings)) if kind == "cap" else None,
        total=str(draw(ceilings)) if kind == "total" else None,
        scale=draw(percentages) if kind == "scale" else None,
        floor=draw(st.none() | st.integers(0, AMOUNT_MAX)) if kind == "scale" else None,
        resources=draw(st.lists(st.sampled_from(resources), max_size=2)) if resources else [],
        tiers=draw(st.lists(st.sampled_from(tiers), max_size=2)) if tiers else [],
        name=draw(st.none() | names.filter(lambda name: not name.isdecimal())),
        ramp=ramp,
        every=every,
        freeze_grants=draw(st.booleans()),
        include_protected=draw(st.booleans()),
        message=draw(st.none() | messages),
    )
    # Not so short that the ramp's last step never comes.
    least_ms = one.ramp_ms - one.every_ms
    duration_ms = draw(st.none() | durations.map(lambda ms: ms + least_ms))
    return replace(one, duration_ms=duration_ms)


def place(one: Lever) -> tuple[object, ...]:
    period = None if one.limit is None else one.limit.period
    return one.kind, period, frozenset(one.resources), frozenset(one.tiers)


def presets(resources: list[str], tiers: list[str]) -> st.SearchStrategy[Preset]:
    def some(of: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
        if not of:
            return st.just(())
        return st.lists(st.sampled_from(of), max_size=2, unique=True).map(tuple)

    throttles = st.lists(
        levers(resources, tiers),
        max_size=2,
        unique_by=(place, lambda one: one.name or object()),
    ).map(tuple)
    modes = st.builds(
        EnforcementLever,
        st.sampled_from(("shadow", "off")),
        some(resources),
        some(tiers),
        st.none() | durations,
    )
    built = st.builds(Preset, throttles, st.none() | modes)
    return built.filter(lambda preset: preset != Preset(()))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    capacity = st.none() | ceilings
    resource = st.builds(ResourcePlan, st.none() | units, capacity)
    resources = draw(st.dictionaries(names, resource, max_size=3))
    of_tier = (
        st.dictionaries(st.sampled_from(sorted(resources)), limits) if resources else st.just({})
    )
    tiers = draw(st.dictionaries(names, st.builds(TierPlan, st.booleans(), of_tier), max_size=3))
    default = draw(st.sampled_from(sorted(tiers))) if tiers else None
    zone = draw(st.none() | st.sampled_from(("UTC", "Europe/Rome")))
    named = st.dictionaries(names, presets(sorted(resources), sorted(tiers)), max_size=2)
    return Plan(zone, default, resources, tiers, draw(named))


@given(plans())
def test_a_plan_comes_back_from_its_file(plan: Plan) -> None:
    assert read_plan(tomllib.loads(to_toml(plan))) == plan


@given(plans())
def test_a_plan_does_not_differ_from_itself(plan: Plan) -> None:
    assert differences(plan, plan) == ()


@given(plans(), plans())
def test_what_is_added_one_way_is_removed_the_other(one: Plan, other: Plan) -> None:
    there = {c.what: c for c in differences(one, other)}
    back = {c.what: c for c in differences(other, one)}
    optional = {"zone", "default_tier"}  # a file that leaves them out changes nothing
    assert there.keys() - optional == back.keys() - optional
    opposite = {"add": "remove", "remove": "add", "set": "set"}
    for what in there.keys() - optional:
        change, reverse = there[what], back[what]
        assert (change.before, change.after) == (reverse.after, reverse.before)
        assert reverse.change == opposite[change.change]


@given(presets(["image", "video"], ["free", "plus"]), presets(["image", "video"], ["free", "plus"]))
def test_presets_read_differently_where_they_differ(one: Preset, other: Preset) -> None:
    assert (preset_text(one) == preset_text(other)) is (one == other)


MELT = Preset(
    (lever(cap="3/day", tiers=["free"], resources=["image"], duration_ms=7_200_000),),
    EnforcementLever("shadow"),
)
PRESENT = Plan(
    "Europe/Rome",
    "free",
    {"image": ResourcePlan("image", Limit(DAY, 40_000)), "video": ResourcePlan(None)},
    {
        "free": TierPlan(False, {"image": (Limit(DAY, 3),)}),
        "pro": TierPlan(True, {"image": (Limit(DAY, None),)}),
    },
    {"melt": MELT, "stop": Preset((lever(deny=True),))},
)


def test_the_differences_of_a_file() -> None:
    wanted = Plan(
        None,
        "plus",
        {"image": ResourcePlan("picture", Limit(DAY, 50_000))},
        {
            "free": TierPlan(True, {"image": (Limit(period_of_length(1), 5), Limit(DAY, 3))}),
            "plus": TierPlan(False, {"image": (Limit(DAY, 50),)}),
        },
        {"melt": Preset(MELT.throttles), "slow": Preset((lever(scale=50, name="half"),))},
    )
    assert differences(PRESENT, wanted) == (
        Change("set", "default_tier", "free", "plus"),
        Change("set", "resource.image", "image", "picture"),
        Change("set", "resource.image.capacity", "40000/day", "50000/day"),
        Change("remove", "resource.video", "", None),
        Change("set", "tier.free", "not protected", "protected"),
        Change("set", "tier.free.limits.image", "3/day", "3/day,5/minute"),
        Change("remove", "tier.pro", "protected", None),
        Change("remove", "tier.pro.limits.image", "unlimited", None),
        Change("add", "tier.plus", None, "not protected"),
        Change("add", "tier.plus.limits.image", None, "50/day"),
        Change(
            "set",
            "preset.melt",
            "cap 3/day for tier free, image, for 2h; enforcement shadow for all tiers, "
            "all resources",
            "cap 3/day for tier free, image, for 2h",
        ),
        Change("remove", "preset.stop", "deny for all tiers, all resources", None),
        Change("add", "preset.slow", None, "scale 50% for all tiers, all resources, named half"),
    )


def test_a_capacity_comes_and_goes_with_its_resource() -> None:
    without = Plan("UTC", None, {}, {})
    with_it = Plan("UTC", None, {"image": ResourcePlan(None, Limit(DAY, 2_000_000))}, {})
    assert differences(without, with_it) == (
        Change("add", "resource.image", None, ""),
        Change("add", "resource.image.capacity", None, "2000000/day"),
    )
    assert [c.change for c in differences(with_it, without)] == ["remove", "remove"]


def test_a_file_that_says_40k_is_as_one_that_says_40000() -> None:
    text = "[resource.image]\ncapacity = '{0}/hour'\n[[preset.p.throttle]]\ncap = '{0}/day'"
    one, other = (read_plan(tomllib.loads(text.format(number))) for number in ("40k", "40000"))
    assert one == other


def test_what_is_written_is_what_a_person_would_write() -> None:
    assert to_toml(
        Plan(None, None, {"image": PRESENT.resources["image"]}, {}, PRESENT.presets)
    ) == (
        '[resource.image]\nunit = "image"\ncapacity = "40000/day"\n'
        '\n[preset.melt]\nenforcement = "shadow"\n'
        '[[preset.melt.throttle]]\nresource = ["image"]\ntier = ["free"]\ncap = "3/day"\n'
        'for = "2h"\n'
        "\n[preset.stop]\n[[preset.stop.throttle]]\ndeny = true\n"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("zone = 3", "zone"),
        ("colour = 'red'", "colour"),
        ("default_tier = 'free'", "default_tier"),
        ("[tier.free]", "default_tier"),
        ("resource = 3", "resource"),
        ("[resource]\nimage = 3", "resource.image"),
        ("[resource.image]\ncolour = 1", "resource.image.colour"),
        ("[resource.image]\nunit = 1", "resource.image.unit"),
        ("[resource.image]\ncapacity = 3", "resource.image.capacity"),
        ("[resource.image]\ncapacity = '3'", "resource.image.capacity"),
        ("[resource.image]\ncapacity = '3/day,1/hour'", "resource.image.capacity"),
        ("[resource.image]\ncapacity = 'unlimited'", "resource.image.capacity"),
        ("[resource.'a b']", "no name"),
        ("default_tier = 'a b'\n[tier.'a b']", "tier 'a b' is no name"),
        ("default_tier = 'a'\n[tier.a]\nprotected = 1", "tier.a.protected"),
        ("default_tier = 'a'\n[tier.a]\nlimits = 1", "tier.a.limits"),
        ("default_tier = 'a'\n[tier.a.limits]\nimage = '3/day'", "tier.a.limits.image"),
        ("default_tier = 'a'\n[resource.i]\n[tier.a.limits]\ni = 3", "tier.a.limits.i"),
        ("default_tier = 'a'\n[resource.i]\n[tier.a.limits]\ni = '3'", "tier.a.limits.i"),
        ("preset = 3", "preset"),
        ("[preset]\nmelt = 3", "preset.melt"),
        ("[preset.melt]", "preset.melt does nothing"),
        ("[[preset.p.throttle]]\ncap = '3/day'\nresource = 'image'", "preset.p names the resource"),
        ("[[preset.p.throttle]]\ncap = '3/day'\ntier = ['free']", "preset.p names the tier free"),
        ("[preset.p]\nenforcement = {mode = 'off', tier = 'free'}", "preset.p names the tier free"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_the_key(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_plan(tomllib.loads(text))
    assert why in refused.value.message


def test_a_key_at_the_top_of_the_file_is_named_as_it_is() -> None:
    with pytest.raises(InvalidInput, match=r"^colour is not a key of a policy file"):
        read_plan({"colour": "red"})


@pytest.mark.parametrize("value", ["['free']", "{a = 1}"])
def test_a_default_tier_that_is_no_text_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput):
        read_plan(tomllib.loads(f"default_tier = {value}\n[tier.free]"))


@pytest.mark.parametrize(
    ("name", "key"),
    [("free", "free"), ("a_b-9", "a_b-9"), ("a.b", '"a.b"'), ("é", '"é"'), ("_", '"_"')],
)
def test_a_name_is_bare_where_it_can_be(name: str, key: str) -> None:
    assert quoted(name) == key
    assert tomllib.loads(f"{key} = 1") == {name: 1}
