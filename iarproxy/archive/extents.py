"""The bytes of a blob from where its pieces lie: in volumes, or kept by the store from an earlier medium.

Rule 1: reading happens in threads, a chunk at a time, so memory does not depend on how large anything is.
Rule 2: what cannot be read is no network: it is refused at once, never tried again.
Rule 3: nothing here judges bytes; whoever takes them hashes them, and then `damaged_at` finds which volume was wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from iarproxy.archive.checking import PieceHashes, Problem, damaged, is_sound
from iarproxy.archive.folder import VolumeFile
from iarproxy.errors import Refused
from iarproxy.oci.volumes import Extent, Piece
from iarproxy.store import KeptPiece, Store

CHUNK: Final = 2**20  # bytes
_AHEAD: Final = 8 * CHUNK  # that the disk is asked for
_WILL_NEED: Final[int | None] = getattr(os, "POSIX_FADV_WILLNEED", None)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a piece of a blob can be read.

    Attributes:
        fd, at: the file, and where in it the piece begins.
        file: the volume; None: the store keeps the piece.
    """

    extent: Extent
    fd: int
    at: int
    file: VolumeFile | None

    @property
    def piece(self) -> Piece:
        """Which bytes of the blob."""
        return self.extent.piece

    def chunks(self, skipped: int = 0) -> Iterator[bytes]:
        """The piece without its first `skipped` bytes. Blocking.

        Raises:
            Refused: it cannot be read.
        """
        at, end = self.at + skipped, self.at + self.piece.size
        while at < end:
            chunk = self._read(at, min(CHUNK, end - at))
            yield chunk
            at += len(chunk)

    def _read(self, at: int, size: int) -> bytes:
        if _WILL_NEED is not None:
            with suppress(OSError):
                os.posix_fadvise(self.fd, at + size, _AHEAD, _WILL_NEED)
        try:
            data = os.pread(self.fd, size, at)
        except OSError as error:
            raise Refused(f"{self.piece.digest} cannot be read: {error.strerror}") from error
        if not data:
            raise Refused(f"{self.piece.digest} cannot be read: the file ends before it")
        return data


@dataclass(frozen=True, slots=True)
class Assembled:
    """A blob as it is put together from its pieces: what `Store.follow` fetches. `sources`: all of it, in order."""

    sources: Sequence[Source]

    @asynccontextmanager
    async def __call__(self, offset: int) -> AsyncIterator[_Reading]:
        """The blob from `offset` on."""
        yield _Reading(self.sources, offset)


@dataclass(frozen=True, slots=True)
class _Reading:
    sources: Sequence[Source]
    offset: int

    @property
    def size(self) -> int:
        """Of the whole blob, in bytes."""
        return self.sources[0].piece.whole

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from `offset` on."""
        chunks = self._chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk

    def _chunks(self) -> Iterator[bytes]:
        for source in self.sources:
            piece = source.piece
            if piece.start + piece.size > self.offset:
                yield from source.chunks(max(0, self.offset - piece.start))


def kept_piece(piece: Piece, hashes: PieceHashes) -> KeptPiece:
    """What the store calls a piece."""
    return KeptPiece(piece.digest, piece.start, piece.size, hashes[piece.digest, piece.start])


async def damaged_at(sources: Sequence[Source], hashes: PieceHashes, store: Store) -> Problem | None:
    """Which of the sources of a blob is not what it has to be; None: all are. A piece of ours that is not, goes."""
    for source in sources:
        try:
            sound = await asyncio.to_thread(is_sound, source.fd, source.at, source.piece, hashes)
            wrong = f"is damaged: its bytes of {source.piece.digest} are others"
        except OSError as error:
            sound, wrong = False, f"cannot be read: {error.strerror}"
        if sound:
            continue
        number = source.extent.volume
        if source.file is not None:
            return damaged(source.file, number, wrong)
        await store.pieces.drop(kept_piece(source.piece, hashes))
        return Problem("volume-missing", number, f"what was kept of volume {number} is damaged; it is needed again")
    return None
