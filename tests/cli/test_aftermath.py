"""`throttle report` in all its shapes, and `grant add --from-throttle`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from quotactl.render import markdown as md

GOLDEN = Path(__file__).parent / "golden"
EVIL = "a|b `c` ``d`` <b>x</b> [l](http://x.y) ![i](j) **k** _m_ \\| https://z.z @all"


def incident(cli: Any) -> None:
    """From 10:00 to 11:30 in Rome one image each; ada loses two, a stranger one."""
    cli.ok("consume ada image")
    cli.ok(
        "throttle on --name gpu-melt --resource image --cap 1/day --for 2h --ticket INC-1 --as ops",
        "--yes",
        "--reason",
        "GPUs | <b>melt</b>",
    )
    for _ in range(5):
        assert cli("consume ada image").code == 4
    cli.ok("consume zed image")
    assert cli("consume zed image").code == 4
    cli.later(minutes=90)
    cli.ok("throttle extend gpu-melt --for 1m --reason 'soon over' --as ops")
    cli.later(minutes=1)


def test_the_report_on_a_terminal(cli: Any) -> None:
    incident(cli)
    ran = cli.ok("throttle report gpu-melt -o table")
    assert ran.out == REPORT
    assert ran.err == ""


REPORT = """\
Throttle 1 (gpu-melt)
what    cap 1/day for all tiers, image
state   over
by      ops
reason  GPUs | <b>melt</b>
ticket  INC-1
from    2025-03-27 10:00 CET
to      2025-03-27 11:31 CET
lasted  1h31m
denied  6 units in 6 requests, repeated attempts counted
cost    3 units to 2 users

Timeline
at                    who  what                       reason
────────────────────────────────────────────────────────────────────────────────
2025-03-27 10:00 CET  ops  on: cap 1/day for all      GPUs | <b>melt</b> (INC-1)
                           tiers, image, until
                           2025-03-27 12:00 CET
2025-03-27 11:30 CET  ops  extend: until 2025-03-27   soon over
                           11:31 CET (was until
                           2025-03-27 12:00 CET)
2025-03-27 11:31 CET  -    ends                       -

By tier
tier  users  cost  denied
─────────────────────────
free      2     3       6

Most affected
user  tier  cost  asked  used  granted
──────────────────────────────────────
ada   free     2      6     1        0
zed   free     1      2     1        0

notes
─────────────────────────────────────────────────────────────────────
2025-03-27 is not over: who comes back still gets what is left of it.
Tiers, limits and protection are taken as they are now.
A day that it touched counts whole, and a week or month too.
"""


def test_the_same_under_report_and_by_id_and_as_json(cli: Any) -> None:
    incident(cli)
    first = cli.json("throttle report gpu-melt")
    assert first == cli.json("report throttle 1")
    assert first["total"] == {"users": 2, "cost": 3}
    assert [row["user"] for row in cli.json("throttle report 1 --limit 1")["top"]] == ["ada"]
    # Into a pipe a line per field, as every single thing that is shown.
    lines = dict(line.split("\t") for line in cli.ok("throttle report 1").out.splitlines())
    assert lines["total"] == '{"users":2,"cost":3}'
    assert lines["pruned"] == "false"
    assert cli.ok("throttle report 1 -q").out == ""


def test_a_throttle_that_is_on_says_so_far(cli: Any) -> None:
    cli.ok("throttle on --name stop --deny --no-expiry --yes --reason x")
    cli("consume ada image 2")
    ran = cli.ok("throttle report stop -o table")
    assert "ends    never\n" in ran.out
    assert "the figures are those so far" in ran.out
    assert "throttle 1 (stop) is on" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("throttle report nope", 6, "no throttle 'nope'"),
        ("throttle report 1 --limit 0", 2, "out of range"),
        ("throttle report 1 --limit x", 2, "not a whole number"),
        ("throttle report 1 --markdown -o csv", 2, "both Markdown and csv"),
        ("throttle report", 2, "missing argument 'ID|NAME'"),
        ("grant add ada image=3 --from-throttle 1 --each 3 --reason x", 2, "both a user and"),
        ("grant add --from-throttle 1 --reason x", 2, "--each 3"),
        ("grant add --from-throttle 1 --each 0 --reason x", 2, "each 0 is out of range"),
        ("grant add --from-throttle 1 --each 1.5 --reason x", 2, "not a whole number"),
        ("grant add --from-throttle 1 --each 3", 2, "needs a reason"),
        ("grant add --from-throttle 1 --each 3 --limit-to some --reason x", 2, "it is refused"),
        ("grant add --from-throttle 1 --each 3 --resource audio --reason x", 6, "no resource"),
        ("grant add --from-throttle 9 --each 3 --reason x", 6, "no throttle"),
        ("grant add ada image=3 --each 3 --reason x", 2, "go with --from-throttle"),
        ("grant add --reason x", 2, "missing argument 'USER'"),
        ("grant add ada --reason x", 2, "missing argument 'RESOURCE=AMOUNT'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(
    cli: Any, words: str, code: int, message: str
) -> None:
    incident(cli)
    before = cli.dump()
    ran = cli(words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert cli.dump() == before


def test_making_good_waits_for_the_end_and_says_what_to_do_first(cli: Any) -> None:
    cli.ok("throttle on --name stop --deny --resource image --reason x")
    ran = cli("grant add --from-throttle stop --each 3 --reason sorry")
    assert ran.code == 7
    assert "throttle off 1" in ran.err


# ---- making good


def test_a_dry_run_says_how_many_by_tier_and_changes_nothing(cli: Any) -> None:
    cli.ok("user set-tier bea plus")
    cli.ok("throttle on --name two --resource image --cap 1/day --yes --reason x")
    assert cli("consume bea image 4").code == 4
    assert cli("consume ada image 2").code == 4
    cli.later(hours=2)
    before = cli.dump()
    ran = cli.ok(
        "grant add --from-throttle two --each 3 --limit-to refused --dry-run -o table --reason x"
    )
    assert ran.out == (
        "tier  resource  users  units\n"
        "────────────────────────────\n"
        "free  image         1      3\n"
        "plus  image         1      3\n"
    )
    assert ran.err == (
        "dry run, nothing is changed:\n"
        "throttle 1 (two) is made good: 2 users get 3 more of image, 6 in all, for good\n"
    )
    found = cli.json("grant add --from-throttle two --each 3 --dry-run --reason sorry")
    assert (found["users"], found["units"], found["changed"]) == (2, 6, True)
    assert "audit_id" not in found
    assert cli.dump() == before


def test_making_good_is_told_once_done_and_done_once(cli: Any) -> None:
    incident(cli)
    ran = cli.ok(
        "grant add --from-throttle gpu-melt --each 3 --limit-to refused --for 7d --reason sorry "
        "--ticket INC-1 --as eve"
    )
    assert ran.err == (
        "throttle 1 (gpu-melt) is made good: 2 users get 3 more of image, 6 in all, "
        "until 2025-04-03 12:31 CEST\n"
    )
    grants = cli.json("grant list")
    assert [(g["user"], g["remaining"], g["reason"], g["actor"]) for g in grants] == [
        ("ada", 3, "sorry", "eve"),
        ("zed", 3, "sorry", "eve"),
    ]
    again = cli.ok("grant add --from-throttle gpu-melt --each 5 --reason sorry")
    assert "made good already by audit row 5 (2025-03-27 11:31 CET)" in again.err
    assert len(cli.json("grant list")) == 2
    report = cli.ok("throttle report 1 -o table").out
    assert "made good  audit row 5" in report
    assert "grant.make_good: 2" in report
    assert cli.json("audit list --limit 1")[0]["subject"] == "throttle 1"
    cli.ok("db verify")


def test_a_dry_run_of_one_grant_changes_nothing_either(cli: Any) -> None:
    before = cli.dump()
    ran = cli.ok("grant add ada image=3 --reason x --dry-run")
    assert ran.err.startswith("dry run, nothing is changed:\ngrant 1: ada may take 3")
    assert cli.dump() == before


# ---- markdown


def test_markdown_is_a_section_for_the_post_mortem(cli: Any) -> None:
    incident(cli)
    ran = cli.ok("throttle report gpu-melt --markdown")
    assert ran.out == (GOLDEN / "throttle-report.md").read_text(encoding="utf-8")
    assert cli.ok("throttle report gpu-melt --markdown -q").out == ""


def tokens(text: str) -> list[Token]:
    """All tokens of a document, as GitHub's dialect reads it."""
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [t for block in found for t in [block, *(block.children or [])]]


def shown(text: str) -> str:
    """What a reader sees of it."""
    return "".join(t.content for t in tokens(text) if t.type in {"text", "code_inline"})


@pytest.mark.parametrize(
    "name",
    [
        EVIL,
        "ada",
        "ada@example.com",
        "@here",
        "`", "``", "a`", " a ", "\\", "a\\", "a|b", "a\\|b", "|", "&amp;", "&#64;", "<!-- x -->",
        "[x]: http://y.z", "http://x.y", "www.x.y", "*a*", "~~a~~", "$a$", "{{a}}", "a__b__c",
    ],
)  # fmt: skip
def test_no_name_becomes_markup_as_text_or_code_also_in_a_table(name: str) -> None:
    for as_cell in (md.text, md.code):
        table = md.table([{"a": as_cell(name), "n": 1}], {"a": "A", "n": "N"})
        found = tokens(table)
        kinds = {t.type for t in found}
        assert not kinds & {
            "link_open", "image", "html_inline", "html_block", "em_open", "strong_open", "s_open",
        }  # fmt: skip
        cells = [t for t in found if t.type == "td_open"]
        assert len(cells) == 2, table
        body = next(t for t in found if t.type == "inline" and t.content not in {"A", "N"})
        seen = "".join(
            t.content
            for t in body.children or []
            if t.type in {"text", "code_inline", "text_special"}
        )
        assert seen.strip() == name.strip()


def test_control_characters_are_shown_and_do_nothing() -> None:
    assert md.text("a\nb\x1b[31m") == r"a\\nb\\x1b\[31m"
    assert md.code("a\nb\x1b[31m\u202e") == r"`a\nb\x1b[31m\u202e`"


def test_bare_addresses_and_mentions_are_no_links() -> None:
    assert md.text("see https://x.y and www.z.z") == "see https&#58;//x.y and www&#46;z.z"
    assert md.text("@all ask ada@example.com") == "&#64;all ask ada@example.com"


def test_a_report_with_names_from_hell_is_still_one_table_row_each(cli: Any) -> None:
    cli.ok("throttle on --resource image --cap 1/day --yes", "--reason", EVIL)
    for name in (EVIL, "`", "a|b"):
        cli("consume --", name, "image")
        assert cli("consume --", name, "image").code == 4
    out = cli.ok("throttle report 1 --markdown").out
    kinds = {t.type for t in tokens(out)}
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "em_open"}
    users = out.partition("### Most affected")[2].partition("###")[0]
    assert len([t for t in tokens(users) if t.type == "tr_open"]) == 1 + 3
    assert len([t for t in tokens(users) if t.type == "td_open"]) == 3 * 6
