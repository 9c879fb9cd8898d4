"""The data file of an ingest: appended to, and hashed at the same time.

Rule 1: the same bytes are written and hashed at once, in two threads; a few that come alone in one after the other,
        since to wake a second thread would take longer. The loop does neither. Followers hear of what is in the file;
        the digest speaks only once as much is hashed as is written.
Rule 2: appended to or abandoned, never truncated. What a dead leader left is hashed as it is.
Rule 3: one batch is being written at a time; what arrives meanwhile is the next one, at most `BOUND` bytes of it. At
        most `AHEAD` bytes wait to be hashed: hashing, the slower one, goes from batch to batch without asking the loop.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Final

import aiofiles.threadpool
import xxhash

from iarproxy.oci import Digest
from iarproxy.store.disk import Disk, translated
from iarproxy.store.threads import Threads

BOUND: Final = 256 * 1024  # bytes
AHEAD: Final = 1024 * 1024  # bytes
SMALL: Final = 64 * 1024  # bytes that one thread writes and hashes
_SLICE: Final = 4 * 1024 * 1024
_TURN: Final = 16  # batches that one ingest hashes before another one's turn comes


class Part(io.FileIO):
    """An ingest's data file, open for appending.

    Attributes:
        length: bytes in the file that were written or caught up with here.
        checksum: xxh3-128 over them.
    """

    def __init__(self, path: str, digest: Digest, disk: Disk, *, fresh: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        if fresh:
            flags |= os.O_CREAT | os.O_EXCL
        else:
            os.chmod(path, 0o600)  # noqa: PTH101  # its dead leader may have sealed it; paths are plain strings here
        super().__init__(os.open(path, flags, 0o600), "ab")
        self.length = 0
        self.checksum = xxhash.xxh3_128()
        self._digest = digest
        self._hashed = 0
        self._hasher = digest.hasher()
        self._disk = disk

    @property
    def agrees(self) -> bool:
        """Whether all bytes in the file are hashed and are the blob that the digest names."""
        return self._hashed == self.length and self._digest.agrees(self._hasher)

    def write(self, data: Any, /) -> int:
        """Append all of `data`; after an `OSError`, `length` still tells exactly what is in the file."""
        left = memoryview(data)
        while left:
            count = self._disk.write(self.fileno(), left)
            self.checksum.update(left[:count])
            self.length += count
            left = left[count:]
        return len(data)

    def hash(self, data: bytes) -> None:
        """Hash the bytes that follow those hashed so far. May run while `write` does."""
        self._hasher.update(data)
        self._hashed += len(data)

    def writelines(self, chunks: Iterable[Any], /) -> None:
        """Append and hash `chunks`."""
        for chunk in chunks:
            self.write(chunk)
            self.hash(chunk)

    def catch_up(self) -> int:
        """Hash the next slice of what is in the file already; how many bytes that was, 0 at its end."""
        data = os.pread(self.fileno(), _SLICE, self.length)
        self.hash(data)
        self.checksum.update(data)
        self.length += len(data)
        return len(data)


class _Hashing:
    """The batches of one part on their way through its hasher, in a thread that stays while there are any.

    Attributes:
        waiting: bytes that are not hashed yet.
        failure: a bug, or no memory; what waits is not hashed any more.
    """

    def __init__(self, part: Part, executor: Executor, moved: Callable[[], None]) -> None:
        self.waiting = 0
        self.failure: BaseException | None = None
        self._part = part
        self._executor = executor
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._batches: deque[bytes] = deque()
        self._turn: asyncio.Future[None] | None = None

    def feed(self, batch: bytes) -> None:
        """Hash `batch` after all that came before it."""
        self._batches.append(batch)
        self.waiting += len(batch)
        if self._turn is None and self.failure is None:
            self._go_on()

    async def settle(self) -> None:
        """Wait until there is nothing left to be hashed."""
        while self._turn is not None:
            await asyncio.wait({self._turn})

    def _go_on(self) -> None:
        self._turn = self._loop.run_in_executor(self._executor, self._take_turn)
        self._turn.add_done_callback(self._rested)

    def _take_turn(self) -> None:
        """In a thread. A batch that comes while it ends is found by `_rested`."""
        for _ in range(_TURN):
            if not self._batches:
                return
            batch = self._batches.popleft()
            self._part.hash(batch)
            self._loop.call_soon_threadsafe(self._hashed, len(batch))

    def _hashed(self, count: int) -> None:
        self.waiting -= count
        self._moved()

    def _rested(self, turn: asyncio.Future[None]) -> None:
        self._turn = None
        self.failure = turn.exception()
        if self.failure is not None:
            self._moved()
        elif self._batches:
            self._go_on()


class Pipe:
    """Chunks on their way from upstream into a part, and through its hasher.

    `written` is called whenever more is in the file. `admission` goes on beside; its failure is the pipe's.
    """

    def __init__(
        self, part: Part, threads: Threads, written: Callable[[], None], admission: asyncio.Future[None]
    ) -> None:
        # aiofiles runs each call of the file in the executor that it is given.
        self._file = aiofiles.threadpool.wrap(part, executor=threads.writers)
        self._written = written
        self._batch: list[bytes] = []
        self._waiting = 0
        self._bound = 0  # nothing is taken beside the first batch, so that nothing delays it
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._hashing = _Hashing(part, threads.hashers, self._room.set)
        self._admission = admission
        self._task = asyncio.create_task(self._drain(), name="store-pipe")

    async def put(self, chunk: bytes) -> None:
        """Hand on `chunk`; waits while too much waits for the disk or the hasher.

        Raises:
            StoreFull, StoreUnavailable: what the disk said to this chunk or an earlier one, or the admission.
        """
        self._batch.append(chunk)
        self._waiting += len(chunk)
        self._more.set()
        if self._hashing.waiting > AHEAD:
            await self._until(lambda: self._hashing.waiting <= AHEAD // 2)  # then go on in larger steps
        await self._until(lambda: self._waiting <= self._bound)
        self._check()

    async def finish(self) -> None:
        """Wait until all is written and hashed; raises as `put` does. The pipe takes no more."""
        await self.settle()
        self._check()

    async def settle(self) -> None:
        """Wait until the pipe is at rest, whatever became of its chunks; also when its leader is cancelled."""
        self._closing = True
        self._more.set()
        await asyncio.wait({self._task, self._admission})
        await self._hashing.settle()
        for each in (self._task, self._admission):
            if not each.cancelled():
                each.exception()  # seen, so that the loop does not report it as lost

    async def _until(self, there_is_room: Callable[[], bool]) -> None:
        while not there_is_room() and not self._task.done() and self._hashing.failure is None:
            self._room.clear()
            await self._room.wait()

    def _check(self) -> None:
        for each in (self._admission, self._task):
            if each.done():
                each.result()
        if self._hashing.failure is not None:
            raise self._hashing.failure

    async def _drain(self) -> None:
        try:
            while self._batch or not self._closing:
                await self._more.wait()
                self._more.clear()
                await self._write()
        except OSError as error:
            raise translated(error, "writing an ingest") from error
        finally:
            self._room.set()

    async def _write(self) -> None:
        batch, self._batch = b"".join(self._batch), []
        try:
            await self._append(batch)
        finally:
            self._waiting -= len(batch)
            self._bound = BOUND
            self._written()
            self._room.set()

    async def _append(self, batch: bytes) -> None:
        if self._hashing.waiting:
            self._hashing.feed(batch)
            await self._file.write(batch)
        elif len(batch) > SMALL:
            await self._file.write(batch)  # the hasher is ahead of upstream, so what followers wait for comes first
            self._hashing.feed(batch)
        else:
            await self._file.writelines((batch,))
