"""Policy files: written and read back, compared, refused."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.errors import InvalidInput
from quotactl.policy.model import AMOUNT_MAX, Limit
from quotactl.policy.plan import Change, Plan, TierPlan, differences, read_plan, to_toml
from quotactl.policy.window import DAY, MONTH, WEEK, period_of_length

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,8}", fullmatch=True)
# What a unit may be called: not blank, no control characters but newline and tab.
units = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n\t"\\'), max_size=8
).filter(str.strip)
limits = st.dictionaries(
    st.sampled_from((DAY, WEEK, MONTH)) | st.integers(1, 1439).map(period_of_length),
    st.none() | st.integers(0, AMOUNT_MAX),
    min_size=1,
    max_size=3,
).map(lambda found: tuple(Limit(p, found[p]) for p in sorted(found, key=lambda p: p.length_min)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    resources = draw(st.dictionaries(names, st.none() | units, max_size=3))
    of_tier = (
        st.dictionaries(st.sampled_from(sorted(resources)), limits) if resources else st.just({})
    )
    tiers = draw(st.dictionaries(names, st.builds(TierPlan, st.booleans(), of_tier), max_size=3))
    default = draw(st.sampled_from(sorted(tiers))) if tiers else None
    zone = draw(st.none() | st.sampled_from(("UTC", "Europe/Rome")))
    return Plan(zone, default, resources, tiers)


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


PRESENT = Plan(
    "Europe/Rome",
    "free",
    {"image": "image", "video": None},
    {
        "free": TierPlan(False, {"image": (Limit(DAY, 3),)}),
        "pro": TierPlan(True, {"image": (Limit(DAY, None),)}),
    },
)


def test_the_differences_of_a_file() -> None:
    wanted = Plan(
        None,
        "plus",
        {"image": "picture"},
        {
            "free": TierPlan(True, {"image": (Limit(period_of_length(1), 5), Limit(DAY, 3))}),
            "plus": TierPlan(False, {"image": (Limit(DAY, 50),)}),
        },
    )
    assert differences(PRESENT, wanted) == (
        Change("set", "default_tier", "free", "plus"),
        Change("set", "resource.image", "image", "picture"),
        Change("remove", "resource.video", "", None),
        Change("set", "tier.free", "not protected", "protected"),
        Change("set", "tier.free.limits.image", "3/day", "3/day,5/minute"),
        Change("remove", "tier.pro", "protected", None),
        Change("remove", "tier.pro.limits.image", "unlimited", None),
        Change("add", "tier.plus", None, "not protected"),
        Change("add", "tier.plus.limits.image", None, "50/day"),
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
        ("[resource.'a b']", "no name"),
        ("default_tier = 'a'\n[tier.a]\nprotected = 1", "tier.a.protected"),
        ("default_tier = 'a'\n[tier.a]\nlimits = 1", "tier.a.limits"),
        ("default_tier = 'a'\n[tier.a.limits]\nimage = '3/day'", "tier.a.limits.image"),
        ("default_tier = 'a'\n[resource.i]\n[tier.a.limits]\ni = 3", "tier.a.limits.i"),
        ("default_tier = 'a'\n[resource.i]\n[tier.a.limits]\ni = '3'", "tier.a.limits.i"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_the_key(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_plan(tomllib.loads(text))
    assert why in refused.value.message


@pytest.mark.parametrize("value", ["['free']", "{a = 1}"])
def test_a_default_tier_that_is_no_text_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput):
        read_plan(tomllib.loads(f"default_tier = {value}\n[tier.free]"))
