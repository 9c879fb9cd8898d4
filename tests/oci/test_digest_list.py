"""Many digests in one text: there and back, one spelling, bounds."""

from __future__ import annotations

from base64 import b64encode

import pytest

from iarproxy.errors import Malformed
from iarproxy.oci import Digest
from iarproxy.oci.digest_list import MOST, packed, unpacked
from iarproxy.oci.referrer_index import joined

DIGESTS = sorted([*(Digest.of(bytes([each])) for each in range(9)), Digest("sha512", "ab" * 64)])


def test_there_and_back() -> None:
    """Digests of both algorithms come back in order; nothing at all is an empty object."""
    assert tuple(DIGESTS) == unpacked(packed(DIGESTS))
    assert ({}, ()) == (packed([]), unpacked({}))


@pytest.mark.parametrize("raw", [b"x" * 31, b"b" * 32 + b"a" * 32, b"a" * 64, b"a" * 33])
def test_what_is_no_list(raw: bytes) -> None:
    """Digests that are cut, twice there or out of order."""
    with pytest.raises(Malformed):
        unpacked({"sha256": b64encode(raw).decode()})


def test_too_many() -> None:
    """What would take far more memory than its text is refused before it is read."""
    with pytest.raises(Malformed, match="over"):
        unpacked({"sha256": "A" * (MOST * 32 * 4 // 3 + 8)})


@pytest.mark.parametrize("rest", [b"", b',"manifests":null', b',"manifests":[]'])
def test_a_list_of_referrers_without_any(rest: bytes) -> None:
    """An index that lists nothing, or does not say so, is joined as one that lists nothing."""
    nothing = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"' + rest + b"}"
    assert nothing == joined([nothing])
    assert b'"manifests":[{' in joined([nothing], [{"digest": str(DIGESTS[0])}])
