"""The data file of an ingest: appended to, and hashed in the same breath.

Rule 1: what is written is hashed in the same thread, before anybody is told; the loop does neither.
Rule 2: appended to or abandoned, never truncated. What a dead leader left is hashed as it is.
Rule 3: one batch is under way at a time; what arrives meanwhile is the next one, at most `BOUND` bytes of it.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Final

import aiofiles.threadpool
import xxhash

from iarproxy.oci import Digest
from iarproxy.store.disk import Disk, translated

BOUND: Final = 256 * 1024
_SLICE: Final = 4 * 1024 * 1024


class Part(io.FileIO):
    """An ingest's data file, open for appending.

    Attributes:
        length: bytes hashed so far, all of which are in the file.
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
        self._hasher = digest.hasher()
        self._disk = disk

    @property
    def agrees(self) -> bool:
        """Whether all bytes so far are the blob that the digest names."""
        return self._digest.agrees(self._hasher)

    def writelines(self, chunks: Iterable[Any], /) -> None:
        """Append and hash `chunks`; after an `OSError`, `length` still tells exactly what is in the file."""
        for chunk in chunks:
            left = memoryview(chunk)
            while left:
                count = self._disk.write(self.fileno(), left)
                self._take(left[:count])
                left = left[count:]

    def catch_up(self) -> int:
        """Hash the next slice of what is in the file already; how many bytes that was, 0 at its end."""
        data = os.pread(self.fileno(), _SLICE, self.length)
        self._take(data)
        return len(data)

    def _take(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self.checksum.update(data)
        self.length += len(data)


class Pipe:
    """Chunks on their way from upstream into a part: one hop to a thread per batch."""

    def __init__(self, part: Part, executor: Executor, written: Callable[[], None]) -> None:
        # aiofiles runs each call of the file in the executor that it is given; `Part.writelines` writes and hashes.
        self._file = aiofiles.threadpool.wrap(part, executor=executor)
        self._written = written
        self._batch: list[bytes] = []
        self._waiting = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._drain(), name="store-pipe")

    async def put(self, chunk: bytes) -> None:
        """Hand on `chunk`; waits while more than `BOUND` bytes wait for the disk.

        Raises:
            StoreFull, StoreUnavailable: what the disk said to this chunk or an earlier one.
        """
        self._batch.append(chunk)
        self._waiting += len(chunk)
        self._more.set()
        while self._waiting > BOUND and not self._task.done():
            self._room.clear()
            await self._room.wait()
        if self._task.done():
            self._task.result()

    async def finish(self) -> None:
        """Wait until all is written; raises as `put` does. The pipe takes no more."""
        await self.settle()
        self._task.result()

    async def settle(self) -> None:
        """Wait until the pipe is at rest, whatever became of its chunks; also when its leader is cancelled."""
        self._closing = True
        self._more.set()
        await asyncio.wait({self._task})
        self._task.exception()

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
        batch, self._batch = self._batch, []
        try:
            await self._file.writelines(batch)
        finally:
            self._waiting -= sum(map(len, batch))
            self._written()
            self._room.set()
