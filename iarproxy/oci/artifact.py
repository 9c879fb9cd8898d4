"""An OCI artifact that refers to a manifest: one blob, an empty config, and a subject (image-spec v1.1, guidance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.media_types import OCI_MANIFEST

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What has to be kept of an artifact: the manifest, and the two blobs that it names."""

    manifest: bytes
    blobs: tuple[bytes, ...]

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest."""
        return Descriptor(OCI_MANIFEST, Digest.of(self.manifest), len(self.manifest))


def attach(subject: Descriptor, blob: bytes, media_type: str, annotations: Mapping[str, str]) -> Artifact:
    """The artifact of type `media_type` that says `blob` about `subject`."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": media_type,
        "config": _described(EMPTY_TYPE, EMPTY),
        "layers": [_described(media_type, blob)],
        "subject": {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size},
        "annotations": dict(annotations),
    }
    return Artifact(orjson.dumps(document), (EMPTY, blob))


def _described(media_type: str, data: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
