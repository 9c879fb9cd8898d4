"""How much of a pin's content we hold, and bringing in what is missing (design invariant 13).

Rule 1: a pin promises bytes, not a name: config and child manifests are fetched in the background after the first pin.
Rule 2: when upstream moves or loses the tag, what the configured platforms lack is fetched at once, by digest.
Rule 3: `held` speaks of the configured platforms; where an index has none of them, of all its children.
Rule 4: what is fetched ahead leaves the last of upstream's quota to clients; what would be lost is fetched anyway.
Rule 5: an index is upstream's word. Each manifest is looked at once, however often it is listed, so that indexes which
        list each other ten thousand times hold up nobody; and what one pin may fetch unasked is bounded (threats T44).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum

import structlog

from iarproxy.errors import IarproxyError, ManifestInvalid, Unavailable, UnknownManifest
from iarproxy.ledger import Pin
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.oci import Child, Descriptor, Digest, DigestReference, Manifest, Platform, Repository
from iarproxy.store import Store
from iarproxy.upstream import Purpose

log = structlog.get_logger("iarproxy.mirror")

_MAX_DEPTH = 4  # indexes inside indexes (threats T44)
_MAX_MANIFESTS = 256  # below one tag; each may cost a request of upstream's quota
_MAX_DOCUMENTS = 32 * 2**20  # bytes of all of them
_MAX_CONFIG = 16 * 2**20  # bytes of a config that nobody asked for yet
_PARALLEL = 3  # blobs of one pin
_AT_A_TIME = 4  # pins of one upstream
_WAITING = 1000  # first pins whose rest waits to be fetched; of more, clients fetch it


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

    def __init__(self, store: Store, documents: Documents, blobs: Blobs, platforms: Sequence[Platform]) -> None:
        self._store = store
        self._documents = documents
        self._blobs = blobs
        self._platforms = tuple(platforms)
        self._background: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_A_TIME))

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
        if not layers and len(self._background) >= _WAITING:
            log.warning("pin not complete", reference=str(pin.reference), reason="too many pins wait already")
            return
        task = asyncio.create_task(self._complete_quietly(pin, layers=layers), name=f"hold {pin.reference}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def of(self, digest: Digest) -> Held:
        """How much of the manifest `digest`, with all that it names, is in the store."""
        if self._store.find(digest) is None:
            return Held.NONE
        try:
            async for manifest in _walk(digest, self._platforms, self._documents.held):
                if manifest is None or any(self._store.find(blob.digest) is None for blob in manifest.blobs):
                    return Held.PARTIAL
        except (ManifestInvalid, UnknownManifest):
            return Held.PARTIAL
        return Held.COMPLETE

    async def missing(
        self, repository: Repository, digest: Digest, platforms: Sequence[Platform] | None = None
    ) -> list[Descriptor]:
        """The blobs that a pull of the manifest would still have to fetch; child manifests are fetched on the way.

        Raises:
            ManifestInvalid: it lists more than is looked at. Refused, Unavailable: as for a client.
        """
        found: dict[Digest, Descriptor] = {}
        chosen = self._platforms if platforms is None else platforms
        async for manifest in self._tree(repository, digest, chosen, Purpose.CLIENT):
            found |= {blob.digest: blob for blob in manifest.blobs}
        return [blob for blob in found.values() if self._store.find(blob.digest) is None]

    async def complete(self, repository: Repository, digest: Digest) -> None:
        """Bring in, by digest, all that the configured platforms lack of a manifest, for a person who waits.

        Raises:
            ManifestInvalid: it lists more than is looked at.
            Refused, Unavailable: some of it cannot be had.
        """
        await self._fetch(repository, await self.missing(repository, digest), Purpose.PERSON)

    async def _tree(
        self, repository: Repository, digest: Digest, platforms: Sequence[Platform], purpose: Purpose
    ) -> AsyncIterator[Manifest]:
        async def load(each: Digest) -> Manifest:
            return await self._documents.by_digest(DigestReference(repository, each), purpose)

        async for manifest in _walk(digest, platforms, load):
            if manifest is not None:
                yield manifest

    async def _complete_quietly(self, pin: Pin, *, layers: bool) -> None:
        try:
            async with self._turns[pin.reference.repository.registry]:
                await self._complete(pin, layers=layers)
        except IarproxyError as error:
            log.warning("pin not complete", reference=str(pin.reference), reason=str(error))

    async def _complete(self, pin: Pin, *, layers: bool) -> None:
        repository, digest = pin.reference.repository, pin.descriptor.digest
        purpose = Purpose.CLIENT if layers else Purpose.BACKGROUND
        if layers:
            wanted = await self.missing(repository, digest)
        else:
            tree = self._tree(repository, digest, self._platforms, purpose)
            configs = [manifest.config async for manifest in tree]
            wanted = [config for config in configs if config and config.size <= _MAX_CONFIG]
        await self._fetch(repository, wanted, purpose)

    async def _fetch(self, repository: Repository, wanted: Sequence[Descriptor], purpose: Purpose) -> None:
        gate = asyncio.Semaphore(_PARALLEL)

        async def fetch(blob: Descriptor) -> None:
            async with gate:
                await self._blobs.hold(repository, blob, purpose=purpose)

        results = await asyncio.gather(*map(fetch, wanted), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            raise Unavailable(f"{len(failed)} of {len(results)} blobs not fetched: {failed[0]}")


async def _walk(
    digest: Digest, platforms: Sequence[Platform], load: Callable[[Digest], Awaitable[Manifest | None]]
) -> AsyncIterator[Manifest | None]:
    """The manifest and those below it that `platforms` want, each once; None for one that `load` does not have.

    Raises:
        ManifestInvalid: there are too many of them. Else what `load` raises.
    """
    ahead, seen, size = deque([(digest, 0)]), {digest}, 0
    while ahead:
        current, depth = ahead.popleft()
        manifest = await load(current)
        yield manifest
        if manifest is None or depth == _MAX_DEPTH:
            continue
        size += manifest.descriptor.size
        children = {child.descriptor.digest: None for child in wanted_children(manifest, platforms)}
        ahead += [(child, depth + 1) for child in children if child not in seen]
        seen |= children.keys()
        if len(seen) > _MAX_MANIFESTS or size > _MAX_DOCUMENTS:
            raise ManifestInvalid(
                f"{digest} lists over {_MAX_MANIFESTS} manifests or {_MAX_DOCUMENTS} bytes of them; name a platform"
            )
