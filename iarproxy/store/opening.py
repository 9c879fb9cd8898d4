"""The blocking steps with which a leader begins, in one hop to a thread: lock, data file, room, record.

Rule 1: room is reserved before upstream is asked, where the size is known; where it becomes known, again.
Rule 2: before an ingest is refused for want of room, what dead leaders left is removed.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from iarproxy.errors import IarproxyError, StoreFull
from iarproxy.oci import Digest
from iarproxy.store.claim import Claim, Leading, Published, Superseded, Watching, claim, examine, sweep
from iarproxy.store.disk import translated
from iarproxy.store.means import Means
from iarproxy.store.part import Part
from iarproxy.store.state import LockFile, Record, State


class Granted(NamedTuple):
    """Room in the store, and the record that says so. `room`: bytes that the ingest may grow to."""

    record: Record
    room: int


@dataclass(frozen=True, slots=True)
class Opened:
    """What a leader works with. `reader`: a descriptor of the same file, for the followers."""

    part: Part
    reader: int
    granted: Granted

    def close(self) -> None:
        """Give it back."""
        self.part.close()
        os.close(self.reader)


@dataclass(frozen=True, slots=True)
class Begun:
    """The lead of an ingest. `opened`: or why it cannot be led."""

    lock: LockFile
    opened: Opened | IarproxyError


Step: TypeAlias = Published | Begun | Watching


def begin(means: Means, digest: Digest, expected: int | None) -> Step:
    """Lead the ingest of `digest`, or learn who does. Blocking. `expected`: the blob's size, where it is known.

    Raises:
        StoreFull, StoreUnavailable: there is no room for a lock file, or the disk fails.
    """
    return _begun(means, digest, expected, claim(means, digest))


def succeed(means: Means, digest: Digest, expected: int | None, lock: LockFile) -> Step | Superseded:
    """As `begin`, by a lock that was watched so far. Blocking."""
    step = examine(means, digest, lock)
    return step if isinstance(step, Superseded) else _begun(means, digest, expected, step)


def give_back(step: Step | Superseded) -> None:
    """Close what a step holds: its asker is gone."""
    if isinstance(step, Begun | Watching):
        step.lock.close()
    if isinstance(step, Begun) and isinstance(step.opened, Opened):
        step.opened.close()


def _begun(means: Means, digest: Digest, expected: int | None, step: Claim) -> Step:
    if not isinstance(step, Leading):
        return step
    opened: Opened | IarproxyError
    try:
        opened = _open(means, digest, step, expected)
    except OSError as error:
        opened = translated(error, f"opening the ingest of {digest.short}")
    except IarproxyError as error:
        opened = error
    return Begun(step.lock, opened)


def _open(means: Means, digest: Digest, leading: Leading, expected: int | None) -> Opened:
    path, record = means.layout.part(digest), leading.record or Record(State.RUNNING, inode=0)
    with ExitStack() as opened:
        part = opened.enter_context(Part(path, digest, means.disk, fresh=leading.record is None))
        reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        opened.callback(os.close, reader)
        record = replace(record, state=State.RUNNING, inode=os.fstat(reader).st_ino)
        granted = admit(means, leading.lock, record, expected if record.size is None else record.size)
        opened.pop_all()
    return Opened(part, reader, granted)


def admit(means: Means, lock: LockFile, record: Record, size: int | None) -> Granted:
    """Reserve room for `size` bytes (None: nobody knows) and write `record`. Blocking.

    Raises:
        StoreFull, StoreUnavailable: there is none, or the disk fails.
    """
    try:
        room = _admit(means, lock, record, size)
    except OSError as error:
        raise translated(error, "reserving room for an ingest") from error
    return Granted(replace(record, reserved=size or 0), room)


def note(lock: LockFile, record: Record) -> None:
    """Write `record`. Blocking.

    Raises:
        StoreUnavailable: the disk fails.
    """
    try:
        lock.write(record)
    except OSError as error:
        raise translated(error, "writing the record of an ingest") from error


def _admit(means: Means, lock: LockFile, record: Record, size: int | None) -> int:
    try:
        return means.space.admit(lock, record, size)
    except StoreFull:
        if not sweep(means, math.inf):
            raise
        return means.space.admit(lock, record, size)
