"""Copying a whole database into a file, and back: SQLite's online backup, PostgreSQL's own programs."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import URL, inspect

from pfedbayespt.server.database import Database
from pfedbayespt.server.operations.errors import OperationError
from pfedbayespt.server.operations.manifest import sync, sync_folder

_SUFFIXES: Final = {"sqlite": "sqlite3", "postgresql": "pgdump"}
_RESTORE: Final = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")


def suffix_of(database: Database) -> str:
    """Return how a dump's file name ends."""
    return _SUFFIXES[database.url.get_backend_name()]


def dump(database: Database, file: Path) -> None:
    """Write one consistent snapshot into a new file, durably, while others go on writing.

    Raises:
        OperationError: the programs of PostgreSQL's client are missing or fail.
    """
    if database.is_sqlite:
        _dump_sqlite(_file_of(database), file)
    else:
        _run("pg_dump", database.url, "--format=custom", "--no-owner", "--no-privileges", f"--file={file}")
    file.chmod(0o600)
    sync(file)


def load(database: Database, file: Path) -> None:
    """Make the database what the snapshot holds; what it held before is gone.

    Raises:
        OperationError: as `dump`; nothing has changed then.
    """
    if database.is_sqlite:
        _load_sqlite(_file_of(database), file)
    else:
        _run("pg_restore", database.url, "--clean", "--if-exists", *_RESTORE, str(file))


def is_empty(database: Database) -> bool:
    """Whether there is no table, and for SQLite: no file."""
    if database.is_sqlite and not _file_of(database).exists():
        return True
    return not inspect(database.engine).get_table_names()


def _file_of(database: Database) -> Path:
    return Path(str(database.url.database))


def _dump_sqlite(source: Path, target: Path) -> None:
    if not source.exists():
        raise OperationError(
            f"there is no database {source}; did the coordinator ever run with these settings?"
        )
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)  # in one step: readers of a write-ahead log keep nobody waiting


def _load_sqlite(target: Path, source: Path) -> None:
    beside = target.with_name(f".{target.name}.restored")
    shutil.copyfile(source, beside)
    beside.chmod(0o600)
    sync(beside)
    for leftover in ("-wal", "-shm", ""):  # a log of the old database must never meet the new one
        target.with_name(target.name + leftover).unlink(missing_ok=True)
    sync_folder(target.parent)
    beside.replace(target)
    sync_folder(target.parent)


def _run(program: str, url: URL, *options: str) -> None:
    place = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    password = {} if url.password is None else {"PGPASSWORD": str(url.password)}  # never among the arguments
    try:
        done = subprocess.run(  # noqa: S603  (no shell, and no word of a caller's)
            [program, f"--dbname={place}", *options],
            env=os.environ | password,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise OperationError(
            f"there is no {program} here; install PostgreSQL's client programs (Debian: postgresql-client), "
            "of the server's version at least"
        ) from error
    if done.returncode != 0:
        raise OperationError(f"{program} failed: {done.stderr.strip()[-2000:]}")
