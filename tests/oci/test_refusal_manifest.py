"""The refusal manifest is an OCI manifest by digest and a private type by tag (clients.md section 2.4)."""

from __future__ import annotations

import orjson
import pytest

from iarproxy.oci import Digest, parse_manifest
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.oci.refusal import EMPTY, refuse

PRIVATE = "application/vnd.iarproxy.refused.v1.tag-drift-refused+json"


def test_it_is_an_oci_manifest_of_a_private_type() -> None:
    """Its document says OCI manifest; config and layer say the private type, and both are the two bytes `{}`."""
    refusal = refuse("tag-drift", {"pinned": "a", "offered": "b"})
    manifest = parse_manifest(refusal.raw)
    assert (OCI_MANIFEST, PRIVATE) == (manifest.descriptor.media_type, refusal.media_type)
    assert {(PRIVATE, Digest.of(EMPTY), 2)} == {(each.media_type, each.digest, each.size) for each in manifest.blobs}
    assert refusal.digest == manifest.descriptor.digest


def test_it_says_what_is_refused() -> None:
    """The facts are annotations, so that two refusals have two digests and one has always the same."""
    facts = {"reference": "docker.io/library/alpine:3", "pinned": "a"}
    document = orjson.loads(refuse("tag-drift", facts).raw)
    assert {f"dev.iarproxy.refused.{key}": value for key, value in facts.items()} == document["annotations"]
    assert refuse("tag-drift", facts).digest == refuse("tag-drift", dict(reversed(facts.items()))).digest
    assert refuse("tag-drift", facts).digest != refuse("tag-drift", {**facts, "pinned": "b"}).digest


@pytest.mark.parametrize("reason", ["", "Tag", "a b", "a+json", "-a", "a" * 80])
def test_a_reason_is_one_plain_word(reason: str) -> None:
    """What cannot stand in a media type is a defect here, not something to send."""
    with pytest.raises(ValueError, match="no reason"):
        refuse(reason, {})
