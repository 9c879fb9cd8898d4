"""A bundle's manifest is read whole or not at all, and never takes more than any bundle's would."""

from __future__ import annotations

import orjson
import pytest

from iarproxy.errors import Malformed
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.bundle_manifest import MAX_NAMES, BundledName, BundleManifest
from iarproxy.oci.media_types import OCI_MANIFEST

NAME = BundledName(
    TagReference(Repository("registry.example.com", "team/app"), Tag("1")), Descriptor(OCI_MANIFEST, Digest.of(b"a"), 1)
)
MANIFEST = BundleManifest(set="site-a", names=(NAME,), attachments=(), provides=(), requires=())


def test_it_is_read_as_it_was_written() -> None:
    """What was written is read again, and any other spelling of it is not."""
    raw = MANIFEST.dump()
    assert MANIFEST == BundleManifest.parse(raw)
    for other in (raw + b"\n", raw.replace(b",", b", ", 1), raw.replace(b'"requires":[]', b'"requires":[],"run":1')):
        with pytest.raises(Malformed):
            BundleManifest.parse(other)


@pytest.mark.parametrize("raw", [b'{"names":[' + b"[]," * 2_000_001 + b"0]}", b"[" * 100_000, b'{"names":1}', b"\xff"])
def test_nonsense_is_malformed(raw: bytes) -> None:
    """Documents that would take gigabytes, or the stack, or that are something else, are one refusal."""
    with pytest.raises(Malformed, match="not a bundle's manifest"):
        BundleManifest.parse(raw)


def test_more_names_than_anybody_has() -> None:
    """The number of names is bounded before one of them is looked at."""
    document = orjson.loads(MANIFEST.dump())
    document["names"] *= MAX_NAMES + 1
    with pytest.raises(Malformed, match=f"over {MAX_NAMES} names"):
        BundleManifest.parse(orjson.dumps(document))
