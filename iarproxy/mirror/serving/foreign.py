"""Blobs of a repository from wherever they may be had: from upstream, else, as foreign layers, from another host.

Rule 1: upstream is asked first; only its "there is none" leads on.
Rule 2: where else a layer is, a manifest says that this repository served: known to all workers from when it was
        served, and after a restart read again from what is pinned in the repository.
Rule 3: that a manifest names a digest gives no right to it where links decide (threats T53): there the bytes are
        fetched from the named host for this very answer, and what was fetched so is linked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from iarproxy.errors import IarproxyError, UnknownBlob
from iarproxy.inflight import InFlight
from iarproxy.ledger import Ledger
from iarproxy.mirror.serving.documents import Documents
from iarproxy.oci import Digest, Manifest, Repository, Tag, TagReference
from iarproxy.oci.foreign import Foreign, foreign_layers
from iarproxy.store import Fetch, Transfer
from iarproxy.upstream import Upstreams

_LOOK_AGAIN = 60.0  # seconds between two readings of what a repository has pinned
_REPOSITORIES = 1024
_MAX_TAGS = 64
_MAX_MANIFESTS = 256


class ForeignBlobs:
    """Fetches blobs, foreign layers too."""

    def __init__(self, ledger: Ledger, upstreams: Upstreams, documents: Documents) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._looked: OrderedDict[Repository, float] = OrderedDict()
        self._looking: InFlight[Repository, None] = InFlight()

    async def close(self) -> None:
        """End what is under way."""
        await self._looking.close()

    async def find(self, repository: Repository, digest: Digest) -> Foreign | None:
        """What a manifest of the repository says of a foreign layer; None: none names it so, or nobody is asked."""
        if self._upstreams.is_offline:
            return None
        layers = self._upstreams[repository.registry].foreign
        told = await layers.told(repository.name, digest)
        if told is None:
            await self._looking.once(repository, lambda: self._look(repository))
            told = await layers.told(repository.name, digest)
        return told

    def fetch(self, repository: Repository, digest: Digest) -> Fetch:
        """From upstream, else from where a manifest says that the layer is."""

        @asynccontextmanager
        async def begin(offset: int) -> AsyncIterator[Transfer]:
            async with AsyncExitStack() as stack:
                transfer: Transfer
                try:
                    transfer = await stack.enter_async_context(
                        self._upstreams[repository.registry].blob(repository.name, digest, offset)
                    )
                except UnknownBlob:
                    layer = await self.find(repository, digest)
                    if layer is None:
                        raise
                    transfer = await stack.enter_async_context(self.fetch_elsewhere(repository, layer)(offset))
                yield transfer

        return begin

    def fetch_elsewhere(self, repository: Repository, layer: Foreign) -> Fetch:
        """From where its manifest says that it is; upstream is not asked."""
        layers = self._upstreams[repository.registry].foreign
        return lambda offset: layers.blob(layer, offset)

    async def _look(self, repository: Repository) -> None:
        """Learn what the pinned manifests of the repository say, unless that was done a moment ago."""
        now = asyncio.get_running_loop().time()
        if now < self._looked.get(repository, now):
            return
        layers = self._upstreams[repository.registry].foreign
        async for manifest in self._pinned(repository):
            if manifest.foreign:
                await layers.learn(repository.name, foreign_layers(manifest))
        self._looked[repository] = now + _LOOK_AGAIN
        self._looked.move_to_end(repository)
        while len(self._looked) > _REPOSITORIES:
            self._looked.popitem(last=False)

    async def _pinned(self, repository: Repository) -> AsyncIterator[Manifest]:
        """The held manifests below the pinned tags, at most `_MAX_MANIFESTS`."""
        ahead: deque[Digest] = deque()
        for tag in (await self._ledger.tags_of(repository))[:_MAX_TAGS]:
            pin = await self._ledger.pin_of(TagReference(repository, Tag(tag)))
            if pin is not None:
                ahead.append(pin.descriptor.digest)
        seen: set[Digest] = set()
        while ahead and len(seen) < _MAX_MANIFESTS:
            digest = ahead.popleft()
            if digest in seen:
                continue
            seen.add(digest)
            with suppress(IarproxyError):
                manifest = await self._documents.held(digest)
                if manifest is not None:
                    ahead += [child.descriptor.digest for child in manifest.children]
                    yield manifest
