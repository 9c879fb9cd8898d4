"""Blobs: from the store, from an ingest that everybody follows, else relayed.

Rule 1: a held blob is answered without asking anybody.
Rule 2: one upstream transfer per digest; the store elects who does it (design invariant 6).
Rule 3: no room is no reason to refuse: the blob is relayed, verified, and not kept.
Rule 4: what is recalled is not given, not fetched, and not fetched to its end; nor is a manifest that contains it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from iarproxy.errors import (
    Recalled,
    Refused,
    StoreFull,
    StoreUnavailable,
    UnknownBlob,
    UnknownManifest,
    UpstreamUnavailable,
)
from iarproxy.mirror.serving.access import Access
from iarproxy.mirror.serving.answers import BlobBody, HeldBlob
from iarproxy.mirror.serving.bodies import CachedBody, GrowingBody, MemoryBody, ProvenBody, RelayedBody
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.foreign import ForeignBlobs
from iarproxy.mirror.serving.memory import ManifestMemory
from iarproxy.mirror.serving.small import SMALL, SmallBlobs
from iarproxy.oci import Descriptor, Digest, DigestReference, Repository
from iarproxy.store import Fetch, Store
from iarproxy.upstream import Purpose, Upstreams

log = structlog.get_logger("iarproxy.mirror")


class Blobs:
    """Opens blobs for sending, and brings them into the store."""

    def __init__(
        self,
        store: Store,
        upstreams: Upstreams,
        access: Access,
        memory: ManifestMemory,
        *,
        documents: Documents,
        foreign: ForeignBlobs,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._access = access
        self._memory = memory
        self._documents = documents
        self._recalling = documents.recalling
        self._foreign = foreign
        self._small = SmallBlobs()

    def peek(self, repository: Repository, digest: Digest) -> HeldBlob | None:
        """The blob, where it is held, it is certain that the repository may serve it, and nobody has to be waited for.

        A small one is peeked from memory only: `open` brings it there.
        """
        if not self._access.is_known(repository, digest) or not self._recalling.is_lasting(digest):
            return None
        raw = self._small.get(digest)
        if raw is not None:
            return HeldBlob(len(raw), raw, _no_file)
        found = self._store.find(digest)
        return None if found is None or found.size <= SMALL else HeldBlob(found.size, None, found.open)

    @asynccontextmanager
    async def open(self, repository: Repository, digest: Digest) -> AsyncIterator[BlobBody]:
        """The blob, ready to be sent.

        Raises:
            UnknownBlob, Denied: the repository has no such blob, or may not serve it; `Recalled`: nobody may.
            Unavailable: it is not held and upstream cannot be had.
        """
        self._recalling.insist(digest)
        try:
            await self._require(repository, digest)
        except UnknownBlob as error:
            body = await self._unlinked(repository, digest, error)
        else:
            await self._recalling.require(digest)
            body = await self._held(digest) or await self._arriving(repository, digest)
        try:
            await body.__aenter__()
        except StoreFull as error:
            log.warning("blob relayed, not kept", repository=str(repository), digest=str(digest), reason=str(error))
            body = await self._relayed(repository, digest)
        except UnknownBlob as error:
            body = await self._manifest_as_blob(repository, digest, error)
        try:
            yield body
        finally:
            await body.__aexit__()

    async def size(self, repository: Repository, digest: Digest) -> int:
        """The blob's size in bytes, for HEAD: held, known from a manifest, else asked of upstream."""
        self._recalling.insist(digest)
        try:
            await self._require(repository, digest)
            await self._recalling.require(digest)
            held = self._store.find(digest)
            if held is not None:
                return held.size
            told = await self._upstreams[repository.registry].blob_size(repository.name, digest)
        except UnknownBlob:
            layer = await self._foreign.find(repository, digest)
            if layer is None:
                raise
            self._upstreams[repository.registry].foreign.allowed(layer)
            return layer.size
        size = told if told is not None else self._memory.size_of(repository, digest)
        if size is None:
            raise UpstreamUnavailable(f"{repository.registry} does not tell the size of {digest}; GET it instead")
        return size

    async def hold(
        self,
        repository: Repository,
        descriptor: Descriptor,
        advanced: Callable[[int], None] = lambda _: None,
        purpose: Purpose = Purpose.CLIENT,
    ) -> bool:
        """Bring the blob into the store; True when it had to be fetched. `advanced` is told the bytes at hand.

        Raises:
            StoreUnavailable: there is no room for it, or the disk fails.
            Refused, Unavailable: upstream does not give it, or what is left of its quota is not for `purpose`.
        """
        self._recalling.insist(descriptor.digest)
        if self._store.find(descriptor.digest) is not None:
            return False
        await self._require(repository, descriptor.digest)
        await self._upstreams[repository.registry].require(purpose)
        await self._insist_on_upstream(repository, descriptor.digest)
        fetch = self._fetch(repository, descriptor.digest)
        async with self._store.follow(descriptor.digest, descriptor.size, fetch, repository) as following:
            position = 0
            while position < following.size:
                position = await following.readable(position)
                self._recalling.insist(descriptor.digest)
                advanced(position)
            if not await following.kept():
                raise StoreUnavailable(f"{descriptor.digest} arrived, but the disk did not keep it; see the log")
        return True

    async def small(self, repository: Repository, descriptor: Descriptor) -> bytes:
        """The whole of a blob that is known to be small, such as a config; fetched and kept where it is missing."""
        await self.hold(repository, descriptor)
        raw = await self._store.read(descriptor.digest, descriptor.size)
        if raw is None:
            raise UnknownBlob(f"{descriptor.digest} was held and is gone")
        return raw

    async def _require(self, repository: Repository, digest: Digest) -> None:
        try:
            await self._access.require(repository, digest)
        except UnknownManifest as error:  # it was looked for as a manifest too, which nobody had asked for
            raise UnknownBlob(f"{repository} has no blob {digest}", upstream=repository.registry) from error

    async def _held(self, digest: Digest) -> BlobBody | None:
        raw = self._small.get(digest)
        found = self._store.find(digest) if raw is None else None
        if found is not None and self._small.is_wanted(digest, found.size):
            raw = await self._store.read(digest, SMALL)
            found = None  # damaged bytes are in quarantine now, and are fetched anew
            if raw is not None:
                self._small.keep(digest, raw)
        if raw is not None:
            return MemoryBody(raw)
        return None if found is None else CachedBody(found)

    async def _arriving(self, repository: Repository, digest: Digest) -> BlobBody:
        await self._insist_on_upstream(repository, digest)
        return self._growing(repository, digest)

    async def _insist_on_upstream(self, repository: Repository, digest: Digest) -> None:
        """Begin no ingest for what will never come. Raises `Offline`."""
        if self._upstreams.is_offline:
            await self._upstreams[repository.registry].blob_size(repository.name, digest)

    def _growing(self, repository: Repository, digest: Digest) -> BlobBody:
        size = self._memory.size_of(repository, digest)
        fetch = self._fetch(repository, digest)
        following = self._store.follow(digest, size, fetch, repository)
        return GrowingBody(following, digest, fetch, lambda: self._recalling.insist(digest))

    async def _relayed(self, repository: Repository, digest: Digest) -> BlobBody:
        size = self._memory.size_of(repository, digest)
        if size is None:
            size = await self.size(repository, digest)
        body = RelayedBody(digest, size, self._fetch(repository, digest))
        return await body.__aenter__()

    async def _manifest_as_blob(self, repository: Repository, digest: Digest, error: UnknownBlob) -> BlobBody:
        """Some clients ask for a manifest below /blobs/ (containerd's FetchByDigest)."""
        try:
            await self._documents.by_digest(DigestReference(repository, digest))
        except Recalled:
            raise
        except Refused:
            raise error from None
        held = await self._held(digest)
        if held is None:
            raise error
        return await held.__aenter__()

    def _fetch(self, repository: Repository, digest: Digest) -> Fetch:
        return self._recalling.guarded(digest, self._foreign.fetch(repository, digest))

    async def _unlinked(self, repository: Repository, digest: Digest, error: UnknownBlob) -> BlobBody:
        """A foreign layer that no link allows: whatever is held of it, the bytes come from where its manifest says."""
        layer = await self._foreign.find(repository, digest)
        if layer is None:
            raise error
        self._upstreams[repository.registry].foreign.allowed(layer)
        fetch = self._recalling.guarded(digest, self._foreign.fetch_elsewhere(repository, layer))
        return ProvenBody(digest, layer.size, fetch, lambda: self._access.vouch(repository, digest))


def _no_file() -> int:
    raise StoreUnavailable("this blob was answered from memory and has no file")
