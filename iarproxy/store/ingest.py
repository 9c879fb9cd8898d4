"""The leader of an ingest: fetch, append, verify, publish. Holding the lock file's flock is what makes it one.

Rule 1: digest agreed -> followers here may finish -> state agreed, for those in other processes -> publish protocol
        -> files of the ingest removed.
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
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
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
from iarproxy.store.claim import clear, discard
from iarproxy.store.disk import translated
from iarproxy.store.means import Means
from iarproxy.store.opening import Begun, admit, note
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
    """Leads one ingest that has begun. `expected`: the blob's size if the asker knows it, else None."""

    def __init__(
        self,
        means: Means,
        digest: Digest,
        begun: Begun,
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
        self._lock: LockFile = begun.lock
        self._opened = begun.opened
        self._inherited = 0  # bytes that a dead leader left
        self._record = Record(State.RUNNING, inode=0)
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
        part = self._open()
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
        if isinstance(self._opened, IarproxyError):
            raise self._opened
        if self._progress.fd < 0:
            self._progress.attach(self._opened.reader)
        else:
            os.close(self._opened.reader)  # followers read from the one that they have
        self._record, self._room = self._opened.granted
        return self._opened.part

    async def _catch_up(self, part: Part) -> None:
        """Hash what a dead leader left; its bytes can be followed meanwhile, but for the tail."""
        self._inherited = os.fstat(part.fileno()).st_size
        self._begun = self._inherited > 0
        self._progress.grow(self._inherited, self._record.size)
        while self._inherited and await self._slow(part.catch_up, "reading an ingest"):
            self._progress.touch()

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
            admission = await self._learn(transfer, part)
            self._begun = True
            chunks = transfer.chunks()
            if isinstance(chunks, AsyncGenerator):
                await stack.enter_async_context(aclosing(chunks))
            pipe = Pipe(part, self._means.threads, partial(self._tell, part), admission)
            stack.push_async_callback(pipe.settle)
            try:
                await self._pump(chunks, transfer.offset, part.length, pipe)
            except Unavailable:
                await pipe.finish()  # where the store failed too, that is the reason, and there is nothing to resume
                raise
            await pipe.finish()
            if part.agrees and self._record.size in (None, part.length):
                self._progress.agree(part.length)  # before the transfer is closed: that takes a while
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

    async def _learn(self, transfer: Transfer, part: Part) -> asyncio.Future[None]:
        """Check what the transfer says of itself; on the first one, tell the size to all followers.

        Room for the size is reserved while the bytes come already, where what was granted before covers it.
        """
        if transfer.offset not in (0, part.length):
            raise UpstreamWrong(f"upstream sent bytes from {transfer.offset} instead of {part.length}")
        size = transfer.size if transfer.size is not None else self._record.size
        size = self._expected if size is None else size
        if self._record.size not in (None, size):
            raise UpstreamWrong(f"upstream tells {size} bytes now, and told {self._record.size} before")
        admission = self._admission(size)
        if size is not None and size > self._room:
            await admission
        self._progress.grow(part.length, size)
        return admission

    def _admission(self, size: int | None) -> asyncio.Future[None]:
        if size == self._record.size:
            nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing
        self._record = replace(self._record, size=size)
        return asyncio.create_task(self._admit(size))

    async def _admit(self, size: int | None) -> None:
        if size == self._record.reserved:  # room for just that is granted already
            await self._means.threads.quick(note, self._lock, self._record)
        else:
            granted = await self._means.threads.quick(admit, self._means, self._lock, self._record, size)
            self._record, self._room = granted

    def _tell(self, part: Part) -> None:
        self._progress.grow(part.length, self._record.size)

    def _check_length(self, length: int) -> None:
        if self._record.size is None:
            if length > self._room:
                raise StoreFull(f"the store is full: the blob's size is not told, and {self._room} bytes are left")
        elif length > self._record.size:
            raise UpstreamWrong(f"upstream sends more than {self._record.size} bytes", digest=str(self._digest))

    # --- the end ---

    async def _agree(self, part: Part) -> None:
        self._progress.agree(part.length)
        self._record = replace(self._record, state=State.AGREED, size=part.length, reserved=part.length)
        await self._means.threads.quick(note, self._lock, self._record)

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
