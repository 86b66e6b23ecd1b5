"""What administrators and on-call type: tiers, limits, users, overrides, grants, throttles."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quotactl.cli import main
from quotactl.engines.schema import SCHEMA_VERSION


def test_init_makes_a_private_ledger_and_says_what_comes_next(empty: Any, tmp_path: Path) -> None:
    ran = empty.ok("init new.db --name 'the new one' --zone Europe/Rome --json")
    path = tmp_path / "new.db"
    assert ran.json == {
        "path": str(path), "name": "the new one", "zone": "Europe/Rome", "changed": True
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"export QUOTACTL_DB={path}" in ran.err
    assert "quotactl policy apply -f" in ran.err
    assert "quotactl tier create free" in ran.err


def test_a_policy_is_built_step_by_step(empty: Any) -> None:
    empty.ok("resource create image --unit image")
    empty.ok("resource create video")
    assert empty.ok("tier create free").err == "tier free made; it is the default tier\n"
    empty.ok("tier create plus")
    empty.ok("tier create pro --protected")
    empty.ok("limit set free image=3/day")
    ran = empty.ok("limit set plus image=50/day,5/minute video=1/day,10/month")
    assert ran.err == (
        "tier plus: image 50/day,5/minute (was not listed), video 10/month,1/day (was not listed)\n"
    )
    assert empty.ok("tier list -o table").out == (
        "name  default  protected  limits\n"
        "────────────────────────────────────────────────────────────────────\n"
        "free  yes      no         image=3/day\n"
        "plus  no       no         image=50/day,5/minute video=10/month,1/day\n"
        "pro   no       yes\n"
    )
    assert empty.ok("limit list plus").out == (
        "tier\tresource\tperiod\tlimit\n"
        "plus\timage\tday\t50\nplus\timage\tminute\t5\n"
        "plus\tvideo\tmonth\t10\nplus\tvideo\tday\t1\n"
    )
    empty.ok("limit set pro image=unlimited")
    assert empty.json("limit list pro") == [
        {"tier": "pro", "resource": "image", "period": "day", "limit": None}
    ]
    assert empty.ok("limit list pro").out.endswith("pro\timage\tday\tunlimited\n")
    empty.ok("limit unset plus video")
    assert empty.json("tier show plus")["limits"] == {"image": "50/day,5/minute"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("resource create image", "resource image exists already"),
        ("tier create free", "tier free exists already"),
        ("tier default free", "tier free is the default already"),
        ("tier protect pro", "tier pro is protected already"),
        ("tier unprotect free", "tier free is not protected already"),
        ("limit set free image=3/day", "tier free has these limits already"),
        ("limit unset free video", "tier free does not list video"),
        ("setting unset durability", "durability is full already"),
        ("user set-tier bob plus", "bob is on plus already"),
        ("user set-tier cyd --default", "cyd is on the default tier already"),
        ("user protect eve", "eve is protected already"),
        ("user unprotect bob", "bob is not protected already"),
        ("user block eve --reason x", "eve is blocked already, for good"),
        ("user unblock bob", "bob is not blocked"),
        ("override set bob image=9/day --reason x", "bob has image 9/day already, for good"),
        ("override clear eve", "eve has no such override"),
        ("grant revoke 1 --reason x", "grant 1 is revoked already"),
        ("enforcement on --reason x", "enforcement is on already"),
        ("throttle off old --reason x", "throttle 1 (old) is lifted already"),
        ("throttle on --resource image --cap 1/day --until 2025-03-27T12:00:00Z --reason y",
         ("throttle 2 is already on until 2025-03-27 13:00 CET; "
          "to move it: quotactl throttle extend 2")),
        ("throttle extend 2 --until 2025-03-27T12:00:00Z --reason x",
         "throttle 2 is on until 2025-03-27 13:00 CET already"),
        ("reset user bob --reason x", "bob has used nothing in the open windows"),
    ],
)  # fmt: skip
def test_what_is_already_so_succeeds_says_so_and_changes_nothing(
    words: str, said: str, cli: Any
) -> None:
    cli.ok("resource create video")
    cli.ok("user set-tier bob plus")
    cli.ok("user protect eve")
    cli.ok("consume cyd image")
    cli.ok("user block eve --reason x")
    cli.ok("override set bob image=9/day --reason x")
    cli.ok("grant add bob image=5 --reason x")
    cli.ok("grant revoke 1 --reason x")
    cli.ok("throttle on --name old --resource image --deny --yes --reason x")
    cli.ok("throttle off old --reason x")
    cli.ok("throttle on --resource image --cap 1/day --until 2025-03-27T12:00:00Z --yes --reason x")
    before = cli.dump()
    ran = cli.ok(words)
    note = "note: throttle 2 is on: cap 1/day for all tiers, image, until 2025-03-27 13:00 CET\n"
    assert ran.err in (f"{said}\n", f"{said}\n{note}")
    assert ran.out.endswith("changed\tfalse\n")
    assert cli.dump() == before
    assert cli.json(words)["changed"] is False


def test_quiet_is_silent_on_success(cli: Any) -> None:
    for words in (
        "user set-tier ada plus",
        "throttle on --resource image --deny --reason x",
        "throttle off 1 --reason x",
        "policy diff -f policy.toml",
        "reset daily",
        "consume ada image",
    ):
        ran = cli.ok(words, "-q")
        assert (ran.out, ran.err) == ("", "")


def test_a_tier_in_use_is_deleted_after_asking_and_its_users_move(cli: Any) -> None:
    cli.ok("user set-tier bob plus")
    refused = cli("tier delete plus --move-to free")
    assert refused.code == 2
    assert "Delete tier plus and move its 1 user to free?" in refused.err
    assert "quotactl tier delete plus --move-to free --yes" in refused.err
    done = cli.ok("tier delete plus --move-to free --yes")
    assert done.err == "tier plus retired; its history stays; 1 moved to free\n"
    assert cli.json("user show bob")["tier"] == "free"
    assert [tier["name"] for tier in cli.json("tier list")] == ["free", "pro"]
    retired = cli.json("tier list --all")[1]
    assert (retired["name"], retired["retired_at"]) == ("plus", "2025-03-27T09:00:00Z")


def test_a_tier_without_users_is_deleted_without_asking(cli: Any) -> None:
    assert cli.ok("tier delete plus").err == "tier plus retired; its history stays\n"


def test_a_resource_that_no_tier_lists_is_deleted_without_asking(cli: Any) -> None:
    cli.ok("resource create video")
    cli.ok("resource delete video")
    assert [r["name"] for r in cli.json("resource list")] == ["image"]
    assert [r["name"] for r in cli.json("resource list --all")] == ["image", "video"]


def test_new_users_are_said_to_be_new_once(cli: Any) -> None:
    for words in (
        "user set-tier ada plus",
        "user block bob --reason x",
        "user protect cyd",
        "override set dan image=9/day --reason x",
        "grant add eve image=9 --reason x",
    ):
        assert "new user" in cli.ok(words).err, words
    assert "new user" not in cli.ok("user set-tier ada free").err
    assert "new user" not in cli.ok("grant add bob image=9 --reason x").err


def test_user_show_has_all_that_decides_for_them_now(cli: Any) -> None:
    cli.ok("user set-tier ada plus")
    cli.ok("consume ada image 4")
    cli.ok("override set ada image=60/day --for 7d --reason 'press week' --ticket T-7 --as eve")
    cli.ok("grant add ada image=10 --priority -1 --until 2025-04-01T00:00:00Z --reason sorry")
    cli.ok("user block ada --resource image --for 30m --reason oops")
    detail = cli.json("user show ada")
    assert {name: detail[name] for name in ("user", "tier", "follows_default", "protected")} == {
        "user": "ada", "tier": "plus", "follows_default": False, "protected": False,
    }  # fmt: skip
    assert detail["limits"] == [
        {
            "resource": "image", "period": "day", "limit": 60, "used": 4, "remaining": 56,
            "reset_at": "2025-03-27T23:00:00Z", "rule": {"kind": "override", "id": 1, "name": None},
        },
        {
            "resource": "image", "period": "minute", "limit": 5, "used": 4, "remaining": 1,
            "reset_at": "2025-03-27T09:01:00Z", "rule": {"kind": "tier", "id": 2, "name": "plus"},
        },
    ]  # fmt: skip
    (override,) = detail["overrides"]
    assert (override["actor"], override["ticket"]) == ("eve", "T-7")
    assert override["expires_at"] == "2025-04-03T09:00:00Z"
    assert [grant["remaining"] for grant in detail["grants"]] == [10]
    assert [block["reason"] for block in detail["blocks"]] == ["oops"]
    cli.later(hours=1)
    assert cli.json("user show ada")["blocks"] == []
    held = cli.json("reserve ada image 2 --ttl 10m")
    assert cli.json("user show ada")["reservations"] == [
        {"id": held["reservation_id"], "resource": "image", "amount": 2,
         "expires_at": "2025-03-27T10:10:00Z"}
    ]  # fmt: skip
    cli.later(minutes=11)
    later = cli.json("user show ada")
    assert later["reservations"] == []
    assert [window["used"] for window in later["limits"]] == [4, 0]


def test_user_show_as_tables(cli: Any) -> None:
    cli.ok("consume ada image 2")
    cli.ok("override set ada image=unlimited --for 7d --reason 'press week'")
    cli.ok("grant add ada image=10 --reason sorry")
    assert cli.ok("user show ada -o table").out == (
        "user             ada\n"
        "tier             free\n"
        "follows_default  yes\n"
        "protected        no\n"
        "created_at       2025-03-27T09:00:00Z\n"
        "\n"
        "limits\n"
        "resource   image\n"
        "period     day\n"
        "limit      unlimited\n"
        "used       2\n"
        "remaining  unlimited\n"
        "reset_at   2025-03-27T23:00:00Z\n"
        "rule       kind=override id=1 name=-\n"
        "\n"
        "overrides\n"
        "id  resource  period  limit      expires_at            reason\n"
        "─────────────────────────────────────────────────────────────────\n"
        " 1  image     every   unlimited  2025-04-03T09:00:00Z  press week\n"
        "\n"
        "grants\n"
        "id  resource  amount  remaining  priority  expires_at  reason\n"
        "─────────────────────────────────────────────────────────────\n"
        " 1  image         10         10         0  never       sorry\n"
    )


def test_user_list_says_when_it_is_cut_and_knows_who_follows_the_default(cli: Any) -> None:
    for user in ("ada", "bob", "cyd"):
        cli.ok(f"consume {user} image")
    cli.ok("user set-tier bob plus")
    cut = cli.ok("user list --limit 2 -o table")
    assert cut.out.splitlines()[2:] == [
        "ada   free  yes              no         2025-03-27T09:00:00Z",
        "bob   plus  no               no         2025-03-27T09:00:00Z",
        "the first 2; more with --limit",
    ]
    assert cli("user list --limit 2").err == "the first 2; more with --limit\n"
    assert cli("user list --limit 3").err == ""
    assert [user["user"] for user in cli.json("user list --tier free")] == ["ada", "cyd"]
    assert [user["user"] for user in cli.json("user list --tier plus")] == ["bob"]


def test_a_name_with_markup_and_escapes_is_printed_as_it_is_but_harmless(cli: Any) -> None:
    cli.ok("user set-tier '[red]x[/red]' plus")
    assert "[red]x[/red]  plus" in cli.ok("user list -o table").out


def test_overrides_and_grants_that_are_over_are_listed_only_with_all(cli: Any) -> None:
    cli.ok("override set ada image=9/day --for 1h --reason x")
    cli.ok("override set bob image=9/day --for 9h --reason x")
    cli.ok("grant add ada image=5 --for 1h --reason x")
    cli.ok("grant add bob image=5 --reason x")
    cli.ok("grant add bob image=6 --reason x")
    cli.ok("grant revoke 3 --reason x")
    cli.later(hours=1)
    assert [o["user"] for o in cli.json("override list")] == ["bob"]
    assert [o["state"] for o in cli.json("override list --all")] == ["expired", "live"]
    assert [o["id"] for o in cli.json("override list --user ada --all")] == [1]
    assert [g["id"] for g in cli.json("grant list")] == [2]
    states = [g["state"] for g in cli.json("grant list --all")]
    assert states == ["expired", "live", "revoked"]
    assert [g["id"] for g in cli.json("grant list --user bob --all")] == [2, 3]
    assert cli.json("grant list --resource image --user ada") == []
    cli.ok("override clear bob image --period day")
    assert cli.json("override list") == []


def test_a_lost_reason_is_shown_where_the_act_is_listed(cli: Any) -> None:
    cli.ok("grant add ada image=5 --reason 'sorry for Monday' --ticket S-1 --as eve")
    (grant,) = cli.json("grant list")
    assert (grant["actor"], grant["reason"], grant["ticket"]) == ("eve", "sorry for Monday", "S-1")


# ---- on call


def test_throttle_on_echoes_its_end_and_prints_the_undo(cli: Any) -> None:
    ran = cli.ok(
        "throttle on --name gpu-melt --resource image --tier free --cap 1/day --for 6h --yes"
        " --reason 'GPUs are melting'"
    )
    assert ran.err == (
        "throttle 1 (gpu-melt) is on: cap 1/day for tier free, image, "
        "until 2025-03-27 16:00 CET\n"
        "undo: quotactl throttle off 1 --reason over\n"
    )
    cli.ok("consume ada image")
    assert cli("consume ada image").code == 4
    assert cli.ok("throttle list -o table").out == (
        "id  name      what                        ends_at               reason\n"
        "────────────────────────────────────────────────────────────────────────────────\n"
        " 1  gpu-melt  cap 1/day for tier free,    2025-03-27 16:00 CET  GPUs are melting\n"
        "              image\n"
    )
    undo = ran.err.splitlines()[1].removeprefix("undo: quotactl ")
    assert cli.ok(undo).err == "throttle 1 (gpu-melt) is off\n"
    cli.ok("consume ada image")
    assert cli.json("throttle list") == []
    assert [t["state"] for t in cli.json("throttle list --all")] == ["lifted"]
    assert cli.json("throttle show gpu-melt")["state"] == "lifted"


def test_the_undo_names_the_ledger_that_was_named(cli: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("QUOTACTL_DB")
    ran = cli.ok("--db prod.db throttle on --resource image --deny --yes --reason x")
    undo = ran.err.splitlines()[1].removeprefix("undo: quotactl ")
    assert undo == "--db prod.db throttle off 1 --reason over"
    cli.ok(undo)


def test_a_throttle_on_everything_needs_a_yes(cli: Any) -> None:
    assert cli("throttle on --scale 25% --floor 1 --reason x").code == 2
    assert cli.json("throttle list") == []
    ran = cli.ok("throttle on --scale 25% --floor 1 --no-expiry --reason x --yes")
    assert ran.err.startswith(
        "throttle 1 is on: scale 25% but at least 1 for all tiers, all resources, with no end\n"
    )
    # It is on already, so there is nothing to ask.
    assert "already on" in cli.ok("throttle on --scale 25% --floor 1 --no-expiry --reason x").err


def test_a_throttle_is_replaced_and_extended(cli: Any) -> None:
    on = "throttle on --resource image --tier free --reason x"
    cli.ok(f"{on} --cap 2/day")
    ran = cli.ok(f"{on} --cap 1/day --replace --until 18:00")
    assert "until 2025-03-27 18:00 CET, in place of 1, for good" in ran.err
    extended = cli.json("throttle extend 2 --until 'tomorrow 09:00' --reason y")
    assert extended["ends_at"] == "2025-03-28T08:00:00Z"


def test_enforcement_is_weakened_for_a_scope_and_brought_back(cli: Any) -> None:
    assert cli("enforcement show").err == "enforcement is on\n"
    assert cli.json("enforcement show") == []
    ran = cli.ok("enforcement shadow --tier free --for 7d --reason 'try it'")
    assert ran.err.splitlines()[1] == "undo: quotactl enforcement on --tier free --reason over"
    cli.ok("consume ada image 3")
    assert cli.json("consume ada image")["would_be"] == "limit_reached"
    assert [s["kind"] for s in cli.json("enforcement show")] == ["shadow"]
    cli.ok(ran.err.splitlines()[1].removeprefix("undo: quotactl "))
    assert cli("consume ada image").code == 3
    cli.ok("enforcement off --resource image --reason x")
    cli.ok("consume ada image 100")


@pytest.mark.parametrize(
    ("set_up", "note"),
    [
        ("throttle on --resource image --cap 1/day --reason x",
         "note: throttle 1 is on: cap 1/day for all tiers, image, until "),
        ("enforcement off --tier free --reason x",
         "note: enforcement is off for tier free, all resources, until "),
        (None, None),
    ],
)  # fmt: skip
def test_who_administers_is_told_what_is_out_of_the_ordinary_and_who_consumes_is_not(
    set_up: str | None, note: str | None, cli: Any
) -> None:
    from datetime import UTC, datetime

    cli.now = datetime.now(UTC)
    if set_up:
        cli.ok(set_up)
    assert cli("tier list -q").err == ""
    assert cli("tier list").err.startswith(note or "")
    said = _on_a_terminal("tier", "list")
    assert (note is None and said == "") or (note is not None and said.startswith(note))
    assert said.count("\n") == (1 if note else 0)
    if note:
        # Nor is one told who consumes by hand: the decision says it.
        assert "note:" not in _on_a_terminal("consume", "ada", "image")
        assert "note:" not in _on_a_terminal("reset", "daily")


def test_a_person_is_told_about_a_new_user_by_consume_and_check(cli: Any) -> None:
    assert _on_a_terminal("check", "ada", "image") == "ada is a new user\n"
    assert _on_a_terminal("consume", "ada", "image") == "ada is a new user\n"
    assert _on_a_terminal("consume", "ada", "image") == ""
    assert _on_a_terminal("consume", "bob", "image", "-q") == ""


def _on_a_terminal(*words: str) -> str:
    """What a command says on stderr, where that is a terminal."""
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "quotactl", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"NO_COLOR": "1"},
        timeout=20,
        check=False,
    )
    ready, _, _ = select.select([ours], [], [], 0)
    said = os.read(ours, 65536).decode().replace("\r\n", "\n") if ready else ""
    os.close(ours)
    os.close(theirs)
    return said


# ---- settings and the file


def test_a_setting_is_set_and_unset(cli: Any) -> None:
    cli.ok("setting set entry_retention 60d")
    by_key = {row["key"]: row for row in cli.json("setting list")}
    assert (by_key["entry_retention"]["value"], by_key["entry_retention"]["default"]) == (
        "60d",
        "35d",
    )
    cli.ok("setting unset entry_retention")
    assert {row["value"] for row in cli.json("setting list")} >= {"35d", "full"}


def test_verify_is_silent_about_a_whole_ledger_and_finds_an_edited_counter(cli: Any) -> None:
    cli.ok("consume ada image 2")
    fine = cli.ok("db verify")
    assert fine.out == "what\twhere\texpected\tfound\n"
    assert fine.err.startswith("no differences in 1 entries, 1 counters,")
    cli.sql("UPDATE counter SET used = 1")
    broken = cli("db verify --json")
    assert broken.code == 8
    assert broken.json["ok"] is False
    assert {"what": "counter.used", "where": "ada image day 2025-03-26T23:00:00Z",
            "expected": 2, "found": 1} in broken.json["differences"]  # fmt: skip


def test_migrate_of_an_up_to_date_ledger_makes_no_backup(cli: Any, tmp_path: Path) -> None:
    ran = cli.ok("db migrate")
    assert ran.err == f"schema {SCHEMA_VERSION} is up to date already\n"
    assert not list(tmp_path.glob("*.backup*"))


def test_migrate_backs_up_first_and_a_step_that_fails_leaves_the_ledger(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlite_utils import Migrations

    from quotactl.engines import schema

    steps = schema.load_migrations()
    now = schema.SCHEMA_VERSION
    failing = True

    @steps()
    def one_more_for_this_test(db: Any) -> None:
        db.execute("ALTER TABLE tier ADD COLUMN colour TEXT")
        if failing:
            raise ValueError("half way")
        db.execute(f"PRAGMA user_version = {now + 1}")

    assert isinstance(steps, Migrations)
    monkeypatch.setattr(schema, "load_migrations", lambda: steps)
    for module in ("schema", "sqlite.door"):
        monkeypatch.setattr(f"quotactl.engines.{module}.SCHEMA_VERSION", now + 1)
    cli.path.chmod(0o640)
    before = cli.dump()
    old = cli("tier list")
    assert (old.code, old.err.count("db migrate")) == (78, 1)

    assert cli("db migrate").code == 1
    assert cli.dump() == before
    cli.later(seconds=1)
    failing = False
    done = cli.json("db migrate")
    backup = Path(done["backup"])
    assert (done["before"], done["after"]) == (now, now + 1)
    assert backup == tmp_path / f"prod.db.backup-schema{now}-20250327T090001Z"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert "colour" in cli.dump()
    cli.path = backup
    assert cli.dump() == before
    assert cli.ok("db migrate").err == f"schema {now + 1} is up to date already\n"


def test_every_list_is_a_bare_array_also_when_it_is_empty(empty: Any) -> None:
    for noun in ("resource", "tier", "limit", "user", "override", "grant", "throttle"):
        assert empty.ok(f"{noun} list --json").out == "[]\n"
        assert empty.ok(f"{noun} list").out.count("\n") == 1
    assert json.loads(empty.ok("audit list --json").out)[0]["action"] == "init"


# ---- what an acceptance from outside had found


def test_a_closed_stream_is_no_failure(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["--db", str(cli.path), "consume", "ada", "image"]) == 0
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert main(["--db", str(cli.path), "tier", "show", "nope"]) == 6
    assert subprocess.run(
        f"exec {sys.executable} -m quotactl --db {cli.path} tier list >&- 2>&-",
        shell=True, check=False,
    ).returncode == 0  # fmt: skip


def test_a_program_gets_the_whole_list(cli: Any) -> None:
    for n in range(130):
        cli.ok(f"user set-tier u{n} plus")
    assert len(cli.json("user list")) == 130
    assert len(cli.ok("user list").out.splitlines()) == 131
    assert len(cli.json("audit list")) == 132
    assert len(cli.json("user list --limit 7")) == 7
    table = cli.ok("user list -o table").out
    assert "u99" in table
    assert "u100" not in table
    assert "the first 100; more with --limit" in table


def test_retired_twice_is_already_so(cli: Any) -> None:
    cli.ok("tier create trial")
    first = cli.json("tier delete trial")
    assert (first["changed"], first["limits"]) == (True, {})
    assert first["retired_at"] is not None
    assert cli.json("tier delete trial")["changed"] is False
    cli.ok("resource create audio")
    assert cli.json("resource delete audio")["changed"] is True
    assert cli.json("resource delete audio")["changed"] is False
    assert cli("tier delete never-there").code == 6


def test_enforcement_that_is_so_already_keeps_its_end_unless_one_is_named(cli: Any) -> None:
    first = cli.json("enforcement off --tier free --for 2h --reason x")
    again = cli.json("enforcement off --tier free --reason x")
    assert (again["id"], again["changed"], again["ends_at"]) == (
        first["id"],
        False,
        first["ends_at"],
    )
    moved = cli.json("enforcement off --tier free --for 5h --reason x")
    assert (moved["id"], moved["changed"]) == (first["id"], True)
    assert moved["ends_at"] > first["ends_at"]
    assert cli.json("status")["enforcement"] == "partial"
    other = cli.json("enforcement shadow --tier free --reason x")
    assert [s["id"] for s in cli.json("enforcement show")] == [other["id"]]


def test_every_override_that_was_set_is_told(cli: Any) -> None:
    made = cli.json("override set bob image=50/day,5/minute --reason x")
    assert [o["limit"] for o in made["overrides"]] == [5, 50]


def test_a_ledger_with_a_step_that_is_not_known_is_newer(cli: Any) -> None:
    cli.sql(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('quotactl', 'm9999_later', 'then')"
    )
    assert cli("status").code == 78
    assert cli("db migrate").code == 78


@pytest.mark.parametrize("words", ["--help", "tier --help", "throttle --help", "report --help"])
def test_groups_have_examples_too(words: str, cli: Any) -> None:
    assert "\nExamples:\n  quotactl " in cli.ok(words).out
