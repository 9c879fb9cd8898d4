"""Pins: what a tag stands for in an environment, and the acts that add a revision.

Rule 1: a pin is answered only when its row passes its checksum and equals, column for column, what the journal says.
        A row that is lost, or found under another name, or an older revision that surfaces because the newer one is
        unreadable, is `LedgerDamaged` for that tag: never "no pin" and never the older digest (threats T23, R28).
Rule 2: the first writer wins; who comes later gets the winner's pin.
Rule 3: an act is compare-and-swap, for each of its names, on the digest that the person believes to be current; it
        happens to all of them or to none (threats T24, T31).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, func, insert, select, tuple_

from iarproxy.errors import Conflict, IarproxyError, LedgerDamaged, Malformed
from iarproxy.ledger import journal, recalls
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import (
    NAME,
    PINS,
    TAG,
    for_each,
    is_intact,
    key_of,
    newest_of,
    sealed,
    several,
    sought,
    those_of,
    where,
)
from iarproxy.ledger.transaction import Part, Transaction
from iarproxy.ledger.values import Change, Damage, EventKind, Name, Pin, Unpinned, descriptor_of, to_json
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference

Key: TypeAlias = tuple[str, str, str]  # registry, repository, tag

SELF = "iarproxy"  # the actor of what no person did
_MAX_REASON = 4096  # characters
_SPELLED = 20  # conflicts told one by one
_AFTER_REMOVAL = "first fetch after its removal"

_INSERT = for_each(insert(PINS))
_CURRENT = select(PINS).where(*where(PINS, *NAME)).order_by(PINS.c.revision.desc()).limit(1)
_CURRENTS = newest_of(PINS, "revision", NAME)
_REVISION = (*NAME, "revision")
_COLUMNS_OF = itemgetter(*(each.name for each in PINS.columns))
_REVISIONS = those_of(PINS, _REVISION)
_WITHIN = (
    select(PINS).where(*where(PINS, "environment", "registry", "repository")).order_by(PINS.c.tag, PINS.c.revision)
)
_TAG = [PINS.c[name] for name in TAG]
_NAMES = (
    select(*_TAG)
    .distinct()
    .where(*where(PINS, "environment"), tuple_(*_TAG) > tuple_(*(bindparam(name) for name in TAG)))
    .order_by(*_TAG)
    .limit(bindparam("limit"))
)
_NEXT_ENVIRONMENT = select(func.min(PINS.c.environment)).where(PINS.c.environment > bindparam("after"))


def standing(connection: Connection, name: Name) -> Pin | Unpinned:
    """What the tag stands for, believed only where table and journal agree (rule 1).

    Raises:
        LedgerDamaged: when they do not.
    """
    row = connection.execute(_CURRENT, key_of(name)).one_or_none()
    return _believed(name, row, journal.last_pinning(connection, name))


def standings(connection: Connection, names: Sequence[Name]) -> list[Pin | Unpinned]:
    """As `standing` for each of many names, in few statements; raises as that, for the first that is damaged."""
    found = []
    for some in several(names):
        rows = {tuple(row[: len(NAME)]): row for row in connection.execute(_CURRENTS, sought(map(key_of, some))).all()}
        entries = journal.last_pinnings(connection, some)
        keys = [tuple(key_of(name).values()) for name in some]
        found += [_believed(name, rows.get(key), entries.get(key)) for name, key in zip(some, keys, strict=True)]
    return found


def _believed(name: Name, row: Any, entry: Entry | None) -> Pin | Unpinned:
    if row is None and entry is None:
        return Unpinned(name.reference, environment=name.environment)
    if row is None or entry is None or not _agree(row, entry):
        raise LedgerDamaged(
            f"the pin of {name} is damaged and is not guessed; run `iarproxy ledger verify`, then "
            "`iarproxy ledger restore` or `iarproxy ledger rebuild`",
            reference=str(name.reference),
        )
    return _value(name, row, entry)


def row_of(entry: Entry) -> dict[str, Any]:
    """The row that an entry with a revision makes."""
    body = entry.document()
    descriptor = descriptor_of(body["descriptor"])
    return sealed(
        PINS,
        {
            "environment": entry.environment,
            "registry": entry.registry,
            "repository": entry.repository,
            "tag": entry.tag,
            "revision": entry.revision,
            "digest": str(descriptor.digest) if descriptor else None,
            "media_type": descriptor.media_type if descriptor else None,
            "size": descriptor.size if descriptor else None,
            "pinned_at": entry.at,
            "source": body["source"],
            "previous_digest": body["previous"],
            "reason": entry.reason,
            "actor": entry.actor,
            "serial": entry.serial,
        },
    )


def project(connection: Connection, entries: Sequence[Entry]) -> None:
    """Make the rows of `entries`, then look: the trigger ignores a first pin that is not the first."""
    made = [(entry, row_of(entry)) for entry in entries if entry.revision is not None]
    _INSERT(connection, [row for _, row in made])
    for entry in _lacking(connection, made):
        raise LedgerDamaged(f"{entry.name} is pinned in a way that the ledger cannot read")


def is_projected(connection: Connection, entry: Entry) -> bool:
    """Whether the row of `entry` is there as it was made."""
    return not _lacking(connection, [(entry, row_of(entry))])


def _lacking(connection: Connection, made: Sequence[tuple[Entry, dict[str, Any]]]) -> list[Entry]:
    """Those of the entries whose row is not there as it was made."""
    keys = [{name: row[name] for name in _REVISION} for _, row in made]
    found = {tuple(row) for row in connection.execute(_REVISIONS, sought(keys)).all()}
    return [entry for entry, row in made if _COLUMNS_OF(row) not in found]


def pin(tx: Transaction, found: Unpinned, descriptor: Descriptor, source: str) -> Pin:
    """Pin what `standing` just found without a pin, in the same transaction (rule 2)."""
    recalls.insist(tx.connection, [descriptor.digest])
    reason = _AFTER_REMOVAL if found.revision else ""
    wanted = Change(found.environment, found.reference, None, descriptor, source)
    made = _revise(tx, EventKind.PINNED, [found], [wanted], reason=reason, actor=SELF)[0]
    assert isinstance(made, Pin)  # noqa: S101  # a change to a descriptor makes a pin; for the type checker
    return made


def change(
    tx: Transaction, kind: EventKind, changes: Sequence[Change], *, reason: str, actor: str
) -> list[Pin | Unpinned]:
    """A person's act (rule 3): what each of the names stands for after it.

    Raises:
        Conflict: naming what is pinned, where that is not what the change says, or is what it would make.
        Malformed: without a reason or an actor, or where a name is changed twice.
    """
    insist_reason(reason, actor)
    if len({each.name for each in changes}) != len(changes):
        raise Malformed("one act changes a name once")
    found = standings(tx.connection, [each.name for each in changes])
    _insist_expected([_conflict(now, each) for now, each in zip(found, changes, strict=True)])
    recalls.insist(tx.connection, [each.new.digest for each in changes if each.new is not None])
    return _revise(tx, kind, found, changes, reason=reason, actor=actor)


def insist_reason(reason: str, actor: str) -> None:
    """Refuse an act of nobody, or for no reason.

    Raises:
        Malformed: that is what it is.
    """
    if not reason.strip() or not actor.strip() or len(reason) > _MAX_REASON:
        raise Malformed(f"a person's act needs a reason (at most {_MAX_REASON} characters) and an actor")


def environments(connection: Connection) -> list[str]:
    """Those in which something was ever pinned, sorted."""
    found: list[str] = []
    while (
        following := connection.execute(_NEXT_ENVIRONMENT, {"after": found[-1] if found else ""}).scalar()
    ) is not None:
        found.append(following)
    return found


def page(
    connection: Connection, environment: str, after: Key, limit: int
) -> tuple[list[Pin], list[Damage], Key | None]:
    """The current pins among the `limit` tags after `after`, the damaged ones, and where to go on; None: the end."""
    pins: list[Pin] = []
    damages: list[Damage] = []
    above = {"environment": environment, **dict(zip(TAG, after, strict=True)), "limit": limit}
    names = connection.execute(_NAMES, above).all()
    for registry, repository, tag in names:
        try:
            found = standing(connection, Name(environment, TagReference(Repository(registry, repository), Tag(tag))))
        except IarproxyError as broken:
            damages.append(Damage(f"{registry}/{repository}:{tag}"[:400], str(broken)))
            continue
        pins += [found] if isinstance(found, Pin) else []
    return pins, damages, tuple(names[-1]) if len(names) == limit else None


def tags(connection: Connection, environment: str, repository: Repository) -> list[str]:
    """The tags of `repository` that are pinned now: names to show; each is answered for when it is asked for."""
    within = {"environment": environment, "registry": repository.registry, "repository": repository.name}
    newest: dict[str, Any] = {}
    for row in connection.execute(_WITHIN, within):
        newest[row.tag] = row
    return [name for name, row in newest.items() if row.digest is not None and is_intact(PINS, row)]


def _agree(row: Sequence[Any], entry: Entry) -> bool:
    if not is_intact(PINS, row) or not entry.is_intact():
        return False
    return bool(tuple(row) == _COLUMNS_OF(row_of(entry)))


def _value(name: Name, row: Any, entry: Entry) -> Pin | Unpinned:
    if row.digest is None:
        was = Digest.parse(row.previous_digest)
        return Unpinned(name.reference, row.revision, name.environment, was, retired=entry.kind == EventKind.RETIRED)
    content = Descriptor(row.media_type, Digest.parse(row.digest), row.size)
    return _pin(name, content, row.pinned_at, row.source, row.revision)


def _pin(name: Name, content: Descriptor, at: str, source: str, revision: int) -> Pin:
    # interned: a hundred thousand pins are remembered, of a few media types and sources
    shared = Descriptor(sys.intern(content.media_type), content.digest, content.size)
    return Pin(name.reference, shared, datetime.fromisoformat(at), sys.intern(source), revision, name.environment)


def _conflict(now: Pin | Unpinned, wanted: Change) -> Conflict | None:
    """Why `wanted` cannot follow `now`."""
    if isinstance(now, Unpinned):
        if wanted.old is not None:
            return Conflict(f"{wanted.name} has no pin, and so none on {wanted.old}")
        return Conflict(f"{wanted.name} has no pin that could be taken away") if wanted.new is None else None
    pinned = now.descriptor.digest
    if wanted.new is not None and pinned == wanted.new.digest and wanted.old in (None, pinned):
        return Conflict(f"{wanted.name} is pinned to {pinned} already", pinned=str(pinned))
    if wanted.old is None:
        return Conflict(f"{wanted.name} is pinned to {pinned}, which nobody named", pinned=str(pinned))
    if wanted.old != pinned:
        return Conflict(
            f"{wanted.name} is pinned to {pinned}, not to {wanted.old}", pinned=str(pinned), named=str(wanted.old)
        )
    return None


def _insist_expected(conflicts: Sequence[Conflict | None]) -> None:
    found = [each for each in conflicts if each is not None]
    if len(found) == 1:
        raise found[0]
    if found:
        rest = f"; and {len(found) - _SPELLED} more" if len(found) > _SPELLED else ""
        raise Conflict("; ".join(str(each) for each in found[:_SPELLED]) + rest, conflicts=len(found))


def _revise(
    tx: Transaction,
    kind: EventKind,
    found: Sequence[Pin | Unpinned],
    changes: Sequence[Change],
    *,
    reason: str,
    actor: str,
) -> list[Pin | Unpinned]:
    parts = [_part(now, each) for now, each in zip(found, changes, strict=True)]
    entries = tx.append_all(kind, parts, actor=actor, reason=reason)
    return [_made(now, each, entry) for now, each, entry in zip(found, changes, entries, strict=True)]


def _part(now: Pin | Unpinned, wanted: Change) -> Part:
    previous = str(now.descriptor.digest) if isinstance(now, Pin) else None
    body = {**wanted.detail, "descriptor": to_json(wanted.new), "source": wanted.source, "previous": previous}
    return Part(wanted.name, body, now.revision + 1)


def _made(now: Pin | Unpinned, wanted: Change, entry: Entry) -> Pin | Unpinned:
    """What the entry of `wanted` made of what stood until `now`."""
    revision, new = now.revision + 1, wanted.new
    if new is None:
        retired = entry.kind == EventKind.RETIRED
        return Unpinned(wanted.reference, revision, wanted.environment, wanted.old, retired=retired)
    return _pin(wanted.name, new, entry.at, wanted.source, revision)
