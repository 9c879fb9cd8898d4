"""The lock file of an ingest: who leads, how large the blob is, and how it ended.

Rule 1: holding the flock of `ingest/<digest>.lock` is leading; the kernel drops it with its holder.
Rule 2: after locking, the lock counts only if its path still names the same inode.
Rule 3: one lock inode belongs to one data inode for its whole life: followers elsewhere read both after their names
        are gone.
Rule 4: running and agreed may alternate (a taker starts over from what is there); failed and abandoned are final.
Rule 5: the record carries its own checksum, since reads are not atomic with writes; a torn one reads as none.
Rule 6: a forked child closes its copy: the lock must die with its holder.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Self
from weakref import WeakSet

import orjson

from iarproxy import errors
from iarproxy.errors import IarproxyError, Unavailable
from iarproxy.store.checked import opened, sealed

RECORD_SIZE: Final = 2048
_MESSAGE: Final = 600

_KINDS: Final[dict[str, type[IarproxyError]]] = {
    kind.__name__: kind
    for kind in (
        errors.Refused,
        errors.UnknownName,
        errors.UnknownManifest,
        errors.UnknownBlob,
        errors.Denied,
        errors.Unsupported,
        errors.Unavailable,
        errors.UpstreamUnavailable,
        errors.UpstreamTimeout,
        errors.UpstreamBusy,
        errors.UpstreamWrong,
        errors.UpstreamLoops,
        errors.StoreUnavailable,
        errors.StoreFull,
    )
}


class State(StrEnum):
    """Where an ingest stands."""

    RUNNING = "running"
    AGREED = "agreed"
    FAILED = "failed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that crosses processes: raised anew, as the same type, in every follower.

    Attributes:
        retry_after: seconds; None: nobody said.
    """

    kind: str
    message: str
    retry_after: float | None = None
    detail: dict[str, str | int] = field(default_factory=dict)

    @classmethod
    def of(cls, error: IarproxyError) -> Self:
        """What `error` says, as its nearest type that other processes know."""
        kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS), "Unavailable")
        retry_after = error.retry_after if isinstance(error, Unavailable) else None
        detail = {key: _clean(value) if isinstance(value, str) else value for key, value in error.detail.items()}
        return cls(kind, _clean(str(error))[:_MESSAGE], retry_after, detail)

    def error(self) -> IarproxyError:
        """A fresh exception: one object raised in many tasks would pile up their tracebacks."""
        error = _KINDS.get(self.kind, Unavailable)(self.message)
        error.detail = dict(self.detail)
        if isinstance(error, Unavailable):
            error.retry_after = self.retry_after
        return error


@dataclass(frozen=True, slots=True)
class Record:
    """What the lock file says.

    Attributes:
        inode: of the data file.
        size: the blob's size in bytes; None: not told yet.
        reserved: bytes of the store's `max_size` that this ingest holds; 0: size unknown.
        failure: set exactly when the state is failed.
    """

    state: State
    inode: int
    size: int | None = None
    reserved: int = 0
    failure: Failure | None = None

    def pack(self) -> bytes:
        """The record as `RECORD_SIZE` bytes; a failure too long for it loses its detail, then its message's end."""
        body = orjson.dumps(self)
        if len(body) > RECORD_SIZE - 9 and self.failure is not None:
            shorter = replace(self.failure, detail={}, message=self.failure.message[: len(self.failure.message) // 2])
            return replace(self, failure=shorter).pack()
        return sealed(body).ljust(RECORD_SIZE)

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        """The record in `raw`; None: there is none, or it is torn."""
        body = opened(raw)
        if body is None:
            return None
        found = orjson.loads(body)
        failure = Failure(**found["failure"]) if found["failure"] else None
        return cls(State(found["state"]), found["inode"], found["size"], found["reserved"], failure)


def _clean(text: str) -> str:
    """`text` as UTF-8 can carry it: names of files may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()


class LockFile:
    """An open lock file; `acquire` makes its holder the leader. Closing it gives the lock back."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        _open_locks.add(self)

    @classmethod
    def open(cls, path: str) -> Self:
        """Open or create the lock file at `path`, without locking it."""
        return cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def acquire(self) -> bool:
        """Try to lock, without waiting."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_current(self) -> bool:
        """Whether the path still names this very file."""
        ours = os.fstat(self.fd)
        try:
            theirs = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def read(self) -> Record | None:
        """The record; None: not written yet, or torn just now."""
        return Record.unpack(os.pread(self.fd, RECORD_SIZE, 0))

    def write(self, record: Record) -> None:
        """Replace the record; only the holder of the lock may."""
        os.pwrite(self.fd, record.pack(), 0)

    def close(self) -> None:
        """Close, and thereby unlock."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


_open_locks: WeakSet[LockFile] = WeakSet()


def _close_in_child() -> None:
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)
