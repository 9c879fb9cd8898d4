"""Where a name stands, and why: for people, from what is known here; upstream is not asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from iarproxy.errors import Offline, Refused, UnknownManifest
from iarproxy.ledger import DriftState, Event, Ledger, Pin, PinSet, Unpinned, UseSummary, Withheld
from iarproxy.mirror.explain.blocking import Standing, blocks, remedies
from iarproxy.mirror.explain.brought import Brought, brought_by
from iarproxy.mirror.explain.missing import Missing
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import Held, Holding
from iarproxy.oci import Digest, Reference, Tag, TagReference
from iarproxy.store import Store
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.admission import Terms
from iarproxy.trust.environments import FIRST_FETCHES, Environment
from iarproxy.trust.policy import Admission
from iarproxy.upstream import Upstreams, UpstreamStanding


@dataclass(frozen=True, slots=True)
class Explanation:
    """Facts about a reference in an environment.

    Attributes:
        upstream: the URL that is asked; None: the registry is not in the closed list.
        rule: the tag policy that applies; None for a digest.
        made: the journal's event that made the pin: who, when, why.
        elsewhere: the digests of the tag's pins in other environments, by their names.
        withheld: what upstream offered for a tag without a pin, and why it was not pinned.
        digest: what a client would get; None: not known here yet.
        held: how much of it is here; `path`: the file of its manifest; None: not held.
        platforms: of an index, for which it has children.
        used: by whom it was pulled, as far as that is recorded.
        budget: what is left of the upstream and who spends it, as far as workers shared it; None as for `upstream`.
        outcome: one sentence: what a client gets who asks now.
        blocked: why that is a refusal; empty: it is none. `changes`: the commands that would change it.
        brought: the bundle that the pin came with; else the newest applied one that lists the name or content; None:
            none does.
        offline: no upstream is ever asked.
    """

    environment: Environment
    reference: Reference
    upstream: str | None
    rule: TagRule | None
    pin: Pin | None
    made: Event | None
    elsewhere: dict[str, Digest]
    withheld: Withheld | None
    drift: DriftState | None
    digest: Digest | None
    held: Held
    path: str | None
    platforms: tuple[str, ...]
    used: UseSummary
    budget: UpstreamStanding | None
    outcome: str
    blocked: tuple[Refused | Offline, ...]
    changes: tuple[str, ...]
    brought: Brought | None = None
    offline: bool = False


class Explain:
    """Answers `iarproxy explain`."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        documents: Documents,
        holding: Holding,
        missing: Missing,
        rules: Sequence[TagRule],
        upstreams: Upstreams,
        environments: Sequence[Environment],
        now: Callable[[], datetime],
    ) -> None:
        self._now = now
        self._store = store
        self._ledger = ledger
        self._documents = documents
        self._holding = holding
        self._missing = missing
        self._rules = rules
        self._upstreams = upstreams
        self._environments = {each.name: each for each in environments}

    async def reference(self, reference: Reference, environment: str = FIRST_FETCHES.name) -> Explanation:
        """Everything known here about the reference. The environment is configured.

        Raises:
            LedgerDamaged: its pin cannot be trusted; the message says how to repair it.
        """
        place = self._environments[environment]
        standing = await self._standing(reference, place)
        digest = await self._digest(standing)
        held = await self._holding.of(digest) if digest else Held.NONE
        found = self._store.find(digest) if digest else None
        asked = self._upstreams.get(reference.repository.registry)
        refused = blocks(standing, await self._documents.recalling.why(digest) if digest else None)
        made = await self._made(reference, self._ledger.within(environment))
        absent = await self._absent(reference, held, digest) if not refused else None
        blocked = refused if absent is None else (absent,)
        return Explanation(
            environment=place,
            reference=reference,
            upstream=standing.upstream,
            rule=standing.rule,
            pin=standing.pin,
            made=made,
            elsewhere=await self._elsewhere(reference, environment),
            withheld=standing.withheld,
            drift=standing.drift,
            digest=digest,
            held=held,
            path=None if found is None else str(found.path),
            platforms=await self._platforms(digest),
            used=await self._ledger.uses.summary(reference),
            budget=None if asked is None else await asked.standing(),
            outcome=_outcome(standing, held, blocked, offline=self._upstreams.is_offline),
            blocked=blocked,
            changes=remedies(standing, refused),
            brought=await self._brought(reference, standing.pin, made),
            offline=self._upstreams.is_offline,
        )

    async def _standing(self, reference: Reference, environment: Environment) -> Standing:
        asked = self._upstreams.get(reference.repository.registry)
        upstream = None if asked is None else str(asked.url)
        if not isinstance(reference, TagReference):
            return Standing(environment, reference, upstream)
        pins = self._ledger.within(environment.name)
        rule = environment.rule_for(reference, self._rules)
        found = await pins.standing(reference)
        await pins.pin_of(reference)  # brings its drift state into memory
        return Standing(
            environment,
            reference,
            upstream,
            rule=rule,
            pin=found if isinstance(found, Pin) else None,
            past=found if isinstance(found, Unpinned) and found.revision else None,
            drift=pins.peek_drift(reference) if environment.pins_first_fetches else None,
            withheld=await pins.still_withheld(reference, Terms(rule.admit, rule.cool_down), self._now()),
            expected=await self._ledger.seeds.of(environment.name, reference),
        )

    async def _made(self, reference: Reference, pins: PinSet) -> Event | None:
        return await pins.made(reference) if isinstance(reference, TagReference) else None

    async def _brought(self, reference: Reference, pin: Pin | None, made: Event | None) -> Brought | None:
        own = None if pin is None or made is None else brought_by(made)
        if own is not None or pin is not None:
            return own
        applied = await self._missing.source(reference)
        return None if applied is None else Brought.of(applied)

    async def _absent(self, reference: Reference, held: Held, digest: Digest | None) -> Offline | None:
        """What a client is told offline where nothing is held of the name; None: something is, or upstream is asked."""
        repository = reference.repository
        upstream = self._upstreams.get(repository.registry)
        if upstream is None or not self._upstreams.is_offline or held is not Held.NONE:
            return None
        lack = await self._missing.lack(repository, digest or _tag_or_digest(reference))
        return Offline(lack.message, upstream=repository.registry, cause="offline", **lack.detail)

    async def _elsewhere(self, reference: Reference, environment: str) -> dict[str, Digest]:
        if not isinstance(reference, TagReference):
            return {}
        others = [name for name in self._environments if name != environment]
        found = {name: await self._ledger.within(name).pin_of(reference) for name in others}
        return {name: pin.descriptor.digest for name, pin in found.items() if pin is not None}

    async def _digest(self, standing: Standing) -> Digest | None:
        reference = standing.reference
        if not isinstance(reference, TagReference):
            return reference.digest
        if standing.rule is not None and standing.rule.mode is Mode.FOLLOW:
            known = await self._ledger.followed(reference)
            return known[0].digest if known else None
        return standing.pin.descriptor.digest if standing.pin else None

    async def _platforms(self, digest: Digest | None) -> tuple[str, ...]:
        try:
            manifest = await self._documents.held(digest) if digest else None
        except UnknownManifest:
            return ()
        return tuple(str(child.platform) for child in manifest.children if child.platform) if manifest else ()


def _tag_or_digest(reference: Reference) -> Tag | Digest:
    return reference.tag if isinstance(reference, TagReference) else reference.digest


def _outcome(standing: Standing, held: Held, blocked: Sequence[Refused | Offline], *, offline: bool) -> str:
    if blocked:
        return f"refused: {'; '.join(str(each) for each in blocked)}"
    if standing.rule is None:
        return "the content of that digest, verified" + (", once fetched" if held is Held.NONE else "")
    match standing.rule.mode:
        case Mode.REFUSE:
            return f"refused by the rule {standing.rule.match.text}"
        case Mode.FOLLOW:
            return "what was brought last" if offline else "what upstream says, at most the time to live old"
        case Mode.PIN:
            return _pinned_outcome(standing)
        case _:
            assert_never(standing.rule.mode)


def _pinned_outcome(standing: Standing) -> str:
    drift = standing.drift
    if standing.past is not None and not standing.past.retired:
        return "refused until a person approves what upstream offers: the pin was removed"
    if standing.pin is None:
        return _unpinned_outcome(standing)
    if drift is None or not drift.alarms:
        return "the pinned digest"
    return f"the pinned digest, with a Warning header: upstream's tag has {drift.verdict}"


def _unpinned_outcome(standing: Standing) -> str:
    """What the rule has for whoever pulls a tag first that never had a pin, or that retention took away."""
    rule, first = standing.rule, "the first pull pins it to what upstream offers then"
    if standing.past is not None:
        return f"the next pull pins it to {standing.past.was} where upstream offers that; else a person has to approve"
    if rule is not None and rule.admit is Admission.APPROVED:
        return "refused until a person approves what upstream offers: its tag rule admits nothing else"
    if standing.expected is not None:
        return f"the first pull pins it to {standing.expected}, as a seed says; refused if upstream offers another"
    if rule is not None and rule.admit is Admission.SEEDED:
        return "refused: it is in no lock file, and its tag rule admits nothing else"
    if rule is not None and rule.cool_down:
        return f"{first}, unless that was first seen here less than {rule.cool_down} ago: that is refused until then"
    return first
