"""The world of `iarproxy demo`: an upstream registry and a client, both in this process and on loopback only.

Both are as small as the story needs: one repository, one tag that its publisher moves, images of two layers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Self

import orjson
from aiohttp import ClientSession, web

from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_MANIFEST

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(slots=True)
class DemoUpstream:
    """A registry that counts what it is asked. `tags` and `content` are its whole state."""

    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    port: int = 0
    _runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go down: from now on connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def publish(self, tag: str, story: str) -> Digest:
        """Push an image under `tag`, which moves the tag if it existed."""
        config = self._put(_CONFIG, orjson.dumps({"os": "linux", "architecture": "amd64", "author": story}))
        layers = [self._put(_LAYER, _some_bytes(story, part)) for part in ("base", "application")]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
        self.tags[tag] = str(self._put(OCI_MANIFEST, orjson.dumps(document))["digest"])
        return Digest.parse(self.tags[tag])

    def _put(self, media_type: str, data: bytes) -> dict[str, str | int]:
        digest = str(Digest.of(data))
        self.content[digest] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        wanted = request.path.rpartition("/")[2]
        digest = self.tags.get(wanted, wanted)
        if digest not in self.content:
            return web.Response(status=404)
        media_type, data = self.content[digest]
        shown = media_type if "/manifests/" in request.path else "application/octet-stream"
        headers = {"Docker-Content-Digest": digest, "Content-Type": shown}
        return web.Response(body=data, headers=headers)


def _some_bytes(story: str, part: str) -> bytes:
    """About a megabyte that depends on the story only where it should: the base layer is the same in each."""
    seed = part if part == "base" else part + story
    return b"".join(hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(32_768))


@dataclass(frozen=True, slots=True)
class Pull:
    """What a client's pull came to. `headers`: those of the tag's answer."""

    digest: Digest
    bytes: int
    headers: dict[str, str]


async def pull(session: ClientSession, base: str, repository: str, tag: str) -> Pull:
    """Pull an image as a container runtime does: HEAD the tag, then manifest and blobs by digest, each verified."""
    async with session.head(f"{base}/v2/{repository}/manifests/{tag}") as head:
        head.raise_for_status()
        digest, headers = Digest.parse(head.headers["Docker-Content-Digest"]), dict(head.headers)
    manifest = await _verified(session, f"{base}/v2/{repository}/manifests/{digest}", digest)
    document = orjson.loads(manifest)
    total = len(manifest)
    for blob in (document["config"], *document["layers"]):
        wanted = Digest.parse(blob["digest"])
        total += len(await _verified(session, f"{base}/v2/{repository}/blobs/{wanted}", wanted))
    return Pull(digest, total, headers)


async def _verified(session: ClientSession, url: str, digest: Digest) -> bytes:
    async with session.get(url) as answer:
        answer.raise_for_status()
        data = await answer.read()
    if Digest.of(data) != digest:
        raise ValueError(f"{url} answered bytes of another digest")
    return data
