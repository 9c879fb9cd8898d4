"""Watching what upstream offers now for the tags that we pinned.

Rule 1: never on the serving path; spread over the interval, with jitter. Unasked it leaves the last of a quota to
        clients; a HEAD costs none.
Rule 2: a HEAD is only a hint. An accusation is made on bytes that were fetched and hashed here.
Rule 3: an accusation carries its evidence: both descriptors, upstream's headers, when, and a readable difference.
Rule 4: an upstream that does not answer is no verdict.
Rule 5: nothing here changes a pin.
Rule 6: an upstream that is itself a mirror serves its own pin, and tells in a header what its upstream offers. That is
        a hint, as a HEAD is: the bytes are fetched from it by digest, since it keeps them as evidence. Without them
        there is no verdict; that the tag is gone there needs none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

import orjson
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
from iarproxy.ledger import Ledger, Pin
from iarproxy.mirror.blobs import Blobs
from iarproxy.mirror.documents import Documents
from iarproxy.mirror.holding import Holding
from iarproxy.mirror.spelling import describe
from iarproxy.oci import Digest, Manifest, Repository, TagReference
from iarproxy.trust import Drifted, Mode, Steady, TagRule, Vanished, Verdict, judge, rule_for
from iarproxy.upstream import Beyond, FetchedManifest, Purpose, Upstreams

log = structlog.get_logger("iarproxy.drift")

_MAX_CONFIG = 1 << 20  # bytes of an image config that are read for the sake of its labels
_AT_ONCE = 8  # checks that hints have started
_LEAST_PAUSE = 0.05  # seconds between two checks, however many pins there are
_STEP = 0.001  # seconds after a pin that is not checked, so that many of them do not take the ledger for themselves
_LONGEST_PAUSE = 60.0  # seconds between two looks at what there is to check


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one pin, whether it is news, and the evidence where it accuses."""

    pin: Pin
    verdict: Verdict
    news: bool
    evidence: dict[str, Any]


class DriftWatch:
    """Checks pins against upstream, one at a time or all of them for ever."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        upstreams: Upstreams,
        documents: Documents,
        blobs: Blobs,
        holding: Holding,
        rules: tuple[TagRule, ...],
        now: Callable[[], datetime],
        on_verdict: Callable[[Checked], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._blobs = blobs
        self._holding = holding
        self._rules = rules
        self._now = now
        self._on_verdict = on_verdict
        self._soon: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End checks that are under way in the background."""
        for task in list(self._soon):
            task.cancel()
        await asyncio.gather(*self._soon, return_exceptions=True)

    def soon(self, reference: TagReference) -> None:
        """Check in the background, since there is a hint that the tag drifted; where too many wait, the patrol will."""
        if len(self._soon) < _AT_ONCE:
            task = asyncio.create_task(self._check_quietly(reference), name=f"check {reference}")
            self._soon.add(task)
            task.add_done_callback(self._soon.discard)

    async def check(self, reference: TagReference, purpose: Purpose = Purpose.PERSON) -> Checked:
        """Ask upstream what it offers for a pinned tag, judge it, and record what is news.

        Raises:
            UnknownManifest: the tag is not pinned.
            Unavailable: upstream gave no answer that could be judged, or its quota is not for `purpose`.
        """
        pin = await self._ledger.pin_of(reference)
        if pin is None:
            raise UnknownManifest(f"{reference} is not pinned; `iarproxy pins list` shows what is")
        fetched = await self._offer(pin, purpose)
        offered = await self._admitted(pin, fetched)
        verdict = judge(pin.descriptor.digest, offered.descriptor.digest if offered else None)
        if isinstance(fetched, Steady):
            verdict = fetched
        return await self._record(pin, verdict, offered, fetched)

    async def _offer(self, pin: Pin, purpose: Purpose) -> FetchedManifest | Steady | None:
        """Upstream's bytes for the tag; Steady where a HEAD already names the pinned digest; None: it is gone."""
        upstream, name = self._upstreams[pin.reference.repository.registry], pin.reference.repository.name
        with suppress(UnknownManifest, UnknownName):
            told = await upstream.told(name, pin.reference.tag, purpose)
            if told.digest == pin.descriptor.digest:
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

    async def _admitted(self, pin: Pin, fetched: FetchedManifest | Steady | None) -> Manifest | None:
        """The offered manifest, kept as evidence; no pin comes of it."""
        if fetched is None or isinstance(fetched, Steady):
            return None
        return await self._documents.admit(pin.reference.repository, fetched)

    async def _record(
        self, pin: Pin, verdict: Verdict, offered: Manifest | None, fetched: FetchedManifest | Steady | None
    ) -> Checked:
        evidence: dict[str, Any] = {}
        if not isinstance(verdict, Steady):
            evidence = await self._evidence(pin, offered, fetched)
        news = await self._ledger.record_check(
            pin.reference, verdict, offered.descriptor if offered else None, evidence
        )
        checked = Checked(pin, verdict, news, evidence)
        self._on_verdict(checked)
        if news:
            self._tell(checked)
        return checked

    def _tell(self, checked: Checked) -> None:
        reference = str(checked.pin.reference)
        match checked.verdict:
            case Steady(pinned):
                log.info("steady again", reference=reference, pinned=str(pinned))
            case Drifted(pinned, offered):
                log.error("drifted", reference=reference, pinned=str(pinned), offered=str(offered))
                self._holding.start(checked.pin, layers=True)
            case Vanished(pinned):
                log.error("vanished", reference=reference, pinned=str(pinned))
                self._holding.start(checked.pin, layers=True)
            case _:
                assert_never(checked.verdict)

    async def _evidence(
        self, pin: Pin, offered: Manifest | None, fetched: FetchedManifest | Steady | None
    ) -> dict[str, Any]:
        evidence: dict[str, Any] = {
            "pinned": describe(pin.descriptor),
            "pinned_at": pin.pinned_at.isoformat(),
            "source": pin.source,
            "seen_at": self._now().isoformat(),
        }
        if offered is not None and isinstance(fetched, FetchedManifest):
            evidence |= {"offered": describe(offered.descriptor), "headers": fetched.headers}
            evidence["offered_by"] = fetched.source
            evidence["difference"] = await self._difference(pin, offered)
        return evidence

    async def _difference(self, pin: Pin, offered: Manifest) -> dict[str, Any]:
        """What a person wants to know first: which layers, platforms and labels are other ones."""
        repository = pin.reference.repository
        try:
            pinned = await self._documents.held(pin.descriptor.digest)
        except UnknownManifest:
            pinned = None
        if pinned is None:
            return {}
        before, after = _facts(pinned), _facts(offered)
        before["labels"] = await self._labels(repository, pinned)
        after["labels"] = await self._labels(repository, offered)
        return {key: {"pinned": before[key], "offered": after[key]} for key in before if before[key] != after[key]}

    async def _labels(self, repository: Repository, manifest: Manifest) -> Any:
        config = manifest.config
        if config is None or config.size > _MAX_CONFIG:
            return None
        try:
            raw = await self._blobs.small(repository, config)
            return orjson.loads(raw).get("config", {}).get("Labels")
        except (IarproxyError, orjson.JSONDecodeError, AttributeError):
            return None  # a difference without labels is still evidence

    # --- for ever ----------------------------------------------------------------------------------------------------

    async def patrol(self, interval: timedelta, elected: Callable[[], bool]) -> None:
        """Check every pinned tag once per `interval`, for ever; only the process that is `elected` asks upstream.

        Pins are read as they are checked: however many there are, none waits in memory for its turn.
        """
        expected = 0
        while True:
            seen = 0
            if elected():
                expected = expected or await self._at_most()
                seen = await self._round(_pause(interval, expected))
            expected = seen
            # New pins, and the end of whoever was elected, are noticed within the minute.
            await asyncio.sleep(min(_pause(interval, seen), _LONGEST_PAUSE) * _jitter())

    async def _round(self, pause: float) -> int:
        """Check the pinned tags one after the other; how many there were."""
        seen = 0
        try:
            async for pin in self._ledger.every_pin():
                if self._is_watched(pin.reference):
                    await asyncio.sleep(pause * _jitter())
                    await self._check_quietly(pin.reference)
                    seen += 1
                else:
                    await asyncio.sleep(_STEP)
        except Unavailable as error:
            log.warning("pins cannot be listed", reason=str(error))
        return seen

    async def _at_most(self) -> int:
        """How many pins there may be: the first round would have to read all of them to know."""
        try:
            return await self._ledger.serial()
        except Unavailable:
            return 0

    async def watched(self) -> list[TagReference]:
        """The pinned tags that can drift: their policy is to pin, and their upstream is configured."""
        return [pin.reference async for pin in self._ledger.every_pin() if self._is_watched(pin.reference)]

    def _is_watched(self, reference: TagReference) -> bool:
        known = reference.repository.registry in self._upstreams
        return known and rule_for(reference, self._rules).mode is Mode.PIN

    async def _check_quietly(self, reference: TagReference) -> None:
        try:
            await self.check(reference, Purpose.BACKGROUND)
        except (StoreUnavailable, Malformed, Unavailable) as error:
            log.info("not judged", reference=str(reference), reason=str(error))
        except IarproxyError as error:
            log.warning("not judged", reference=str(reference), reason=str(error))


def _pause(interval: timedelta, pins: int) -> float:
    return max(_LEAST_PAUSE, interval.total_seconds() / (pins + 1))


def _jitter() -> float:
    return random.uniform(0.5, 1.5)  # noqa: S311  # no secret


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "config": str(manifest.config.digest) if manifest.config else None,
        "layers": [str(layer.digest) for layer in manifest.layers],
        "platforms": {str(child.platform or "unknown"): str(child.descriptor.digest) for child in manifest.children},
        "annotations": manifest.annotations,
    }
