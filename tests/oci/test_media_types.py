"""Media types and descriptors: unknown ones pass verbatim, what is no media type or no size does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import descriptors, digests, media_types, sizes
from iarproxy.errors import ManifestInvalid
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.media_types import is_media_type, without_parameters

DIGEST = Digest.of(b"")


@given(media_types)
def test_media_types_pass_verbatim(media_type: str) -> None:
    """Any type of RFC 6838 passes, known or not, and comes out of a header as it went in."""
    assert is_media_type(media_type)
    assert without_parameters(f" {media_type} ; charset=utf-8") == media_type


@given(st.text(max_size=60))
def test_hostile_headers(text: str) -> None:
    """Whatever a header holds, what is read from it is a media type or nothing."""
    found = without_parameters(text)
    assert found == "" or is_media_type(found)


@pytest.mark.parametrize(
    "text", ["", "a", "/", "a/", "/b", "a/b/c", "a/b\n", "a b/c", "a/b;c", "a/é", "a/" + "b" * 200]
)
def test_not_a_media_type(text: str) -> None:
    """What would not survive in a header is none."""
    assert not is_media_type(text)
    with pytest.raises(ManifestInvalid):
        Descriptor(text, DIGEST, 0)


def test_no_header() -> None:
    """An absent header names nothing."""
    assert without_parameters(None) == ""


@pytest.mark.parametrize("size", [-1, 2**53, 10**20, 1.0, 1e3, "1", None, True, False, float("inf"), [], {}])
def test_not_a_size(size: Any) -> None:
    """A size is an exact, non-negative integer (threats T08)."""
    with pytest.raises(ManifestInvalid):
        Descriptor("a/b", DIGEST, size)


@given(media_types, digests, sizes)
def test_a_descriptor_keeps_what_it_is_given(media_type: str, digest: Digest, size: int) -> None:
    """A descriptor is its three parts."""
    made = Descriptor(media_type, digest, size)
    assert (made.media_type, made.digest, made.size) == (media_type, digest, size)


@given(descriptors, descriptors)
def test_equal_by_value(one: Descriptor, other: Descriptor) -> None:
    """Two descriptors are equal exactly if their parts are."""
    assert (one == other) == (repr(one) == repr(other))
