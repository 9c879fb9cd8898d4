"""Small blobs of this worker in memory: verified bytes, from which an answer is made without a file.

Rule 1: what is kept was hashed when it was read; memory is never older than the digest that names it.
Rule 2: a blob is kept when it is asked for again, so that one pass over many blobs drives out nothing.
Rule 3: bounded: `capacity` bytes of blobs, and as many digests that were asked for once; the least recent leave first.
"""

from __future__ import annotations

from collections import OrderedDict

from iarproxy.oci import Digest

SMALL = 64 * 1024  # bytes of the largest blob that is kept
_CAPACITY = 32 * 2**20
_ONCE = 10_000


class SmallBlobs:
    """At most `capacity` bytes of blobs."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._blobs: OrderedDict[Digest, bytes] = OrderedDict()
        self._bytes = 0
        self._once: OrderedDict[Digest, None] = OrderedDict()

    def get(self, digest: Digest) -> bytes | None:
        """The blob's bytes, where they are kept."""
        found = self._blobs.get(digest)
        if found is not None:
            self._blobs.move_to_end(digest)
        return found

    def is_wanted(self, digest: Digest, size: int) -> bool:
        """Whether a blob that is asked for now should be kept: it is small and was asked for before."""
        if size > SMALL:
            return False
        if digest in self._once:
            del self._once[digest]
            return True
        self._once[digest] = None
        if len(self._once) > _ONCE:
            self._once.popitem(last=False)
        return False

    def keep(self, digest: Digest, raw: bytes) -> None:
        """Keep verified bytes."""
        if digest not in self._blobs:
            self._blobs[digest] = raw
            self._bytes += len(raw)
        while self._bytes > self._capacity:
            _, oldest = self._blobs.popitem(last=False)
            self._bytes -= len(oldest)
