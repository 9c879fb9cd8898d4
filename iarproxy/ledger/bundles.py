"""Bundles: which were made here, and which were applied here.

Rule 1: both are journal entries and nothing else, found by an index over them: a rebuild makes them again, and there
        is no second copy that could disagree. An entry that fails its hash is `LedgerDamaged`: an older sequence is
        never taken for the newest (threats T31).
Rule 2: an apply is one transaction: compare-and-swap of all names, followed tags, links, and its own entry, which has
        the origin's checkpoint. All of it happens or nothing. A sequence that is not newer than the last applied one
        of its origin and set is refused there, whoever decided what before.
Rule 3: every process forgets what it remembers when it sees the entry of an apply: followed tags have no entries that
        would name them. It comes before those of the names, so that of ten thousand names none is seen before others.
Rule 4: followed tags and links are not in the journal. What the newest applied bundles say of them is in the store,
        and can be set again at any time (`reattach`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, literal_column, select

from iarproxy.errors import BundleRefused, Conflict, Malformed
from iarproxy.ledger import followed, links, pins
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import JOURNAL
from iarproxy.ledger.thread import DEADLINE
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Change, Event, EventKind, Pin, Unpinned, descriptor_of, to_json
from iarproxy.oci import Descriptor, Digest, Repository, TagReference
from iarproxy.oci.bundle_manifest import SET_NAME

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

_EACH = 0.02  # seconds that one name of an apply may take, of many in one transaction
_EACH_LINK = 0.002
MAX_CHECKPOINT = 64 * 1024  # characters

STEP = ("CREATE INDEX journal_bundles ON journal (kind, serial) WHERE kind IN ('bundled', 'applied')",)
_IS_OURS: ColumnElement[bool] = literal_column("kind IN ('bundled', 'applied')")  # in the words of the index


def _entries_of(kind: EventKind) -> Any:
    return (
        select(JOURNAL)
        .where(_IS_OURS, literal_column("kind") == literal_column(f"'{kind}'"))
        .order_by(JOURNAL.c.serial.desc())
    )


_BUNDLED, _APPLIED = _entries_of(EventKind.BUNDLED), _entries_of(EventKind.APPLIED)


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle that was made here.

    Attributes:
        bundle: its identity.
        base: what it continues; JSON.
        serial: of the entry.
    """

    set: str
    sequence: int
    bundle: Digest
    base: dict[str, Any]
    at: datetime
    actor: str
    serial: int


@dataclass(frozen=True, slots=True)
class Applied:
    """A bundle that was applied here.

    Attributes:
        origin: of the journal of the store that made it.
        bundle: its identity. manifest: of its `bundle.json`, a blob in the store.
        checkpoint: of the origin's journal, as its signed note.
        signers: fingerprints of the keys that vouched for it.
        rotations: of signers' keys, that the site did not know before, word for word (`trust.rotations`).
        serial: of the entry.
    """

    origin: str
    set: str
    sequence: int
    bundle: Digest
    manifest: Descriptor
    environment: str
    at: datetime
    serial: int
    actor: str
    reason: str
    checkpoint: str
    signers: tuple[str, ...] = ()
    rotations: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Applying:
    """What an apply does.

    Attributes:
        origin, set, sequence, bundle, manifest, checkpoint, signers, rotations: as in `Applied`.
        changes: of the names; those that stay as they are have none.
        followed: attachment tags, and tags that policy follows.
        links: what repositories hand out.
        known: what attachment tags stood for when `followed` was made of it; None: nothing.
    """

    origin: str
    set: str
    sequence: int
    bundle: Digest
    manifest: Descriptor
    environment: str
    changes: Sequence[Change]
    followed: Sequence[tuple[TagReference, Descriptor]]
    links: Mapping[Repository, Collection[Digest]]
    checkpoint: str
    reason: str
    actor: str
    signers: tuple[str, ...] = ()
    rotations: tuple[bytes, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    known: Mapping[TagReference, Digest | None] = field(default_factory=dict)


class Bundles:
    """The bundles of one store, as one process sees them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def make(self, set_name: str, bundle: Digest, *, base: dict[str, Any], actor: str) -> int:
        """Journal that a bundle of a set is made, and its sequence: one more than the last one's, 1 for the first.

        Raises:
            Malformed: a name that no set can have, or no actor.
            LedgerUnavailable, LedgerDamaged: nothing was journaled.
        """
        return await self._shared.thread.write(partial(_make, name=set_name, bundle=bundle, base=base, actor=actor))

    async def made(self, set_name: str) -> list[Made]:
        """The bundles of a set that were made here, the oldest first.

        Raises:
            LedgerDamaged: an entry of a bundle fails its hash.
        """

        def look(connection: Connection) -> list[Made]:
            return [each for each in map(_made, _newest_first(connection, _BUNDLED)) if each.set == set_name]

        return (await self._shared.thread.read(look))[::-1]

    async def last_applied(self, origin: str, set_name: str) -> Applied | None:
        """The bundle of a set of an origin that was applied last; None: none was. Raises as `made`."""
        return await self._shared.thread.read(partial(last_applied, origin=origin, set_name=set_name))

    async def every_applied(self) -> list[Applied]:
        """The bundle that was applied last, of each set of each origin, in their order. Raises as `made`."""

        def look(connection: Connection) -> list[Applied]:
            found: dict[tuple[str, str], Applied] = {}
            for each in map(_applied, _newest_first(connection, _APPLIED)):
                found.setdefault((each.origin, each.set), each)
            return [found[key] for key in sorted(found)]

        return await self._shared.thread.read(look)

    async def history(self) -> list[Applied]:
        """All that was ever applied, the oldest first. Raises as `made`."""
        return (await self._shared.thread.read(lambda it: list(map(_applied, _newest_first(it, _APPLIED)))))[::-1]

    async def rotations(self) -> list[bytes]:
        """Those that came with all that was ever applied, each once, the oldest first. Raises as `made`."""
        return list(dict.fromkeys(raw for each in await self.history() for raw in each.rotations))

    async def apply(self, applying: Applying) -> list[Pin | Unpinned]:
        """A person's act: what each of the changed names stands for after it (rule 2).

        Raises:
            Conflict: naming what is pinned, where that is not what a change says; or what was attached meanwhile.
            BundleRefused: `replayed`: this sequence or a newer one was applied meanwhile.
            Malformed: without a reason or an actor. Recalled: a digest is denied.
            LedgerDamaged, LedgerUnavailable: nothing was applied.
        """
        rows = await asyncio.to_thread(links.rows_of, applying.links)
        deadline = DEADLINE + _EACH * (len(applying.changes) + len(applying.followed)) + _EACH_LINK * len(rows)

        def keep(made: list[Pin | Unpinned]) -> None:
            for each in made:
                self._shared.within(each.environment).keep_act(each)

        work = partial(apply_within, applying=applying, links_made=rows)
        return await self._shared.thread.write(work, kept=keep, deadline=deadline)

    async def reattach(
        self,
        attachments: Sequence[tuple[TagReference, Descriptor]],
        linked: Mapping[Repository, Collection[Digest]],
        *,
        known: Mapping[TagReference, Digest | None] | None = None,
    ) -> None:
        """Set followed tags and links again, as an applied bundle has them (rule 4).

        Raises:
            Conflict: attachments are not what was `known` of them.
        """
        rows = await asyncio.to_thread(links.rows_of, linked)
        work = partial(_reattach_known, attachments=attachments, links_made=rows, known=known or {})
        await self._shared.thread.write(work, deadline=DEADLINE + _EACH_LINK * (len(attachments) + len(rows)))


def last_applied(connection: Connection, origin: str, set_name: str) -> Applied | None:
    """The bundle of a set of an origin that was applied last.

    Raises:
        LedgerDamaged: the entry of an apply fails its hash.
    """
    every = map(_applied, _newest_first(connection, _APPLIED))
    return next((each for each in every if (each.origin, each.set) == (origin, set_name)), None)


def _newest_first(connection: Connection, entries: Any) -> Iterator[Event]:
    with connection.execute(entries) as rows:
        for row in rows:
            yield Entry(*row).event()


def _make(tx: Transaction, *, name: str, bundle: Digest, base: dict[str, Any], actor: str) -> int:
    if SET_NAME.fullmatch(name) is None or not actor.strip():
        raise Malformed(f"not a set that somebody bundles: {name[:80]!r}")
    before = next((each for each in map(_made, _newest_first(tx.connection, _BUNDLED)) if each.set == name), None)
    sequence = 1 if before is None else before.sequence + 1
    body = {"set": name, "sequence": sequence, "bundle": str(bundle), "base": base}
    tx.append(EventKind.BUNDLED, None, actor=actor, body=body)
    return sequence


def apply_within(tx: Transaction, *, applying: Applying, links_made: Sequence[dict[str, Any]]) -> list[Pin | Unpinned]:
    """What `Bundles.apply` does, within a transaction; raises as that. `links_made`: `links.rows_of` its links."""
    pins.insist_reason(applying.reason, applying.actor)
    if len(applying.checkpoint) > MAX_CHECKPOINT:
        raise Malformed(f"the origin's checkpoint has {len(applying.checkpoint)} characters; no checkpoint is so long")
    last = last_applied(tx.connection, applying.origin, applying.set)
    if last is not None and applying.sequence <= last.sequence:
        raise BundleRefused(
            "replayed",
            f"sequence {applying.sequence} of {applying.set} from {applying.origin} is not newer than sequence"
            f" {last.sequence}, which was applied at {last.at:%Y-%m-%d %H:%M:%SZ}",
        )
    _insist_on_known(tx, applying.known)
    tx.append(
        EventKind.APPLIED,
        None,
        environment=applying.environment,
        actor=applying.actor,
        reason=applying.reason,
        body=_body(applying),
    )
    _reattach(tx, attachments=applying.followed, links_made=links_made)
    return pins.change(tx, EventKind.IMPORTED, applying.changes, reason=applying.reason, actor=applying.actor)


def _insist_on_known(tx: Transaction, known: Mapping[TagReference, Digest | None]) -> None:
    """Return if attachments are what they were: lists that were joined from others would lose what came meanwhile."""
    now = followed.digests(tx.connection, list(known))
    for reference, digest in known.items():
        if now.get(reference) != digest:
            raise Conflict(f"something was attached as {reference} meanwhile")


def _reattach_known(tx: Transaction, *, known: Mapping[TagReference, Digest | None], **more: Any) -> None:
    _insist_on_known(tx, known)
    _reattach(tx, **more)


def _reattach(
    tx: Transaction,
    *,
    attachments: Sequence[tuple[TagReference, Descriptor]],
    links_made: Sequence[dict[str, Any]],
) -> None:
    followed.write_all(tx.connection, attachments, tx.now())
    links.insert_all(tx.connection, links_made)


def _body(applying: Applying) -> dict[str, Any]:
    return {
        **applying.detail,
        "origin": applying.origin,
        "set": applying.set,
        "sequence": applying.sequence,
        "bundle": str(applying.bundle),
        "manifest": to_json(applying.manifest),
        "checkpoint": applying.checkpoint,
        "signers": sorted(applying.signers),
        "rotations": [each.decode() for each in applying.rotations],
        "changed": len(applying.changes),
        "attachments": len(applying.followed),
    }


def _made(event: Event) -> Made:
    body = event.body
    bundle = Digest.parse(body["bundle"])
    return Made(body["set"], body["sequence"], bundle, body["base"], event.at, event.actor, event.serial)


def _applied(event: Event) -> Applied:
    body = event.body
    manifest = descriptor_of(body["manifest"])
    assert manifest is not None  # noqa: S101  # `_body` writes one; for the type checker
    return Applied(
        origin=body["origin"],
        set=body["set"],
        sequence=body["sequence"],
        bundle=Digest.parse(body["bundle"]),
        manifest=manifest,
        environment=event.environment,
        at=event.at,
        serial=event.serial,
        actor=event.actor,
        reason=event.reason,
        checkpoint=body["checkpoint"],
        signers=tuple(body["signers"]),
        rotations=tuple(each.encode() for each in body["rotations"]),
    )
