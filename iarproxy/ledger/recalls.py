"""Recalls: the digests that a person denied, each with everything that contains it.

Rule 1: a recall and its undoing are journal entries; the table is their projection, and its rows are checksummed.
Rule 2: it fails closed. A digest is recalled when the journal or an intact row says so: neither a row that is damaged
        or lost nor a damaged entry lets one go, and an undoing counts only while its entry is intact.
Rule 3: each process holds all of them in memory, as one snapshot that is replaced and never changed; the ledger thread
        brings the next one with the changes of any process.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, column, delete, insert, select, table, text

from iarproxy.errors import Conflict, DigestInvalid, Malformed, Recalled
from iarproxy.ledger import journal
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.rows import JOURNAL, is_intact, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind
from iarproxy.oci import Digest

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

MOST = 10_000  # digests that are recalled at a time; each worker reads all of them when one changes
MOST_AT_ONCE = 1000  # in one act
MAX_REASON = 1000  # characters
_SHOWN = 200  # characters of a person's words in an answer
_KINDS = frozenset({EventKind.RECALLED, EventKind.UNRECALLED})

STEP = (
    """
CREATE TABLE recalls (
  digest TEXT NOT NULL PRIMARY KEY,
  recalled_at TEXT NOT NULL,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  within TEXT NOT NULL, -- the index that was recalled together with this, which is below it; empty: none
  serial INTEGER NOT NULL, -- of the journal row that made this one
  checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX journal_by_recall ON journal (serial) WHERE kind IN ('recalled', 'unrecalled')",
)

_COLUMNS = ("digest", "recalled_at", "actor", "reason", "within", "serial", "checksum")
RECALLS = table("recalls", *map(column, _COLUMNS))
_UNREADABLE = (DigestInvalid, LookupError, TypeError, ValueError, AttributeError)
_ENTRIES = text(  # without the hint SQLite may walk the journal by its serials
    f"SELECT {', '.join(each.name for each in JOURNAL.columns)} "  # noqa: S608  # the names are ours
    "FROM journal INDEXED BY journal_by_recall "
    "WHERE kind IN ('recalled', 'unrecalled') AND serial > :serial ORDER BY serial"
)
_ROWS = select(RECALLS)
_REPLACE = insert(RECALLS).prefix_with("OR REPLACE")
_DELETE = delete(RECALLS).where(*where(RECALLS, "digest"))


@dataclass(frozen=True, slots=True)
class Recall:
    """A digest that is denied, with everything that contains it.

    Attributes:
        at: since when (aware, UTC).
        within: the index with which it was recalled as one of those below it; None: for its own sake.
        damage: what of its record cannot be read; empty where all of it can.
    """

    digest: Digest
    at: datetime
    actor: str
    reason: str
    within: Digest | None = None
    damage: str = ""

    def __str__(self) -> str:
        """What people are told: which digest, since when, by whom, why."""
        since, by = self.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ"), one_line(self.actor)
        told = f"{self.digest} was recalled at {since} by {by}: {one_line(self.reason)}"
        return f"{told} ({self.damage})" if self.damage else told


Known: TypeAlias = Mapping[Digest, Recall]
NONE: Known = MappingProxyType({})
_CACHED = "recalls"  # in `Connection.info`: where the journal ended when they were read, and what they were
_NOTHING = Head(), NONE


@dataclass(frozen=True, slots=True)
class RecallOutcome:
    """What an act of recalling came to: `made` by it, and what `stood` already, as it stood."""

    made: tuple[Recall, ...]
    stood: tuple[Recall, ...]


def one_line(words: str, most: int = _SHOWN) -> str:
    """A person's words for an answer or a log: one line, no control characters, at most `most` characters."""
    plain = "".join(" " if unicodedata.category(each).startswith(("C", "Z")) else each for each in words[: 4 * most])
    line = " ".join(plain.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def remedy(digest: Digest) -> str:
    """The command that undoes a recall."""
    return f"iarproxy recall --undo {digest} --reason TEXT"


class Recalls:
    """The recalls of one store, as one process sees them.

    Attributes:
        known: by digest; another mapping whenever any process changed them.
    """

    def __init__(self, shared: Shared) -> None:
        self.known: Known = NONE
        self._shared = shared

    async def load(self) -> None:
        """Learn them, before anything is served.

        Raises:
            LedgerUnavailable: they cannot be read.
        """
        await self._shared.thread.read(read, kept=self.keep)

    def keep(self, known: Known) -> None:
        """Hold this snapshot from now on, and have everything forgotten that was made by the one before."""
        if known != self.known:
            self.known = known
            self._shared.tell(None)

    async def recall(
        self, digests: Sequence[Digest], *, reason: str, actor: str, within: Digest | None = None
    ) -> RecallOutcome:
        """A person's act: deny `digests` and whatever contains them; what is recalled already stays as it is.

        Args:
            digests: of anything, seen here or not.
            reason: in a person's words, at most `MAX_REASON` characters.
            actor: whom the kernel reports.
            within: the index, one of `digests`, whose children the others are.

        Raises:
            Malformed: without a reason or an actor. Conflict: too many would be recalled at once.
            LedgerUnavailable, LedgerDamaged: nothing was recalled.
        """
        work = partial(_recall, digests=digests, reason=reason, actor=actor, within=within)

        return (await self._shared.thread.write(work, kept=lambda outcome: self.keep(outcome[1])))[0]

    async def undo(self, digests: Sequence[Digest], *, reason: str, actor: str) -> list[Recall]:
        """A person's act: let these be served again; what they were. All of them or none.

        Raises:
            Conflict: one of them is not recalled. Malformed: without a reason or an actor.
            LedgerUnavailable, LedgerDamaged: nothing was changed.
        """
        work = partial(_undo, digests=digests, reason=reason, actor=actor)

        return (await self._shared.thread.write(work, kept=lambda outcome: self.keep(outcome[1])))[0]


def read(connection: Connection) -> Known:
    """All that is recalled (rule 2). What the connection was told before is not read again."""
    head, before = connection.info.get(_CACHED, _NOTHING)
    last = journal.at_serial(connection, head.serial) if head.serial else None
    if head.serial and (last is None or last.head != head):  # it was rolled back
        head, before = _NOTHING
        del connection.info[_CACHED]
    entries = [Entry(*row) for row in connection.execute(_ENTRIES, {"serial": head.serial})]
    found = dict(before)
    for entry in entries:
        for digest in _named(entry):
            if entry.kind == EventKind.RECALLED:
                found[digest] = _of_entry(entry, digest)
            elif entry.is_intact():
                found.pop(digest, None)
    for known in map(_of_row, () if _CACHED in connection.info else connection.execute(_ROWS).all()):
        if known is not None:
            found.setdefault(known.digest, known)
    connection.info[_CACHED] = entries[-1].head if entries else head, MappingProxyType(found)
    return MappingProxyType(found)


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """Make or take away the rows that follow from entries."""
    for entry, digest in ((each, digest) for each in entries if is_about(each) for digest in _named(each)):
        if entry.kind == EventKind.UNRECALLED:
            connection.execute(_DELETE, {"digest": str(digest)})
        else:
            connection.execute(_REPLACE, _row(_of_entry(entry, digest), entry.serial))


def is_about(entry: Entry) -> bool:
    """Whether an entry changes what is recalled."""
    return entry.kind in _KINDS


def insist(connection: Connection, digests: Iterable[Digest]) -> None:
    """Return unless one of the digests itself is recalled: no pin is made on it. What it contains is not looked at.

    Raises:
        Recalled: one is.
    """
    known = read(connection)
    for digest in digests:
        if digest not in known:
            continue
        raise Recalled(f"{known[digest]}; `{remedy(digest)}` lifts it", recalled=str(digest))


def problems(connection: Connection) -> list[str]:
    """How table and journal disagree."""
    connection.info.pop(_CACHED, None)
    rows = list(connection.execute(_ROWS))
    bad = sum(not is_intact(RECALLS, row) for row in rows)
    found = [f"{bad} rows of `recalls` fail their checksum; the journal keeps their digests denied"] if bad else []
    kept, known = {str(row.digest) for row in rows}, {str(each) for each in read(connection)}
    return found + [f"the row of the recall of {each} is missing; it stays denied" for each in sorted(known - kept)]


def _recall(
    tx: Transaction, *, digests: Sequence[Digest], reason: str, actor: str, within: Digest | None
) -> tuple[RecallOutcome, Known]:
    words = _insist_on_words(reason, actor)
    before = read(tx.connection)
    fresh = [digest for digest in dict.fromkeys(digests) if digest not in before]
    if len(fresh) > MOST_AT_ONCE:
        raise Conflict(f"{len(fresh)} digests would be recalled; one act takes {MOST_AT_ONCE}")
    if len(before) + len(fresh) > MOST:
        raise Conflict(f"{len(before)} digests are recalled already; at most {MOST} can be at a time")
    for digest in fresh:
        above = {"within": str(within)} if within not in (None, digest) else {}
        tx.append(EventKind.RECALLED, None, actor=actor, reason=words, body={"digest": str(digest), **above})
    after = read(tx.connection)
    stood = tuple(before[digest] for digest in dict.fromkeys(digests) if digest in before)
    return RecallOutcome(tuple(after[digest] for digest in fresh), stood), after


def _undo(tx: Transaction, *, digests: Sequence[Digest], reason: str, actor: str) -> tuple[list[Recall], Known]:
    words = _insist_on_words(reason, actor)
    before = read(tx.connection)
    stranger = next((digest for digest in digests if digest not in before), None)
    if stranger is not None:
        raise Conflict(f"{stranger} is not recalled; `iarproxy recall --list` shows what is")
    for digest in dict.fromkeys(digests):
        tx.append(EventKind.UNRECALLED, None, actor=actor, reason=words, body={"digest": str(digest)})
    return [before[digest] for digest in dict.fromkeys(digests)], read(tx.connection)


def _insist_on_words(reason: str, actor: str) -> str:
    if not reason.strip() or not actor.strip():
        raise Malformed("a recall, and its undoing, need a reason and an actor")
    if len(reason) > MAX_REASON:
        raise Malformed(f"the reason has {len(reason)} characters; at most {MAX_REASON} are taken")
    return reason.strip()


def _named(entry: Entry) -> Iterator[Digest]:
    """The digest that an entry is about, as far as it can be read, intact or not."""
    try:
        yield Digest.parse(entry.document()["digest"])
    except _UNREADABLE:
        return


def _of_entry(entry: Entry, digest: Digest) -> Recall:
    damage = "" if entry.is_intact() else "fails its hash"
    try:
        within = entry.document().get("within")
        above = None if within is None else Digest.parse(within)
        at = datetime.fromisoformat(entry.at).astimezone(UTC)
    except _UNREADABLE:
        above, at, damage = None, datetime.fromtimestamp(0, UTC), damage or "cannot be read"
    if damage:
        return Recall(digest, at, "", "", damage=f"journal entry {entry.serial} {damage}")
    return Recall(digest, at, entry.actor, entry.reason, above)


def _row(recall: Recall, serial: int) -> dict[str, Any]:
    row = {
        "digest": str(recall.digest),
        "recalled_at": recall.at.isoformat(timespec="microseconds"),
        "actor": recall.actor,
        "reason": recall.reason,
        "within": "" if recall.within is None else str(recall.within),
        "serial": serial,
    }
    return sealed(RECALLS, row)


def _of_row(row: Any) -> Recall | None:
    """What an intact row says; None: it is damaged."""
    if not is_intact(RECALLS, row):
        return None
    try:
        within = Digest.parse(row.within) if row.within else None
        return Recall(Digest.parse(row.digest), datetime.fromisoformat(row.recalled_at), row.actor, row.reason, within)
    except _UNREADABLE:
        return None
