"""Writing the volumes of a bundle: every byte of them once, in order, as fast as the disk or the hash goes.

Rule 1: each blob is hashed again while it is read, and the very bytes that were hashed are written; one that is not
        what its digest names ends it (`Damaged`), and nothing of it leaves the machine.
Rule 2: one thread reads and writes; hashing runs beside it, in two lanes: blobs, and the pieces of those that span
        volumes. A few buffers go round, so memory does not depend on how large anything is.
Rule 3: what is written is sent to the disk at once, so that the last fsync finds little to do, and the blobs that are
        being served stay in the page cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from iarproxy.archive.staging import Staging, volume_name, write_all
from iarproxy.errors import Refused, StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.oci.volumes import END, Literal, Piece, Volume
from iarproxy.store import StoredBlob

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK = 2**20  # bytes
_CHUNKS = 8  # that are read, hashed or written at a time
_WINDOW = 16 * 2**20  # bytes after which the disk is set to work
_DONT_NEED: int | None = getattr(os, "POSIX_FADV_DONTNEED", None)
_ZEROS = memoryview(bytes(END))


class Damaged(Refused):
    """A blob in the store that is not what its digest names."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"{digest} is damaged in the store", digest=str(digest))
        self.digest = digest


class Stopped(Exception):
    """Whoever asked for it does not want it any more."""


class Lanes:
    """Hashing beside reading and writing, and the buffers that go round. To be closed; used by one thread."""

    def __init__(self) -> None:
        self._blobs = ThreadPoolExecutor(1, "bundle-hash")
        self._pieces = ThreadPoolExecutor(1, "bundle-piece")
        self._free = [bytearray(_CHUNK) for _ in range(_CHUNKS)]
        self._busy: deque[tuple[bytearray | None, tuple[Future[None], ...]]] = deque()

    def buffer(self) -> bytearray:
        """One that nobody reads any more; what went wrong with an earlier one is raised here."""
        while not self._free or len(self._busy) > 2 * _CHUNKS:
            self._settle()
        return self._free.pop()

    def give(self, buffer: bytearray, size: int, blob: _Hash, piece: _Hash | None) -> None:
        """Hash the first `size` bytes of `buffer`, which goes back to the others then."""
        data = memoryview(buffer)[:size]
        futures = [self._blobs.submit(blob.update, data)]
        if piece is not None:
            futures.append(self._pieces.submit(piece.update, data))
        self._busy.append((buffer, tuple(futures)))

    def agree(self, digest: Digest, blob: _Hash) -> None:
        """Have the blob judged once all of it was hashed; `Damaged` is raised by a later call."""
        self._busy.append((None, (self._blobs.submit(_judge, digest, blob),)))

    def drain(self) -> None:
        """Wait for all of it."""
        while self._busy:
            self._settle()

    def close(self) -> None:
        """End the threads."""
        self._blobs.shutdown()
        self._pieces.shutdown()

    def _settle(self) -> None:
        buffer, futures = self._busy.popleft()
        for future in futures:
            future.result()
        if buffer is not None:
            self._free.append(buffer)


@dataclass(frozen=True, slots=True)
class Hands:
    """What writing works with.

    Attributes:
        find: a blob in the store; None: it is not there.
        told: called with how many more bytes of blobs are done.
        stop: set by another thread, to have it end.
    """

    staging: Staging
    find: Callable[[Digest], StoredBlob | None]
    told: Callable[[int], None]
    stop: threading.Event


class Writing:
    """The volumes of one bundle as they are written. A context manager; blocking."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._lanes = Lanes()
        self._blob: _Hash = hashlib.sha256()
        self._spanning: dict[Digest, list[_Hash]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lanes.close()

    def write(self, volumes: Sequence[Volume]) -> tuple[tuple[Digest, tuple[str, ...]], ...]:
        """Write all of them; the sha256 of the pieces of each blob that spans volumes, for the manifest.

        Raises:
            Damaged: a blob is not what its digest names.
            Refused: the disk does not take it.
            StoreUnavailable: a blob cannot be read.
            Stopped: `stop` was set.
        """
        for volume in volumes:
            with self._hands.staging.file(volume_name(volume.number)) as fd:
                _Sink(fd, self._hands, self._lanes).volume(volume, self._hashers)
        self._lanes.drain()
        return tuple(
            (digest, tuple(each.hexdigest() for each in pieces)) for digest, pieces in sorted(self._spanning.items())
        )

    def _hashers(self, piece: Piece) -> tuple[_Hash, _Hash | None]:
        """Those that the bytes of a piece go to; pieces of a blob come in order."""
        if piece.start == 0:
            self._blob = piece.digest.hasher()
        if piece.is_whole:
            return self._blob, None
        own = hashlib.sha256()
        self._spanning.setdefault(piece.digest, []).append(own)
        return self._blob, own


class _Sink:
    """One volume as it is written."""

    def __init__(self, fd: int, hands: Hands, lanes: Lanes) -> None:
        self._fd = fd
        self._hands = hands
        self._lanes = lanes
        self._written = self._sent = 0

    def volume(self, volume: Volume, hashers: Callable[[Piece], tuple[_Hash, _Hash | None]]) -> None:
        """Write all of it."""
        for entry in volume.entries:
            self._put(memoryview(entry.header))
            match entry.content:
                case Literal(data=data):
                    self._put(memoryview(data))
                case Piece() as piece:
                    self._copy(piece, *hashers(piece))
            self._put(_ZEROS[: entry.end - self._written])
        self._put(_ZEROS)

    def _copy(self, piece: Piece, blob: _Hash, own: _Hash | None) -> None:
        """Write the bytes of a piece, and have them hashed."""
        source = _opened(self._hands.find, piece)
        try:
            done = 0
            while done < piece.size:
                if self._hands.stop.is_set():
                    raise Stopped
                buffer = self._lanes.buffer()
                size = _read(source, buffer, piece.size - done, piece.digest)
                self._lanes.give(buffer, size, blob, own)
                self._put(memoryview(buffer)[:size])
                self._hands.told(size)
                done += size
        finally:
            os.close(source)
        if piece.start + piece.size == piece.whole:
            self._lanes.agree(piece.digest, blob)

    def _put(self, data: memoryview) -> None:
        write_all(self._hands.staging.disk, self._fd, data)
        self._written += len(data)
        if self._written - self._sent >= _WINDOW:
            if _DONT_NEED is not None:  # elsewhere the kernel sends it when it likes
                os.posix_fadvise(self._fd, 0, self._written, _DONT_NEED)
            self._sent = self._written


def _opened(find: Callable[[Digest], StoredBlob | None], piece: Piece) -> int:
    blob = find(piece.digest)
    if blob is None or blob.size != piece.whole:
        raise Damaged(piece.digest)
    source = blob.open()
    os.lseek(source, piece.start, os.SEEK_SET)
    return source


def _read(source: int, buffer: bytearray, left: int, digest: Digest) -> int:
    """Read on, at most `left` bytes and what the buffer holds; how many."""
    try:
        size = os.readv(source, [memoryview(buffer)[:left]])
    except OSError as error:
        if error.errno != errno.EIO:
            said = f"{digest} cannot be read: {error.strerror}; look at the disk and the system log"
            raise StoreUnavailable(said, digest=str(digest)) from error
        size = 0
    if not size:
        raise Damaged(digest)
    return size


def _judge(digest: Digest, hasher: _Hash) -> None:
    if not digest.agrees(hasher):
        raise Damaged(digest)
