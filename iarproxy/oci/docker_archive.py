"""`manifest.json` of a docker-archive, as `docker save` and `podman save` write it, and the image that it stands for.

Rule 1: such an archive has no manifest and no digest of one. The manifest made here is Docker's schema 2, as containerd
        makes it, since what it describes is Docker's: HEALTHCHECK and ONBUILD count for some runtimes only there. Where
        a layer is compressed by zstd, which schema 2 does not know, it is an OCI manifest.
Rule 2: config and layers keep their bytes, so also their digests. The same archive always gives the same manifest.
Rule 3: an uncompressed layer is what the config's `diff_ids` say at its place; a compressed one is what its bytes are.
Rule 4: what is written is the hybrid form, whose paths are those of an OCI layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from iarproxy.errors import DigestInvalid, Malformed
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import MAX_DESCRIPTORS
from iarproxy.oci.media_types import DOCKER_MANIFEST, OCI_MANIFEST
from iarproxy.oci.reference import DOCKER_HUB, TagReference, parse_reference
from iarproxy.oci.set_record import described
from iarproxy.oci.tar_entries import clean

MANIFEST = "manifest.json"
MAX_IMAGES = 1000
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image in a docker-archive: names of files in it.

    Attributes:
        tags: what it is called, in full.
    """

    config: str
    layers: tuple[str, ...]
    tags: tuple[TagReference, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it stands in the archive: its size in bytes, and its compression (empty: none)."""

    digest: Digest
    size: int
    compression: str = ""


def saved_images(raw: bytes) -> tuple[SavedImage, ...]:
    """What `manifest.json` says.

    Raises:
        Malformed: it is none, or names no files that an archive could have.
    """
    try:
        document = orjson.loads(raw)
        if not isinstance(document, list) or not 0 < len(document) <= MAX_IMAGES:
            raise Malformed(f"{MANIFEST} is no list of 1 to {MAX_IMAGES} images")
        return tuple(map(_saved, document))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Malformed(f"{MANIFEST} is damaged: {str(error)[:120]}") from error


def _saved(document: dict[str, Any]) -> SavedImage:
    layers, tags = document["Layers"] or [], document.get("RepoTags") or []
    if not isinstance(layers, list) or not isinstance(tags, list) or len(layers) + len(tags) > MAX_DESCRIPTORS:
        raise Malformed(f"{MANIFEST} lists layers or tags that are no list, or more than {MAX_DESCRIPTORS}")
    return SavedImage(clean(document["Config"]), tuple(map(clean, layers)), tuple(map(_tag, tags)))


def _tag(text: str) -> TagReference:
    found = parse_reference(text)
    if not isinstance(found, TagReference):
        raise Malformed(f"{MANIFEST} has {text[:160]!r} among the tags")
    return found


def compression_of(start: bytes) -> str:
    """How a layer that starts with these bytes is compressed; empty: not at all."""
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")


def diff_ids(config: bytes) -> tuple[Digest, ...]:
    """The digests of the uncompressed layers that a config names, in order.

    Raises:
        Malformed: it is no image's config.
    """
    try:
        named = orjson.loads(config)["rootfs"]["diff_ids"] or []
        return tuple(map(Digest.parse, named))
    except (ValueError, LookupError, TypeError, AttributeError, DigestInvalid) as error:
        raise Malformed(f"a config names no layers: {str(error)[:120]}") from error


def manifest_of(config: bytes, layers: Sequence[Layer]) -> tuple[Descriptor, bytes]:
    """The manifest that a config and its layers stand for (rule 1)."""
    is_docker = all(each.compression != "zstd" for each in layers)
    kind = DOCKER_MANIFEST if is_docker else OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": described(Descriptor(_DOCKER_CONFIG if is_docker else _OCI_CONFIG, Digest.of(config), len(config))),
        "layers": [
            described(Descriptor(_layer_type(each, is_docker=is_docker), each.digest, each.size)) for each in layers
        ],
    }
    raw = orjson.dumps(document)
    return Descriptor(kind, Digest.of(raw), len(raw)), raw


def _layer_type(layer: Layer, *, is_docker: bool) -> str:
    if not layer.compression:
        return _DOCKER_LAYER if is_docker else _OCI_LAYER
    return f"{_DOCKER_LAYER}.{layer.compression}" if is_docker else f"{_OCI_LAYER}+{layer.compression}"


def dump(images: Sequence[SavedImage]) -> bytes:
    """The `manifest.json` that says so."""
    return orjson.dumps(
        [
            {"Config": each.config, "RepoTags": list(map(familiar, each.tags)), "Layers": list(each.layers)}
            for each in images
        ]
    )


def familiar(reference: TagReference) -> str:
    """A name as Docker shows it: without `docker.io` and its `library/`."""
    repository = reference.repository
    if repository.registry != DOCKER_HUB:
        return str(reference)
    return f"{repository.name.removeprefix('library/')}:{reference.tag}"
