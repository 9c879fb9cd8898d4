"""Images that every client unpacks, and pushing them to a registry byte for byte; the standard library only."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Image:
    """A manifest and the blobs that it names."""

    manifest: bytes = field(repr=False)
    blobs: dict[str, bytes] = field(repr=False)
    layers: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def image(text: str, *sizes: int, architecture: str = "amd64") -> Image:
    """A linux image that `text` decides: one small layer, and one of about `size` bytes for each of `sizes`."""
    contents = [{"etc/motd": text.encode()}]
    contents += [{f"data/{number}": random.Random(text).randbytes(size)} for number, size in enumerate(sizes)]
    return assemble(contents, architecture)


def assemble(contents: Sequence[dict[str, bytes]], architecture: str = "amd64") -> Image:
    """A linux image with a layer for each of these: files by name."""
    tars = [_tar(each) for each in contents]
    layers = [gzip.compress(each, compresslevel=1 if len(each) < 100_000 else 0, mtime=0) for each in tars]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in tars]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(config, CONFIG),
            "layers": [_descriptor(each, LAYER) for each in layers],
        }
    ).encode()
    blobs = {digest_of(each): each for each in [config, *layers]}
    return Image(manifest, blobs, tuple(digest_of(each) for each in layers))


def send(port: int, method: str, target: str, body: bytes = b"", media_type: str = "") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, {"Content-Type": media_type} if media_type else {})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    assert answer.status < 300, f"{method} {target}: {answer.status}"
    return answer


def push(port: int, repository: str, tag: str, pushed: Image) -> Image:
    """Push the image to the registry on `port`, as a client would."""
    for digest, data in pushed.blobs.items():
        place = urlsplit(send(port, "POST", f"/v2/{repository}/blobs/uploads/").headers["Location"])
        send(port, "PUT", f"{place.path}?{place.query}&digest={digest}", data, "application/octet-stream")
    send(port, "PUT", f"/v2/{repository}/manifests/{tag}", pushed.manifest, MANIFEST)
    return pushed
