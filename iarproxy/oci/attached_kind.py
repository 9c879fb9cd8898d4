"""What a manifest that is attached to an image says about it, for people who count: signed, with an SBOM, with
provenance.

Rule 1: it goes by what is claimed (media types, predicate types) and verifies nothing: a count is no gate.
Rule 2: every layout counts: cosign's tags, referrers of OCI 1.1, Sigstore bundles, BuildKit's attestations, notation.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import orjson


class AttachedKind(StrEnum):
    """What it says."""

    SIGNATURE = "signature"
    SBOM = "SBOM"
    PROVENANCE = "provenance"


_SIGNS = {
    AttachedKind.SIGNATURE: (
        "application/vnd.dev.cosign.artifact.sig.",
        "application/vnd.dev.cosign.simplesigning.",
        "application/vnd.cncf.notary.signature",
        "https://sigstore.dev/cosign/sign/",
    ),
    AttachedKind.SBOM: (
        "application/spdx",
        "text/spdx",
        "application/vnd.cyclonedx",
        "https://spdx.dev/Document",
        "https://cyclonedx.org/bom",
    ),
    AttachedKind.PROVENANCE: ("https://slsa.dev/provenance/", "https://in-toto.io/Statement/provenance"),
}
_PREDICATES = ("dev.sigstore.bundle.predicateType", "in-toto.io/predicate-type", "predicateType")


def kinds_of(raw: bytes) -> frozenset[AttachedKind]:
    """What a manifest says, by its own word; nothing where it is an image, an index, or no JSON object."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return frozenset()
    return kinds_in(document) if isinstance(document, dict) else frozenset()


def kinds_listed(raw: bytes) -> frozenset[AttachedKind]:
    """What the manifests on a list say, as far as the list tells; `raw`: a document that was parsed before."""
    entries = orjson.loads(raw).get("manifests")
    return frozenset(kind for entry in entries or () for kind in kinds_in(entry))


def kinds_in(entry: Any) -> frozenset[AttachedKind]:
    """As `kinds_of`, of a manifest's fields or a descriptor's."""
    claims = tuple(_claims(entry)) if isinstance(entry, dict) else ()
    return frozenset(kind for kind, signs in _SIGNS.items() if any(each.startswith(signs) for each in claims))


def _claims(entry: dict[str, Any]) -> Iterator[str]:
    """Media types and predicate types of it and its parts."""
    layers = entry.get("layers")
    parts = [entry, entry.get("config"), *(layers if isinstance(layers, list) else ())]
    for part in parts:
        if not isinstance(part, dict):
            continue
        found = part.get("annotations")
        annotations = found if isinstance(found, dict) else {}
        claims = [part.get("artifactType"), part.get("mediaType"), *map(annotations.get, _PREDICATES)]
        yield from (each for each in claims if isinstance(each, str))
