"""The journal: every event, hash-chained, in a table and in a file beside the database.

Rule 1: an entry's hash is the sha256 of its own line of text up to the hash; the line names the hash before it. So a
        line, a row and a chain are verified by the same few bytes, and no field is outside the hash. A line that is
        about the default environment does not name it, as none did before there were others.
Rule 2: pins and drift states are projections of the journal: whoever has the lines can make the tables again.
Rule 3: an entry that fails its hash is never used; which one, is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Self

import orjson
from sqlalchemy import Connection, TextClause, bindparam, func, insert, literal_column, select

from iarproxy.errors import IarproxyError, LedgerDamaged
from iarproxy.ledger.rows import JOURNAL, NAME, for_each, key_of, newest_of, sought, where
from iarproxy.ledger.values import Event, EventKind, Name, to_text
from iarproxy.oci import Repository, Tag, TagReference
from iarproxy.oci.routing import DEFAULT

MAX_EVIDENCE = 256 * 1024  # bytes of JSON; upstream's documents are in it, so it needs a bound
MAX_LINE = 4 * MAX_EVIDENCE  # bytes; a longer line in the file was not written by us
_HASH_AT = -(len(b',"hash":""}') + 64)
_PAGE = 500  # rows


_INSERT = for_each(insert(JOURNAL))
_LAST = select(JOURNAL).order_by(JOURNAL.c.serial.desc()).limit(1)
_AT_SERIAL = select(JOURNAL).where(*where(JOURNAL, "serial"))
_AFTER = (
    select(JOURNAL).where(JOURNAL.c.serial > bindparam("serial")).order_by(JOURNAL.c.serial).limit(bindparam("limit"))
)
_ABOUT = select(JOURNAL).where(*where(JOURNAL, *NAME)).order_by(JOURNAL.c.serial.desc()).limit(bindparam("limit"))
_ACTS = (
    select(JOURNAL.c.kind, func.count().label("number"))
    .where(JOURNAL.c.actor != literal_column("'iarproxy'"))  # no parameter: SQLite finds its partial index by this
    .group_by(JOURNAL.c.kind)
)
_LAST_PINNING = (
    select(JOURNAL)
    .where(*where(JOURNAL, *NAME), JOURNAL.c.revision.is_not(None))
    .order_by(JOURNAL.c.revision.desc())
    .limit(1)
)
_LAST_PINNINGS = newest_of(JOURNAL, "revision", NAME, "newest.revision IS NOT NULL")
_HASHES = (
    select(JOURNAL.c.serial, JOURNAL.c.hash)
    .where(JOURNAL.c.serial > bindparam("serial"))
    .order_by(JOURNAL.c.serial)
    .limit(bindparam("limit"))
)
_IS_KEYED = literal_column("kind") == literal_column("'keyed'")  # in the words of the index
_KEYED = select(JOURNAL).where(_IS_KEYED).order_by(JOURNAL.c.serial)
_PINNINGS = select(JOURNAL).where(*where(JOURNAL, *NAME), JOURNAL.c.revision.is_not(None)).order_by(JOURNAL.c.revision)


@dataclass(frozen=True, slots=True)
class Head:
    """Where the journal ends. An empty journal ends at serial 0 with an empty hash."""

    serial: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal row as it is stored, field for field; not yet believed."""

    serial: int
    at: str
    kind: str
    environment: str
    registry: str | None
    repository: str | None
    tag: str | None
    revision: int | None
    actor: str
    reason: str
    previous: str
    body: str
    hash: str = ""

    @classmethod
    def made(
        cls,
        head: Head,
        at: datetime,
        kind: EventKind,
        reference: TagReference | None,
        *,
        environment: str = DEFAULT,
        actor: str,
        reason: str = "",
        revision: int | None = None,
        body: dict[str, Any],
    ) -> Self:
        """The entry that comes after `head`."""
        names = (environment, *_names(reference))
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
        fields = (head.serial + 1, to_text(at), str(kind), *names, revision, actor, reason, head.hash, text)
        return cls(*fields, hash=hashlib.sha256(_signed(fields)).hexdigest())

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """The entry in one line of the file, without its line feed; None unless it is exactly what we write."""
        header, separator, rest = line.partition(b',"body":')
        try:
            fields = orjson.loads(header + b"}") if separator else {}
            body, digest = rest[:_HASH_AT].decode(), rest[_HASH_AT + 9 : -2].decode()
            entry = cls(**{"environment": DEFAULT, **fields}, body=body, hash=digest)
            return entry if entry._is_typed() and entry.is_intact() and entry.line() == line + b"\n" else None
        except (ValueError, TypeError):
            return None

    def line(self) -> bytes:
        """The entry as a line of the file."""
        return b'%s,"hash":"%s"}\n' % (_signed(self._fields()), self.hash.encode())

    def is_intact(self) -> bool:
        """Whether the entry is what its hash says."""
        try:
            return hashlib.sha256(_signed(self._fields())).hexdigest() == self.hash
        except (TypeError, ValueError):
            return False

    @property
    def head(self) -> Head:
        """Where the journal ends after this entry."""
        return Head(self.serial, self.hash)

    @property
    def reference(self) -> TagReference | None:
        """The tag that it is about."""
        if self.registry is None or self.repository is None or self.tag is None:
            return None
        return TagReference(Repository(self.registry, self.repository), Tag(self.tag))

    @property
    def name(self) -> Name | None:
        """The tag in its environment."""
        reference = self.reference
        return None if reference is None else Name(self.environment, reference)

    def document(self) -> dict[str, Any]:
        """The body."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed

    def event(self) -> Event:
        """The entry as a value.

        Raises:
            LedgerDamaged: when it fails its hash.
        """
        if not self.is_intact():
            raise LedgerDamaged(f"journal entry {self.serial} fails its hash")
        try:
            at, kind, reference = datetime.fromisoformat(self.at), EventKind(self.kind), self.reference
            at.astimezone(UTC)  # years outside of all calendars do not
            body: Any = self.document()
        except (ValueError, OverflowError, IarproxyError) as unknown:
            raise LedgerDamaged(f"journal entry {self.serial} is not one that this iarproxy knows") from unknown
        if not isinstance(body, dict):
            raise LedgerDamaged(f"journal entry {self.serial} is not one that this iarproxy knows")
        return Event(self.serial, at, kind, reference, self.actor, self.reason, body, self.hash, self.environment)

    def _is_typed(self) -> bool:
        """Whether each field is what a row's is; a line from elsewhere may hold anything under a hash that fits."""
        texts = (self.at, self.kind, self.environment, self.actor, self.reason, self.previous)
        names = (self.registry, self.repository, self.tag)
        numbers = (self.serial, self.serial if self.revision is None else self.revision)
        return (
            all(type(each) is int for each in numbers)  # no bool is
            and all(isinstance(each, str) for each in texts)
            and all(each is None or isinstance(each, str) for each in names)
        )

    def _fields(self) -> tuple[Any, ...]:
        fields: tuple[Any, ...] = _FIELDS_OF(self)
        return fields


_ROW = tuple(each.name for each in JOURNAL.columns)
_FIELDS = _ROW[:-1]  # all but the hash
_HEADER = _FIELDS[:-1]
_ROW_OF, _FIELDS_OF, _NAME_OF = attrgetter(*_ROW), attrgetter(*_FIELDS), attrgetter(*NAME)


def _signed(fields: Sequence[Any]) -> bytes:
    """The bytes that the hash covers. The body stays the text it was, so that no JSON library can ever change them."""
    named = dict(zip(_HEADER, fields[:-1], strict=True))
    if named["environment"] == DEFAULT:
        del named["environment"]
    header = orjson.dumps(named)
    return b'%s,"body":%s' % (header[:-1], str(fields[-1]).encode())


def _names(reference: TagReference | None) -> tuple[str | None, str | None, str | None]:
    if reference is None:
        return None, None, None
    return reference.repository.registry, reference.repository.name, reference.tag.value


def insert_entries(connection: Connection, entries: Sequence[Entry]) -> None:
    """Put `entries` at the end of the journal; the trigger insists on the chain."""
    _INSERT(connection, [dict(zip(_ROW, _ROW_OF(entry), strict=True)) for entry in entries])


def last(connection: Connection) -> Head:
    """Where the journal ends.

    Raises:
        LedgerDamaged: when the last entry fails its hash: nothing can be added after it.
    """
    row = connection.execute(_LAST).one_or_none()
    if row is None:
        return Head()
    entry = Entry(*row)
    if not entry.is_intact():
        raise LedgerDamaged("the last entry of the journal fails its hash; run `iarproxy ledger rebuild`")
    return entry.head


def at_serial(connection: Connection, serial: int) -> Entry | None:
    """The entry with that serial, as stored."""
    row = connection.execute(_AT_SERIAL, {"serial": serial}).one_or_none()
    return None if row is None else Entry(*row)


def entries_after(connection: Connection, serial: int, limit: int = _PAGE) -> list[Entry]:
    """At most `limit` entries that come after `serial`, in order, as stored."""
    return [Entry(*row) for row in connection.execute(_AFTER, {"serial": serial, "limit": limit})]


def pages_after(connection: Connection, serial: int) -> Iterator[list[Entry]]:
    """All entries after `serial`, a page at a time."""
    while page := entries_after(connection, serial):
        yield page
        serial = page[-1].serial


def of_name(connection: Connection, name: Name, limit: int) -> list[Entry]:
    """The newest `limit` entries about a tag in an environment, oldest first."""
    rows = connection.execute(_ABOUT, {**key_of(name), "limit": limit})
    return [Entry(*row) for row in rows][::-1]


def last_pinning(connection: Connection, name: Name) -> Entry | None:
    """The entry that made or removed the tag's current pin, as stored; None where the journal knows of none."""
    row = connection.execute(_LAST_PINNING, key_of(name)).one_or_none()
    return None if row is None else Entry(*row)


def last_pinnings(connection: Connection, names: Iterable[Name]) -> dict[tuple[str, ...], Entry]:
    """As `last_pinning` for each of several names, by the columns `rows.NAME`; those without one are missing."""
    return of_names(connection, _LAST_PINNINGS, names)


def of_names(connection: Connection, newest: TextClause, names: Iterable[Name]) -> dict[tuple[str, ...], Entry]:
    """What `newest` (`rows.newest_of`) finds for each of several names, as stored, by the columns `rows.NAME`."""
    entries = [Entry(*row) for row in connection.execute(newest, sought(map(key_of, names))).all()]
    return {_NAME_OF(entry): entry for entry in entries}


def pinnings(connection: Connection, name: Name) -> list[Entry]:
    """The entries that made or took away the tag's pins, by revision, as stored."""
    return [Entry(*row) for row in connection.execute(_PINNINGS, key_of(name))]


def acts(connection: Connection) -> dict[str, int]:
    """How often people did what, by kind; the cost grows with these entries only."""
    return {row.kind: row.number for row in connection.execute(_ACTS)}


def keyed(connection: Connection) -> list[Entry]:
    """The entries that name the keys of checkpoints, in order, as stored."""
    return [Entry(*row) for row in connection.execute(_KEYED)]


def hashes_after(connection: Connection, serial: int, limit: int) -> list[tuple[int, str]]:
    """The serials and hashes of at most `limit` entries that come after `serial`, in order, as stored."""
    rows = connection.execute(_HASHES, {"serial": serial, "limit": limit})
    return [(int(row.serial), str(row.hash)) for row in rows]
