"""`quotactl explain` as a person reads it and as a program does."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest

import quotactl


@pytest.fixture
def melting(cli: Any) -> Any:
    """Ada has used 2 of 3 and has a grant; a cap is on, and one for others."""
    cli.ok("consume ada image 2 -q")
    cli.ok("grant add ada image=2 --for 2d --reason 'failed renders' --ticket T-1 -q --as bob")
    cli.ok(
        "throttle on --yes --name melt --resource image --tier free --cap 1/day --for 6h "
        "--reason 'GPUs melt' -q --as bob"
    )
    cli.ok(
        "throttle on --yes --resource image --tier plus --scale 25% --for 6h --reason x -q --as bob"
    )
    cli.later(minutes=1)
    return cli


def test_a_person_reads_the_chain_the_windows_and_the_verdict(melting: Any) -> None:
    assert melting.ok("explain ada image --amount 3 -o table").out == (
        "ada, 3 image, 2025-03-27 10:01 CET\n"
        "step         what      value      why\n"
        "────────────────────────────────────────────────────────────────────────────────\n"
        "tier         free      3/day      the default tier\n"
        "override     none      -          -\n"
        "block        none      -          -\n"
        "throttle     1 (melt)  cap 1/day  decides: in force until 2025-03-27 16:00 CET:\n"
        "                                  day 3 → 1 (GPUs melt, bob)\n"
        "throttle     2         scale 25%  no: not for tier free (x, bob)\n"
        "enforcement  on        -          limits hold\n"
        "grant        1         2 of 2     too little for what is short (failed renders,\n"
        "                                  bob)\n"
        "\n"
        "windows, times in Europe/Rome\n"
        "period  used  limit  remaining  reset_at          rule\n"
        "───────────────────────────────────────────────────────────────────\n"
        "day        2      1          0  2025-03-28 00:00  throttle 1 (melt)\n"
        "\n"
        "denied: throttled; decided by throttle 1 (melt); the same request would pass at "
        "2025-03-27 16:00 CET (in 5h59m)\n"
    )


@pytest.mark.parametrize("columns", [80, 100])
def test_nothing_is_cut_off_and_no_table_is_wider_than_the_terminal(
    melting: Any, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    melting.ok("throttle on --yes --resource image --total 40k/hour --reason 'all the rest' -q")
    melting.ok("user block ada --reason 'a stolen card, and a long story about it' --for 3h -q")
    out = melting.ok("explain ada image -o table").out
    tables = out.split("\ndenied: ")[0]
    assert max(map(len, tables.splitlines())) <= columns
    # Folded at blanks, nothing is left out.
    words = " ".join(out.split())
    for text in ("stolen card, and a long story about it", "for all together", "hour, all"):
        assert text in words
    assert "…" not in out


def test_a_pipe_gets_one_table_with_windows_and_decision_as_its_last_rows(melting: Any) -> None:
    rows = [line.split("\t") for line in melting.ok("explain ada image").out.splitlines()]
    assert rows[0] == ["step", "what", "value", "why"]
    assert all(len(row) == 4 for row in rows)
    assert rows[-2:] == [
        ["window", "day", "2 of 1 used", "by throttle 1 (melt), reset at 2025-03-28 00:00 CET"],
        ["decision", "allowed", "granted", "allowed: granted; decided by grant 1"],
    ]
    again = csv.reader(io.StringIO(melting.ok("explain ada image -o csv").out))
    assert [row[0] for row in again] == [row[0] for row in rows]


def test_json_is_what_the_library_says(melting: Any) -> None:
    found = melting.json("explain ada image --amount 3")
    with quotactl.connect(melting.path, clock=lambda: melting.now) as q:
        assert found == q.explain(user="ada", resource="image", amount=3).to_dict()
        past = melting.now - timedelta(seconds=30)
        wanted = q.explain(user="ada", resource="image", at=past).to_dict()
    at = past.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert melting.json(f"explain ada image --at {at}") == wanted
    assert list(found) == [
        "user", "new_user", "resource", "amount", "at", "zone", "source", "decision", "rule",
        "passes_at", "protected", "tier", "limits", "overrides", "blocks", "throttles",
        "enforcement", "capacity", "grants", "windows", "pruned", "kept_from", "kept_by", "unknown",
    ]  # fmt: skip
    assert found["passes_at"] == "2025-03-27T15:00:00Z"
    assert found["rule"] == {"kind": "throttle", "id": 1, "name": "melt"}
    assert found["throttles"][0]["effect"] == [
        {"period": "day", "base": 3, "limit": 1, "shared": False}
    ]
    assert json.loads(melting.ok("explain ada image --amount 3 -o jsonl").out) == found


@pytest.mark.parametrize("words", ["ada image --amount 40k", "dora image --amount 2", "eve image"])
def test_it_succeeds_whatever_the_decision(melting: Any, words: str) -> None:
    melting.ok("user block eve --reason r -q")
    before = melting.dump()
    assert melting(f"explain {words}").code == 0
    assert melting.dump() == before


def test_the_past_is_told_as_it_was(melting: Any) -> None:
    melting.later(hours=1)
    melting.ok("throttle off melt --reason calm -q")
    melting.ok("limit set free image=9/day -q")
    melting.later(hours=1)
    out = melting.ok("explain ada image --amount 3 --at 10:01 -o table").out
    assert "tier         free      3/day" in out
    assert "decides: in force until 2025-03-27 16:00 CET:\n" in out
    assert out.endswith("would pass at 2025-03-27 16:00 CET (5h59m later)\n")
    now = melting.json("explain ada image --amount 3")
    assert (now["decision"]["allowed"], now["tier"]["limit"]) == (True, "9/day")
    assert now["throttles"][0]["why"] == "lifted 2025-03-27 11:01 CET"


def test_what_is_pruned_is_said_with_the_setting_that_did_it(melting: Any) -> None:
    melting.later(days=70)
    melting.ok("consume ada image -q")
    melting.ok("reset daily -q")
    out = melting.ok("explain ada image --at 2025-03-27T09:01:00Z -o table").out
    assert out.endswith(
        "what was decided is not known: pruned: entry_retention 35d keeps entries from "
        "2025-05-01 00:00 CEST on\n"
    )
    assert "day     ?         1  ?          2025-03-28 00:00  throttle 1 (melt)\n" in out
    assert "grant        1         ? of 2     what was left is pruned" in out


def test_a_tier_that_is_not_known_is_said_to_be(cli: Any) -> None:
    for tier in ("plus", "pro"):
        cli.later(hours=1)
        (cli.path.parent / "users.csv").write_text(f"user,tier\nada,{tier}\n")
        if tier == "plus":
            cli.ok("consume ada image -q")
            cli.later(hours=1)
        cli.ok("user import users.csv -q")
    at = (cli.now - timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    cli.later(hours=1)
    out = cli.ok(f"explain ada image --at {at} -o table").out
    assert "tier         not known" in out
    assert "day        1  ?      ?          2025-03-28 00:00  ?\n" in out
    assert out.endswith(
        "what was decided is not known: the tier of ada: the audit does not name whom it moved\n"
    )


def test_a_quiet_one_says_nothing(melting: Any) -> None:
    ran = melting.ok("explain ada image -q")
    assert (ran.out, ran.err) == ("", "")


def test_what_could_move_a_cursor_is_neutralised(melting: Any) -> None:
    name = "ada\u202egpj"
    melting.ok("override set", name, "image=4/day", "--reason", "odd \u202e name", "-q")
    for output in ("table", "tsv", "csv"):
        out = melting.ok("explain", name, "image", "-o", output).out
        assert "\u202e" not in out
        assert "\\u202e" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("ada nothing", 6, "no resource 'nothing'"),
        ("ada image --amount 0", 2, "amount 0 is out of range"),
        ("ada image --at 18", 2, "time '18' is not understood"),
        ("ada image --at 2025-03-27T08:59:00Z", 2, "the ledger begins at 2025-03-27 10:00 CET"),
        ("'' image", 2, "user is empty"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_line(
    cli: Any, words: str, code: int, said: str
) -> None:
    ran = cli(f"explain {words}")
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_person_is_told_of_a_new_user(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quotactl.cli.explain.person_is_watching", lambda: True)
    cli.ok("consume ada image -q")
    assert cli.ok("explain ada image").err == ""
    assert cli.ok("explain adda image").err == "adda is a new user\n"
    cli.later(hours=1)
    cli.ok("user set-tier bea plus -q")
    assert cli.ok("explain bea image --at 10:30").err == "bea was not known then\n"
