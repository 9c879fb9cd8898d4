"""What is served: blobs and images, the same bytes on every run, made without a compiler, a clock or a network.

Rule 1: every layer is a plain tar of exactly the wanted size with one file in it, so that real clients take it.
Rule 2: content lies in one tree that is a registry to whoever serves it as files: `/v2/<name>/blobs/<digest>`,
        `/v2/<name>/manifests/<tag or digest>`. Other layouts are hard links to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
KIB, MIB, GIB = 2**10, 2**20, 2**30
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob or manifest. `path` is how a client asks for it."""

    digest: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image; `tag` is how it is asked for by tag."""

    name: str
    tag: str
    manifest: Stored
    config: Stored
    layers: tuple[Stored, ...]

    @property
    def tag_path(self) -> str:
        return f"/v2/{self.name}/manifests/{self.tag}"

    @property
    def size(self) -> int:
        return self.manifest.size + self.config.size + sum(layer.size for layer in self.layers)


@dataclass
class Content:
    """The tree below `root`, as made so far."""

    root: Path
    images: list[Image] = field(default_factory=list)
    blobs: list[tuple[str, Stored]] = field(default_factory=list)
    _seed: int = 0

    def blob(self, name: str, size: int) -> Stored:
        """A new layer of `size` bytes (a multiple of 512, at least 2048) in the repository `name`."""
        self._seed += 1
        return self._keep(name, _tar(size, self._seed))

    def image(self, name: str, tag: str, sizes: list[int]) -> Image:
        """A new image with a layer of each size."""
        layers = tuple(self.blob(name, size) for size in sizes)
        rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
        config = self._keep(name, iter([_json({"architecture": "amd64", "os": "linux", "rootfs": rootfs})]))
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer) for layer in layers],
        }
        raw = _json(document)
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        folder = self.root / "v2" / name / "manifests"
        folder.mkdir(parents=True, exist_ok=True)
        for reference in (digest, tag):
            (folder / reference).write_bytes(raw)
        made = Image(name, tag, Stored(digest, len(raw), f"/v2/{name}/manifests/{digest}"), config, layers)
        self.images.append(made)
        return made

    def file(self, stored: Stored) -> Path:
        """Where the bytes are."""
        return self.root / stored.path.lstrip("/")

    def _keep(self, name: str, chunks: Iterator[bytes]) -> Stored:
        folder = self.root / "v2" / name / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        seen, size, growing = hashlib.sha256(), 0, folder / "growing"
        with growing.open("wb") as file:
            for chunk in chunks:
                seen.update(chunk)
                size += file.write(chunk)
        digest = f"sha256:{seen.hexdigest()}"
        growing.rename(folder / digest)
        stored = Stored(digest, size, f"/v2/{name}/blobs/{digest}")
        self.blobs.append((name, stored))
        return stored


def registry_layout(content: Content, root: Path) -> None:
    """The same content as the distribution registry keeps it on disk, as hard links."""
    base = root / "docker/registry/v2"
    for name, blob in content.blobs:
        _registry_blob(base, content, blob)
        _link(base / "repositories" / name / "_layers" / _folder(blob.digest), blob.digest)
    for image in content.images:
        manifests, digest = base / "repositories" / image.name / "_manifests", image.manifest.digest
        _registry_blob(base, content, image.manifest)
        _link(manifests / "revisions" / _folder(digest), digest)
        _link(manifests / "tags" / image.tag / "current", digest)
        _link(manifests / "tags" / image.tag / "index" / _folder(digest), digest)


def _registry_blob(base: Path, content: Content, stored: Stored) -> None:
    hexadecimal = stored.digest.removeprefix("sha256:")
    target = base / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(content.file(stored), target)


def _folder(digest: str) -> str:
    return digest.replace(":", "/")


def _link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").write_text(digest)


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, stored: Stored) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": stored.digest, "size": stored.size}


def _tar(size: int, seed: int) -> Iterator[bytes]:
    entry = tarfile.TarInfo(f"data/{seed}")
    entry.size = left = size - 512 - 1024
    yield entry.tobuf(tarfile.USTAR_FORMAT)
    block = random.Random(seed).randbytes(MIB)  # filler that does not compress
    while left > 0:
        yield block[:left]
        left -= len(block)
    yield bytes(1024)
