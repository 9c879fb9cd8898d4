"""An ingest as one process sees it: led here, or watched while another process leads.

Rule 1: per process and digest there is one task; it watches another process's leader, or leads. It is detached:
        a follower that leaves or is cancelled changes nothing for it.
Rule 2: every tick it tries the lock: a leader that died is succeeded within a tenth of a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Hashable
from functools import partial

from iarproxy.errors import IarproxyError, Unavailable
from iarproxy.oci import Digest
from iarproxy.store.claim import Published, Superseded, Watching
from iarproxy.store.disk import translated
from iarproxy.store.ingest import Leader
from iarproxy.store.means import Means
from iarproxy.store.opening import Begun, Step, begin, give_back, succeed
from iarproxy.store.progress import Progress
from iarproxy.store.state import Failure, LockFile, Record, State
from iarproxy.store.transfer import Fetch
from iarproxy.store.watch import Notices, Watch

_log = logging.getLogger(__name__)


class Ingest:
    """One digest that arrives, here or in another process; `progress` is what followers see of it.

    Attributes:
        scope: of whoever began it here.
        leads: whether upstream was asked from here; False: another process asked, so far.
    """

    def __init__(
        self, means: Means, notices: Notices, digest: Digest, size: int | None, *, fetch: Fetch, scope: Hashable
    ) -> None:
        self.progress = Progress()
        self.scope = scope
        self.leads = False
        self._fetch = fetch
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
        step: Step | None = await self._claim()
        while step is not None:
            match step:
                case Published(blob):
                    self.progress.publish(blob)
                    return
                case Begun():
                    self.leads = True
                    leader = Leader(
                        self._means, self._digest, step, self.progress, fetch=self._fetch, expected=self._size
                    )
                    await leader.run()
                    return
                case Watching(lock):
                    step = await self._observe(lock)

    async def _observe(self, lock: LockFile) -> Step | None:
        """Follow another process's leader; None: it ended, and the progress says how."""
        watch = self._notices.watch()
        step: Step | Superseded = Watching(lock)
        try:
            watch.add(lock.fd)
            while isinstance(step, Watching):
                await self._look_for_a_tick(lock, watch)
                if self.progress.ended:
                    return None
                call = partial(succeed, self._means, self._digest, self._size, lock)
                step = await self._means.threads.obtain(call, give_back)
        finally:
            watch.close()
            if not isinstance(step, Begun):
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

    async def _succeed(self, last: Record | None) -> Step | None:
        """The watched ingest is over: go by its last word, else claim a new one."""
        if last is not None:
            self._judge(last)
        if self.progress.agreed or self.progress.ended:
            return None
        if self.progress.fd >= 0:
            self.progress.abandon()
            return None
        return await self._claim()

    async def _claim(self) -> Step:
        return await self._means.threads.obtain(partial(begin, self._means, self._digest, self._size), give_back)

    def _release(self) -> None:
        if not self._running and self._followers == 0:
            self.progress.release()
