"""Who may: read-only commands with read-only permission, groups, and passwords in URLs.

Permission bits do not bind root, so where the tests run as root the command's process lays
down the capabilities that stand above them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quotactl
from quotactl.cli import main
from quotactl.engines.sqlite import files

LIBC = ctypes.CDLL(None)
PR_CAPBSET_DROP = 24
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH = 0, 1, 2
SOURCE = str(Path(quotactl.__file__).resolve().parent.parent)
SCHEMA_1 = Path(__file__).parent.parent / "packaging" / "schema1.db"
READING = [
    "check ada image",
    "status",
    "tier list",
    "tier show free",
    "limit list",
    "user show ada",
    "throttle list",
    "setting list",
    "explain ada image",
    "report usage",
    "report top",
    "user list",
    "grant list",
    "override list",
    "enforcement show",
    "preset list",
    "throttle preview --cap 1/day --tier free",
    "audit list",
    "audit verify",
    "policy export",
    "reset status",
    "db verify",
]


def run(
    words: str, path: Path, *, program: list[str] | None = None, **how: object
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, that permission bits bind."""
    ran: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, *(program or ["-m", "quotactl", *words.split(), "--db", str(path)])],
        cwd="/",
        env={**os.environ, "PYTHONPATH": SOURCE, "QUOTACTL_CONFIG": "/dev/null", "HOME": "/"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=None if how else lay_down,
        **how,  # type: ignore[call-overload]
    )
    return ran


def lay_down() -> None:
    if os.geteuid() == 0:
        for capability in (CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH):
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for the ledger alone, given back to be removed."""
    folder = tmp_path / "ledgers"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)


@pytest.fixture
def path(folder: Path) -> Path:
    """A ledger that anybody may read, in a folder that only its owner may write."""
    path = folder / "prod.db"
    with quotactl.create(path, name="prod") as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="3/day")
        q.consume(user="ada", resource="image")
    path.chmod(0o444)
    folder.chmod(0o555)
    return path


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Name, mode, size and time of change of every file."""
    return {
        file.name: (file.stat().st_mode, file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.iterdir()
    }


def test_who_may_only_read_reads_and_leaves_no_trace(path: Path) -> None:
    before = everything(path.parent)
    program = (
        "import sys; from quotactl.cli import main; db, *lines = sys.argv[1:]; "
        "print([bad for bad in lines if main([*bad.split(), '--db', db, '-q', '-o', 'tsv'])], "
        "file=sys.stderr)"
    )
    ran = run("", path, program=["-c", program, str(path), *READING])
    assert ran.stderr.strip() == "[]", ran
    assert everything(path.parent) == before


def test_who_may_only_read_makes_a_backup_elsewhere(path: Path, tmp_path: Path) -> None:
    before = everything(path.parent)
    ran = run(f"db backup {tmp_path}/copy.db", path)
    assert ran.returncode == 0, ran
    assert everything(path.parent) == before
    with quotactl.connect(tmp_path / "copy.db") as q:
        assert q.check(user="ada", resource="image").used == 1
    ran = run("db backup", path)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran


def test_who_may_only_read_is_refused_a_write_in_one_line(path: Path) -> None:
    for words in (
        "consume ada image",
        "throttle on --deny --reason r --yes",
        "reset daily",
    ):
        before = everything(path.parent)
        ran = run(words, path)
        assert ran.returncode == 1, ran
        assert "can't be written: it is read-only here" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert everything(path.parent) == before


def test_who_may_only_read_backs_up_to_where_they_may_write_and_restores_nothing(
    path: Path, tmp_path: Path
) -> None:
    before = everything(path.parent)
    assert run(f"db backup {tmp_path}/copy.db", path).returncode == 0
    with quotactl.connect(tmp_path / "copy.db") as copy:
        assert copy.check(user="ada", resource="image").used == 1
    ran = run(f"db restore {tmp_path}/copy.db --yes", path)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
    assert "can't copy" in ran.stderr and "Permission denied" in ran.stderr
    assert everything(path.parent) == before


def test_a_migration_or_backup_without_permission_leaves_all_as_it_was_and_goes_on_with_it(
    folder: Path,
) -> None:
    old = folder / "old.db"
    shutil.copyfile(SCHEMA_1, old)
    # Read but not written: a backup beside it is as impossible as a change.
    for file_mode, folder_mode, words in (
        (0o444, 0o555, "db migrate"),
        (0o644, 0o555, "db migrate"),
        (0o444, 0o755, "db migrate"),
        (0o644, 0o555, f"db backup {folder}/copy.db"),
    ):
        old.chmod(file_mode)
        folder.chmod(folder_mode)
        before = everything(folder)
        ran = run(words, old)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (78 if "backup" in words else 1, 1)
        assert everything(folder) == before
    old.chmod(0o644)
    folder.chmod(0o755)
    for words in ("db migrate", f"db backup {folder}/copy.db"):
        assert run(words, old).returncode == 0
    folder.chmod(0o555)
    ran = run(f"db backup {folder}/other.db", old)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
    assert "no backup at" in ran.stderr and "Permission denied" in ran.stderr


def test_who_may_not_even_read_is_told_so(path: Path) -> None:
    path.chmod(0o000)
    ran = run("check ada image", path)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
    assert "can't be read: Permission denied" in ran.stderr


def test_a_folder_that_may_not_be_entered_is_told_of(path: Path) -> None:
    path.parent.chmod(0o600)
    ran = run("check ada image", path)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
    assert "can't be reached: Permission denied" in ran.stderr


def test_who_may_only_read_sees_what_is_still_in_the_wal(path: Path) -> None:
    path.chmod(0o644)
    path.parent.chmod(0o755)
    with quotactl.connect(path) as q:
        assert q.consume(user="ada", resource="image").used == 2
        path.chmod(0o444)
        path.parent.chmod(0o555)
        ran = run("check ada image --json", path)
        assert ran.returncode == 0, ran
        assert '"used": 2' in ran.stdout
        # Not readable, its WAL makes all of it so: the file alone is not the ledger.
        path.with_name("prod.db-shm").chmod(0o000)
        ran = run("check ada image", path)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
        path.with_name("prod.db-shm").chmod(0o644)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "prod.db"
    with quotactl.create(path, name="prod") as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="3/day")
    return path


def test_a_reader_without_locks_sees_each_change_that_was_written_back(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_may_write", lambda name: False)
        reader = quotactl.connect(plain)
    for used in (1, 2):
        with quotactl.connect(plain) as writer:
            writer.consume(user="ada", resource="image")
        with monkeypatch.context() as patch:
            patch.setattr(files, "_may_write", lambda name: False)
            assert reader.check(user="ada", resource="image").used == used
    # And may write as soon as it may write.
    assert reader.consume(user="ada", resource="image").used == 3
    reader.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_read_without_locks_under_which_the_file_changed_is_not_believed(
    plain: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_may_write", lambda name: False)
        reader = quotactl.connect(plain)

    def read() -> None:
        with reader.engine.reading():
            with quotactl.connect(plain) as writer:
                writer.consume(user="ada", resource="image")
            if fails:
                raise quotactl.LedgerCorrupt("half of one state and half of another")

    with pytest.raises(quotactl.LedgerBusy, match="written while it was read"):
        read()
    assert reader.check(user="ada", resource="image").used == 1
    reader.close()


# ---- modes and groups


def modes(path: Path) -> set[tuple[int, int]]:
    """Mode and group of the ledger and of all that lies beside it while it is open."""
    with quotactl.connect(path) as q:
        with (
            q.engine.writing(),
            quotactl.connect(path, timeout_s=0.01) as other,
            pytest.raises(quotactl.LedgerBusy),
            other.engine.writing(),
        ):
            pass
        files = [path, *path.parent.glob(path.name + "-*")]
        assert {file.name for file in files} >= {
            path.name + suffix for suffix in ("", "-wal", "-shm", "-queue", "-turn")
        }
        return {(stat.S_IMODE(file.stat().st_mode), file.stat().st_gid) for file in files}


def test_without_a_group_all_is_for_the_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        quotactl.create(tmp_path / "a.db").close()
        assert modes(tmp_path / "a.db") == {(0o600, os.getegid())}
    finally:
        os.umask(before)


def some_group() -> int:
    """A group that this process may give files to, another than its own if there is one."""
    if os.geteuid() == 0:
        return 4711
    return next((group for group in os.getgroups() if group != os.getegid()), os.getegid())


def test_init_for_a_group_lets_it_have_everything_whatever_the_umask(tmp_path: Path) -> None:
    group = some_group()
    before = os.umask(0o077)
    try:
        assert main(["init", str(tmp_path / "a.db"), "--group", str(group), "-q"]) == 0
        assert modes(tmp_path / "a.db") == {(0o660, group)}
    finally:
        os.umask(before)


def test_a_group_that_may_not_write_the_folder_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = some_group()
    tmp_path.chmod(0o750)
    assert main(["init", str(tmp_path / "a.db"), "--group", str(group), "-q"]) == 0
    said = capsys.readouterr().err
    assert said == (
        f"warning: {tmp_path} can't be written by group {group}: SQLite needs to, beside the "
        f"ledger; chgrp {group} {tmp_path} && chmod g+rwxs {tmp_path}\n"
    )
    assert main(["doctor", "--db", str(tmp_path / "a.db")]) == 8
    assert "can't be written by group" in capsys.readouterr().out
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2770)
    assert main(["doctor", "--db", str(tmp_path / "a.db"), "-q"]) == 0
    assert main(["init", str(tmp_path / "b.db"), "--group", str(group), "-q"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else")
def test_two_people_of_the_group_take_turns_and_others_are_refused(folder: Path) -> None:
    path = folder / "a.db"
    for at in folder.parents[:2]:
        at.chmod(0o711)
    try:
        reached = run("", path, program=["-c", "import quotactl.api"], user=4001, group=4711)
    except PermissionError:
        reached = None
    if reached is None or reached.returncode:
        pytest.skip("nobody else can get at the interpreter or the temporary folder")
    folder.chmod(0o770)
    os.chown(folder, 0, 4711)
    with quotactl.create(path, name="prod", group="4711") as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="9/day")
    for used, person in enumerate((4001, 4002, 4001), 1):
        ran = run("consume ada image --json", path, user=person, group=4711)
        assert ran.returncode == 0, ran
        assert f'"used": {used}' in ran.stdout
    assert run("check ada image", path, user=4003, group=4713).returncode == 1
    assert modes(path) == {(0o660, 4711)}


def test_an_unknown_group_makes_no_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "a.db"), "--group", "no-such-group"]) == 6
    assert "no group 'no-such-group'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_one_is_not_in_makes_no_ledger(folder: Path) -> None:
    folder.chmod(0o777)
    ran = run(f"init {folder}/a.db --group 4712", folder / "unused")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran
    assert "to group 4712: Operation not permitted" in ran.stderr
    assert list(folder.iterdir()) == []


# ---- passwords


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://me:secret@host/prod.db",
        "sqlite://secret@host",
        "sqlite:///prod.db?password=secret",
        "postgres://me:secret@host/prod",
        "postgresql://me:sec/ret@secret@host/prod?password=secret",
    ],
)
def test_a_password_in_a_url_is_never_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["consume", "ada", "image"],
        ["throttle", "on", "--deny", "--reason", "r"],
        ["status", "--json"],
        ["db", "migrate", "--debug"],
        ["reset", "install", "--cron"],
        ["tier", "list", "--nonsense"],
    ):
        assert main(["--db", url, *words]) == 2
    assert main(["init", url]) == 2
    for words in (
        ["db", "restore", url],
        ["db", "restore", url, "--debug"],
        ["db", "backup", url],
        ["policy", "apply", "-f", url],
        ["user", "import", url, "--reason", "r"],
        ["replay", url, "--policy", url],
        ["consume", "--batch", url],
    ):
        assert main(["--db", "none.db", *words]) != 0
        assert main(["--db", "none.db", "--json", *words]) != 0
    captured = capsys.readouterr()
    assert "secret" not in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []


def test_the_command_to_go_ahead_with_has_no_password_in_it() -> None:
    from quotactl.cli.invocation import Invocation

    this = Invocation(["--db", "pg://me:p@ss:word@host/x", "throttle", "on"])
    said = this.command_with("--yes")
    assert said == "quotactl --db 'pg://***@host/x' throttle on --yes"
