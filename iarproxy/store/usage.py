"""The counter of bytes and blobs under final names, shared by all processes; the folders are never walked for it.

Rule 1: final names change under the counter's lock only, and each change is written ahead: the next holder looks
        whether that one name is there, so a process killed in between leaves an exact counter.
Rule 2: what the disk holds after a power cut is at most `slack` bytes below the folders: before it would grow further,
        the counter is synced; half way there already, without the lock, so that no admission waits for the disk. So one
        that was not written since this machine started is `STALE`, and bounded.
Rule 3: one that is missing or damaged is `LOST`. Few blobs are then counted at once, more by a `recount`, meanwhile
        nothing is said to fit.
Rule 4: while a recount runs, the names that change are noted, and looked at again at its end.
Rule 5: whoever restores a copy, or removes blobs by hand, tells nobody. So the record says how the folders were when it
        was written (`traces`); a `serve` that finds them otherwise begins with a counter that is `STALE`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final, Self, assert_never
from uuid import uuid4

import orjson

from iarproxy.errors import StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.oci.digest import ALGORITHMS
from iarproxy.store.checked import opened, sealed
from iarproxy.store.disk import Disk, write_all
from iarproxy.store.layout import Layout

FEW: Final = 10_000  # blobs counted at once, under the lock: at most some 50 ms
_WIDTH: Final = 512
_DEADLINE: Final = 5.0  # seconds; a holder needs microseconds, so a longer wait means a hung one
_UNKNOWN: Final = ""
_UNTOLD: Final = "untold"  # stands for the run of a machine that does not tell it
_EARLIER: Final = "earlier"


def boot() -> str | None:
    """What names this run of the machine, over all its processes and containers; None: the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
    except OSError:
        return None


class Standing(Enum):
    """How far a count can be relied on."""

    EXACT = "exact"
    STALE = "stale"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Record:
    """What the file says. `size` and `low` are in bytes.

    Attributes:
        run: of the machine, in which it was exact; empty: it was lost and is not counted yet.
        low: the least size since it was last synced.
        pending: the digest whose final name is about to appear (`size` above zero or `blobs` 1) or to go, with what
            that changes; None: nothing is under way.
        noting: a recount runs.
        traces: see `Counter.traces`; empty: from an older iarproxy.
        syncing: who syncs it without the lock, and the least size since that began; None: nobody.
    """

    size: int
    blobs: int
    run: str
    low: int
    pending: tuple[str, int, int] | None = None
    noting: bool = False
    traces: str = ""
    syncing: tuple[str, int] | None = None

    def pack(self) -> bytes:
        """The record as `_WIDTH` bytes with a checksum: a power cut may leave half of it."""
        body = orjson.dumps(self)
        return sealed(body).ljust(_WIDTH - 1) + b"\n"

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        """The record in `raw`; None: there is none."""
        body = opened(raw)
        if body is None:
            return None
        found = orjson.loads(body)
        pending, syncing = found.pop("pending"), found.pop("syncing", None)
        return cls(**found, pending=tuple(pending) if pending else None, syncing=tuple(syncing) if syncing else None)

    def applied(self, size: int, blobs: int) -> Record:
        """With so many bytes and blobs more, and nothing pending."""
        changed = max(0, self.size + size)
        blobs = max(0, self.blobs + blobs)
        syncing = None if self.syncing is None else (self.syncing[0], min(self.syncing[1], changed))
        return replace(self, size=changed, blobs=blobs, low=min(self.low, changed), pending=None, syncing=syncing)


class Usage:
    """The counter while its lock is held."""

    def __init__(self, counter: Counter, fd: int, record: Record) -> None:
        self._counter, self._fd, self.record = counter, fd, record

    @property
    def standing(self) -> Standing:
        """How far the count can be relied on."""
        if self.record.run == _UNKNOWN:
            return Standing.LOST
        return Standing.EXACT if self.record.run == self._counter.run else Standing.STALE

    @property
    def most(self) -> int | None:
        """What the blobs take at most, in bytes; None: that is not known."""
        match self.standing:
            case Standing.EXACT:
                return self.record.size
            case Standing.STALE:
                return self.record.size + self._counter.slack
            case Standing.LOST:
                return None
            case _:
                assert_never(self.standing)

    @contextmanager
    def appearing(self, digest: Digest, size: int) -> Iterator[None]:
        """In the body, the final name of a blob of `size` bytes appears, which was not there."""
        self._ahead((str(digest), size, 1))
        try:
            yield
        finally:
            self.settle()

    @contextmanager
    def going(self, digest: Digest, size: int) -> Iterator[None]:
        """In the body, the final name of a blob of `size` bytes goes."""
        self._ahead((str(digest), -size, -1))
        try:
            yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Count what is pending, if it came about: by the one name alone, whoever began it and however it ended."""
        if self.record.pending is not None:
            digest, size, blobs = self.record.pending
            there = os.path.lexists(self._counter.layout.blob(Digest.parse(digest)))
            self.write(self.record.applied(size, blobs) if there == (blobs > 0) else replace(self.record, pending=None))

    def write(self, record: Record, *, sync: bool = False) -> None:
        """Replace the record, durably where `sync`; only this holder can see half of it."""
        record = replace(record, traces=self._counter.traces())
        self.record = replace(record, low=record.size, syncing=None) if sync else record
        os.pwrite(self._fd, self.record.pack(), 0)
        if sync:
            self._counter.disk.fsync(self._fd)

    def _ahead(self, change: tuple[str, int, int]) -> None:
        if self.record.noting:
            self._counter.note(change[0])
        grown = self.record.size + max(0, change[1]) - self.record.low
        self.write(replace(self.record, pending=change), sync=grown > self._counter.slack)


class Counter:
    """The counter of one store.

    Args:
        layout: where it lies.
        disk: the seam for its syncs.
        slack: bytes; see rule 2.
        run: what `boot` says.
    """

    def __init__(self, layout: Layout, disk: Disk, *, slack: int, run: str | None) -> None:
        self.layout, self.disk, self.slack = layout, disk, slack
        self.run = run or _UNTOLD

    @contextmanager
    def held(self) -> Iterator[Usage]:
        """The counter, locked against every thread and process, and settled."""
        fd = os.open(self.layout.usage, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd)
            record = Record.unpack(os.pread(fd, _WIDTH, 0))
            usage = Usage(self, fd, record or self._found())
            if record is None:
                usage.write(usage.record)
            usage.settle()
            yield usage
        finally:
            os.close(fd)

    def doubt(self) -> None:
        """A `serve` begins: take the counter for stale where the system does not tell whether it was restarted, or
        where the folders were changed by somebody who does not count.
        """
        with self.held() as usage:
            foreign = usage.record.traces != self.traces() and usage.standing is Standing.EXACT
            if foreign or usage.record.run == _UNTOLD:
                usage.write(replace(usage.record, run=_EARLIER))

    def traces(self) -> str:
        """What changes when a name in the folders of blobs does, or the store is copied; costs a stat of each."""
        found = []
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                folder = os.stat(f"{self.layout.root}/blobs/{algorithm}")  # noqa: PTH116  # paths are plain strings here
                found.append(f"{folder.st_ino} {folder.st_mtime_ns}")
        return " ".join(found)

    def sync_early(self) -> None:
        """Sync the counter where half the slack is used up. Nobody else waits for the disk meanwhile."""
        mine = uuid4().hex
        with self.held() as usage:
            record = usage.record
            if record.syncing is not None or record.size - record.low <= self.slack // 2:
                return
            usage.write(replace(record, syncing=(mine, record.size)))
        fd = os.open(self.layout.usage, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.disk.fsync(fd)
        finally:
            os.close(fd)
        with self.held() as usage:
            if usage.record.syncing is not None and usage.record.syncing[0] == mine:
                usage.write(replace(usage.record, low=usage.record.syncing[1], syncing=None))

    def note(self, digest: str) -> None:
        """Tell the recount that runs that the name of `digest` changes."""
        fd = os.open(self.layout.changes, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(self.disk, fd, f"\n{digest}\n".encode())
        finally:
            os.close(fd)

    def _found(self) -> Record:
        """The record of a store that has none: counted where blobs are few, else lost."""
        size = count = 0
        for _, each in blobs(self.layout):
            size, count = size + each, count + 1
            if count > FEW:
                return Record(0, 0, _UNKNOWN, 0)
        return Record(size, count, self.run, size)


def blobs(layout: Layout) -> Iterator[tuple[str, int]]:
    """The name and size of everything in the folders of blobs; costs some microseconds for each."""
    for algorithm in ALGORITHMS:
        with os.scandir(f"{layout.root}/blobs/{algorithm}") as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue


def _lock(fd: int) -> None:
    give_up = time.monotonic() + _DEADLINE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise StoreUnavailable("the store's counter is held by a hung process; end it") from None
            time.sleep(0.001)
        else:
            return
