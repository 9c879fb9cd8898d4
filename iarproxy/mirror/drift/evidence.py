"""What is kept when upstream is accused: what was offered, how upstream said it, when, and what differs.

Rule 1: the bytes of both manifests are in the store before an accusation is made; here are their descriptors.
Rule 2: details cost a few small documents. One that is not to be had is named, and the accusation stands without it.
Rule 3: what upstream tells of signatures is labelled unverified; nothing is admitted because of it.
Rule 4: the journal takes a bounded amount: where all of it is more, the longest part is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
import structlog

from iarproxy.errors import IarproxyError, Malformed, ManifestInvalid, UnknownManifest, UnknownName
from iarproxy.ledger import Pin
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import wanted_children
from iarproxy.mirror.spelling import describe
from iarproxy.oci import Descriptor, Digest, DigestReference, Manifest, Platform, Repository, Tag, parse_manifest
from iarproxy.trust import telling
from iarproxy.trust.difference import Image, Side, compare
from iarproxy.trust.image_config import MAX_CONFIG, ImageConfig, read_config
from iarproxy.trust.signers import MAX_BUNDLE, Signature, form_of, of_bundle, of_cosign
from iarproxy.upstream import FetchedManifest, Purpose, Upstreams

log = structlog.get_logger("iarproxy.drift")

_CHILDREN = 3  # of an index that are compared
_SIGNATURES = 3  # of one side that are read
_PATIENCE = 30.0  # seconds for all details
_ROOM = 200 * 1024  # bytes of JSON


class Evidence:
    """Gathers what belongs to an accusation."""

    def __init__(
        self,
        *,
        documents: Documents,
        blobs: Blobs,
        upstreams: Upstreams,
        platforms: tuple[Platform, ...],
        now: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._blobs = blobs
        self._upstreams = upstreams
        self._platforms = platforms
        self._now = now

    async def vanished(self, pin: Pin) -> dict[str, Any]:
        """The evidence where upstream has no such tag any more."""
        return {**self._of(pin), "summary": "upstream has no such tag any more"}

    async def drifted(self, pin: Pin, offered: Manifest, fetched: FetchedManifest, purpose: Purpose) -> dict[str, Any]:
        """The evidence where upstream offers something else."""
        found = {
            **self._of(pin),
            "offered": describe(offered.descriptor),
            "headers": fetched.headers,
            "offered_by": fetched.source,
        }
        told = await self._difference(pin, offered, purpose)
        for left_out in ((), ("text",), ("text", "difference")):
            whole = {**found, **{name: value for name, value in told.items() if name not in left_out}}
            if len(orjson.dumps(whole)) <= _ROOM:
                break
        return whole

    def _of(self, pin: Pin) -> dict[str, Any]:
        return {
            "pinned": describe(pin.descriptor),
            "pinned_at": pin.pinned_at.isoformat(),
            "source": pin.source,
            "seen_at": self._now().isoformat(),
        }

    async def _difference(self, pin: Pin, offered: Manifest, purpose: Purpose) -> dict[str, Any]:
        repository = pin.reference.repository
        try:
            async with asyncio.timeout(_PATIENCE):
                pinned = await self._documents.by_digest(DigestReference(repository, pin.descriptor.digest), purpose)
                both = pinned.is_index, offered.is_index
                sides = [await self._side(repository, each, purpose, alike=not any(both)) for each in (pinned, offered)]
        except (IarproxyError, TimeoutError) as error:
            reason = str(error) or f"it took longer than {_PATIENCE:g} s"
            return {"summary": "what differs is not known", "unread": reason}
        found = compare(*sides)
        return {
            "summary": telling.summary(found),
            "difference": telling.as_json(found),
            "text": telling.text(found),
        }

    # --- one side ----------------------------------------------------------------------------------------------------

    async def _side(self, repository: Repository, manifest: Manifest, purpose: Purpose, *, alike: bool) -> Side:
        """`alike`: both sides are single images, which are compared whatever platform they are for."""
        unread = list[str]()

        async def had(what: str, work: Awaitable[Any]) -> Any:
            try:
                return await work
            except IarproxyError as error:
                unread.append(f"{what}: {error}")
                return None

        images = dict[str, Image]()
        if manifest.is_index:
            for child in wanted_children(manifest, self._platforms)[:_CHILDREN]:
                reference = DigestReference(repository, child.descriptor.digest)
                found = await had(f"the manifest for {child.platform}", self._documents.by_digest(reference, purpose))
                if found is not None:
                    config = await had(f"the config for {child.platform}", self._config(repository, found, purpose))
                    images[str(child.platform or "")] = Image(found, config)
        else:
            config = await had("the config", self._config(repository, manifest, purpose))
            platform = "" if alike or config is None else config.platform
            images[platform] = Image(manifest, config)
        signed = await had("signatures", self._signatures(repository, manifest.descriptor.digest, purpose))
        return Side(manifest, images, signed, tuple(unread))

    async def _config(self, repository: Repository, manifest: Manifest, purpose: Purpose) -> ImageConfig | None:
        """None: the manifest names none. One that cannot be compared is an error: it must not look equal."""
        config = manifest.config
        if config is None:
            return None
        if config.size > MAX_CONFIG:
            raise Malformed(f"{config.digest} has {config.size} bytes; at most {MAX_CONFIG} are read")
        found = read_config(await self._small(repository, config, purpose))
        if found is None:
            raise Malformed(f"{config.digest} is no JSON object")
        return found

    async def _small(self, repository: Repository, blob: Descriptor, purpose: Purpose) -> bytes:
        await self._blobs.hold(repository, blob, purpose=purpose)
        return await self._blobs.small(repository, blob)

    # --- signatures --------------------------------------------------------------------------------------------------

    async def _signatures(self, repository: Repository, digest: Digest, purpose: Purpose) -> tuple[Signature, ...]:
        """Those that upstream tells of, in any of the three forms (interop.md 4.4)."""
        found = list[Signature]()
        if digest.algorithm == "sha256":
            tagged = await self._tagged(repository, Tag(f"{Tag.attached_to(digest).value}.sig"), purpose)
            found += () if tagged is None else of_cosign(tagged)
        listed = await self._referrers(repository, digest, purpose)
        signed = [(each, form) for each in listed if (form := form_of(_type(each), _annotations(each)))]
        for each, form in signed[:_SIGNATURES]:
            carrier = Digest.parse(str(each.get("digest")))
            found += await self._read(repository, carrier, form, purpose)
        return tuple(found)

    async def _read(self, repository: Repository, digest: Digest, form: str, purpose: Purpose) -> tuple[Signature, ...]:
        if form == "notation":
            return (Signature(form, digest),)
        manifest = await self._documents.by_digest(DigestReference(repository, digest), purpose)
        if form == "cosign":
            return of_cosign(manifest)
        if not manifest.layers or manifest.layers[0].size > MAX_BUNDLE:
            return (Signature(form, digest),)
        return (of_bundle(digest, await self._small(repository, manifest.layers[0], purpose)),)

    async def _referrers(self, repository: Repository, digest: Digest, purpose: Purpose) -> list[dict[str, Any]]:
        upstream = self._upstreams[repository.registry]
        await upstream.require(purpose)
        try:
            raw = await upstream.referrers(repository.name, digest)
        except UnknownName:
            return []
        if raw is None and digest.algorithm == "sha256":
            fallback = await self._tagged(repository, Tag.attached_to(digest), purpose)
            raw = None if fallback is None else fallback.raw
        if raw is None:
            return []
        parse_manifest(raw)
        listed: list[dict[str, Any]] = orjson.loads(raw).get("manifests") or []
        return listed

    async def _tagged(self, repository: Repository, tag: Tag, purpose: Purpose) -> Manifest | None:
        try:
            fetched = await self._upstreams[repository.registry].manifest(repository.name, tag, purpose)
            return parse_manifest(fetched.raw, fetched.media_type)
        except (UnknownManifest, UnknownName, ManifestInvalid):
            return None


def _type(entry: dict[str, Any]) -> str:
    found = entry.get("artifactType")
    return found if isinstance(found, str) else ""


def _annotations(entry: dict[str, Any]) -> dict[str, str]:
    found = entry.get("annotations")
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
