"""Images, indexes and artifacts as values: what tests publish in a `FakeRegistry` and compare with afterwards.

Rule 1: everything is computed from its arguments; the same call gives the same bytes in every process.
Rule 2: a `Published` manifest carries the blobs and child manifests that a registry needs to serve it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True)
class Published:
    """A manifest or index, and everything below it."""

    raw: bytes = field(repr=False)
    media_type: str
    blobs: Mapping[Digest, bytes] = field(default_factory=dict, repr=False)
    children: tuple[Published, ...] = ()
    subject: Digest | None = None
    platform: str = ""

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def layers(self) -> list[Digest]:
        """The digests of the layers, in order; empty for an index."""
        listed = orjson.loads(self.raw).get("layers", [])
        return [Digest.parse(each["digest"]) for each in listed]


def random_blob(size: int, seed: int = 0) -> bytes:
    """`size` bytes that no compressor shortens, decided by `seed`."""
    return random.Random(seed).randbytes(size)


def _entry(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def image(
    *layers: bytes, docker: bool = False, platform: str = "linux/amd64", labels: Mapping[str, str] | None = None
) -> Published:
    """An image of `layers` for `platform`; `labels` go into its config, so that other labels are another image."""
    system, _, architecture = platform.partition("/")
    config = orjson.dumps(
        {
            "os": system,
            "architecture": architecture,
            "config": {"Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
        }
    )
    types = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    raw = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": _entry(types[1], config),
            "layers": [_entry(types[2], layer) for layer in layers],
        },
        option=orjson.OPT_INDENT_2,
    )
    blobs = {Digest.of(data): data for data in (config, *layers)}
    return Published(raw, types[0], blobs, platform=platform)


def small_image(seed: int = 0, *, size: int = 2_000, docker: bool = False, platform: str = "linux/amd64") -> Published:
    """An image of one random layer of `size` bytes."""
    return image(random_blob(size, seed), docker=docker, platform=platform, labels={"seed": str(seed)})


def index(children: Sequence[Published], *, docker: bool = False) -> Published:
    """An index over `children`, each with its platform."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    manifests = []
    for child in children:
        system, _, architecture = child.platform.partition("/")
        described = _entry(child.media_type, child.raw)
        manifests.append(described | {"platform": {"os": system, "architecture": architecture}})
    raw = orjson.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
    return Published(raw, media_type, children=tuple(children))


def artifact(
    subject: Published, *, artifact_type: str = "application/vnd.example.sbom", data: bytes = b"{}"
) -> Published:
    """An artifact that refers to `subject`, as a signature or an SBOM does (image-spec v1.1)."""
    empty = b"{}"
    raw = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": _entry(OCI_EMPTY, empty),
            "layers": [_entry(artifact_type, data)],
            "subject": _entry(subject.media_type, subject.raw),
        }
    )
    return Published(raw, OCI_MANIFEST, {Digest.of(each): each for each in (empty, data)}, subject=subject.digest)
