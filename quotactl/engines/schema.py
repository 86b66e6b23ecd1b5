"""The schema's version, and the migrations that bring a ledger up to it."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Migrations

# As many as there are steps in `migrations/`; a test holds the two together,
# so that opening a ledger need not import them.
SCHEMA_VERSION = 5
APPLICATION_ID = 0x71756F31

# The triggers that guard what the code promises; verify names one that is gone.
GUARDS = frozenset(
    {
        "audit_is_immutable",
        "audit_is_kept",
        "block_marks_user",
        "closed_day_is_immutable",
        "entry_is_immutable",
        "entry_is_kept",
        "grant_movement_is_immutable",
        "grant_movement_is_kept",
        "grant_pool_marks_user",
        "ledger_is_kept",
        "ledger_zone_is_fixed",
        "override_marks_user",
        "refusing_is_counted",
        "reservation_marks_user",
        "taking_is_counted",
        "user_is_kept",
        "user_moves_version",
    }
)


def migrations_folder() -> Path:
    """Where the steps lie: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "migrations.py").is_file():
            return folder
    raise FileNotFoundError(f"no migrations beside {package}: the installation is incomplete")


def load_migrations() -> Migrations:
    """The set of steps, as sqlite-utils applies it."""
    path = migrations_folder() / "migrations.py"
    spec = importlib.util.spec_from_file_location("quotactl_migrations", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Any = module.quotactl
    return found  # type: ignore[no-any-return]


def apply_migrations(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; the caller has begun an immediate transaction.

    Inside it the savepoints that sqlite-utils makes can't race other processes.
    """
    from sqlite_utils import Database

    load_migrations().apply(Database(connection, execute_plugins=False))
