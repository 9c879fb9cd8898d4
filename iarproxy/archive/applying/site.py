"""Applying a bundle at a site: everything is verified first, then all of its names change in one transaction.

Rule 1: the order is the promise. Who signed it and whether it is late, what it needs, the names that differ, framing of
        volumes: all of that before a byte is taken. Blobs into the store, each durable, before their names. The closure
        walked over what is held. One transaction. Then the receipt.
Rule 2: a refusal changes nothing but that whole blobs, and pieces of some, may be in the store: they were vouched for,
        no name leads to them, and the next run does not read them again.
Rule 3: it may run once for each medium, twice, and several times at once. What is applied already is `Unchanged`, and
        only brings back what was lost since: blobs, and what no journal has: followed tags and links.
Rule 4: an apply is a person's act at the site: by an actor, with a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias, assert_never

from iarproxy.archive import evidence
from iarproxy.archive.applying.contained import Contained, leading_to, linked
from iarproxy.archive.applying.growing import Growing, attached
from iarproxy.archive.applying.incoming import Incoming
from iarproxy.archive.applying.naming import Names, Naming, Prefer, detail_of
from iarproxy.archive.applying.reattaching import reattach
from iarproxy.archive.checking import Placed, Problem, cut_of, hashes_of, place, refusal, spares
from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.staging import JOURNAL
from iarproxy.archive.vouching import vouched_in
from iarproxy.errors import BundleRefused, Conflict
from iarproxy.ledger import Ledger
from iarproxy.ledger.bundles import Applied
from iarproxy.ledger.bundles import Applying as Act
from iarproxy.ledger.pins import insist_reason
from iarproxy.ledger.recalls import Recall
from iarproxy.oci import Descriptor, Digest, TagReference
from iarproxy.oci.bundle_manifest import MEDIA_TYPE, BundleManifest
from iarproxy.oci.volumes import Volume, extents
from iarproxy.store import Store
from iarproxy.trust.bundle_statement import Base
from iarproxy.trust.bundles import Fresh, Repeated, Standing, Vouched, judge
from iarproxy.trust.signing import PublicKey

_SPELLED: Final = 20


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asks for.

    Attributes:
        trusted: the keys of each signer. threshold: how many of them have to vouch; None: all.
        prefer: which side wins where names differ; None: neither.
        accept_expired: however old it is; `reason` says why.
    """

    trusted: Sequence[Sequence[PublicKey]]
    reason: str
    actor: str
    threshold: int | None = None
    prefer: Prefer | None = None
    accept_expired: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A bundle that was applied. `taken`: bytes that were read; `remarks`: what people should know, a line each."""

    vouched: Vouched
    applied: Applied
    names: Names
    taken: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A bundle that was applied before. `taken`: bytes that were read, of what was lost since."""

    vouched: Vouched
    applied: Applied
    taken: int = 0


Outcome: TypeAlias = Done | Unchanged


@dataclass(frozen=True, slots=True)
class Site:
    """The use case over one store and its ledger.

    Attributes:
        naming: how names are taken here.
        now: the clock (aware).
    """

    store: Store
    ledger: Ledger
    naming: Naming
    now: Callable[[], datetime]

    async def apply(
        self, folder: BundleFolder, order: Order, told: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Outcome:
        """Apply a bundle; `told` is called with how many more bytes are in the store, and how many there will be.

        Raises:
            BundleRefused: with the code that says why. Denied, Malformed: as `Naming.insist`, or without a reason.
            StoreFull, StoreUnavailable, LedgerUnavailable: not now; what is verified stays.
        """
        insist_reason(order.reason, order.actor)
        bundle = await self._vouched(folder, order)
        match await self._judged(bundle, order):
            case Repeated():
                return await self._again(folder, bundle, told)
            case Fresh():
                return await self._applied(folder, bundle, order, told)
            case standing:
                assert_never(standing)

    async def _vouched(self, folder: BundleFolder, order: Order) -> Vouched:
        return await asyncio.to_thread(
            vouched_in,
            folder,
            order.trusted,
            threshold=order.threshold,
            retired=await self.ledger.bundles.rotations(),
        )

    async def _judged(self, bundle: Vouched, order: Order) -> Standing:
        said = bundle.statement
        last = await self.ledger.bundles.last_applied(said.origin, said.set)
        known = None if last is None else (last.sequence, last.bundle)
        return judge(said, known, self.now(), accept_expired=order.accept_expired)

    # --- what was applied before -------------------------------------------------------------------------------------

    async def _again(self, folder: BundleFolder, bundle: Vouched, told: Callable[[int, int], None]) -> Unchanged:
        """What was applied, with what was lost, or a ledger that was rebuilt does not know (rule 3)."""
        said, taken = bundle.statement, 0
        applied = await self.ledger.bundles.last_applied(said.origin, said.set)
        assert applied is not None  # noqa: S101  # it was judged to be repeated
        self._insist_on_place(applied)
        if await asyncio.to_thread(self._lacks, bundle.manifest):
            taken, _ = await self._take(folder, bundle.manifest, told)
        await self._keep_manifest(folder.manifest)
        await reattach(self.store, self.naming, bundle.manifest, moves=False)
        return Unchanged(bundle, applied, taken)

    def _insist_on_place(self, applied: Applied) -> None:
        """Return if the names of a bundle that was applied were made where they are wanted now."""
        here = self.naming.environment.name
        if applied.environment != here:
            raise BundleRefused(
                "conflict",
                f"bundle {applied.sequence} of set {applied.set} was applied into the environment"
                f" {applied.environment}, and a bundle is applied once; `iarproxy promote` brings its names to {here},"
                " or have a new one made",
            )

    def _lacks(self, manifest: BundleManifest) -> bool:
        return any(self.store.find(each.digest) is None for each in manifest.provides)

    # --- a new one ---------------------------------------------------------------------------------------------------

    async def _applied(
        self, folder: BundleFolder, bundle: Vouched, order: Order, told: Callable[[int, int], None]
    ) -> Outcome:
        manifest, said = bundle.manifest, bundle.statement
        checkpoint, remark = await self._witnessed(folder, bundle)
        self.naming.insist(manifest)
        self.naming.insist_on_none_recalled(manifest, order.prefer)
        await asyncio.to_thread(self._insist_on_base, manifest, said.base)
        await self.naming.compare(manifest, said, order.prefer)
        taken, spare = await self._take(folder, manifest, told)
        contained = Contained(self.store, manifest)
        await contained.look()
        await asyncio.to_thread(self._insist_on_all, contained)
        names = await self.naming.compare(manifest, said, order.prefer)  # anew: taking may have lasted for hours
        recalled = self.naming.insist_on_none_recalled(manifest, order.prefer)  # so is what was recalled meanwhile
        names = names.without(_tags(leading_to(contained.below, recalled), contained, recalled))
        growing = Growing(self.store, self.ledger)
        known = await growing.known(names.followed)
        names = replace(names, followed=await growing.grown(names.followed, known))
        kept = await self._keep_manifest(folder.manifest)
        links = linked(contained, names.followed)
        act = replace(_act(bundle, order, names, self.naming.environment.name), known=attached(known))
        try:
            await self.ledger.bundles.apply(replace(act, manifest=kept, links=links, checkpoint=checkpoint))
        except Conflict as conflict:
            raise BundleRefused("conflict", f"{conflict}; apply the bundle again") from conflict
        except BundleRefused as refused:
            return await self._lost_race(bundle, refused)
        applied = await self.ledger.bundles.last_applied(said.origin, said.set)
        assert applied is not None  # noqa: S101  # it was just now
        return Done(bundle, applied, names, taken, tuple(filter(None, (remark, *names.skipped, *spare))))

    async def _witnessed(self, folder: BundleFolder, bundle: Vouched) -> tuple[str, str]:
        """The origin's checkpoint that came along, and what is to be told of it."""
        if folder.journal is None:
            raise BundleRefused("manifest-altered", f"{JOURNAL} is missing; copy it again")
        shown = await asyncio.to_thread(evidence.checked, folder.journal, bundle.statement, bundle.manifest)
        seen = evidence.compared(shown, await self.ledger.bundles.history(), bundle.statement.set)
        return str(shown.checkpoint.note), evidence.told(shown, seen)

    def _insist_on_base(self, manifest: BundleManifest, base: Base) -> None:
        missing = [each for each in manifest.requires if self.store.find(each) is None]
        if missing:
            more = f" and {len(missing) - _SPELLED} more" if len(missing) > _SPELLED else ""
            before = "another one" if base.sequence is None else f"bundle {base.sequence}"
            raise BundleRefused(
                "missing-base",
                f"this bundle continues {before}, and {len(missing)} blobs that it needs are not here:"
                f" {', '.join(map(str, missing[:_SPELLED]))}{more}; apply {before} first, or have one made with"
                f" `iarproxy bundle create {manifest.set} --receipt`, or `--full`",
                missing=len(missing),
            )

    def _insist_on_all(self, contained: Contained) -> None:
        """Return if nothing went while the rest came: a base was removed, or a blob found damaged."""
        gone = [each for each in sorted(set().union(*contained.below.values())) if self.store.find(each) is None]
        if gone:
            more = f" and {len(gone) - _SPELLED} more" if len(gone) > _SPELLED else ""
            told = f"{', '.join(map(str, gone[:_SPELLED]))}{more}"
            raise BundleRefused("incomplete", f"while the bundle was applied the store lost {told}; apply it again")

    async def _take(
        self, folder: BundleFolder, manifest: BundleManifest, told: Callable[[int, int], None]
    ) -> tuple[int, list[str]]:
        """Bring in what the volumes have; how many bytes, and what else lies there."""
        cut = await asyncio.to_thread(cut_of, manifest)
        placed = await asyncio.to_thread(place, folder, manifest.identity, cut)
        incoming = Incoming(self.store, placed, extents(cut), hashes_of(manifest, cut))
        try:
            await asyncio.to_thread(incoming.look)
            self._insist_on_framing(placed, incoming)
            incoming.told = partial(_tell, told, incoming)
            problems = [*await incoming.take(), *incoming.lacking]
        finally:
            incoming.close()
        if problems:
            raise _with_remedy(problems, placed, cut)
        return incoming.size, spares(folder, manifest.identity, placed)

    def _insist_on_framing(self, placed: Placed, incoming: Incoming) -> None:
        """Take nothing while a volume that is here is not what it has to be."""
        wrong = [each for each in placed.values() if isinstance(each, Problem) and each.code == "volume-damaged"]
        foreign = [each for each in incoming.lacking if each.code == "volume-foreign"]
        if wrong or foreign:
            raise refusal((*wrong, *foreign))

    async def _keep_manifest(self, raw: bytes) -> Descriptor:
        found = Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw))
        await self.store.put(found.digest, raw)
        return found

    async def _lost_race(self, bundle: Vouched, refused: BundleRefused) -> Outcome:
        """Another process was first; with this very bundle that is as good."""
        said = bundle.statement
        last = await self.ledger.bundles.last_applied(said.origin, said.set)
        if last is not None and (last.sequence, last.bundle) == (said.sequence, said.bundle):
            self._insist_on_place(last)
            return Unchanged(bundle, last)
        raise refused


def _act(bundle: Vouched, order: Order, names: Names, environment: str) -> Act:
    """The act as far as it does not depend on what is held."""
    said = bundle.statement
    return Act(
        origin=said.origin,
        set=said.set,
        sequence=said.sequence,
        bundle=said.bundle,
        manifest=Descriptor(MEDIA_TYPE, said.manifest, 0),
        environment=environment,
        changes=names.changes,
        followed=names.followed,
        links={},
        checkpoint="",
        signers=bundle.signers,
        rotations=bundle.rotations,
        reason=order.reason,
        actor=order.actor,
        detail={"created": detail_of(said)["created"], "expires": said.expires.isoformat(), "kept": len(names.kept)},
    )


def _tell(told: Callable[[int, int], None], incoming: Incoming, more: int) -> None:
    told(more, incoming.size)


def _tags(
    references: Sequence[object], contained: Contained, recalled: Mapping[Digest, Recall]
) -> dict[TagReference, Recall]:
    """Of these names the tags, each with a recall of something that it leads to."""
    return {
        each: next(recall for digest, recall in recalled.items() if digest in contained.below[each])
        for each in references
        if isinstance(each, TagReference)
    }


def _with_remedy(problems: Sequence[Problem], placed: Placed, cut: Sequence[Volume]) -> BundleRefused:
    refused = refusal(problems)
    if refused.code != "volume-missing":
        return refused
    here = sum(not isinstance(each, Problem) for each in placed.values())
    told = f"{refused}; {here} of {len(cut)} volumes are here, and what they have is kept"
    return BundleRefused(refused.code, f"{told}: apply it again with the next medium")
