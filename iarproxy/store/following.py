"""Following: one client's hold on a blob, stored or still arriving.

Rule 1: a follower that was sent bytes of an abandoned ingest fails; one that was sent none joins the next.
Rule 2: a refusal is the answer to whoever asked, not to everybody: one repository's 404 or 403 is no other's, nor are
        wrong bytes. Who followed another scope's request, and was sent nothing yet, asks upstream itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final, Self

from iarproxy.errors import Refused, StoreUnavailable, Unavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.store.blobs import StoredBlob, find, is_sound
from iarproxy.store.disk import translated
from iarproxy.store.follow import Ingest
from iarproxy.store.means import Means
from iarproxy.store.progress import Progress
from iarproxy.store.state import Failure

_RESTARTS: Final = 10


class Following:
    """One client's hold on a blob, stored or still arriving. Use as `async with`: entering waits for its first bytes.

    Attributes:
        size: the blob's size in bytes; known once entered.

    Raises:
        IarproxyError: on entering: what upstream or the disk said; `UpstreamWrong` where the size is not the asked one.
    """

    size: int

    def __init__(
        self, means: Means, digest: Digest, size: int | None, scope: Hashable, join: Callable[[], Ingest]
    ) -> None:
        self._means = means
        self._digest = digest
        self._expected = size
        self._scope = scope
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
            if failure is not None and not self._may_ask_itself(failure):
                raise failure.error()
            if self._progress.ended:
                await self._start_over()
            elif self._progress.agreed or self._progress.sendable() > beyond:
                return
            else:
                await self._progress.change(patience.stall + self._progress.written / patience.rehash_rate)

    def _may_ask_itself(self, failure: Failure) -> bool:
        """Whether another scope's request was answered with no or with wrong bytes, and ours can still be made."""
        ours = self._ingest is None or (self._ingest.leads and self._ingest.scope == self._scope)
        theirs = isinstance(failure.error(), Refused | UpstreamWrong)
        return theirs and not ours and not self._sent and self._restarts < _RESTARTS

    async def _start_over(self) -> None:
        if self._sent:
            raise Unavailable(f"the first bytes of {self._digest.short} were wrong and are fetched anew; ask again")
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise Unavailable(f"{self._digest.short} was abandoned {_RESTARTS} times; ask again")
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
