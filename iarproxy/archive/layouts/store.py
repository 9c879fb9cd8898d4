"""Where exports come from: documents and blobs of the store, and those in the volumes of a bundle.

Rule: a bundle's volumes are found and compared as for an apply. Whether the bundle is to be trusted is another question
      (`iarproxy bundle verify`); each blob is hashed on its way, as from the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from iarproxy.archive.checking import Problem, cut_of, place, refusal
from iarproxy.archive.folder import BundleFolder, VolumeFile
from iarproxy.archive.layouts.exporting import AttachedTo
from iarproxy.archive.layouts.files import CHUNK
from iarproxy.archive.layouts.writing import Chunks
from iarproxy.errors import Refused
from iarproxy.ledger import Ledger
from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.oci.bundle_layout import layout_files
from iarproxy.oci.bundle_manifest import BundledAttachment, BundleManifest
from iarproxy.oci.volumes import Extent, Literal, Piece, Volume, extents
from iarproxy.store import Store

_ENDINGS = ("", ".sig", ".att", ".sbom")


def attached_in(store: Store, ledger: Ledger) -> AttachedTo:
    """The attachment tags that are known of content, and held."""

    async def attached(repository: Repository, subject: Digest) -> list[BundledAttachment]:
        found: list[BundledAttachment] = []
        plain = Tag.attached_to(subject)
        for ending in _ENDINGS if plain.is_attachment else ():
            reference = TagReference(repository, Tag(f"{plain}{ending}"))
            known = await ledger.followed(reference)
            if known is not None and store.find(known[0].digest) is not None:
                found.append(BundledAttachment(reference, known[0]))
        return found

    return attached


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


@contextmanager
def joined(folders: Sequence[Path]) -> Iterator[tuple[list[Literal | Piece], Chunks]]:
    """All that the volumes of a bundle hold, as the files of one layout, and where their bytes are.

    Raises:
        BundleRefused: it is no bundle; a volume is missing, or not what it has to be.
    """
    with BundleFolder.open(folders) as folder:
        manifest = BundleManifest.parse(folder.manifest)
        cut = cut_of(manifest)
        files = _volumes(folder, manifest, cut)
        where = extents(cut)
        whole = replace(manifest, volume_size=None, pieces=())
        blobs = [Piece(each.digest, 0, each.size, each.size) for each in manifest.provides]
        yield [*layout_files(whole), *blobs], lambda digest: _from_volumes(files, where[digest])


def _volumes(folder: BundleFolder, manifest: BundleManifest, cut: Sequence[Volume]) -> dict[int, VolumeFile]:
    placed = place(folder, manifest.identity, cut)
    found = {number: each for number, each in placed.items() if isinstance(each, VolumeFile)}
    if len(found) < len(placed):
        raise refusal(each for each in placed.values() if isinstance(each, Problem))
    return found


def _from_volumes(files: Mapping[int, VolumeFile], pieces: Sequence[Extent]) -> Iterator[bytes]:
    for extent in pieces:
        file, at = files[extent.volume], extent.at
        end = at + extent.piece.size
        while at < end:
            try:
                data = os.pread(file.fd, min(CHUNK, end - at), at)
            except OSError as error:
                raise Refused(f"{file.path} cannot be read: {error.strerror}") from error
            if not data:
                return  # what is missing shows where the blob is hashed
            at += len(data)
            yield data
