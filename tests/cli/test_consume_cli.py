"""check, consume, refund, reserve, post, void."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


def test_a_decision_over_json_is_the_documented_one(cli: Any) -> None:
    cli.ok("consume ada image 3")
    cli.ok("throttle on --name gpu-melt --resource image --cap 1/day --yes --reason x")
    ran = cli("consume bob image 2 --json")
    assert ran.code == 4
    assert ran.json == {
        "allowed": False, "reason": "throttled", "user": "bob", "resource": "image", "amount": 2,
        "tier": "free", "period": "day", "limit": 1, "used": 0, "remaining": 1, "granted": 0,
        "reset_at": "2025-03-27T23:00:00Z", "retry_after_s": 3600,
        "rule": {"kind": "throttle", "id": 1, "name": "gpu-melt"},
        "entry_id": None, "reservation_id": None, "replayed": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ("ada image", 0, "ok"),
        ("ada image 3", 0, "ok"),
        ("ada image 4", 3, "limit_reached"),
        ("ada video", 3, "not_in_tier"),
        ("rich image 5", 0, "granted"),
        ("slow image 2", 4, "throttled"),
        ("mallory image", 5, "blocked"),
        ("pro image 2M", 0, "ok"),
    ],
)
def test_the_exit_code_is_the_reason(words: str, code: int, reason: str, cli: Any) -> None:
    cli.ok("resource create video")
    cli.ok("grant add rich image=40k --reason x")
    cli.ok("user block mallory --reason x")
    cli.ok("user set-tier slow plus")
    cli.ok("user set-tier pro pro")
    cli.ok("throttle on --tier plus --resource image --cap 1/day --yes --reason x")
    before = cli.dump()
    for command in ("check", "consume"):
        ran = cli(f"{command} {words} --json")
        assert (ran.code, ran.json["reason"]) == (code, reason)
        assert (cli.dump() == before) == (command == "check")
    assert cli(f"reserve {words} --json").json["reason"] in {reason, "limit_reached"}


def test_a_decision_as_a_table_says_what_there_is_to_say(cli: Any) -> None:
    out = cli.ok("consume ada image -o table").out.splitlines()
    assert out == [
        "allowed    yes",
        "reason     ok",
        "amount     1",
        "limit      3/day",
        "used       1",
        "remaining  2",
        "reset_at   2025-03-27T23:00:00Z",
        "rule       tier free",
        "entry_id   1",
    ]


def test_the_same_key_takes_once(cli: Any) -> None:
    first = cli.json("consume ada image 2 --key req-1")
    again = cli.json("consume ada image 2 --key req-1")
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert again["entry_id"] == first["entry_id"]
    assert cli.json("user show ada")["limits"][0]["used"] == 2


def test_a_refund_goes_back_once_under_its_own_key_and_is_audited_with_a_reason(cli: Any) -> None:
    cli.ok("consume ada image 3 --key req-1")
    refund = "refund --key req-1 --amount 1 --refund-key r-1 --reason blank --ticket T-1 --as eve"
    assert cli.json(refund)["amount"] == 1
    again = cli.ok(f"{refund} --json")
    assert (again.json["replayed"], again.err) == (True, "entry 1: given back already\n")
    assert cli.json("user show ada")["limits"][0]["used"] == 2
    (act,) = cli.json("audit list --action refund")
    assert (act["actor"], act["user"], act["reason"], act["ticket"]) == (
        "eve", "ada", "blank", "T-1",
    )  # fmt: skip
    assert cli.json("refund --entry 1")["amount"] == 2
    empty = cli.ok("refund --entry 1 --json")
    assert (empty.json["amount"], empty.err) == (0, "entry 1: given back already\n")
    assert cli.json("user show ada")["limits"][0]["used"] == 0


def test_a_hold_is_posted_in_part_voided_or_times_out(cli: Any) -> None:
    held = cli.json("reserve ada image 3 --key job-1")
    assert cli("consume ada image").code == 3
    posted = cli.json(f"post {held['reservation_id']} 1")
    assert (posted["posted"], posted["freed"], posted["already"]) == (1, 2, False)
    again = cli.ok(f"post {held['reservation_id']} 1 --json")
    assert again.json["already"] is True
    assert again.err == f"reservation {held['reservation_id']} is posted already\n"

    second = cli.json("reserve ada image 2")["reservation_id"]
    assert cli.json(f"void {second}")["freed"] == 2
    assert cli(f"void {second}").err == f"reservation {second} is voided already\n"
    assert cli(f"post {second}").code == 7

    third = cli.json("reserve ada image 2 --ttl 90s")["reservation_id"]
    cli.later(seconds=90)
    late = cli(f"post {third}")
    assert (late.code, "timed out at" in late.err) == (7, True)
    assert cli.json("check ada image 2")["allowed"] is True


def test_a_denied_reservation_exits_like_a_denied_consume(cli: Any) -> None:
    ran = cli("reserve ada image 4 --json")
    assert (ran.code, ran.json["reservation_id"]) == (3, None)


def test_a_clock_in_a_closed_day_is_told_to_try_again(cli: Any) -> None:
    cli.later(days=1)
    cli.ok("reset daily")
    cli.later(days=-1)
    ran = cli("consume ada image")
    assert (ran.code, "in a day that is closed" in ran.err) == (75, True)


@pytest.mark.parametrize("words", ["consume ada image", "check ada image", "reserve ada image 1"])
def test_a_gateways_commands_import_only_what_they_use(words: str, cli: Any) -> None:
    # In a process of its own: this one has imported everything long since.
    script = (
        "import sys; from quotactl.cli import main; "
        f"code = main({['--db', str(cli.path), *words.split()]!r}); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stderr.split())
    unused = {"rich", "sqlite_utils", "pydantic", "tomllib", "csv", "hashlib", "tempfile"}
    assert loaded & (unused | {"quotactl.operations.admin", "quotactl.render.table"}) == set()
    assert "sqlite3" in loaded
