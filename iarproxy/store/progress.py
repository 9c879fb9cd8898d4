"""What the followers in one process see of an ingest, and how they wait for more of it.

Rule 1: state changes are plain functions; each wakes everybody who waits.
Rule 2: the last bytes may go only when the digest agreed (design invariant 5).
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from iarproxy.errors import Unavailable
from iarproxy.store.blobs import StoredBlob
from iarproxy.store.state import Failure

TAIL: Final = 64 * 1024  # bytes; what a blob must keep back until its digest agreed


class Progress:
    """One ingest as its followers here see it.

    Attributes:
        size: the blob's bytes; None: not known yet.
        written: how many of them are in the file.
        fd: read-only, shared by all followers here; -1: no file yet.
        agreed: the digest is proven: all may go.
        failure: why it ended; None: it has not.
        abandoned: the bytes so far lead nowhere; another ingest may do.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self.written = 0
        self.fd = -1
        self.agreed = False
        self.failure: Failure | None = None
        self.abandoned = False
        self.moved_at = asyncio.get_running_loop().time()
        self._waiting: set[asyncio.Future[None]] = set()

    @classmethod
    def of(cls, blob: StoredBlob) -> Progress:
        """A blob that is complete already."""
        self = cls()
        self.publish(blob)
        return self

    @property
    def ended(self) -> bool:
        """Whether no more can come of it."""
        return self.failure is not None or self.abandoned

    def sendable(self) -> int:
        """The end of the bytes that may be sent now."""
        if self.agreed:
            return self.written
        if self.size is None:
            return 0
        return max(0, min(self.written, self.size - TAIL))

    def attach(self, fd: int) -> None:
        """Take over `fd`, the data file opened for reading."""
        self.release()
        self.fd = fd

    def grow(self, written: int, size: int | None) -> None:
        """So much is there now, of so much in all (None: still unknown)."""
        if self.agreed or (written <= self.written and size == self.size):
            return
        self.written = max(written, self.written)
        self.size = self.size if size is None else size
        self.touch()

    def agree(self, size: int) -> None:
        """All `size` bytes are there and right."""
        self.size = self.written = size
        self.agreed = True
        self.touch()

    def publish(self, blob: StoredBlob) -> None:
        """Somebody else has published it."""
        if self.fd < 0:
            self.attach(blob.open())
        self.agree(blob.size)

    def fail(self, failure: Failure) -> None:
        """It ended, and this is why; without effect on what agreed before."""
        if not self.agreed:
            self.failure = failure
        self.touch()

    def abandon(self) -> None:
        """These bytes are given up; without effect on what agreed before."""
        self.abandoned = not self.agreed
        self.touch()

    def touch(self) -> None:
        """Something moved: wake everybody who waits."""
        self.moved_at = asyncio.get_running_loop().time()
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            _settle(future)

    async def change(self, stall: float) -> None:
        """Wait for the next change.

        Raises:
            Unavailable: nothing moved for `stall` seconds.
        """
        loop = asyncio.get_running_loop()
        left = self.moved_at + stall - loop.time()
        if left <= 0:
            raise Unavailable(f"nothing arrived for {stall:.0f} seconds; ask again")
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.add(future)
        timer = loop.call_later(left, _settle, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    def release(self) -> None:
        """Close the shared descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
