"""Making a bundle of a set: from what its last sync came to, by nothing but store and ledger.

Rule 1: what the record says has to be what stands: a set that was never synced, whose section changed since, that is
        not complete, whose pins moved, or some of which was recalled is refused before anything is written.
Rule 2: a base is believed only where it leads somewhere: a receipt is the site's signed word, about this origin and
        this set; a bundle is one that this ledger made for this set.
Rule 3: a damaged blob goes to quarantine and ends the create; the next sync fetches it anew.
Rule 4: the sequence is taken when the volumes are complete: what failed before leaves no number out.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeVar, assert_never

from iarproxy.archive.held import load_from, size_in
from iarproxy.archive.making.gathering import Subject
from iarproxy.archive.making.order import Acknowledged, Created, Draft, Nothing, On, Order, Since, held_by, seen_by
from iarproxy.archive.making.sources import Sources, gather, not_here, spelled
from iarproxy.archive.making.writing import Damaged, Hands, Writing
from iarproxy.archive.staging import JOURNAL, MANIFEST, Staging
from iarproxy.errors import Refused
from iarproxy.ledger import Ledger, Pin
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.oci import Digest, TagReference
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundledName, BundleManifest
from iarproxy.oci.set_record import MAX_RECORD, Member, SetRecord
from iarproxy.oci.volumes import Volume
from iarproxy.store import Store
from iarproxy.together import together
from iarproxy.trust.bundles import Base, BaseKind, BundleStatement, file_of, signed

T = TypeVar("T")
V = TypeVar("V")

_AT_ONCE = 256  # names: the ledger serves together what waits together


@dataclass(frozen=True, slots=True)
class Creating:
    """The use case over one store and its ledger.

    Attributes:
        journal: what of the journal travels with a bundle: the bytes of `journal.json`.
        now: the clock (aware).
    """

    store: Store
    ledger: Ledger
    journal: Callable[[Subject], Awaitable[bytes]]
    now: Callable[[], datetime]

    @property
    def origin(self) -> str:
        """What this side is called in statements."""
        return origin_of(self.store.identity)

    async def draft(self, order: Order) -> Draft:
        """The bundle that an order comes to; nothing is changed, but for damaged documents that go to quarantine.

        Raises:
            Refused: it cannot be made (rules 1 and 2); BundleRefused `wrong-receipt` among them.
            StoreUnavailable, LedgerUnavailable: not now.
        """
        base = await self._base(order.set, order.on)
        record = await self._record(order.set, order.definition)
        await self._insist_on_pins(record)
        sources = await gather(record, load_from(self.store))
        self._insist_on_none_recalled(sources)
        manifest = sources.manifest(held_by(order.on), order.volume_size, size_in(self.store))
        BundleManifest.parse(manifest.dump())  # what no site would read is not written
        return Draft(order, manifest, base, volumes_of(manifest))

    async def create(self, draft: Draft, staging: Staging, told: Callable[[int], None]) -> Created:
        """Write the bundle; `told` is called, in another thread, with how many more bytes of blobs are done.

        Raises:
            Refused: the disk does not take it, or a blob was damaged (rule 3).
            StoreUnavailable, LedgerUnavailable: not now.
        """
        order = draft.order
        await asyncio.to_thread(staging.insist_on_room, draft.size)
        pieces = await self._write(draft, Hands(staging, self.store.find, told, threading.Event()))
        manifest = replace(draft.manifest, pieces=pieces)
        base = {"kind": draft.base.kind.value, "bundle": str(draft.base.identity), "sequence": draft.base.sequence}
        sequence = await self.ledger.bundles.make(order.set, manifest.identity, base=base, actor=order.actor)
        subject = Subject(order.set, sequence, await self._news(draft), seen_by(order.on))
        journal = await self.journal(subject)
        now = self.now()
        said = BundleStatement.about(
            manifest,
            origin=self.origin,
            sequence=sequence,
            created=now,
            expires=now + order.lifetime,
            journal=Digest.of(journal),
            base=draft.base,
        )
        files = {
            **order.rotations,
            JOURNAL: journal,
            file_of(order.key.public): signed(said, order.key),
            MANIFEST: manifest.dump(),
        }
        await asyncio.to_thread(_finish, staging, files)
        return Created(draft, said)

    # --- what stands -------------------------------------------------------------------------------------------------

    async def _record(self, name: str, definition: Digest) -> SetRecord:
        kept = await self.ledger.sets.of(name)
        again = f"run `iarproxy sync {name}` first"
        if kept is None:
            raise Refused(f"the set {name} was never synced here; {again}")
        if kept.definition != definition:
            raise Refused(f"the section of set {name} changed since its last sync; {again}")
        if not kept.complete:
            raise Refused(f"the last sync of set {name} was not complete; {again}")
        raw = await self.store.read(kept.record.digest, MAX_RECORD)
        if raw is None:
            raise Refused(f"the record of set {name} is not in the store, or damaged; {again}")
        record = SetRecord.parse(raw)
        if record.name != name or not record.is_complete:
            raise Refused(f"the record of set {name} is not one that a bundle can be made from; {again}")
        return record

    async def _insist_on_pins(self, record: SetRecord) -> None:
        stands = await together(record.members, self._stands, at_a_time=_AT_ONCE)
        moved = [str(each.reference) for each, same in zip(record.members, stands, strict=True) if not same]
        if moved:
            raise Refused(
                f"since the last sync of set {record.name} these names moved: {spelled(moved)};"
                f" run `iarproxy sync {record.name}` again"
            )

    async def _stands(self, member: Member) -> bool:
        """Whether a name still is what the record says; a tag that policy follows has no pin."""
        if not isinstance(member.reference, TagReference):
            return True
        pin = await self.ledger.standing(member.reference)
        if isinstance(pin, Pin):
            return pin.descriptor.digest == member.descriptor.digest
        followed = await self.ledger.followed(member.reference)
        return followed is not None and followed[0].digest == member.descriptor.digest

    def _insist_on_none_recalled(self, sources: Sources) -> None:
        everything = sources.contents.union(*sources.wanted.values())
        recalled = [recall for digest, recall in self.ledger.recalls.known.items() if digest in everything]
        if recalled:
            name = sources.record.name
            raise Refused(f"the set {name} contains recalled content: {recalled[0]}; take it out of the set, and sync")

    async def _base(self, name: str, on: On) -> Base:
        match on:
            case Nothing():
                return Base()
            case Acknowledged(receipt):
                receipt.insist(self.origin, name)
                return Base(BaseKind.RECEIPT, receipt.bundle, receipt.sequence)
            case Since(manifest):
                made = [each for each in await self.ledger.bundles.made(name) if each.bundle == manifest.identity]
                if not made:
                    raise Refused(
                        f"the bundle {manifest.identity.short} of set {manifest.set} was not made here for set {name};"
                        " name one that was, or use a --receipt or --full"
                    )
                return Base(BaseKind.BUNDLE, manifest.identity, made[-1].sequence)
            case _:
                assert_never(on)

    async def _news(self, draft: Draft) -> list[BundledName]:
        """The tags whose entries travel: what the site holds and was pinned before the base was made went with that."""
        held, name = held_by(draft.order.on), draft.order.set
        before = [each.serial for each in await self.ledger.bundles.made(name) if each.sequence == draft.base.sequence]

        async def is_news(each: BundledName) -> bool:
            if not isinstance(each.reference, TagReference):
                return False
            if not before or each.descriptor.digest not in held:
                return True
            entry = await self.ledger.made(each.reference)
            return entry is None or entry.serial > before[-1]

        news = await together(draft.manifest.names, is_news, at_a_time=_AT_ONCE)
        return [each for each, is_new in zip(draft.manifest.names, news, strict=True) if is_new]

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _write(self, draft: Draft, hands: Hands) -> tuple[tuple[Digest, tuple[str, ...]], ...]:
        name = draft.order.set
        try:
            return await _in_thread(hands.stop, partial(_volumes, hands, draft.volumes))
        except Damaged as damaged:
            if self.store.find(damaged.digest) is None:
                raise not_here(name, [damaged.digest]) from damaged
            reason = "its bytes are not what its digest names"
            await asyncio.to_thread(self.store.quarantine, damaged.digest, reason)
            raise Refused(
                f"{damaged.digest} is damaged in the store and was put aside; no bundle was made;"
                f" run `iarproxy sync {name}` and create it again",
                digest=str(damaged.digest),
            ) from damaged


def _volumes(hands: Hands, volumes: Sequence[Volume]) -> tuple[tuple[Digest, tuple[str, ...]], ...]:
    with Writing(hands) as writing:
        return writing.write(volumes)


def _finish(staging: Staging, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        staging.write(name, data)
    staging.publish()


async def _in_thread(stop: threading.Event, call: Callable[[], T]) -> T:
    """Run a blocking call that ends soon after `stop` was set; a cancelled caller sets it, and waits for that."""
    work = asyncio.create_task(asyncio.to_thread(call), name="write bundle")
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        work.exception()  # seen, so that the loop does not report it as lost
        raise
