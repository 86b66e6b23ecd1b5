"""What people are shown of the things they administer: frozen values, one per noun.

Times are aware datetimes, limits are written as they are set; `to_dict()` is
the JSON of the lists.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quotactl.frozen import frozen
from quotactl.ledger.values import View


@frozen
class ResourceView(View):
    """What is counted; `unit` is what one of it is called, `capacity` the most that all
    users together may have of it: `2000000/day`."""

    name: str
    unit: str | None
    capacity: str | None = None
    retired_at: datetime | None = None


@frozen
class TierView(View):
    """`limits` maps a resource's name to its limits as written: `50/day,5/minute`."""

    name: str
    default: bool
    protected: bool
    limits: dict[str, str]
    retired_at: datetime | None = None


@frozen
class LimitView(View):
    """One ceiling of a tier; `limit` None is unlimited."""

    tier: str
    resource: str
    period: str
    limit: int | None


@frozen
class SettingView(View):
    """A setting: the value in force, and what it is when nobody set it."""

    key: str
    value: str
    default: str
    help: str


@frozen
class UserView(View):
    """`follows_default` says that no tier was set: the user is on the default one."""

    user: str
    tier: str | None
    follows_default: bool
    protected: bool
    created_at: datetime


@frozen
class OverrideView(View):
    """`period` None stands for every period, `limit` None for unlimited."""

    id: int
    user: str
    resource: str
    period: str | None
    limit: int | None
    created_at: datetime
    expires_at: datetime | None
    state: str
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class BlockView(View):
    """`resource` None is every resource."""

    id: int
    user: str
    resource: str | None
    created_at: datetime
    expires_at: datetime | None
    state: str
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class GrantView(View):
    """`state` is live, used_up, expired or revoked."""

    id: int
    user: str
    resource: str
    amount: int
    remaining: int
    priority: int
    created_at: datetime
    expires_at: datetime | None
    state: str
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class StepView(View):
    """One step of a ramp: from `at` on `percent` of the throttle's own number, or, when it
    is `lifting`, of the limit below it."""

    at: datetime
    percent: int
    lifting: bool


@frozen
class SwitchView(View):
    """A throttle, or an enforcement switch of kind `shadow` or `off`.

    `value` is as written: `3/day`, `25%`. `resources` and `tiers` None are all.
    `state` is on, scheduled, over or lifted. `step` is the percentage of the ramp's
    present step; `message` is what end users are told; a `drill` denies nothing.
    """

    id: int
    name: str | None
    kind: str
    value: str | None
    period: str | None
    floor: int | None
    resources: tuple[str, ...] | None
    tiers: tuple[str, ...] | None
    freeze_grants: bool
    include_protected: bool
    starts_at: datetime
    ends_at: datetime | None
    state: str
    created_at: datetime
    lifted_at: datetime | None
    message: str | None
    preset: str | None
    drill: bool
    held_at: datetime | None
    step: int | None
    steps: tuple[StepView, ...]
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class AuditView(View):
    """One administrative act; `text_removed` says that a reason was there and is gone."""

    id: int
    at: datetime
    actor: str
    action: str
    user: str | None
    subject: str | None
    before: Any
    after: Any
    reason: str | None
    ticket: str | None
    hash: str


@frozen
class Outcome:
    """What an administrative act did.

    `changed` False: it was so already. `message` is for people: one line, of a preset one
    more for each thing that it switches. `item` is what was made or changed, as its view
    shows it.
    """

    changed: bool
    message: str
    item: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {**self.item, "changed": self.changed}
