"""`quotactl throttle` and `status` as on-call uses them: foresee, ask, put on, watch, undo."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

DAY_END = "2025-03-27T23:00:00Z"


def use(cli: Any, **units: int) -> None:
    for user, amount in units.items():
        cli.ok(f"consume {user} image {amount} -q")


# ---- foreseeing


def test_preview_has_the_promised_shape_and_changes_nothing(cli: Any) -> None:
    use(cli, ada=3, bob=1)
    cli("consume ada image 2")
    before = cli.dump()
    found = cli.json("throttle preview --resource image --tier free --cap 1/day")
    assert found["tiers"] == [
        {
            "tier": "free",
            "resource": "image",
            "limit": "3/day",
            "limit_under": "1/day",
            "users": 2,
            "cut_off": 2,
            "asked": 6,
            "served": 2,
            "refused": 4,
        }
    ]
    assert found["total"] == {"users": 2, "cut_off": 2, "asked": 6, "served": 2, "refused": 4}
    assert found["days"] == 1
    assert cli.dump() == before


def test_a_dry_run_shows_what_preview_shows_and_needs_no_reason(cli: Any) -> None:
    use(cli, ada=3, bob=1)
    flags = "--resource image --scale 34% --floor 1 --at 18:00 --message later"
    before = cli.dump()
    dry = cli.ok(f"throttle on {flags} --dry-run")
    look = cli.ok(f"throttle preview {flags}")
    assert (dry.out, dry.err) == (look.out, look.err)
    assert "It would begin at 2025-03-27 18:00 CET." in dry.err
    assert cli.dump() == before


def test_preview_of_a_past_day_and_of_several(cli: Any) -> None:
    use(cli, ada=3)
    cli.later(days=1)
    use(cli, ada=2, bob=2)

    def asked(days: str) -> tuple[int, int, int]:
        found = cli.json(f"throttle preview --resource image --tier free --cap 1/day {days}")
        return found["days"], found["total"]["users"], found["total"]["asked"]

    assert asked("") == (1, 2, 4)
    assert asked("--day yesterday") == (1, 1, 3)
    assert asked("--day 2025-03-27") == (1, 1, 3)
    assert asked("--days 2") == (2, 2, 7)


def test_preview_on_a_terminal_has_a_line_for_all_and_says_what_it_saves(cli: Any) -> None:
    use(cli, ada=3, bob=3, cyd=3, dan=3)
    table = cli.ok("throttle preview --resource image --tier free --cap 1/day -o table")
    lines = [line.split() for line in table.out.splitlines()]
    assert ["free", "3/day", "1/day", "4", "4", "12", "4", "8"] in lines
    assert ["all", "4", "4", "12", "4", "8"] in lines
    assert max(len(line) for line in table.out.splitlines()) <= 80
    assert "It would save 1 unit an hour." in table.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("throttle preview --resource image", "one of deny, cap, total and scale"),
        ("throttle preview --resource image --cap 1/day --days 0", "days 0 is out of range"),
        ("throttle preview --resource image --cap 1/day --day 2025-02-30", "is not a date"),
        ("throttle on --resource image --ramp 10,20 --reason x", "has no percent sign"),
        ("throttle on --resource image --cap 1/day --every 5m --reason x", "goes with a ramp"),
        ("throttle on --resource image --deny --ramp 50% --reason x", "can't come in parts"),
        ("throttle on --resource image --ramp 10%,20% --every 1h --for 1h --reason x",
         "the end lies before the ramp's last step"),
        ("throttle on --resource image --cap 1/day --at 2025-03-27T08:00:00Z --reason x",
         "is in the past"),
        ("throttle on --resource image --cap 1/day --at 18:00 --until 17:00 --reason x",
         "the end lies before the start"),
        ("throttle solve --capacity 5 --resource image", "limit '5' has no period"),
        ("throttle solve --capacity 5/day --resource image --min free=1/hour", "is not per day"),
        ("status --every 2s", "how often goes with --watch"),
        ("status --watch", "--watch needs a terminal"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(cli: Any, words: str, message: str) -> None:
    before = cli.dump()
    ran = cli(words)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert message in ran.err
    assert cli.dump() == before


# ---- solving


def test_solve_gives_the_number_and_the_command_that_applies_it(cli: Any) -> None:
    use(cli, ada=3, bob=3, cyd=2)
    found = cli.json("throttle solve --capacity 6/day --resource image")
    wanted = {"fits": True, "capacity": 6, "served": 6, "short_by": 0}
    assert {key: found[key] for key in wanted} == wanted
    assert found["caps"] == {"free": 2, "plus": 2, "pro": None}
    assert found["command"] == (
        "quotactl throttle on --resource image --tier free --tier plus --cap 2/day "
        "--reason 'to fit into 6/day'"
    )
    cli.ok(found["command"].removeprefix("quotactl ") + " --yes")
    assert cli("check cyd image").code == 4


def test_the_command_that_solve_prints_keeps_what_on_would_be_told(cli: Any) -> None:
    use(cli, ada=3, bob=3, cyd=2)
    solve = "throttle solve --capacity 6/day --resource image"
    kept = "--for 3h --reason 'GPUs melt' --ticket INC-9 --replace"
    command = cli.json(f"{solve} {kept}")["command"]
    assert command == (
        f"quotactl throttle on --resource image --tier free --tier plus --cap 2/day {kept}"
    )
    for end in ("--until 18:00", "--no-expiry"):
        assert end in cli.json(f"{solve} {end}")["command"]
    cli.ok(command.removeprefix("quotactl ") + " --yes")
    made = cli.json("throttle show 1")
    assert (made["ends_at"], made["reason"], made["ticket"]) == (
        "2025-03-27T12:00:00Z", "GPUs melt", "INC-9",
    )  # fmt: skip


def test_solve_says_by_how_much_the_least_does_not_fit(cli: Any) -> None:
    use(cli, ada=3, bob=3, cyd=2)
    found = cli.json("throttle solve --capacity 2/day --resource image --min free=1/day")
    assert (found["fits"], found["short_by"], found["served"]) == (False, 1, 3)
    told = cli.ok("throttle solve --capacity 2/day --resource image --min free=1/day").err
    assert "It does not fit: even the least is 3 image, 1 more than 2/day." in told
    refused = cli(
        "throttle solve --capacity 2/day --resource image --min free=1/day --apply --reason x"
    )
    assert refused.code == 7


def test_solve_needs_no_cap_where_demand_fits(cli: Any) -> None:
    use(cli, ada=3)
    found = cli.json("throttle solve --capacity 3/day --resource image")
    assert (found["caps"]["free"], found["command"]) == (None, None)


def test_solve_puts_protected_tiers_first(cli: Any) -> None:
    cli.ok("user set-tier bob plus")
    use(cli, ada=3, cyd=3, bob=4)
    found = cli.json("throttle solve --capacity 6/day --resource image --protect plus")
    assert found["caps"] == {"free": 1, "plus": None, "pro": None}
    assert found["served"] == 6


def test_solve_applies_with_ons_rules(cli: Any) -> None:
    use(cli, ada=3, bob=3, cyd=2)
    asked = cli("throttle solve --capacity 6/day --resource image --apply --reason x")
    assert asked.code == 2
    assert "cuts off 3 of 3 active users" in asked.err
    done = cli.ok("throttle solve --capacity 6/day --resource image --apply --reason x --yes")
    assert "undo: quotactl throttle off 1 --reason over" in done.err
    assert cli.json("throttle show 1")["value"] == "2/day"
    again = cli.ok("throttle solve --capacity 6/day --resource image --apply --reason x --yes")
    assert "undo" not in again.err


# ---- guardrails


def test_on_asks_before_it_cuts_off_more_than_the_share_that_is_set(cli: Any) -> None:
    use(cli, ada=3, bob=1, cyd=1, dan=1)
    on = "throttle on --resource image --tier free --cap 2/day --reason x"
    cli.ok("setting set impact_limit 24%")
    before = cli.dump()
    asked = cli(on)
    assert asked.code == 2
    assert "It cuts off 1 of 4 active users at once, 25%. Put it on?" in asked.err
    assert asked.err.rstrip().endswith(f"quotactl {on} --yes")
    assert cli.dump() == before
    cli.ok("setting set impact_limit 25%")
    cli.ok(on)


def test_yes_answers_the_share_but_not_the_protected(cli: Any) -> None:
    cli.ok("user set-tier vip pro")
    use(cli, vip=4, ada=3)
    on = "throttle on --resource image --cap 1/day --include-protected --reason x --yes"
    before = cli.dump()
    refused = cli(on)
    assert refused.code == 2
    assert "users of a protected tier would get less" in refused.err
    assert refused.err.rstrip().endswith("--allow-impact")
    assert cli.dump() == before
    cli.ok(f"{on} --allow-impact")


def test_a_protected_user_is_guarded_like_a_protected_tier(cli: Any) -> None:
    cli.ok("user protect ada")
    use(cli, ada=2)
    on = "throttle on --resource image --tier free --cap 1/day --reason x --yes"
    assert cli(f"{on} --include-protected").code == 2
    cli.ok(on)


def test_the_estimate_is_said_where_it_is_one(cli: Any) -> None:
    rows = "".join(
        f"INSERT INTO user (id, name, created_at_ms) VALUES ({n}, 'u{n}', 0);"
        f"INSERT INTO counter VALUES (1, 1440, 1743030000000, {n}, {n % 4}, 0, 1, 0, NULL);"
        for n in range(1, 3_001)
    )
    cli.sql(rows)
    asked = cli("throttle on --resource image --tier free --cap 1/day --reason x")
    assert asked.code == 2
    told = re.search(r"cuts off (\d+) of 3000 active users at once, (\d+)% (.*)\. Put", asked.err)
    assert told is not None
    assert 2_150 < int(told[1]) < 2_350
    assert told[3] == "(estimated from 500 counters)"


def test_a_message_comes_back_in_denials_and_nowhere_else(cli: Any) -> None:
    cli.ok("throttle on --resource image --cap 1/day --message 'Back at six.' --reason x")
    assert "message" not in cli.json("consume ada image")
    denied = cli("consume ada image --json").json
    assert (denied["reason"], denied["message"]) == ("throttled", "Back at six.")
    assert cli.json("throttle show 1")["message"] == "Back at six."
    cli("consume ada image 9")
    assert "message" not in cli("check ada image 9 --json").json


# ---- totals, ramps and ends


def test_a_total_counts_what_was_there_before_and_names_itself(cli: Any) -> None:
    use(cli, ada=3, bob=2)
    cli.ok("throttle on --name gpus --resource image --total 6/day --reason x")
    use(cli, bob=1)
    denied = cli("consume cyd image --json")
    assert denied.code == 4
    figures = {key: denied.json[key] for key in ("period", "limit", "used", "remaining")}
    assert figures == {"period": "day", "limit": 6, "used": 6, "remaining": 0}
    assert denied.json["rule"] == {"kind": "throttle", "id": 1, "name": "gpus"}
    assert denied.json["reset_at"] == DAY_END
    cli.ok("user set-tier vip pro")
    use(cli, vip=5)
    assert cli("check cyd image --json").json["used"] == 11
    cli.ok("throttle off gpus --reason x")
    cli.ok("consume cyd image")
    assert cli.ok("db verify").code == 0


def test_a_ramp_goes_by_time_alone_holds_and_goes_on(cli: Any) -> None:
    cli.ok("limit set free image=20/day")
    ran = cli.ok("throttle on --resource image --ramp 10%,50%,100% --every 30m --reason x")
    assert "until 2025-03-27 11:30 CET" in ran.err

    def limit() -> int:
        return int(cli.json("check ada image")["limit"])

    assert limit() == 2
    cli.later(minutes=30)
    assert limit() == 10
    held = cli.ok("throttle hold 1 --reason x")
    assert "is held at 50%, until 2025-03-27 11:30 CET" in held.err
    assert "already" in cli.ok("throttle hold 1 --reason x").err
    cli.later(minutes=45)
    assert limit() == 10
    resumed = cli.ok("throttle resume 1 --reason x")
    assert "100% at 2025-03-27 11:45 CET" in resumed.err
    cli.later(minutes=30)
    assert limit() == 20
    assert "is not held" in cli.ok("throttle resume 1 --reason x").err


def test_off_in_steps_never_gives_less_than_before(cli: Any) -> None:
    cli.ok("limit set free image=20/day")
    cli.ok("throttle on --resource image --cap 4/day --reason x")
    ran = cli.ok("throttle off 1 --ramp 10%,50%,100% --every 10m --reason over")
    assert "10% now, 50% at 2025-03-27 10:10 CET; until 2025-03-27 10:20 CET" in ran.err
    limits = []
    for _ in range(3):
        limits.append(cli.json("check ada image")["limit"])
        cli.later(minutes=10)
    assert limits == [4, 10, 20]
    assert cli.json("throttle show 1")["state"] == "over"


def test_a_scheduled_throttle_begins_by_itself(cli: Any) -> None:
    ran = cli.ok("throttle on --resource image --cap 1/day --at 18:00 --for 2h --reason x")
    assert "is scheduled" in ran.err
    assert "from 2025-03-27 18:00 CET until 2025-03-27 20:00 CET" in ran.err
    assert cli.json("throttle list")[0]["state"] == "scheduled"
    table = cli.ok("throttle list -o table").out
    assert "scheduled" in table and "2025-03-27 18:00 CET" in table
    assert "T17:00:00Z" not in table
    assert cli.ok("throttle list -o tsv").out.splitlines()[0].split("\t") == [
        "id", "name", "what", "state", "starts_at", "ends_at", "reason",
    ]  # fmt: skip
    moved = cli.ok("throttle extend 1 --for 3h --reason x").err
    assert "is on from 2025-03-27 18:00 CET until 2025-03-27 21:00 CET" in moved
    cli.ok("throttle extend 1 --for 2h --reason x")
    # One that is on now beside it.
    shown = cli.ok("throttle show 1 -o table").out
    assert "2025-03-27 20:00 CET" in shown and "Z" not in shown
    use(cli, ada=2)
    cli.later(hours=8)
    assert cli("consume ada image").code == 4
    cli.later(hours=2)
    cli.ok("consume ada image")


def test_show_draws_the_steps_on_a_terminal(cli: Any) -> None:
    cli.ok("throttle on --resource image --ramp 10%,100% --every 30m --reason x")
    cli.later(minutes=30)
    lines = cli.ok("throttle show 1 -o table").out.splitlines()
    steps = [line for line in lines if "of its number" in line]
    assert steps[0].split() == ["2025-03-27", "10:00", "CET", "10%", "##", *["of", "its", "number"]]
    assert steps[1].rstrip().endswith("<- now")
    assert lines[-1].split() == ["2025-03-27", "11:00", "CET", "end"]
    assert cli.json("throttle show 1")["steps"] == [
        {"at": "2025-03-27T09:00:00Z", "percent": 10, "lifting": False},
        {"at": "2025-03-27T09:30:00Z", "percent": 100, "lifting": False},
    ]


# ---- watching


def test_status_shows_what_a_throttle_does_beside_what_was_foreseen(cli: Any) -> None:
    use(cli, ada=3, bob=3)
    cli.ok("throttle on --resource image --tier free --cap 1/day --for 3h --reason x --yes")
    for _ in range(4):
        cli("consume cyd image")
    cli.later(minutes=90)
    cli("consume cyd image 2")
    (now,) = cli.json("status")["throttles"]
    assert now["effect"] == {
        "requests": 4,
        "units": 5,
        # Half of the hour from 10 is within the last hour, and 2 since 11.
        "units_per_hour": 3,
        "promised_per_hour": 0,
        "promised_cut_off": 2,
    }
    screen = cli.ok("status -o table").out
    assert "ends in" in screen and "1h30m" in screen
    assert max(len(line) for line in screen.splitlines()) <= 80


def test_status_mentions_an_end_that_time_brought(cli: Any) -> None:
    cli.ok("throttle on --name melt --resource image --cap 1/day --reason x")
    cli.later(hours=2)
    (ended,) = cli.json("status")["ended"]
    assert ended == {"id": 1, "name": "melt", "kind": "cap", "ended_at": "2025-03-27T10:00:00Z"}
    assert "throttle 1 (melt) at 11:00" in cli.ok("status -o table").out
    cli.later(days=1)
    assert cli.json("status")["ended"] == []


def test_watch_draws_again_and_again_until_it_is_interrupted(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quotactl.cli import status

    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "pause", pause)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    ran = cli("status --watch --every 5s")
    assert ran.code == 130
    assert waits == [5.0, 5.0, 5.0]
    assert ran.out.count(status.CLEAR) == ran.out.count("ledger") == 3


def test_json_of_every_change_tells_what_is_on(cli: Any) -> None:
    on = json.loads(
        cli.ok("throttle on --resource image --cap 4/day --ramp 50%,100% --reason x --json").out
    )
    assert (on["kind"], on["value"], on["step"], on["changed"]) == ("cap", "4/day", 50, True)
    assert [step["percent"] for step in on["steps"]] == [50, 100]
    total = cli.json("throttle on --resource image --total 40k/hour --reason x")
    assert (total["kind"], total["value"], total["period"]) == ("total", "40000/hour", "hour")


def test_the_audit_of_a_ramp_says_what_was_before_and_what_is_after(cli: Any) -> None:
    cli.ok("throttle on --resource image --cap 4/day --ramp 50%,100% --every 1h --reason x")
    cli.ok("throttle off 1 --ramp 60%,100% --every 30m --reason x")
    (row,) = [a for a in cli.json("audit list") if a["action"] == "throttle.off"]
    assert [step["percent"] for step in row["before"]["steps"]] == [50, 100]
    assert [(s["percent"], s["lifting"]) for s in row["after"]["steps"]] == [
        (50, False),
        (60, True),
        (100, True),
    ]
    cli.ok("throttle hold 1 --reason x")
    cli.later(minutes=10)
    cli.ok("throttle resume 1 --reason x")
    (row,) = [a for a in cli.json("audit list") if a["action"] == "throttle.resume"]
    assert [step["percent"] for step in row["before"]["steps"]] == [50, 60]
    assert [step["percent"] for step in row["after"]["steps"]] == [50, 60, 100]


def test_a_throttle_that_refuses_nothing_since_enforcement_is_not_on_says_so(cli: Any) -> None:
    cli.ok("consume ada image 2")
    cli.ok("enforcement shadow --for 4h --reason watching")
    note = "note: enforcement is shadow for all tiers, all resources, until 2025-03-27 14:00 CET\n"
    ran = cli.ok("throttle on --cap 1/day --resource image --yes --reason x")
    assert ran.err.endswith(f"undo: quotactl throttle off 2 --reason over\n{note}")
    assert cli.ok("throttle extend 2 --for 3h --reason x").err.endswith(note)
    told = cli.json("throttle preview --cap 0/day --resource image --tier free")["warnings"]
    assert told[0] == (
        "Enforcement is shadow for all tiers, all resources, until 2025-03-27 14:00 CET: "
        "there nothing is refused."
    )
    cli.ok("enforcement shadow --tier plus --for 4h --reason watching")
    cli.ok("enforcement on --reason seen")
    assert (
        "note" not in cli.ok("throttle on --cap 0/day --resource image --replace -y --reason x").err
    )
    cli.ok("enforcement off --tier plus --for 4h --reason watching")
    told = cli.json("throttle preview --cap 0/day --resource image --tier free")["warnings"]
    assert not any("Enforcement" in line for line in told)
