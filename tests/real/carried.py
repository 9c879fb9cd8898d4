"""What the tests of layouts and archives carry between programs: a registry's images, as pinned and exported here.

Rule: the registry knows every shape that readers disagree about: OCI and Docker types, indexes and lists, zstd layers,
      what refers to an image, and what is no image at all.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layers import CONFIG, LAYER, MANIFEST, Image, digest_of, image
from machine import Answer, Proxy
from shelf import INDEX, Shelf

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
IMAGES = ("plain", "docker", "both", "list", "zstd")
SETS = """
[[set]]
name = "whole"
references = [{names}]

[[set]]
name = "one"
references = ["docker.io/library/both:1"]

[[set]]
name = "narrow"
references = ["docker.io/library/both:1"]
platforms = ["linux/amd64"]
"""


def called(name: str) -> str:
    return f"docker.io/library/{name}:1"


@dataclass(frozen=True)
class Carried:
    """A mirror without clients, of a registry; and what the registry has, by name: its digest."""

    shelf: Shelf
    mirror: Proxy
    digests: dict[str, str]
    children: dict[str, str]  # of what is an index: the digest of its linux/amd64 image

    def done(self, *words: str | Path) -> Answer:
        """A command of iarproxy that has to succeed."""
        answer = self.mirror.command(*map(str, words))
        assert answer.status == 0, f"{words}: {answer.body.decode()}{answer.headers['stderr']}"
        return answer

    def archive(self, *names: str, **options: str) -> Path:
        """An export of these, made once; every option with its value."""
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        target = self.mirror.folder / "-".join(["export", *names, *options.values()]).replace("/", "-")
        if not target.exists():
            self.done("layout", "export", *map(called, names), "-o", target, *words)
        return target

    def amd64(self, name: str) -> str:
        """The digest of the image that a linux/amd64 machine runs."""
        return self.children.get(name, self.digests[name])


def carried(folder: Path, shelf: Shelf) -> Carried:
    """Fill the registry, and have everything of it pinned and held."""
    found = Carried(shelf, Proxy(folder, shelf.port), {}, {})
    _put(found, "plain", _with_types(image("plain", 50_000), docker=False))
    _put(found, "docker", _with_types(image("docker", 50_000), docker=True))
    _put_index(found, "both", docker=False)
    _put_index(found, "list", docker=True)
    _put(found, "zstd", _packed(image("zstd", 5_000)))
    thing = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.thing",
            "config": _described(b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [_described(b"hello", "text/plain")],
        }
    ).encode()
    for data in (b"{}", b"hello"):
        shelf.put_blob("library/thing", data)
    found.digests["thing"] = shelf.put("library/thing", "1", MANIFEST, thing)
    names = ", ".join(f'"{called(name)}"' for name in found.digests)
    (folder / "sets.toml").write_text(SETS.format(names=names))
    found.done("pull", *map(called, found.digests))
    return found


def _described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _with_types(made: Image, *, docker: bool) -> tuple[Image, str]:
    if not docker:
        return made, MANIFEST
    raw = made.manifest
    for oci, theirs in ((MANIFEST, DOCKER_MANIFEST), (CONFIG, DOCKER_CONFIG), (LAYER, DOCKER_LAYER)):
        raw = raw.replace(oci.encode(), theirs.encode())
    return Image(raw, made.blobs, made.layers), DOCKER_MANIFEST


def _put(found: Carried, name: str, pushed: tuple[Image, str], tag: str | None = "1") -> None:
    made, media_type = pushed
    for data in made.blobs.values():
        found.shelf.put_blob(f"library/{name}", data)
    found.digests[name] = found.shelf.put(f"library/{name}", tag, media_type, made.manifest)


def _put_index(found: Carried, name: str, *, docker: bool) -> None:
    listed = []
    for architecture in ("amd64", "arm64"):
        made, media_type = _with_types(
            image(f"{name} {architecture}", 20_000, architecture=architecture), docker=docker
        )
        _put(found, name, (made, media_type), None)
        listed.append(
            _described(made.manifest, media_type) | {"platform": {"os": "linux", "architecture": architecture}}
        )
    found.children[name] = listed[0]["digest"]
    media_type = DOCKER_LIST if docker else INDEX
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": listed}).encode()
    found.digests[name] = found.shelf.put(f"library/{name}", "1", media_type, raw)


def _packed(made: Image) -> tuple[Image, str]:
    """The image with layers in zstd frames."""
    document, blobs = json.loads(made.manifest), {}
    for layer in document["layers"]:
        data = _frame(gzip.decompress(made.blobs[layer["digest"]]))
        layer.update(_described(data, LAYER.replace("gzip", "zstd")))
        blobs[digest_of(data)] = data
    blobs[document["config"]["digest"]] = made.blobs[document["config"]["digest"]]
    return Image(json.dumps(document).encode(), blobs, tuple(blobs)), MANIFEST


def _frame(data: bytes) -> bytes:
    """A zstd frame of raw blocks (RFC 8878): a size in four bytes, and pieces of at most 128 KiB."""
    step = 128 * 1024
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    blocks = [
        (len(piece) << 3 | (number == len(pieces))).to_bytes(3, "little") + piece
        for number, piece in enumerate(pieces, 1)
    ]
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + b"".join(blocks)


def unpacked(archive: Path, folder: Path) -> Path:
    """An archive as a folder, for programs that read no archives."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


def members(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        return opened.getnames()
