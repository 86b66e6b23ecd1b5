"""policy export, diff and apply."""

from __future__ import annotations

import io
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest


def test_what_is_exported_applies_without_a_change(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "out.toml").write_text(cli.ok("policy export").out)
    before = cli.dump()
    assert cli.ok("policy diff -f out.toml --exit-code").err == "the policy is as the file says\n"
    assert cli.json("policy apply -f out.toml") == {
        "changed": False, "applied": False, "changes": [],
    }  # fmt: skip
    assert cli.dump() == before


def test_an_export_rebuilds_the_policy_in_a_new_ledger(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "out.toml").write_text(cli.ok("policy export").out)
    cli.ok("init new.db --zone Europe/Rome -q")
    cli.ok("--db new.db policy apply -f out.toml")
    assert cli.ok("--db new.db policy export").out == (tmp_path / "out.toml").read_text()


def test_an_export_over_json_is_the_same_document(cli: Any) -> None:
    text = cli.ok("policy export").out
    assert cli.json("policy export") == tomllib.loads(text)


def test_diff_shows_each_change_and_changes_nothing(cli: Any, tmp_path: Path) -> None:
    _edit(tmp_path, "3/day", "5/day")
    before = cli.dump()
    ran = cli("policy diff -f policy.toml --exit-code -o table")
    assert ran.code == 8
    assert ran.out == (
        "change  what                    before  after\n"
        "─────────────────────────────────────────────\n"
        "set     tier.free.limits.image  3/day   5/day\n"
    )
    assert cli("policy diff -f policy.toml").code == 0
    assert cli("policy diff -f policy.toml --exit-code -q").code == 8
    assert cli.dump() == before


def test_apply_changes_a_unit_and_needs_the_default_tier(cli: Any, tmp_path: Path) -> None:
    _edit(tmp_path, 'unit = "image"', 'unit = "picture"')
    assert cli.ok("policy apply -f policy.toml --json").json["changes"] == [
        {"change": "set", "what": "resource.image", "before": "image", "after": "picture"}
    ]
    assert cli.json("resource list")[0]["unit"] == "picture"
    text = (tmp_path / "policy.toml").read_text()
    without = text.replace('default_tier = "free"\n', "")
    (tmp_path / "policy.toml").write_text(without[: without.index("[tier.free]")])
    ran = cli("policy apply -f policy.toml --yes")
    assert (ran.code, "is the default tier" in ran.err) == (7, True)


def test_apply_is_one_audit_row_prints_its_changes_and_twice_is_once(
    cli: Any, tmp_path: Path
) -> None:
    _edit(tmp_path, "3/day", "5/day")
    _edit(tmp_path, "protected = true", "protected = false")
    ran = cli.ok("policy apply -f policy.toml --reason 'spring prices' --ticket Q-1 --json")
    assert [change["what"] for change in ran.json["changes"]] == [
        "tier.free.limits.image",
        "tier.pro",
    ]
    assert ran.json["applied"] is True
    assert ran.err == "2 changes made\n"
    acts = cli.json("audit list --action policy.apply")
    assert [act["reason"] for act in acts] == [None, "spring prices"]
    again = cli.ok("policy apply -f policy.toml")
    assert again.err == "the policy is as the file says already\n"
    assert len(cli.json("audit list --action policy.apply")) == 2
    assert cli.json("tier show free")["limits"] == {"image": "5/day"}


def test_a_dry_run_prints_the_same_changes_and_makes_none(cli: Any, tmp_path: Path) -> None:
    _edit(tmp_path, "3/day", "5/day")
    before = cli.dump()
    dry = cli.ok("policy apply -f policy.toml --dry-run --json")
    assert cli.dump() == before
    assert dry.err == "dry run: 1 change to make\n"
    assert dry.json["applied"] is False
    real = cli.json("policy apply -f policy.toml")
    assert real["changes"] == dry.json["changes"]


def test_a_dry_run_is_refused_where_the_real_one_is(cli: Any, tmp_path: Path) -> None:
    cli.ok("user set-tier bob plus")
    _edit(tmp_path, "tier.plus", "tier.other")
    dry = cli("policy apply -f policy.toml --dry-run")
    assert (dry.code, "tier 'plus' is not in the file but has 1 user" in dry.err) == (7, True)


def test_what_a_file_leaves_out_is_removed_after_asking(cli: Any, tmp_path: Path) -> None:
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text[: text.index("[tier.pro]")])
    refused = cli("policy apply -f policy.toml")
    assert refused.code == 2
    assert "Remove tier.pro, tier.pro.limits.image?" in refused.err
    assert refused.err.endswith("quotactl policy apply -f policy.toml --yes\n")
    assert len(cli.json("tier list")) == 3
    cli.ok("policy apply -f policy.toml --yes")
    assert [tier["name"] for tier in cli.json("tier list")] == ["free", "plus"]


def test_a_policy_comes_from_stdin_too(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit(tmp_path, "3/day", "5/day")
    content = (tmp_path / "policy.toml").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    cli.ok("policy apply -f -")
    assert cli.json("tier show free")["limits"] == {"image": "5/day"}


def test_what_was_used_stays_when_a_limit_changes(cli: Any, tmp_path: Path) -> None:
    cli.ok("consume ada image 3")
    _edit(tmp_path, "3/day", "5/day")
    cli.ok("policy apply -f policy.toml")
    assert cli.json("consume ada image 2")["used"] == 5


def test_the_zone_changes_only_before_the_first_entry(cli: Any, tmp_path: Path) -> None:
    _edit(tmp_path, "Europe/Rome", "UTC")
    cli.ok("policy apply -f policy.toml")
    cli.ok("consume ada image")
    _edit(tmp_path, '"UTC"', '"Europe/Rome"')
    before = cli.dump()
    ran = cli("policy apply -f policy.toml")
    assert (ran.code, "can't change once anything was counted" in ran.err) == (7, True)
    assert cli.dump() == before


def _edit(folder: Path, old: str, new: str) -> None:
    path = folder / "policy.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
