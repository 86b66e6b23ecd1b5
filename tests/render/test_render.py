"""Each format of records and lists, and what outsiders may not do with a name."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.render import OUTPUTS, Output, render
from quotactl.render.text import neutralise

NOON = datetime(2025, 3, 28, 12, tzinfo=timezone(timedelta(hours=1)))


@dataclass(frozen=True)
class Thing:
    user: str
    used: int | None = None
    rule: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"user": self.user, "used": self.used, "rule": self.rule}


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


THINGS = [Thing("ada", 3, {"kind": "tier", "id": 1}), Thing("bob")]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("json",
         ('[\n  {"user": "ada", "used": 3, "rule": {"kind": "tier", "id": 1}},\n'
          '  {"user": "bob", "used": null, "rule": null}\n]\n')),
        ("jsonl",
         ('{"user": "ada", "used": 3, "rule": {"kind": "tier", "id": 1}}\n'
          '{"user": "bob", "used": null, "rule": null}\n')),
        ("tsv", 'user\tused\trule\nada\t3\t{"kind":"tier","id":1}\nbob\t\t\n'),
        ("csv", 'user,used,rule\nada,3,"{""kind"":""tier"",""id"":1}"\nbob,,\n'),
        ("table",
         ("user  used  rule\n──────────────────────────\n"
          "ada      3  kind=tier id=1\nbob      -  -\n")),
    ],
)  # fmt: skip
def test_a_list(output: Output, text: str) -> None:
    assert render(THINGS, output) == text


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("json", '{"user": "ada", "used": 3, "rule": null}\n'),
        ("jsonl", '{"user": "ada", "used": 3, "rule": null}\n'),
        ("tsv", "user\tada\nused\t3\nrule\t\n"),
        ("csv", "user,used,rule\nada,3,\n"),
        ("table", "user  ada\nused  3\nrule  -\n"),
    ],
)
def test_a_record(output: Output, text: str) -> None:
    assert render(Thing("ada", 3), output) == text


@pytest.mark.parametrize(
    ("output", "text"),
    [("json", "[]\n"), ("jsonl", ""), ("tsv", "user\tused\n"), ("csv", "user,used\n"),
     ("table", "none\n")],
)  # fmt: skip
def test_an_empty_list_still_has_its_header(output: Output, text: str) -> None:
    assert render([], output, columns=["user", "used"]) == text
    assert render([], "tsv") == render([], "csv") == ""


def test_columns_restrict_and_order_what_is_flat_but_not_json() -> None:
    assert render(THINGS, "tsv", columns=["used", "user"]) == "used\tuser\n3\tada\n\tbob\n"
    assert render(THINGS, "csv", columns=["used", "user"]) == "used,user\n3,ada\n,bob\n"
    assert render(THINGS[0], "tsv", columns=["used"]) == "used\t3\n"
    assert "rule" not in render(THINGS, "table", columns=["used", "user"])
    assert render(THINGS, "json", columns=["used"]) == render(THINGS, "json")


def test_rows_that_differ_show_every_column() -> None:
    assert render([{"a": 1}, {"b": 2}], "tsv") == "a\tb\n1\t\n\t2\n"


@pytest.mark.parametrize("output", OUTPUTS)
def test_times_are_utc_with_z_in_every_format_and_to_the_second_in_tables(output: Output) -> None:
    text = render([{"at": NOON, "exact": NOON.replace(microsecond=5_000)}], output)
    assert "2025-03-28T11:00:00Z" in text
    assert ("2025-03-28T11:00:00.005Z" in text) == (output != "table")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError, match="without a zone"):
        render({"at": NOON.replace(tzinfo=None)}, "json")


def test_true_and_false_are_words() -> None:
    row = {"yes": True, "no": False, "one": 1}
    assert render(row, "tsv") == "yes\ttrue\nno\tfalse\none\t1\n"
    assert render(row, "table") == "yes  yes\nno   no\none  1\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("\x1b]8;;http://x\x07link", r"\x1b]8;;http://x\x07link"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x00\x7f", r"\x00\x7f"),
        ("user\u202egnp", r"user\u202egnp"),
        ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\ufeffid\u200b", r"\ufeffid\u200b"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        (r"CORP\ada", r"CORP\ada"),
        ("👩\u200d🚀 żółw", "👩\u200d🚀 żółw"),
        ("[red]x[/red] [/] :smile:", "[red]x[/red] [/] :smile:"),
    ],
)
def test_what_could_harm_a_terminal_shows_as_an_escape(raw: str, shown: str) -> None:
    assert neutralise(raw) == shown
    assert render({"id": raw}, "tsv") == f"id\t{shown}\n"
    assert render([{"id": raw}], "csv") == f"id\n{shown}\n"
    assert render([{"id": raw}], "table", title=raw, caption=raw).splitlines()[0] == shown
    assert render({"id": raw}, "table") == f"id  {shown}\n"
    assert json.loads(render({"id": raw}, "json"))["id"] == raw


@given(st.lists(st.text(st.characters(), max_size=12), min_size=1))
def test_json_is_ascii_and_exact_and_a_row_of_tsv_is_a_line(names: list[str]) -> None:
    rows = [{"id": name, "n": 1} for name in names]
    text = render(rows, "json")
    assert json.loads(text) == rows
    assert text.isascii()
    assert all(c == "\n" or c.isprintable() for c in text)
    lines = render(rows, "tsv").splitlines()
    assert len(lines) == len(rows) + 1
    assert all(line.count("\t") == 1 for line in lines)
    assert len(list(csv.reader(io.StringIO(render(rows, "csv"))))) == len(rows) + 1


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"),
     ("\t=1", r"'\t=1"), ("\r=1", r"'\r=1"), (-1, "-1"), (-0.5, "-0.5"), ("a=1", "a=1")],
)  # fmt: skip
def test_csv_defuses_formulas_but_not_numbers(value: object, cell: str) -> None:
    assert render([{"x": value}], "csv") == f"x\n{cell}\n"


def test_not_a_number_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render({"x": float("nan")}, "json")


@pytest.mark.parametrize("columns", ["", "0", "-5", "wide", "9" * 5000])
def test_a_width_that_is_none_is_that_of_no_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    wide = [{"user": "u" * 90, "used": 3}]
    at_80 = render(wide, "table")
    monkeypatch.setenv("COLUMNS", columns)
    assert render(wide, "table") == at_80
    monkeypatch.setenv("COLUMNS", "120")
    assert render(wide, "table") != at_80


def test_a_wide_list_becomes_blocks_and_no_name_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {f"column_{n}": f"value-{n}-" + "x" * 14 for n in range(8)}
    text = render([row, row], "table")
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("column_0  value-0-xxxxxxxxxxxxxx\n") == 2
    monkeypatch.setenv("COLUMNS", "200")
    assert "column_0" in render([row], "table").splitlines()[0]
    assert render([row], "table").count("column_0") == 1


def test_a_long_name_is_folded_and_whole_at_80_columns() -> None:
    name = "".join(chr(ord("a") + n % 26) for n in range(256))
    text = render([{"user": name, "used": 12, "at": NOON}], "table")
    assert max(map(len, text.splitlines())) <= 80
    assert "2025-03-28T11:00:00Z" in text
    assert "".join(line.split("  ")[0].strip() for line in text.splitlines()[2:]) == name


def test_colour_needs_a_terminal() -> None:
    assert "\x1b" not in render(THINGS, "table", title="t", caption="c")


def test_utc_needs_no_conversion() -> None:
    assert render({"at": NOON.astimezone(UTC)}, "tsv") == "at\t2025-03-28T11:00:00Z\n"
