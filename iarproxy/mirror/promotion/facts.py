"""What is known of a digest that is about to be promoted, for gates to judge by.

Rule 1: what refers to it is told, not verified. Where upstream gives no answer, what was seen last is told: a gate that
        wants a signature finds none then, and refuses.
Rule 2: lists come from upstream: what has another shape than it should is left out, and there is a bound.
"""

from __future__ import annotations

from typing import Any

import orjson

from iarproxy.errors import Refused, Unavailable
from iarproxy.ledger import Ledger, Pin
from iarproxy.mirror.promotion.plan import Order, Replaces, Step
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.listing import Listings
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.oci import Digest, DigestReference, Manifest, Repository, Tag
from iarproxy.store import Store
from iarproxy.trust.gates import Attached, Facts
from iarproxy.trust.image_config import MAX_CONFIG, read_config

_MOST = 1000  # of what refers to a digest
_SUFFIXES = ("sig", "att", "sbom")  # of the tags under which cosign keeps what belongs to a digest


class Surveying:
    """Gathers the facts of promotions."""

    def __init__(
        self, store: Store, ledger: Ledger, documents: Documents, listings: Listings, manifests: Manifests
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._documents = documents
        self._listings = listings
        self._manifests = manifests

    async def facts(self, order: Order, step: Step, pin: Pin) -> Facts:
        """All that gates are told of `step`, which promotes `pin`.

        Raises:
            Refused, Unavailable: the manifest, or what the ledger has of it, cannot be had.
        """
        repository, digest = pin.reference.repository, pin.descriptor.digest
        manifest = await self._documents.by_digest(DigestReference(repository, digest))
        return Facts(
            environment=order.target,
            source=order.source,
            reference=step.reference,
            digest=digest,
            replaces=step.outcome.old if isinstance(step.outcome, Replaces) else None,
            media_type=pin.descriptor.media_type,
            size=pin.descriptor.size,
            platforms=await self._platforms(manifest),
            pinned_at=pin.pinned_at,
            first_seen=await self._ledger.first_seen(digest),
            attached=await self._attached(repository, digest),
            actor=order.actor,
            reason=order.reason,
        )

    async def _platforms(self, manifest: Manifest) -> tuple[str, ...]:
        if manifest.is_index:
            return tuple(str(child.platform) for child in manifest.children if child.platform)
        raw = None if manifest.config is None else await self._store.read(manifest.config.digest, MAX_CONFIG)
        config = None if raw is None else read_config(raw)
        return (config.platform,) if config is not None and config.platform else ()

    async def _attached(self, repository: Repository, digest: Digest) -> tuple[Attached, ...]:
        found = _listed((await self._listings.referrers(repository, digest, ())).raw)
        for suffix in _SUFFIXES if digest.algorithm == "sha256" else ():
            tag = Tag(f"{Tag.attached_to(digest)}.{suffix}")
            try:
                answer = await self._manifests.answer(repository, tag)
            except (Refused, Unavailable):
                continue
            found.append(Attached(answer.descriptor.digest, "", str(tag)))
        return tuple(found[:_MOST])


def _listed(index: bytes) -> list[Attached]:
    document: dict[str, Any] = orjson.loads(index)
    found: list[Attached] = []
    for each in document.get("manifests", ())[:_MOST]:
        match each:
            case {"digest": str(digest), "artifactType": str(kind)}:
                found.append(Attached(Digest.parse(digest), kind))
            case {"digest": str(digest)}:
                found.append(Attached(Digest.parse(digest), ""))
            case _:
                pass
    return found
