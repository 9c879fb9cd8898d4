"""Whether the files of a bundle are its volumes, byte for byte: their framing first, everything on request.

Rule 1: what a volume has to be is computed from `bundle.json`, and compared; no archive is parsed (`oci.volumes`).
Rule 2: framing is all that is not bytes of blobs. It is compared before anything is taken, which takes milliseconds
        whatever the volumes' size.
Rule 3: of several files that say they are one volume, the first one whose framing fits is taken.
Rule 4: a problem names the volume as it was called when it was made, and the file, where that is called otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from iarproxy.archive.folder import BundleFolder, VolumeFile
from iarproxy.archive.staging import volume_name
from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci import Digest
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import END, Literal, Piece, Volume, extents

_CHUNK: Final = 2**20  # bytes
_ZEROS: Final = bytes(_CHUNK)
_LANES: Final = 2  # volumes that are read at the same time
_TOLD: Final = 20  # problems spelled out
_RANK: Final = ("volume-damaged", "volume-foreign", "volume-missing")  # the worst first


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a volume. `code`: as of `BundleRefused`; `said`: names the volume."""

    code: str
    number: int
    said: str


Placed: TypeAlias = Mapping[int, VolumeFile | Problem]  # by number of the volume


def cut_of(manifest: BundleManifest) -> list[Volume]:
    """The volumes that a bundle has to have.

    Raises:
        BundleRefused: `malformed`: nobody can have them.
    """
    try:
        return volumes_of(manifest)
    except Malformed as error:
        raise BundleRefused("malformed", f"bundle.json: {error}") from error


def place(folder: BundleFolder, identity: Digest, cut: Sequence[Volume]) -> Placed:
    """Which file is which volume of the bundle `identity`, or what is wrong with it. Blocking."""
    marked: dict[int, list[VolumeFile]] = {}
    called: dict[str, list[VolumeFile]] = {}
    for file in folder.files:
        called.setdefault(file.name, []).append(file)
        if file.mark is not None and file.mark[0] == identity:
            marked.setdefault(file.mark[1], []).append(file)
    return {
        volume.number: _chosen(marked.get(volume.number, ()), volume)
        or _absent(called.get(volume_name(volume.number), ()), identity, volume.number)
        for volume in cut
    }


def refusal(problems: Iterable[Problem]) -> BundleRefused:
    """All of them as one, with the code of the worst."""
    found = sorted(problems, key=lambda each: (_RANK.index(each.code), each.number))
    rest = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return BundleRefused(found[0].code, "; ".join(each.said for each in found[:_TOLD]) + rest)


def spares(folder: BundleFolder, identity: Digest, placed: Placed) -> list[str]:
    """What lies there and is not used: volumes twice, volumes of other bundles; a sentence each."""
    used = {each.path for each in placed.values() if isinstance(each, VolumeFile)}
    found = list[str]()
    for each in folder.files:
        if each.mark is None or each.path in used:
            continue
        bundle, number, _ = each.mark
        if bundle != identity:
            found.append(f"{each.path} is volume {number} of another bundle, {bundle.short}, and is not used")
        elif isinstance(placed.get(number), VolumeFile):
            found.append(f"{each.path} is volume {number} once more, and is not used")
    return found


def _chosen(files: Iterable[VolumeFile], volume: Volume) -> VolumeFile | Problem | None:
    """Of the files that say that they are this volume the one that is; None: none says so."""
    first: Problem | None = None
    for file in files:
        wrong = framing(file, volume)
        if wrong is None:
            return file
        first = first or damaged(file, volume.number, wrong)
    return first


def _absent(files: Iterable[VolumeFile], identity: Digest, number: int) -> Problem:
    """What there is where no file says that it is this volume. `files`: those that are called like it."""
    for file in files:
        if file.fd < 0:
            return damaged(file, number, file.why)
        if file.mark is None:
            return damaged(file, number, "does not begin as a volume does")
        if file.mark[0] != identity:
            told = f"{_called(file, number)} belongs to another bundle: it is volume {file.mark[1]} of {file.mark[0]}"
            return Problem("volume-foreign", number, f"{told}; put this bundle's own in its place")
    return Problem("volume-missing", number, f"{volume_name(number)} is not here")


def damaged(file: VolumeFile, number: int, wrong: str) -> Problem:
    """A volume of which something is wrong."""
    return Problem("volume-damaged", number, f"{_called(file, number)} {wrong}; copy this volume again")


def _called(file: VolumeFile, number: int) -> str:
    return volume_name(number) if file.name == volume_name(number) else f"{volume_name(number)} (here {file.path})"


# --- framing ---------------------------------------------------------------------------------------------------------


def framing(file: VolumeFile, volume: Volume) -> str | None:
    """What of a file is not as the volume's framing has to be; None: nothing. Blocking."""
    if file.size != volume.size:
        return f"has {file.size} bytes instead of {volume.size}: it was cut short, or something was added"
    try:
        for at, wanted in _frames(volume):
            if os.pread(file.fd, len(wanted), at) != wanted:
                return f"is damaged: near byte {at} it is not what bundle.json makes it"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _frames(volume: Volume) -> Iterator[tuple[int, bytes]]:
    """The bytes of a volume that are no blob's, and where they stand; at most one for each entry, and one."""
    at, wanted = 0, b""
    for entry in volume.entries:
        wanted += entry.header
        match entry.content:
            case Literal(data=data):
                wanted += data
            case Piece(size=size):
                yield at, wanted
                at, wanted = entry.data_at + size, b""
        wanted += _ZEROS[: entry.end - entry.data_at - entry.content.size]
    yield at, wanted + _ZEROS[:END]


# --- everything ------------------------------------------------------------------------------------------------------


def everything(
    manifest: BundleManifest, cut: Sequence[Volume], placed: Placed, told: Callable[[int], None]
) -> list[Problem]:
    """All that is wrong with the volumes, read to their last byte. Blocking.

    Args:
        manifest: which bundle that is.
        cut: its volumes.
        placed: the files.
        told: called, in other threads, with how many more bytes of blobs were read.
    """
    hashes = hashes_of(manifest, cut)

    def look(volume: Volume) -> list[Problem]:
        file = placed[volume.number]
        return [file] if isinstance(file, Problem) else _volume(file, volume, hashes, told)

    with ThreadPoolExecutor(_LANES, "bundle-verify") as threads:
        return [problem for problems in threads.map(look, cut) for problem in problems]


PieceHashes: TypeAlias = Mapping[tuple[Digest, int], str]  # of pieces, by where they start: the sha256


def hashes_of(manifest: BundleManifest, cut: Sequence[Volume]) -> PieceHashes:
    """The sha256 of the pieces of all blobs that span volumes.

    Raises:
        BundleRefused: `malformed`: the manifest names other pieces than its volumes have.
    """
    signed = dict(manifest.pieces)
    found: dict[tuple[Digest, int], str] = {}
    spread = {digest: each for digest, each in extents(cut).items() if not each[0].piece.is_whole}
    for digest, each in spread.items():
        hashes = signed.pop(digest, ())
        if len(hashes) != len(each):
            raise BundleRefused("malformed", f"bundle.json names {len(hashes)} pieces of {digest}; it has {len(each)}")
        found.update({(digest, extent.piece.start): said for extent, said in zip(each, hashes, strict=True)})
    if signed:
        raise BundleRefused("malformed", f"bundle.json names pieces of {next(iter(signed))}, which is whole")
    return found


def _volume(file: VolumeFile, volume: Volume, hashes: PieceHashes, told: Callable[[int], None]) -> list[Problem]:
    found = list[Problem]()
    for entry in volume.pieces:
        try:
            assert isinstance(entry.content, Piece)  # noqa: S101  # `pieces` gives no other
            if not is_sound(file.fd, entry.data_at, entry.content, hashes, told):
                found.append(
                    damaged(file, volume.number, f"is damaged: its bytes of {entry.content.digest} are others")
                )
        except OSError as error:
            found.append(damaged(file, volume.number, f"cannot be read: {error.strerror}"))
            break
    return found


def is_sound(fd: int, at: int, piece: Piece, hashes: PieceHashes, told: Callable[[int], None] = lambda _: None) -> bool:
    """Whether the bytes of a blob, or a piece of one, that stand at `at` are the right ones. Blocking.

    Raises:
        OSError: they cannot be read.
    """
    hasher = piece.digest.hasher() if piece.is_whole else hashlib.sha256()
    end = at + piece.size
    while at < end and (data := os.pread(fd, min(_CHUNK, end - at), at)):
        hasher.update(data)
        told(len(data))
        at += len(data)
    return piece.digest.agrees(hasher) if piece.is_whole else hasher.hexdigest() == hashes[piece.digest, piece.start]
