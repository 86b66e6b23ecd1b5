"""Presets: defined in the policy file, put on and lifted as one, drilled; and capacities."""

from __future__ import annotations

import os
import pty
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.cli.preset import TICK_S

PRESETS = """
[preset.gpu-melt]
enforcement = { mode = "shadow", tier = "plus", for = "3h" }
[[preset.gpu-melt.throttle]]
tier = "free"
resource = "image"
cap = "1/day"
for = "2h"
message = "We are busy; try again tomorrow."
[[preset.gpu-melt.throttle]]
resource = "image"
total = "40k/hour"

[preset.half]
[[preset.half.throttle]]
name = "halved"
scale = "50%"
floor = 1
"""


@pytest.fixture
def melt(cli: Any, tmp_path: Path) -> Any:
    """The ledger of the other tests with two presets in its policy."""
    path = tmp_path / "policy.toml"
    path.write_text(path.read_text() + PRESETS)
    cli.ok("policy apply -f policy.toml -q --as root")
    return cli


def put_on(cli: Any, name: str = "gpu-melt", more: str = "") -> Any:
    return cli.json(f"preset on {name} --reason melting --yes {more}")


def live(cli: Any) -> list[int]:
    """The ids of all switches that are on."""
    switches = [*cli.json("throttle list"), *cli.json("enforcement show")]
    return sorted(switch["id"] for switch in switches)


# ---- in the policy file


def test_presets_go_through_export_diff_and_apply(melt: Any, tmp_path: Path) -> None:
    text = melt.ok("policy export").out
    (tmp_path / "out.toml").write_text(text)
    assert melt("policy diff -f out.toml --exit-code").code == 0
    assert tomllib.loads(text)["preset"]["half"] == {
        "throttle": [{"name": "halved", "scale": "50%", "floor": 1}]
    }
    melt.ok("init new.db --zone Europe/Rome -q")
    melt.ok("--db new.db policy apply -f out.toml")
    assert melt.ok("--db new.db policy export").out == text
    assert melt.json("--db new.db preset list") == melt.json("preset list")


def test_a_diff_shows_a_preset_before_and_after(melt: Any, tmp_path: Path) -> None:
    edit(tmp_path, 'scale = "50%"', 'scale = "25%"')
    assert melt.json("policy diff -f policy.toml")["changes"] == [
        {
            "change": "set",
            "what": "preset.half",
            "before": "scale 50% but at least 1 for all tiers, all resources, named halved",
            "after": "scale 25% but at least 1 for all tiers, all resources, named halved",
        }
    ]


def test_a_preset_that_a_file_leaves_out_is_removed_after_asking(melt: Any, tmp_path: Path) -> None:
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text[: text.index("[preset.half]")])
    refused = melt("policy apply -f policy.toml")
    assert (refused.code, "Remove preset.half?" in refused.err) == (2, True)
    assert refused.err.endswith("quotactl policy apply -f policy.toml --yes\n")
    melt.ok("policy apply -f policy.toml --yes")
    assert [p["name"] for p in melt.json("preset list")] == ["gpu-melt"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "preset.p.throttle.colour is not a key of a policy file"),
        ('cap = "3/day"\ntier = "gold"', "preset.p names the tier gold, which is not in this file"),
        ('cap = "3/day"\nresource = "video"', "names the resource video, which is not in this"),
    ],
)
def test_a_preset_that_is_wrong_is_refused_by_the_key(
    text: str, said: str, cli: Any, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f"{path.read_text()}[[preset.p.throttle]]\n{text}\n")
    before = cli.dump()
    ran = cli("policy apply -f policy.toml")
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert cli.dump() == before


def test_a_file_changes_a_preset_and_not_what_is_on(melt: Any, tmp_path: Path) -> None:
    put_on(melt)
    edit(tmp_path, 'cap = "1/day"', 'cap = "2/day"')
    melt.ok("policy apply -f policy.toml")
    assert live(melt) == [1, 2, 3]
    assert melt.json("throttle show 1")["value"] == "1/day"
    assert melt.json("preset list")[0]["state"] == "partly"
    conflict = melt("preset on gpu-melt --reason x --yes")
    assert (conflict.code, "add --replace" in conflict.err) == (7, True)
    put_on(melt, more="--replace")
    assert melt.json("preset list")[0]["state"] == "on"
    assert melt.json("throttle list")[-1]["value"] == "2/day"


def test_a_preset_gone_from_the_file_while_on_is_lifted_by_its_name(
    melt: Any, tmp_path: Path
) -> None:
    put_on(melt, "half")
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text[: text.index("[preset.half]")])
    melt.ok("policy apply -f policy.toml --yes")
    assert melt.json("preset list")[1] == {
        "name": "half",
        "what": "removed from the policy",
        "state": "on",
        "switches": [1],
        "drill": False,
    }
    assert melt("preset show half").code == 6
    assert melt.json("preset off half --reason over")["lifted"] == [1]
    assert [p["name"] for p in melt.json("preset list")] == ["gpu-melt"]
    assert melt.ok("preset off half --reason over").err == "preset half is off already\n"


# ---- on and off


def test_on_puts_everything_on_and_off_restores_exactly(melt: Any) -> None:
    melt.ok("consume ada image 2")
    asked = [("ada", 1), ("ada", 2), ("bob", 3)]

    def told() -> list[Any]:
        decisions = [melt(f"check {user} image {n} --json").json for user, n in asked]
        return [{**decision, "retry_after_s": None} for decision in decisions]

    before = told()
    ran = melt.ok("preset on gpu-melt --reason melting --ticket INC-9 --yes --as eve")
    assert ran.err == (
        "preset gpu-melt is on:\n"
        "  throttle 1: cap 1/day for tier free, image, until 2025-03-27 12:00 CET\n"
        "  throttle 2: total 40000/hour for all tiers, image, until 2025-03-27 11:00 CET\n"
        "  enforcement 3: shadow for tier plus, all resources, until 2025-03-27 13:00 CET\n"
        "undo: quotactl preset off gpu-melt --reason over\n"
    )
    assert ran.out == "preset\tgpu-melt\non\t[1,2,3]\nalready_on\t[]\nchanged\ttrue\n"
    denied = melt("consume ada image --json")
    assert denied.code == 4
    assert denied.json["message"] == "We are busy; try again tomorrow."
    assert denied.json["rule"] == {"kind": "throttle", "id": 1, "name": None}
    off = melt.ok("preset off gpu-melt --reason over")
    assert off.err == "preset gpu-melt is off: throttle 1, throttle 2, enforcement 3\n"
    assert told() == before
    assert live(melt) == []


def test_on_is_one_act_with_a_row_for_each_part_and_one_for_the_preset(melt: Any) -> None:
    put_on(melt)
    melt.ok("preset off gpu-melt --reason over")
    acts = melt.json("audit list")[-8:]
    assert [(act["action"], act["subject"]) for act in acts] == [
        ("throttle.on", "throttle 1"),
        ("throttle.on", "throttle 2"),
        ("enforcement.shadow", "enforcement 3"),
        ("preset.on", "preset gpu-melt"),
        ("throttle.off", "throttle 1"),
        ("throttle.off", "throttle 2"),
        ("enforcement.on", "enforcement 3"),
        ("preset.off", "preset gpu-melt"),
    ]
    assert {act["reason"] for act in acts} == {"melting", "over"}
    assert acts[3]["after"] == {"on": [1, 2, 3], "already_on": []}
    assert acts[7]["before"] == {"on": [1, 2, 3]}
    melt.ok("audit verify")


def test_as_json_it_has_what_came_on(melt: Any) -> None:
    made = put_on(melt)
    assert made["changed"] is True
    assert (made["preset"], made["on"], made["already_on"]) == ("gpu-melt", [1, 2, 3], [])
    assert [one["value"] for one in made["throttles"]] == ["1/day", "40000/hour"]
    assert {one["preset"] for one in made["throttles"]} == {"gpu-melt"}
    assert made["enforcement"]["kind"] == "shadow"


def test_on_twice_is_already_so_and_changes_nothing(melt: Any) -> None:
    put_on(melt)
    before = melt.dump()
    again = melt.ok("preset on gpu-melt --for 9h --reason again")
    assert again.err == (
        "preset gpu-melt is on already:\n"
        "  throttle 1 is already on until 2025-03-27 12:00 CET; "
        "to move it: quotactl throttle extend 1\n"
        "  throttle 2 is already on until 2025-03-27 11:00 CET; "
        "to move it: quotactl throttle extend 2\n"
        "  enforcement 3 is shadow already until 2025-03-27 13:00 CET\n"
    )
    assert melt.json("preset on gpu-melt --reason again")["changed"] is False
    assert melt.dump() == before


def test_off_twice_is_already_so(melt: Any) -> None:
    put_on(melt)
    melt.ok("preset off gpu-melt --reason over")
    before = melt.dump()
    assert melt.ok("preset off gpu-melt --reason over").err == "preset gpu-melt is off already\n"
    assert melt.json("preset off gpu-melt --reason over") == {
        "preset": "gpu-melt", "lifted": [], "changed": False,
    }  # fmt: skip
    assert melt.dump() == before


def test_what_was_on_before_the_preset_is_left_and_stays(melt: Any) -> None:
    melt.ok("throttle on --tier free --resource image --cap 1/day --for 9h --yes --reason x")
    made = put_on(melt)
    assert (made["on"], made["already_on"]) == ([2, 3], [1])
    assert melt.json("preset list")[0]["state"] == "on"
    assert melt.json("preset off gpu-melt --reason over")["lifted"] == [2, 3]
    assert live(melt) == [1]
    assert melt.json("preset list")[0]["state"] == "partly"


def test_what_is_only_scheduled_is_not_taken_for_on(melt: Any) -> None:
    melt.ok(
        "throttle on --tier free --resource image --cap 1/day --at 12:30 --for 1h --yes --reason x"
    )
    assert melt.json("preset list")[0]["state"] == "off"
    made = put_on(melt, more="--for 5h")
    assert (made["on"], made["already_on"]) == ([2, 3, 4], [])
    assert melt.json("check ada image")["limit"] == 1


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("throttle on --resource image --total 50k/hour --yes", "throttle 1 is on for the same"),
        ("enforcement off --tier plus", "enforcement is off for tier plus, all resources"),
    ],
)
def test_a_conflict_in_one_part_keeps_all_of_it_off(first: str, said: str, melt: Any) -> None:
    melt.ok(first, "--reason", "x")
    before = melt.dump()
    ran = melt("preset on gpu-melt --reason melting --yes")
    assert (ran.code, said in ran.err, "add --replace" in ran.err) == (7, True, True)
    assert melt.dump() == before
    made = put_on(melt, more="--replace")
    assert made["on"] == [2, 3, 4]
    assert live(melt) == [2, 3, 4]


def test_a_conflict_that_comes_up_inside_the_act_rolls_all_of_it_back(melt: Any) -> None:
    """As when somebody else is faster, between the look and the act."""
    with quotactl.connect(melt.path, clock=lambda: melt.now) as q:

        def meanwhile(_impact: object) -> None:
            q.admin.throttle_on(total="50k/hour", resources=["image"], reason="x")

        with pytest.raises(quotactl.Conflict):
            q.admin.preset_on("gpu-melt", reason="melting", approve=meanwhile)
    assert live(melt) == [1]
    assert [act["action"] for act in melt.json("audit list")][-1] == "throttle.on"


def test_a_preset_that_was_changed_while_asking_is_not_put_on(melt: Any, tmp_path: Path) -> None:
    with quotactl.connect(melt.path, clock=lambda: melt.now) as q:

        def meanwhile(_impact: object) -> None:
            edit(tmp_path, 'scale = "50%"', 'scale = "5%"')
            q.admin.apply_policy((tmp_path / "policy.toml").read_text())

        with pytest.raises(quotactl.Conflict, match="changed meanwhile"):
            q.admin.preset_on("half", reason="melting", approve=meanwhile)
    assert live(melt) == []


@pytest.mark.parametrize(
    ("option", "ends"),
    [
        ("", ["2025-03-27T11:00:00Z", "2025-03-27T10:00:00Z", "2025-03-27T12:00:00Z"]),
        ("--for 6h", ["2025-03-27T15:00:00Z"] * 3),
        ("--until 18:00", ["2025-03-27T17:00:00Z"] * 3),
        ("--no-expiry", [None] * 3),
    ],
)
def test_it_ends_as_the_preset_says_or_as_it_is_told(
    option: str, ends: list[str | None], melt: Any
) -> None:
    made = put_on(melt, more=option)
    assert [one["ends_at"] for one in [*made["throttles"], made["enforcement"]]] == ends


def test_each_part_ends_by_itself(melt: Any) -> None:
    put_on(melt)
    melt.later(hours=1)
    assert (live(melt), melt.json("preset list")[0]["state"]) == ([1, 3], "partly")
    melt.later(hours=1)
    assert melt.ok("consume bob image 3").code == 0
    melt.later(hours=1)
    assert (live(melt), melt.json("preset list")[0]["state"]) == ([], "off")
    assert melt.ok("preset off gpu-melt --reason x").err == "preset gpu-melt is off already\n"


def test_without_a_terminal_it_says_the_command_that_goes_ahead(melt: Any) -> None:
    melt.ok("consume ada image 2")
    before = melt.dump()
    ran = melt("preset on gpu-melt --reason 'it melts'")
    assert ran.code == 2
    assert "It cuts off 1 of 1 active users at once, 100%. Put it on?" in ran.err
    assert ran.err.endswith("quotactl preset on gpu-melt --reason 'it melts' --yes\n")
    every = melt("preset on half --reason x")
    assert (every.code, "This is for every resource" in every.err) == (2, True)
    assert melt.dump() == before


def test_a_protected_tier_needs_its_own_word(melt: Any, tmp_path: Path) -> None:
    edit(tmp_path, "floor = 1", "floor = 1\ninclude_protected = true")
    melt.ok("policy apply -f policy.toml")
    melt.ok("user set-tier pia plus")
    melt.ok("user protect pia")
    melt.ok("consume pia image")
    ran = melt("preset on half --reason x --yes")
    assert (ran.code, ran.err.endswith("--yes --allow-impact\n")) == (2, True), ran.err
    melt.ok("preset on half --reason x --yes --allow-impact")


def test_each_throttle_keeps_its_own_promise(melt: Any) -> None:
    melt.ok("consume ada image 2")
    put_on(melt)
    acts = [act for act in melt.json("audit list") if act["action"] == "throttle.on"]
    assert [act["after"]["promise"]["cut_off"] for act in acts] == [1, 0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("preset on gpu-melt", 2, "a preset needs a reason"),
        ("preset off gpu-melt", 2, "lifting a preset needs a reason"),
        ("preset drill gpu-melt", 2, "a drill needs a reason"),
        ("preset on nix --reason x", 6, "no preset 'nix'; known: gpu-melt, half"),
        ("preset off nix --reason x", 6, "no preset 'nix'"),
        ("preset show nix", 6, "no preset 'nix'"),
        ("preset preview nix", 6, "no preset 'nix'"),
        ("preset drill nix --reason x", 6, "no preset 'nix'"),
        ("preset drill nix --report", 6, "no preset 'nix'"),
        ("preset drill half --report", 6, "preset 'half' was never drilled"),
        ("preset drill half --report --for 5m", 2, "--report shows a drill and begins none"),
        ("preset on 'a b' --reason x", 2, "preset 'a b' is no name"),
        ("preset on half --for 2 --reason x", 2, "duration '2' is not understood"),
        ("preset on half --for 2h --no-expiry --reason x", 2, "both an end and none are given"),
        ("preset on half --until 2025-03-27T08:00:00Z --reason x", 2, "is in the past"),
        ("preset drill half --for 0m --reason x", 2, "duration '0m' is empty"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(
    words: str, code: int, said: str, melt: Any
) -> None:
    before = melt.dump()
    ran = melt(words)
    assert (ran.code, said in ran.err) == (code, True), ran
    assert melt.dump() == before


def test_without_presets_it_says_where_they_come_from(cli: Any) -> None:
    ran = cli("preset on melt --reason x")
    assert (ran.code, "known: none yet; a policy file defines them" in ran.err) == (6, True)
    assert cli.json("preset list") == []


def test_a_tier_that_a_preset_names_is_missed_by_name(melt: Any) -> None:
    deleted = melt.ok("tier delete plus")
    assert deleted.err == (
        "tier plus retired; its history stays; preset gpu-melt names it and can't come on "
        "until the policy file is changed\n"
    )
    ran = melt("preset on gpu-melt --reason x --yes")
    assert ran.code == 6
    assert "preset 'gpu-melt' names what is not there: no tier 'plus'" in ran.err
    assert live(melt) == []
    assert melt.json("preset list")[0]["state"] == "off"
    resource = melt.ok("resource delete image --yes")
    assert resource.err.startswith("resource image retired; its history stays; preset gpu-melt")


# ---- list, show, preview


def test_list_tells_in_words_and_show_each_part(melt: Any) -> None:
    put_on(melt)
    assert melt.ok("preset list -o tsv -q").out == (
        "name\tstate\twhat\n"
        "gpu-melt\ton\tcap 1/day for tier free, image; total 40000/hour for all tiers, image; "
        "enforcement shadow for tier plus, all resources\n"
        "half\toff\tscale 50% but at least 1 for all tiers, all resources\n"
    )
    melt.ok("throttle off 2 --reason x")
    assert melt.ok("preset show gpu-melt -o table -q").out == (
        "gpu-melt: partly\n"
        "what                     for  on  ends_at               message\n"
        "────────────────────────────────────────────────────────────────────────────────\n"
        "cap 1/day for tier       2h    1  2025-03-27T11:00:00Z  We are busy; try again\n"
        "free, image                                             tomorrow.\n"
        "total 40000/hour for     1h    -  -                     -\n"
        "all tiers, image\n"
        "enforcement shadow for   3h    3  2025-03-27T12:00:00Z  -\n"
        "tier plus, all\n"
        "resources\n"
    )


def test_show_as_json_has_the_definition_and_what_is_on(melt: Any) -> None:
    put_on(melt, "half", "--no-expiry")
    shown = melt.json("preset show half")
    assert shown["definition"] == {"throttle": [{"name": "halved", "scale": "50%", "floor": 1}]}
    assert [switch["id"] for switch in shown["switches"]] == [1]
    assert shown["levers"] == [
        {
            "what": "scale 50% but at least 1 for all tiers, all resources",
            "duration": "1h",
            "switch_id": 1,
            "ends_at": None,
            "message": None,
        }
    ]
    assert "\tnever" in melt.ok("preset show half").out


def test_preview_shows_all_throttles_together_and_changes_nothing(melt: Any) -> None:
    melt.ok("consume ada image 2")
    before = melt.dump()
    ran = melt.ok("preset preview gpu-melt --for 2h --reason x --json")
    (free,) = [row for row in ran.json["tiers"] if row["tier"] == "free"]
    assert (free["asked"], free["served"], free["refused"], free["cut_off"]) == (2, 1, 1, 1)
    assert "This leaves out the preset's enforcement shadow for tier plus" in ran.err
    assert melt.dump() == before


# ---- drills


def test_a_drill_denies_nobody_and_says_what_it_would_be(melt: Any) -> None:
    ran = melt.ok("preset drill gpu-melt --for 10m --reason try")
    assert ran.err == (
        "a drill of preset gpu-melt is on, and denies nobody; "
        "its enforcement mode is no part of it:\n"
        "  drill 1: cap 1/day for tier free, image, until 2025-03-27 10:10 CET\n"
        "  drill 2: total 40000/hour for all tiers, image, until 2025-03-27 10:10 CET\n"
        "its report: quotactl preset drill gpu-melt --report\n"
    )
    first, second, third, fourth = (melt("consume ada image --json") for _ in range(4))
    assert [ran.code for ran in (first, second, third, fourth)] == [0, 0, 0, 3]
    assert [ran.json.get("would_be") for ran in (first, second, third)] == [
        None, "throttled", "throttled",
    ]  # fmt: skip
    assert fourth.json["reason"] == "limit_reached"
    assert "note:" not in melt.ok("tier list").err
    shown = melt.ok("preset list")
    assert "gpu-melt\toff, drill\t" in shown.out


def test_the_report_of_a_drill_has_what_it_would_have_denied(melt: Any) -> None:
    melt.ok("preset drill gpu-melt --reason try")
    for user in ("ada", "ada", "bob", "ada"):
        melt.ok(f"consume {user} image")
    melt.ok("user set-tier pip plus")
    melt.ok("consume pip image 5")
    assert melt.json("preset drill gpu-melt --report") == {
        "preset": "gpu-melt",
        "starts_at": "2025-03-27T09:00:00Z",
        "ends_at": "2025-03-27T09:10:00Z",
        "over": False,
        "throttles": [
            {
                "id": 1,
                "what": "cap 1/day for tier free, image",
                "starts_at": "2025-03-27T09:00:00Z",
                "ends_at": "2025-03-27T09:10:00Z",
                "requests": 2,
                "units": 2,
                "tiers": [{"tier": "free", "requests": 2, "units": 2}],
            },
            {
                "id": 2,
                "what": "total 40000/hour for all tiers, image",
                "starts_at": "2025-03-27T09:00:00Z",
                "ends_at": "2025-03-27T09:10:00Z",
                "requests": 0,
                "units": 0,
                "tiers": [],
            },
        ],
        "would_deny": {"requests": 2, "units": 2},
    }
    ran = melt.ok("preset drill gpu-melt --report -o table")
    assert ran.out == (
        "id  what                                   tier  requests  units\n"
        "────────────────────────────────────────────────────────────────\n"
        " 1  cap 1/day for tier free, image         free         2      2\n"
        " 2  total 40000/hour for all tiers, image  -            0      0\n"
    )
    assert ran.err == (
        "the drill of gpu-melt, 2025-03-27 10:00 CET to 2025-03-27 10:10 CET, is still on; "
        "it would have denied 2 requests, 2 units\n"
    )


def test_a_drill_is_over_by_itself_and_another_has_a_report_of_its_own(melt: Any) -> None:
    melt.ok("preset drill half --for 5m --reason try")
    melt.ok("consume ada image 3")
    melt.later(minutes=5)
    assert melt.json("preset drill half --report")["over"] is True
    melt.ok("consume bob image 3")
    assert melt.json("preset drill half --report")["would_deny"] == {"requests": 1, "units": 3}
    melt.later(minutes=5)
    melt.ok("preset drill half --reason try")
    assert melt.json("preset drill half --report")["would_deny"] == {"requests": 0, "units": 0}


def test_the_report_of_a_drill_stays_when_the_day_is_closed(melt: Any) -> None:
    melt.ok("preset drill half --reason try")
    melt.ok("consume ada image 3")
    before = melt.json("preset drill half --report")
    melt.later(days=2)
    melt.ok("reset daily")
    assert melt.json("preset drill half --report") == {**before, "over": True}


def test_a_drill_twice_is_already_so(melt: Any) -> None:
    melt.ok("preset drill gpu-melt --reason try")
    before = melt.dump()
    again = melt.ok("preset drill gpu-melt --for 1h --reason try")
    assert again.err.startswith("a drill of preset gpu-melt is on already:\n  drill 1: cap 1/day")
    assert melt.dump() == before


def test_off_ends_a_drill(melt: Any) -> None:
    melt.ok("preset drill half --reason try")
    melt.later(minutes=2)
    assert melt.ok("preset off half --reason x").err == "the drill of preset half is off: drill 1\n"
    report = melt.json("preset drill half --report")
    assert (report["over"], report["ends_at"]) == (True, "2025-03-27T09:02:00Z")


def test_a_drill_is_in_no_ones_way(melt: Any) -> None:
    """Not of the preset itself in an emergency, and a named throttle keeps its name free."""
    melt.ok("preset drill half --reason try")
    made = put_on(melt, "half")
    assert made["throttles"][0]["name"] == "halved"
    assert melt("consume ada image 2 --json").json["reason"] == "throttled"
    # What the real one denies, the drill has no say in.
    assert melt.json("preset drill half --report")["would_deny"]["requests"] == 0
    assert melt.ok("preset off half --reason x").err == (
        "preset half is off: drill 1, throttle 2 (halved)\n"
    )


def test_a_drill_while_it_is_on_is_allowed(melt: Any) -> None:
    put_on(melt, "half")
    melt.ok("preset drill half --reason try")
    melt.ok("consume ada image")
    assert melt.json("preset drill half --report")["would_deny"]["requests"] == 0


def test_two_drills_of_the_same_users_and_resources_are_a_conflict(melt: Any) -> None:
    """A request is counted under one of them, so each would have too little."""
    melt.ok("preset drill half --reason try")
    before = melt.dump()
    ran = melt("preset drill gpu-melt --reason try")
    assert ran.code == 7
    assert ran.err == (
        "quotactl: a drill of preset 'half' is on for some of the same, "
        "until 2025-03-27 10:10 CET; to end it: quotactl preset off half\n"
    )
    assert melt.dump() == before
    melt.later(minutes=10)
    melt.ok("preset drill gpu-melt --reason try")


def test_a_preset_without_throttles_has_nothing_to_drill(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(path.read_text() + '[preset.watch]\nenforcement = "shadow"\n')
    cli.ok("policy apply -f policy.toml")
    ran = cli("preset drill watch --reason try")
    assert (ran.code, "preset 'watch' has no throttle to try" in ran.err) == (7, True)
    # A mode alone hits nobody: nothing to ask.
    assert cli.json("preset on watch --reason x")["enforcement"]["kind"] == "shadow"


def test_a_drill_shorter_than_its_ramp_is_refused_with_the_length(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(path.read_text() + '[[preset.slow.throttle]]\nramp = "50%,10%"\nevery = "1h"\n')
    cli.ok("policy apply -f policy.toml")
    ran = cli("preset drill slow --reason try")
    assert (ran.code, ran.err.endswith("; --for 2h\n")) == (2, True)
    cli.ok("preset drill slow --for 2h --reason try")
    # In its first step free's 3 a day are 1, and the second image would not pass.
    cli.ok("consume ada image 1")
    cli.ok("consume ada image 1")
    assert cli.json("preset drill slow --report")["would_deny"]["units"] == 1


@pytest.mark.parametrize(
    "throttle", ['cap = "2/day"', 'scale = "50%"\nfloor = 1', "deny = true\ntier = 'free'"]
)
def test_a_drill_counts_exactly_what_the_real_one_denies(
    throttle: str, empty: Any, tmp_path: Path
) -> None:
    """Of single units: the same requests, on a ledger where it is on and one where it is not.

    What limits deny anyway is denied on both, and no part of the drill's report.
    """
    policy = f"""
        default_tier = "free"
        [resource.image]
        [tier.free.limits]
        image = "5/day"
        [tier.plus.limits]
        image = "9/day"
        [preset.p]
        [[preset.p.throttle]]
        {throttle}
    """
    chance = random.Random(7)
    users = [f"u{n}" for n in range(12)]
    asked = [chance.choice(users) for _ in range(150)]
    denied = {}
    for name in ("real", "drill"):
        with quotactl.create(tmp_path / f"{name}.db", clock=lambda: empty.now) as q:
            q.admin.apply_policy(policy)
            for user in users[:4]:
                q.admin.set_tier(user, "plus")
            before = [q.consume(user=user, resource="image") for user in users]
            assert all(decision.allowed for decision in before)
            if name == "real":
                q.admin.preset_on("p", reason="r")
            else:
                q.admin.preset_drill("p", reason="r")
            decisions = [q.consume(user=user, resource="image") for user in asked]
            denied[name] = {n for n, d in enumerate(decisions) if not d.allowed}
            would = {n for n, d in enumerate(decisions) if d.would_be is not None}
            assert q.verify().ok
    assert denied["real"] == denied["drill"] | would
    assert not denied["drill"] & would
    report = empty.json("--db drill.db preset drill p --report")
    assert would
    assert report["would_deny"] == {"requests": len(would), "units": len(would)}


def test_a_drill_counts_no_less_than_the_real_one_denies_of_several_units(
    empty: Any, tmp_path: Path
) -> None:
    """What it would have denied was used, so that later requests find less room."""
    policy = """
        default_tier = "free"
        [resource.image]
        [tier.free.limits]
        image = "unlimited"
        [[preset.p.throttle]]
        cap = "3/day"
    """
    outcomes = {}
    for name in ("real", "drill"):
        with quotactl.create(tmp_path / f"{name}.db", clock=lambda: empty.now) as q:
            q.admin.apply_policy(policy)
            if name == "real":
                q.admin.preset_on("p", reason="r")
            else:
                q.admin.preset_drill("p", reason="r")
            decisions = [q.consume(user="ada", resource="image", amount=n) for n in (2, 2, 1)]
            outcomes[name] = [d.allowed and d.would_be is None for d in decisions]
    assert outcomes == {"real": [True, False, True], "drill": [True, False, False]}


# ---- waiting for a drill


@pytest.fixture
def asleep(melt: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let sleeping pass the time, and something happen while it does."""

    def during(happen: Callable[[], None]) -> None:
        def sleep(seconds: float) -> None:
            assert 0 < seconds <= TICK_S
            melt.later(seconds=seconds)
            happen()

        monkeypatch.setattr("quotactl.cli.preset.sleep", sleep)

    return during


def test_a_drill_waits_for_its_end_and_shows_the_report(
    melt: Any, asleep: Callable[[Callable[[], None]], None]
) -> None:
    ticks: list[int] = []

    def happen() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            with quotactl.connect(melt.path, clock=lambda: melt.now) as q:
                q.consume(user="ada", resource="image", amount=3)

    asleep(happen)
    ran = melt.ok("preset drill half --for 90s --reason try --wait --json")
    assert len(ticks) == 90
    assert ran.json["over"] is True
    assert ran.json["would_deny"] == {"requests": 1, "units": 3}
    assert ran.err == (
        "a drill of preset half is on, and denies nobody:\n"
        "  drill 1: scale 50% but at least 1 for all tiers, all resources, "
        "until 2025-03-27 10:01:30 CET\n"
    )


def test_a_wait_ends_when_the_drill_is_ended_elsewhere(
    melt: Any, asleep: Callable[[Callable[[], None]], None]
) -> None:
    def happen() -> None:
        with quotactl.connect(melt.path, clock=lambda: melt.now) as q:
            q.admin.preset_off("half", reason="enough")

    asleep(happen)
    melt.ok("preset drill half --reason try")
    report = melt.json("preset drill half --report --wait")
    assert (report["over"], report["ends_at"]) == (True, "2025-03-27T09:00:01Z")


def test_an_interrupted_wait_leaves_the_drill_on_and_says_how_to_go_on(
    melt: Any, asleep: Callable[[Callable[[], None]], None]
) -> None:
    def happen() -> None:
        raise KeyboardInterrupt

    asleep(happen)
    ran = melt("preset drill half --reason try --wait")
    assert ran.code == 130
    assert ran.err.endswith(
        "the drill goes on; its report: quotactl preset drill half --report\n"
        "quotactl: interrupted\n"
    )
    assert melt.json("preset drill half --report")["over"] is False


def test_on_a_terminal_it_counts_down_and_shows_the_report(melt: Any) -> None:
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "quotactl", "preset", "drill", "half", "--for", "2s",
         "--reason", "try"],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "NO_COLOR": "1"},
    ) as process:  # fmt: skip
        os.close(terminal)
        printed = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            printed += part
        assert process.wait(timeout=60) == 0
    os.close(controller)
    text = printed.decode()
    assert re.search(r"\r[12]s left, would have denied 0 requests, 0 units so far", text)
    assert "is over; it would have denied 0 requests, 0 units" in text


# ---- capacities


def test_a_capacity_holds_for_all_users_together_to_the_unit(cli: Any, tmp_path: Path) -> None:
    edit(tmp_path, 'unit = "image"', 'unit = "image"\ncapacity = "5/day"')
    cli.ok("consume ada image 2")
    shown = cli.json("policy diff -f policy.toml")["changes"]
    assert shown == [
        {"change": "add", "what": "resource.image.capacity", "before": None, "after": "5/day"}
    ]
    cli.ok("policy apply -f policy.toml")
    cli.ok("consume bob image 3")
    denied = cli("consume cyd image --json")
    assert (denied.code, denied.json["reason"]) == (3, "limit_reached")
    assert denied.json["rule"] == {"kind": "resource", "id": 1, "name": "image"}
    assert (denied.json["limit"], denied.json["used"]) == (5, 5)
    cli.later(days=1)
    cli.ok("consume cyd image")
    assert 'capacity = "5/day"' in cli.ok("policy export").out
    assert cli.json("resource list")[0]["capacity"] == "5/day"


def test_a_capacity_that_goes_and_comes_back_has_counted_meanwhile(
    cli: Any, tmp_path: Path
) -> None:
    edit(tmp_path, 'unit = "image"', 'unit = "image"\ncapacity = "5/hour"')
    cli.ok("policy apply -f policy.toml")
    cli.ok("consume ada image 2")
    edit(tmp_path, 'capacity = "5/hour"', "")
    refused = cli("policy apply -f policy.toml")
    assert (refused.code, "Remove resource.image.capacity?" in refused.err) == (2, True)
    cli.ok("policy apply -f policy.toml --yes")
    cli.ok("consume bob image 3")
    edit(tmp_path, 'unit = "image"', 'unit = "image"\ncapacity = "6/hour"')
    cli.ok("policy apply -f policy.toml")
    assert cli("consume cyd image 2").code == 3
    cli.ok("consume cyd image 1")
    edit(tmp_path, "6/hour", "7/day")
    cli.ok("policy apply -f policy.toml")
    assert cli("consume cyd image 2").code == 3
    cli.ok("consume cyd image 1")
    cli.ok("db verify")


def test_a_resource_is_made_with_a_capacity(cli: Any) -> None:
    made = cli.json("resource create video --unit second --capacity 2M/day")
    assert made == {
        "name": "video", "unit": "second", "capacity": "2000000/day", "retired_at": None,
        "changed": True,
    }  # fmt: skip
    assert cli.json("resource create video --capacity 2000k/day")["changed"] is False
    assert cli.json("audit list")[-1]["after"] == {"unit": "second", "capacity": "2000000/day"}
    assert cli.ok("resource list").out == (
        "name\tunit\tcapacity\nimage\timage\t\nvideo\tsecond\t2000000/day\n"
    )
    for words, said in (
        ("resource create video --capacity 3M/day", "exists, with the capacity 2000000/day"),
        ("resource create image --capacity 3M/day", "exists, with no capacity"),
    ):
        ran = cli(words)
        assert (ran.code, said in ran.err) == (7, True)
    ran = cli("resource create audio --capacity 3")
    assert (ran.code, "limit '3' has no period" in ran.err) == (2, True)


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "policy.toml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))
