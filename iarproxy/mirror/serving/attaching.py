"""Keeping an artifact of ours: durable, and linked to its repository, so that every worker can hand it out.

Rule: its blobs come before its manifest. Nobody lists it until the ledger says that it is attached.
"""

from __future__ import annotations

from iarproxy.mirror.serving.access import Access
from iarproxy.oci import Descriptor, Digest, Repository, parse_manifest
from iarproxy.oci.artifact import Artifact
from iarproxy.store import Store


class Attaching:
    """Puts artifacts into the store."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    async def keep(self, repository: Repository, artifact: Artifact) -> Descriptor:
        """Have the artifact durable below `repository`; again is the same as once.

        Raises:
            StoreUnavailable: the disk does not take it.
            LedgerUnavailable: nobody can be told that the repository has it.
        """
        for blob in artifact.blobs:
            await self._store.put(Digest.of(blob), blob)
        descriptor = artifact.descriptor
        await self._store.put(descriptor.digest, artifact.manifest)
        await self._access.learn(repository, parse_manifest(artifact.manifest))
        return descriptor
