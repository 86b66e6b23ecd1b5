"""A small ledger with a busy day in it: the night on which the GPUs melted, in little.

Everything is seeded, and the clock is passed in: the same ledger every time.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from quotactl.api import Ledger, create
from quotactl.frozen import frozen
from quotactl.ledger.values import Request, View
from quotactl.operations.batch import Batch
from quotactl.policy.window import to_ms

SEED = 2025_03_27
DAY = datetime(2025, 3, 27, tzinfo=UTC)
FLIP = DAY + timedelta(hours=14)
POLICY = """\
zone = "UTC"
default_tier = "free"

[resource.image]
unit = "image"

[tier.free.limits]
image = "3/day"

[tier.plus.limits]
image = "50/day,5/minute"

[tier.pro]
protected = true
[tier.pro.limits]
image = "unlimited"
"""
USERS = {"free": 260, "plus": 60, "pro": 12}
# How much of a day's demand falls into each hour: quiet nights, a wave from noon on.
HOURS = (2, 1, 1, 1, 1, 2, 3, 5, 7, 8, 9, 10, 14, 18, 20, 19, 17, 15, 14, 13, 12, 9, 6, 4)


class DemoClock:
    """A clock that stands where it is put."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@frozen
class Demo(View):
    """A ledger that was made, with the day that ran through it."""

    path: str
    day: str
    requests: int
    throttle_id: int


def run(path: Path) -> Demo:
    """Make the ledger at `path`, which must not exist, and let the day pass."""
    clock = DemoClock(DAY)
    requests = sorted(traffic(), key=lambda request: request[0])
    with create(path, name="demo", zone="UTC", clock=clock, actor="demo", notify=False) as ledger:
        admin = ledger.admin
        admin.apply_policy(POLICY, reason="demo")
        pairs = [(f"{tier}-{n:03d}", tier) for tier in ("plus", "pro") for n in range(USERS[tier])]
        admin.import_users(pairs, digest="made by the demo", reason="demo")
        before = [r for r in requests if r[0] < FLIP]
        _play(ledger, before)
        clock.at = FLIP
        throttle = admin.throttle_on(
            cap="1/day",
            tiers=["free"],
            resources=["image"],
            duration="6h",
            name="gpu-melt",
            reason="our GPUs are melting",
            ticket="INC-1",
        )
        admin.add_grant(
            user="free-001",
            resource="image",
            amount=10,
            duration="2d",
            reason="live talk at the museum tonight",
        )
        _play(ledger, requests[len(before) :])
        clock.at = DAY + timedelta(days=1, minutes=15)
        ledger.close_days()
    return Demo(str(path), DAY.date().isoformat(), len(requests), int(throttle.item["id"]))


def traffic() -> list[tuple[datetime, str, int]]:
    """A day's requests as (time, user, images), in no order: heavy-tailed, as real demand is."""
    chance = random.Random(SEED)  # noqa: S311 - a demo is not a secret
    requests = []
    for tier, count in USERS.items():
        for n in range(count):
            wanted = min(90, int(chance.paretovariate(0.9)))
            at = DAY
            while wanted > 0:
                (hour,) = chance.choices(range(24), HOURS)
                at = DAY + timedelta(hours=hour, seconds=chance.randrange(3600))
                # People ask for a few in a row.
                for _ in range(chance.randint(1, 4)):
                    amount = min(wanted, chance.choice((1, 1, 1, 2, 4)))
                    if amount <= 0:
                        break
                    requests.append((at, f"{tier}-{n:03d}", amount))
                    wanted -= amount
                    at += timedelta(seconds=chance.randint(8, 90))
    return [request for request in requests if request[0] < DAY + timedelta(days=1)]


def _play(ledger: Ledger, requests: list[tuple[datetime, str, int]]) -> None:
    """Consume in one transaction, each request at its own time."""
    with ledger.engine.writing() as book:
        batch = Batch(book)
        for at, user, amount in requests:
            batch.consume(Request(user, "image", amount), to_ms(at))
        batch.store(book)
