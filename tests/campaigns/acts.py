"""What administrators and cron do, as a load for campaigns that kill: throttles, tiers,
limits, grants, closes that prune, backups.

Each act has a reason of its own, by which its row in the audit is found again. Throttles and
limits go by a resource that belongs to one process, and moves by users that do, so that what
holds in the end is known however the processes come in between each other.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import rig
from rig import Line, require

import quotactl

# Not one by one in each child, whose first moments would go by with it.
from quotactl.operations import admin, close, verify  # noqa: F401
from quotactl.operations.backup import back_up, backup_folder, backups_of

PROCESSES = 6
KEPT = 3
# Short, so that a close prunes: entries and keys from month to month, counters after nine weeks.
RETENTION = {"entry_retention": "1d", "key_retention": "1d", "counter_retention": "62d"}


def prepare(q: quotactl.Ledger) -> None:
    """A ledger of `rig.make_ledger`, for these acts."""
    for number in range(PROCESSES):
        q.admin.create_resource(f"r{number}")
    for key, value in RETENTION.items():
        q.admin.set_setting(key, value)


class Acts:
    """The acts of one process."""

    def __init__(self, prefix: str, number: int, rng: random.Random) -> None:
        self._prefix = prefix
        self._mine = number
        self._rng = rng
        self._number = 0
        self._on: int | None = None

    def next(self) -> Line:
        """The next act to try."""
        rng = self._rng
        self._number += 1
        kinds = ["close", "on", "tier", "limit", "grant", "backup"]
        if self._on is not None:
            kinds += ["off", "off"]
        what = rng.choice(kinds)
        return {
            "do": what,
            "key": f"{self._prefix}-act{self._number}",
            "resource": f"r{self._mine}",
            "user": f"m{self._mine}",
            "value": rng.choice(["free", "wide"]) if what == "tier" else self._number,
            "id": self._on if what == "off" else None,
        }

    def learn(self, op: Line, answer: Line) -> None:
        if op["do"] == "on":
            self._on = answer["id"]
        elif op["do"] == "off":
            self._on = None


def perform(q: quotactl.Ledger, path: Path, op: Line) -> Line:
    """Do an act; what was answered."""
    why = {"reason": op["key"]}
    match op["do"]:
        case "close":
            return {"closed": [day.day for day in q.close_days().closed]}
        case "on":
            done = q.admin.throttle_on(
                cap=f"{op['value']}/day", resources=[op["resource"]], replace=True, **why
            )
            return {"id": done.item["id"], "changed": done.changed}
        case "off":
            return {"changed": q.admin.throttle_off(op["id"], **why).changed}
        case "tier":
            return {"changed": q.admin.set_tier(op["user"], op["value"], **why).changed}
        case "limit":
            limit = f"{op['value']}/day"
            done = q.admin.set_limit(tier="free", resource=op["resource"], limit=limit, **why)
            return {"changed": done.changed}
        case "grant":
            q.admin.add_grant(user=f"g-{op['key']}", resource="image", amount=5, **why)
            return {"changed": True}
        case "backup":
            return {"path": back_up(q.engine, path, q.clock(), keep=KEPT).path}
        case other:
            raise AssertionError(other)


def finish(q: quotactl.Ledger, path: Path, op: Line) -> None:
    """Try an act again that was cut off; what had been done is not done twice."""
    if op["do"] != "grant" or not grants(path, op):
        perform(q, path, op)
    require(reasons(path)[op["key"]] <= 1, "done twice:", op)


def require_kept(path: Path, told: list[list[tuple[Line, Line]]], at: datetime) -> None:
    """Every act that was acknowledged is there, with its row in the audit.

    `told` are the acts of each process in order, and those that were cut off have been
    finished.
    """
    in_audit = reasons(path)
    closed = {day for (day,) in rig.sql(path, "SELECT day FROM closed_day")}
    subjects = rig.sql(path, "SELECT subject FROM audit WHERE action = 'day.close'")
    require(sorted(closed) == sorted(day for (day,) in subjects), "closes and their rows")
    live = dict(
        rig.sql(
            path,
            "SELECT resource.name, amount_max FROM switch JOIN switch_resource ON "
            "switch.id = switch_id JOIN resource ON resource.id = resource_id "
            f"WHERE ended_at_ms IS NULL AND ends_at_ms > {at.timestamp() * 1000:.0f}",
        )
    )
    tiers = dict(
        rig.sql(path, "SELECT user.name, tier.name FROM user JOIN tier ON tier.id = tier_id")
    )
    limits = dict(
        rig.sql(
            path,
            "SELECT name, amount_max FROM tier_limit JOIN resource ON resource.id = resource_id "
            "WHERE tier_id = (SELECT id FROM tier WHERE name = 'free')",
        )
    )
    for acts in told:
        last: dict[str, Line] = {}
        for op, answer in acts:
            last["throttle" if op["do"] in ("on", "off") else op["do"]] = op
            require(closed.issuperset(answer.get("closed", ())), "lost:", op)
            if answer.get("changed"):
                require(in_audit[op["key"]] == 1, "no row in the audit:", op)
            if op["do"] == "grant":
                require(grants(path, op) == 1, "lost:", op)
        for what, op in last.items():
            if what == "throttle":
                wanted = op["value"] if op["do"] == "on" else None
                require(live.get(op["resource"]) == wanted, "lost:", op, live)
            if what == "tier":
                require(tiers.get(op["user"]) == op["value"], "lost:", op)
            if what == "limit":
                require(limits.get(op["resource"]) == op["value"], "lost:", op)


def require_backups(q: quotactl.Ledger, path: Path, told: list[list[tuple[Line, Line]]]) -> int:
    """No half backup under a name, none left beside it, and the newest is there; how many."""
    folder = backup_folder(path)
    paths = [answer["path"] for acts in told for _, answer in acts if "path" in answer]
    if not folder.exists():
        require(not paths, "lost all backups")
        return 0
    files = backups_of(path, folder)
    if paths:
        newest = max(order(file) for file in paths)
        require(files and order(str(files[-1])) >= newest, "lost the newest backup", paths)
    for file in files:
        with quotactl.connect(file, clock=q.clock, notify=False) as copy:
            rig.require_sound(copy)
        for beside in folder.glob(f"{file.name}-*"):
            beside.unlink()
    back_up(q.engine, path, q.clock(), keep=KEPT)
    require(len(list(folder.iterdir())) <= KEPT, "left over:", *folder.iterdir())
    return len(files)


def order(file: str) -> tuple[str, int]:
    """When a backup was made, and which of that second it is."""
    moment, _, number = file.removesuffix(".backup").partition("Z-")
    return moment.removesuffix("Z"), int(number or 1)


def reasons(path: Path) -> Counter[Any]:
    return Counter(
        text for (text,) in rig.sql(path, "SELECT text FROM audit_text WHERE field = 'reason'")
    )


def grants(path: Path, op: Line) -> int:
    ((count,),) = rig.sql(
        path,
        "SELECT count(*) FROM grant_pool JOIN user ON user.id = user_id "
        f"WHERE user.name = 'g-{op['key']}'",
    )
    return int(count)
