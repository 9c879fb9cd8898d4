"""What a client gets for a tag or digest: the pin on first fetch, and the answer from it ever after.

Rule 1: manifest durable, then pin durable, then the first byte of the tag's answer (design invariant 2).
Rule 2: a pin is built only from bytes hashed here; who loses the race for the first pin adopts the winner.
Rule 3: an unreadable pin is `LedgerDamaged`, never a reason to ask upstream what the tag means (invariant 4).
Rule 4: one upstream request per name in this worker, however many ask; who stops waiting changes nothing.
Rule 5: where pins come by promotion or from a lock file only, a tag without one is refused, and upstream is not asked.
Rule 6: what is withheld from a tag without a pin is remembered: its clients cost nothing (`withholding`).
Rule 7: what is held never waits for a place among requests to upstreams, nor one upstream's for another's; and for an
        upstream's news of a followed tag only shortly (`patience`).
Rule 8: offline a followed tag is what was brought last, and never stale: nobody has news of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias, assert_never

import structlog

from iarproxy.errors import Offline, Recalled, Refused, Unavailable
from iarproxy.inflight import InFlight
from iarproxy.ledger import DriftState, Ledger, Pin, Withheld
from iarproxy.mirror.serving.answers import ByDigest, Followed, ManifestAnswer, Pinned
from iarproxy.mirror.serving.documents import Documents, upstream_of
from iarproxy.mirror.serving.misses import Misses, unseen
from iarproxy.mirror.serving.patience import Asking, Wait
from iarproxy.mirror.serving.refusing import refused_as_absent, refused_by_policy, refused_by_rule, refused_for_drift
from iarproxy.mirror.serving.withholding import is_withheld, refused_as_withheld
from iarproxy.oci import (
    Descriptor,
    Digest,
    DigestReference,
    Manifest,
    Reference,
    Repository,
    Tag,
    TagReference,
)
from iarproxy.trust import Mode, RefusalForm, TagRule
from iarproxy.trust.admission import Terms
from iarproxy.trust.environments import FIRST_FETCHES, Environment
from iarproxy.upstream import Purpose, Upstreams

log = structlog.get_logger("iarproxy.mirror")

_REMEMBERED = 10_000  # followed tags

Seen: TypeAlias = tuple[Descriptor, datetime]  # what a followed tag offered, and when


class Manifests:
    """Resolves tags and digests to verified manifests, for the clients of one environment."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        upstreams: Upstreams,
        documents: Documents,
        rules: Sequence[TagRule],
        refusal: RefusalForm,
        now: Callable[[], datetime],
        on_first_pin: Callable[[Pin], None],
        on_hint: Callable[[Pin], None],
        environment: Environment = FIRST_FETCHES,
    ) -> None:
        self._environment = environment
        self._pins = ledger.within(environment.name)
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._rules = rules
        self._refusal = refusal
        self._now = now
        self._on_first_pin = on_first_pin
        self._on_hint = on_hint
        self._pinning: InFlight[Reference, Pin] = InFlight(group=upstream_of)
        self._following: Asking[Seen] = Asking()
        self._seen: dict[TagReference, Seen] = {}  # what followed tags offered; as true as the ledger, until it is old
        self._misses = Misses(now)
        ledger.on_change(self._forget)

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._pinning.close()
        await self._following.close()

    async def answer(
        self, repository: Repository, wanted: Tag | Digest, purpose: Purpose = Purpose.CLIENT
    ) -> ManifestAnswer:
        """The manifest that a client gets.

        Raises:
            Refused: it does not exist, or policy forbids it.
            Unavailable: it is not held and cannot be had, or the pin is unreadable.
        """
        match wanted:
            case Digest():
                held = self._documents.is_held(repository, wanted)
                manifest = await self._documents.by_digest(DigestReference(repository, wanted))
                return ManifestAnswer(repository, manifest.descriptor, manifest.raw, ByDigest(), cached=held)
            case Tag():
                return await self._unless_recalled(TagReference(repository, wanted), purpose)
            case _:
                assert_never(wanted)

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        """What `answer` would give, where memory alone can tell; None: ask `answer`. Neither waits nor does I/O."""
        found = self._peek(repository, wanted)
        if found is None or self._documents.recalling.is_lasting(found.descriptor.digest):
            return found
        return replace(found, brief=True)

    def _peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        match wanted:
            case Digest():
                found = self._documents.peek(repository, wanted)
                return None if found is None else ManifestAnswer(repository, found.descriptor, found.raw, ByDigest())
            case Tag():
                return self._peek_tag(TagReference(repository, wanted))
            case _:
                assert_never(wanted)

    def _peek_tag(self, reference: TagReference) -> ManifestAnswer | None:
        rule = self._environment.rule_for(reference, self._rules)
        match rule.mode:
            case Mode.PIN:
                return self._peek_pinned(reference, rule)
            case Mode.FOLLOW:
                return self._peek_followed(reference, rule)
            case Mode.REFUSE:
                return None
            case _:
                assert_never(rule.mode)

    def _peek_followed(self, reference: TagReference, rule: TagRule) -> ManifestAnswer | None:
        known = self._seen.get(reference)
        if known is None or not self._is_fresh(known, rule):
            return None
        manifest = self._documents.peek(reference.repository, known[0].digest)
        return None if manifest is None else _followed_answer(reference, known, manifest, stale=False, cached=True)

    def _is_fresh(self, known: Seen, rule: TagRule) -> bool:
        if self._upstreams.is_offline:
            return True
        return abs(self._now() - known[1]) < rule.ttl  # a clock that was ahead makes nothing fresh for years

    def _peek_pinned(self, reference: TagReference, rule: TagRule) -> ManifestAnswer | None:
        pin = self._pins.peek(reference)
        if pin is None:
            return None
        drift = self._drift(reference)
        manifest = self._documents.peek(reference.repository, pin.descriptor.digest)
        if manifest is None or refused_for_drift(pin, drift, rule) is not None:
            return None
        return _pinned_answer(pin, drift, manifest, cached=True)

    async def _unless_recalled(self, reference: TagReference, purpose: Purpose) -> ManifestAnswer:
        try:
            return await (self._offline if self._upstreams.is_offline else self._by_tag)(reference, purpose)
        except Recalled as recalled:
            told = f"{reference} is refused: {recalled}"
            raise refused_by_policy(self._refusal, "recalled", told, **recalled.detail) from recalled

    async def _offline(self, reference: TagReference, purpose: Purpose) -> ManifestAnswer:
        """As `_by_tag`, with what is missed remembered."""
        self._misses.insist(reference)
        try:
            return await self._by_tag(reference, purpose)
        except Offline as error:
            raise self._misses.note(reference, self._pins.peek(reference), error) from error

    def _forget(self, reference: TagReference | None) -> None:
        """A bundle was applied, or a person changed something: what was known of these tags may be otherwise."""
        self._misses.forget(reference)
        if reference is None:
            self._seen.clear()

    async def _by_tag(self, reference: TagReference, purpose: Purpose) -> ManifestAnswer:
        rule = self._environment.rule_for(reference, self._rules)
        match rule.mode:
            case Mode.PIN:
                return await self._pinned(reference, rule, purpose)
            case Mode.FOLLOW:
                return await self._followed(reference, rule, purpose)
            case Mode.REFUSE:
                raise refused_by_rule(self._refusal, rule, reference)
            case _:
                assert_never(rule.mode)

    async def _pinned(self, reference: TagReference, rule: TagRule, purpose: Purpose) -> ManifestAnswer:
        pin = self._pins.peek(reference) or await self._known_pin(reference)
        cached = pin is not None
        if pin is None:
            absent = refused_as_absent(self._refusal, self._environment, reference)
            if absent is not None:
                raise absent
            terms = Terms(rule.admit, rule.cool_down)
            pin = await self._pinning.once(reference, lambda: self._first_pin(reference, terms, purpose))
        drift = self._drift(reference)
        refused = refused_for_drift(pin, drift, rule)
        if refused is not None:
            raise refused
        manifest = await self._documents.by_digest(DigestReference(reference.repository, pin.descriptor.digest))
        return _pinned_answer(pin, drift, manifest, cached=cached)

    def _drift(self, reference: TagReference) -> DriftState | None:
        """What upstream offers now is no news of a pin that was never upstream's word."""
        return self._pins.peek_drift(reference) if self._environment.pins_first_fetches else None

    async def _known_pin(self, reference: TagReference) -> Pin | None:
        """The pin that the ledger knows, which is not asked while the tag is known to be withheld."""
        withheld = self._pins.peek_withheld(reference)
        if withheld is not None and is_withheld(withheld, self._now()):
            raise refused_as_withheld(self._refusal, withheld)
        return await self._pins.pin_of(reference)

    async def _first_pin(self, reference: TagReference, terms: Terms, purpose: Purpose) -> Pin:
        await self._documents.recalling.insist_on_tag(reference)
        fetched = await self._upstreams[reference.repository.registry].manifest(
            reference.repository.name, reference.tag, purpose
        )
        manifest = await self._documents.admit(reference.repository, fetched)
        await self._documents.recalling.insist_on_offer(reference, manifest)
        ours = manifest.descriptor
        pin = await self._pins.admit(reference, ours, fetched.source, terms)
        if isinstance(pin, Withheld):
            log.info("withheld", reference=str(reference), digest=str(ours.digest), why=str(pin.why))
            raise refused_as_withheld(self._refusal, pin)
        if pin.descriptor.digest == ours.digest:
            log.info("pinned", reference=str(reference), digest=str(ours.digest), media_type=ours.media_type)
            self._on_first_pin(pin)
        if fetched.beyond is not None and fetched.beyond.digest != pin.descriptor.digest:
            self._on_hint(pin)
        return pin

    async def _followed(self, reference: TagReference, rule: TagRule, purpose: Purpose) -> ManifestAnswer:
        known = self._seen.get(reference)
        if known is None or not self._is_fresh(known, rule):
            known = await self._ledger.followed(reference)
        stale = False
        fresh = known is not None and self._is_fresh(known, rule)
        if not fresh:
            try:
                wait = self._wait(reference, known, purpose)
                known = await self._following.once(reference, lambda: self._refresh(reference, purpose), wait)
            except (Unavailable, Refused) as error:  # invariant 7: 401, 403 and 404 fail nothing that we hold either
                if known is None:
                    raise unseen(reference, error) from error
                stale = True
        assert known is not None  # noqa: S101  # either it was known, or refreshing returned it or raised
        self._note(reference, known)
        manifest = await self._documents.by_digest(DigestReference(reference.repository, known[0].digest))
        return _followed_answer(reference, known, manifest, stale=stale, cached=fresh or stale)

    def _wait(self, reference: TagReference, known: Seen | None, purpose: Purpose) -> Wait:
        if purpose is not Purpose.CLIENT or self._upstreams.is_offline:
            return Wait.ALL
        if known is not None:
            return Wait.NEWS
        subject = reference.tag.subject
        held = subject is not None and self._documents.is_held(reference.repository, subject)
        return Wait.FIRST if held else Wait.ALL

    def _note(self, reference: TagReference, known: Seen) -> None:
        self._seen[reference] = known
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    async def _refresh(self, reference: TagReference, purpose: Purpose) -> Seen:
        """What upstream says the tag is now. A HEAD that names what we hold verified saves the GET, and its quota."""
        upstream = self._upstreams[reference.repository.registry]
        known = await self._ledger.followed(reference)
        name, tag = reference.repository.name, reference.tag
        if known is not None and await upstream.head_manifest(name, tag, purpose) == known[0].digest:
            descriptor = known[0]
        else:
            fetched = await upstream.manifest(name, tag, purpose)
            descriptor = (await self._documents.admit(reference.repository, fetched)).descriptor
        await self._ledger.set_followed(reference, descriptor)
        return descriptor, self._now()


def _followed_answer(
    reference: TagReference, known: Seen, manifest: Manifest, *, stale: bool, cached: bool
) -> ManifestAnswer:
    descriptor, since = known
    return ManifestAnswer(reference.repository, descriptor, manifest.raw, Followed(since, stale), cached=cached)


def _pinned_answer(pin: Pin, drift: DriftState | None, manifest: Manifest, *, cached: bool) -> ManifestAnswer:
    return ManifestAnswer(
        repository=pin.reference.repository,
        descriptor=pin.descriptor,
        raw=manifest.raw,
        standing=Pinned(pin.pinned_at),
        offered=drift.offered.digest if drift and drift.offered else None,
        vanished=drift is not None and drift.verdict == "vanished",
        acknowledged=drift is not None and drift.acknowledged is not None,
        cached=cached,
    )
