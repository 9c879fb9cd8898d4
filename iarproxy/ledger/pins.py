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
from types import SimpleNamespace
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, func, insert, select, tuple_

from iarproxy.errors import Conflict, IarproxyError, LedgerDamaged, Malformed
from iarproxy.ledger import journal, recalls
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import NAME, PINS, TAG, is_intact, key_of, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Change, Damage, EventKind, Name, Pin, Unpinned, descriptor_of, to_json
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference

Key: TypeAlias = tuple[str, str, str]  # registry, repository, tag

SELF = "iarproxy"  # the actor of what no person did
_MAX_REASON = 4096  # characters
_SPELLED = 20  # conflicts told one by one
_AFTER_REMOVAL = "first fetch after its removal"

_INSERT = insert(PINS)
_CURRENT = select(PINS).where(*where(PINS, *NAME)).order_by(PINS.c.revision.desc()).limit(1)
_REVISION = select(PINS).where(*where(PINS, *NAME, "revision"))
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
    entry = journal.last_pinning(connection, name)
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


def project(connection: Connection, entry: Entry) -> None:
    """Make the row of `entry`, then look: the trigger ignores a first pin that is not the first."""
    connection.execute(_INSERT, row_of(entry))
    if not is_projected(connection, entry):
        raise LedgerDamaged(f"{entry.name} is pinned in a way that the ledger cannot read")


def is_projected(connection: Connection, entry: Entry) -> bool:
    """Whether the row of `entry` is there as it was made."""
    wanted = row_of(entry)
    found = connection.execute(_REVISION, {name: wanted[name] for name in (*NAME, "revision")}).one_or_none()
    return found is not None and tuple(found) == tuple(wanted[each.name] for each in PINS.columns)


def pin(tx: Transaction, found: Unpinned, descriptor: Descriptor, source: str) -> Pin:
    """Pin what `standing` just found without a pin, in the same transaction (rule 2)."""
    recalls.insist(tx.connection, [descriptor.digest])
    reason = _AFTER_REMOVAL if found.revision else ""
    made = _revise(tx, EventKind.PINNED, found, _change_of(found, descriptor, source), reason=reason, actor=SELF)
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
    found = [standing(tx.connection, each.name) for each in changes]
    _insist_expected([_conflict(now, each) for now, each in zip(found, changes, strict=True)])
    recalls.insist(tx.connection, [each.new.digest for each in changes if each.new is not None])
    return [_revise(tx, kind, now, each, reason=reason, actor=actor) for now, each in zip(found, changes, strict=True)]


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
    wanted = row_of(entry)
    return tuple(row) == tuple(wanted[each.name] for each in PINS.columns)


def _value(name: Name, row: Any, entry: Entry) -> Pin | Unpinned:
    if row.digest is None:
        was = Digest.parse(row.previous_digest)
        return Unpinned(name.reference, row.revision, name.environment, was, retired=entry.kind == EventKind.RETIRED)
    # interned: a hundred thousand pins are remembered, of a few media types and sources
    descriptor = Descriptor(sys.intern(row.media_type), Digest.parse(row.digest), row.size)
    pinned_at, source = datetime.fromisoformat(row.pinned_at), sys.intern(row.source)
    return Pin(name.reference, descriptor, pinned_at, source, row.revision, name.environment)


def _change_of(found: Unpinned, descriptor: Descriptor, source: str) -> Change:
    return Change(found.environment, found.reference, None, descriptor, source)


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
    tx: Transaction, kind: EventKind, now: Pin | Unpinned, wanted: Change, *, reason: str, actor: str
) -> Pin | Unpinned:
    previous = str(now.descriptor.digest) if isinstance(now, Pin) else None
    body = {**wanted.detail, "descriptor": to_json(wanted.new), "source": wanted.source, "previous": previous}
    entry = tx.append(
        kind,
        wanted.reference,
        environment=wanted.environment,
        actor=actor,
        reason=reason,
        revision=now.revision + 1,
        body=body,
    )
    return _value(wanted.name, SimpleNamespace(**row_of(entry)), entry)
