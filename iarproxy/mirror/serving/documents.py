"""Manifests by digest: from memory, from the store, else from upstream, verified each time.

Rule 1: what is admitted is verified, durable and linked to its repository before anybody is answered with it.
Rule 2: one read and one upstream request per manifest in this worker, however many ask; held ones wait for no upstream.
Rule 3: parsing a large document never holds up the loop (threats T78).
Rule 4: `peek` and `by_digest` give nothing that is recalled or contains what is; `held` and `admit` keep evidence of
        all there is, and what they give is answered to nobody before `recalling` was asked.
"""

from __future__ import annotations

import asyncio

import structlog

from iarproxy.errors import ManifestInvalid, StoreUnavailable, Unavailable, UnknownManifest, UpstreamWrong
from iarproxy.inflight import InFlight
from iarproxy.ledger import Recalls
from iarproxy.mirror.recall.recalling import Recalling, may_be_manifest
from iarproxy.mirror.serving.access import Access
from iarproxy.mirror.serving.memory import ManifestMemory
from iarproxy.oci import MAX_MANIFEST, Digest, DigestReference, Manifest, Reference, Repository, parse_manifest
from iarproxy.oci.foreign import foreign_layers
from iarproxy.store import Store
from iarproxy.upstream import FetchedManifest, Purpose, Upstreams

log = structlog.get_logger("iarproxy.mirror")

_SMALL = 256 * 1024  # bytes of a manifest that is read at once
_PATIENCE = 10.0  # seconds that a larger one waits for its turn


class Documents:
    """Verified manifests of one worker.

    Attributes:
        recalling: which content is denied.
    """

    def __init__(
        self, store: Store, upstreams: Upstreams, access: Access, memory: ManifestMemory, recalls: Recalls
    ) -> None:
        self.recalling = Recalling(recalls, self._looked_into)
        self._store = store
        self._upstreams = upstreams
        self._access = access
        self._memory = memory
        self._fetching: InFlight[Reference, Manifest] = InFlight(group=upstream_of)
        self._reading: InFlight[Digest, Manifest | None] = InFlight()
        self._large = asyncio.Semaphore(1)

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._fetching.close()
        await self._reading.close()

    def peek(self, repository: Repository, digest: Digest) -> Manifest | None:
        """The manifest, where memory alone tells that the repository may serve it; neither waits nor does I/O."""
        if not self._access.is_known(repository, digest) or not self.recalling.is_clear(digest):
            return None
        return self._memory.get(digest, repository)

    def is_held(self, repository: Repository, digest: Digest) -> bool:
        """Whether `by_digest` would ask nobody for its bytes."""
        return self._memory.get(digest, repository) is not None or self._store.find(digest) is not None

    async def by_digest(self, reference: DigestReference, purpose: Purpose = Purpose.CLIENT) -> Manifest:
        """The manifest with that digest: from memory, from the store, else from upstream, verified each time.

        Raises:
            Recalled: it is denied.
            UpstreamHeld: it would have to be fetched, and what is left of upstream's quota is not for `purpose`.
        """
        self.recalling.insist(reference.digest)
        manifest = await self._found(reference, purpose)
        await self.recalling.require(reference.digest, manifest)
        return manifest

    async def _found(self, reference: DigestReference, purpose: Purpose) -> Manifest:
        await self._access.require(reference.repository, reference.digest)
        digest, repository = reference.digest, reference.repository
        found = self._memory.get(digest, repository)
        if found is not None:
            await self._tell_foreign(repository, found)
            return found
        if self._store.find(digest) is not None:
            found = await self._reading.once(digest, lambda: self.held(digest))
        if found is not None:
            await self._tell_foreign(repository, found)
            return self._memory.learn(repository, found)
        # Before the common fetch, not in it: clients who wait for the same manifest may spend.
        await self._upstreams[repository.registry].require(purpose)
        return await self._fetching.once(reference, lambda: self._fetch(reference))

    async def held(self, digest: Digest) -> Manifest | None:
        """The manifest if we hold it; nobody is asked."""
        found = self._memory.get(digest)
        if found is not None:
            return found
        raw = await self._store.read(digest, MAX_MANIFEST)
        if raw is None:
            return None
        try:
            return self._memory.keep(await self._parsed(raw, "", digest))
        except ManifestInvalid as error:
            raise UnknownManifest(f"{digest} is held, but it is no manifest: {error}") from error

    async def _looked_into(self, digest: Digest) -> Manifest | None:
        """As `held`, for whoever looks for recalled content: what is plainly no manifest is not read."""
        found = self._memory.get(digest)
        blob = self._store.find(digest) if found is None else None
        if blob is None:
            return found
        if not may_be_manifest(blob):
            raise UnknownManifest(f"{digest} is held, but it is no manifest")
        return await self._reading.once(digest, lambda: self.held(digest))

    async def _fetch(self, reference: DigestReference) -> Manifest:
        upstream = self._upstreams[reference.repository.registry]
        fetched = await upstream.manifest(reference.repository.name, reference.digest)
        try:
            return await self.admit(reference.repository, fetched, reference.digest)
        except StoreUnavailable as error:
            # Its name is its digest: verified bytes may be answered although there is no room to keep them.
            log.warning("manifest not kept", reference=str(reference), reason=str(error))
            verified = await self._verified(reference.repository, fetched, reference.digest)
            return self._memory.learn(reference.repository, verified)

    async def _verified(self, repository: Repository, fetched: FetchedManifest, digest: Digest | None) -> Manifest:
        try:
            return await self._parsed(fetched.raw, fetched.media_type, digest)
        except ManifestInvalid as error:
            raise UpstreamWrong(
                f"{repository.registry} sent no acceptable manifest for {repository.name}: {error}; nothing is kept",
                upstream=repository.registry,
            ) from error

    async def _parsed(self, raw: bytes, claimed: str, digest: Digest | None) -> Manifest:
        """As `parse_manifest`. Those that take a tenth of a second are read beside the loop, one at a time (T78)."""
        if len(raw) <= _SMALL:
            return parse_manifest(raw, claimed, digest)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._large.acquire()
        except TimeoutError:
            raise Unavailable("too many large manifests arrive at once; ask again in a moment", retry_after=5) from None
        try:
            return await asyncio.to_thread(parse_manifest, raw, claimed, digest)
        finally:
            self._large.release()

    async def admit(self, repository: Repository, fetched: FetchedManifest, digest: Digest | None = None) -> Manifest:
        """Verify what upstream sent, make it durable, link it to the repository.

        Raises:
            UpstreamWrong: the bytes are no acceptable manifest, or not the one that was asked for.
            StoreUnavailable: they cannot be made durable.
        """
        manifest = await self._verified(repository, fetched, digest)
        await self._store.put(manifest.descriptor.digest, manifest.raw)
        await self._access.learn(repository, manifest)
        await self._tell_foreign(repository, manifest)
        return self._memory.learn(repository, manifest)

    async def _tell_foreign(self, repository: Repository, manifest: Manifest) -> None:
        """Have it known where else layers are that upstream may not have."""
        if manifest.foreign:
            await self._upstreams[repository.registry].foreign.learn(repository.name, foreign_layers(manifest))


def upstream_of(reference: Reference) -> str:
    """Whose requests a reference's are: what one upstream holds up, others do not wait for."""
    return reference.repository.registry
