"""All administrative acts under one roof: `Ledger.admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotactl.operations import audit
from quotactl.operations.administer import Catalogue
from quotactl.operations.apply import PolicyFiles
from quotactl.operations.emergency import Emergency
from quotactl.operations.enforcement import EnforcementActs
from quotactl.operations.make_good import MakeGood
from quotactl.operations.people import People
from quotactl.operations.presets import PresetActs
from quotactl.operations.reset import Reset

if TYPE_CHECKING:
    from quotactl.ledger.engine import Writing


class Admin(
    Catalogue, People, MakeGood, Emergency, EnforcementActs, PresetActs, Reset, PolicyFiles
):
    """Every act is one transaction with its audit row; see the classes it is made of."""


def record_founding(book: Writing, now_ms: int, *, actor: str, name: str, zone: str) -> None:
    """Write a new ledger's first audit row."""
    audit.record(
        book, now_ms=now_ms, actor=actor, action="init", after={"name": name, "zone": zone}
    )
