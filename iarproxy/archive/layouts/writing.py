"""Writing a layout: a folder or one archive of documents and blobs, each hashed again on its way.

Rule 1: the same content gives the same bytes; the framing is that of bundles (`oci.volumes`).
Rule 2: a blob that is not what its digest names ends it; what was written is no layout then: in a folder, the files
        that make it one come last.
Rule 3: all of this blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, TypeAlias

from iarproxy.errors import Refused
from iarproxy.oci import Digest
from iarproxy.oci.volumes import END, Literal, Piece, archive, padded

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

Chunks: TypeAlias = Callable[[Digest], Iterable[bytes]]  # a blob's bytes, in pieces of some size


def write_archive(sink: BinaryIO, contents: Sequence[Literal | Piece], chunks: Chunks) -> None:
    """One tar archive; durable where the sink is a file.

    Raises:
        Malformed: something is too large for an archive.
        Refused: a blob is damaged. OSError: the sink does not take it.
    """
    for entry in archive(contents):
        sink.write(entry.header)
        sink.writelines(_data(entry.content, chunks))
        sink.write(bytes(padded(entry.content.size) - entry.content.size))
    sink.write(bytes(END))
    sink.flush()
    with suppress(OSError):  # a pipe
        os.fsync(sink.fileno())


def write_folder(folder: int, contents: Sequence[Literal | Piece], chunks: Chunks) -> None:
    """The same as files below the descriptor of an empty folder. Raises as `write_archive`."""
    made: set[str] = set()
    for content in sorted(contents, key=lambda each: isinstance(each, Literal)):  # rule 2
        for parent in _parents(content.name):
            if parent not in made:
                os.mkdir(parent, 0o755, dir_fd=folder)
                made.add(parent)
        descriptor = os.open(content.name, _NEW, 0o644, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as sink:
            for data in _data(content, chunks):
                sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _data(content: Literal | Piece, chunks: Chunks) -> Iterator[bytes]:
    """The bytes of a file; the last ones of a blob only if it is what its digest names.

    Raises:
        Refused: it is not.
    """
    if isinstance(content, Literal):
        yield content.data
        return
    hasher, size, last = content.digest.hasher(), 0, b""
    for data in chunks(content.digest):
        hasher.update(data)
        size += len(data)
        if size > content.size:
            break
        yield last
        last = data
    if size != content.size or not content.digest.agrees(hasher):
        raise Refused(f"{content.digest} is damaged: its bytes are others; pull it again, or read it from another copy")
    yield last
