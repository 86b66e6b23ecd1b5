"""Quota administration: who may have how much, and where every unit went.

Reading order for the code, from the top down: `api` (a ledger that is open),
`operations` (what can be done to it), `policy` (the pure rules: `decide`),
`engines` (where the SQL is). The command line is in `cli`.

    import quotactl

    with quotactl.connect("ledger.db") as q:
        decision = q.consume(user="ada", resource="image", amount=1)
        if not decision.allowed:
            print(decision.reason, decision.retry_after_s)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl._version import __version__
from quotactl.errors import (
    ClockBehind,
    Conflict,
    InvalidInput,
    LedgerBusy,
    LedgerCorrupt,
    NeedsConfirmation,
    NotFound,
    QuotaError,
    SchemaMismatch,
)

if TYPE_CHECKING:
    from quotactl.api import Ledger, connect, create
    from quotactl.ledger.values import Decision, Refund, Request, Settlement
    from quotactl.operations.verify import Verification
    from quotactl.policy.model import Rule
    from quotactl.reports.explain import Explanation

# Imported when first used, so that the command line's `--help` need not load
# SQLite.
_LAZY = {
    "Decision": "quotactl.ledger.values",
    "Explanation": "quotactl.reports.explain",
    "Ledger": "quotactl.api",
    "Refund": "quotactl.ledger.values",
    "Request": "quotactl.ledger.values",
    "Rule": "quotactl.policy.model",
    "Settlement": "quotactl.ledger.values",
    "Verification": "quotactl.operations.verify",
    "connect": "quotactl.api",
    "create": "quotactl.api",
}

__all__ = [
    "ClockBehind",
    "Conflict",
    "Decision",
    "Explanation",
    "InvalidInput",
    "Ledger",
    "LedgerBusy",
    "LedgerCorrupt",
    "NeedsConfirmation",
    "NotFound",
    "QuotaError",
    "Refund",
    "Request",
    "Rule",
    "SchemaMismatch",
    "Settlement",
    "Verification",
    "__version__",
    "connect",
    "create",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'quotactl' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
