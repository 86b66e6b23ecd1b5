"""Is all well with the ledger, its file and its host? Looks, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quotactl.engines.opening import ledger_path, open_engine
from quotactl.engines.schema import SCHEMA_VERSION
from quotactl.engines.sqlite import backup as files
from quotactl.engines.sqlite.door import SqliteEngine
from quotactl.errors import NotFound, QuotaError
from quotactl.frozen import frozen
from quotactl.operations.close import close_status
from quotactl.operations.verify import verify
from quotactl.policy.window import HOUR_MS, MINUTE_MS

# Its commits go by checkpoints of some 8 MB; a WAL beyond this was never let go by a reader.
WAL_MAX = 256 * 2**20
ROOM_MIN = 64 * 2**20
# The hourly job is late by then, whatever minute it runs at.
LATE_MS = 3 * HOUR_MS
# Locks, and the memory that readers and writers share, need the one machine.
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"}
    | {"lustre", "beegfs", "ocfs2", "gfs2", "webdav", "davfs", "fuse.sshfs", "fuse.glusterfs"}
    | {"fuse.s3fs", "fuse.rclone"}
)


@frozen
class Checked:
    """One check. `severity` is fine, note (worth knowing) or bad; `ok` is not bad."""

    check: str
    severity: str
    detail: str
    hint: str | None = None

    @property
    def ok(self) -> bool:
        return self.severity != "bad"

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "ok": self.ok,
            "severity": self.severity,
            "detail": self.detail,
            "hint": self.hint,
        }


@frozen
class Diagnosis:
    """All checks in their order; `ok` if none is bad."""

    findings: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "findings": [finding.to_dict() for finding in self.findings]}


def diagnose(db: str | Path, now_ms: int) -> Diagnosis:
    """Look at everything that can be looked at, also where the ledger can't be opened.

    Raises NotFound where there is no file.
    """
    path = ledger_path(db)
    if not path.exists():
        raise NotFound(f"no ledger at {path}", hint=f"make one: quotactl init {path}")
    found: list[Checked] = []
    for check in (_file, _folder, _file_system, _room, _wal):
        found += _guarded(check.__name__.strip("_").replace("_", " "), check, path)
    found += _guarded("sqlite", lambda _: iter([sqlite(sqlite3.sqlite_version_info)]), path)
    found += _guarded("ledger", lambda _: _inside(path, now_ms), path)
    found += _guarded("notification", lambda _: _host(), path)
    return Diagnosis(tuple(found))


def sqlite(version: tuple[int, ...]) -> Checked:
    """The library's version: 3.7.0 to 3.51.2 can corrupt a file when a commit races the
    reset of the WAL by a checkpoint (fixed in 3.51.3, 3.50.7 and 3.44.6)."""
    text = ".".join(map(str, version))
    mended = version >= (3, 51, 3) or any(
        version[:2] == series[:2] and version >= series for series in ((3, 50, 7), (3, 44, 6))
    )
    if mended:
        return Checked("sqlite", "fine", f"SQLite {text}")
    return Checked(
        "sqlite",
        "note",
        f"SQLite {text} can corrupt a file when a commit races a checkpoint; quotactl's own "
        "writers queue for both, other programs do not",
        "use 3.51.3, 3.50.7 or 3.44.6; let nothing but quotactl write the file",
    )


# ---- the file


def _file(path: Path) -> Iterator[Checked]:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    what = f"mode {mode:04o}, owner {_user(status.st_uid)}"
    beside = [path.with_name(path.name + s) for s in ("-wal", "-shm", "-queue", "-turn")]
    open_to_all = [
        file for file in (path, *beside) if file.exists() and file.stat().st_mode & stat.S_IRWXO
    ]
    if open_to_all:
        names = " ".join(str(file) for file in open_to_all)
        yield Checked(
            "file", "bad", f"{names}: everybody on this machine has access", f"chmod o= {names}"
        )
    elif not os.access(path, os.R_OK | os.W_OK):
        yield Checked("file", "bad", f"{what}: not ours to write", "run as its owner")
    elif status.st_uid not in (os.geteuid(), 0) and os.geteuid() == 0:
        yield Checked(
            "file",
            "note",
            f"{what}, and this is root",
            "run as the owner, who could not write files that root makes",
        )
    else:
        yield Checked("file", "fine", what)


def _folder(path: Path) -> Iterator[Checked]:
    folder = path.resolve().parent
    mode = folder.stat().st_mode
    if not os.access(folder, os.W_OK | os.X_OK):
        hint = f"let {_user(os.geteuid())} write there"
        yield Checked("folder", "bad", f"{folder} can't be written: SQLite needs to", hint)
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield Checked(
            "folder",
            "bad",
            f"{folder} can be written by everybody: anyone can replace the ledger",
            f"chmod o-w {folder}",
        )
    elif shut := files.shut_to_group(path):
        yield Checked("folder", "bad", *shut)
    else:
        yield Checked("folder", "fine", f"{folder} can be written")


def _file_system(path: Path) -> Iterator[Checked]:
    kind = file_system_of(path)
    if kind is None:
        yield Checked("file system", "note", "not known here", "it has to be a local disk")
    elif kind in NETWORK:
        yield Checked(
            "file system",
            "bad",
            f"{kind} lies on a network, where locks do not hold",
            "move the ledger to a local disk",
        )
    else:
        yield Checked("file system", "fine", kind)


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of file system that a file lies on; None where the system does not tell."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = path.resolve()
    found, longest = None, -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t"))
        # The last of equals lies on top.
        if real.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = fields[2], len(point.parts)
    return found


def _room(path: Path) -> Iterator[Checked]:
    size = path.stat().st_size
    space = os.statvfs(path.resolve().parent)
    free = space.f_bavail * space.f_frsize
    needed = max(ROOM_MIN, size // 10)
    detail = f"{_mib(free)} free, the ledger has {_mib(size)}"
    if free < needed:
        yield Checked("room", "bad", detail, f"make room: at least {_mib(needed)}")
    elif free < 2 * size:
        yield Checked("room", "note", detail, "a backup beside it, or a restore, would not fit")
    else:
        yield Checked("room", "fine", detail)


def _wal(path: Path) -> Iterator[Checked]:
    real = path.resolve()
    wal = real.with_name(real.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > WAL_MAX:
        yield Checked(
            "wal",
            "bad",
            f"{_mib(size)} not written back into the ledger",
            "end what reads it all the time; the next checkpoint then shrinks it",
        )
    else:
        yield Checked("wal", "fine", f"{_mib(size)}")


# ---- what is in it


def _inside(path: Path, now_ms: int) -> Iterator[Checked]:
    engine = open_engine(path)
    try:
        yield Checked("schema", "fine", f"schema {SCHEMA_VERSION}")
        yield from _guarded("content", lambda _: _content(engine, now_ms), path)
        yield from _guarded("days", lambda _: _days(engine, now_ms), path)
        yield from _guarded("clock", lambda _: _clock(engine, now_ms), path)
    finally:
        engine.close()


def _content(engine: SqliteEngine, now_ms: int) -> Iterator[Checked]:
    found = verify(engine, now_ms)
    damage = [d for d in found.differences if d.what == "file"]
    chain = [d for d in found.differences if d.what == "audit"]
    others = len(found.differences) - len(damage) - len(chain)
    if damage:
        hint = "quotactl db restore BACKUP"
        yield Checked("integrity", "bad", f"the file is damaged: {damage[0].found}", hint)
    else:
        yield Checked("integrity", "fine", "tables and indexes are whole")
    if others:
        first = next(d for d in found.differences if d.what not in ("file", "audit"))
        yield Checked(
            "book",
            "bad",
            f"{first.what} {first.where}: {first.found}, expected {first.expected}; "
            f"differences: {others}",
            "quotactl db verify has them all",
        )
    else:
        yield Checked(
            "book", "fine", f"{found.entries} entries and {found.counters} counters agree"
        )
    if chain:
        yield Checked("audit", "bad", chain[0].where, "quotactl audit verify")
    else:
        detail = f"the chain of {found.audit_rows} rows holds, hash {found.audit_hash}"
        yield Checked("audit", "fine", detail)


def _days(engine: SqliteEngine, now_ms: int) -> Iterator[Checked]:
    due = close_status(engine, now_ms).due
    hint = "quotactl reset daily; a job for it: quotactl reset install --cron"
    if not due:
        yield Checked("days", "fine", "no day waits to be closed")
        return
    with engine.reading() as book:
        calendar = book.policy.calendar
        until = book.head.closed_until_ms
        end_ms = calendar.day(book.head.opened_at_ms if until is None else until).reset_at_ms
    many = f"{len(due)} day{'s' if len(due) != 1 else ''} to be closed, from {due[0]} on"
    if now_ms - end_ms > LATE_MS:
        yield Checked("days", "bad", f"{many}: the daily job has not run", hint)
    else:
        yield Checked("days", "note", many, hint)


def _clock(engine: SqliteEngine, now_ms: int) -> Iterator[Checked]:
    with engine.reading() as book:
        newest = [row["at_ms"] for row in book.audit_rows(newest=1)]
        if (last := book.entry(book.next_entry_id() - 1)) is not None:
            newest.append(last.at_ms)
        ahead_ms = max(newest, default=0) - now_ms
        if (until := book.head.closed_until_ms) is not None:
            ahead_ms = max(ahead_ms, until - now_ms)
    if ahead_ms > MINUTE_MS:
        yield Checked(
            "clock",
            "bad",
            f"this clock is {ahead_ms // 1000} s behind what is in the ledger",
            "set the clocks of all machines by NTP",
        )
    else:
        yield Checked("clock", "fine", "not behind what is in the ledger")


def _host() -> Iterator[Checked]:
    from quotactl.operations.notify import config_path, read_commands

    path = config_path()
    if path is None:
        yield Checked("notification", "fine", "no configuration: nobody is told")
        return
    commands = read_commands(path)
    for command in commands:
        if not os.access(command.words[0], os.X_OK):
            yield Checked(
                "notification",
                "bad",
                f"{path}: {command.words[0]} can't be run",
                "install it, or take it out",
            )
            return
    yield Checked("notification", "fine", f"{path}: commands: {len(commands)}")


# ---- steps


def _guarded(
    name: str, check: Callable[[Path], Iterator[Checked]], path: Path
) -> Iterator[Checked]:
    """A check's findings; where it fails, that is one: damage can break any of them."""
    try:
        yield from check(path)
    except QuotaError as error:
        yield Checked(name, "bad", error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - what is damaged can raise anything
        yield Checked(name, "bad", f"failed: {type(error).__name__}: {error}", "restore a backup")


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
