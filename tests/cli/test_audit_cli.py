"""audit list, show and verify."""

from __future__ import annotations

from typing import Any


def test_every_act_has_its_row_with_who_why_and_the_case(cli: Any) -> None:
    cli.ok("user set-tier ada plus --reason upgrade --ticket T-1 --as eve")
    cli.ok("grant add ada image=5 --reason sorry --as bob")
    acts = cli.json("audit list --user ada")
    assert [
        (act["actor"], act["action"], act["user"], act["subject"], act["reason"], act["ticket"])
        for act in acts
    ] == [
        ("eve", "user.set-tier", "ada", None, "upgrade", "T-1"),
        ("bob", "grant.add", "ada", "image", "sorry", None),
    ]
    assert acts[0]["at"] == "2025-03-27T09:00:00Z"


def test_the_newest_act_comes_last_and_the_limit_keeps_the_newest(cli: Any) -> None:
    for tier in ("a", "b", "c"):
        cli.ok(f"tier create {tier}")
    subjects = [act["subject"] for act in cli.json("audit list --limit 2")]
    assert subjects == ["b", "c"]
    assert [a["subject"] for a in cli.json("audit list --action tier.create")] == ["a", "b", "c"]
    assert cli.json("audit list --action no.such.action") == []


def test_the_list_as_a_table_fits_eighty_columns(cli: Any) -> None:
    cli.ok("user block ada --resource image --reason 'stolen card' --ticket T-9 --as root")
    assert cli.ok("audit list -o table").out == (
        "id  at                    actor  act                   reason\n"
        "────────────────────────────────────────────────────────────────────────\n"
        " 1  2025-03-27T09:00:00Z  root   init\n"
        " 2  2025-03-27T09:00:00Z  root   policy.apply\n"
        " 3  2025-03-27T09:00:00Z  root   user.block ada image  stolen card (T-9)\n"
    )
    header, *rows = cli.ok("audit list").out.splitlines()
    assert header == "id\tat\tactor\tact\treason", "in a pipe the same columns"
    assert rows[2].split("\t")[3:] == ["user.block ada image", "stolen card (T-9)"]
    act = cli.json("audit list")[2]
    assert (act["action"], act["user"], act["subject"]) == ("user.block", "ada", "image")
    assert (act["reason"], act["ticket"]) == ("stolen card", "T-9")


def test_one_act_shows_what_was_before_and_after(cli: Any) -> None:
    cli.ok("limit set free image=5/day")
    act = cli.json("audit show 3")
    assert (act["before"], act["after"]) == ({"image": "3/day"}, {"image": "5/day"})
    assert "after    image=5/day" in cli.ok("audit show 3 -o table").out


def test_the_chain_holds_and_its_hash_is_the_newest(cli: Any) -> None:
    ran = cli.ok("audit verify --json")
    newest = cli.json("audit show 2")["hash"]
    assert ran.json == {"ok": True, "rows": 2, "hash": newest, "differences": []}
    assert ran.err == f"the chain holds: 2 rows, hash {newest}\n"


def test_an_edited_row_breaks_the_chain(cli: Any) -> None:
    cli.sql("DROP TRIGGER audit_is_immutable; UPDATE audit SET actor = 'nobody' WHERE id = 1")
    ran = cli("audit verify --json")
    assert ran.code == 8
    assert "audit: row 1 does not match its hash" in ran.json["differences"]
    assert ran.err == "the chain is broken; differences: 1, rows: 2\n"


def test_an_edited_reason_breaks_the_chain(cli: Any) -> None:
    cli.ok("user set-tier ada plus --reason honest")
    cli.sql("UPDATE audit_text SET text = 'another'")
    ran = cli("audit verify")
    assert ran.code == 8
    assert ran.out == "difference\naudit: the reason of row 3 does not match its digest\n"


def test_a_chain_that_was_cut_short_is_told_by_a_hash_that_was_kept(cli: Any) -> None:
    cli.ok("tier create trial")
    kept = cli.json("audit verify")["hash"]
    cli.ok("tier create other")
    assert cli(f"audit verify --expect {kept}").code == 0
    cli.sql("DROP TRIGGER audit_is_kept; DELETE FROM audit WHERE id >= 3")
    assert cli("audit verify").code == 0
    ran = cli(f"audit verify --expect {kept} --json")
    assert (ran.code, ran.json["differences"]) == (
        8,
        [f"audit: no row has the expected hash {kept}"],
    )
