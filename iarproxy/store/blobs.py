"""Blobs under their final names: find, open, read and judge them.

Rule 1: finding is one stat and takes no lock; what has a final name was verified and durable (design invariant 1).
Rule 2: an empty, missing or irregular file is no blob, unless the digest is that of no bytes (R26).
Rule 3: small content is hashed again on each read; what disagrees goes to quarantine and counts as missing.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from iarproxy.errors import StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.store.disk import translated
from iarproxy.store.layout import Layout

_EMPTY: Final = frozenset({Digest.of(b"", "sha256"), Digest.of(b"", "sha512")})
_SLICE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob under its final name. `size` is in bytes."""

    digest: Digest
    size: int
    path: str = field(repr=False)

    def open(self) -> int:
        """A read-only descriptor, which the caller closes.

        Raises:
            StoreUnavailable: the file is gone, unreadable, or no longer of its size.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise translated(error, f"opening blob {self.digest.short}") from error
        if os.fstat(fd).st_size != self.size:
            os.close(fd)
            raise StoreUnavailable(f"blob {self.digest.short} changed its size; ask again", digest=str(self.digest))
        return fd


def find(layout: Layout, digest: Digest) -> StoredBlob | None:
    """The blob that `digest` names; None: not held."""
    path = layout.blob(digest)
    try:
        found = os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise translated(error, f"looking for blob {digest.short}") from error
    if not stat.S_ISREG(found.st_mode) or (found.st_size == 0 and digest not in _EMPTY):
        return None
    return StoredBlob(digest, found.st_size, path)


def is_sound(blob: StoredBlob) -> bool:
    """Whether the file's bytes are what its digest names; False too where the disk cannot read them. Blocking."""
    hasher = blob.digest.hasher()
    try:
        with os.fdopen(blob.open(), "rb", buffering=0) as file:
            while data := file.read(_SLICE):
                hasher.update(data)
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise translated(error, f"reading blob {blob.digest.short}") from error
    return blob.digest.agrees(hasher)


def read_all(blob: StoredBlob) -> bytes | None:
    """All bytes of a small blob; None where they are not what its digest names. Blocking."""
    try:
        with os.fdopen(blob.open(), "rb", buffering=0) as file:
            data = file.read(blob.size + 1)
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise translated(error, f"reading blob {blob.digest.short}") from error
    return data if Digest.of(data, blob.digest.algorithm) == blob.digest else None
