"""The leader of an ingest: fetch, append, verify, publish. Holding the lock file's flock is what makes it one.

Rule 1: digest agreed -> state agreed (followers may finish) -> publish protocol -> files of the ingest removed.
Rule 2: upstream's breaks are resumed here with Range; the followers see a pause. Tries are bounded and jittered.
Rule 3: wrong bytes, a wrong length, a full or failing disk: the state says why, the data is removed, and nothing is
        published.
Rule 4: a cancelled leader leaves its files as they are: the next one, in any process, goes on from there.
Rule 5: bytes that a dead leader left may be wrong although upstream is right; then the ingest is abandoned, not
        failed, and whoever has been sent none of them starts over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Final, TypeVar

from iarproxy.errors import (
    IarproxyError,
    StoreFull,
    StoreUnavailable,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.oci import Digest
from iarproxy.store.claim import Leading, clear, discard, sweep
from iarproxy.store.disk import translated
from iarproxy.store.means import Means
from iarproxy.store.part import Part, Pipe
from iarproxy.store.progress import Progress
from iarproxy.store.state import Failure, LockFile, Record, State
from iarproxy.store.transfer import Fetch, Transfer

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FINAL: Final = (UpstreamWrong, StoreUnavailable)  # unavailable, but not healed by asking upstream for the rest


class _Disagrees(Exception):
    """All bytes are there and are not what the digest names."""


class Leader:
    """Leads one ingest under the lock of `leading`. `expected`: the blob's size if the asker knows it, else None."""

    def __init__(
        self,
        means: Means,
        digest: Digest,
        leading: Leading,
        progress: Progress,
        *,
        fetch: Fetch,
        expected: int | None,
    ) -> None:
        self._means = means
        self._digest = digest
        self._fetch = fetch
        self._expected = expected
        self._progress = progress
        self._lock: LockFile = leading.lock
        self._taken_over = leading.record is not None
        self._inherited = 0  # bytes that a dead leader left
        self._record = leading.record or Record(State.RUNNING, inode=0)
        self._room = 0
        self._begun = False  # upstream has answered once: a break is resumed, even one before the first byte; till
        # then upstream's own room has tried enough, and its answer is everybody's

    async def run(self) -> None:
        """Lead to the end; the outcome is in the progress and, for other processes, in the lock file."""
        try:
            await self._lead()
        except IarproxyError as error:
            await self._end(State.FAILED, Failure.of(error))
        except _Disagrees:
            await self._disagree()
        except Exception as error:  # noqa: BLE001  # a bug must end the followers, not hang them
            _log.exception("the ingest of %s broke", self._digest)
            await self._end(State.FAILED, Failure.of(Unavailable(f"the ingest broke: {type(error).__name__}: {error}")))
        finally:
            self._lock.close()

    async def _lead(self) -> None:
        part = await self._means.threads.obtain(self._open, Part.close)
        try:
            await self._catch_up(part)
            if not self._is_complete(part):
                await self._fill(part)
            if not part.agrees:
                raise _Disagrees
            await self._agree(part)
            await self._publish(part)
        finally:
            part.close()

    # --- the data file ---

    def _open(self) -> Part:
        path = self._means.layout.part(self._digest)
        try:
            part = Part(path, self._digest, self._means.disk, fresh=not self._taken_over)
            try:
                inode = os.fstat(part.fileno()).st_ino
                record = replace(self._record, state=State.RUNNING, inode=inode)
                self._reserve(record, self._expected if record.size is None else record.size)
            except BaseException:
                part.close()
                raise
        except OSError as error:
            raise translated(error, f"opening the ingest of {self._digest.short}") from error
        return part

    def _reserve(self, record: Record, size: int | None) -> None:
        space = self._means.space
        try:
            self._room = space.admit(self._lock, record, size)
        except StoreFull:
            if not sweep(self._means, math.inf):  # what dead leaders left makes room first
                raise
            self._room = space.admit(self._lock, record, size)
        self._record = replace(record, reserved=size or 0)

    async def _catch_up(self, part: Part) -> None:
        """Hash what a dead leader left; its bytes can be followed meanwhile, but for the tail."""
        if self._progress.fd < 0:
            self._progress.attach(await self._means.threads.obtain(self._open_for_reading, os.close))
        self._inherited = os.fstat(part.fileno()).st_size
        self._begun = self._inherited > 0
        self._progress.grow(self._inherited, self._record.size)
        while self._inherited and await self._slow(part.catch_up, "reading an ingest"):
            self._progress.touch()

    def _open_for_reading(self) -> int:
        try:
            return os.open(self._means.layout.part(self._digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise translated(error, f"opening the ingest of {self._digest.short}") from error

    def _is_complete(self, part: Part) -> bool:
        return part.agrees if self._record.size is None else part.length >= self._record.size

    # --- upstream ---

    async def _fill(self, part: Part) -> None:
        """Fetch until all is there, resuming what breaks."""
        patience = self._means.patience
        fruitless = 0
        for _ in range(patience.resumptions):
            before = part.length
            try:
                await self._stream(part)
            except _FINAL:
                raise
            except Unavailable as error:
                fruitless = 0 if part.length > before else fruitless + 1
                if not self._begun or fruitless >= patience.tries:
                    raise
                await self._pause(fruitless, error)
            else:
                return
        raise UpstreamUnavailable(f"upstream broke off {patience.resumptions} times", digest=str(self._digest))

    async def _pause(self, fruitless: int, error: Unavailable) -> None:
        asked = error.retry_after or 0.0
        if asked > self._means.patience.retry_after:
            raise error
        backoff: float = self._means.patience.pause * 2.0**fruitless
        self._progress.touch()
        await self._means.sleep(max(asked, backoff * (0.5 + self._means.jitter() / 2)))

    async def _stream(self, part: Part) -> None:
        """One transfer, from where the part ends to the blob's end."""
        async with AsyncExitStack() as stack:
            transfer = await self._in_time(stack.enter_async_context(self._fetch(part.length)))
            await self._learn(transfer, part)
            self._begun = True
            chunks = transfer.chunks()
            if isinstance(chunks, AsyncGenerator):
                await stack.enter_async_context(aclosing(chunks))
            pipe = Pipe(part, self._means.threads.writers, lambda: self._progress.grow(part.length, self._record.size))
            stack.push_async_callback(pipe.settle)
            await self._pump(chunks, transfer.offset, part.length, pipe)
            await pipe.finish()
        if self._record.size is not None and part.length < self._record.size:
            told = f"upstream ended after {part.length} of {self._record.size} bytes"
            raise UpstreamUnavailable(told, digest=str(self._digest))

    async def _pump(self, chunks: AsyncIterator[bytes], arrived: int, wanted: int, pipe: Pipe) -> None:
        """Hand `chunks`, which start at `arrived`, to the pipe, from `wanted` on."""
        while (chunk := await self._in_time(anext(chunks, None))) is not None:
            new = chunk[max(0, wanted - arrived) :]
            arrived += len(chunk)
            self._check_length(arrived)
            if new:
                await pipe.put(new)

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._means.patience.watchdog):
                return await answer
        except TimeoutError as error:
            raise UpstreamTimeout(f"upstream sent nothing for {self._means.patience.watchdog:.0f} seconds") from error

    async def _learn(self, transfer: Transfer, part: Part) -> None:
        """Check what the transfer says of itself; on the first one, tell the size to all followers."""
        if transfer.offset not in (0, part.length):
            raise UpstreamWrong(f"upstream sent bytes from {transfer.offset} instead of {part.length}")
        size = transfer.size if transfer.size is not None else self._record.size
        size = self._expected if size is None else size
        if self._record.size not in (None, size):
            raise UpstreamWrong(f"upstream tells {size} bytes now, and told {self._record.size} before")
        if size != self._record.size:
            record = replace(self._record, size=size)
            await self._means.threads.quick(self._reserve, record, size)
        self._progress.grow(part.length, size)

    def _check_length(self, length: int) -> None:
        if self._record.size is None:
            if length > self._room:
                raise StoreFull(f"the store is full: the blob's size is not told, and {self._room} bytes are left")
        elif length > self._record.size:
            raise UpstreamWrong(f"upstream sends more than {self._record.size} bytes", digest=str(self._digest))

    # --- the end ---

    async def _agree(self, part: Part) -> None:
        self._record = replace(self._record, state=State.AGREED, size=part.length, reserved=part.length)
        await self._means.threads.quick(self._lock.write, self._record)
        self._progress.agree(part.length)

    async def _publish(self, part: Part) -> None:
        try:
            await self._means.threads.slow(self._publish_now, part)
        except (OSError, IarproxyError) as error:
            # The digest agreed, so the followers finish from the open file; only the store does not keep it.
            _log.error("blob %s is right but cannot be kept: %s", self._digest, error)  # no bug: a disk

    def _publish_now(self, part: Part) -> None:
        try:
            self._means.press.seal(part.fileno())
            part.close()
            path, checksum = self._means.layout.part(self._digest), part.checksum.hexdigest()
            self._means.press.publish(path, self._digest, part.length, checksum)
        finally:
            clear(self._means.layout, self._digest)

    async def _disagree(self) -> None:
        if self._inherited:
            _log.warning("what a dead leader left of %s is wrong; it is fetched anew", self._digest)
            await self._end(State.ABANDONED, None)
            return
        wrong = UpstreamWrong(f"upstream's bytes are not {self._digest}", digest=str(self._digest))
        await self._end(State.FAILED, Failure.of(wrong))

    async def _end(self, state: State, failure: Failure | None) -> None:
        """First clear away, then tell: whoever asks after hearing of it starts anew."""
        last = replace(self._record, state=state, failure=failure)
        try:
            await self._means.threads.quick(discard, self._means.layout, self._digest, self._lock, last)
        except OSError:
            _log.exception("the ingest of %s cannot be cleared away", self._digest)
        if failure is None:
            self._progress.abandon()
        else:
            self._progress.fail(failure)

    async def _slow(self, call: Callable[[], int], doing: str) -> int:
        try:
            return await self._means.threads.slow(call)
        except OSError as error:
            raise translated(error, doing) from error
