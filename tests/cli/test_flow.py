"""Lists that grow with the users flow: no row is kept, and no reader holds up the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from quotactl.cli.invocation import Invocation
from quotactl.engines.sqlite.door import SqliteEngine
from quotactl.render import Output, pieces

LISTS = (
    "user list",
    "user list --limit 3",
    "report usage --by user",
    "report top --limit 4",
    "override list --all",
    "grant list",
    "audit list",
    "audit list --limit 3",
)
FORMATS: tuple[Output, ...] = ("tsv", "csv", "json", "jsonl")


@pytest.fixture
def peopled(cli: Any) -> Any:
    for number in range(4):
        cli.ok(f"consume user-{number} image")
    cli.ok("override set user-3 image=9/day --reason 'press, \"week\"'")
    cli.ok("grant add user-4 image=5 --reason sorry")
    return cli


def test_a_list_that_goes_through_a_file_is_the_same(
    peopled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{line} -o {form}" for line, form in zip(LISTS, FORMATS * 2, strict=True)]
    from_memory = {line: peopled.ok(line).out for line in lines}
    monkeypatch.setattr("quotactl.cli.invocation.HELD_MAX", 30)
    for line in lines:
        assert peopled.ok(line).out == from_memory[line] != "", line


def test_nothing_is_read_any_more_while_the_reader_of_stdout_is_slow(
    peopled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: list[int] = []

    def written(_this: Invocation, _text: str) -> None:
        # Whoever reads keeps the log from being cut off.
        peopled.sql("INSERT INTO setting VALUES ('x', '1'); DELETE FROM setting WHERE key = 'x'")
        with closing(sqlite3.connect(peopled.path, timeout=0)) as other:
            busy.append(other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    monkeypatch.setattr(Invocation, "write_lines", written)
    for line in LISTS:
        busy.clear()
        peopled.ok(f"{line} -o tsv")
        assert set(busy) == {0}, line


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_is_rendered_before_the_next_is_read(form: Output) -> None:
    read: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        for number in range(5):
            read.append(number)
            yield {"n": number}

    for number, _ in enumerate(pieces(rows(), form, ["n"])):
        assert len(read) <= number + 1


def test_an_end_in_the_midst_of_reading_gives_the_ledger_back_at_once(
    peopled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_transaction: list[bool] = []
    close = SqliteEngine.close

    def closing_one(engine: SqliteEngine) -> None:
        # Closing waits, for seconds, for whoever has the connection.
        in_transaction.append(engine._lock.locked())
        close(engine)

    def broken_off(rows: Iterator[Any], *_: Any) -> Iterator[str]:
        next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr("quotactl.cli.invocation.pieces", broken_off)
    monkeypatch.setattr(SqliteEngine, "close", closing_one)
    for line in LISTS:
        in_transaction.clear()
        ran = peopled(f"{line} -o tsv")
        assert (ran.code, ran.out) == (130, "")
        assert in_transaction == [False], line
