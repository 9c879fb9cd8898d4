"""Where a name stands, and why: for people, from what is known here; upstream is not asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from iarproxy.errors import UnknownManifest
from iarproxy.ledger import DriftState, Ledger, Pin, UseSummary
from iarproxy.mirror.documents import Documents
from iarproxy.mirror.holding import Held, Holding
from iarproxy.oci import Digest, Reference, TagReference
from iarproxy.trust import Mode, OnDrift, TagRule, rule_for
from iarproxy.upstream import Upstreams, UpstreamStanding


@dataclass(frozen=True, slots=True)
class Explanation:
    """Facts about a reference.

    Attributes:
        upstream: the URL that is asked; None: the registry is not in the closed list.
        rule: the tag policy that applies; None for a digest.
        digest: what a client would get; None: not known here yet.
        held: how much of it is here.
        platforms: of an index, for which it has children.
        used: by whom it was pulled, as far as that is recorded.
        budget: what is left of the upstream and who spends it, as far as workers shared it; None as for `upstream`.
        outcome: one sentence: what a client gets who asks now.
    """

    reference: Reference
    upstream: str | None
    rule: TagRule | None
    pin: Pin | None
    drift: DriftState | None
    digest: Digest | None
    held: Held
    platforms: tuple[str, ...]
    used: UseSummary
    budget: UpstreamStanding | None
    outcome: str


class Explain:
    """Answers `iarproxy explain`."""

    def __init__(
        self, ledger: Ledger, documents: Documents, holding: Holding, rules: Sequence[TagRule], upstreams: Upstreams
    ) -> None:
        self._ledger = ledger
        self._documents = documents
        self._holding = holding
        self._rules = rules
        self._upstreams = upstreams

    async def reference(self, reference: Reference) -> Explanation:
        """Everything known here about the reference.

        Raises:
            LedgerDamaged: its pin cannot be trusted; the message says how to repair it.
        """
        rule = rule_for(reference, self._rules) if isinstance(reference, TagReference) else None
        pin = await self._ledger.pin_of(reference) if isinstance(reference, TagReference) else None
        drift = self._ledger.peek_drift(reference) if isinstance(reference, TagReference) else None
        digest = await self._digest(reference, pin, rule)
        held = await self._holding.of(digest) if digest else Held.NONE
        registry = reference.repository.registry
        asked = self._upstreams.get(registry)
        upstream = None if asked is None else str(asked.url)
        return Explanation(
            reference=reference,
            upstream=upstream,
            rule=rule,
            pin=pin,
            drift=drift,
            digest=digest,
            held=held,
            platforms=await self._platforms(digest),
            used=await self._ledger.uses.summary(reference),
            budget=None if asked is None else await asked.standing(),
            outcome=_outcome(upstream, rule, pin, drift, held),
        )

    async def _digest(self, reference: Reference, pin: Pin | None, rule: TagRule | None) -> Digest | None:
        if not isinstance(reference, TagReference):
            return reference.digest
        if rule is not None and rule.mode is Mode.FOLLOW:
            known = await self._ledger.followed(reference)
            return known[0].digest if known else None
        return pin.descriptor.digest if pin else None

    async def _platforms(self, digest: Digest | None) -> tuple[str, ...]:
        try:
            manifest = await self._documents.held(digest) if digest else None
        except UnknownManifest:
            return ()
        return tuple(str(child.platform) for child in manifest.children if child.platform) if manifest else ()


def _outcome(upstream: str | None, rule: TagRule | None, pin: Pin | None, drift: DriftState | None, held: Held) -> str:
    if upstream is None:
        return "404: the registry is not one of the configured upstreams"
    if rule is None:
        return "the content of that digest, verified" + (", once fetched" if held is Held.NONE else "")
    match rule.mode:
        case Mode.REFUSE:
            return f"refused by the rule {rule.match.text}"
        case Mode.FOLLOW:
            return "what upstream says, at most the time to live old"
        case Mode.PIN:
            return _pinned_outcome(rule, pin, drift)
        case _:
            assert_never(rule.mode)


def _pinned_outcome(rule: TagRule, pin: Pin | None, drift: DriftState | None) -> str:
    if pin is None:
        return "the first pull pins it to what upstream offers then"
    if drift is None or drift.verdict == "steady":
        return "the pinned digest"
    if rule.on_drift is not OnDrift.KEEP and drift.offered is not None:
        what = "403" if rule.on_drift is OnDrift.DENY else "a refusal manifest, or 403 outside mirror mode"
        return f"{what}: upstream moved the tag, and on_drift is {rule.on_drift}"
    return f"the pinned digest, with a Warning header: upstream's tag has {drift.verdict}"
