"""Layouts and archives of others, as what they list and the bytes that they have.

Rule 1: where `oci-layout` is, `index.json` decides; `manifest.json` counts only where it is not, as for containerd.
Rule 2: what a document says of others is believed for looking, never for keeping: the store hashes every byte.
Rule 3: a docker-archive's manifests are made from what it holds (`oci.docker_archive`).
Rule 4: what is wrong with it is one `Malformed` that names the file.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from iarproxy.archive.layouts.files import CHUNK, Files, open_files, reading, small
from iarproxy.errors import Malformed
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, parse_manifest
from iarproxy.oci.docker_archive import (
    MANIFEST,
    Layer,
    SavedImage,
    compression_of,
    diff_ids,
    manifest_of,
    saved_images,
)
from iarproxy.oci.layout_index import INDEX, LAYOUT, LayoutEntry, insist_on_layout, insist_on_one_meaning, listed
from iarproxy.store import Fetch

_MOST_CONFIGS = 16 * 1024 * 1024  # bytes, of all configs of a docker-archive: they are held together


@dataclass(slots=True)
class Layout:
    """An opened layout or archive; to be closed.

    Attributes:
        entries: what it lists.
        made: documents that it has no files for.
        names: of the files whose names are not those of an OCI layout.
    """

    files: Files
    entries: tuple[LayoutEntry, ...]
    made: dict[Digest, bytes] = field(default_factory=dict)
    names: dict[Digest, str] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of it."""
        self.files.close()

    async def document(self, descriptor: Descriptor) -> Manifest | None:
        """A manifest or index; None: it is not in here.

        Raises:
            Malformed: it is there, and is not what it should be.
        """
        return await asyncio.to_thread(self._document, descriptor)

    def _document(self, descriptor: Descriptor) -> Manifest | None:
        raw = self.made.get(descriptor.digest) or small(self.files, self._name(descriptor.digest), MAX_MANIFEST)
        if raw is None:
            return None
        with naming(self.files.called):
            found = parse_manifest(raw, descriptor.media_type, descriptor.digest)
            if found.descriptor.size != descriptor.size:
                raise Malformed(f"{descriptor.digest} has {len(raw)} bytes, and is said to have {descriptor.size}")
        return found

    async def lacking(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        """Those that are not in here.

        Raises:
            Malformed: one is, in another size than it is said to have.
        """
        return await asyncio.to_thread(lambda: [blob for blob in blobs if not self._has(blob)])

    def _has(self, blob: Descriptor) -> bool:
        if blob.digest in self.made:
            return True
        place = self.files.place(self._name(blob.digest))
        if place is not None and place.size != blob.size:
            raise Malformed(
                f"{self.files.called}: {blob.digest} has {place.size} bytes, and its manifest says {blob.size}"
            )
        return place is not None

    def in_order(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        """Blobs that are in here, in the order in which reading them goes forward."""

        def at(blob: Descriptor) -> int:
            place = self.files.place(self._name(blob.digest)) if self.files.is_sequential else None
            return 0 if place is None else place.at

        return sorted(blobs, key=at)

    def fetch(self, blob: Descriptor) -> Fetch:
        """What the store gets the blob's bytes by."""

        @asynccontextmanager
        async def fetch(offset: int) -> AsyncIterator[_Transfer]:
            yield _Transfer(self.files, self._name(blob.digest), blob.size, offset)

        return fetch

    def _name(self, digest: Digest) -> str:
        return self.names.get(digest, f"blobs/{digest.algorithm}/{digest.hex}")


@dataclass(frozen=True, slots=True)
class _Transfer:
    """As `store.Transfer`."""

    files: Files
    name: str
    size: int
    offset: int

    async def chunks(self) -> AsyncIterator[bytes]:
        at = self.offset
        with reading(self.files, self.name) as read:
            while at < self.size:
                data = await asyncio.to_thread(read, at, min(CHUNK, self.size - at))
                if not data:
                    raise Malformed(f"{self.files.called}: {self.name} ends after {at} of {self.size} bytes")
                at += len(data)
                yield data


def open_layout(path: Path) -> Layout:
    """What is at `path`.

    Raises:
        Refused: it cannot be read. Malformed: it is no layout or archive that is taken.
    """
    files = open_files(path)
    try:
        with naming(files.called):
            return _opened(files)
    except BaseException:
        files.close()
        raise


def _opened(files: Files) -> Layout:
    layout = small(files, LAYOUT, MAX_MANIFEST)
    if layout is not None:
        insist_on_layout(layout)
        if files.links:
            raise Malformed(f"{min(files.links)[:160]!r} is a symbolic link, which an OCI layout has none of; refused")
        index = small(files, INDEX, MAX_MANIFEST)
        if index is None:
            raise Malformed(f"it has {LAYOUT}, and no {INDEX}")
        return Layout(files, listed(index))
    saved = small(files, MANIFEST, MAX_MANIFEST)
    if saved is None:
        raise Malformed(f"it has neither {LAYOUT} nor {MANIFEST}: it is no OCI layout and no docker-archive")
    return _saved(files, saved_images(saved))


@contextmanager
def naming(called: str) -> Iterator[None]:
    """Have what is malformed within it name the archive."""
    try:
        yield
    except Malformed as error:
        if str(error).startswith(called):
            raise
        raise Malformed(f"{called}: {error}") from error


# --- docker-archives -------------------------------------------------------------------------------------------------


def _saved(files: Files, images: Sequence[SavedImage]) -> Layout:
    configs = {image.config for image in images}
    wanted = configs.union(*(image.layers for image in images))
    read: dict[str, bytes] = {}
    layers: dict[str, Layer] = {}
    held = 0
    for name in sorted(wanted, key=lambda each: _place(files, each)):
        if name in configs:
            read[name] = small(files, name, MAX_MANIFEST) or b""
            held += len(read[name])
            if held > _MOST_CONFIGS:
                raise Malformed(f"the configs of its images have over {_MOST_CONFIGS} bytes together")
        else:
            layers[name] = _looked_at(files, name)
    made = Layout(files, ())
    entries = [entry for image in images for entry in _entries(image, read[image.config], layers, made)]
    insist_on_one_meaning(entries)
    made.entries = tuple(entries)
    return made


def _place(files: Files, name: str) -> int:
    place = files.place(name)
    if place is None:
        raise Malformed(f"{MANIFEST} names {name[:160]!r}, which is not there")
    return place.at


def _entries(image: SavedImage, config: bytes, layers: dict[str, Layer], made: Layout) -> list[LayoutEntry]:
    ids = diff_ids(config)
    if len(ids) != len(image.layers):
        raise Malformed(f"{image.config[:160]!r} names {len(ids)} layers, and {MANIFEST} {len(image.layers)}")
    found = [
        layers[name] if layers[name].compression else _plain(layers[name], digest)
        for name, digest in zip(image.layers, ids, strict=True)
    ]
    descriptor, raw = manifest_of(config, found)
    made.made[descriptor.digest] = raw
    made.names[Digest.of(config)] = image.config
    made.names.update({each.digest: name for name, each in zip(image.layers, found, strict=True)})
    return [LayoutEntry(descriptor, tag) for tag in image.tags] or [LayoutEntry(descriptor)]


def _plain(layer: Layer, digest: Digest) -> Layer:
    return Layer(digest, layer.size)


def _looked_at(files: Files, name: str) -> Layer:
    """A layer; only where it is compressed its digest has to be found out."""
    place = files.place(name)
    size = 0 if place is None else place.size
    with reading(files, name) as read:
        compression = compression_of(read(0, 4))
        hashed = hashlib.sha256()
        for at in range(0, size if compression else 0, CHUNK):
            hashed.update(read(at, CHUNK))
    return Layer(Digest("sha256", hashed.hexdigest()), size, compression)
