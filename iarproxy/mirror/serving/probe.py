"""The repository by which `iarproxy setup CLIENT --check` finds out where a client's pull really goes.

Rule 1: in every upstream the name `library/iarproxy-check` is ours alone, and upstream is never asked for it. Nobody
        can register it: on Docker Hub `library` belongs to Docker.
Rule 2: `pass-<nonce>` is an image that only this instance makes, another one in each environment, in all that a client
        may know it by: index, manifests and configurations; `deny-<nonce>` is refused as policy refuses.
Rule 3: what a nonce makes is kept like any content, so that every worker has it; how fast new ones are made is bounded.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, assert_never

import orjson

from iarproxy.errors import Unavailable, UnknownBlob, UnknownManifest
from iarproxy.ledger import DEFAULT
from iarproxy.mirror.serving.access import Access
from iarproxy.mirror.serving.answers import ByDigest, ManifestAnswer, ReferrersAnswer
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.refusing import refused_by_policy
from iarproxy.oci import Digest, DigestReference, Repository, Tag, TagReference, parse_manifest
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from iarproxy.store import Store
from iarproxy.trust import RefusalForm

NAME = "library/iarproxy-check"

_ASKED = re.compile(r"(pass|deny)-([a-z0-9]{8,32})", re.ASCII)
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_PLATFORMS = (
    *({"os": "linux", "architecture": each} for each in ("amd64", "arm64", "386", "ppc64le", "s390x", "riscv64")),
    {"os": "linux", "architecture": "arm", "variant": "v7"},
)
_NOTHING = bytes(1024)  # a tar archive without members
_BURST = 32  # new nonces at once; after that one for each pause
_PAUSE = timedelta(seconds=10)

_INDEX_OF_NOTHING = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
NO_REFERRERS = ReferrersAnswer(orjson.dumps(_INDEX_OF_NOTHING), filtered=True)


class Probe:
    """Answers for the probe repository of every upstream."""

    def __init__(
        self,
        store: Store,
        documents: Documents,
        access: Access,
        *,
        instance: str,
        form: RefusalForm,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._documents = documents
        self._access = access
        self._instance = hashlib.sha256(f"iarproxy-check\n{instance}".encode()).hexdigest()[:16]
        self._form = form
        self._now = now
        self._paid = now() - _BURST * _PAUSE

    async def answer(self, repository: Repository, wanted: Tag | Digest, environment: str = DEFAULT) -> ManifestAnswer:
        """The image of a `pass-` tag, or a part of one that was made.

        Raises:
            Denied: a `deny-` tag. UnknownManifest: anything else. Unavailable: too many new ones at once.
        """
        match wanted:
            case Tag():
                raw = await self._image(repository, wanted, environment)
                return ManifestAnswer(repository, parse_manifest(raw).descriptor, raw, ByDigest())
            case Digest():
                await self.check(repository, wanted)
                found = await self._documents.by_digest(DigestReference(repository, wanted))
                return ManifestAnswer(repository, found.descriptor, found.raw, ByDigest())
            case _:
                assert_never(wanted)

    async def check(self, repository: Repository, digest: Digest) -> None:
        """Raise `UnknownBlob` unless it is held and linked here: upstream is not asked for it or about it."""
        if self._store.find(digest) is None or not await self._access.is_linked(repository, digest):
            raise UnknownBlob(f"{NAME} has no {digest}")

    async def _image(self, repository: Repository, tag: Tag, environment: str) -> bytes:
        asked = _ASKED.fullmatch(tag.value)
        if asked is None:
            raise UnknownManifest(f"{repository.name} is where `iarproxy setup --check` looks; it has no {tag}")
        if asked[1] == "deny":
            text = f"{TagReference(repository, tag)} is refused, as `iarproxy setup --check` asked for"
            raise refused_by_policy(self._form, "check", text)
        *parts, index = image(self._instance, asked[2], environment)
        if self._store.find(Digest.of(index)) is None:
            self._pass_the_gate()
        for part in (*parts, index):
            if self._store.find(Digest.of(part)) is None:
                await self._store.put(Digest.of(part), part)
            if part.startswith(b'{"schemaVersion"'):
                await self._access.learn(repository, parse_manifest(part))
        return index

    def _pass_the_gate(self) -> None:
        """Count one more new nonce. `_paid` is the moment up to which the pauses that passed are used up."""
        paid = max(self._paid, self._now() - _BURST * _PAUSE) + _PAUSE
        if paid > self._now():
            raise Unavailable("too many checks at once; ask again in a moment", retry_after=10)
        self._paid = paid


def image(instance: str, nonce: str, environment: str = DEFAULT) -> tuple[bytes, ...]:
    """The blobs and manifests of the image that `nonce` names, each after what it refers to; the last is its index."""
    layer = gzip.compress(_NOTHING, mtime=0)
    parts: list[bytes] = [layer]
    children = []
    told = {"dev.iarproxy.instance": instance, "dev.iarproxy.nonce": nonce}
    if environment != DEFAULT:
        told["dev.iarproxy.environment"] = environment
    for platform in _PLATFORMS:
        config = _config(platform, told)
        manifest = orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(_CONFIG, config),
                "layers": [_descriptor(_LAYER, layer)],
            }
        )
        parts += [config, manifest]
        children.append({**_descriptor(OCI_MANIFEST, manifest), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, "annotations": told}
    return (*parts, orjson.dumps(index))


def _config(platform: dict[str, str], told: dict[str, str]) -> bytes:
    empty = {"type": "layers", "diff_ids": [str(Digest.of(_NOTHING))]}
    return orjson.dumps({**platform, "config": {"Cmd": ["/nothing"], "Labels": told}, "rootfs": empty})


def _descriptor(media_type: str, raw: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}
