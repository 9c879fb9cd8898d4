"""Where exports come from: documents and blobs of the store, and those in the volumes of a bundle.

Rule: a bundle's volumes are read as its manifest says that they are. Whether the bundle is to be trusted is another
      question (`iarproxy bundle verify`); each blob is hashed on its way, as from the store.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from iarproxy.archive.layouts_export import Load
from iarproxy.archive.layouts_files import CHUNK
from iarproxy.archive.layouts_writing import Chunks
from iarproxy.archive.staging import MANIFEST, volume_name
from iarproxy.errors import Refused
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, parse_manifest
from iarproxy.oci.bundle_layout import layout_files, volumes_of
from iarproxy.oci.bundle_manifest import MAX_BUNDLE, BundleManifest
from iarproxy.oci.volumes import Extent, Literal, Piece, extents
from iarproxy.store import Store

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def load_from(store: Store) -> Load:
    """Documents of the store, checked."""

    async def load(descriptor: Descriptor) -> Manifest | None:
        raw = await store.read(descriptor.digest, MAX_MANIFEST)
        return None if raw is None else parse_manifest(raw, descriptor.media_type, descriptor.digest)

    return load


def size_in(store: Store) -> Callable[[Digest], int | None]:
    """The sizes of held blobs, in bytes."""

    def size(digest: Digest) -> int | None:
        found = store.find(digest)
        return None if found is None else found.size

    return size


def chunks_of(store: Store) -> Chunks:
    """The bytes of blobs of the store."""

    def chunks(digest: Digest) -> Iterator[bytes]:
        found = store.find(digest)
        if found is None:
            raise Refused(f"{digest} is not held any more")
        with os.fdopen(found.open(), "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                yield data

    return chunks


def joined(folder: Path) -> tuple[list[Literal | Piece], Chunks]:
    """All that the volumes of a bundle hold, as the files of one layout, and where their bytes are.

    Raises:
        Refused: the bundle or a volume is not there, or not whole. Malformed: it is no bundle.
    """
    manifest = BundleManifest.parse(_all_of(folder / MANIFEST, MAX_BUNDLE))
    cut = volumes_of(manifest)
    for volume in cut:
        _insist_on_size(folder / volume_name(volume.number), volume.size)
    where = extents(cut)
    whole = replace(manifest, volume_size=None, pieces=())
    blobs = [Piece(each.digest, 0, each.size, each.size) for each in manifest.provides]
    return [*layout_files(whole), *blobs], lambda digest: _from_volumes(folder, where[digest])


def _from_volumes(folder: Path, pieces: list[Extent]) -> Iterator[bytes]:
    for extent in pieces:
        path, left, at = folder / volume_name(extent.volume), extent.piece.size, extent.at
        with _opened(path) as file:
            file.seek(at)
            while left and (data := file.read(min(CHUNK, left))):
                left -= len(data)
                yield data


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, read-only.

    Raises:
        Refused: it is none, or cannot be read.
    """
    try:
        with os.fdopen(os.open(path, _READ), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused(f"{path} is no regular file")
            yield file
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def _all_of(path: Path, most: int) -> bytes:
    with _opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Refused(f"{path} is longer than {most} bytes, and so no bundle's")
    return data


def _insist_on_size(path: Path, size: int) -> None:
    with _opened(path) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size:
        raise Refused(f"{path} has {found} bytes and should have {size}: it is damaged, or another bundle's")
