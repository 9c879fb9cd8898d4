"""How much the store holds, counted over all workers, and whether another blob may come in.

Rule 1: admission is decided before anything is fetched, where the size is known; it never grows past `max_size`.
Rule 2: running ingests count with what they reserved: admission writes the reservation under the counter's lock.
        One whose size nobody tells may take what was left when it began.
Rule 3: blobs leave `reserve` bytes of the disk free; manifests and the ledger may use it, so that pins stay durable.
Rule 4: admission believes the counter (see `usage`): one that may be too low counts as higher by as much.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from iarproxy.errors import StoreFull
from iarproxy.store.disk import Disk
from iarproxy.store.layout import Layout
from iarproxy.store.state import RECORD_SIZE, LockFile, Record
from iarproxy.store.usage import Counter

_SLACK: Final = 64  # a power cut may cost the counter this part of `max_size`
_MIB: Final = 1024 * 1024


class Space:
    """The store's budget. `reserve`: bytes of the disk to leave free; None: 2 % of it, at most 256 MiB."""

    def __init__(self, layout: Layout, disk: Disk, *, max_size: int, reserve: int | None, run: str | None) -> None:
        self.max_size = max_size
        self.counter = Counter(layout, disk, slack=max_size // _SLACK, run=run)
        self._layout = layout
        self._disk = disk
        self._reserve = reserve

    def room(self) -> tuple[int, int]:
        """Free bytes and size of the disk below the store."""
        return self._disk.room(self._layout.root)

    def insist(self, size: int) -> None:
        """Return if the disk has room for so many bytes more.

        Raises:
            StoreFull: it has not.
        """
        self._check_disk(size)

    def admit(self, lock: LockFile, record: Record, size: int | None) -> int:
        """Reserve room for the ingest that `lock` leads and write its record; how many bytes it may grow to.

        Args:
            lock: held by the caller.
            record: what the lock file shall say; its `reserved` is set here.
            size: the blob's size in bytes; None: nobody told, so it may take what is left.

        Raises:
            StoreFull: no room; nothing was reserved.
        """
        with self.counter.held() as usage:
            if (most := usage.most) is None:
                raise StoreFull("the store is counted anew and keeps nothing new until that is done; wait a minute")
            others, outstanding = self._ingests(but=os.fstat(lock.fd).st_ino)
            used = most + others
            left = self.max_size - used
            if left <= 0 or (size or 0) > left:
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
                f"the disk is too full for {wanted} bytes more: {free} are free and {reserve} are kept back; free some",
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
