"""A wheel, an sdist and an editable checkout, installed for real: each must find its migrations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quotactl.engines import schema

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 300
# What a clone has and a build needs; not the ledgers, caches and environments lying around.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "quotactl", "migrations", ".gitignore")

# Runs in the new environment, from an empty folder: makes a ledger, uses it, and says
# where its code and its migrations came from.
TRIAL = """
import json, sys
import quotactl
from quotactl.engines import schema
with quotactl.create("ledger.db", name="prod", zone="Europe/Rome") as q:
    q.admin.create_resource("image")
    q.admin.create_tier("free")
    q.admin.set_limit(tier="free", resource="image", limit="3/day")
    allowed = [q.consume(user="ada", resource="image").allowed for _ in range(4)]
    ok = q.verify().ok
print(json.dumps({
    "allowed": allowed,
    "ok": ok,
    "package": quotactl.__file__,
    "migrations": str(schema.migrations_folder()),
    "version": quotactl.__version__,
}))
"""


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run to its end, without this environment's own path to the checkout."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "QUOTACTL_DB")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing behind in them."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build backend that pyproject.toml asks for, in a folder of its own.

    Fetched as pip itself would for every build, once for all of them here.
    """
    folder = tmp_path_factory.mktemp("backend")
    got = run(
        *(sys.executable, "-m", "pip", "install", "-q", "--target", folder),
        *("hatchling>=1.26", "editables"),
        cwd=folder,
    )
    if got.returncode:
        pytest.skip(f"hatchling can not be had here, so nothing can be built: {got.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path, backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(
        *(sys.executable, "-m", "hatchling", "build", "-d", folder, "-t", "wheel", "-t", "sdist"),
        cwd=checkout,
        PYTHONPATH=str(backend),
    )
    assert done.returncode == 0, done.stderr
    return folder


def install(what: Path, *options: str, into: Path, backend: Path) -> Path:
    """Install into a fresh environment; its dependencies are those of this one.

    Their folder is added by path alone, so that nothing that is installed editable
    there, such as quotactl itself, comes along.
    """
    venv.create(into, with_pip=False, symlinks=True)
    python = into / "bin" / "python"
    done = run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "-q"),
        *("--no-deps", "--no-build-isolation", "--no-index", *options, what),
        cwd=into,
        PYTHONPATH=str(backend),
    )
    assert done.returncode == 0, done.stderr
    (site,) = into.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def tried(python: Path, empty: Path) -> dict[str, Any]:
    """What the trial says of itself, run from another folder."""
    empty.mkdir()
    done = run(python, "-c", TRIAL, cwd=empty)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["allowed"] == [True, True, True, False]
    assert said["ok"]
    return said


def test_an_installed_wheel_finds_its_migrations(
    built: Path, backend: Path, tmp_path: Path
) -> None:
    (wheel,) = built.glob("*.whl")
    python = install(wheel, into=tmp_path / "env", backend=backend)
    said = tried(python, tmp_path / "elsewhere")
    assert Path(said["package"]).is_relative_to(tmp_path / "env")
    assert Path(said["migrations"]) == Path(said["package"]).parent / "migrations"


def test_an_installed_sdist_finds_its_migrations(
    built: Path, backend: Path, tmp_path: Path
) -> None:
    (sdist,) = built.glob("*.tar.gz")
    python = install(sdist, into=tmp_path / "env", backend=backend)
    said = tried(python, tmp_path / "elsewhere")
    assert Path(said["package"]).is_relative_to(tmp_path / "env")
    assert Path(said["migrations"]) == Path(said["package"]).parent / "migrations"


def test_an_editable_checkout_finds_its_migrations(
    checkout: Path, backend: Path, tmp_path: Path
) -> None:
    python = install(checkout, "--editable", into=tmp_path / "env", backend=backend)
    said = tried(python, tmp_path / "elsewhere")
    assert Path(said["package"]).is_relative_to(checkout)
    assert Path(said["migrations"]) == checkout / "migrations"


def test_the_installed_command_makes_and_uses_a_ledger(
    built: Path, backend: Path, tmp_path: Path
) -> None:
    (wheel,) = built.glob("*.whl")
    python = install(wheel, into=tmp_path / "env", backend=backend)
    command = python.with_name("quotactl")
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    steps = (
        ("init", "ledger.db", "--zone", "Europe/Rome"),
        ("resource", "create", "image", "--db", "ledger.db"),
        ("tier", "create", "free", "--db", "ledger.db"),
        ("limit", "set", "free", "image=1/day", "--db", "ledger.db"),
        ("consume", "ada", "image", "--db", "ledger.db"),
    )
    for step in steps:
        done = run(command, *step, cwd=empty)
        assert done.returncode == 0, (step, done.stderr)
    assert run(command, "consume", "ada", "image", "--db", "ledger.db", cwd=empty).returncode == 3


def test_the_wheel_holds_the_package_its_types_and_all_steps(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    steps = {path.name for path in (ROOT / "migrations").glob("*.py")}
    assert {f"quotactl/migrations/{name}" for name in steps} <= names
    assert "quotactl/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"quotactl"}


def test_the_sdist_builds_without_git(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "quotactl/_version.py", "migrations/m0001_initial.py"} <= names


# ---- the steps themselves


def steps() -> list[str]:
    return sorted(path.stem for path in (ROOT / "migrations").glob("m[0-9]*.py"))


def test_the_schemas_version_is_the_number_of_steps() -> None:
    numbers = [int(name[1:5]) for name in steps()]
    assert numbers == list(range(1, schema.SCHEMA_VERSION + 1))
    assert len(step_names()) == schema.SCHEMA_VERSION


def test_a_new_ledger_has_the_version_and_the_id_that_opening_asks_for(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    import quotactl

    quotactl.create(tmp_path / "ledger.db").close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert (application_id, version) == (schema.APPLICATION_ID, schema.SCHEMA_VERSION)
    assert application_id.to_bytes(4, "big") == b"quo1"


def test_the_constants_of_the_first_step_and_of_the_schema_agree() -> None:
    import runpy

    first = runpy.run_path(str(ROOT / "migrations" / "m0001_initial.py"))
    assert first["APPLICATION_ID"] == schema.APPLICATION_ID


def test_sqlite_utils_finds_the_same_set_and_nothing_is_pending(tmp_path: Path) -> None:
    import quotactl

    quotactl.create(tmp_path / "ledger.db").close()
    command = (sys.executable, "-m", "sqlite_utils", "migrate", tmp_path / "ledger.db")
    listed = run(*command, ROOT / "migrations", "--list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    applied, _, pending = listed.stdout.partition("Pending:")
    assert "quotactl" in applied
    assert all(name in applied for name in step_names())
    assert pending.strip() == "(none)", listed.stdout
    before = (tmp_path / "ledger.db").read_bytes()
    migrated = run(*command, ROOT / "migrations", cwd=tmp_path)
    assert migrated.returncode == 0, migrated.stderr
    assert (tmp_path / "ledger.db").read_bytes() == before


def step_names() -> list[str]:
    """The steps as the set itself counts them: all that an empty database lacks."""
    from sqlite_utils import Database

    with Database(memory=True, execute_plugins=False) as database:
        return [migration.name for migration in schema.load_migrations().pending(database)]
