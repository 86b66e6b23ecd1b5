"""What can go wrong, as values a program can act on.

Every error carries the exit code that the command line ends with and, where
there is one, a hint: what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class QuotaError(Exception):
    """Base of every error that quotactl raises on purpose.

    `message` is one line: what happened, to which user or resource.
    `hint` is one line: what to do next, or None.
    """

    code: ClassVar[str] = "unexpected"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class InvalidInput(QuotaError):
    """A value that can't be taken: exit 2."""

    code = "invalid_input"
    exit_code = 2


class NeedsConfirmation(QuotaError):
    """A dangerous act, and nobody there to ask: exit 2."""

    code = "needs_confirmation"
    exit_code = 2


class NotFound(QuotaError):
    """No such tier, resource, user, grant, throttle or ledger: exit 6."""

    code = "not_found"
    exit_code = 6


class Conflict(QuotaError):
    """What is asked contradicts what is already there: exit 7."""

    code = "conflict"
    exit_code = 7


class LedgerBusy(QuotaError):
    """The ledger could not be had in time; safe to try again: exit 75."""

    code = "ledger_busy"
    exit_code = 75


class ClockBehind(QuotaError):
    """A write into a day that is closed, by a clock that runs behind: exit 75."""

    code = "clock_behind"
    exit_code = 75


class BadConfiguration(QuotaError):
    """The host's configuration file can't be used as it is: exit 78."""

    code = "bad_configuration"
    exit_code = 78


class LedgerCorrupt(QuotaError):
    """The file is no ledger, or no longer a whole one: exit 78."""

    code = "ledger_corrupt"
    exit_code = 78


class SchemaMismatch(QuotaError):
    """The ledger belongs to another version of quotactl: exit 78."""

    code = "schema_mismatch"
    exit_code = 78
