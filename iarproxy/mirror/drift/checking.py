"""What upstream offers now for one tag that we pinned, judged.

Rule 1: never on the serving path. Unasked it leaves the last of a quota to clients; a HEAD costs none.
Rule 2: a HEAD is only a hint. An accusation is made on bytes that were fetched and hashed here. What a HEAD may do
        alone is to confirm: that the tag is steady, or that an accusation still stands whose bytes are here.
Rule 3: an accusation carries its evidence (`evidence`), and the pinned content is fetched while upstream still has it,
        before anything else is looked at.
Rule 4: an upstream that does not answer is no verdict.
Rule 5: nothing here changes a pin.
Rule 6: an upstream that is itself a mirror serves its own pin, and tells in a header what its upstream offers. That is
        a hint, as a HEAD is: the bytes are fetched from it by digest, since it keeps them as evidence. Without them
        there is no verdict; that the tag is gone there needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import structlog

from iarproxy.errors import (
    IarproxyError,
    Malformed,
    StoreUnavailable,
    Unavailable,
    UnknownManifest,
    UnknownName,
    UpstreamUnavailable,
)
from iarproxy.ledger import DEFAULT, DriftState, Ledger, Pin
from iarproxy.ledger.watching import Finding, Held
from iarproxy.mirror.drift.evidence import Evidence
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import Held as Holds
from iarproxy.mirror.serving.holding import Holding
from iarproxy.oci import Digest, Manifest, TagReference
from iarproxy.trust import Drifted, Mode, Steady, TagRule, Vanished, Verdict, judge, rule_for
from iarproxy.upstream import Beyond, FetchedManifest, Purpose, Told, Upstreams

log = structlog.get_logger("iarproxy.drift")

_AT_ONCE = 8  # checks that hints have started


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one pin, whether it is news, and the evidence where it accuses.

    Attributes:
        acknowledged: a person said that this is expected.
    """

    pin: Pin
    verdict: Verdict
    news: bool
    evidence: dict[str, Any] = field(default_factory=dict)
    acknowledged: bool = False


class DriftCheck:
    """Checks pins against upstream, one at a time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        upstreams: Upstreams,
        documents: Documents,
        holding: Holding,
        evidence: Evidence,
        rules: Sequence[TagRule],
        on_verdict: Callable[[Checked], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._holding = holding
        self._gather = evidence
        self._rules = tuple(rules)
        self._on_verdict = on_verdict
        self._soon: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End checks that are under way in the background."""
        for task in list(self._soon):
            task.cancel()
        await asyncio.gather(*self._soon, return_exceptions=True)

    def soon(self, reference: TagReference, environment: str = DEFAULT) -> None:
        """Check in the background, since there is a hint that the tag drifted; where too many wait, the watch will."""
        if len(self._soon) < _AT_ONCE:
            task = asyncio.create_task(self._quietly(reference, environment), name=f"check {reference}")
            self._soon.add(task)
            task.add_done_callback(self._soon.discard)

    def is_watched(self, reference: TagReference) -> bool:
        """Whether the tag can drift: its policy is to pin, and its upstream is configured."""
        known = reference.repository.registry in self._upstreams
        return known and rule_for(reference, self._rules).mode is Mode.PIN

    async def watched(self, environment: str = DEFAULT) -> list[TagReference]:
        """The pinned tags that can drift."""
        pins = self._ledger.within(environment).every_pin()
        return [pin.reference async for pin in pins if self.is_watched(pin.reference)]

    async def check(
        self, reference: TagReference, purpose: Purpose = Purpose.PERSON, environment: str = DEFAULT
    ) -> Checked:
        """Ask upstream what it offers for a pinned tag, judge it, and record what is news.

        Raises:
            UnknownManifest: the tag is not pinned.
            Unavailable: upstream gave no answer that could be judged, or its quota is not for `purpose`.
        """
        pin = await self._ledger.within(environment).pin_of(reference)
        if pin is None:
            raise UnknownManifest(f"{reference} is not pinned; `iarproxy pins list` shows what is")
        return await self._judged(pin, await self._told(pin, purpose), purpose)

    async def watch(self, held: Held) -> Finding | None:
        """As `check`, in the background; what is no news is returned, for the caller to record.

        Raises:
            Unavailable: as `check`.
        """
        pin, before = held
        told = await self._told(pin, Purpose.BACKGROUND)
        found = self._confirmed(pin, before, told)
        if found is None:
            await self._judged(pin, told, Purpose.BACKGROUND)
            return None
        acknowledged = before is not None and before.acknowledged is not None
        self._on_verdict(Checked(pin, found.verdict, news=False, acknowledged=acknowledged))
        if not isinstance(found.verdict, Steady):
            await self._hold(pin)
        return found

    # --- what upstream offers ----------------------------------------------------------------------------------------

    async def _told(self, pin: Pin, purpose: Purpose) -> Told | None:
        """What a HEAD says; None: there is no such tag."""
        upstream = self._upstreams[pin.reference.repository.registry]
        try:
            return await upstream.told(pin.reference.repository.name, pin.reference.tag, purpose)
        except (UnknownManifest, UnknownName):
            return None

    def _confirmed(self, pin: Pin, before: DriftState | None, told: Told | None) -> Finding | None:
        """What a HEAD alone is enough for; None: it is not, or there is news."""
        stood = "steady" if before is None else before.verdict
        if told is None:
            return Finding(pin, Vanished(pin.descriptor.digest)) if stood == "vanished" else None
        if told.beyond is not None and (told.beyond.digest is None or told.digest != pin.descriptor.digest):
            return None
        offered = told.digest if told.beyond is None else told.beyond.digest
        if offered == pin.descriptor.digest:
            return Finding(pin, Steady(offered)) if stood == "steady" else None
        known = None if before is None else before.offered
        if offered is None or known is None or known.digest != offered:
            return None
        if not self._documents.is_held(pin.reference.repository, offered):
            return None
        return Finding(pin, Drifted(pin.descriptor.digest, offered), known)

    async def _offer(self, pin: Pin, told: Told | None, purpose: Purpose) -> FetchedManifest | Steady | None:
        """Upstream's bytes for the tag; Steady where a HEAD already names the pinned digest; None: it is gone."""
        upstream, name = self._upstreams[pin.reference.repository.registry], pin.reference.repository.name
        if told is not None and told.digest == pin.descriptor.digest:
            with suppress(UnknownManifest, UnknownName):
                return await self._offer_beyond(pin, told.beyond, purpose)
        try:
            fetched = await upstream.manifest(name, pin.reference.tag, purpose)
        except (UnknownManifest, UnknownName):
            return None
        same = Digest.of(fetched.raw, pin.descriptor.digest.algorithm) == pin.descriptor.digest
        return await self._offer_beyond(pin, fetched.beyond, purpose) if same else fetched

    async def _offer_beyond(self, pin: Pin, beyond: Beyond | None, purpose: Purpose) -> FetchedManifest | Steady | None:
        """What is offered upstream of an upstream that itself serves what is pinned."""
        if beyond is None or beyond.digest == pin.descriptor.digest:
            return Steady(pin.descriptor.digest)
        upstream, repository = self._upstreams[pin.reference.repository.registry], pin.reference.repository
        if beyond.digest is None and beyond.by_primary:
            return None
        if beyond.digest is None:  # a copy that lags must not make a tag look vanished
            raise UpstreamUnavailable(
                f"only a fallback of {upstream.name} answers, and says that {pin.reference} is gone"
            )
        try:
            fetched = await upstream.manifest(repository.name, beyond.digest, purpose)
        except (UnknownManifest, UnknownName) as error:
            text = f"{upstream.name} tells of {beyond.digest} upstream of it for {pin.reference}, and does not have it"
            raise UpstreamUnavailable(text, upstream=upstream.name) from error
        return replace(fetched, headers=fetched.headers | {"iar-upstream-digest": str(beyond.digest)})

    # --- the verdict -------------------------------------------------------------------------------------------------

    async def _judged(self, pin: Pin, told: Told | None, purpose: Purpose) -> Checked:
        fetched = await self._offer(pin, told, purpose)
        if isinstance(fetched, Steady):
            return await self._record(pin, fetched, None, {})
        if fetched is None:
            verdict = judge(pin.descriptor.digest, None)
            await self._hold(pin)
            return await self._record(pin, verdict, None, await self._gather.vanished(pin))
        offered = await self._documents.admit(pin.reference.repository, fetched)  # as evidence; no pin comes of it
        verdict = judge(pin.descriptor.digest, offered.descriptor.digest)
        await self._hold(pin)
        evidence = await self._gather.drifted(pin, offered, fetched, purpose)
        return await self._record(pin, verdict, offered, evidence)

    async def _hold(self, pin: Pin) -> None:
        """Have the pinned content fetched, as far as it is not here: upstream may take it away next."""
        if await self._holding.of(pin.descriptor.digest) is not Holds.COMPLETE:
            self._holding.start(pin, layers=True)

    async def _record(self, pin: Pin, verdict: Verdict, offered: Manifest | None, evidence: dict[str, Any]) -> Checked:
        pins = self._ledger.within(pin.environment)
        descriptor = None if offered is None else offered.descriptor
        news = await pins.record_check(pin.reference, verdict, descriptor, evidence)
        state = pins.peek_drift(pin.reference)
        acknowledged = state is not None and state.acknowledged is not None
        checked = Checked(pin, verdict, news, evidence, acknowledged)
        self._on_verdict(checked)
        if news:
            _tell(checked)
        return checked

    async def _quietly(self, reference: TagReference, environment: str) -> None:
        try:
            await self.check(reference, Purpose.BACKGROUND, environment)
        except (StoreUnavailable, Malformed, Unavailable) as error:
            log.info("not judged", reference=str(reference), reason=str(error))
        except IarproxyError as error:
            log.warning("not judged", reference=str(reference), reason=str(error))


def _tell(checked: Checked) -> None:
    reference, pinned = str(checked.pin.name), str(checked.verdict.pinned)
    match checked.verdict:
        case Steady():
            log.info("steady again", reference=reference, pinned=pinned)
        case Drifted(offered=offered) if checked.acknowledged:
            log.info("drifted, as was acknowledged", reference=reference, pinned=pinned, offered=str(offered))
        case Drifted(offered=offered):
            summary = checked.evidence.get("summary")
            log.error("drifted", reference=reference, pinned=pinned, offered=str(offered), difference=summary)
        case Vanished():
            log.error("vanished", reference=reference, pinned=pinned)
        case _:
            assert_never(checked.verdict)
