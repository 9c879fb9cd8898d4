"""One connection to the SQLite file, its settings, its transactions, and what its failures mean.

Rule 1: SQLite older than 3.51.3 can corrupt a WAL database that several connections use (fixed 2026-03-13): there a
        rollback journal is used. `synchronous=EXTRA` makes a commit durable before it is answered, in both.
Rule 2: no memory map, cells checked on each page read, no trust in the schema of the file.
Rule 3: the file is never opened and closed beside SQLite: closing any descriptor of it drops the process's locks.
Rule 4: "locked", "full" and "input/output error" are `LedgerUnavailable`; everything that says the content is not
        what we wrote is `LedgerDamaged`. Neither is ever "no such row".
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from iarproxy.errors import LedgerDamaged, LedgerUnavailable

WAL_IS_SAFE = (3, 51, 3)
_BUSY = 5.0  # seconds
_SETTINGS = (
    *(f"busy_timeout={int(_BUSY * 1000)}", "mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON"),
    *("foreign_keys=ON", "synchronous=EXTRA", "fullfsync=ON", "checkpoint_fullfsync=ON"),
)
_NOW_UNABLE = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_AUTH),
    }
)


def uses_wal() -> bool:
    """Whether the SQLite linked here may use a write-ahead log (rule 1)."""
    return sqlite3.sqlite_version_info >= WAL_IS_SAFE


def create_file(path: Path) -> None:
    """Make an empty database file, mode 0600 whatever the umask is. Nobody has it open yet: it did not exist."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def connect(path: Path, *, wal: bool | None = None) -> Connection:
    """A connection to the existing file `path`, with the settings of rules 1 and 2; `wal` None: as `uses_wal` says.

    Raises:
        LedgerUnavailable: when another connection keeps the file in the other journal mode.
    """
    mode = "wal" if wal or (wal is None and uses_wal()) else "truncate"
    engine = create_engine("sqlite+pysqlite://", poolclass=NullPool, creator=lambda: _dial(path))
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        for pragma in _SETTINGS:
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        _switch(connection, mode)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """BEGIN, and COMMIT at the end or ROLLBACK on any failure."""
    connection.exec_driver_sql(f"BEGIN {kind}")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """A step inside a transaction: undone on failure, while the transaction goes on, unless SQLite ended that too."""
    connection.exec_driver_sql("SAVEPOINT step")
    try:
        yield
    except BaseException:
        if is_in_transaction(connection):
            connection.exec_driver_sql("ROLLBACK TO step")
            connection.exec_driver_sql("RELEASE step")
        raise
    connection.exec_driver_sql("RELEASE step")


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """Translate what SQLite and the file system report about the ledger at `path` (rule 4)."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, UnicodeDecodeError) as failure:
        raise meaning_of(failure, path) from failure


def meaning_of(failure: Exception, path: Path) -> Exception:
    """What `failure` means to a caller (rule 4); a failure that is not SQLite's or the file system's is itself."""
    match failure:
        case SQLAlchemyError():
            return _meaning(getattr(failure, "orig", None) or failure, path)
        case sqlite3.Error() | UnicodeDecodeError():  # the latter: SQLite's own message quotes a damaged name
            return _meaning(failure, path)
        case OSError():
            return LedgerUnavailable(f"the ledger {path} cannot be used: {failure.strerror or failure}")
        case _:
            return failure


def _dial(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY, isolation_level=None)
    # Broken UTF-8 is for the row's checksum to find; here it would fail the whole query and hide the good rows.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def _switch(connection: Connection, mode: str) -> None:
    found = connection.exec_driver_sql(f"PRAGMA journal_mode={mode}").scalar_one()
    if found != mode:
        raise LedgerUnavailable(f"the ledger keeps its journal mode {found} and cannot be switched to {mode} now")


def is_in_transaction(connection: Connection) -> bool:
    """Whether there is one; where a disk is full, or fails, SQLite itself rolls back all of it."""
    raw = connection.connection.dbapi_connection
    return isinstance(raw, sqlite3.Connection) and raw.in_transaction


def _roll_back(connection: Connection) -> None:
    if is_in_transaction(connection):
        connection.exec_driver_sql("ROLLBACK")


def _meaning(failure: BaseException, path: Path) -> LedgerUnavailable:
    code = getattr(failure, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _NOW_UNABLE:
        return LedgerUnavailable(f"the ledger {path} cannot be used now: {failure}")
    return LedgerDamaged(
        f"the ledger {path} is damaged: {failure}; run `iarproxy ledger verify`, then `iarproxy ledger restore` or "
        "`iarproxy ledger rebuild`"
    )
