"""`iarproxy sync`: everything that a set needs, pinned and held, and a record of it from which bundles are made.

Rule 1: a tag is resolved and pinned as a client's pull would, but for one that the set locks to a digest: that one is
        fetched by its digest and pinned as a lock import does (`syncing_resolve`).
Rule 2: nobody waits for it at a screen: it is background work that leaves the last of a quota to clients.
Rule 3: what fails, fails for itself; the rest goes on. Whatever is lacking at the end is in the record, which is not
        complete then, and no bundle is made from it.
Rule 4: what is held is not fetched again, so a sync that was broken off goes on where it was. Documents come first:
        names are of one moment, and the size of the rest is known before it is fetched.
Rule 5: what is here is looked for in the store at the end, not concluded from what was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from iarproxy.config.wanted import WantedSet
from iarproxy.errors import IarproxyError, ManifestInvalid, UnknownBlob
from iarproxy.ledger import EventKind, Ledger
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.sync.attachments import Attachments
from iarproxy.mirror.sync.charts import Chart, Charts
from iarproxy.mirror.sync.names import names_of
from iarproxy.mirror.sync.resolve import Resolved, Resolving
from iarproxy.mirror.sync.run import Run
from iarproxy.mirror.sync.values import Asked, Progress, Synced
from iarproxy.mirror.sync.waiting import Waiting
from iarproxy.oci import Descriptor, Digest, DigestReference, Manifest, Repository
from iarproxy.oci.closure import Closure, Root, walk
from iarproxy.oci.set_record import MEDIA_TYPE, SetRecord
from iarproxy.store import Store
from iarproxy.together import together
from iarproxy.trust.image_config import MAX_CONFIG, ImageConfig, read_config
from iarproxy.upstream import Purpose

_BLOBS = 4  # at a time


class Syncing:
    """Brings sets into the store."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        documents: Documents,
        blobs: Blobs,
        resolving: Resolving,
        attachments: Attachments,
        charts: Charts,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._documents = documents
        self._blobs = blobs
        self._resolving = resolving
        self._attachments = attachments
        self._charts = charts

    async def sync(
        self, wanted: WantedSet, *, referrers: bool | None, patience: float, progress: Progress, actor: str
    ) -> Synced:
        """Have all of the set, and keep the record of it.

        Args:
            wanted: the set.
            referrers: whether what is attached to it is wanted too, whatever it says; None: as it says.
            patience: seconds that may be waited for limits of upstreams.
            progress: is told how far it is.
            actor: who does it, as the kernel says.

        Raises:
            StoreUnavailable, LedgerUnavailable, LedgerDamaged: the record cannot be kept.
        """
        waiting = Waiting(patience, progress.waits, asyncio.get_running_loop().time)
        run = Run(wanted, waiting, progress, referrers=referrers)
        named = await names_of(wanted, run.waiting, self._resolving.tags)
        run.failed += named.failed
        run.remarks += named.remarks
        await self._resolve(run, named.asked, actor)
        await self._charts_of(run, actor)
        await self._documents_of(run)
        await self._attach(run)
        fetched = await self._fetch(run)
        await self._compare(run)
        run.tell_without(each.asked for each in run.resolved.values())
        return await self._keep(run, fetched, actor)

    # --- names --------------------------------------------------------------------------------------------------------

    async def _resolve(self, run: Run, asked: Sequence[Asked], actor: str) -> None:
        if not asked:
            return

        async def one(each: Asked) -> Resolved | None:
            registry = each.reference.repository.registry
            return await run.tried(registry, each.reference, lambda: self._resolving.resolve(each))

        found = [each for each in await run.each("names", asked, one) if each is not None]
        locked = [each.change for each in found if each.change is not None]
        if locked:
            why = f"locked in the set {run.wanted.name}"
            try:
                await self._ledger.change(EventKind.IMPORTED, locked, reason=why, actor=actor)
            except IarproxyError as error:
                for change in locked:
                    run.note(change.reference, error)
                found = [each for each in found if each.change is None]
        run.resolved.update((each.asked.reference, each) for each in found)
        run.remarks += [each.remark for each in found if each.remark]

    async def _charts_of(self, run: Run, actor: str) -> None:
        """Add the images that charts need."""

        async def one(each: Resolved) -> Chart | None:
            chart, platforms = each.asked.chart, run.wanted.platforms
            if chart is None:
                return None
            where = DigestReference(each.asked.reference.repository, each.descriptor.digest)
            rendering = partial(self._charts.images, where, str(chart), platforms, chart.values)
            return await run.tried(where.repository.registry, f"the images of the chart {chart}", rendering)

        charts = [each for each in run.resolved.values() if each.asked.chart is not None]
        found = [each for each in await run.each("charts", charts, one) if each is not None] if charts else []
        run.unresolved.update(string for each in found for string in each.unresolved)
        await self._resolve(run, run.join(each for chart in found for each in chart.asked), actor)

    # --- documents ----------------------------------------------------------------------------------------------------

    async def _documents_of(self, run: Run) -> None:
        async def one(each: Resolved) -> None:
            name = each.asked.reference
            found = await self._walk(run, name.repository, Root(each.descriptor, each.asked.platforms))
            run.tally.below[name] = frozenset(found.documents)

        await run.each("manifests", list(run.resolved.values()), one)

    async def _walk(self, run: Run, repository: Repository, root: Root) -> Closure:
        """Have the documents below `root`, and learn what they need."""

        async def load(descriptor: Descriptor) -> Manifest | None:
            reference = DigestReference(repository, descriptor.digest)
            asking = partial(self._documents.by_digest, reference, Purpose.BACKGROUND)
            manifest = await run.tried(repository.registry, reference, asking)
            if manifest is not None:
                run.learn(repository, manifest)
                run.compare(reference, manifest, root)
            return manifest

        try:
            found = await walk([root], load)
        except ManifestInvalid as error:
            run.note(DigestReference(repository, root.descriptor.digest), error)
            return Closure()
        run.add(found)
        return found

    async def _attach(self, run: Run) -> None:
        async def one(where: tuple[Repository, Root]) -> None:
            repository, root = where
            attached = await run.attached(repository, root, partial(self._attachments.of, repository, root))
            if attached is None:
                return
            run.attach(attached)
            for each in attached.attachments:
                found = await self._walk(run, repository, Root(each.descriptor))
                if each.reference.tag.subject is not None:
                    run.tally.about[repository, each.reference.tag.subject] |= run.tally.said_by(found.documents)

        named = [each for each in run.resolved.values() if not run.without(each.asked)]
        roots = {(each.asked.reference.repository, Root(each.descriptor, each.asked.platforms)): None for each in named}
        if roots:
            await run.each("attachments", list(roots), one)

    # --- blobs --------------------------------------------------------------------------------------------------------

    async def _fetch(self, run: Run) -> list[Descriptor]:
        """Fetch the blobs that are not held; those that had to be."""
        missing = [each for each in run.closure.blobs.values() if self._store.find(each.digest) is None]
        run.progress.planned(missing)

        async def one(blob: Descriptor) -> bool:
            try:
                return await self._blob(run, blob)
            finally:
                run.progress.finished(blob)

        fetched = await together(missing, one, at_a_time=_BLOBS)
        return [blob for blob, came in zip(missing, fetched, strict=True) if came]

    async def _blob(self, run: Run, blob: Descriptor) -> bool:
        """Fetch a blob from one of the repositories that name it."""
        error: IarproxyError | None = None
        for repository in run.whence[blob.digest]:
            try:
                return await run.waiting.run(repository.registry, partial(self._hold, run, repository, blob))
            except IarproxyError as failed:
                error = failed
        if error is not None:
            run.note(DigestReference(next(iter(run.whence[blob.digest])), blob.digest), error)
        return False

    async def _hold(self, run: Run, repository: Repository, blob: Descriptor) -> bool:
        def advanced(done: int) -> None:
            run.progress.advanced(blob, done)

        return await self._blobs.hold(repository, blob, advanced, Purpose.BACKGROUND)

    async def _compare(self, run: Run) -> None:
        """Say where what is wanted for some platforms is an image for another one; an index says so itself."""
        for name, each in run.resolved.items():
            config = await self._config(each) if each.asked.platforms else None
            if config is None or not config.platform:
                continue
            wanted = {str(replace(one, variant="")) for one in each.asked.platforms}
            if "/".join(config.platform.split("/")[:2]) not in wanted:
                asked = ", ".join(sorted(map(str, each.asked.platforms)))
                run.remarks.append(f"{name} is an image for {config.platform}, and {asked} is wanted; it is taken")

    async def _config(self, each: Resolved) -> ImageConfig | None:
        manifest = await self._documents.held(each.descriptor.digest)
        if manifest is None or manifest.config is None:
            return None
        raw = await self._store.read(manifest.config.digest, MAX_CONFIG)
        return None if raw is None else read_config(raw)

    # --- the record ---------------------------------------------------------------------------------------------------

    async def _keep(self, run: Run, fetched: list[Descriptor], actor: str) -> Synced:
        contents = run.closure.contents
        gone = {digest for digest in contents if self._store.find(digest) is None}
        if gone and not run.failed:  # otherwise it was said why
            for digest in gone:
                run.note(digest, UnknownBlob("it came, and it is not here any more"))
        record = SetRecord(
            run.wanted.name,
            run.wanted.definition,
            run.members(),
            tuple(run.attachments.values()),
            tuple(each.lacking for each in run.failed),
            tuple(run.unresolved),
        )
        kept = await self._keep_record(record, actor)
        return Synced(
            record,
            kept,
            pinned=tuple(reference for reference, each in run.resolved.items() if each.new),
            fetched=len(fetched),
            bytes=sum(blob.size for blob in fetched),
            held=sum(size for digest, size in contents.items() if digest not in gone),
            failed=tuple(run.failed),
            left_out=tuple(run.left_out),
            kinds=run.tally.counts() if record.referrers else None,
            remarks=tuple(run.remarks),
        )

    async def _keep_record(self, record: SetRecord, actor: str) -> Descriptor:
        raw = record.dump()
        kept = Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw))
        await self._store.put(kept.digest, raw)
        await self._ledger.sets.keep(record.name, kept, record.definition, complete=record.is_complete, actor=actor)
        return kept
