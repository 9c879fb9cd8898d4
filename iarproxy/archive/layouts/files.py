"""The files of a layout or archive of others: a folder, a tar archive, or one compressed by gzip. Nothing is extracted.

Rule 1: what is given is opened read-only, once, and has to be a regular file or a folder; no symbolic link is followed,
        neither to it nor below it. A folder is asked for names that iarproxy itself makes up, and for no other one.
Rule 2: of a tar archive the headers are read, strictly (`oci.tar_entries`), then ranges of bytes.
Rule 3: what a compressed archive may expand to is bounded by its own size, before anything of it is believed.
Rule 4: all of this blocks; whoever is on a loop calls it in a thread.
"""

from __future__ import annotations

import os
import stat
import threading
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from iarproxy.errors import Malformed, Refused
from iarproxy.oci.tar_entries import Contents, Extent, clean, entries

CHUNK: Final = 1024 * 1024  # bytes
MOST_TIMES: Final = 40  # as large may an archive become when it is decompressed
_SMALL: Final = 64 * 1024 * 1024  # bytes that any may become
_PASSES: Final = 4  # how often as much as the limit is decompressed, all in all
_GZIP: Final = b"\x1f\x8b"
_OTHERS: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2"}
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Read: TypeAlias = Callable[[int, int], bytes]  # at most so many bytes from an offset on; fewer at the end


class Files(Protocol):
    """Where the files of a layout or archive are.

    Attributes:
        called: what a person called it, for messages.
        is_sequential: it is read from its beginning to its end; `place` says where a file is.
        links: names that are symbolic links.
    """

    called: str
    is_sequential: bool

    @property
    def links(self) -> Collection[str]:
        """See above."""
        ...

    def place(self, name: str) -> Extent | None:
        """Where the regular file of that name is; None: there is none."""
        ...

    def opened(self, name: str) -> Iterator[Read]:
        """The bytes of a file that is there; to be used by `reading`."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@contextmanager
def reading(files: Files, name: str) -> Iterator[Read]:
    """The bytes of a file that is there.

    Raises:
        Refused: they cannot be read.
    """
    try:
        yield from files.opened(name)
    except OSError as error:
        raise Refused(f"{files.called}: {name} cannot be read: {error.strerror}") from error


def small(files: Files, name: str, limit: int) -> bytes | None:
    """All bytes of a small file; None: there is none of that name.

    Raises:
        Malformed: it is larger than `limit` bytes. Refused: it cannot be read.
    """
    place = files.place(name)
    if place is None:
        return None
    if place.size > limit:
        raise Malformed(f"{files.called}: {name} has {place.size} bytes; at most {limit} are read")
    with reading(files, name) as read:
        return read(0, place.size)


def open_files(path: Path) -> Files:
    """The files at `path`: a folder, or an archive.

    Raises:
        Refused: it cannot be read, or is neither. Malformed: it is an archive that is not read.
    """
    called = str(path)
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        what = "it is a symbolic link; name what it leads to" if path.is_symlink() else error.strerror
        raise Refused(f"{called} cannot be read: {what}") from error
    try:
        return _files(called, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


class Folder:
    """A folder; files are looked for where they are asked for."""

    is_sequential = False
    links: Collection[str] = ()  # none is followed

    def __init__(self, called: str, descriptor: int) -> None:
        self.called = called
        self._descriptor = descriptor

    def place(self, name: str) -> Extent | None:
        """See `Files`."""
        try:
            descriptor = self._open(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(f"{self.called}: {name} cannot be read: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Malformed(f"{self.called}: {name} is no regular file")
        return Extent(0, found.st_size)

    def opened(self, name: str) -> Iterator[Read]:
        """See `Files`."""
        descriptor = self._open(name)
        try:
            yield lambda offset, count: _exactly(descriptor, offset, count)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """See `Files`."""
        os.close(self._descriptor)

    def _open(self, name: str) -> int:
        """Open a file below the folder, part by part, so that no part is a link."""
        *folders, last = clean(name).split("/")
        within = os.dup(self._descriptor)
        try:
            for folder in folders:
                inner = os.open(folder, _READ | os.O_DIRECTORY, dir_fd=within)
                os.close(within)
                within = inner
            return os.open(last, _READ, dir_fd=within)
        finally:
            os.close(within)


class Archive:
    """A tar archive, as `read` gives its bytes."""

    def __init__(self, called: str, read: Read, descriptor: int, *, is_sequential: bool) -> None:
        self.called = called
        self.is_sequential = is_sequential
        self._read = read
        self._descriptor = descriptor
        self._contents = _scanned(called, read)

    @property
    def links(self) -> Collection[str]:
        """See `Files`."""
        return self._contents.links

    def place(self, name: str) -> Extent | None:
        """See `Files`."""
        return self._contents.resolved(name)

    def opened(self, name: str) -> Iterator[Read]:
        """See `Files`."""
        place = self._contents.resolved(name)
        if place is None:
            raise Malformed(f"{self.called}: there is no {name} in it")
        extent = place
        yield lambda offset, count: self._read(extent.at + offset, max(0, min(count, extent.size - offset)))

    def close(self) -> None:
        """See `Files`."""
        os.close(self._descriptor)


class Inflated:
    """The bytes that a gzip file stands for, from its beginning to its end; going back means beginning anew."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._limit = _SMALL + MOST_TIMES * os.fstat(descriptor).st_size
        self._spent = 0  # bytes that were decompressed so far, some of them again and again
        self._one_at_a_time = threading.Lock()
        self._begin()

    def __call__(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset` on.

        Raises:
            Malformed: they are damaged, or more than a sound archive of that size would have.
        """
        with self._one_at_a_time:
            return self._bytes(offset, count)

    def _bytes(self, offset: int, count: int) -> bytes:
        if offset < self._at:
            self._begin()
        while self._at < offset and (skipped := self._next(min(CHUNK, offset - self._at))):
            self._at += len(skipped)
        pieces: list[bytes] = []
        while count and (piece := self._next(count)):
            pieces.append(piece)
            count -= len(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def _begin(self) -> None:
        self._at = 0  # in what it stands for
        self._from = 0  # in the file
        self._rest = b""
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def _next(self, most: int) -> bytes:
        """Some of the next bytes; none at the end."""
        while True:
            if not self._rest:
                self._rest = os.pread(self._descriptor, CHUNK, self._from)
                self._from += len(self._rest)
            if self._member.eof:
                if not self._rest.startswith(_GZIP[: len(self._rest)]) or not self._rest:
                    return b""
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)  # another one behind it, as pigz makes
            if not self._rest:
                raise Malformed("it ends in the middle: it was cut short")
            found = self._inflate(most)
            if found:
                return found

    def _inflate(self, most: int) -> bytes:
        try:
            found = self._member.decompress(self._rest, most)
        except zlib.error as error:
            raise Malformed(f"it is damaged: {error}") from error
        self._rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._spent += len(found)
        if self._spent > _PASSES * self._limit:
            raise Malformed(
                f"its files are in an order in which it would be decompressed over {_PASSES} times; gunzip it"
            )
        if self._at + len(found) > self._limit:
            raise Malformed(
                f"it expands to over {self._limit} bytes, {MOST_TIMES} times its size; decompress it yourself if that"
                " is what you expect"
            )
        return found


def _files(called: str, descriptor: int) -> Files:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        return Folder(called, descriptor)
    if not stat.S_ISREG(mode):
        raise Refused(f"{called} is no regular file and no folder")
    start = os.pread(descriptor, 6, 0)
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise Malformed(f"{called} is compressed by {name}; decompress it first")
    if start.startswith(_GZIP):
        return Archive(called, Inflated(descriptor), descriptor, is_sequential=True)
    return Archive(called, lambda offset, count: _exactly(descriptor, offset, count), descriptor, is_sequential=False)


def _scanned(called: str, read: Read) -> Contents:
    steps = entries()
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(read(*wanted))
    except StopIteration as end:
        found: Contents = end.value
        return found
    except Malformed as error:
        raise Malformed(f"{called}: {error}") from error


def _exactly(descriptor: int, offset: int, count: int) -> bytes:
    """As many bytes as there are, up to `count`."""
    pieces: list[bytes] = []
    while count and (piece := os.pread(descriptor, count, offset)):
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)
