"""Opening the ledger: everything that must agree before a single pin is answered.

Rule 1: a missing or blank database is made only where nothing can have been forgotten: an empty store and no journal
        file. Else the answer is no, with the command that brings the pins back (threats T23, design invariant 4).
Rule 2: a database of another store, of an altered schema, or behind the journal file (an old backup) does not open.
Rule 3: a journal file behind the database is brought up to it; a torn last line is written anew.
Rule 4: the whole file's structure is checked (`quick_check`) while it is small: about 6 ms for each MB, so at most
        0.4 s, and once a start: workers do not do it again, but for those that are started later. A damaged row is no
        reason to refuse: its tag answers 503 and the rest is served.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from iarproxy.errors import ConfigError, LedgerDamaged
from iarproxy.ledger import journal, pins, schema
from iarproxy.ledger.connection import connect, create_file, failures, transaction, uses_wal
from iarproxy.ledger.database import PATIENCE, Database, project
from iarproxy.ledger.journal import Head
from iarproxy.ledger.journal_file import DISK, NAME, Disk, JournalFile, Tail, look, sync_directory
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind

WAY_OUT = "run `iarproxy ledger restore` (from a backup) or `iarproxy ledger rebuild` (from the journal file)"
_SMALL = 64 * 1024 * 1024  # bytes
# What quick_check says about single rows; row checksums answer for those (rule 4).
_ABOUT_A_ROW = re.compile(r"(NULL value|non-\w+ value|CHECK constraint failed|row \d+ missing|wrong # of entries)")


def open_database(
    path: Path,
    *,
    store_identity: str,
    store_is_empty: bool,
    now: Callable[[], datetime],
    create: bool = True,
    checked: bool = False,
    wal: bool | None = None,
    disk: Disk = DISK,
) -> Database:
    """The ledger at `path`, checked, for the calling thread.

    `checked`: the file's structure was checked just now. `wal` is for tests of the other journal mode; None: what suits
    the SQLite linked here.

    Raises:
        ConfigError: when it is missing, foreign, altered or older than the journal file; says what to do.
        LedgerUnavailable: when it cannot be read now.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"the directory of the ledger {path} does not exist")
    with _or_no_start(), failures(path), ExitStack() as undo:
        lock = undo.enter_context(closing(FileLock(lock_path(path))))
        with lock.held(patience=PATIENCE):
            if not path.exists():
                _may_make(path, look(path.with_name(NAME)), store_is_empty=store_is_empty, create=create)
                create_file(path)
                sync_directory(path.parent)
            wal = uses_wal() if wal is None else wal
            connection = undo.enter_context(closing(connect(path, wal=wal)))
            if schema.is_blank(connection):
                _may_make(path, look(path.with_name(NAME)), store_is_empty=store_is_empty, create=create)
                found_ledger(connection, store_identity, now)
            _insist_sound(path, connection, store_identity, checked=checked)
            outside = undo.enter_context(closing(JournalFile(path.with_name(NAME), disk)))
            _reconcile(path, connection, outside)
            database = Database(path, connection, lock, outside, now, wal=wal)
        undo.pop_all()
        return database


def lock_path(path: Path) -> Path:
    """The file whose flock orders the processes that write the ledger at `path`."""
    return path.with_name(f"{path.name}.lock")


def structure_problems(connection: Connection) -> list[str]:
    """What is wrong with the file's pages; nothing about single rows."""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(20)")]
    return [each for each in found if each != "ok" and not _ABOUT_A_ROW.search(each)]


def found_ledger(connection: Connection, store_identity: str, now: Callable[[], datetime]) -> None:
    """Make the schema, the identity and the journal's first entry, all or nothing."""
    with transaction(connection, "IMMEDIATE"):
        schema.upgrade(connection)
        schema.write_meta(connection, "store", store_identity)
        body = {"store": store_identity, "schema": schema.VERSION}
        Transaction(connection, Head(), now, project).append(EventKind.CREATED, None, actor=pins.SELF, body=body)


@contextmanager
def _or_no_start() -> Iterator[None]:
    """A ledger that is damaged as a whole is a reason not to start; it says how to mend it, once."""
    try:
        yield
    except LedgerDamaged as damaged:
        text = str(damaged)
        raise ConfigError(text if "iarproxy ledger" in text else f"{text}; {WAY_OUT}") from damaged


def _insist_sound(path: Path, connection: Connection, store_identity: str, *, checked: bool) -> None:
    if not checked and path.stat().st_size <= _SMALL and (problems := structure_problems(connection)):
        raise LedgerDamaged(f"the ledger {path} is damaged: {problems[0].splitlines()[0][:200]}")
    with transaction(connection, "IMMEDIATE"):
        schema.upgrade(connection)
    schema.check(connection)
    found = schema.read_meta(connection, "store")
    if found != store_identity:
        raise ConfigError(f"the ledger {path} belongs to another store ({found}, not {store_identity}); {WAY_OUT}")


def _may_make(path: Path, tail: Tail, *, store_is_empty: bool, create: bool) -> None:
    if not create:
        raise ConfigError(f"there is no ledger at {path}; {WAY_OUT}")
    if tail.size:
        raise ConfigError(f"the ledger {path} is missing or blank but its journal {NAME} is not; {WAY_OUT}")
    if not store_is_empty:
        raise ConfigError(f"the ledger {path} is missing or blank but the store is not empty; {WAY_OUT}")


def _reconcile(path: Path, connection: Connection, outside: JournalFile) -> None:
    head, tail = journal.last(connection), outside.tail()
    if tail.claimed > head.serial:
        raise LedgerDamaged(
            f"the ledger {path} is an old copy: it ends at serial {head.serial}, its journal {NAME} at {tail.claimed}"
        )
    same = journal.at_serial(connection, tail.head.serial) if tail.head.serial else None
    if tail.head.serial and (same is None or same.hash != tail.head.hash):
        raise LedgerDamaged(f"the ledger {path} and its journal {NAME} tell different histories")
    if tail.head != head or tail.size != tail.end:
        outside.catch_up(journal.pages_after(connection, tail.head.serial))
