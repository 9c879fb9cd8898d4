"""Tar archives of others: what any writer makes is found, and whatever else it is, it is told and never believed."""

from __future__ import annotations

import io
import tarfile

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.oci.docker_archive import familiar, saved_images
from iarproxy.oci.reference import TagReference, parse_reference
from iarproxy.oci.tar_entries import Contents, clean, entries

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = st.lists(
    st.text("abcdé-_. ", min_size=1, max_size=40).filter(lambda part: part not in {".", ".."}), min_size=1, max_size=6
)
FILES = st.dictionaries(NAMES.map("/".join), st.binary(max_size=2000), max_size=8)


def scanned(data: bytes) -> Contents:
    steps = entries()
    try:
        at, count = next(steps)
        while True:
            at, count = steps.send(data[at : at + count])
    except StopIteration as end:
        found: Contents = end.value
        return found


def written(files: dict[str, bytes], form: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=FORMATS[form]) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_700_000_000.5  # which pax writes as a header of its own
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


@pytest.mark.parametrize("form", ["gnu", "pax"])
@given(files=FILES)
def test_what_is_written_is_found(form: str, files: dict[str, bytes]) -> None:
    """Every file of an archive that Python writes, with names of any length, stands where it is said to stand."""
    data = written(files, form)
    found = scanned(data)
    assert files == {name: data[each.at : each.at + each.size] for name, each in found.files.items()}


@given(files=FILES, at=st.integers(0, 20_000), byte=st.integers(0, 255), form=st.sampled_from(sorted(FORMATS)))
def test_what_is_changed_is_told_or_found(files: dict[str, bytes], at: int, byte: int, form: str) -> None:
    """One byte that is changed gives an archive that can be read, or `Malformed`; and nothing beyond its end."""
    files = {name: data for name, data in files.items() if len(name.encode()) < 100}
    data = bytearray(written(files, form))
    data[at % len(data)] = byte
    try:
        found = scanned(bytes(data))
    except Malformed:
        return
    for name, each in found.files.items():
        assert name == clean(name)
        assert each.at + each.size <= len(data)


@given(noise=st.binary(max_size=3000))
def test_noise(noise: bytes) -> None:
    """Bytes that are no archive are `Malformed`, or an empty one."""
    try:
        assert 0 == len(scanned(noise))
    except Malformed:
        return


@given(
    noise=st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["Config", "Layers", "RepoTags", "x"]), inner),
    )
)
def test_a_manifest_of_noise(noise: object) -> None:
    """JSON that is no manifest of a docker-archive is `Malformed`."""
    try:
        saved_images(orjson.dumps(noise))
    except (Malformed, orjson.JSONEncodeError):
        return


@pytest.mark.parametrize(
    ("name", "shown"),
    [("docker.io/library/app:1", "app:1"), ("docker.io/team/app:1", "team/app:1"), ("ghcr.io/app:1", "ghcr.io/app:1")],
)
def test_familiar_names(name: str, shown: str) -> None:
    """Docker's short names lead back to the full one."""
    reference = parse_reference(name)
    assert isinstance(reference, TagReference)
    assert (shown, reference) == (familiar(reference), parse_reference(shown))
