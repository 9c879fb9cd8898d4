"""The ledger of one process, without a thread or a loop: reads, batches of writes, and what others changed.

Rule 1: all writes of a batch share one flock and one transaction, each in its own savepoint: one that is refused
        undoes itself only.
Rule 2: commit, then the journal file, then the answers (design invariant 2).
Rule 3: every batch insists that the database is still the one that was opened (same file, same schema) and that its
        journal did not go back behind what this process saw: a database swapped under a running process is refused.
Rule 4: `changes` gives what any process did since the last look, in order; a first pin is no change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from iarproxy.errors import IarproxyError, LedgerDamaged, LedgerUnavailable
from iarproxy.ledger import admission, attached, drift, journal, pins, recalls
from iarproxy.ledger.connection import failures, is_in_transaction, meaning_of, savepoint, transaction
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.journal_file import JournalFile
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.recalls import Known
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind, Name

T = TypeVar("T")

PATIENCE = 24.0  # seconds to wait for other processes; an act on 10,000 names has the ledger for 2, on a busy machine 8
_MANY = 2000  # entries read at one look
_NO_CHANGE = (EventKind.PINNED, EventKind.QUARANTINED)  # to a process that does not know the name
_CHANGES_ALL = (EventKind.RECOVERED, EventKind.APPLIED)  # a bundle changes followed tags too, which no entry names


@dataclass(frozen=True, slots=True)
class Changes:
    """Names whose pin or drift state changed; `everything` where it cannot be said which.

    Attributes:
        recalled: all that is recalled now; None: as it was.
    """

    names: tuple[Name, ...] = ()
    everything: bool = False
    recalled: Known | None = None

    def __bool__(self) -> bool:
        return self.everything or bool(self.names) or self.recalled is not None


EVERYTHING = Changes(everything=True)


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """Make the rows that follow from journal entries: one, or several about different names."""
    pins.project(connection, entries)
    drift.project(connection, entries)
    recalls.project(connection, entries)
    admission.project(connection, entries)
    attached.project(connection, entries)


class Database:
    """The open ledger. For one thread of one process; made by `opening.open_database`."""

    def __init__(
        self,
        path: Path,
        connection: Connection,
        lock: FileLock,
        outside: JournalFile,
        now: Callable[[], datetime],
        *,
        wal: bool,
    ) -> None:
        self.path = path
        self.connection = connection
        self.now = now
        self._lock = lock
        self._outside = outside
        self._wal = wal
        self._file = path.stat()
        self._schema = self._pragma("schema_version")
        self._version = self._pragma("data_version")
        self._seen = journal.last(connection).serial
        self._unseen: list[Entry] = []

    def read(self, works: Sequence[Callable[[Connection], T]]) -> list[T | Exception]:
        """The outcome of each of `works`, all on one snapshot.

        Raises:
            LedgerUnavailable: when nothing can be read.
        """
        with failures(self.path), self._readers_turn():
            self._insist_same()
            with transaction(self.connection):
                return [self._outcome(work) for work in works]

    def write(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | Exception]:
        """The outcome of each of `works`, durable in the database and in the journal file.

        Raises:
            LedgerUnavailable: when nothing was written, or it is not known whether it is durable.
        """
        with failures(self.path), self._lock.held(patience=PATIENCE):
            self._insist_same()
            with transaction(self.connection, "IMMEDIATE"):
                before = self._head()
                tx = Transaction(self.connection, before, self.now, project)
                outcomes = [self._step(tx, work) for work in works]
            self._catch_up(tx)
        self._note(before, tx)
        return outcomes

    def changes(self) -> Changes:
        """What was changed since the last call, by this process or another."""
        with failures(self.path), self._readers_turn():
            self._insist_same()
            version = self._pragma("data_version")
            if version != self._version:
                self._unseen += (fresh := journal.entries_after(self.connection, self._seen, _MANY))
                self._seen = fresh[-1].serial if fresh else self._seen
                self._version = -1 if len(fresh) == _MANY else version  # -1: look again, there is more
        changes = _changes(self._unseen)  # out of turn: of an act on many names this takes a while
        if changes.everything or any(map(recalls.is_about, self._unseen)):
            with failures(self.path), self._readers_turn():
                changes = replace(changes, recalled=recalls.read(self.connection))
        self._unseen = []
        return changes

    def close(self) -> None:
        """Close the database and the files beside it."""
        self.connection.close()
        self._outside.close()
        self._lock.close()

    def _step(self, tx: Transaction, work: Callable[[Transaction], T]) -> T | Exception:
        before = tx.head
        try:
            with savepoint(self.connection):
                return work(tx)
        except Exception as failure:  # rule 1: the caller of this piece of work gets it, not the others
            if not is_in_transaction(self.connection):
                raise  # nothing of the batch is left, and what came now would be outside of all transactions
            tx.rewind(before)
            return self._translated(failure)

    def _outcome(self, work: Callable[[Connection], T]) -> T | Exception:
        try:
            return work(self.connection)
        except Exception as failure:  # noqa: BLE001 (as in _step)
            return self._translated(failure)

    def _translated(self, failure: Exception) -> Exception:
        return meaning_of(failure, self.path)

    def _head(self) -> Head:
        head = journal.last(self.connection)
        if head.serial < self._seen:
            raise LedgerDamaged(f"the ledger {self.path} went back from serial {self._seen} to {head.serial}")
        return head

    def _catch_up(self, tx: Transaction) -> None:
        tail = self._outside.tail()
        if tail.claimed > tx.head.serial:
            raise LedgerDamaged(f"{self._outside.path} is ahead of the ledger {self.path}; restart to have it checked")
        if tail.head == tx.head and tail.size == tail.end:
            return
        ours = tx.appended and tx.appended[0].serial == tail.head.serial + 1
        pages = [tx.appended] if ours else journal.pages_after(self.connection, tail.head.serial)
        self._outside.catch_up(pages)

    def _note(self, before: Head, tx: Transaction) -> None:
        if before.serial == self._seen:
            self._unseen += tx.appended
            self._seen = tx.head.serial
        elif tx.appended:
            self._version = -1  # others' entries lie between: read them all at the next look

    def _readers_turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self._wal else self._lock.held(shared=True, patience=PATIENCE)

    def _insist_same(self) -> None:
        try:
            same = os.path.samestat(self.path.stat(), self._file)
        except FileNotFoundError:
            same = False
        if not same:
            raise LedgerUnavailable(f"the ledger {self.path} was moved or replaced under this process: restart it")
        if self._pragma("schema_version") != self._schema:
            raise LedgerDamaged(f"the schema of the ledger {self.path} was changed under this process")

    def _pragma(self, name: str) -> int:
        value: int = self.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        return value


def _changes(entries: Sequence[Entry]) -> Changes:
    if any(entry.kind in _CHANGES_ALL or not entry.is_intact() for entry in entries):
        return EVERYTHING
    try:
        changed = [entry.name for entry in entries if entry.kind not in _NO_CHANGE]
    except IarproxyError:
        return EVERYTHING
    return Changes(tuple(dict.fromkeys(name for name in changed if name is not None)))
