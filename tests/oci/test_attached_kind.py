"""What attached manifests say about an image, in each layout that is in use."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from iarproxy.oci.attached_kind import AttachedKind, kinds_listed, kinds_of
from images import artifact, index, small_image

SIGNATURE, SBOM, PROVENANCE = AttachedKind.SIGNATURE, AttachedKind.SBOM, AttachedKind.PROVENANCE
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.mark.parametrize(
    ("document", "kinds"),
    [
        ({"layers": [{"mediaType": SIMPLE}]}, {SIGNATURE}),
        ({"config": {"mediaType": "application/vnd.dev.cosign.artifact.sig.v1+json"}}, {SIGNATURE}),
        (
            {
                "artifactType": BUNDLE,
                "annotations": {"dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1"},
            },
            {SIGNATURE},
        ),
        ({"artifactType": "application/vnd.cncf.notary.signature"}, {SIGNATURE}),
        ({"artifactType": "application/spdx+json"}, {SBOM}),
        ({"artifactType": "application/vnd.cyclonedx+json"}, {SBOM}),
        (
            {
                "layers": [
                    {"annotations": {"in-toto.io/predicate-type": "https://spdx.dev/Document"}},
                    {"annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}},
                ]
            },
            {SBOM, PROVENANCE},
        ),
        ({"layers": [{"annotations": {"predicateType": "https://slsa.dev/provenance/v1"}}]}, {PROVENANCE}),
        ({"artifactType": BUNDLE}, set()),
        ({"layers": "no list", "config": 1, "annotations": []}, set()),
        ([], set()),
    ],
)
def test_kinds(document: Any, kinds: set[AttachedKind]) -> None:
    """By media type, config, predicate of a bundle or of a layer; what says nothing says nothing."""
    assert kinds == kinds_of(orjson.dumps(document))


def test_images_say_nothing() -> None:
    """Neither images, nor indexes, nor what is no JSON."""
    assert set() == kinds_of(small_image().raw) | kinds_of(index([small_image()]).raw) | kinds_of(b"no")


def test_a_list_tells_of_its_entries() -> None:
    """As far as it repeats what they are."""
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/spdx+json"}
    assert {SBOM} == kinds_listed(orjson.dumps({"manifests": [entry, entry]}))
    assert {SBOM} == kinds_of(artifact(small_image(), artifact_type="application/spdx+json").raw)
