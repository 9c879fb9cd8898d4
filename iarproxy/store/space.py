"""How much the store holds, counted over all workers, and whether another blob may come in.

Rule 1: admission is decided before anything is fetched, where the size is known; it never grows past `max_size`.
Rule 2: running ingests count with what they reserved: admission writes the reservation under the counter's lock.
        One whose size nobody tells may take what was left when it began.
Rule 3: blobs leave `reserve` bytes of the disk free; manifests and the ledger may use it, so that pins stay durable.
Rule 4: the counter is a memory of what the folders say: lost or unreadable, it is counted anew.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from iarproxy.errors import StoreFull, StoreUnavailable
from iarproxy.oci.digest import ALGORITHMS
from iarproxy.store.disk import Disk
from iarproxy.store.layout import Layout
from iarproxy.store.state import RECORD_SIZE, LockFile, Record

_WIDTH: Final = 64
_DEADLINE: Final = 5.0  # seconds; a holder needs microseconds, so a longer wait means a hung one
_MIB: Final = 1024 * 1024


@dataclass(slots=True)
class Usage:
    """Bytes and number of the blobs under their final names."""

    size: int
    blobs: int

    def add(self, size: int) -> None:
        """Count one more blob of `size` bytes."""
        self.size += size
        self.blobs += 1

    def take(self, size: int) -> None:
        """Count one blob of `size` bytes less."""
        self.size = max(0, self.size - size)
        self.blobs = max(0, self.blobs - 1)


class Space:
    """The store's budget. `reserve`: bytes of the disk to leave free; None: 2 % of it, at most 256 MiB."""

    def __init__(self, layout: Layout, disk: Disk, *, max_size: int, reserve: int | None) -> None:
        self.max_size = max_size
        self._layout = layout
        self._disk = disk
        self._reserve = reserve

    @contextmanager
    def counting(self) -> Iterator[Usage]:
        """The counter, locked against every thread and process; what the body changes is written back."""
        fd = os.open(self._layout.usage, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd)
            before = _parse(os.pread(fd, _WIDTH, 0))
            usage = before or self._scan()
            known = replace(before) if before else None
            try:
                yield usage
            finally:
                if usage != known:
                    os.pwrite(fd, f"{usage.size} {usage.blobs}".ljust(_WIDTH - 1).encode() + b"\n", 0)
        finally:
            os.close(fd)

    def rebuild(self) -> None:
        """Count the folders anew."""
        with self.counting() as usage:
            found = self._scan()
            usage.size, usage.blobs = found.size, found.blobs

    def room(self) -> tuple[int, int]:
        """Free bytes and size of the disk below the store."""
        return self._disk.room(self._layout.root)

    def admit(self, lock: LockFile, record: Record, size: int | None) -> int:
        """Reserve room for the ingest that `lock` leads and write its record; how many bytes it may grow to.

        Args:
            lock: held by the caller.
            record: what the lock file shall say; its `reserved` is set here.
            size: the blob's size in bytes; None: nobody told, so it may take what is left.

        Raises:
            StoreFull: no room; nothing was reserved.
        """
        with self.counting() as usage:
            others, outstanding = self._ingests(but=os.fstat(lock.fd).st_ino)
            left = self.max_size - usage.size - others
            if left <= 0 or (size or 0) > left:
                used = usage.size + others
                told = f"the store is full: {used} of {self.max_size} bytes are used; raise [store] max_size"
                raise StoreFull(told, used=used, max_size=self.max_size)
            self._check_disk(max(0, (size or 0) - _size(_part_of(lock.path))) + outstanding)
            lock.write(replace(record, reserved=size or 0))
            return left if size is None else size

    def _check_disk(self, wanted: int) -> None:
        free, whole = self.room()
        reserve = min(whole // 50, 256 * _MIB) if self._reserve is None else self._reserve
        if free - wanted < reserve:
            raise StoreFull(
                f"the disk is full: {free} bytes are free and {reserve} are kept back; free some space",
                free=free,
                reserve=reserve,
            )

    def _ingests(self, but: int) -> tuple[int, int]:
        """What the ingests but that with lock inode `but` hold or reserved, and what of it is not written yet."""
        held = outstanding = 0
        with os.scandir(self._layout.ingest) as entries:
            locks = [entry.path for entry in entries if entry.name.endswith(".lock") and entry.inode() != but]
        for path in locks:
            if _is_published(_part_of(path)):
                continue  # counted as a blob already
            reserved, written = _reserved(path), _size(_part_of(path))
            held += max(reserved, written)
            outstanding += max(0, reserved - written)
        return held, outstanding

    def _scan(self) -> Usage:
        usage = Usage(0, 0)
        for algorithm in ALGORITHMS:
            with os.scandir(f"{self._layout.root}/blobs/{algorithm}") as entries:
                for entry in entries:
                    usage.add(_size(entry.path))
        return usage


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


def _parse(raw: bytes) -> Usage | None:
    words = raw.split()
    if len(raw) != _WIDTH or len(words) != 2 or not all(word.isdigit() for word in words):  # noqa: PLR2004  # size, blobs
        return None
    return Usage(int(words[0]), int(words[1]))


def _reserved(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        record = Record.unpack(os.pread(fd, RECORD_SIZE, 0))
    finally:
        os.close(fd)
    return record.reserved if record else 0


def _is_published(part: str) -> bool:
    try:
        return os.lstat(part).st_nlink > 1
    except FileNotFoundError:
        return False


def _part_of(lock: str) -> str:
    return lock.removesuffix(".lock") + ".part"


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
