"""Promotion: a name of one environment is let into another one. A pointer moves; bytes do not.

Rule 1: nothing is built, copied or tagged anew: the pin of the target names the digest that the source's names. Content
        has no environment.
Rule 2: a promoted name must be served with upstream gone: what the configured platforms lack of it is brought in by
        digest first, and what cannot be had is not promoted, unless a person takes it in part.
Rule 3: all gates of the target have to allow every name. What is recalled or withheld is not promoted.
Rule 4: the signed record of each step is durable before the pins change, all of them in one transaction, whose journal
        entries name it. A record whose promotion did not happen is attached to nothing.
Rule 5: nothing is changed where anything stands in the way of any name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from iarproxy.errors import Denied, IarproxyError, Malformed, Recalled, Unavailable
from iarproxy.ledger import Change, EventKind, Ledger, Pin
from iarproxy.ledger.attached import AttachedManifest, attachment
from iarproxy.mirror.promotion.facts import Surveying
from iarproxy.mirror.promotion.gating import Gate, ask_all
from iarproxy.mirror.promotion.plan import (
    NotNow,
    NotPromoted,
    Order,
    Outcome,
    Plan,
    Replaces,
    Step,
    Wanted,
    judged,
    outcome_of,
)
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import Held, Holding
from iarproxy.oci import Descriptor, Digest, DigestReference, Repository, TagReference
from iarproxy.oci.artifact import Artifact, attach
from iarproxy.together import together
from iarproxy.trust import Pattern
from iarproxy.trust.bundle import BUNDLE, signed_bundle
from iarproxy.trust.gates import verdict_as_json
from iarproxy.trust.promotion_record import PREDICATE, Origin, PromotionRecord, statement_of
from iarproxy.trust.signing import PrivateKey
from iarproxy.upstream import Purpose

MOST = 1000  # names in one promotion
_AT_A_TIME = 4  # names that are looked at


class Keeping(Protocol):
    """Whoever makes artifacts durable; see `Attaching`."""

    async def keep(self, repository: Repository, artifact: Artifact) -> Descriptor:
        """Have the artifact durable below `repository`."""
        ...


class Promotion:
    """Plans promotions and carries them out."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        documents: Documents,
        holding: Holding,
        surveying: Surveying,
        keeping: Keeping,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._documents = documents
        self._holding = holding
        self._surveying = surveying
        self._keeping = keeping
        self._now = now

    async def names(self, source: str, pattern: Pattern) -> list[TagReference]:
        """The names of `source` that fit.

        Raises:
            Malformed: more than can be promoted at once.
        """
        found = [
            pin.reference async for pin in self._ledger.within(source).every_pin() if pattern.matches(pin.reference)
        ]
        if len(found) > MOST:
            raise Malformed(f"{pattern.text} fits {len(found)} names in {source}; promote at most {MOST} at once")
        return found

    async def plan(self, order: Order, gates: Sequence[Gate], *, fetch: bool) -> Plan:
        """What the order would do, with the verdicts of the target's gates.

        Args:
            order: at most `MOST` names.
            gates: of the target.
            fetch: bring in what is not held; False: say how much is.
        """

        async def step(wanted: Wanted) -> Step:
            return await self._step(order, wanted, gates, fetch=fetch)

        return Plan(order, tuple(await together(order.wanted, step, at_a_time=_AT_A_TIME)))

    async def carry_out(self, plan: Plan, key: PrivateKey, origin: str) -> list[Pin]:
        """Let the names of a plan into its target; the pins that changed.

        Args:
            plan: made with `fetch`.
            key: signs the records.
            origin: the name of the journal.

        Raises:
            Denied: something stands in the way of a name.
            Conflict: a name changed in the target since it was planned; nothing was done.
            StoreUnavailable, LedgerUnavailable: it is not recorded, and so not done.
        """
        order = plan.order
        if not plan.is_possible:
            raise Denied(f"nothing is promoted to {order.target}: something stands in the way of a name")
        if not plan.changing:
            return []
        at = Origin(origin, await self._ledger.serial())
        changes = [await self._recorded(order, step, key, at) for step in plan.changing]
        made = await self._ledger.change(EventKind.PROMOTED, changes, reason=order.reason, actor=order.actor)
        return [pin for pin in made if isinstance(pin, Pin)]

    async def _step(self, order: Order, wanted: Wanted, gates: Sequence[Gate], *, fetch: bool) -> Step:
        name = wanted.reference
        try:
            pin = await self._ledger.within(order.source).pin_of(name)
            target = await self._ledger.within(order.target).standing(name)
            step = Step(name, outcome_of(wanted, pin, target, order), pin)
            if pin is None or not step.changes:
                return step
            await self._insist_admitted(order, pin)
            held = await self._held(order, pin, fetch=fetch)
            verdicts = await ask_all(gates, await self._surveying.facts(order, step, pin)) if gates else ()
            return replace(step, outcome=judged(step.outcome, verdicts), held=held, verdicts=verdicts)
        except IarproxyError as error:
            return Step(name, _stopped(error))

    async def _insist_admitted(self, order: Order, pin: Pin) -> None:
        """Refuse what is recalled, and what waits for an approval."""
        name, digest = pin.reference, pin.descriptor.digest
        await self._documents.by_digest(DigestReference(name.repository, digest), Purpose.PERSON)
        for environment in (order.source, order.target):
            withheld = await self._ledger.within(environment).candidate(name)
            if withheld is not None and withheld.descriptor.digest == digest:
                raise Denied(f"{digest} is withheld from {name} in {environment}; `iarproxy pins approve` admits it")

    async def _held(self, order: Order, pin: Pin, *, fetch: bool) -> Held:
        """How much is held of a pin in the end.

        Raises:
            Refused, Unavailable: too little.
        """
        repository, digest = pin.reference.repository, pin.descriptor.digest
        held, failure = await self._holding.of(digest), None
        if fetch and held is not Held.COMPLETE:
            try:
                await self._holding.complete(repository, digest)
            except Recalled:  # it was seen only now, in a part that was not held
                raise
            except IarproxyError as error:
                failure = error
            held = await self._holding.of(digest)
        if not fetch or held is Held.COMPLETE or (order.partial and held is Held.PARTIAL):
            return held
        text = f"{pin.reference} would not be served with upstream gone: {failure or 'it was not kept'}"
        raise Unavailable(f"{text}; `--partial` promotes what is held of it")

    async def _recorded(self, order: Order, step: Step, key: PrivateKey, origin: Origin) -> Change:
        """What the ledger is to do for `step`, whose record is durable."""
        if step.pin is None:
            raise AssertionError("a step that changes something has a pin")
        content, old = step.pin.descriptor, _old(step.outcome)
        at = self._now()
        record = PromotionRecord(
            reference=step.reference,
            digest=content.digest,
            source=order.source,
            target=order.target,
            previous=old,
            reason=order.reason,
            actor=order.actor,
            at=at,
            verdicts=step.verdicts,
            origin=origin,
        )
        annotations = _annotations(record)
        artifact = attach(content, signed_bundle(statement_of(record), key), BUNDLE, annotations)
        kept = await self._keeping.keep(step.reference.repository, artifact)
        attached = attachment(AttachedManifest(kept, BUNDLE, annotations))
        detail = {
            "from": order.source,
            "gates": [{"gate": name, **verdict_as_json(verdict)} for name, verdict in step.verdicts],
            "held": None if step.held is None else step.held.value,
            "statement": {**attached, "key": key.public.hint},
        }
        return Change(order.target, step.reference, old, content, step.pin.source, detail)


def _old(outcome: Outcome) -> Digest | None:
    return outcome.old if isinstance(outcome, Replaces) else None


def _annotations(record: PromotionRecord) -> dict[str, str]:
    """Of the record's manifest: what cosign and others look for, and what people see in a list."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": PREDICATE,
        "org.opencontainers.image.created": f"{record.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "dev.iarproxy.promoted.reference": str(record.reference),
        "dev.iarproxy.promoted.to": record.target,
    }


def _stopped(error: IarproxyError) -> NotPromoted | NotNow:
    return NotNow((str(error),)) if isinstance(error, Unavailable) else NotPromoted((str(error),))
