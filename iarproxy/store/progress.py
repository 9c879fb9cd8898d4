"""What the followers in one process see of an ingest, and how they wait for more of it.

Rule 1: state changes are plain functions; each wakes everybody who waits.
Rule 2: the last bytes may go only when the digest agreed (design invariant 5).
Rule 3: growth is told at once where somebody waits for the first bytes, else at intervals that grow with the number of
        followers: to wake a thousand of them for each piece of a slow upstream would take more than all the sending.
Rule 4: a wait costs no timer of its own: one wakes everybody when the one who waits longest may give up.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from iarproxy.errors import Unavailable
from iarproxy.store.blobs import StoredBlob
from iarproxy.store.state import Failure

TAIL: Final = 64 * 1024  # bytes; what a blob must keep back until its digest agreed
_INTERVAL: Final = 0.002  # seconds between two tellings of growth at least
_WAKING: Final = 0.0005  # seconds that are added for each follower who was woken


class Progress:
    """One ingest as its followers here see it.

    Attributes:
        size: the blob's bytes; None: not known yet.
        written: how many of them are in the file.
        told: how many of them followers know of.
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
        self.told = 0
        self._loop = asyncio.get_running_loop()
        self.moved_at = self._loop.time()
        self._waiting: set[asyncio.Future[None]] = set()
        self._quiet_until = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._giving_up: asyncio.TimerHandle | None = None

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
        return self._sendable_of(self.told)

    def _sendable_of(self, count: int) -> int:
        if self.agreed:
            return count
        return 0 if self.size is None else max(0, min(count, self.size - TAIL))

    def attach(self, fd: int) -> None:
        """Take over `fd`, the data file opened for reading."""
        self.release()
        self.fd = fd

    def grow(self, written: int, size: int | None) -> None:
        """So much is there now, of so much in all (None: still unknown)."""
        if self.agreed or (written <= self.written and size == self.size):
            return
        begins = self.sendable() == 0
        self.written = max(written, self.written)
        self.size = self.size if size is None else size
        self.moved_at = self._loop.time()
        begins = begins and self._sendable_of(self.written) > 0
        if begins or not self._waiting or self.moved_at >= self._quiet_until:
            self.touch()
        elif self._telling is None:
            self._telling = self._loop.call_at(self._quiet_until, self.touch)

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
        """Something moved: tell everybody who waits."""
        self.told = self.written
        self.moved_at = self._loop.time()
        self._quiet_until = self.moved_at + _INTERVAL + _WAKING * len(self._waiting)
        self._drop_telling()
        if (self.agreed or self.ended) and self._giving_up is not None:
            self._giving_up.cancel()  # nobody waits any more, and a timer would keep all this in memory
            self._giving_up = None
        self._wake()

    async def change(self, stall: float) -> None:
        """Wait for the next change.

        Raises:
            Unavailable: nothing moved for `stall` seconds.
        """
        until = self.moved_at + stall
        if until <= self._loop.time():
            raise Unavailable(f"nothing arrived for {stall:.0f} seconds; ask again")
        if self._giving_up is None or until < self._giving_up.when():
            self._give_up_at(until)
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _give_up_at(self, moment: float) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._giving_up = self._loop.call_at(moment, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _drop_telling(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    def release(self) -> None:
        """Close the shared descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
