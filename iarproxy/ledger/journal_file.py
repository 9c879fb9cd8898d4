"""The journal outside the database: `journal.jsonl` beside it, one line for each entry.

Rule 1: the database commits first, then the line is appended and synced, then the caller is answered. So the file is
        never ahead of its own database; where it is, the database is an old one (threats T23, R29).
Rule 2: every writer, under the flock, first brings the file up to the database: a line that a killed process did not
        write, or tore, is written by the next one.
Rule 3: only a line that is broken at the end of the file, and that the database has whole, is ever cut off.
Rule 4: after a failed write or sync, what was written since the last good sync is cut off and written again: a page
        whose sync failed is marked clean, and a second sync would lie (threats R18).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger.journal import MAX_LINE, Entry, Head

NAME = "journal.jsonl"
_WINDOWS = (MAX_LINE // 16, 4 * MAX_LINE)  # bytes read from the end to find the last whole line; mostly the first does


@dataclass(frozen=True, slots=True)
class Tail:
    """How the file ends.

    Attributes:
        head: of the last line that is whole.
        end: where that line ends, in bytes.
        size: of the file; larger than `end` where broken lines follow.
        claimed: the least serial that the database must have, counting the broken lines.
    """

    head: Head = Head()  # noqa: RUF009 (a frozen value)
    end: int = 0
    size: int = 0
    claimed: int = 0


def sync_fully(descriptor: int) -> None:
    """Wait until the disk has it; on macOS `fsync` alone leaves it in the drive's cache."""
    command = getattr(fcntl, "F_FULLFSYNC", None)
    if command is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, command)


@dataclass(frozen=True, slots=True)
class Disk:
    """How the file is written and synced; replaced where a disk that fails is wanted."""

    write: Callable[[int, bytes | memoryview], int] = os.write
    sync: Callable[[int], None] = sync_fully


DISK = Disk()


class JournalFile:
    """The file, open for appending. Its directory must exist; the file is created, mode 0600."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk
        self._tail = Tail()
        self._suspect = False
        self._descriptor = -1
        self._open()

    def tail(self) -> Tail:
        """How the file ends now; reads what others appended since the last look."""
        if not self._is_in_place():
            os.close(self._descriptor)
            self._open()
        size = os.fstat(self._descriptor).st_size
        if size < self._tail.end:
            self._tail = _look(self._descriptor, Tail(), size)
        elif self._suspect:
            self._tail = replace(self._tail, size=size)  # what follows the last good sync is written again (rule 4)
        elif size != self._tail.size:
            self._tail = _look(self._descriptor, self._tail, size)
        return self._tail

    def catch_up(self, pages: Iterable[list[Entry]]) -> None:
        """Append `pages`, which continue the last whole line, and sync; what was broken after it is cut off first.

        Raises:
            LedgerDamaged: when they do not continue it.
            OSError: when the disk refuses; the file is put right by the next call.
        """
        tail = Tail(self._tail.head, self._tail.end, self._tail.end, self._tail.head.serial)
        self._suspect = True
        os.ftruncate(self._descriptor, tail.end)
        for page in pages:
            if page[0].previous != tail.head.hash or page[0].serial != tail.head.serial + 1:
                raise LedgerDamaged(
                    f"{self.path} and the database tell different histories; run `iarproxy ledger verify`"
                )
            data = b"".join(entry.line() for entry in page)
            _write(self._descriptor, data, self._disk)
            end = tail.end + len(data)
            tail = Tail(page[-1].head, end, end, page[-1].serial)
        self._disk.sync(self._descriptor)
        self._tail, self._suspect = tail, False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            self._descriptor = os.open(self.path, flags | os.O_CREAT, 0o600)
            os.fchmod(self._descriptor, 0o600)
            sync_directory(self.path.parent)
        self._tail = Tail()
        self._suspect = False

    def _is_in_place(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(self.path.lstat(), os.fstat(self._descriptor))
        return False


def look(path: Path) -> Tail:
    """How the file at `path` ends; an empty tail where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Tail()
    try:
        return _look(descriptor, Tail(), os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[tuple[bytes, Entry | None]]:
    """Each line of the file with its entry; None for one that is broken or torn. Memory is bounded."""
    with path.open("rb") as lines:
        while line := lines.readline(MAX_LINE):
            yield line, Entry.from_line(line.removesuffix(b"\n"))


def export(pages: Iterable[list[Entry]], path: Path) -> None:
    """Write the lines of `pages` to the new file `path`, mode 0600, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        for page in pages:
            _write(descriptor, b"".join(entry.line() for entry in page), DISK)
        DISK.sync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _look(descriptor: int, start: Tail, size: int) -> Tail:
    for window in _WINDOWS:
        begin = max(start.end, size - window)
        tail = _look_from(descriptor, start, size, begin)
        if begin == start.end or tail.end > begin:
            return tail
    raise LedgerDamaged(f"the last {_WINDOWS[-1]} bytes of {NAME} hold no whole line; run `iarproxy ledger restore`")


def _look_from(descriptor: int, start: Tail, size: int, begin: int) -> Tail:
    lines = os.pread(descriptor, size - begin, begin).split(b"\n")
    offset, head, end, broken = begin, start.head, start.end, 0
    if begin > start.end:  # the window opens inside a line
        offset += len(lines.pop(0)) + 1
    for number, line in enumerate(lines, 1):
        entry = Entry.from_line(line) if number < len(lines) else None
        if entry is not None:
            head, end, broken = entry.head, offset + len(line) + 1, 0
        elif line:
            broken += 1
        offset += len(line) + 1
    return Tail(head, end, size, head.serial + broken)


def _write(descriptor: int, data: bytes, disk: Disk) -> None:
    view = memoryview(data)
    while view:
        view = view[disk.write(descriptor, view) :]
