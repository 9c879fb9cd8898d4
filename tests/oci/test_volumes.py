"""Bundles are cut so that any reader of tar finds each byte where it should be."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import Carried
from iarproxy.oci.digest import Algorithm
from iarproxy.oci.volumes import (
    BLOCK,
    MAX_VOLUMES,
    MIN_VOLUME,
    Literal,
    Piece,
    Volume,
    extents,
    marked_in,
    volume_sizes,
    volumes,
)

BUNDLE = Digest.of(b"bundle")
SIZES = st.sampled_from(
    [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 60_000, MIN_VOLUME // 16, MIN_VOLUME - 576, MIN_VOLUME, 3_000_000]
)
LIMITS = st.sampled_from([None, MIN_VOLUME, MIN_VOLUME + 777, 3 * MIN_VOLUME])


def bytes_of(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


def written(volume: Volume, blobs: dict[Digest, bytes]) -> bytes:
    raw = bytearray(volume.size)
    for entry in volume.entries:
        content = entry.content
        if isinstance(content, Piece):
            data = blobs[content.digest][content.start : content.start + content.size]
        else:
            data = content.data
        raw[entry.at : entry.data_at] = entry.header
        raw[entry.data_at : entry.data_at + len(data)] = data
    return bytes(raw)


@given(
    sizes=st.lists(st.tuples(SIZES, st.sampled_from(["sha256", "sha512"])), max_size=12),
    limit=LIMITS,
    index=st.sampled_from([10, 5000]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_reader_of_tar_agrees(sizes: list[tuple[int, Algorithm]], limit: int | None, index: int) -> None:
    """Python's tar reader finds the names and bytes that were planned, in volumes that keep their limit."""
    blobs = {Digest.of(each, kind): each for seed, (size, kind) in enumerate(sizes) for each in [bytes_of(seed, size)]}
    layout = [Literal("oci-layout", b"{}"), Literal("index.json", b"x" * index)]
    carried = [Carried(digest, len(blobs[digest])) for digest in sorted(blobs)]
    cut = volumes(BUNDLE, layout, carried, limit)
    assert volume_sizes(layout, carried, limit) == [volume.size for volume in cut]
    for volume in cut:
        raw = written(volume, blobs)
        assert limit is None or len(raw) <= limit
        assert (BUNDLE, volume.number, len(cut)) == marked_in(raw[: 2 * BLOCK])
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member, entry in zip(archive.getmembers(), volume.entries, strict=True):
                found = archive.extractfile(member)
                assert found is not None
                assert entry.content.name == member.name
                assert raw[entry.data_at : entry.data_at + entry.content.size] == found.read()
    assert {digest: len(each) for digest, each in blobs.items()} == {
        digest: sum(each.piece.size for each in found) for digest, found in extents(cut).items()
    }


def test_a_blob_that_nearly_fits_keeps_the_limit() -> None:
    """A whole sha512 blob has a longer header than a piece: where only the piece would fit, it is cut."""
    first, second = Carried(Digest.of(b"1"), MIN_VOLUME // 2), Carried(Digest.of(b"2", "sha512"), 0)
    room = MIN_VOLUME - volumes(BUNDLE, [], [first], MIN_VOLUME)[0].size
    for size in range(room - 4 * BLOCK, room + 1, 100):
        cut = volumes(BUNDLE, [], [first, replace(second, size=size)], MIN_VOLUME)
        assert max(each.size for each in cut) <= MIN_VOLUME
        assert size == sum(extent.piece.size for extent in extents(cut)[second.digest])


def test_a_blob_that_fits_a_volume_is_not_split() -> None:
    """Where a blob would waste little, it waits for the next volume as a whole."""
    first, second = Carried(Digest.of(b"1"), MIN_VOLUME - 40_000), Carried(Digest.of(b"2"), 60_000)
    cut = volumes(BUNDLE, [], [first, second], MIN_VOLUME)
    assert [[first.digest], [second.digest]] == [
        [entry.content.digest for entry in volume.pieces if isinstance(entry.content, Piece)] for volume in cut
    ]


@pytest.mark.parametrize(("limit", "index"), [(MIN_VOLUME - 1, 10), (MIN_VOLUME, MIN_VOLUME)])
def test_volumes_that_are_too_small_are_refused(limit: int, index: int) -> None:
    """The message says what to choose instead."""
    with pytest.raises(Malformed, match=r"at least 1048576|choose larger"):
        volumes(BUNDLE, [Literal("index.json", b"x" * index)], [], limit)


@pytest.mark.parametrize(("size", "limit"), [(2**62, MIN_VOLUME), (2**62, None), (MAX_VOLUMES * 2**20 + 1, MIN_VOLUME)])
def test_what_nobody_can_carry_is_refused(size: int, limit: int | None) -> None:
    """Sizes beyond all media are refused before anything is cut; else a number in a document would take for ever."""
    with pytest.raises(Malformed, match="too many"):
        volumes(BUNDLE, [], [Carried(BUNDLE, size)], limit)
