"""Pieces of blobs whose other pieces come with another medium: kept until the blob can be assembled.

Rule 1: a piece has its name only when its bytes are durable and are what its sha256 says; the name says all of it.
Rule 2: a piece is no blob: nothing serves it. A blob that is assembled from pieces is verified like any other.
Rule 3: pieces go when their blob is held; those that nobody asked for in `KEPT` go with a sweep. They are not counted
        in `max_size`, but leave the disk's reserve free.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

from iarproxy.errors import DigestInvalid, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.store.blobs import find
from iarproxy.store.disk import remove, sync_directory, translated, write_all
from iarproxy.store.means import Means

KEPT: Final = timedelta(days=60)
_UNFINISHED: Final = timedelta(hours=1)
_NAME: Final = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})\.(\d{1,19})\.(\d{1,19})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeptPiece:
    """Bytes `start` to `start + size` of a blob; `sha256` in hex."""

    digest: Digest
    start: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Its file's."""
        return f"{self.digest.algorithm}-{self.digest.hex}.{self.start}.{self.size}.{self.sha256}"

    @classmethod
    def parse(cls, name: str) -> KeptPiece | None:
        """The piece in the file of that name; None: it is no piece."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        algorithm, hexadecimal, start, size, sha256 = match.groups()
        try:
            return cls(Digest.parse(f"{algorithm}:{hexadecimal}"), int(start), int(size), sha256)
        except DigestInvalid:
            return None


class Pieces:
    """The pieces that a store keeps."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._folder = means.layout.pieces

    def holds(self, piece: KeptPiece) -> bool:
        """Whether it is kept."""
        try:
            return os.lstat(f"{self._folder}/{piece.name}").st_size == piece.size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translated(error, f"looking for a piece of {piece.digest.short}") from error

    def open(self, piece: KeptPiece) -> int:
        """A read-only descriptor, which the caller closes.

        Raises:
            StoreUnavailable: it is not kept, or the disk fails.
        """
        try:
            fd = os.open(f"{self._folder}/{piece.name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with suppress(OSError):
                os.utime(fd)  # asked for (rule 3)
        except OSError as error:
            raise translated(error, f"opening a piece of {piece.digest.short}") from error
        return fd

    async def keep(self, piece: KeptPiece, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Keep a piece; durable when this returns. Idempotent, also among processes. `chunks` is run in a thread.

        Raises:
            UpstreamWrong: the bytes are others.
            StoreFull, StoreUnavailable: the disk did not take it.
        """
        if not self.holds(piece):
            await self._means.threads.slow(self._keep, piece, chunks)

    async def discard(self, digest: Digest) -> None:
        """Let go of all pieces of a blob."""
        await self._means.threads.slow(self._discard, lambda piece: piece.digest == digest)

    async def drop(self, piece: KeptPiece) -> None:
        """Let go of one that turned out to be damaged."""
        await self._means.threads.slow(remove, f"{self._folder}/{piece.name}")

    def sweep(self, now: float) -> int:
        """Remove what nobody needs (rule 3); how many pieces. Blocking.

        Args:
            now: seconds since the epoch.
        """
        removed = self._discard(lambda piece: find(self._means.layout, piece.digest) is not None)
        for name, at in self._names():
            age = KEPT if KeptPiece.parse(name) else _UNFINISHED
            if now - at > age.total_seconds():
                remove(f"{self._folder}/{name}")
                removed += 1
        return removed

    def _keep(self, piece: KeptPiece, chunks: Callable[[], Iterable[bytes]]) -> None:
        temporary = f"{self._folder}/{uuid4().hex}.new"
        try:
            self._means.space.insist(piece.size)
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)  # noqa: PTH102  # paths are plain strings here
                sync_directory(self._means.disk, self._means.layout.root)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._write(fd, piece, chunks)
            finally:
                os.close(fd)
            os.rename(temporary, f"{self._folder}/{piece.name}")  # noqa: PTH104  # as above
            sync_directory(self._means.disk, self._folder)
        except OSError as error:
            raise translated(error, f"keeping a piece of {piece.digest.short}") from error
        finally:
            remove(temporary)

    def _write(self, fd: int, piece: KeptPiece, chunks: Callable[[], Iterable[bytes]]) -> None:
        hasher, written = hashlib.sha256(), 0
        for chunk in chunks():
            hasher.update(chunk)
            write_all(self._means.disk, fd, chunk)
            written += len(chunk)
        if (written, hasher.hexdigest()) != (piece.size, piece.sha256):
            raise UpstreamWrong(f"the bytes are not those of {piece.digest} from {piece.start} on")
        self._means.disk.fsync(fd)

    def _discard(self, unwanted: Callable[[KeptPiece], bool]) -> int:
        pieces = [piece for name, _ in self._names() if (piece := KeptPiece.parse(name)) is not None]
        gone = [piece for piece in pieces if unwanted(piece)]
        for piece in gone:
            remove(f"{self._folder}/{piece.name}")
        return len(gone)

    def _names(self) -> list[tuple[str, float]]:
        """What lies in the folder, and since when (seconds since the epoch); what goes meanwhile is left out."""
        found = list[tuple[str, float]]()
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # of another blob, or by another process
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
        return found
