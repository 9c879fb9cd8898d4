"""The table of checkpoints: what the journal was at some size, signed.

Rule 1: it takes new, larger checkpoints only, of entries that there are; the schema sees to it.
Rule 2: it is no projection: it may be lost, begins anew then, and what left the machine still binds.
Rule 3: a row that is damaged is passed over where the last one is looked for, and named where all are verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, bindparam, column, insert, select, table

from iarproxy.errors import Malformed
from iarproxy.ledger.rows import is_intact, sealed
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import to_text
from iarproxy.trust.note import Checkpoint, Note

_TRIED = 20  # damaged rows to look behind for the last checkpoint

STEP = (
    """
CREATE TABLE checkpoints (
  size INTEGER PRIMARY KEY, -- the serial of the last entry that it covers
  at TEXT NOT NULL,
  note TEXT NOT NULL, -- the checkpoint with its signatures
  checksum BLOB NOT NULL
) STRICT
""",
    """
CREATE TRIGGER checkpoints_insert BEFORE INSERT ON checkpoints
BEGIN
  SELECT RAISE(ABORT, 'a checkpoint covers more than the one before')
    WHERE NEW.size <= (SELECT max(size) FROM checkpoints);
  SELECT RAISE(ABORT, 'a checkpoint covers entries that there are')
    WHERE NOT EXISTS (SELECT 1 FROM journal WHERE serial = NEW.size);
END
""",
    """
CREATE TRIGGER checkpoints_update BEFORE UPDATE ON checkpoints
BEGIN
  SELECT RAISE(ABORT, 'checkpoints is append-only');
END
""",
    """
CREATE TRIGGER checkpoints_delete BEFORE DELETE ON checkpoints
BEGIN
  SELECT RAISE(ABORT, 'checkpoints is append-only');
END
""",
    "CREATE INDEX journal_keyed ON journal (serial) WHERE kind = 'keyed'",
)

CHECKPOINTS = table("checkpoints", *map(column, ("size", "at", "note", "checksum")))
_INSERT = insert(CHECKPOINTS)
_LAST = select(CHECKPOINTS).order_by(CHECKPOINTS.c.size.desc()).limit(_TRIED)
_AFTER = (
    select(CHECKPOINTS)
    .where(CHECKPOINTS.c.size > bindparam("after"))
    .order_by(CHECKPOINTS.c.size)
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with its signatures. `at`: when it was made (aware, UTC); None: it does not say."""

    note: Note
    checkpoint: Checkpoint
    at: datetime | None = None

    @classmethod
    def parse(cls, raw: str | bytes, at: datetime | None = None) -> SignedCheckpoint:
        """The checkpoint in a signed note.

        Raises:
            Malformed: it is none.
        """
        note = Note.parse(raw)
        return cls(note, Checkpoint.parse(note.text), at)

    @property
    def size(self) -> int:
        """How many entries it covers."""
        return self.checkpoint.size


def of_row(row: Sequence[object]) -> SignedCheckpoint | None:
    """The checkpoint in a row; None: the row is damaged."""
    if not is_intact(CHECKPOINTS, row):
        return None
    size, at, note, _ = row
    try:
        found = SignedCheckpoint.parse(str(note), datetime.fromisoformat(str(at)))
    except (Malformed, ValueError):
        return None
    return found if found.size == size else None


def last(connection: Connection) -> SignedCheckpoint | None:
    """The newest checkpoint that can be read; None: there is none."""
    return next(filter(None, map(of_row, connection.execute(_LAST))), None)


def rows_after(connection: Connection, size: int, limit: int) -> list[tuple[int, SignedCheckpoint | None]]:
    """At most `limit` checkpoints of more than `size` entries, in order; None: that row is damaged."""
    rows = connection.execute(_AFTER, {"after": size, "limit": limit})
    return [(int(row.size), of_row(row)) for row in rows]


def append(tx: Transaction, made: SignedCheckpoint) -> SignedCheckpoint | None:
    """Keep a checkpoint; None: another process kept one that covers as much."""
    newest = tx.connection.execute(_LAST).first()
    if newest is not None and newest.size >= made.size:
        return None
    at = made.at or tx.now()
    row = {"size": made.size, "at": to_text(at), "note": str(made.note)}
    tx.connection.execute(_INSERT, sealed(CHECKPOINTS, row))
    return replace(made, at=at)
