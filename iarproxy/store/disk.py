"""The few disk calls whose failure must be testable, and what an `OSError` means to callers.

Rule 1: bytes are written, made durable and named only through a `Disk`, so that ENOSPC and EIO are tests.
Rule 2: an `OSError` leaves this room as `StoreFull` (ENOSPC, EDQUOT) or `StoreUnavailable`, never as itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final, Protocol

from iarproxy.errors import StoreFull, StoreUnavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_FSYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache


class Disk(Protocol):
    """The seam for disk faults; each call raises `OSError` as the kernel does."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append some of `data`; how many bytes were taken."""
        ...

    def fsync(self, fd: int) -> None:
        """Wait until the file or directory is on stable storage."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give `source` the name `target`; `FileExistsError` where that name is taken."""
        ...

    def room(self, path: str) -> tuple[int, int]:
        """Bytes that this user may still write on the file system of `path`, and its whole size."""
        ...


class OsDisk:
    """The kernel's disk."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """See `Disk.write`."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """See `Disk.fsync`."""
        if _FULL_FSYNC is None:
            os.fsync(fd)
        else:
            fcntl.fcntl(fd, _FULL_FSYNC)

    def link(self, source: str, target: str) -> None:
        """See `Disk.link`."""
        os.link(source, target, follow_symlinks=False)

    def room(self, path: str) -> tuple[int, int]:
        """See `Disk.room`."""
        told = os.statvfs(path)
        return told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data`; a short write is continued."""
    left = memoryview(data)
    while left:
        left = left[disk.write(fd, left) :]


def sync_directory(disk: Disk, path: str) -> None:
    """Make the names in the directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Unlink `path`; a name that is gone already is as good."""
    try:
        os.unlink(path)  # noqa: PTH108  # paths are plain strings here: the hot path builds no Path objects
    except FileNotFoundError:
        return


def translated(error: OSError, doing: str) -> StoreUnavailable:
    """The failure that callers see for a disk's `error` while `doing` something."""
    said = f"{doing}: {error.strerror or error}"
    if error.errno in FULL:
        return StoreFull(f"{said}; free some space or raise the quota", errno=error.errno)
    return StoreUnavailable(f"{said}; look at the disk and the system log", errno=error.errno)
