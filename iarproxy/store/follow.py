"""Following: an ingest as one process sees it, and one client's hold on it.

Rule 1: per process and digest there is one task; it watches another process's leader, or leads. It is detached:
        a follower that leaves or is cancelled changes nothing for it.
Rule 2: every tick it tries the lock: a leader that died is succeeded within a tenth of a second.
Rule 3: a follower that was sent bytes of an abandoned ingest fails; one that was sent none joins the next.
Rule 4: a refusal is the answer to whoever asked, not to everybody: one repository's 404 or 403 is no other's. Who
        followed somebody else's request asks upstream itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Final, Self

from iarproxy.errors import IarproxyError, Refused, StoreUnavailable, Unavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.store.blobs import StoredBlob, find, is_sound
from iarproxy.store.claim import Claim, Leading, Published, Superseded, Watching, claim, examine, give_back
from iarproxy.store.disk import translated
from iarproxy.store.ingest import Leader
from iarproxy.store.means import Means
from iarproxy.store.progress import Progress
from iarproxy.store.state import Failure, LockFile, Record, State
from iarproxy.store.transfer import Fetch
from iarproxy.store.watch import Notices, Watch

_log = logging.getLogger(__name__)
_RESTARTS: Final = 10


class Ingest:
    """One digest that arrives, here or in another process; `progress` is what followers see of it.

    Attributes:
        leads: whether `fetch` is what upstream was asked by; False: another process's was, so far.
    """

    def __init__(self, means: Means, notices: Notices, digest: Digest, size: int | None, fetch: Fetch) -> None:
        self.progress = Progress()
        self.fetch = fetch
        self.leads = False
        self._means = means
        self._notices = notices
        self._digest = digest
        self._size = size
        self._followers = 0
        self._running = True
        self._over = asyncio.Event()

    def join(self) -> None:
        """One more follower holds the shared descriptor."""
        self._followers += 1

    def leave(self) -> None:
        """One follower less."""
        self._followers -= 1
        self._release()

    async def run(self) -> None:
        """The detached task: watch or lead until the ingest has ended."""
        try:
            await self._run()
        except IarproxyError as error:
            self.progress.fail(Failure.of(error))
        except OSError as error:
            self.progress.fail(Failure.of(translated(error, f"following {self._digest.short}")))
        except Exception as error:  # noqa: BLE001  # a bug must end the followers, not hang them
            _log.exception("following %s broke", self._digest)
            self.progress.fail(Failure.of(Unavailable(f"following broke: {type(error).__name__}")))
        except asyncio.CancelledError:
            self.progress.fail(Failure.of(Unavailable("the store is closing; ask again")))
            raise
        finally:
            self._running = False
            self._over.set()
            self._release()

    async def over(self) -> None:
        """Wait until the ingest has ended, its commit included."""
        await self._over.wait()

    async def _run(self) -> None:
        step: Claim | None = await self._claim()
        while step is not None:
            match step:
                case Published(blob):
                    self.progress.publish(blob)
                    return
                case Leading():
                    self.leads = True
                    leader = Leader(
                        self._means, self._digest, step, self.progress, fetch=self.fetch, expected=self._size
                    )
                    await leader.run()
                    return
                case Watching(lock):
                    step = await self._observe(lock)

    async def _observe(self, lock: LockFile) -> Claim | None:
        """Follow another process's leader; None: it ended, and the progress says how."""
        watch = self._notices.watch()
        step: Claim | Superseded = Watching(lock)
        try:
            watch.add(lock.fd)
            while isinstance(step, Watching):
                await self._look_for_a_tick(lock, watch)
                if self.progress.ended:
                    return None
                step = await self._means.threads.quick(examine, self._means, self._digest, lock)
        finally:
            watch.close()
            if not isinstance(step, Leading):
                lock.close()
        return await self._succeed(step.record) if isinstance(step, Superseded) else step

    async def _look_for_a_tick(self, lock: LockFile, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._means.patience.tick
        while (left := until - loop.time()) > 0:
            self._look(lock, watch)
            if self.progress.ended:
                return
            await watch.changed(left)

    def _look(self, lock: LockFile, watch: Watch) -> None:
        record = lock.read()
        if record is None:
            return
        if self.progress.fd < 0 and self._attach(record):
            watch.add(self.progress.fd)
        self._judge(record)

    def _judge(self, record: Record) -> None:
        if self.progress.fd >= 0:
            self.progress.grow(os.fstat(self.progress.fd).st_size, record.size)
        match record.state:
            case State.RUNNING:
                pass
            case State.AGREED:
                if self.progress.fd >= 0 and record.size is not None and not self.progress.agreed:
                    self.progress.agree(record.size)
            case State.FAILED:
                if record.failure is not None:
                    self.progress.fail(record.failure)
            case State.ABANDONED:
                self.progress.abandon()

    def _attach(self, record: Record) -> bool:
        """Open the very data file that the lock names; False: it is not there, or no longer under that name."""
        try:
            fd = os.open(self._means.layout.part(self._digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        if os.fstat(fd).st_ino != record.inode:
            os.close(fd)
            return False
        self.progress.attach(fd)
        return True

    async def _succeed(self, last: Record | None) -> Claim | None:
        """The watched ingest is over: go by its last word, else claim a new one."""
        if last is not None:
            self._judge(last)
        if self.progress.agreed or self.progress.ended:
            return None
        if self.progress.fd >= 0:
            self.progress.abandon()
            return None
        return await self._claim()

    async def _claim(self) -> Claim:
        return await self._means.threads.obtain(partial(claim, self._means, self._digest), give_back)

    def _release(self) -> None:
        if not self._running and self._followers == 0:
            self.progress.release()


class Following:
    """One client's hold on a blob, stored or still arriving. Use as `async with`: entering waits for its first bytes.

    Attributes:
        size: the blob's size in bytes; known once entered.

    Raises:
        IarproxyError: on entering: what upstream or the disk said; `UpstreamWrong` where the size is not the asked one.
    """

    size: int

    def __init__(
        self, means: Means, digest: Digest, size: int | None, fetch: Fetch, join: Callable[[], Ingest]
    ) -> None:
        self._means = means
        self._digest = digest
        self._expected = size
        self._fetch = fetch
        self._join = join
        self._ingest: Ingest | None = None
        self._progress: Progress
        self._sent = False
        self._restarts = 0

    @property
    def fd(self) -> int:
        """The file: shared, not to be closed, valid until leaving. For positioned reads and sendfile only; ask for it
        after `readable`.
        """
        return self._progress.fd

    @property
    def written(self) -> int:
        """Bytes in the file, the withheld tail included; after `StoreFull` they are what a relay may go on from."""
        return self._progress.written

    async def __aenter__(self) -> Self:
        await self._hold()
        try:
            await self._open()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._leave()

    async def readable(self, beyond: int) -> int:
        """Wait until more than the first `beyond` bytes may be sent; the end of what may, at most `size`.

        Raises:
            StoreFull: the disk is full; `written` bytes can still be read from `fd`.
            Unavailable, Refused: the rest cannot be had, or nothing moved within the stall deadline.
        """
        await self._wait(beyond)
        if self._progress.size != self.size:
            raise UpstreamWrong(f"the size of {self._digest} was told as {self.size} and is {self._progress.size}")
        self._sent = True
        return self._progress.sendable()

    async def kept(self) -> bool:
        """Wait until the commit that follows the last byte is through; whether the store holds the blob now.

        Raises:
            Unavailable: the disk did not get there within the stall deadline.
        """
        if self._ingest is not None:
            try:
                async with asyncio.timeout(self._means.patience.stall):
                    await self._ingest.over()
            except TimeoutError as error:
                raise StoreUnavailable(f"the disk did not take {self._digest.short} in time") from error
        return find(self._means.layout, self._digest) is not None

    async def _open(self) -> None:
        await self._wait(0)
        size = self._progress.size
        if size is None or self._expected not in (None, size):
            raise UpstreamWrong(f"blob {self._digest} has {size} bytes, not the {self._expected} that were announced")
        self.size = size

    async def _wait(self, beyond: int) -> None:
        patience = self._means.patience
        while True:
            failure = self._progress.failure
            if failure is not None and not self._answered_another(failure):
                raise failure.error()
            if self._progress.ended:
                await self._start_over()
            elif self._progress.agreed or self._progress.sendable() > beyond:
                return
            else:
                await self._progress.change(patience.stall + self._progress.written / patience.rehash_rate)

    def _answered_another(self, failure: Failure) -> bool:
        """Whether this is a refusal of somebody else's request, and ours has not been made."""
        ours = self._ingest is None or (self._ingest.leads and self._ingest.fetch is self._fetch)
        return not ours and isinstance(failure.error(), Refused)

    async def _start_over(self) -> None:
        if self._sent:
            raise Unavailable(f"the first bytes of {self._digest.short} were wrong and are fetched anew; ask again")
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise Unavailable(f"{self._digest.short} was given up {_RESTARTS} times by others; ask again")
        self._leave()
        await self._hold()

    async def _hold(self) -> None:
        """Take hold of the blob where it is stored, else of its ingest."""
        blob = await self._stored()
        if blob is not None:
            self._progress = Progress.of(blob)
            return
        self._ingest = self._join()
        self._ingest.join()
        self._progress = self._ingest.progress

    async def _stored(self) -> StoredBlob | None:
        blob = find(self._means.layout, self._digest)
        if blob is None or self._expected in (None, blob.size):
            return blob
        # Either the file was cut short behind our back or the manifest lies: only the bytes can tell.
        if await self._means.threads.slow(is_sound, blob):
            return blob
        try:
            await self._means.threads.slow(self._means.press.quarantine, self._digest, "its size or bytes changed")
        except OSError as error:
            raise translated(error, f"moving {self._digest.short} to quarantine") from error
        return None

    def _leave(self) -> None:
        if self._ingest is None:
            self._progress.release()
            return
        ingest, self._ingest = self._ingest, None
        self._progress = Progress()  # the shared one is no longer ours to release
        ingest.leave()
