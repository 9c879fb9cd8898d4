"""The store: content-addressed blobs on disk, and what is on its way to become one.

Rule 1: a final name exists only for verified, durable bytes; `publish` alone touches final names.
Rule 2: one upstream transfer per digest over all worker processes; every client follows the growing file.
Rule 3: one `Store` serves one event loop; each worker process opens its own, after the fork.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Self

from iarproxy.errors import ConfigError, StoreUnavailable, UpstreamWrong
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.digest import ALGORITHMS
from iarproxy.store.blobs import StoredBlob, find, read_all
from iarproxy.store.claim import sweep
from iarproxy.store.disk import Disk, OsDisk, translated
from iarproxy.store.follow import Ingest
from iarproxy.store.following import Following
from iarproxy.store.layout import Election, ServingLock, index_of, is_served, prepare, replace_file
from iarproxy.store.means import Means, Patience
from iarproxy.store.pieces import Pieces
from iarproxy.store.publish import Press
from iarproxy.store.recount import recount
from iarproxy.store.space import Space
from iarproxy.store.threads import Threads
from iarproxy.store.transfer import Fetch
from iarproxy.store.usage import Standing, boot
from iarproxy.store.watch import Notice, Notices, notices

LEFTOVERS_AGE: Final = timedelta(hours=1)  # how long an ingest without a leader is kept to be resumed
_REST: Final = 3.0  # a recount takes a quarter of one core at most


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What the store holds. All but `blobs` and `ingests` in bytes.

    Attributes:
        ingests: blobs that arrive now, or were left by a dead leader.
        free: on the disk, for this user.
        standing: of `blobs` and `bytes`; all but `EXACT` end by a `recount`.
    """

    blobs: int
    bytes: int
    ingests: int
    max_size: int
    free: int
    standing: Standing = Standing.EXACT


class Store:
    """An open store. Made by `Store.open`; to be closed.

    Attributes:
        pieces: of blobs that come on several media.
    """

    def __init__(self, root: Path, identity: str, means: Means, watch: Notice, now: Callable[[], datetime]) -> None:
        self.root = root
        self.identity = identity
        self.pieces = Pieces(means)
        self._means = means
        self._watch = watch
        self._now = now
        self._notices: Notices | None = None
        self._ingests: dict[Digest, Ingest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        max_size: int,
        reserve: int | None = None,
        now: Callable[[], datetime] = _now,
        disk: Disk | None = None,
        watch: Notice = "auto",
        patience: Patience | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        run: Callable[[], str | None] = boot,
    ) -> Self:
        """Open the store at `root`, making it on first use, and clear away what dead processes left.

        `max_size` is how many bytes blobs may take: beyond it nothing new is admitted. `reserve` is how many bytes of
        the disk they leave free; None: 2 % of it, at most 256 MiB. The rest are seams for tests.

        Raises:
            ConfigError: the folder cannot be a store of ours; one line with the remedy.
        """
        disk = disk or OsDisk()
        root = Path(os.path.abspath(root))  # noqa: PTH100  # resolve() would follow the links that we refuse
        layout, identity = prepare(root, disk)
        space = Space(layout, disk, max_size=max_size, reserve=reserve, run=run())
        press = Press(layout, disk, space.counter)
        means = Means(layout, disk, space, press, Threads(), patience or Patience(), sleep, jitter)
        self = cls(root, identity, means, watch, now)
        try:
            self._sweep(LEFTOVERS_AGE)
            self._stats()  # makes the counter, where there is none
        except (OSError, StoreUnavailable) as error:
            means.threads.close()
            reason = f"{error.strerror}; look at the disk" if isinstance(error, OSError) else str(error)
            raise ConfigError(f"store {root} cannot be used: {reason}, or choose another [store] path") from error
        return self

    def __repr__(self) -> str:
        return f"<Store {self.root} ({len(self._ingests)} ingests here)>"

    # --- what is held ---

    def is_empty(self) -> bool:
        """Whether no blob is held."""
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                if any(entries):
                    return False
        return True

    def find(self, digest: Digest) -> StoredBlob | None:
        """The blob, by one stat and no lock; None: not held."""
        return find(self._means.layout, digest)

    async def put(self, digest: Digest, data: bytes) -> StoredBlob:
        """Keep `data`; durable when this returns. Idempotent, also among processes.

        Not bound by `max_size`: manifests are small, and a pin must not fail for blobs' sake.

        Raises:
            UpstreamWrong: `data` is not what `digest` names.
            StoreFull, StoreUnavailable: the disk did not take it.
        """
        if Digest.of(data, digest.algorithm) != digest:
            raise UpstreamWrong(f"the bytes are not {digest}", digest=str(digest))
        try:
            await self._means.threads.slow(self._means.press.put, digest, data)
        except OSError as error:
            raise translated(error, f"writing {digest.short}") from error
        return StoredBlob(digest, len(data), self._means.layout.blob(digest))

    async def read(self, digest: Digest, limit: int) -> bytes | None:
        """A small blob's bytes, hashed again here. None: not held, larger than `limit` bytes, or damaged.

        Damaged content goes to quarantine, so that the next fetch heals it.
        """
        blob = find(self._means.layout, digest)
        if blob is None or blob.size > limit:
            return None
        data = await self._means.threads.slow(read_all, blob)
        if data is None:
            await self._means.threads.slow(self.quarantine, digest, "its bytes are not what its digest names")
        return data

    def quarantine(self, digest: Digest, reason: str) -> None:
        """Move a damaged blob aside, so that the next request fetches it anew.

        Raises:
            StoreUnavailable: the disk refuses.
        """
        try:
            self._means.press.quarantine(digest, reason)
        except OSError as error:
            raise translated(error, f"moving {digest.short} to quarantine") from error

    async def stats(self) -> StoreStats:
        """How full the store is."""
        try:
            return await self._means.threads.slow(self._stats)
        except OSError as error:
            raise translated(error, "counting the store") from error

    def write_index(self, entries: Sequence[tuple[str, Descriptor]]) -> None:
        """Replace `index.json`: each descriptor under its `org.opencontainers.image.ref.name`. Durable on return."""
        try:
            replace_file(self._means.disk, str(self.root / "index.json"), index_of(entries))
        except OSError as error:
            raise translated(error, "writing index.json") from error

    # --- what arrives ---

    def follow(self, digest: Digest, size: int | None, fetch: Fetch, scope: Hashable = None) -> Following:
        """Follow the blob: from disk where it is held, else while it arrives, by one transfer for everybody.

        `size` is in bytes, as the manifest says; None: unknown. Whoever leads uses its own `fetch`, so the bytes may
        come by another caller's. What upstream refuses is an answer to callers of the same `scope` only.
        """
        return Following(self._means, digest, size, scope, partial(self._join, digest, size, fetch, scope))

    def _join(self, digest: Digest, size: int | None, fetch: Fetch, scope: Hashable) -> Ingest:
        known = self._ingests.get(digest)
        if known is not None and not known.progress.ended:
            return known
        if self._notices is None:
            self._notices = notices(self._watch)
        ingest = Ingest(self._means, self._notices, digest, size, fetch=fetch, scope=scope)
        task = asyncio.create_task(ingest.run(), name=f"ingest {digest.short}")
        self._ingests[digest] = ingest
        self._tasks.add(task)
        task.add_done_callback(partial(self._forget, digest, ingest))
        return ingest

    def _forget(self, digest: Digest, ingest: Ingest, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._ingests.get(digest) is ingest:
            del self._ingests[digest]

    # --- housekeeping ---

    def lock_for_serving(self) -> ServingLock:
        """Take the store for the one `serve` that may run on it. The blobs are not walked.

        Raises:
            ConfigError: another one serves it; names its process.
        """
        path = self.root / "serving.lock"
        try:
            lock = ServingLock(path)
            self._means.space.counter.doubt()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; check the store's permissions") from error
        return lock

    def is_served(self) -> bool:
        """Whether a `serve` runs on it, as far as the note of the last one tells; it takes no lock."""
        return is_served(self.root / "serving.lock")

    def election(self, office: str) -> Election:
        """The election, among all processes that have this store open, of who does the work of `office`."""
        return Election(self.root / f"{office}.lock")

    async def sweep(self, older_than: timedelta = LEFTOVERS_AGE) -> int:
        """Remove what dead leaders left and nobody resumed for `older_than`; how many ingests were removed."""
        return await self._means.threads.slow(self._sweep, older_than)

    async def recount(self, rest: float = _REST) -> bool:
        """Count the blobs anew where the counter is not exact; whether it is now. Publishing goes on meanwhile.

        It rests `rest` times as long as it works. False: another process counts already.
        """
        steps = recount(self._means.space.counter)
        try:
            while (took := await self._means.threads.slow(_timed, steps)) is not None:
                await self._means.sleep(took * rest)
        except OSError as error:
            raise translated(error, "counting the store") from error
        finally:
            steps.close()
        return (await self.stats()).standing is Standing.EXACT

    async def close(self) -> None:
        """End the ingests of this process; their files stay, and the next leader resumes them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._notices is not None:
            self._notices.close()
            self._notices = None
        self._means.threads.close()

    def _sweep(self, older_than: timedelta) -> int:
        try:
            now = self._now()
            self.pieces.sweep(now.timestamp())
            return sweep(self._means, (now - older_than).timestamp())
        except OSError as error:
            raise translated(error, "sweeping the ingest folder") from error

    def _stats(self) -> StoreStats:
        with self._means.space.counter.held() as usage:
            counted, standing = usage.record, usage.standing
        with os.scandir(self._means.layout.ingest) as entries:
            ingests = sum(entry.name.endswith(".part") for entry in entries)
        space = self._means.space
        return StoreStats(counted.blobs, counted.size, ingests, space.max_size, space.room()[0], standing)


def _timed(steps: Generator[int]) -> float | None:
    """How many seconds the next step took; None: that was all."""
    started = time.monotonic()
    return None if next(steps, None) is None else time.monotonic() - started
