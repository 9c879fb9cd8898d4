"""First pins: what is judged before one is made, when digests were first seen, and what is withheld.

Rule 1: the facts are read, judged (`trust.admission`) and acted upon in one transaction: however many processes race,
        the first digest that is admitted becomes the pin, and everybody else is told of it.
Rule 2: a sighting is the moment of the first journal entry that tells of content with that digest, whatever became of
        it. It is made for every such entry, also where no rule asks for it yet. A row that fails its checksum is no
        sighting: the digest is seen anew.
Rule 3: a candidate is what upstream offered last for a name without a pin, and why it is withheld. Each of its digests
        is journaled once; that upstream still offers it, or again, is an observation. A pin, or its end, ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, assert_never

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_

from iarproxy.errors import IarproxyError
from iarproxy.ledger import journal, pins, seeds
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import CANDIDATES, NAME, SIGHTINGS, TAG, for_each, is_intact, key_of, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind, Name, Pin, Unpinned, descriptor_of, to_json, to_text
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.trust.admission import (
    NO_TERMS,
    Admitted,
    AwaitsApproval,
    CoolingDown,
    Facts,
    NeverPinned,
    NotSeeded,
    Past,
    Removed,
    Retired,
    SeedMismatch,
    Terms,
    Withholding,
    admission,
)

Key: TypeAlias = tuple[str, str, str]  # registry, repository, tag

_LOOKED_BACK = 100  # entries about a name: a digest that was journaled before them is journaled again

STEP = (
    """
CREATE TABLE sightings (
  digest TEXT NOT NULL PRIMARY KEY,
  first_seen TEXT NOT NULL,
  checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE candidates (
  environment TEXT NOT NULL,
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  source TEXT NOT NULL,
  offered_at TEXT NOT NULL,
  why TEXT NOT NULL,
  detail TEXT,
  checksum BLOB NOT NULL,
  PRIMARY KEY (environment, registry, repository, tag)
) STRICT, WITHOUT ROWID
""",
)

_SIGHTING = select(SIGHTINGS).where(*where(SIGHTINGS, "digest"))
_SEE = for_each(insert(SIGHTINGS).prefix_with("OR IGNORE"))
_SEE_ANEW = insert(SIGHTINGS).prefix_with("OR REPLACE")
_CANDIDATE = select(CANDIDATES).where(*where(CANDIDATES, *NAME))
_OFFER = insert(CANDIDATES).prefix_with("OR REPLACE")
_SETTLE = for_each(delete(CANDIDATES).where(*where(CANDIDATES, *NAME)))
_COUNT = select(func.count()).select_from(CANDIDATES)
_TAG = [CANDIDATES.c[name] for name in TAG]
_WAITING = (
    select(CANDIDATES)
    .where(*where(CANDIDATES, "environment"), tuple_(*_TAG) > tuple_(*(bindparam(name) for name in TAG)))
    .order_by(*_TAG)
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, slots=True)
class Withheld:
    """A candidate: content that upstream offers for a name without a pin, and why it is not its pin.

    Attributes:
        offered_at: when upstream was last seen to offer it (aware, UTC).
        source: where it came from.
    """

    name: Name
    descriptor: Descriptor
    offered_at: datetime
    source: str
    why: Withholding


def admit(tx: Transaction, name: Name, descriptor: Descriptor, source: str, terms: Terms = NO_TERMS) -> Pin | Withheld:
    """Pin `name` if it has no pin and nothing speaks against it; the pin that it has now, or what is withheld."""
    found = pins.standing(tx.connection, name)
    if isinstance(found, Pin):
        return found
    facts = _facts(tx.connection, found, descriptor.digest, terms, tx.now())
    said = admission(terms, facts)
    match said:
        case Admitted():
            return pins.pin(tx, found, descriptor, source)
        case CoolingDown() | AwaitsApproval() | SeedMismatch() | NotSeeded():
            return _withhold(tx, Withheld(name, descriptor, facts.now, source, said))
        case _:
            assert_never(said)


def _facts(connection: Connection, found: Unpinned, offered: Digest, terms: Terms, now: datetime) -> Facts:
    return Facts(
        offered=offered,
        expected=seeds.expected(connection, found.name),
        past=_past(found),
        first_seen=first_seen(connection, offered) if terms.cool_down else None,
        now=now,
    )


def first_seen(connection: Connection, digest: Digest) -> datetime | None:
    """When a digest was first seen here; None: that is not known, or cannot be believed."""
    row = connection.execute(_SIGHTING, {"digest": str(digest)}).one_or_none()
    return datetime.fromisoformat(row.first_seen) if row is not None and is_intact(SIGHTINGS, row) else None


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """What follows from entries: the sightings of what they tell of, and the candidates that they make or end."""
    told = [(content, entry) for entry in entries if (content := _content(entry)) is not None]
    _SEE(connection, [_sighting(content.digest, entry.at) for content, entry in told])
    named = [(name, entry) for entry in entries if (name := entry.name) is not None]
    _SETTLE(connection, [key_of(name) for name, entry in named if entry.revision is not None])
    for name, entry in named:
        if entry.revision is None and entry.kind == EventKind.QUARANTINED:
            connection.execute(_OFFER, _row(_from_entry(name, entry)))


def candidate(connection: Connection, name: Name) -> Withheld | None:
    """What is withheld from a name; None: nothing is, as far as is known."""
    row = connection.execute(_CANDIDATE, key_of(name)).one_or_none()
    return None if row is None else _value(row)


def still_withheld(connection: Connection, name: Name, terms: Terms, now: datetime) -> Withheld | None:
    """The candidate, judged anew: rules, seeds and the time may be others than when it was offered; None: it may in."""
    found, offered = pins.standing(connection, name), candidate(connection, name)
    if isinstance(found, Pin) or offered is None:
        return None
    said = admission(terms, _facts(connection, found, offered.descriptor.digest, terms, now))
    return None if isinstance(said, Admitted) else replace(offered, why=said)


def waiting(connection: Connection, environment: str, after: Key, limit: int) -> tuple[list[Withheld], Key | None]:
    """The candidates among the `limit` names after `after`, and where to go on; None: the end.

    A row that fails its checksum is left out; the next pull makes it anew.
    """
    above = {"environment": environment, **dict(zip(TAG, after, strict=True)), "limit": limit}
    rows = connection.execute(_WAITING, above).all()
    found = [value for value in map(_value, rows) if value is not None]
    return found, (rows[-1].registry, rows[-1].repository, rows[-1].tag) if len(rows) == limit else None


def count(connection: Connection) -> int:
    """How many names there are from which something is withheld."""
    found: int = connection.execute(_COUNT).scalar_one()
    return found


def _past(found: Unpinned) -> Past:
    if not found.revision:
        return NeverPinned()
    return Retired(found.was) if found.retired and found.was is not None else Removed()


def _withhold(tx: Transaction, withheld: Withheld) -> Withheld:
    digest = withheld.descriptor.digest
    if not _is_journaled(tx.connection, withheld.name, digest):
        why, detail = spelled(withheld.why)
        body = {"descriptor": to_json(withheld.descriptor), "source": withheld.source, "why": why, "detail": detail}
        name = withheld.name
        tx.append(EventKind.QUARANTINED, name.reference, environment=name.environment, actor=pins.SELF, body=body)
    else:
        tx.connection.execute(_OFFER, _row(withheld))
    if first_seen(tx.connection, digest) is None:  # its row is damaged, or lost
        tx.connection.execute(_SEE_ANEW, _sighting(digest, to_text(withheld.offered_at)))
    return withheld


def _is_journaled(connection: Connection, name: Name, digest: Digest) -> bool:
    """Whether the digest is known as a candidate since the name's last pin ended."""
    for entry in reversed(journal.of_name(connection, name, _LOOKED_BACK)):
        if entry.revision is not None:
            return False
        if entry.kind == EventKind.QUARANTINED and entry.is_intact() and _told(entry) == digest:
            return True
    return False


def _told(entry: Entry) -> Digest | None:
    content = _content(entry)
    return None if content is None else content.digest


def _content(entry: Entry) -> Descriptor | None:
    """The content that an entry tells of as hashed here."""
    if entry.revision is not None or entry.kind == EventKind.QUARANTINED:
        return descriptor_of(entry.document()["descriptor"])
    return descriptor_of(entry.document()["offered"]) if entry.kind == EventKind.DRIFTED else None


def _sighting(digest: Digest, at: str) -> dict[str, Any]:
    return sealed(SIGHTINGS, {"digest": str(digest), "first_seen": at})


def _from_entry(name: Name, entry: Entry) -> Withheld:
    body, content = entry.document(), _content(entry)
    assert content is not None  # noqa: S101  # each such entry has one; for the type checker
    at = datetime.fromisoformat(entry.at)
    return Withheld(name, content, at, body["source"], _read(body["why"], body["detail"]))


def _row(withheld: Withheld) -> dict[str, Any]:
    why, detail = spelled(withheld.why)
    content = withheld.descriptor
    facts = {"digest": str(content.digest), "media_type": content.media_type, "size": content.size}
    facts |= {"source": withheld.source, "offered_at": to_text(withheld.offered_at), "why": why, "detail": detail}
    return sealed(CANDIDATES, {**key_of(withheld.name), **facts})


def _value(row: Any) -> Withheld | None:
    try:
        if not is_intact(CANDIDATES, row):
            return None
        name = Name(row.environment, TagReference(Repository(row.registry, row.repository), Tag(row.tag)))
        content = Descriptor(row.media_type, Digest.parse(row.digest), row.size)
        return Withheld(name, content, datetime.fromisoformat(row.offered_at), row.source, _read(row.why, row.detail))
    except IarproxyError:
        return None


def spelled(why: Withholding) -> tuple[str, str | None]:
    """Why something is withheld, as a word and what goes with it."""
    match why:
        case CoolingDown(until):
            return "cooling-down", to_text(until)
        case AwaitsApproval(text):
            return "awaits-approval", text
        case SeedMismatch(expected):
            return "seed-mismatch", str(expected)
        case NotSeeded():
            return "not-seeded", None
        case _:
            assert_never(why)


def _read(why: str, detail: str | None) -> Withholding:
    match why:
        case "cooling-down":
            return CoolingDown(datetime.fromisoformat(detail or ""))
        case "seed-mismatch":
            return SeedMismatch(Digest.parse(detail or ""))
        case "not-seeded":
            return NotSeeded()
        case _:
            return AwaitsApproval(detail or "")
