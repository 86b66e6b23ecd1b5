"""user import: many users onto tiers, all or none."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest


def test_an_import_moves_and_adds_in_one_audit_row_with_the_digest(
    cli: Any, tmp_path: Path
) -> None:
    cli.ok("user set-tier ada free")
    content = b"user,tier\nada,plus\nbob,pro\n\ncyd,free\n"
    (tmp_path / "users.csv").write_bytes(content)
    ran = cli.ok("user import users.csv --reason 'new contract' --json")
    digest = hashlib.sha256(content).hexdigest()
    assert ran.json == {"users": 3, "added": 2, "moved": 1, "sha256": digest, "changed": True}
    assert ran.err == "3 users: 2 new, 1 moved\n"
    tiers = {user["user"]: user["tier"] for user in cli.json("user list")}
    assert tiers == {"ada": "plus", "bob": "pro", "cyd": "free"}
    (act,) = cli.json("audit list --action user.import")
    assert act["after"]["sha256"] == digest
    assert (act["subject"], act["reason"]) == (f"sha256 {digest[:12]}", "new contract")


def test_a_second_import_is_already_so(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,tier\nada,plus\n")
    cli.ok("user import users.csv")
    before = cli.dump()
    ran = cli.ok("user import users.csv --json")
    assert (ran.json["changed"], ran.err) == (False, "1 user on these tiers already\n")
    assert cli.dump() == before


def test_a_dry_run_counts_and_changes_nothing(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,tier\nada,plus\n")
    before = cli.dump()
    dry = cli.ok("user import users.csv --dry-run")
    assert dry.err == "dry run, nothing is changed:\n1 user: 1 new, 0 moved\n"
    assert cli.dump() == before


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 2, "users.csv line 1: no column 'user'"),
        (b"user\nada\n", 2, "users.csv line 1: no column 'tier'"),
        (b"user,tier,user\nada,plus,x\n", 2, "line 1: more than one column 'user'"),
        (b"user,tier\nada,plus\nbob,gold\n", 6, "users.csv line 3: no tier 'gold'; known: free"),
        (b"user,tier\nada,plus\n\n\nbob,gold\n", 6, "users.csv line 5: no tier 'gold'"),
        (b'user,tier\n"a ""b""",plus\nbob\n', 2, "users.csv line 3: 1 cells, the header has 2"),
        (b"user,tier\nada,plus\n,plus\n", 2, "users.csv line 3: user is empty"),
        (b"user,tier\nada,plus\nada,free\n", 2, "line 3: user 'ada' is named twice"),
        (b"user,tier\n" + b"x" * 257 + b",plus\n", 2, "line 2: user has 257 characters"),
        (b"user,tier\na\x1bb,plus\n", 2, "line 2: user 'a\\x1bb' has a control character"),
        (b'user,tier\n"a\nb",plus\n', 2, "line 2: user 'a\\nb' has a control character"),
        (b"user,tier\nada,plus\n\xff,plus\n", 2, "users.csv line 3: not UTF-8"),
        (b'user,tier\nada,plus\n"bob,plus\n', 2, "line 3: not CSV: unexpected end of data"),
        (b'user,tier\nada,"plus"x\n', 2, "line 2: not CSV:"),
        (b"user,tier\n" + b"x" * 200_000 + b",plus\n", 2, "line 2: not CSV: field larger than"),
    ],
)
def test_one_bad_line_is_named_and_nothing_is_imported(
    content: bytes, code: int, message: str, cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_bytes(content)
    before = cli.dump()
    ran = cli("user import users.csv")
    assert message in ran.err
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert cli.dump() == before


def test_columns_are_found_by_name_in_any_order_and_a_mark_at_the_start_is_no_part_of_one(
    cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_bytes(
        "\ufefftier,since,user\r\nplus,2020,ada, \r\npro,2021,żółw\r\n".encode()
    )
    cli.ok("user import users.csv")
    assert cli.json("user show ada")["tier"] == "plus"
    assert cli.json("user show żółw")["tier"] == "pro"


def test_an_import_comes_from_stdin_too(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"user,tier\nada,gold\n")))
    assert "stdin line 2: no tier 'gold'" in cli("user import -").err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"user,tier\nada,plus\n")))
    cli.ok("user import -")
    assert cli.json("user show ada")["tier"] == "plus"


def test_a_hundred_thousand_users_take_seconds(cli: Any, tmp_path: Path) -> None:
    rows = "".join(f"user-{n},{('free', 'plus', 'pro')[n % 3]}\n" for n in range(100_000))
    (tmp_path / "users.csv").write_text(f"user,tier\n{rows}")
    started = time.perf_counter()
    assert cli.json("user import users.csv")["added"] == 100_000
    assert time.perf_counter() - started < 10
    assert len(cli.json("user list --tier pro --limit 40k")) == 33_333
