"""Bad input: one clear line, the right exit code, and nothing is changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

BAD = [
    # names that are not there
    ("limit set gold image=3/day", 6, "no tier 'gold'; known: free, plus, pro"),
    ("user set-tier ada gold", 6, "no tier 'gold'"),
    ("user set-tier ada", 2, "name a tier, or --default"),
    ("tier show gold", 6, "no tier 'gold'"),
    ("user list --tier gold", 6, "no tier 'gold'"),
    ("throttle on --tier gold --resource image --deny --reason x", 6, "no tier 'gold'"),
    ("limit set free audio=3/day", 6, "no resource 'audio'; known: image"),
    ("consume ada audio", 6, "no resource 'audio'"),
    ("check ada audio", 6, "no resource 'audio'"),
    ("grant add ada audio=3 --reason x", 6, "no resource 'audio'"),
    ("override set ada audio=3/day --reason x", 6, "no resource 'audio'"),
    ("user block ada --resource audio --reason x", 6, "no resource 'audio'"),
    ("user show nobody", 6, "no user 'nobody'"),
    ("user unblock nobody", 6, "no user 'nobody'"),
    ("override clear nobody", 6, "no user 'nobody'"),
    ("override list --user nobody", 6, "no user 'nobody'"),
    ("reset user nobody --reason x", 6, "no user 'nobody'"),
    ("grant revoke 99 --reason x", 6, "no grant 99"),
    ("throttle off 99 --reason x", 6, "no throttle '99'"),
    ("throttle show smelt", 6, "no throttle 'smelt'"),
    ("refund --entry 99", 6, "no entry 99"),
    ("refund --key nothing", 6, "nothing was consumed under key 'nothing'"),
    ("post 99", 6, "no reservation 99"),
    ("void 99", 6, "no reservation 99"),
    ("audit show 99", 6, "no audit row 99"),
    ("setting set colour red", 6, "no setting 'colour'"),
    # limits and periods
    ("limit set free image=3/fortnight", 2, "period 'fortnight' is not known"),
    ("limit set free image=2/2d", 2,
     "period '2d' is not kept: days follow the calendar; write day, week or month"),
    ("limit set free image=24/24h", 2, "period '24h' is not kept"),
    ("limit set free image=3", 2, "limit '3' has no period"),
    ("limit set free image", 2, "limit 'image' is not of the form RESOURCE=VALUE"),
    ("limit set free image=-1/day", 2, "limit '-1' is not a whole number"),
    ("limit set free image=3/day image=4/day", 2, "resource 'image' is named twice"),
    ("limit set free image=3/day,4/day", 2, "names day twice"),
    ("limit set free image=3/day audio=1/day", 6, "no resource 'audio'"),
    ("override set ada image=3/fortnight --reason x", 2, "period 'fortnight' is not known"),
    ("override clear ada image --period fortnight", 2, "period 'fortnight' is not known"),
    ("throttle on --resource image --cap 3/fortnight --reason x", 2, "period 'fortnight'"),
    ("throttle on --resource image --cap unlimited --reason x", 2, "is not one ceiling"),
    ("throttle on --resource image --scale 25 --reason x", 2, "scale '25' has no percent sign"),
    ("throttle on --resource image --scale 101% --reason x", 2, "scale '101%' is out of range"),
    ("throttle on --resource image --deny --floor 1 --reason x", 2, "a floor goes with a scale"),
    ("throttle on --resource image --deny --cap 1/day --reason x", 2,
     "one of deny, cap, total and scale"),
    ("throttle on --resource image --reason x", 2, "one of deny, cap, total and scale"),
    ("throttle on --resource image --deny --name 42 --reason x", 2, "would be taken for an id"),
    # amounts
    ("consume ada image 0", 2, "amount 0 is out of range"),
    ("consume ada image -1", 2, "no such option: -1; a quantity is 1 or more"),
    ("consume -- ada image -1", 2, "amount '-1' is not a whole number"),
    ("consume ada image 1.5", 2, "amount '1.5' is not a whole number"),
    ("consume ada image 9223372036854775808", 2, "is out of range"),
    ("consume ada image 9007199254740992", 2, "is out of range"),
    ("consume ada image ٣", 2, "is not a whole number"),
    ("check ada image 0", 2, "amount 0 is out of range"),
    ("reserve ada image 0", 2, "amount 0 is out of range"),
    ("grant add ada image=0 --reason x", 2, "amount 0 is out of range"),
    ("grant add ada image=1.5 --reason x", 2, "amount '1.5' is not a whole number"),
    ("grant add ada image=1 --priority 1.5 --reason x", 2, "'1.5' is not a valid int"),
    ("grant add ada image=1 --priority 9999999999 --reason x", 2, "priority 9999999999 is out of"),
    ("refund --key k1 --amount 0", 2, "amount 0 is out of range"),
    ("refund --key k1 --amount 9", 7, "has 1 units left to refund, not 9"),
    ("refund --key k1 --entry 1", 2, "a refund names either a key or an entry"),
    ("refund", 2, "a refund names either a key or an entry"),
    ("refund --entry 9223372036854775808", 2, "is no id"),
    ("refund --entry -1", 2, "entry '-1' is no id"),
    ("post one", 2, "reservation 'one' is no id"),
    ("void 0", 2, "reservation '0' is no id"),
    ("user list --limit 0", 2, "limit 0 is out of range"),
    ("audit list --limit -3", 2, "limit '-3' is not a whole number"),
    ("consume ada", 2, "a user and a resource are needed"),
    ("consume ada image --batch -", 2, "--batch takes users and keys from its lines"),
    # keys that were used for something else
    ("consume ada image 2 --key k1", 7, "key 'k1' was used for another request"),
    ("consume bob image --key k1", 7, "key 'k1' was used for another request"),
    # ends
    ("user block ada --for 2 --reason x", 2, "duration '2' is not understood; write the unit"),
    ("user block ada --for 0h --reason x", 2, "duration '0h' is empty"),
    ("reserve ada image --ttl 120", 2, "duration '120' is not understood"),
    ("reserve ada image --ttl 32d", 2, "is out of range"),
    ("grant add ada image=1 --until 2025-03-26T09:00:00Z --reason x", 2, "is in the past"),
    ("throttle on --resource image --deny --until 2020-01-01T00:00:00Z --reason x", 2,
     "the end 2020-01-01T00:00:00Z is in the past; it is 2025-03-27T09:00:00Z now"),
    ("throttle on --resource image --deny --until 18 --reason x", 2, "time '18' is not understood"),
    ("override set ada image=9/day --for 2h --until 18:00 --reason x", 2,
     "both a duration and an end are given"),
    ("throttle on --resource image --deny --for 2h --no-expiry --reason x", 2,
     "both an end and none are given"),
    ("throttle extend 1 --reason x", 2, "no new end is given"),
    ("setting set entry_retention 12", 2, "duration '12' is not understood"),
    ("setting set durability some", 2, "durability 'some' is not known"),
    # reasons
    ("user block ada", 2, "a block needs a reason; --reason 'why'"),
    ("user block ada --reason ''", 2, "reason is empty"),
    ("user block ada --reason '  '", 2, "reason is empty"),
    ("override set ada image=9/day", 2, "an override needs a reason"),
    ("grant add ada image=9", 2, "a grant needs a reason"),
    ("throttle on --resource image --deny", 2, "a throttle needs a reason"),
    ("throttle on --deny", 2, "a throttle needs a reason"),
    ("throttle off 1", 2, "lifting a throttle needs a reason"),
    ("throttle extend 1 --for 1h", 2, "moving a throttle's end needs a reason"),
    ("enforcement shadow", 2, "changing enforcement needs a reason"),
    ("enforcement on", 2, "changing enforcement needs a reason"),
    ("reset user ada", 2, "a reset needs a reason"),
    ("user set-tier ada plus --ticket ''", 2, "ticket is empty"),
    # ids
    ("consume 'a\x1b[2Jb' image", 2, r"user 'a\x1b[2Jb' has a control character in it"),
    ("user set-tier 'a\nb' plus", 2, r"user 'a\nb' has a control character in it"),
    (f"consume {'x' * 257} image", 2, "user has 257 characters; at most 256"),
    ("consume '' image", 2, "user is empty"),
    (f"consume ada image --key {'k' * 257}", 2, "key has 257 characters"),
    ("tier create 'a b'", 2, "tier 'a b' is no name"),
    ("resource create image=", 2, "resource 'image=' is no name"),
    ("tier delete plus --as 'r\x07t'", 2, "has a control character in it"),
    # what can't be
    ("tier delete free", 7, "tier 'free' is the default tier"),
    ("tier delete plus", 7, "tier 'plus' has 1 user; quotactl tier delete plus --move-to TIER"),
    ("tier delete plus --move-to plus", 2, "can't be moved to itself"),
    ("tier delete plus --move-to gold", 6, "no tier 'gold'"),
    ("tier create free --protected", 7, "tier 'free' exists, not protected"),
    ("tier create plus --default", 7, "tier 'plus' exists, not as the default"),
    ("resource create image --unit second", 7, "resource 'image' exists, with the unit 'image'"),
    ("throttle on --tier free --resource image --cap 2/day --reason x", 7,
     "throttle 1 (melt) is on for the same: cap 1/day for tier free, image; add --replace"),
    ("user unblock eve --resource image", 7, "eve is blocked from every resource"),
    # confirmations, with nobody there to ask
    ("throttle on --deny --reason x", 2,
     "needs confirmation: This is for every resource"),
    ("tier delete plus --move-to free", 2, "Delete tier plus and move its 1 user to free?"),
    ("resource delete image", 2, "Delete resource image, limited on free, plus, pro?"),
    ("policy apply -f less.toml", 2, "Remove tier.pro, tier.pro.limits.image?"),
    # policy files
    ("policy apply -f missing.toml", 6, "no policy file 'missing.toml'"),
    ("policy apply -f .", 2, "is a folder"),
    ("policy apply -f broken.toml", 2, "not TOML: Expected '=' after a key"),
    ("policy apply -f broken.toml", 2, "at line 2, column 6"),
    ("policy apply -f latin.toml", 2, "is not UTF-8 text"),
    ("policy apply -f deep.toml", 2, "not TOML: nested too deeply"),
    ("policy apply -f unknown.toml", 2,
     "tier.free.limit is not a key of a policy file; known here: limits, protected"),
    ("policy apply -f fortnight.toml", 2,
     "tier.free.limits.image: period 'fortnight' is not known"),
    ("policy apply -f nowhere.toml", 2, "zone 'Mars/Olympus' is not known"),
    ("policy diff -f nowhere.toml", 2, "zone 'Mars/Olympus' is not known"),
    ("policy apply -f used.toml --yes", 7, "tier 'plus' is not in the file but has 1 user"),
    ("policy diff -f unknown.toml", 2, "tier.free.limit is not a key of a policy file"),
    ("policy diff", 2, "missing option"),
    # CSV files
    ("user import missing.csv", 6, "no file 'missing.csv'"),
    ("user import noheader.csv", 2, "noheader.csv line 1: no column 'user'"),
    ("user import notier.csv", 2, "notier.csv line 1: no column 'tier'"),
    ("user import gold.csv", 6, "gold.csv line 3: no tier 'gold'; known: free, plus, pro"),
    # the schedule
    ("reset install", 2, "one kind of schedule is needed; --cron or --systemd"),
    ("reset install --cron --systemd", 2, "one kind of schedule is needed"),
    ("enforcement show -o yaml", 2, "'yaml' is none of table, json"),
    ("consume --batch - -o csv", 2, "a batch answers in JSON lines"),
    ("consume --batch missing.jsonl", 6, "no batch file 'missing.jsonl'"),
]  # fmt: skip


@pytest.fixture
def busy(cli: Any, tmp_path: Path) -> Any:
    """A ledger with something of everything in it, and files of all kinds."""
    cli.ok("consume ada image --key k1")
    cli.ok("user set-tier bob plus")
    cli.ok("user block eve --reason x")
    cli.ok(
        "throttle on --name melt --tier free --resource image --cap 1/day --for 6h --yes --reason x"
    )
    policy = (tmp_path / "policy.toml").read_text()
    for name, text in {
        "broken.toml": 'zone = "UTC"\ntier free\n',
        "unknown.toml": 'default_tier = "free"\n[tier.free]\nlimit = "3/day"\n',
        "fortnight.toml": policy.replace("3/day", "3/fortnight"),
        "nowhere.toml": policy.replace("Europe/Rome", "Mars/Olympus"),
        "less.toml": policy[: policy.index("[tier.pro]")],
        "used.toml": policy.replace("tier.plus", "tier.other"),
        "deep.toml": "x = " + "[" * 5000,
        "noheader.csv": "ada,plus\n",
        "notier.csv": "user,plan\nada,plus\n",
        "gold.csv": "user,tier\nada,plus\nbob,gold\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.toml").write_bytes(b'zone = "Europe/Z\xfcrich"\n')
    return cli


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_bad_input_gets_one_line_the_right_code_and_changes_nothing(
    words: str, code: int, message: str, busy: Any
) -> None:
    before = busy.dump()
    ran = busy(words)
    assert message in ran.err
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("quotactl: ")
    assert ran.err.count("\n") == 1
    assert busy.dump() == before


def test_bad_input_over_json_has_its_code_and_hint(busy: Any) -> None:
    ran = busy("limit set free image=2/2d --json")
    assert ran.code == 2
    assert ran.json["error"]["code"] == "invalid_input"
    assert ran.json["error"]["hint"] == "write day, week or month"


def _not_sqlite(path: Path) -> None:
    path.write_text("a shopping list\n" * 100)


def _other_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE shopping (item TEXT)")
    connection.close()


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {0x71756F31}")
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE ledger (id INTEGER)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda path: None, 6, "no ledger at other.db; make one: quotactl init other.db"),
        (Path.mkdir, 78, "other.db is a folder, not a ledger"),
        (_not_sqlite, 78, "other.db is not a SQLite file"),
        (_other_sqlite, 78, "other.db is not a quotactl ledger"),
        (_newer, 78, "other.db has schema 99, this quotactl knows"),
        (Path.touch, 78, "other.db is not a quotactl ledger"),
    ],
)
@pytest.mark.parametrize("command", ["consume ada image", "tier list", "db migrate", "db verify"])
def test_a_path_that_is_no_ledger_of_ours_is_refused_and_left_alone(
    command: str, make: Any, code: int, message: str, cli: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    make(other)
    before = other.read_bytes() if other.is_file() else None
    present = sorted(tmp_path.iterdir())
    ran = cli(f"{command} --db other.db")
    assert message in ran.err
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert (other.read_bytes() if other.is_file() else None) == before
    assert sorted(tmp_path.iterdir()) == present


def test_no_ledger_named_is_a_usage_error(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUOTACTL_DB")
    ran = cli("tier list")
    assert (ran.code, ran.err) == (
        2,
        "quotactl: no ledger named; give --db PATH or set QUOTACTL_DB\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("init prod.db", 7, "prod.db exists already; a ledger is never overwritten"),
        ("init new.db --zone Mars/Olympus", 2, "zone 'Mars/Olympus' is not known"),
        ("init new.db --name ''", 2, "name is empty"),
        ("init no/such/folder/new.db", 6, "no folder no/such/folder"),
        ("init new.db --as ''", 2, "actor is empty"),
        ("init new.db --as 'r\x07t'", 2, "has a control character in it"),
    ],
)
def test_init_refuses_what_it_can_not_make_and_leaves_nothing(
    words: str, code: int, message: str, cli: Any, tmp_path: Path
) -> None:
    before = cli.dump()
    ran = cli(words)
    assert message in ran.err
    assert ran.code == code
    assert cli.dump() == before
    assert not (tmp_path / "new.db").exists()
