"""The database: SQLite embedded, PostgreSQL in production, one code path.

Rules:
1. A transaction is opened by the endpoint or the worker, and it is committed before the answer is sent.
2. Times are the database's: `Transaction.now` is read from it once, at the start.
3. SQLite: WAL, `synchronous=FULL` (NORMAL can lose an acknowledged commit on power loss), foreign keys on,
   and write transactions BEGIN IMMEDIATE, so that what they read cannot change under them.
4. An fsync of SQLite's that fails is not tried again: `on_broken` is told, which ends a server's process.
5. PostgreSQL: READ COMMITTED; a write transaction locks its federation's row first (`lock`), so that writes
   to one federation are serial there too, and locks are always taken in the same order.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.orm import Session

from pfedbayespt.server.orm import UtcDateTime
from pfedbayespt.server.tracing import UNTRACED, Tracing

_FAILED_FSYNCS = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
_MIGRATION_LOCK = 0x70666564  # any number that is ours
_BUSY_TIMEOUT_MILLISECONDS = 15_000
_POOL_SIZE, _POOL_OVERFLOW = (
    10,
    35,
)  # more than the 40 threads that serve requests, so that none waits for another

Clock = Callable[[Session], datetime]


@dataclass(frozen=True)
class Transaction:
    """An open transaction, the time at its start by the database's clock, and who acts in it."""

    session: Session
    now: datetime
    actor: str


def database_clock(session: Session) -> datetime:
    """Return the database's time, UTC."""
    if session.get_bind().dialect.name == "sqlite":
        instant: Any = func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime())
    else:
        instant = func.clock_timestamp(type_=UtcDateTime())
    moment: datetime = session.scalars(select(instant)).one()
    return moment


class Database:
    """Opens transactions on one database.

    `clock` is the port that tests use to move time; in production it is the database's own. Transactions show in
    `tracing` as a whole, because their end is what takes long: it waits for the disk.
    """

    def __init__(
        self,
        url: str,
        clock: Clock = database_clock,
        on_broken: Callable[[Exception], None] | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self.url = normalised(url)
        self._clock = clock
        self._tracing = tracing
        self.engine = _make_engine(self.url)
        if on_broken is not None:
            event.listen(self.engine, "handle_error", partial(_tell_if_broken, on_broken))
        self._writing = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is an embedded file, which this process owns alone."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def write(self, actor: str) -> Iterator[Transaction]:
        """Open a transaction that commits at the end of the block, or rolls back when it raises."""
        with (
            self._tracing.span("write transaction"),
            Session(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield Transaction(session, self._clock(session), actor)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a transaction for reading only."""
        with (
            self._tracing.span("read transaction"),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield Transaction(session, self._clock(session), actor="reader")

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Open a transaction for changing the schema: one process at a time, foreign keys checked at the end."""
        with self._writing.connect() as connection:
            if self.is_sqlite:  # tables are rebuilt, and this pragma only works outside of a transaction
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                yield connection
            connection.invalidate()  # the next user gets a connection with the usual pragmas

    def make_folder(self) -> None:
        """Make the folder of an embedded database, if there is none."""
        if self.is_sqlite:
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)

    def ping(self) -> None:
        """Return if the database answers."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def normalised(url: str) -> URL:
    """Return the URL with this server's drivers: psycopg 3 for PostgreSQL, the standard library's for SQLite.

    Raises:
        ValueError: the database is another one, or the SQLite database is not a file.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case "sqlite" if parsed.database not in {None, "", ":memory:"}:
            return parsed.set(drivername="sqlite+pysqlite")
    raise ValueError(
        f"database {parsed.render_as_string(hide_password=True)!r} is not supported; "
        "allowed: postgresql://user@host/name and sqlite:///path/to/file"
    )


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=_POOL_SIZE, max_overflow=_POOL_OVERFLOW, pool_pre_ping=True)
    engine = create_engine(url, pool_size=_POOL_SIZE, max_overflow=_POOL_OVERFLOW)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _tell_if_broken(on_broken: Callable[[Exception], None], context: ExceptionContext) -> None:
    error = context.original_exception
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _FAILED_FSYNCS:
        on_broken(error)


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin transactions late and of the wrong kind
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MILLISECONDS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
