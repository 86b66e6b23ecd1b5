"""What every act and request answers, and what acts write into the audit, word for word.

`acts.jsonl` beside this file has a line for each act of `ACTS`: the answer, and the audit
rows that came of it; `requests.jsonl` has one for each of `REQUESTS`. After a change that
is meant,

    QUOTACTL_GOLDEN=write pytest tests/ledger/test_acts.py

writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quotactl import QuotaError, Request
from quotactl.ledger.views import Outcome
from quotactl.operations.admin import Admin

if TYPE_CHECKING:
    from conftest import World

HERE = Path(__file__).parent
WHY = {"reason": "why", "ticket": "T-1"}

PRESETS = """
[preset.calm]
enforcement = { mode = "shadow", tier = "plus", for = "3h" }
[[preset.calm.throttle]]
name = "calmed"
tier = "free"
resource = "image"
cap = "1/day"
for = "2h"
message = "Busy."
[[preset.calm.throttle]]
resource = "image"
total = "40k/hour"

[preset.half.throttle]
scale = "50%"
floor = 1
"""

IMAGE = {"user": "ada", "resource": "image"}
ACTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("create a resource", lambda a: a.create_resource("video", unit="clip", **WHY)),
    ("again", lambda a: a.create_resource("video")),
    ("give it a capacity", lambda a: a.create_resource("audio", capacity="9/day")),
    ("create a tier", lambda a: a.create_tier("gold", protected=True, **WHY)),
    ("again", lambda a: a.create_tier("gold", protected=True)),
    ("create a default", lambda a: a.create_tier("base", default=True, **WHY)),
    ("again", lambda a: a.create_tier("base", default=True)),
    ("with what it has not", lambda a: a.create_tier("base", protected=True)),
    ("make another default", lambda a: a.set_default_tier("free")),
    ("with what it has not", lambda a: a.create_tier("base", default=True)),
    ("set a limit", lambda a: a.set_limit(tier="gold", resource="video", limit="5/minute,3/day")),
    ("again", lambda a: a.set_limit(tier="gold", resource="video", limit="3/day,5/minute")),
    ("change it", lambda a: a.set_limit(tier="gold", resource="video", limit="4/day", **WHY)),
    ("set two", lambda a: a.set_limits(tier="gold", limits={"image": "9/day", "video": "4/day"})),
    ("unset one", lambda a: a.unset_limit(tier="gold", resource="image", **WHY)),
    ("again", lambda a: a.unset_limit(tier="gold", resource="image")),
    ("unprotect a tier", lambda a: a.unprotect_tier("gold", **WHY)),
    ("again", lambda a: a.unprotect_tier("gold")),
    ("protect a tier", lambda a: a.protect_tier("gold", **WHY)),
    ("set a setting", lambda a: a.set_setting("key_retention", "48h", **WHY)),
    ("again", lambda a: a.set_setting("key_retention", "2d")),
    ("unset it", lambda a: a.unset_setting("key_retention", **WHY)),
    ("again", lambda a: a.unset_setting("key_retention")),
    ("change the default", lambda a: a.set_default_tier("plus", **WHY)),
    ("change it back", lambda a: a.set_default_tier("free")),
    ("again", lambda a: a.set_default_tier("free")),
    ("set a tier", lambda a: a.set_tier("zoe", "gold", **WHY)),
    ("again", lambda a: a.set_tier("zoe", "gold")),
    ("move to the default", lambda a: a.set_tier("zoe", None, **WHY)),
    ("let one follow it", lambda a: a.set_tier("xeno", None)),
    ("again", lambda a: a.set_tier("xeno", None)),
    ("import users", lambda a: a.import_users([("zoe", "gold"), ("yan", "plus"), ("ada", "free")],
                                              digest="ab" * 32, **WHY)),
    ("protect a user", lambda a: a.protect("ada", **WHY)),
    ("again", lambda a: a.protect("ada")),
    ("unprotect", lambda a: a.unprotect("ada", **WHY)),
    ("again", lambda a: a.unprotect("ada")),
    ("block", lambda a: a.block("ada", duration="2h", **WHY)),
    ("again", lambda a: a.block("ada", until="2025-03-27T11:00:00Z", reason="x")),
    ("block for longer", lambda a: a.block("ada", reason="x")),
    ("block for one", lambda a: a.block("ada", resource="image", duration="1h", reason="x")),
    ("unblock one", lambda a: a.unblock("ada", resource="image", **WHY)),
    ("unblock", lambda a: a.unblock("ada", **WHY)),
    ("again", lambda a: a.unblock("ada")),
    ("again one", lambda a: a.unblock("ada", resource="image")),
    ("override", lambda a: a.set_override(**IMAGE, limit="9/day,2/hour", duration="2h", **WHY)),
    ("again", lambda a: a.set_override(**IMAGE, limit="9/day", duration="2h", reason="x")),
    ("override all", lambda a: a.set_override(**IMAGE, limit="unlimited", reason="x")),
    ("override one", lambda a: a.set_override(**IMAGE, limit="7/day", reason="x")),
    ("clear", lambda a: a.clear_override(**IMAGE, **WHY)),
    ("again", lambda a: a.clear_override(user="ada")),
    ("grant", lambda a: a.add_grant(**IMAGE, amount=5, priority=-2, duration="2d", **WHY)),
    ("grant for good", lambda a: a.add_grant(**IMAGE, amount=1, reason="x")),
    ("revoke", lambda a: a.revoke_grant(1, **WHY)),
    ("again", lambda a: a.revoke_grant(1)),
    ("deny", lambda a: a.throttle_on(deny=True, name="stop", tiers=["free"], message="No.", **WHY)),
    ("again", lambda a: a.throttle_on(deny=True, tiers=["free"], reason="x")),
    ("cap", lambda a: a.throttle_on(cap="2/hour", resources=["image", "video"], at="12:00",
                                    duration="3h", freeze_grants=True, **WHY)),
    ("cap it lower", lambda a: a.throttle_on(cap="1/hour", resources=["video", "image"],
                                             replace=True, reason="x")),
    ("in its place", lambda a: a.throttle_on(cap="2/hour", resources=["image", "video"],
                                             replace=True, until="11:00", reason="x")),
    ("scale in steps", lambda a: a.throttle_on(scale=50, floor=2, ramp="10%,100%", every="1h",
                                               name="slow", include_protected=True, **WHY)),
    ("hold the steps", lambda a: a.throttle_hold("slow", **WHY)),
    ("again", lambda a: a.throttle_hold("slow", reason="x")),
    ("in the way", lambda a: a.throttle_on(scale=20, reason="x")),
    ("go on with them", lambda a: a.throttle_resume("slow", **WHY)),
    ("again", lambda a: a.throttle_resume("slow", reason="x")),
    ("total", lambda a: a.throttle_on(total="40k/hour", resources=["image"], no_expiry=True,
                                      name="all", **WHY)),
    ("extend", lambda a: a.throttle_extend("all", duration="2h", **WHY)),
    ("again", lambda a: a.throttle_extend("all", until="2025-03-27T11:00:00Z", reason="x")),
    ("for good", lambda a: a.throttle_extend("all", no_expiry=True, reason="x")),
    ("lift in steps", lambda a: a.throttle_off("slow", ramp="50%,75%", every="30m", **WHY)),
    ("lift", lambda a: a.throttle_off("all", **WHY)),
    ("again", lambda a: a.throttle_off(6, reason="x")),
    ("lift the denial", lambda a: a.throttle_off("stop", reason="x")),
    ("make good", lambda a: a.make_good("stop", each=2, duration="7d", priority=1, **WHY)),
    ("again", lambda a: a.make_good("stop", each=3, reason="x")),
    ("make good to nobody", lambda a: a.make_good("all", each=1, limit_to="refused", reason="x")),
    ("shadow", lambda a: a.enforcement_set("shadow", tiers=["free"], duration="2h", **WHY)),
    ("again", lambda a: a.enforcement_set("shadow", tiers=["free"], reason="x")),
    ("shadow for longer", lambda a: a.enforcement_set("shadow", tiers=["free"], duration="3h",
                                                      reason="x")),
    ("off", lambda a: a.enforcement_set("off", tiers=["free"], reason="x")),
    ("on for one", lambda a: a.enforcement_set("on", tiers=["plus"], reason="x")),
    ("on", lambda a: a.enforcement_set("on", **WHY)),
    ("apply presets", lambda a: a.apply_policy(a.export_policy() + PRESETS, **WHY)),
    ("drill", lambda a: a.preset_drill("calm", **WHY)),
    ("again", lambda a: a.preset_drill("calm", reason="x")),
    ("end the drill", lambda a: a.preset_off("calm", **WHY)),
    ("preset", lambda a: a.preset_on("calm", replace=True, **WHY)),
    ("again", lambda a: a.preset_on("calm", reason="x")),
    ("in the way", lambda a: a.throttle_on(cap="2/day", resources=["image"], tiers=["free"],
                                           reason="x")),
    ("preset off", lambda a: a.preset_off("calm", **WHY)),
    ("again", lambda a: a.preset_off("calm", reason="x")),
    ("in the way", lambda a: a.preset_on("half", reason="x")),
    ("in its place", lambda a: a.preset_on("half", no_expiry=True, replace=True, reason="x")),
    ("apply less", lambda a: a.apply_policy(
        a.export_policy().replace('"3/day"', '"4/day,1/minute"').replace("9/day", "8/week")
        .partition("[preset.")[0].replace("[tier.gold]\nprotected = true", "[tier.gold]"), **WHY)),
    ("delete a tier", lambda a: a.delete_tier("gold", move_to="plus", **WHY)),
    ("again", lambda a: a.delete_tier("gold")),
    ("delete a resource", lambda a: a.delete_resource("video", **WHY)),
    ("again", lambda a: a.delete_resource("video")),
    ("block, no reason", lambda a: a.block("ada")),
    ("override, no reason", lambda a: a.set_override(**IMAGE, limit="1/day")),
    ("grant, no reason", lambda a: a.add_grant(**IMAGE, amount=1)),
    ("on, no reason", lambda a: a.throttle_on(deny=True)),
    ("off, no reason", lambda a: a.throttle_off(14)),
    ("extend, no reason", lambda a: a.throttle_extend(14, duration="1h")),
    ("hold, no reason", lambda a: a.throttle_hold(14)),
    ("resume, no reason", lambda a: a.throttle_resume(14)),
    ("mode, no reason", lambda a: a.enforcement_set("off")),
    ("preset, no reason", lambda a: a.preset_on("half")),
    ("drill, no reason", lambda a: a.preset_drill("half")),
    ("preset off, no reason", lambda a: a.preset_off("half")),
    ("make good, no reason", lambda a: a.make_good(14, each=1)),
    ("reset, no reason", lambda a: a.reset_user("ada")),
    ("reset", lambda a: a.reset_user("ada", **WHY)),
    ("again", lambda a: a.reset_user("ada", reason="x")),
]  # fmt: skip


# With 3/day, 2/hour and 9/week, a grant of 2 for bob, and a throttle for eve's tier.
REQUESTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("take", lambda q: q.consume(user="ada", resource="image", amount=2, idempotency_key="k1")),
    ("again", lambda q: q.consume(user="ada", resource="image", amount=2, idempotency_key="k1")),
    ("other", lambda q: q.consume(user="ada", resource="image", amount=1, idempotency_key="k1")),
    ("too much", lambda q: q.consume(user="ada", resource="image", amount=1)),
    ("ask", lambda q: q.check(user="ada", resource="image", amount=1)),
    ("refund", lambda q: q.refund(idempotency_key="k1", amount=1, refund_key="f1")),
    ("again", lambda q: q.refund(idempotency_key="k1", amount=1, refund_key="f1")),
    ("more", lambda q: q.refund(idempotency_key="k1", amount=2)),
    ("rest", lambda q: q.refund(entry_id=2)),
    ("nothing", lambda q: q.refund(entry_id=2)),
    ("neither", lambda q: q.refund()),
    ("gone", lambda q: q.consume(user="ada", resource="image", amount=2, idempotency_key="k1")),
    ("hold", lambda q: q.reserve(user="ada", resource="image", amount=2, ttl_s=60,
                                 idempotency_key="h1")),
    ("again", lambda q: q.reserve(user="ada", resource="image", amount=2, ttl_s=60,
                                  idempotency_key="h1")),
    ("early", lambda q: q.refund(idempotency_key="h1")),
    ("post", lambda q: q.post(5, amount=1)),
    ("again", lambda q: q.post(5)),
    ("refund", lambda q: q.refund(idempotency_key="h1")),
    ("hold", lambda q: q.reserve(user="ada", resource="image", amount=1, ttl_s=60)),
    ("void", lambda q: q.void(8)),
    ("again", lambda q: q.void(8)),
    ("with grants", lambda q: q.consume(user="bob", resource="image", amount=2,
                                        idempotency_key="g1")),
    ("again", lambda q: q.consume(user="bob", resource="image", amount=2, idempotency_key="g1")),
    ("refund", lambda q: q.refund(idempotency_key="g1", amount=1)),
    ("throttled", lambda q: q.consume(user="eve", resource="image", amount=2)),
    ("blocked", lambda q: q.consume(user="mallory", resource="image", amount=1)),
    ("unlisted", lambda q: q.consume(user="ada", resource="video", amount=1)),
    ("unlimited", lambda q: q.consume(user="paul", resource="image", amount=7)),
    ("unknown", lambda q: q.consume(user="ada", resource="audio", amount=1)),
    ("a batch", lambda q: q.consume_many([Request("zoe", "image"), Request("zoe", "image", 0)])),
]  # fmt: skip


def told(act: Callable[[Any], Any], on: Any) -> dict[str, Any]:
    """What an act or a request answers."""
    try:
        answer = act(on)
    except QuotaError as error:
        return {"refused": error.message, "hint": error.hint}
    if isinstance(answer, list):
        return {"answers": [told(lambda _, one=one: one, None) for one in answer]}  # type: ignore[misc]
    if isinstance(answer, QuotaError):
        return {"refused": answer.message, "hint": answer.hint}
    said = {"said": answer.message} if isinstance(answer, Outcome) else {}
    return {**said, **answer.to_dict()}


def acted(world: World) -> Iterator[dict[str, Any]]:
    """Do all acts in turn, a second apart, with ada and bob asking in between."""
    for number, (what, act) in enumerate(ACTS):
        seen = world.count("audit")
        answer = told(act, world.admin)
        rows = world.sql(
            "SELECT actor, action, user_id, subject, before, after FROM audit "
            "ORDER BY id LIMIT -1 OFFSET ?", seen,
        )  # fmt: skip
        audit = [[*row[:4], *(part and json.loads(part) for part in row[4:])] for row in rows]
        yield {"act": f"{number} {what}", **answer, "audit": audit}
        world.later(seconds=1)
        world.consume(user=("ada", "bob")[number % 2])


def asked(world: World) -> Iterator[dict[str, Any]]:
    """Ask for everything in turn, a second apart."""
    world.limit("3/day,2/hour,9/week")
    world.admin.create_resource("video")
    world.admin.set_tier("paul", "pro")
    world.admin.set_tier("eve", "plus")
    world.admin.block("mallory", duration="2h", reason="abuse")
    world.grant(2, user="bob")
    world.admin.set_override(user="bob", resource="image", limit="1/day", reason="careful")
    world.throttle(cap="1/day", tiers=["plus"], name="melt", message="Busy.")
    for number, (what, ask) in enumerate(REQUESTS):
        yield {"asked": f"{number} {what}", **told(ask, world.q)}
        world.later(seconds=1)


def compare(found: Iterator[dict[str, Any]], golden: Path) -> None:
    """Each with the line that is kept of it."""
    lines = [json.dumps(one, ensure_ascii=False) for one in found]
    if os.environ.get("QUOTACTL_GOLDEN") == "write":
        golden.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    expected = golden.read_text(encoding="utf-8").splitlines()
    for line, kept in zip(lines, expected, strict=True):
        assert json.loads(line) == json.loads(kept)


def test_every_act_answers_and_is_audited_as_it_always_was(world: World) -> None:
    compare(acted(world), HERE / "acts.jsonl")


def test_every_request_is_answered_as_it_always_was(world: World) -> None:
    compare(asked(world), HERE / "requests.jsonl")


def test_every_act_that_is_there_is_among_them() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    acts = {name for name, _ in inspect.getmembers(Admin, inspect.isfunction) if name[0] != "_"}
    # `pull` is what `solve --apply` does; the other two change nothing.
    acts -= {"pull", "diff_policy", "export_policy"}
    assert {name for name in acts if f"a.{name}(" not in source} == set()
