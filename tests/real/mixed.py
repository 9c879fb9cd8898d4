"""Images of every kind that clients meet: Docker's media types, zstd layers, several platforms; and an artifact.

Each function pushes one to a registry as tag 1 and gives the digests that a client may report for it: of what the tag
names, and of what is meant for this platform.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from layers import CONFIG, LAYER, MANIFEST, assemble, digest_of, image, push, send
from machine import Registry

INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = {
    MANIFEST: "application/vnd.docker.distribution.manifest.v2+json",
    CONFIG: "application/vnd.docker.container.image.v1+json",
    LAYER: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    INDEX: "application/vnd.docker.distribution.manifest.list.v2+json",
}

Push: TypeAlias = Callable[[Registry, str], set[str]]


def _put(registry: Registry, repository: str, reference: str, manifest: bytes) -> str:
    media_type = json.loads(manifest)["mediaType"]
    send(registry.port, "PUT", f"/v2/{repository}/manifests/{reference}", manifest, media_type)
    return digest_of(manifest)


def _in_docker_words(manifest: bytes) -> bytes:
    text = manifest.decode()
    for oci, docker in _DOCKER.items():
        text = text.replace(oci, docker)
    return text.encode()


def docker(registry: Registry, repository: str) -> set[str]:
    """An image with Docker's media types."""
    made = push(registry.port, repository, "oci", image(repository, 20_000))
    return {_put(registry, repository, "1", _in_docker_words(made.manifest))}


def platforms(registry: Registry, repository: str) -> set[str]:
    """An index of two platforms."""
    return _index(registry, repository, lambda manifest: manifest)


def docker_list(registry: Registry, repository: str) -> set[str]:
    """The same as a manifest list, with Docker's media types throughout."""
    return _index(registry, repository, _in_docker_words)


def _index(registry: Registry, repository: str, put_in_words: Callable[[bytes], bytes]) -> set[str]:
    listed: list[dict[str, Any]] = []
    for architecture in ("amd64", "arm64"):
        made = image(f"{repository} {architecture}", 20_000, architecture=architecture)
        push(registry.port, repository, architecture, made)
        manifest = put_in_words(made.manifest)
        digest = _put(registry, repository, architecture, manifest)
        described = {"mediaType": json.loads(manifest)["mediaType"], "digest": digest, "size": len(manifest)}
        listed.append(described | {"platform": {"architecture": architecture, "os": "linux"}})
    index = put_in_words(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode())
    return {_put(registry, repository, "1", index), str(listed[0]["digest"])}


def _zstd_frame(data: bytes) -> bytes:
    """RFC 8878, section 3.1.1: one frame in one segment, of raw blocks that are at most 128 KiB each."""
    blocks = [data[at : at + (128 << 10)] for at in range(0, len(data), 128 << 10)]
    parts = [b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data))]
    for number, block in enumerate(blocks, 1):
        parts += [(len(block) << 3 | (number == len(blocks))).to_bytes(3, "little"), block]
    return b"".join(parts)


def zstd(registry: Registry, repository: str) -> set[str]:
    """An image whose layer is packed by zstd."""
    return {_put(registry, repository, "1", _zstd_manifest(registry, repository))}


def _zstd_manifest(registry: Registry, repository: str) -> bytes:
    made = image(repository)
    manifest = json.loads(made.manifest)
    frame = _zstd_frame(gzip.decompress(made.blobs[made.layers[0]]))
    push(registry.port, repository, "gzip", replace(made, blobs=made.blobs | {digest_of(frame): frame}))
    layer = {"mediaType": LAYER.replace("gzip", "zstd"), "digest": digest_of(frame), "size": len(frame)}
    return json.dumps(manifest | {"layers": [layer]}).encode()


def removals(registry: Registry, repository: str) -> set[str]:
    """An image whose upper layer removes a file, and a folder's former content."""
    lower = {"kept": b"1", "gone": b"2", "folder/old": b"3"}
    upper = {".wh.gone": b"", "folder/.wh..wh..opq": b"", "folder/new": repository.encode()}
    made = assemble([lower, upper])
    push(registry.port, repository, "1", made)
    return {made.digest}


def artifact(registry: Registry, repository: str) -> set[str]:
    """Not an image: an empty config and a text."""
    text, empty = f"about {repository}\n".encode(), b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.note.v1",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(empty), "size": len(empty)},
        "layers": [{"mediaType": "text/plain", "digest": digest_of(text), "size": len(text)}],
    }
    made = image(repository)
    extra = {digest_of(text): text, digest_of(empty): empty}
    push(registry.port, repository, "image", replace(made, blobs=made.blobs | extra))
    return {_put(registry, repository, "1", json.dumps(manifest).encode())}
