"""How much of a pin's content we hold, and bringing in what is missing (design invariant 13).

Rule 1: a pin promises bytes, not a name: config and child manifests are fetched in the background after the first pin.
Rule 2: when upstream moves or loses the tag, what the configured platforms lack is fetched at once, by digest.
Rule 3: `held` speaks of the configured platforms; where an index has none of them, of all its children.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum

import structlog

from iarproxy.errors import IarproxyError, Unavailable, UnknownManifest
from iarproxy.ledger import Pin
from iarproxy.mirror.blobs import Blobs
from iarproxy.mirror.manifests import Manifests
from iarproxy.oci import Child, Descriptor, Digest, DigestReference, Manifest, Platform, Repository
from iarproxy.store import Store

log = structlog.get_logger("iarproxy.mirror")

_MAX_DEPTH = 4  # indexes inside indexes (threats T44)
_PARALLEL = 3


class Held(StrEnum):
    """How much of a pinned tag would be served with upstream gone."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    NONE = "none"


def wanted_children(manifest: Manifest, platforms: Sequence[Platform]) -> tuple[Child, ...]:
    """The children for any of `platforms`; all of them where none fits, or where `platforms` is empty."""
    fitting = [child for child in manifest.children if child.platform and any(map(child.platform.serves, platforms))]
    return tuple(fitting) or manifest.children


class Holding:
    """Looks at and completes what is held of a manifest."""

    def __init__(self, store: Store, manifests: Manifests, blobs: Blobs, platforms: Sequence[Platform]) -> None:
        self._store = store
        self._manifests = manifests
        self._blobs = blobs
        self._platforms = tuple(platforms)
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End background fetches; what they had is kept for the next."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def settle(self) -> None:
        """Wait for what was started: a process that ends would otherwise leave the promise to nobody."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def start(self, pin: Pin, *, layers: bool) -> None:
        """Complete a pin in the background: its config and child manifests, and with `layers` all its bytes."""
        task = asyncio.create_task(self._complete_quietly(pin, layers=layers), name=f"hold {pin.reference}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def of(self, digest: Digest) -> Held:
        """How much of the manifest `digest`, with all that it names, is in the store."""
        if self._store.find(digest) is None:
            return Held.NONE
        async for present in self._presence(digest, _MAX_DEPTH):
            if not present:
                return Held.PARTIAL
        return Held.COMPLETE

    async def _presence(self, digest: Digest, depth: int) -> AsyncIterator[bool]:
        with suppress(UnknownManifest):
            manifest = await self._manifests.held(digest)
            yield manifest is not None
            if manifest is None or depth == 0:
                return
            for blob in manifest.blobs:
                yield self._store.find(blob.digest) is not None
            for child in wanted_children(manifest, self._platforms):
                async for present in self._presence(child.descriptor.digest, depth - 1):
                    yield present

    async def missing(
        self, repository: Repository, digest: Digest, platforms: Sequence[Platform] | None = None
    ) -> list[Descriptor]:
        """The blobs that a pull of the manifest would still have to fetch; child manifests are fetched on the way."""
        found: dict[Digest, Descriptor] = {}
        chosen = self._platforms if platforms is None else platforms
        async for manifest in self._tree(repository, digest, chosen, _MAX_DEPTH):
            found |= {blob.digest: blob for blob in manifest.blobs}
        return [blob for blob in found.values() if self._store.find(blob.digest) is None]

    async def _tree(
        self, repository: Repository, digest: Digest, platforms: Sequence[Platform], depth: int
    ) -> AsyncIterator[Manifest]:
        manifest = await self._manifests.by_digest(DigestReference(repository, digest))
        yield manifest
        if depth == 0:
            return
        for child in wanted_children(manifest, platforms):
            async for inner in self._tree(repository, child.descriptor.digest, platforms, depth - 1):
                yield inner

    async def _complete_quietly(self, pin: Pin, *, layers: bool) -> None:
        try:
            await self._complete(pin, layers=layers)
        except IarproxyError as error:
            log.warning("pin not complete", reference=str(pin.reference), reason=str(error))

    async def _complete(self, pin: Pin, *, layers: bool) -> None:
        repository, configs = pin.reference.repository, []
        wanted: Iterable[Descriptor]
        async for manifest in self._tree(repository, pin.descriptor.digest, self._platforms, _MAX_DEPTH):
            configs += [manifest.config] if manifest.config else []
        wanted = await self.missing(repository, pin.descriptor.digest) if layers else configs
        gate = asyncio.Semaphore(_PARALLEL)

        async def fetch(blob: Descriptor) -> None:
            async with gate:
                await self._blobs.hold(repository, blob)

        results = await asyncio.gather(*map(fetch, wanted), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            raise Unavailable(f"{len(failed)} of {len(results)} blobs not fetched: {failed[0]}")
