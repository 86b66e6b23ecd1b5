"""`doctor`: what it finds bad, what it only notes, and that it changes nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from quotactl.reports import doctor


def found(cli: Any, check: str) -> dict[str, Any]:
    """One check of a run."""
    ran = cli("doctor --json")
    (finding,) = [f for f in ran.json["findings"] if f["check"] == check]
    assert ran.json["ok"] == (ran.code == 0)
    assert ran.code in (0, 8)
    result: dict[str, Any] = finding
    return result


file_system_of = doctor.file_system_of


@pytest.fixture(autouse=True)
def _on_a_good_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "file_system_of", lambda _path: "ext4")
    monkeypatch.setattr(doctor, "ROOM_MIN", 0)


def test_a_ledger_in_good_health_has_every_check_and_exit_0(cli: Any) -> None:
    cli.ok("consume ada image")
    before = cli.dump()
    ran = cli("doctor --json")
    assert (ran.code, ran.json["ok"]) == (0, True), ran
    assert [f["check"] for f in ran.json["findings"]] == [
        "file", "folder", "file system", "room", "wal", "sqlite", "schema", "integrity", "book",
        "audit", "days", "clock", "notification",
    ]  # fmt: skip
    assert all(
        set(f) == {"check", "ok", "severity", "detail", "hint"} for f in ran.json["findings"]
    )
    assert cli.dump() == before
    assert cli.ok("doctor -q").out == ""
    assert cli.ok("doctor").err == "all is well\n"


def test_a_ledger_that_everybody_can_read_is_a_finding_and_exit_8(cli: Any) -> None:
    cli.path.chmod(0o644)
    finding = found(cli, "file")
    assert not finding["ok"]
    assert finding["hint"] == f"chmod o= {cli.path}"
    ran = cli("doctor")
    assert ran.code == 8
    assert "bad: file" in ran.err


def test_a_folder_that_everybody_can_write_is_a_finding(cli: Any) -> None:
    cli.path.parent.chmod(0o777)
    try:
        assert not found(cli, "folder")["ok"]
    finally:
        cli.path.parent.chmod(0o700)


def test_a_network_s_file_system_is_a_finding(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "file_system_of", lambda _: "nfs4")
    assert not found(cli, "file system")["ok"]


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path} nfs rw 0 0\nc /elsewhere tmpfs rw 0 0\n")
    assert file_system_of(tmp_path / "prod.db", mounts) == "nfs"
    assert file_system_of(Path("/x/prod.db"), mounts) == "ext4"
    assert file_system_of(Path("/x"), tmp_path / "none") is None


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ((3, 40, 1), "note"), ((3, 44, 5), "note"), ((3, 44, 6), "fine"), ((3, 45, 0), "note"),
        ((3, 50, 6), "note"), ((3, 50, 7), "fine"), ((3, 51, 2), "note"), ((3, 51, 3), "fine"),
        ((3, 52, 0), "fine"),
    ],
)  # fmt: skip
def test_the_library_s_version_is_named_and_noted_where_it_has_the_fault(
    version: tuple[int, ...], severity: str
) -> None:
    checked = doctor.sqlite(version)
    assert checked.severity == severity
    assert ".".join(map(str, version)) in checked.detail


def test_what_does_not_add_up_is_a_finding(cli: Any) -> None:
    cli.ok("consume ada image")
    cli.sql("UPDATE counter SET used = 0")
    assert "counter.used" in found(cli, "book")["detail"]


def test_a_broken_chain_is_a_finding(cli: Any) -> None:
    cli.sql("DROP TRIGGER audit_is_immutable; UPDATE audit SET actor = 'nobody' WHERE id = 1")
    assert not found(cli, "audit")["ok"]


def test_an_index_that_has_lost_a_row_is_a_finding(cli: Any) -> None:
    cli.ok("consume ada image")
    cli.ok("consume bob image")
    # Names of users are looked up in an index that is another's by now.
    cli.sql(
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = (SELECT rootpage "
        "FROM sqlite_master WHERE name = 'resource_live') WHERE name = 'sqlite_autoindex_user_1'"
    )
    assert cli("doctor -q").code == 8


def test_a_day_that_waits_for_hours_is_a_finding_and_a_fresh_one_a_note(cli: Any) -> None:
    cli.ok("consume ada image")
    cli.now += timedelta(hours=14, minutes=30)
    assert found(cli, "days")["severity"] == "note"
    cli.now += timedelta(hours=4)
    finding = found(cli, "days")
    assert not finding["ok"]
    assert "2025-03-27" in finding["detail"]
    cli.ok("reset daily")
    assert found(cli, "days")["severity"] == "fine"


def test_a_clock_behind_the_newest_entry_is_a_finding(cli: Any) -> None:
    cli.later(hours=2)
    cli.ok("consume ada image")
    cli.later(hours=-2)
    assert "7200 s behind" in found(cli, "clock")["detail"]


def test_a_configuration_that_others_can_write_is_a_finding(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[[notify]]\ncommand = ["/bin/true"]\n')
    config.chmod(0o600)
    monkeypatch.setenv("QUOTACTL_CONFIG", str(config))
    assert found(cli, "notification")["detail"].endswith("commands: 1")
    config.chmod(0o622)
    assert not found(cli, "notification")["ok"]


def test_too_little_room_is_a_finding(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM_MIN", 2**62)
    assert not found(cli, "room")["ok"]


def test_what_is_no_ledger_is_a_finding_and_the_other_checks_are_made(cli: Any) -> None:
    cli.path.write_text("not a ledger at all, and never was one")
    ran = cli("doctor --json")
    assert ran.code == 8
    assert [f["check"] for f in ran.json["findings"] if not f["ok"]] == ["ledger"]
    assert {"file", "sqlite", "notification"} <= {f["check"] for f in ran.json["findings"]}


def test_where_there_is_no_ledger_doctor_says_so(cli: Any) -> None:
    assert cli("--db none.db doctor").code == 6
