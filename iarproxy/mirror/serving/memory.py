"""Verified manifests of this worker in memory, and the sizes of blobs that they tell. Both bounded.

Rule: a size is what a manifest of the same repository said, and a media type that the document itself does not tell is
      what the same repository's upstream said. Another repository's publisher may write anything.
"""

from __future__ import annotations

from collections import OrderedDict

from iarproxy.oci import Digest, Manifest, Repository

_MANIFEST_BYTES = 64 * 2**20
_EACH = 1500  # bytes that remembering a manifest takes beside its document
_NAMED = 300  # bytes for each descriptor in it, parsed
_SIZES = 50_000  # of 500 bytes each


class ManifestMemory:
    """Parsed manifests by digest: at most 64 MiB with all that they take, the least recently used leave first."""

    def __init__(self) -> None:
        self._manifests: OrderedDict[tuple[Repository | None, Digest], Manifest] = OrderedDict()
        self._bytes = 0
        self._sizes: OrderedDict[tuple[Repository, Digest], int] = OrderedDict()

    def get(self, digest: Digest, repository: Repository | None = None) -> Manifest | None:
        """The manifest, if it is in memory: as `repository` serves it, else as its document reads by itself."""
        for key in dict.fromkeys(((repository, digest), (None, digest))):
            found = self._manifests.get(key)
            if found is not None:
                self._manifests.move_to_end(key)
                return found
        return None

    def keep(self, manifest: Manifest, repository: Repository | None = None) -> Manifest:
        """Remember a verified manifest; `repository` is who claims its media type, where the document does not."""
        key = (repository if manifest.claimed else None, manifest.descriptor.digest)
        if key not in self._manifests:
            self._manifests[key] = manifest
            self._bytes += _weight(manifest)
        while self._bytes > _MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._bytes -= _weight(oldest)
        return manifest

    def learn(self, repository: Repository, manifest: Manifest) -> Manifest:
        """Remember what a manifest that `repository` serves says of its blobs' sizes; the manifest too."""
        for blob in manifest.blobs:
            self._sizes[repository, blob.digest] = blob.size
        while len(self._sizes) > _SIZES:
            self._sizes.popitem(last=False)
        return self.keep(manifest, repository)

    def size_of(self, repository: Repository, digest: Digest) -> int | None:
        """The size in bytes that a manifest of the repository told for a blob; None: none did."""
        return self._sizes.get((repository, digest))


def _weight(manifest: Manifest) -> int:
    """Bytes of memory, about: small documents take several times their size."""
    return _EACH + manifest.descriptor.size + _NAMED * (1 + len(manifest.layers) + len(manifest.children))
