"""Manifests by tag and by digest: the pin on first fetch, and the answer from it ever after.

Rule 1: manifest durable, then pin durable, then the first byte of the tag's answer (design invariant 2).
Rule 2: a pin is built only from bytes hashed here; who loses the race for the first pin adopts the winner.
Rule 3: an unreadable pin is `LedgerDamaged`, never a reason to ask upstream what the tag means (invariant 4).
Rule 4: one upstream request per name in this worker, however many ask; who stops waiting changes nothing.
Rule 5: what is held never waits for a place among requests to upstreams, nor one upstream's for another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import assert_never

import structlog

from iarproxy.errors import (
    Denied,
    ManifestInvalid,
    Refused,
    StoreUnavailable,
    Unavailable,
    UnknownManifest,
    UpstreamWrong,
)
from iarproxy.inflight import InFlight
from iarproxy.ledger import DriftState, Ledger, Pin
from iarproxy.mirror.access import Access
from iarproxy.mirror.answers import ByDigest, Followed, ManifestAnswer, Pinned
from iarproxy.mirror.memory import ManifestMemory
from iarproxy.oci import (
    MAX_MANIFEST,
    Descriptor,
    Digest,
    DigestReference,
    Manifest,
    Reference,
    Repository,
    Tag,
    TagReference,
    parse_manifest,
)
from iarproxy.store import Store
from iarproxy.trust import Mode, OnDrift, TagRule, rule_for
from iarproxy.upstream import FetchedManifest, Upstreams

log = structlog.get_logger("iarproxy.mirror")

_SMALL = 256 * 1024  # bytes of a manifest that is read at once
_PATIENCE = 10.0  # seconds that a larger one waits for its turn


class Manifests:
    """Resolves tags and digests to verified manifests."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
        access: Access,
        memory: ManifestMemory,
        rules: Sequence[TagRule],
        now: Callable[[], datetime],
        on_first_pin: Callable[[Pin], None],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._upstreams = upstreams
        self._access = access
        self._memory = memory
        self._rules = rules
        self._now = now
        self._on_first_pin = on_first_pin
        self._pinning: InFlight[Reference, Pin] = InFlight(group=_upstream_of)
        self._following: InFlight[Reference, tuple[Descriptor, datetime]] = InFlight(group=_upstream_of)
        self._fetching: InFlight[Reference, Manifest] = InFlight(group=_upstream_of)
        self._large = asyncio.Semaphore(1)
        self._reading: InFlight[Digest, Manifest | None] = InFlight()

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        for flights in (self._pinning, self._following, self._fetching, self._reading):
            await flights.close()

    async def answer(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        """The manifest that a client gets.

        Raises:
            Refused: it does not exist, or policy forbids it.
            Unavailable: it is not held and cannot be had, or the pin is unreadable.
        """
        match wanted:
            case Digest():
                held = self._memory.get(wanted, repository)
                manifest = await self.by_digest(DigestReference(repository, wanted))
                return ManifestAnswer(
                    repository, manifest.descriptor, manifest.raw, ByDigest(), cached=held is not None
                )
            case Tag():
                return await self._by_tag(TagReference(repository, wanted))
            case _:
                assert_never(wanted)

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        """What `answer` would give, where memory alone can tell; None: ask `answer`. Neither waits nor does I/O."""
        match wanted:
            case Digest():
                found = self._peek_manifest(repository, wanted)
                return None if found is None else ManifestAnswer(repository, found.descriptor, found.raw, ByDigest())
            case Tag():
                return self._peek_pinned(TagReference(repository, wanted))
            case _:
                assert_never(wanted)

    def _peek_manifest(self, repository: Repository, digest: Digest) -> Manifest | None:
        return self._memory.get(digest, repository) if self._access.is_known(repository, digest) else None

    def _peek_pinned(self, reference: TagReference) -> ManifestAnswer | None:
        rule = rule_for(reference, self._rules)
        pin = self._ledger.peek(reference) if rule.mode is Mode.PIN else None
        if pin is None:
            return None
        drift = self._ledger.peek_drift(reference)
        manifest = self._peek_manifest(reference.repository, pin.descriptor.digest)
        return (
            None if manifest is None or _is_denied(drift, rule) else _pinned_answer(pin, drift, manifest, cached=True)
        )

    async def _by_tag(self, reference: TagReference) -> ManifestAnswer:
        rule = rule_for(reference, self._rules)
        match rule.mode:
            case Mode.PIN:
                return await self._pinned(reference, rule)
            case Mode.FOLLOW:
                return await self._followed(reference, rule)
            case Mode.REFUSE:
                raise Denied(
                    f"{reference} is refused by the tag rule {rule.match.text!r}; change mode in the configuration",
                    reference=str(reference),
                )
            case _:
                assert_never(rule.mode)

    # --- pin ---------------------------------------------------------------------------------------------------------

    async def _pinned(self, reference: TagReference, rule: TagRule) -> ManifestAnswer:
        pin = self._ledger.peek(reference) or await self._ledger.pin_of(reference)
        cached = pin is not None
        if pin is None:
            pin = await self._pinning.once(reference, lambda: self._first_pin(reference))
        drift = self._ledger.peek_drift(reference)
        if _is_denied(drift, rule):
            raise _denial(pin, drift)
        manifest = await self.by_digest(DigestReference(reference.repository, pin.descriptor.digest))
        return _pinned_answer(pin, drift, manifest, cached=cached)

    async def _first_pin(self, reference: TagReference) -> Pin:
        fetched = await self._upstreams[reference.repository.registry].manifest(
            reference.repository.name, reference.tag
        )
        manifest = await self.admit(reference.repository, fetched)
        ours = manifest.descriptor
        pin = await self._ledger.add(reference, ours, self._upstreams[reference.repository.registry].source)
        if pin.descriptor.digest == ours.digest:
            log.info("pinned", reference=str(reference), digest=str(ours.digest), media_type=ours.media_type)
            self._on_first_pin(pin)
        return pin

    async def admit(self, repository: Repository, fetched: FetchedManifest, digest: Digest | None = None) -> Manifest:
        """Verify what upstream sent, make it durable, link it to the repository.

        Raises:
            UpstreamWrong: the bytes are no acceptable manifest, or not the one that was asked for.
            StoreUnavailable: they cannot be made durable.
        """
        manifest = await self._verified(repository, fetched, digest)
        await self._store.put(manifest.descriptor.digest, manifest.raw)
        await self._access.learn(repository, manifest)
        return self._memory.learn(repository, manifest)

    # --- follow ------------------------------------------------------------------------------------------------------

    async def _followed(self, reference: TagReference, rule: TagRule) -> ManifestAnswer:
        known = await self._ledger.followed(reference)
        stale = False
        fresh = known is not None and self._now() - known[1] < rule.ttl
        if not fresh:
            try:
                known = await self._following.once(reference, lambda: self._refresh(reference))
            except (Unavailable, Refused):  # invariant 7: 401, 403 and 404 fail nothing that we hold either
                if known is None:
                    raise
                stale = True
        assert known is not None  # noqa: S101  # either it was known, or refreshing returned it or raised
        descriptor, since = known
        manifest = await self.by_digest(DigestReference(reference.repository, descriptor.digest))
        standing = Followed(since, stale)
        return ManifestAnswer(reference.repository, descriptor, manifest.raw, standing, cached=fresh or stale)

    async def _refresh(self, reference: TagReference) -> tuple[Descriptor, datetime]:
        """What upstream says the tag is now. A HEAD that names what we hold verified saves the GET, and its quota."""
        upstream = self._upstreams[reference.repository.registry]
        known = await self._ledger.followed(reference)
        if known is not None and await upstream.head_manifest(reference.repository.name, reference.tag) == (
            known[0].digest
        ):
            descriptor = known[0]
        else:
            fetched = await upstream.manifest(reference.repository.name, reference.tag)
            descriptor = (await self.admit(reference.repository, fetched)).descriptor
        await self._ledger.set_followed(reference, descriptor)
        return descriptor, self._now()

    # --- by digest ---------------------------------------------------------------------------------------------------

    async def by_digest(self, reference: DigestReference) -> Manifest:
        """The manifest with that digest: from memory, from the store, else from upstream, verified each time."""
        await self._access.require(reference.repository, reference.digest)
        digest, repository = reference.digest, reference.repository
        found = self._memory.get(digest, repository)
        if found is not None:
            return found
        if self._store.find(digest) is not None:
            found = await self._reading.once(digest, lambda: self.held(digest))
        if found is not None:
            return self._memory.learn(repository, found)
        return await self._fetching.once(reference, lambda: self._fetch(reference))

    async def held(self, digest: Digest) -> Manifest | None:
        """The manifest if we hold it; nobody is asked."""
        found = self._memory.get(digest)
        if found is not None:
            return found
        raw = await self._store.read(digest, MAX_MANIFEST)
        if raw is None:
            return None
        try:
            return self._memory.keep(await self._parsed(raw, "", digest))
        except ManifestInvalid as error:
            raise UnknownManifest(f"{digest} is held, but it is no manifest: {error}") from error

    async def _fetch(self, reference: DigestReference) -> Manifest:
        upstream = self._upstreams[reference.repository.registry]
        fetched = await upstream.manifest(reference.repository.name, reference.digest)
        try:
            return await self.admit(reference.repository, fetched, reference.digest)
        except StoreUnavailable as error:
            # Its name is its digest: verified bytes may be answered although there is no room to keep them.
            log.warning("manifest not kept", reference=str(reference), reason=str(error))
            verified = await self._verified(reference.repository, fetched, reference.digest)
            return self._memory.learn(reference.repository, verified)

    async def _verified(self, repository: Repository, fetched: FetchedManifest, digest: Digest | None) -> Manifest:
        try:
            return await self._parsed(fetched.raw, fetched.media_type, digest)
        except ManifestInvalid as error:
            raise UpstreamWrong(
                f"{repository.registry} sent no acceptable manifest for {repository.name}: {error}; nothing is kept",
                upstream=repository.registry,
            ) from error

    async def _parsed(self, raw: bytes, claimed: str, digest: Digest | None) -> Manifest:
        """As `parse_manifest`. Those that take a tenth of a second are read beside the loop, one at a time (T78)."""
        if len(raw) <= _SMALL:
            return parse_manifest(raw, claimed, digest)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._large.acquire()
        except TimeoutError:
            raise Unavailable("too many large manifests arrive at once; ask again in a moment", retry_after=5) from None
        try:
            return await asyncio.to_thread(parse_manifest, raw, claimed, digest)
        finally:
            self._large.release()


def _upstream_of(reference: Reference) -> str:
    return reference.repository.registry


def _pinned_answer(pin: Pin, drift: DriftState | None, manifest: Manifest, *, cached: bool) -> ManifestAnswer:
    return ManifestAnswer(
        repository=pin.reference.repository,
        descriptor=pin.descriptor,
        raw=manifest.raw,
        standing=Pinned(pin.pinned_at),
        offered=drift.offered.digest if drift and drift.offered else None,
        vanished=drift is not None and drift.verdict == "vanished",
        cached=cached,
    )


def _is_denied(drift: DriftState | None, rule: TagRule) -> bool:
    return rule.on_drift is OnDrift.DENY and drift is not None and drift.offered is not None


def _denial(pin: Pin, drift: DriftState | None) -> Denied:
    offered = drift.offered.digest if drift and drift.offered else None
    return Denied(
        f"{pin.reference} drifted: pinned {pin.descriptor.digest}, upstream offers {offered};"
        ' `iarproxy pins repin` accepts it, on_drift = "keep" serves what is pinned',
        pinned=str(pin.descriptor.digest),
        offered=str(offered),
    )
