"""Throttles and presets as they are written: read, refused, told in words."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from quotactl.errors import InvalidInput
from quotactl.policy.levers import (
    EnforcementLever,
    Preset,
    lever,
    lever_text,
    mode_text,
    preset_table,
    preset_text,
    read_preset,
)
from quotactl.policy.model import AMOUNT_MAX, Limit, Step
from quotactl.policy.window import DAY, period_of_length

HOUR = period_of_length(60)


def read(text: str) -> Preset:
    """The preset `p` of a policy file's text."""
    return read_preset("p", tomllib.loads(text)["preset"]["p"])


# ---- one throttle


@pytest.mark.parametrize(
    ("how", "kind", "limit", "percent"),
    [
        ({"deny": True}, "deny", None, None),
        ({"cap": "3/day"}, "cap", Limit(DAY, 3), None),
        ({"cap": "0/day"}, "cap", Limit(DAY, 0), None),
        ({"total": "40k/hour"}, "total", Limit(HOUR, 40_000), None),
        ({"scale": "25%"}, "scale", None, 25),
        ({"scale": 25}, "scale", None, 25),
        ({"scale": 0}, "scale", None, 0),
        ({"ramp": "10%,100%"}, "scale", None, 100),
        ({"ramp": [10, 100], "cap": "3/day"}, "cap", Limit(DAY, 3), None),
    ],
)
def test_a_lever_is_one_of_four_kinds(
    how: dict[str, Any], kind: str, limit: Limit | None, percent: int | None
) -> None:
    one = lever(**how)
    assert (one.kind, one.limit, one.percent) == (kind, limit, percent)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({}, "one of deny, cap, total and scale"),
        ({"deny": True, "cap": "3/day"}, "one of deny, cap, total and scale"),
        ({"cap": "3/day", "total": "3/day"}, "one of deny, cap, total and scale"),
        ({"deny": True, "ramp": "10%"}, "nothing can't come in parts"),
        ({"cap": "3/day", "floor": 1}, "a floor goes with a scale"),
        ({"cap": "3"}, "has no period"),
        ({"cap": "3/day,1/hour"}, "not one ceiling"),
        ({"total": "unlimited"}, "not one ceiling"),
        ({"scale": "25"}, "has no percent sign"),
        ({"scale": 101}, "out of range"),
        ({"scale": True}, "out of range"),
        ({"scale": 25, "floor": -1}, "out of range"),
        ({"scale": 25, "floor": AMOUNT_MAX + 1}, "out of range"),
        ({"ramp": ""}, "no percent sign"),
        ({"ramp": []}, "the ramp has no step"),
        ({"ramp": [1] * 101}, "101 steps"),
        ({"cap": "3/day", "every": "30m"}, "goes with a ramp"),
        ({"deny": True, "name": "42"}, "taken for an id"),
        ({"deny": True, "name": "a b"}, "no name"),
        ({"deny": True, "message": " "}, "message is empty"),
        ({"deny": True, "message": "x" * 501}, "501 characters"),
        ({"deny": True, "message": "\x1b[31m"}, "control character"),
        ({"deny": True, "tiers": "free"}, "lists of names"),
        ({"deny": True, "resources": "image"}, "lists of names"),
    ],
)
def test_a_lever_that_can_not_be_is_refused(how: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        lever(**how)


def test_a_ramp_has_steps_from_its_start_on() -> None:
    one = lever(ramp="10%,50%,100%", every="20m")
    assert one.ramp_ms == 3_600_000
    assert one.steps(1000) == (
        Step(1000, 10, lifting=False),
        Step(1_201_000, 50, lifting=False),
        Step(2_401_000, 100, lifting=False),
    )


def test_nothing_at_all_keeps_grants_from_paying_and_a_cap_does_not() -> None:
    assert lever(deny=True).freeze_grants
    assert not lever(cap="0/day").freeze_grants


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"deny": True}, "deny for all tiers, all resources"),
        ({"cap": "3/day", "tiers": ["free"], "resources": ["image"]},
         "cap 3/day for tier free, image"),
        ({"total": "40k/hour", "resources": ["image", "video"], "tiers": ["a", "b"]},
         "total 40000/hour for tier a and b, image and video"),
        ({"scale": "25%", "floor": 0}, "scale 25% but at least 0 for all tiers, all resources"),
        ({"ramp": "10%,100%", "every": "5m", "freeze_grants": True, "include_protected": True},
         ("scale 100% for all tiers, all resources (in steps 10%, 100%, 5m each; "
          "grants frozen; protected ones too)")),
    ],
)  # fmt: skip
def test_a_lever_is_told_in_words(how: dict[str, Any], text: str) -> None:
    assert lever_text(lever(**how)) == text


# ---- presets


WHOLE = """
[preset.p]
enforcement = "shadow"
[[preset.p.throttle]]
name = "melt"
tier = "free"
resource = ["image", "video", "image"]
cap = "3/day"
for = "2h"
message = "We are busy; try again tomorrow."
[[preset.p.throttle]]
scale = "25%"
floor = "1k"
ramp = "10%,100%"
every = "10m"
freeze_grants = true
include_protected = true
"""


def test_a_preset_is_read_as_it_is_written() -> None:
    assert read(WHOLE) == Preset(
        (
            lever(
                name="melt",
                tiers=["free"],
                resources=["image", "video"],
                cap="3/day",
                duration_ms=7_200_000,
                message="We are busy; try again tomorrow.",
            ),
            lever(
                scale=25,
                floor=1000,
                ramp=[10, 100],
                every="10m",
                freeze_grants=True,
                include_protected=True,
            ),
        ),
        EnforcementLever("shadow"),
    )


def test_a_preset_names_each_tier_and_resource_once() -> None:
    preset = read(
        "[preset.p]\nenforcement = {mode = 'off', tier = ['plus', 'free'], resource = 'audio'}\n"
        "[[preset.p.throttle]]\ndeny = true\ntier = 'free'\nresource = ['image', 'audio']"
    )
    assert preset.tiers == ("free", "plus")
    assert preset.resources == ("image", "audio")


def test_a_preset_comes_back_from_its_table() -> None:
    preset = read(WHOLE)
    table = preset_table(preset)
    assert read_preset("p", table) == preset
    assert table == {
        "enforcement": "shadow",
        "throttle": [
            {
                "name": "melt",
                "resource": ["image", "video"],
                "tier": ["free"],
                "cap": "3/day",
                "message": "We are busy; try again tomorrow.",
                "for": "2h",
            },
            {
                "scale": "25%",
                "floor": 1000,
                "ramp": "10%,100%",
                "every": "10m",
                "freeze_grants": True,
                "include_protected": True,
            },
        ],
    }


def test_a_floor_of_0_is_not_no_floor() -> None:
    preset = read("[[preset.p.throttle]]\nscale = '25%'\nfloor = 0")
    assert preset.throttles[0].floor == 0
    assert read_preset("p", preset_table(preset)) == preset


def test_a_preset_is_told_in_words() -> None:
    assert preset_text(read(WHOLE)) == (
        "cap 3/day for tier free, image and video, for 2h, named melt, "
        'saying "We are busy; try again tomorrow."; '
        "scale 25% but at least 1000 for all tiers, all resources (in steps 10%, 100%, 10m each; "
        "grants frozen; protected ones too); "
        "enforcement shadow for all tiers, all resources"
    )
    mode = EnforcementLever("off", ("image",), ("free", "plus"))
    assert mode_text(mode) == "enforcement off for tier free and plus, image"


def test_one_throttle_may_be_written_as_a_table() -> None:
    assert read("[preset.p.throttle]\ndeny = true") == Preset((lever(deny=True),))


def test_a_preset_has_a_name_that_fits_into_a_file() -> None:
    with pytest.raises(InvalidInput, match="preset 'a b' is no name"):
        read_preset("a b", {"enforcement": "off"})


def test_a_mode_alone_is_a_preset_too() -> None:
    assert read("[preset.p]\nenforcement = {mode = 'off', for = '30m'}") == Preset(
        (), EnforcementLever("off", (), (), 1_800_000)
    )


@pytest.mark.parametrize(
    "key", ["name", "cap", "total", "scale", "ramp", "every", "message", "for"]
)
def test_what_has_to_be_a_text_is_refused_as_a_number(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"preset.p.throttle.{key} is not a text"):
        read_preset("p", {"throttle": [{key: 3}]})


@pytest.mark.parametrize("key", ["deny", "freeze_grants", "include_protected"])
def test_what_has_to_be_true_or_false_is_refused_as_a_text(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"preset.p.throttle.{key} is neither true nor false"):
        read_preset("p", {"throttle": [{key: "true"}]})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[preset.p]", "preset.p does nothing"),
        ("[preset.p]\ncolour = 1", "preset.p.colour is not a key"),
        ("[preset.p]\nthrottles = []", "preset.p.throttles is not a key"),
        ("[preset.p]\nthrottle = 'cap'", "preset.p.throttle is no list of tables"),
        ("[preset.p]\nthrottle = ['cap']", "preset.p.throttle is no list of tables"),
        ("[[preset.p.throttle]]", "preset.p.throttle: a throttle is one of"),
        ("[[preset.p.throttle]]\ncolour = 1", "preset.p.throttle.colour is not a key"),
        ("[[preset.p.throttle]]\ncap = 3", "preset.p.throttle.cap is not a text"),
        ("[[preset.p.throttle]]\nscale = 25", "preset.p.throttle.scale is not a text"),
        ("[[preset.p.throttle]]\ndeny = 'yes'", "preset.p.throttle.deny is neither true nor false"),
        ("[[preset.p.throttle]]\ndeny = false", "preset.p.throttle: a throttle is one of"),
        ("[[preset.p.throttle]]\nscale = '9%'\nfloor = 1.5", "preset.p.throttle.floor is neither"),
        ("[[preset.p.throttle]]\nscale = '9%'\nfloor = true", "preset.p.throttle: floor True"),
        ("[[preset.p.throttle]]\ndeny = true\ntier = 3", "preset.p.throttle: tier is neither"),
        ("[[preset.p.throttle]]\ndeny = true\ntier = []", "preset.p.throttle: tier names none"),
        ("[[preset.p.throttle]]\ndeny = true\ntier = ['a b']", "preset.p.throttle: tier 'a b'"),
        ("[[preset.p.throttle]]\ndeny = true\nfor = 2", "preset.p.throttle.for is not a text"),
        ("[[preset.p.throttle]]\ndeny = true\nfor = '2'", "preset.p.throttle.for: duration '2'"),
        ("[[preset.p.throttle]]\nramp = '1%,9%'\nevery = '1h'\nfor = '1h'",
         "preset.p.throttle.for 1h ends before the ramp's last step"),
        ("[[preset.p.throttle]]\ndeny = true\n[[preset.p.throttle]]\ncolour = 1",
         r"preset.p.throttle.colour is not a key of a policy file \(throttle 2 of 2\)"),
        ("[preset.p]\nenforcement = 3", "preset.p.enforcement is neither a mode nor a table"),
        ("[preset.p]\nenforcement = 'on'", "preset.p.enforcement 'on' is not known"),
        ("[preset.p]\nenforcement = {tier = 'a'}", "preset.p.enforcement.mode is missing"),
        ("[preset.p]\nenforcement = {mode = 'off', colour = 1}", "enforcement.colour is not a key"),
        ("[preset.p]\nenforcement = {mode = 'off', for = 3}", "enforcement.for is not a text"),
        ("[preset.p]\nenforcement = {mode = 'off', for = '3'}", "enforcement.for: duration '3'"),
        ("[preset.p]\nenforcement = {mode = 'off', tier = []}", "enforcement: tier names none"),
    ],
)  # fmt: skip
def test_a_preset_that_is_wrong_is_refused_by_the_key(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read(text)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("cap = '3/day'", "cap = '5/day'", "for the same as another"),
        ("cap = '3/day'", "cap = '3/day'\nmessage = 'x'", "for the same as another"),
        ("scale = '3%'", "ramp = '10%,50%'", "for the same as another"),
        ("deny = true\ntier = ['a', 'b']", "deny = true\ntier = ['b', 'a']", "for the same"),
        ("deny = true\nname = 'x'", "cap = '3/day'\nname = 'x'", "name 'x' is taken"),
    ],
)
def test_throttles_in_each_others_way_are_no_preset(one: str, other: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read(f"[[preset.p.throttle]]\n{one}\n[[preset.p.throttle]]\n{other}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cap = '3/day'", "cap = '1/hour'"),
        ("cap = '3/day'", "total = '3/day'"),
        ("cap = '3/day'", "cap = '3/day'\ntier = 'a'"),
        ("cap = '3/day'\nresource = 'i'", "cap = '3/day'\nresource = 'j'"),
    ],
)
def test_throttles_for_something_else_are_together_in_a_preset(one: str, other: str) -> None:
    preset = read(f"[[preset.p.throttle]]\n{one}\n[[preset.p.throttle]]\n{other}")
    assert len(preset.throttles) == 2
