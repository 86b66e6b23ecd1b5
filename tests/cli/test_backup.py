"""`db backup` and `db restore`: whole, checked, never in the way, and nothing lost in silence."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.engines.schema import SCHEMA_VERSION
from quotactl.engines.sqlite import backup as files
from quotactl.engines.sqlite import door
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.whole import publish
from quotactl.errors import LedgerBusy, LedgerCorrupt
from quotactl.operations import audit

HERE = Path(__file__).parent
WORKER = HERE.parent / "processes" / "worker.py"


class Process:
    """A process with the ledger open, asked line by line."""

    def __init__(self, path: Path, at: str) -> None:
        source = str(Path(quotactl.__file__).resolve().parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        )
        assert self._line()["answer"] == "ready"
        self.ask("connect", path=str(path), at=at)

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def tell(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def ask(self, do: str, **arguments: Any) -> Any:
        self.tell(do, **arguments)
        line = self._line()
        return line.get("answer", line)

    def answer(self) -> Any:
        line = self._line()
        return line.get("answer", line)

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture
def gateway(cli: Any) -> Iterator[Process]:
    process = Process(cli.path, cli.now.isoformat())
    yield process
    process.end()


def made(cli: Any, *more: str) -> Path:
    return Path(cli.json("db backup", *more)["path"])


def content(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def test_a_backup_is_the_ledger_and_says_what_is_in_it(cli: Any) -> None:
    cli.ok("consume ada image 2")
    told = cli.json("db backup")
    backup = Path(told["path"])
    newest = cli.json("audit verify")["hash"]
    assert told == {
        "path": str(cli.path.parent / "prod.db.backups" / "prod.db-20250327T090000Z.backup"),
        "bytes": backup.stat().st_size,
        "entries": 1,
        "audit_hash": newest,
        "removed": [],
    }
    assert content(backup) == cli.dump()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.parent.stat().st_mode & 0o777 == 0o700


def test_a_backup_is_one_file_and_leaves_nothing_else(cli: Any) -> None:
    backup = made(cli)
    assert [file.name for file in backup.parent.iterdir()] == [backup.name]


def test_a_backup_changes_nothing_not_even_the_audit(cli: Any) -> None:
    before = cli.dump()
    made(cli)
    assert cli.dump() == before


def test_a_backup_is_as_open_to_the_group_as_the_ledger(cli: Any) -> None:
    cli.path.chmod(0o664)
    backup = made(cli)
    assert backup.stat().st_mode & 0o777 == 0o660
    # And its folder is: else nobody of the group could get at it, or make another.
    assert backup.parent.stat().st_mode & 0o7777 == 0o2770


def test_two_in_one_second_have_two_names_and_a_named_file_is_not_overwritten(
    cli: Any, tmp_path: Path
) -> None:
    assert made(cli).name == "prod.db-20250327T090000Z.backup"
    assert made(cli).name == "prod.db-20250327T090000Z-2.backup"
    named = tmp_path / "mine.db"
    named.write_text("precious")
    assert cli(f"db backup {named}").code == 2
    assert named.read_text() == "precious"
    assert cli("db backup none/mine.db").code == 6
    assert cli("db backup other.db").code == 0


def test_a_name_that_another_run_takes_meanwhile_is_not_taken_twice(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:

    def late(temporary: Path, final: Path) -> None:
        if final.name.endswith("00Z.backup"):
            final.write_text("the other run's")
        publish(temporary, final)

    monkeypatch.setattr("quotactl.operations.backup.publish", late)
    assert made(cli).name == "prod.db-20250327T090000Z-2.backup"


def test_a_restored_ledger_is_for_whom_the_one_before_was(cli: Any) -> None:
    backup = made(cli)
    cli.path.chmod(0o660)
    assert cli.ok(f"db restore {backup} --yes")
    assert cli.path.stat().st_mode & 0o777 == 0o660


def test_the_newest_are_kept_and_only_backups_of_this_ledger_go(cli: Any) -> None:
    folder = cli.path.parent / "kept"
    folder.mkdir()
    foreign = [folder / name for name in ("notes", "other.db-20200101T000000Z.backup", "prod.db")]
    for file in foreign:
        file.write_text("not a backup of this ledger")
    first = made(cli, str(folder))
    cli.later(hours=1)
    second = made(cli, str(folder))
    cli.later(hours=1)
    told = cli.json("db backup", str(folder), "--keep", "2")
    assert told["removed"] == [str(first)]
    assert second.exists()
    cli.ok("setting set backup_keep 1")
    assert cli("setting set backup_keep none").code == 2
    assert len(cli.json("db backup", str(folder))["removed"]) == 2
    assert all(file.exists() for file in foreign)


def test_of_many_in_one_second_the_last_is_the_newest_and_stays(cli: Any) -> None:
    for number in range(1, 5):
        cli.ok("tier create", f"t{number}")
        last = made(cli, "--keep", "2")
        assert last.exists()
    assert last.name == "prod.db-20250327T090000Z-4.backup"
    assert "t4" in content(last)


def test_a_ledger_that_does_not_add_up_gives_no_backup_and_costs_no_older_one(cli: Any) -> None:
    cli.ok("consume ada image")
    older = made(cli)
    cli.sql("UPDATE counter SET used = 0")
    ran = cli("db backup --keep 1")
    assert (ran.code, ran.out) == (78, "")
    assert "counter.used" in ran.err and "quotactl db verify has them all" in ran.err
    assert [file.name for file in older.parent.iterdir()] == [older.name]


def test_keep_without_a_folder_is_refused(cli: Any) -> None:
    assert cli("db backup mine.db --keep 2").code == 2


def test_a_backup_while_others_write_is_whole_and_what_was_acknowledged_before_is_in_it(
    cli: Any, gateway: Process
) -> None:
    cli.ok("user set-tier ada pro")
    other = Process(cli.path, cli.now.isoformat())
    try:
        for process in (gateway, other):
            process.tell("consume_many", count=300, user="ada")
        told = [cli.json("db backup") for _ in range(5)]
        assert [process.answer() for process in (gateway, other)] == [300, 300]
    finally:
        other.end()
    entries = [one["entries"] for one in told]
    assert entries == sorted(entries)
    assert cli.json("db backup")["entries"] == 600


def test_under_load_the_newest_are_kept_by_count_and_each_is_whole(
    cli: Any, gateway: Process
) -> None:
    cli.ok("user set-tier ada pro")
    gateway.tell("consume_many", count=300, user="ada")
    for number in range(4):
        cli.later(minutes=1)
        told = cli.json("db backup --keep 2")
        kept = sorted(Path(told["path"]).parent.iterdir())
        assert [len(kept), str(kept[-1])] == [min(number + 1, 2), told["path"]]
    assert gateway.answer() == 300
    for backup in kept:
        assert cli(f"db verify --db {backup}").code == 0


def test_a_restore_without_a_terminal_says_what_is_lost_and_the_command(cli: Any) -> None:
    backup = made(cli)
    cli.ok("consume ada image")
    cli.ok("tier create trial")
    before = cli.dump()
    ran = cli(f"db restore {backup} --reason 'wrong import'")
    assert ran.code == 2
    assert "what happened since is lost: 1 entry, 1 act" in ran.err
    assert f"quotactl db restore {backup} --reason 'wrong import' --yes" in ran.err
    assert cli.dump() == before
    assert not list(cli.path.parent.glob("*restor*"))


def test_a_restore_brings_back_what_was_and_keeps_the_old_ledger_and_says_so_in_the_audit(
    cli: Any,
) -> None:
    cli.ok("consume ada image 2")
    backup = made(cli)
    kept = cli.json("audit verify")["hash"]
    cli.ok("consume ada image 1")
    lost = cli.dump()
    told = cli.json(f"db restore {backup} --reason oops --yes --as eve")
    assert (told["entries"], told["entries_lost"], told["acts_lost"]) == (1, 1, 0)
    assert cli.json("check ada image")["used"] == 2
    act = cli.json("audit list")[-1]
    assert (act["action"], act["actor"], act["reason"]) == ("db.restore", "eve", "oops")
    assert act["before"] == {"entries_lost": 1, "acts_lost": 0}
    assert act["after"] == {"audit_hash": kept, "entries": 1}
    cli.ok(f"audit verify --expect {kept}")
    assert cli("db verify").code == 0
    with closing(sqlite3.connect(told["before"], isolation_level=None)) as old:
        # That this file stands no more was the last thing that was written into it.
        old.execute("UPDATE ledger SET policy_version = policy_version - 1")
    assert content(Path(told["before"])) == lost
    names = {file.name for file in cli.path.parent.iterdir()}
    assert not {name for name in names if name.endswith(("-wal", "-shm", ".restoring"))}
    assert cli.path.stat().st_mode & 0o777 == 0o600
    assert backup.exists()
    assert [file.name for file in backup.parent.iterdir()] == [backup.name]


def test_a_restored_ledger_is_the_group_s_as_the_old_one_was(cli: Any) -> None:
    backup = made(cli)
    cli.path.chmod(0o660)
    told = cli.json(f"db restore {backup} --yes")
    for file in (cli.path, Path(told["before"])):
        assert file.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("answer", ["", "n", "yes please", "y"])
def test_on_a_terminal_a_restore_asks_and_takes_nothing_but_yes_for_one(
    cli: Any, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = made(cli)
    cli.ok("consume ada image")
    before = cli.dump()
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: f"{answer}\n")
    ran = cli(f"db restore {backup}")
    assert "is lost: 1 entry" in ran.err and "[y/N]" in ran.err
    assert (ran.code, cli.dump() == before) == ((0, False) if answer == "y" else (2, True))


def test_a_process_that_has_the_ledger_open_goes_over_to_the_restored_one(
    cli: Any, gateway: Process
) -> None:
    backup = made(cli)
    assert gateway.ask("consume")["used"] == 1
    assert gateway.ask("consume")["used"] == 2
    told = cli.json(f"db restore {backup} --yes")
    assert gateway.ask("check")["used"] == 0, "reading too"
    assert gateway.ask("consume")["used"] == 1
    assert cli.json("check ada image")["used"] == 1, "nothing went into the old file"
    assert gateway.ask("close") is None
    assert cli.json("check ada image")["used"] == 1, "nor took its closing the new one's WAL"
    assert cli("db verify").code == 0
    assert "'ada'" in content(Path(told["before"]))


def test_a_process_whose_ledger_is_gone_is_refused_and_does_not_write_into_nowhere(
    cli: Any, gateway: Process
) -> None:
    gateway.ask("consume")
    moved = cli.path.with_name("moved.db")
    cli.path.rename(moved)
    assert gateway.ask("consume")["error"]["code"] == "not_found"
    assert gateway.ask("check")["error"]["code"] == "not_found"
    moved.rename(cli.path)
    assert gateway.ask("consume")["used"] == 2


def test_what_writers_were_told_before_and_after_a_restore_is_where_they_were_told(
    cli: Any, gateway: Process
) -> None:
    cli.ok("user set-tier ada pro")
    backup = made(cli)
    other = Process(cli.path, cli.now.isoformat())
    try:
        for process in (gateway, other):
            process.tell("consume_many", count=400, user="ada")
        told = cli.json(f"db restore {backup} --yes")
        assert [process.answer() for process in (gateway, other)] == [400, 400]
    finally:
        other.end()
    with closing(sqlite3.connect(told["before"])) as connection:
        (before,) = connection.execute("SELECT count(*) FROM entry").fetchone()
    assert before == told["entries_lost"]
    with closing(sqlite3.connect(cli.path)) as connection:
        (after,) = connection.execute("SELECT count(*) FROM entry").fetchone()
    assert before + after == 800
    assert cli("db verify").code == 0


def test_a_wal_of_the_old_ledger_is_never_applied_to_the_new_one(cli: Any) -> None:
    backup = made(cli)
    # As a crash leaves it: the ledger is gone or torn, and its WAL is not empty.
    holder = sqlite3.connect(cli.path)
    holder.execute("SELECT count(*) FROM entry").fetchone()
    cli.ok("consume ada image 3")
    wal = cli.path.with_name("prod.db-wal").read_bytes()
    assert wal
    holder.close()
    cli.path.write_bytes(b"\0" * 4096)
    cli.path.with_name("prod.db-wal").write_bytes(wal)
    told = cli.json(f"db restore {backup} --yes")
    assert told["entries_lost"] is None
    assert cli.json("check ada image")["used"] == 0
    assert cli("db verify").code == 0
    assert Path(told["before"] + "-wal").read_bytes() == wal


def test_a_ledger_that_is_gone_can_be_restored(cli: Any) -> None:
    backup = made(cli)
    cli.path.unlink()
    assert "there is no ledger" in cli(f"db restore {backup}").err
    assert cli.json(f"db restore {backup} --yes")["before"] is None
    assert cli("db verify").code == 0


@pytest.mark.parametrize("damage", ["torn", "text", "edited"])
def test_a_backup_that_is_not_whole_is_refused_and_nothing_happens(cli: Any, damage: str) -> None:
    cli.ok("consume ada image")
    backup = made(cli)
    if damage == "torn":
        os.truncate(backup, backup.stat().st_size // 2)
    elif damage == "text":
        backup.write_text("no ledger")
    else:
        with closing(sqlite3.connect(backup)) as connection, connection:
            connection.execute("UPDATE counter SET used = 0")
    before = cli.dump()
    ran = cli(f"db restore {backup} --yes")
    assert ran.code == 78
    if damage == "edited":
        assert "does not add up: counter.used" in ran.err and "take another one" in ran.err
    assert cli.dump() == before
    assert not list(cli.path.parent.glob("*restor*"))


def test_damage_that_shows_in_the_copy_is_told_of_the_backup(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = made(cli)

    def damaged(copy: files.Copy) -> list[str]:
        raise LedgerCorrupt(f"{copy.path} is damaged: malformed", hint="restore a backup")

    monkeypatch.setattr(files.Copy, "damage", damaged)
    ran = cli(f"db restore {backup} --yes")
    assert (ran.code, ran.err) == (
        78, f"quotactl: {backup} is damaged: malformed; take another one\n",
    )  # fmt: skip


def test_a_backup_of_a_newer_version_is_refused_and_the_ledger_itself_is_none(cli: Any) -> None:
    backup = made(cli)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("PRAGMA user_version = 99")
    ran = cli(f"db restore {backup} --yes")
    assert (ran.code, "schema 99" in ran.err) == (78, True)
    assert cli("db restore prod.db --yes").code == 2
    assert cli("db restore none.backup --yes").code == 6


def test_a_backup_of_an_older_version_is_restored_and_brought_up_to_date(cli: Any) -> None:
    older = cli.path.with_name("older.db")
    shutil.copy(HERE.parent / "packaging" / "schema1.db", older)
    before = older.read_bytes()
    told = cli.json(f"db restore {older} --yes")
    assert (told["schema_before"], told["schema"]) == (1, SCHEMA_VERSION)
    assert cli("db verify").code == 0
    assert older.read_bytes() == before


def test_a_backup_of_another_ledger_is_named_as_one_before_it_is_asked(cli: Any) -> None:
    cli.ok("init other.db --name other")
    cli.ok("--db other.db db backup copy.db")
    ran = cli("db restore copy.db")
    assert "the ledger is prod, the backup of other" in ran.err


def test_a_restore_waits_for_the_turn_and_gives_up_in_time(
    cli: Any, gateway: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = made(cli)
    monkeypatch.setattr(files, "BUSY_TIMEOUT_S", 0.05)
    gateway.tell("hold_the_turn")
    assert gateway.answer() == "holding"
    before = cli.dump()
    assert cli(f"db restore {backup} --yes").code == 75
    assert cli.dump() == before
    gateway.ask("check")


def test_a_long_read_makes_a_restore_busy_and_leaves_all_as_it_was(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = made(cli)
    monkeypatch.setattr(files, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(cli.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchone()
        cli.ok("consume ada image")
        with pytest.raises(LedgerBusy), files.swapping(cli.path):
            pass
        assert cli(f"db restore {backup} --yes").code == 75
    assert cli.json("check ada image")["used"] == 1
    assert not list(cli.path.parent.glob("*restor*"))


def test_threads_of_one_process_go_over_together(cli: Any) -> None:
    backup = made(cli)
    with quotactl.connect(cli.path, clock=lambda: cli.now) as q:
        q.consume(user="ada", resource="image")
        cli.ok(f"db restore {backup} --yes")
        threads = [
            threading.Thread(target=q.consume, kwargs={"user": "ada", "resource": "image"})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert q.check(user="ada", resource="image").used == 3
        assert q.verify().ok


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("asks_meanwhile", [False, True])
def test_a_gateway_under_load_goes_over_with_its_next_request(
    cli: Any, monkeypatch: pytest.MonkeyPatch, asks_meanwhile: bool, waits: bool
) -> None:
    # What the name means is looked up by none of those that follow.
    monkeypatch.setattr(door, "LOOK_S", 3600)
    cli.ok("limit set free image=1000/day")
    backup = made(cli)
    with quotactl.connect(cli.path, clock=lambda: cli.now) as q:
        for _ in range(door.LOOKS_FIRST + 9):
            before = q.consume(user="ada", resource="image")
        swap = files.swap

        def asked_meanwhile(*given: Any) -> None:
            if asks_meanwhile:
                # So that it knows all of the old file, as that is for the last time.
                for _ in range(2):
                    q.check(user="ada", resource="image")
            swap(*given)

        monkeypatch.setattr(files, "swap", asked_meanwhile)
        cli.ok(f"db restore {backup} --reason oops --yes")
        if waits:
            monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)
        after = q.consume(user="ada", resource="image")
        assert after.used < before.used
        assert q.check(user="ada", resource="image").used == after.used
        assert q.verify().ok


# ---- what `audit verify --expect` tells, given a hash that was kept


def kept_hash(cli: Any) -> str:
    for tier in ("a", "b", "c"):
        cli.ok(f"tier create {tier}")
    told: str = cli.json("reset daily")["audit_hash"]
    return told


SWAP = """
UPDATE audit SET id = -3 WHERE id = 3;
UPDATE audit SET id = 3 WHERE id = 4;
UPDATE audit SET id = 4 WHERE id = -3
"""


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET actor = 'nobody' WHERE id = 3",
        "DELETE FROM audit WHERE id = 3",
        "DELETE FROM audit WHERE id = 5",
        SWAP,
        f"INSERT INTO audit (id, at_ms, actor, action, hash) VALUES (6, 0, 'x', 'y', '{'f' * 64}')",
        "DELETE FROM audit",
    ],
    ids=["edited", "removed", "last removed", "reordered", "appended", "all removed"],
)
def test_given_the_last_known_hash_every_change_of_rows_is_told(cli: Any, edit: str) -> None:
    known = kept_hash(cli)
    cli.ok(f"audit verify --expect {known}")
    cli.sql(
        "DROP TRIGGER audit_is_kept; DROP TRIGGER audit_is_immutable; PRAGMA foreign_keys = OFF;"
        + edit
    )
    assert cli(f"audit verify --expect {known}").code == 8


def rewritten(cli: Any, edit: str) -> None:
    """Edit rows of the audit and give all of them new ids and hashes that fit."""
    with closing(sqlite3.connect(cli.path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        for trigger in ("audit_is_kept", "audit_is_immutable"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(edit)
        rows = [dict(row) for row in connection.execute("SELECT * FROM audit ORDER BY id")]
        connection.execute("DELETE FROM audit")
        previous = audit.GENESIS
        for number, row in enumerate(rows, 1):
            row["id"] = number
            row["hash"] = previous = audit.row_hash(previous, row)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO audit VALUES ({marks})", tuple(row.values()))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET actor = 'nobody' WHERE id = 3",
        "DELETE FROM audit WHERE id = 3",
        "UPDATE audit SET id = iif(id = 3, 40, id)",
        f"INSERT INTO audit (id, at_ms, actor, action, hash) VALUES (0, 0, 'x', 'y', '{'f' * 64}')",
    ],
    ids=["edited", "removed", "reordered", "put in"],
)
def test_a_chain_that_was_made_anew_holds_and_is_told_by_the_known_hash(
    cli: Any, edit: str
) -> None:
    known = kept_hash(cli)
    rewritten(cli, edit)
    assert cli("audit verify").code == 0, "nothing but the hash that was kept tells"
    ran = cli(f"audit verify --expect {known}")
    assert ran.code == 8


def test_acts_that_came_after_the_known_hash_are_no_difference(cli: Any) -> None:
    known = kept_hash(cli)
    cli.ok("tier create d")
    assert cli(f"audit verify --expect {known}").code == 0
