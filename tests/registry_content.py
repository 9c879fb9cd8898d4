"""What a `FakeRegistry` holds: repositories with tags, manifests and blobs, and the lists made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_INDEX
from images import Published


@dataclass
class Held:
    """One repository."""

    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def manifest(self, wanted: str) -> tuple[str, str, bytes] | None:
        """(digest, media type, bytes) of a tag or digest."""
        digest = wanted if ":" in wanted else self.tags.get(wanted, "")
        found = self.manifests.get(digest)
        return None if found is None else (digest, *found)

    def referrers(self, subject: str) -> bytes:
        """The index of the manifests whose subject is `subject` (distribution-spec v1.1)."""
        listed: list[dict[str, Any]] = []
        for digest, (media_type, raw) in self.manifests.items():
            document = orjson.loads(raw)
            if (document.get("subject") or {}).get("digest") == subject:
                kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType", "")
                entry = {"mediaType": media_type, "digest": digest, "size": len(raw), "artifactType": kind}
                listed.append(entry)
        return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed})


class Content:
    """Repositories by name. Nothing is checked on the way in: a test may publish what no registry would."""

    def __init__(self) -> None:
        self.repositories: dict[str, Held] = {}

    def publish(self, repository: str, tag: str | None, published: Published) -> Published:
        """Hold the manifest, its children and all blobs, and let `tag` name it (which moves a tag that exists)."""
        held = self.repositories.setdefault(repository, Held())
        for child in published.children:
            self.publish(repository, None, child)
        held.manifests[str(published.digest)] = (published.media_type, published.raw)
        held.blobs.update({str(digest): data for digest, data in published.blobs.items()})
        if tag is not None:
            held.tags[tag] = str(published.digest)
        return published

    def publish_blob(self, repository: str, data: bytes) -> Digest:
        """Hold a blob that no manifest names."""
        digest = Digest.of(data)
        self.repositories.setdefault(repository, Held()).blobs[str(digest)] = data
        return digest

    def move_tag(self, repository: str, tag: str, digest: Digest) -> None:
        """Let `tag` name a manifest that is held already."""
        self.repositories[repository].tags[tag] = str(digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Forget a tag, not its manifest."""
        del self.repositories[repository].tags[tag]

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Forget a manifest; tags that name it dangle."""
        del self.repositories[repository].manifests[str(digest)]

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Forget a blob."""
        del self.repositories[repository].blobs[str(digest)]
