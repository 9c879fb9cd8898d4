"""Verifying a bundle without a site: who vouches for it, and every byte of it; nothing is changed anywhere.

Rule: who signed it comes first, for everything else is judged by what was signed. After that all that is wrong is told,
      volume by volume, and not only what is found first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from iarproxy.archive import evidence
from iarproxy.archive.checking import Placed, cut_of, everything, place, spares
from iarproxy.archive.extents import Source
from iarproxy.archive.folder import BundleFolder, VolumeFile
from iarproxy.archive.staging import JOURNAL
from iarproxy.archive.vouching import vouched_in
from iarproxy.errors import BundleRefused, Malformed, Refused
from iarproxy.oci import MAX_MANIFEST, Digest, parse_manifest
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import Extent, Volume, extents
from iarproxy.trust.bundles import Vouched, judge
from iarproxy.trust.signing import PublicKey


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found. `wrong`: code and sentence of each thing; `remarks`: what lies there besides."""

    vouched: Vouched
    volumes: int
    wrong: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]


def verify(
    folder: BundleFolder,
    trusted: Sequence[Sequence[PublicKey]],
    *,
    threshold: int | None,
    now: datetime,
    told: Callable[[int, int], None],
) -> Verified:
    """Read all of a bundle. Blocking; `told` is called with how many more bytes were read, and how many there are.

    Raises:
        BundleRefused: nobody who is trusted vouches for what `bundle.json` is.
    """
    bundle = vouched_in(folder, trusted, threshold=threshold)
    manifest = bundle.manifest
    cut, size = cut_of(manifest), sum(each.size for each in manifest.provides)
    placed = place(folder, manifest.identity, cut)
    problems = everything(manifest, cut, placed, lambda more: told(more, size))
    lies = _lies(manifest, cut, placed)
    wrong = (*_beside(folder, bundle, now), *((each.code, each.said) for each in problems), *lies)
    return Verified(bundle, len(cut), wrong, tuple(spares(folder, manifest.identity, placed)))


def _lies(manifest: BundleManifest, cut: Sequence[Volume], placed: Placed) -> Iterator[tuple[str, str]]:
    """What the manifest says of attachments whose documents are in the volumes, and is not so."""
    where = extents(cut)
    for attachment in manifest.attachments:
        described, sources = attachment.descriptor, list(_sources(where.get(attachment.descriptor.digest, ()), placed))
        if not sources or sources[0].piece.whole > MAX_MANIFEST:
            continue
        with suppress(Refused):  # it cannot be read: that is told of its volume
            raw = b"".join(chunk for source in sources for chunk in source.chunks())
            if Digest.of(raw, described.digest.algorithm) != described.digest:
                continue  # so is that
            try:
                attachment.insist(parse_manifest(raw, described.media_type, described.digest))
            except Malformed as error:
                yield "incomplete", str(error)


def _sources(spread: Iterable[Extent], placed: Placed) -> Iterator[Source]:
    """Where a blob can be read, as far as its volumes are here."""
    for extent in spread:
        file = placed[extent.volume]
        if isinstance(file, VolumeFile):
            yield Source(extent, file.fd, extent.at, file)


def _beside(folder: BundleFolder, bundle: Vouched, now: datetime) -> list[tuple[str, str]]:
    """What is wrong beside the volumes."""
    found = list[tuple[str, str]]()
    if folder.journal is None:
        found.append(("manifest-altered", f"{JOURNAL} is missing; copy it again"))
    for check in (
        lambda: evidence.checked(folder.journal or b"", bundle.statement, bundle.manifest),
        lambda: judge(bundle.statement, None, now),
    ):
        try:
            check()
        except BundleRefused as refused:
            if refused.code != "manifest-altered" or folder.journal is not None:
                found.append((refused.code, str(refused)))
    return found
