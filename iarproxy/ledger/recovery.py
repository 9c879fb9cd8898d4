"""The way out: copies of the ledger, and ledgers made from copies or from the journal file.

Rule 1: `backup` works beside a running `serve`. `restore` and `rebuild` replace the database: whoever calls them holds
        the store's serving lock (the cli does), so that no process has the old one open.
Rule 2: the new database is made beside the old one, verified, and moved into place; the old one is kept, renamed,
        with its rollback journal or log, never deleted. A crash in between leaves a missing database, which does not
        open and names these commands.
Rule 3: an old backup is brought forward by what the journal file has after it; no pin and no drift is lost.
Rule 4: nothing is taken over that does not verify, and nothing that was answered for is dropped: a broken line is a
        refusal; only a torn last line, which no caller was answered for, is let go.
Rule 5: no database file is opened except through SQLite (design section 7).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from iarproxy.errors import ConfigError, LedgerDamaged, Refused
from iarproxy.ledger import journal, schema
from iarproxy.ledger.connection import connect, create_file, failures, transaction
from iarproxy.ledger.database import PATIENCE, project
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.journal_file import NAME, export, read_lines, sync_directory
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.opening import lock_path, open_database
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind, RecoveryReport
from iarproxy.ledger.verification import Inspection

COPY = "ledger.db"  # the name of the database in a backup's directory
_NEWER = "run `iarproxy ledger restore` with a backup that is newer than that"
_SIDE_FILES = ("-journal", "-wal", "-shm")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Act:
    """Whose ledger is recovered, by whom, why, and when."""

    identity: str
    actor: str
    reason: str
    now: Callable[[], datetime]


async def backup(path: Path, target: Path) -> RecoveryReport:
    """Copy the ledger at `path` into the new directory `target` (mode 0700): database and journal file, verified.

    Raises:
        Refused: when `target` exists or cannot be made.
        LedgerUnavailable, LedgerDamaged: when the ledger cannot be read, or the copy does not verify.
    """
    return await asyncio.to_thread(_backup, path, target)


async def restore(
    path: Path,
    source: Path,
    *,
    store_identity: str,
    actor: str,
    reason: str,
    now: Callable[[], datetime] = _utc_now,
) -> RecoveryReport:
    """Replace the ledger at `path` by the backup in the directory `source`, brought forward by the journal file.

    The caller holds the store's serving lock.

    Raises:
        ConfigError: when the backup does not verify, belongs to another store, or the histories differ.
    """
    return await asyncio.to_thread(_restore, path, source, _Act(store_identity, actor, reason, now))


async def rebuild(
    path: Path, *, store_identity: str, actor: str, reason: str, now: Callable[[], datetime] = _utc_now
) -> RecoveryReport:
    """Replace the ledger at `path` by one made from its journal file: the same serials, hashes, pins and drift states.

    Links and followed tags are not in the journal; they are made anew by use. The caller holds the store's
    serving lock.

    Raises:
        ConfigError: when there is no journal file, its chain is broken, or it belongs to another store.
    """
    return await asyncio.to_thread(_rebuild, path, _Act(store_identity, actor, reason, now))


def _backup(path: Path, target: Path) -> RecoveryReport:
    with failures(path):
        try:
            target.mkdir(mode=0o700)
        except FileExistsError:
            raise Refused(f"{target} exists; a backup makes its own new directory") from None
        except OSError as error:
            raise Refused(
                f"{target} cannot be made: {error.strerror}; name a folder that this user may make"
            ) from error
        try:
            head = _filled(path, target)
        except BaseException:
            shutil.rmtree(target)  # what is no whole backup must not look like one
            raise
        sync_directory(target.parent)
    return RecoveryReport(str(target), head.serial, head.hash)


def _filled(path: Path, target: Path) -> Head:
    copy = target / COPY
    with closing(FileLock(lock_path(path))) as lock, lock.held(shared=True, patience=PATIENCE):
        _copy(path, copy)
    with closing(connect(copy)) as connection:
        head = _verified(copy, connection)
        export(journal.pages_after(connection, 0), target / NAME)
    for suffix in _SIDE_FILES:
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    sync_directory(target)
    return head


def _restore(path: Path, source: Path, act: _Act) -> RecoveryReport:
    if not (source / COPY).is_file():
        raise ConfigError(f"{source} is no backup: it holds no {COPY}; name a directory that `ledger backup` made")
    with failures(path), closing(FileLock(lock_path(path))) as lock, lock.held(patience=PATIENCE):
        fresh = _fresh(path)
        _copy(source / COPY, fresh)
        lines = Lines(path.with_name(NAME))
        with closing(connect(fresh)) as connection:
            head = _sound(source, fresh, connection)
            _insist_ours(source, schema.read_meta(connection, "store"), act.identity)
            replayed = _replay(connection, head, lines, act)
            _insist_one_history(connection, lines)
        kept_aside = _swap(path, fresh)
        lines.mend(path)
    made = _opened(path, act, {"by": "restore", "replayed": replayed})
    blind = lines.last.serial < head.serial
    return RecoveryReport(str(path), made.serial, made.hash, replayed, lines.torn, kept_aside, blind)


def _rebuild(path: Path, act: _Act) -> RecoveryReport:
    with failures(path), closing(FileLock(lock_path(path))) as lock, lock.held(patience=PATIENCE):
        fresh = _fresh(path)
        lines = Lines(path.with_name(NAME))
        _insist_ours(lines.path, lines.identity(), act.identity)
        create_file(fresh)
        with closing(connect(fresh)) as connection:
            replayed = _replay(connection, Head(), lines, act)
            _verified(fresh, connection)
        kept_aside = _swap(path, fresh)
        lines.mend(path)
    made = _opened(path, act, {"by": "rebuild", "replayed": replayed})
    return RecoveryReport(str(path), made.serial, made.hash, replayed, lines.torn, kept_aside)


def _copy(source: Path, target: Path) -> None:
    create_file(target)
    with closing(_plain(source)) as old, closing(_plain(target)) as new:
        old.backup(new)


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _verified(path: Path, connection: Connection) -> Head:
    found = Inspection()
    found.structure(connection)
    while found.page(connection):
        pass
    if found.problems:
        raise LedgerDamaged(f"{path} does not verify: {found.problems[0]}")
    return found.head


def _sound(source: Path, fresh: Path, connection: Connection) -> Head:
    try:
        if not schema.is_blank(connection):
            with transaction(connection, "IMMEDIATE"):
                schema.upgrade(connection)  # the backup may be of an older iarproxy
        return _verified(fresh, connection)
    except LedgerDamaged as damaged:
        raise ConfigError(f"the backup {source} is not used: {damaged}") from damaged


def _insist_ours(what: Path, found: str | None, identity: str) -> None:
    if found != identity:
        raise ConfigError(f"{what} belongs to another store ({found}, not {identity})")


def _insist_one_history(connection: Connection, lines: Lines) -> None:
    """The journal file must not contradict the backup, even where it ends before the backup does."""
    same = journal.at_serial(connection, lines.last.serial)
    if lines.last.serial and (same is None or same.hash != lines.last.hash):
        raise ConfigError(f"{lines.path} and the backup tell different histories; nothing was changed")


def _replay(connection: Connection, head: Head, lines: Lines, act: _Act) -> int:
    replayed = 0
    with transaction(connection, "IMMEDIATE"):
        schema.upgrade(connection)
        if not head.serial:
            schema.write_meta(connection, "store", act.identity)
        tx = Transaction(connection, head, act.now, project)
        for entry in lines.after(head):
            tx.replay(entry)
            tx.appended.clear()
            replayed += 1
    return replayed


def _fresh(path: Path) -> Path:
    fresh = path.with_name(f"{path.name}.new")
    for suffix in ("", *_SIDE_FILES):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    return fresh


def _swap(path: Path, fresh: Path) -> str | None:
    """Move `fresh` into place and the old database aside, database first: what is half done does not open."""
    old = path.name
    number = 1
    while path.with_name(f"{old}.replaced-{number}").exists():
        number += 1
    aside = path.with_name(f"{old}.replaced-{number}")
    existed = path.exists()
    for suffix in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            path.with_name(old + suffix).rename(aside.with_name(aside.name + suffix))
    fresh.rename(path)
    for suffix in _SIDE_FILES:  # of a closed database: empty
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    sync_directory(path.parent)
    return str(aside) if existed else None


def _opened(path: Path, act: _Act, body: dict[str, Any]) -> Head:
    """Open the new ledger as everybody will, and journal who made it and why."""
    database = open_database(path, store_identity=act.identity, store_is_empty=False, now=act.now, create=False)
    with closing(database):

        def work(tx: Transaction) -> Head:
            return tx.append(EventKind.RECOVERED, None, actor=act.actor, reason=act.reason, body=body).head

        outcome = database.write([work])[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Lines:
    """The journal file as the source of what a database lacks.

    Attributes:
        torn: length in bytes of a torn last line.
        last: of the last whole line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self.last = Head()
        self._end = 0
        self._broken = False

    def identity(self) -> str | None:
        """Of the store whose ledger this file began with."""
        if not self.path.exists():
            raise ConfigError(f"there is no journal file {self.path}; run `iarproxy ledger restore` with a backup")
        for _, entry in read_lines(self.path):
            return None if entry is None else entry.document().get("store")
        return None

    def after(self, head: Head) -> Iterator[Entry]:
        """The entries that continue `head`.

        Raises:
            ConfigError: when one after `head` is broken, missing, or of another history.
        """
        here, claimed = head, 0
        for line, entry in read_lines(self.path) if self.path.exists() else ():
            if entry is None and not line.endswith(b"\n"):
                self.torn = len(line)
                break
            self._end += len(line) if line.endswith(b"\n") else 0
            claimed = claimed + 1 if entry is None else entry.serial
            self._broken = self._broken or entry is None
            if entry is None:
                continue
            self.last = entry.head
            if entry.serial > head.serial:
                if (entry.serial, entry.previous) != (here.serial + 1, here.hash):
                    raise ConfigError(f"{self.path} breaks off at serial {here.serial}; {_NEWER}")
                here = entry.head
                yield entry
        if claimed > here.serial:
            raise ConfigError(f"{self.path} is broken behind serial {here.serial}; {_NEWER}")

    def mend(self, database: Path) -> None:
        """Cut a torn last line off; write a file that is broken before the backup's end anew, keeping the old one."""
        if self._broken:
            fresh = _fresh(self.path)
            with closing(connect(database)) as connection:
                export(journal.pages_after(connection, 0), fresh)
            _swap(self.path, fresh)
        elif self.path.exists() and self.path.stat().st_size > self._end:
            os.truncate(self.path, self._end)
