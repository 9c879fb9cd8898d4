"""Pins: what a tag stands for here, and the three acts that add a revision.

Rule 1: a pin is answered only when its row passes its checksum and equals, column for column, what the journal says.
        A row that is lost, or found under another name, or an older revision that surfaces because the newer one is
        unreadable, is `LedgerDamaged` for that tag: never "no pin" and never the older digest (threats T23, R28).
Rule 2: the first writer wins; who comes later gets the winner's pin.
Rule 3: repin and remove are compare-and-swap on the digest that the person believes to be current (threats T24, T31).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, insert, select, tuple_

from iarproxy.errors import Conflict, IarproxyError, LedgerDamaged, Malformed
from iarproxy.ledger import journal
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import PINS, TAG, is_intact, key_of, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Damage, EventKind, Pin, Unpinned, descriptor_of, to_json
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference

Key: TypeAlias = tuple[str, str, str]  # registry, repository, tag

SELF = "iarproxy"  # the actor of what no person did
_MAX_REASON = 4096  # characters
_AFTER_REMOVAL = "first fetch after its removal"

_INSERT = insert(PINS)
_CURRENT = select(PINS).where(*where(PINS, *TAG)).order_by(PINS.c.revision.desc()).limit(1)
_REVISION = select(PINS).where(*where(PINS, *TAG, "revision"))
_WITHIN = select(PINS).where(*where(PINS, "registry", "repository")).order_by(PINS.c.tag, PINS.c.revision)
_NAME = [PINS.c[name] for name in TAG]
_NAMES = (
    select(*_NAME)
    .distinct()
    .where(tuple_(*_NAME) > tuple_(*(bindparam(name) for name in TAG)))
    .order_by(*_NAME)
    .limit(bindparam("limit"))
)


def standing(connection: Connection, reference: TagReference) -> Pin | Unpinned:
    """What the tag stands for, believed only where table and journal agree (rule 1).

    Raises:
        LedgerDamaged: when they do not.
    """
    row = connection.execute(_CURRENT, key_of(reference)).one_or_none()
    entry = journal.last_pinning(connection, reference)
    if row is None and entry is None:
        return Unpinned(reference)
    if row is None or entry is None or not _agree(row, entry):
        raise LedgerDamaged(
            f"the pin of {reference} is damaged and is not guessed; run `iarproxy ledger verify`, then "
            "`iarproxy ledger restore` or `iarproxy ledger rebuild`",
            reference=str(reference),
        )
    return _value(reference, row)


def row_of(entry: Entry) -> dict[str, Any]:
    """The row that a pinned, repinned or removed entry makes."""
    body = entry.document()
    descriptor = descriptor_of(body["descriptor"])
    return sealed(
        PINS,
        {
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


def project(connection: Connection, entry: Entry) -> None:
    """Make the row of `entry`, then look: the trigger ignores a first pin that is not the first."""
    connection.execute(_INSERT, row_of(entry))
    if not is_projected(connection, entry):
        raise LedgerDamaged(f"{entry.reference} is pinned in a way that the ledger cannot read")


def is_projected(connection: Connection, entry: Entry) -> bool:
    """Whether the row of `entry` is there as it was made."""
    wanted = row_of(entry)
    found = connection.execute(_REVISION, {name: wanted[name] for name in (*TAG, "revision")}).one_or_none()
    return found is not None and tuple(found) == tuple(wanted[each.name] for each in PINS.columns)


def add(tx: Transaction, reference: TagReference, descriptor: Descriptor, source: str) -> Pin:
    """Pin `reference` if it has no pin; the pin that it has now (rule 2)."""
    found = standing(tx.connection, reference)
    if isinstance(found, Pin):
        return found
    reason = _AFTER_REMOVAL if found.revision else ""
    return _revise(tx, EventKind.PINNED, found, descriptor, source=source, reason=reason, actor=SELF)


def repin(
    tx: Transaction, reference: TagReference, old: Digest, new: Descriptor, *, reason: str, actor: str, source: str
) -> Pin:
    """Replace the pin on `old` by one on `new`.

    Raises:
        Conflict: when the pin is not on `old`, or is on `new` already.
        Malformed: without a reason or an actor.
    """
    current = _swappable(tx, reference, old, reason, actor)
    if current.descriptor.digest == new.digest:
        raise Conflict(f"{reference} is pinned to {new.digest} already", pinned=str(new.digest))
    return _revise(tx, EventKind.REPINNED, current, new, source=source, reason=reason, actor=actor)


def remove(tx: Transaction, reference: TagReference, old: Digest, *, reason: str, actor: str) -> Unpinned:
    """Take the pin on `old` away; the next fetch pins anew. The history stays (threats T25).

    Raises:
        Conflict: when the pin is not on `old`.
        Malformed: without a reason or an actor.
    """
    current = _swappable(tx, reference, old, reason, actor)
    body = {"descriptor": None, "source": "", "previous": str(old)}
    tx.append(EventKind.REMOVED, reference, actor=actor, reason=reason, revision=current.revision + 1, body=body)
    return Unpinned(reference, current.revision + 1)


def page(connection: Connection, after: Key, limit: int) -> tuple[list[Pin], list[Damage], Key | None]:
    """The current pins among the `limit` tags after `after`, the damaged ones, and where to go on; None: the end."""
    pins: list[Pin] = []
    damages: list[Damage] = []
    names = connection.execute(_NAMES, {**dict(zip(TAG, after, strict=True)), "limit": limit}).all()
    for registry, repository, tag in names:
        try:
            found = standing(connection, TagReference(Repository(registry, repository), Tag(tag)))
        except IarproxyError as broken:
            damages.append(Damage(f"{registry}/{repository}:{tag}"[:400], str(broken)))
            continue
        pins += [found] if isinstance(found, Pin) else []
    return pins, damages, tuple(names[-1]) if len(names) == limit else None


def tags(connection: Connection, repository: Repository) -> list[str]:
    """The tags of `repository` that are pinned now: names to show; each is answered for when it is asked for."""
    within = {"registry": repository.registry, "repository": repository.name}
    newest: dict[str, Any] = {}
    for row in connection.execute(_WITHIN, within):
        newest[row.tag] = row
    return [name for name, row in newest.items() if row.digest is not None and is_intact(PINS, row)]


def _agree(row: Sequence[Any], entry: Entry) -> bool:
    if not is_intact(PINS, row) or not entry.is_intact():
        return False
    wanted = row_of(entry)
    return tuple(row) == tuple(wanted[each.name] for each in PINS.columns)


def _value(reference: TagReference, row: Any) -> Pin | Unpinned:
    if row.digest is None:
        return Unpinned(reference, row.revision)
    # interned: a hundred thousand pins are remembered, of a few media types and sources
    descriptor = Descriptor(sys.intern(row.media_type), Digest.parse(row.digest), row.size)
    return Pin(reference, descriptor, datetime.fromisoformat(row.pinned_at), sys.intern(row.source), row.revision)


def _swappable(tx: Transaction, reference: TagReference, old: Digest, reason: str, actor: str) -> Pin:
    if not reason.strip() or not actor.strip() or len(reason) > _MAX_REASON:
        raise Malformed(f"a change of a pin needs a reason (at most {_MAX_REASON} characters) and an actor")
    current = standing(tx.connection, reference)
    if isinstance(current, Unpinned):
        raise Conflict(f"{reference} has no pin, and so none on {old}")
    if current.descriptor.digest != old:
        pinned = current.descriptor.digest
        raise Conflict(f"{reference} is pinned to {pinned}, not to {old}", pinned=str(pinned), named=str(old))
    return current


def _revise(
    tx: Transaction,
    kind: EventKind,
    current: Pin | Unpinned,
    new: Descriptor,
    *,
    source: str,
    reason: str,
    actor: str,
) -> Pin:
    previous = str(current.descriptor.digest) if isinstance(current, Pin) else None
    body = {"descriptor": to_json(new), "source": source, "previous": previous}
    revision = current.revision + 1
    entry = tx.append(kind, current.reference, actor=actor, reason=reason, revision=revision, body=body)
    return Pin(current.reference, new, datetime.fromisoformat(entry.at), source, revision)
