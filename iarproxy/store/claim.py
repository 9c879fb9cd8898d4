"""Who leads an ingest: the blocking steps around its lock, and the clearing away of what dead leaders left.

Rule 1: after locking, first compare the lock with its path, then look for the final name: a newcomer after the
        unlink would else start a second transfer.
Rule 2: what is left is resumable when the lock says running or agreed and names the very data file that is there;
        everything else is removed, data first, so that the next one starts from nothing under a new lock.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

from iarproxy.errors import DigestInvalid, StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.store.blobs import StoredBlob, find
from iarproxy.store.disk import remove, translated
from iarproxy.store.layout import Layout
from iarproxy.store.means import Means
from iarproxy.store.state import LockFile, Record, State

_TRIES: Final = 100  # each further one means that another ingest of the digest ended in between


@dataclass(frozen=True, slots=True)
class Published:
    """The final name exists."""

    blob: StoredBlob


@dataclass(frozen=True, slots=True)
class Leading:
    """The lock is ours. `record`: what a dead leader left to go on from; None: nothing."""

    lock: LockFile
    record: Record | None


@dataclass(frozen=True, slots=True)
class Watching:
    """Somebody else leads."""

    lock: LockFile


@dataclass(frozen=True, slots=True)
class Superseded:
    """The lock, ours by now, has lost its name: its ingest ended. `record`: how; None: it was removed."""

    record: Record | None


Claim: TypeAlias = Published | Leading | Watching


def claim(means: Means, digest: Digest) -> Claim:
    """Lead the ingest of `digest`, or learn who does. Blocking.

    Raises:
        StoreFull, StoreUnavailable: there is no room for a lock file, or the disk fails.
    """
    try:
        for _ in range(_TRIES):
            step = examine(means, digest, LockFile.open(means.layout.lock(digest)))
            if not isinstance(step, Superseded):
                return step
    except OSError as error:
        raise translated(error, f"starting the ingest of {digest.short}") from error
    raise StoreUnavailable(f"the lock of {digest.short} is removed again and again; look for a cleaner in the store")


def examine(means: Means, digest: Digest, lock: LockFile) -> Claim | Superseded:
    """Try an open lock. It stays open with `Leading` and `Watching`, and is closed otherwise. Blocking."""
    try:
        step = _examine(means, digest, lock)
    except BaseException:
        lock.close()
        raise
    if not isinstance(step, Leading | Watching):
        lock.close()
    return step


def _examine(means: Means, digest: Digest, lock: LockFile) -> Claim | Superseded:
    if not lock.acquire():
        return Watching(lock)
    record = lock.read()
    if not lock.is_current():
        return Superseded(record)
    if (blob := find(means.layout, digest)) is not None:
        means.press.confirm(digest)  # its leader may have died before it came to that
        clear(means.layout, digest)
        return Published(blob)
    if _is_resumable(means.layout.part(digest), record):
        return Leading(lock, record)
    clear(means.layout, digest)
    return Superseded(None)


def _is_resumable(part: str, record: Record | None) -> bool:
    try:
        found = os.lstat(part)
    except FileNotFoundError:
        return record is None  # a new lock
    return record is not None and record.state in (State.RUNNING, State.AGREED) and record.inode == found.st_ino


def clear(layout: Layout, digest: Digest) -> None:
    """Remove an ingest's files, the data first; the caller holds the lock."""
    remove(layout.part(digest))
    remove(layout.lock(digest))


def discard(layout: Layout, digest: Digest, lock: LockFile, last: Record) -> None:
    """End an ingest for good: say why, remove its files, give the lock back. Blocking."""
    with closing(lock):
        try:
            lock.write(last)
        except OSError:
            pass  # a full disk: followers elsewhere learn from the lock's missing name
        finally:
            clear(layout, digest)


def sweep(means: Means, older_than: float) -> int:
    """Remove what no living leader holds: ingests not written since `older_than` (seconds since the epoch), those
    that cannot be resumed or are published already, and files of dead puts. How many were removed. Blocking.
    """
    with os.scandir(means.layout.ingest) as entries:
        names = [entry.name.rpartition(".") for entry in entries]
    removed = sum(_sweep_put(f"{means.layout.ingest}/{name}.put") for name, _, kind in names if kind == "put")
    for name in {name for name, _, kind in names if kind in ("lock", "part")}:
        if (digest := _digest_of(name)) is not None:
            removed += _sweep_ingest(means, digest, older_than)
    return removed


def _digest_of(name: str) -> Digest | None:
    try:
        return Digest.parse(name.replace("-", ":", 1))
    except DigestInvalid:
        return None


def _sweep_put(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    except BlockingIOError:
        return 0
    finally:
        os.close(fd)
    return 1


def _sweep_ingest(means: Means, digest: Digest, older_than: float) -> int:
    step = examine(means, digest, LockFile.open(means.layout.lock(digest)))
    match step:
        case Leading(lock, record):
            with closing(lock):
                if record is not None and os.lstat(means.layout.part(digest)).st_mtime >= older_than:
                    return 0
                clear(means.layout, digest)
            return 1
        case Watching(lock):
            lock.close()
            return 0
        case Published() | Superseded():
            return 1
