"""What the store holds, as those who walk closures ask for it: documents that were checked, and sizes of blobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, parse_manifest
from iarproxy.store import Store

Load: TypeAlias = Callable[[Descriptor], Awaitable[Manifest | None]]


def load_from(store: Store) -> Load:
    """Documents of the store, checked."""

    async def load(descriptor: Descriptor) -> Manifest | None:
        raw = await store.read(descriptor.digest, MAX_MANIFEST)
        return None if raw is None else parse_manifest(raw, descriptor.media_type, descriptor.digest)

    return load


def size_in(store: Store) -> Callable[[Digest], int | None]:
    """The sizes of held blobs, in bytes."""

    def size(digest: Digest) -> int | None:
        found = store.find(digest)
        return None if found is None else found.size

    return size
