"""Retention of names: a plan that a person reads and approves, and its execution, which does no more than the plan.

Rule 1: planning writes nothing. A plan depends on the journal, the uses, the leases, the rules and the day (UTC) alone;
        it is sorted, so that two of them can be compared byte for byte.
Rule 2: ages count to the beginning of the day: a plan never finds anything older than it is.
Rule 3: executed is what the plan names and what would be planned again now: the same pin, digest and revision, which
        may go by the rules and facts of this moment. Everything else stays, and is told.
Rule 4: a plan is refused when it was edited, is of another store, or is too old.
Rule 5: only names go, as one act with an actor and a reason. Bytes are another matter: no content is removed here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from iarproxy.errors import IarproxyError, LedgerDamaged, LedgerUnavailable, Malformed, Refused
from iarproxy.ledger import Change, DriftState, Ledger, Pin, UsesUnreadable
from iarproxy.ledger.leases import Lease
from iarproxy.ledger.usage.uses_latest import LatestUses
from iarproxy.oci import MAX_MANIFEST, Digest, Repository, TagReference, parse_manifest, parse_reference
from iarproxy.store import Store
from iarproxy.trust.retention import (
    Delete,
    Facts,
    Keep,
    LastUse,
    NotUsedSince,
    Rule,
    UsedAt,
    UseUnknown,
    Verdict,
    decide,
)

VALID_FOR = timedelta(days=7)
_KIND = "iarproxy retention plan 1"
_TRIES = 5
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True, slots=True)
class Item:
    """A pin that a plan takes away."""

    environment: str
    reference: TagReference
    digest: Digest
    revision: int

    @property
    def key(self) -> tuple[str, str]:
        """As `Facts.key`."""
        return self.environment, str(self.reference)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was approved. `sha256`: of the file's bytes."""

    items: tuple[Item, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdicts on all pins when the journal ended at `serial`."""

    serial: int
    as_of: datetime
    pins: tuple[Facts, ...]
    verdicts: Mapping[tuple[str, str], Verdict]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an execution came to: the items that went, and those that stayed, each with why."""

    gone: tuple[Item, ...]
    stayed: tuple[tuple[Item, str], ...]


class Retaining:
    """Plans for one store, and their execution.

    Args:
        store, ledger: whose names these are. The store is only read.
        rules: those of today, in order.
        spelled: the sections of the configuration, as they are written into plans.
        now: aware UTC.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        rules: Sequence[Rule],
        spelled: Sequence[Mapping[str, Any]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._ledger, self._now = store, ledger, now
        self._rules, self._spelled = tuple(rules), tuple(spelled)

    async def plan(self) -> bytes:
        """The plan of today, as the bytes of its file.

        Raises:
            LedgerDamaged, LedgerUnavailable: the facts cannot be read.
        """
        found = await self._decide()
        by_key = {each.key: each for each in found.pins}
        deleted = [(by_key[key], each) for key, each in found.verdicts.items() if isinstance(each, Delete)]
        kept = [(by_key[key], each) for key, each in found.verdicts.items() if isinstance(each, Keep)]
        document: dict[str, Any] = {
            "kind": _KIND,
            "store": self._store.identity,
            "serial": found.serial,
            "as_of": found.as_of.isoformat(),
            "valid_until": (found.as_of + VALID_FOR).isoformat(),
            "rules": list(self._spelled),
            "items": [_item(pin, verdict) for pin, verdict in sorted(deleted, key=lambda it: it[0].key)],
            "kept": [{**_name(pin), "why": each.why} for pin, each in sorted(kept, key=lambda it: it[0].key)],
            "untouched": len(found.pins) - len(deleted) - len(kept),
        }
        return orjson.dumps({**document, "seal": _seal(document)}, option=_SORTED)

    async def apply(self, plan: Plan, *, reason: str, actor: str) -> Outcome:
        """Execute a plan that `read` gave (rule 3).

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: nothing was changed.
        """
        for _ in range(_TRIES):
            found = await self._decide()
            going, staying = _still(plan, found)
            changes = [_change(item, verdict, plan) for item, verdict in going]
            if not changes:
                return Outcome((), tuple(staying))
            done = await self._ledger.leases.retire(changes, serial=found.serial, reason=reason, actor=actor)
            if done is not None:
                return Outcome(tuple(item for item, _ in going), tuple(staying))
        raise LedgerUnavailable("the pins of this plan change while it is executed; nothing was removed, try again")

    @staticmethod
    def is_plan(data: bytes) -> bool:
        """Whether this is what `plan` gave, once and wherever."""
        return _parsed(data).get("kind") == _KIND

    def read(self, data: bytes) -> Plan:
        """The plan in a file.

        Raises:
            Malformed: it is none, or was edited. Refused: it is of another store, or not of these days.
        """
        document = _parsed(data)
        seal = document.pop("seal", None)
        if document.get("kind") != _KIND or seal != _seal(document):
            raise Malformed(
                "this is no plan as `iarproxy pins retain --plan` wrote it, or it was edited; make a new one"
            )
        try:
            return self._approved(document, hashlib.sha256(data).hexdigest())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed("this plan was not written by `iarproxy pins retain --plan`; make a new one") from error

    def _approved(self, document: Mapping[str, Any], sha256: str) -> Plan:
        if document["store"] != self._store.identity:
            raise Refused(f"this plan is of the store {document['store']}, and this one is {self._store.identity}")
        since, until = (datetime.fromisoformat(document[key]) for key in ("as_of", "valid_until"))
        if not since <= self._now() <= until:
            raise Refused(f"this plan was valid from {since.date()} until {until.date()}; make a new one")
        return Plan(tuple(_read(each) for each in document["items"]), sha256)

    # --- facts ------------------------------------------------------------------------------------------------------

    async def _decide(self) -> Decision:
        serial = await self._ledger.serial()
        as_of = self._now().replace(hour=0, minute=0, second=0, microsecond=0)
        facts = await self._facts(self._now())
        return Decision(serial, as_of, tuple(facts), decide(facts, self._rules, as_of))

    async def _facts(self, now: datetime) -> list[Facts]:
        leases = [each for each in await self._ledger.leases.every() if each.until > now]
        problems = await self._ledger.uses.problems()
        states = {pin.name: state for pin, state in await self._ledger.drifts()}
        by_repository: defaultdict[Repository, list[Pin]] = defaultdict(list)
        for environment in await self._ledger.environments():
            async for pin in self._ledger.within(environment).every_pin():
                by_repository[pin.reference.repository].append(pin)
        damaged = self._ledger.damaged()
        if damaged:
            raise LedgerDamaged(f"{damaged[0].reference} is damaged, and what it protects is not known; mend it first")
        found: list[Facts] = []
        for repository, pins in by_repository.items():
            uses = UsesUnreadable(problems[0]) if problems else await self._ledger.uses.latest(repository)
            found += [await self._fact(pin, uses, states.get(pin.name), leases) for pin in pins]
        return found

    async def _fact(
        self, pin: Pin, uses: LatestUses | UsesUnreadable, state: DriftState | None, leases: Iterable[Lease]
    ) -> Facts:
        contents = await self._contents(pin)
        protections = tuple(f"the lease {each.name} names it" for each in leases if each.digests & (contents or set()))
        if contents is None:
            protections = (*protections, "its manifest cannot be read, so what leads to it is not known")
        verdict = None if state is None else str(state.verdict)
        last = _last_use(pin, uses, contents or {pin.descriptor.digest})
        return Facts(
            *(pin.environment, pin.reference, pin.descriptor.digest, pin.revision, pin.pinned_at, last, verdict),
            protections=protections,
        )

    async def _contents(self, pin: Pin) -> set[Digest] | None:
        """The digests by which what is pinned is pulled: its own, and those of an index's manifests."""
        own = pin.descriptor.digest
        try:
            raw = await self._store.read(own, MAX_MANIFEST)
            children = () if raw is None else parse_manifest(raw, pin.descriptor.media_type, own).children
        except IarproxyError:
            return None
        return None if raw is None else {own, *(each.descriptor.digest for each in children)}


def _last_use(pin: Pin, uses: LatestUses | UsesUnreadable, contents: Iterable[Digest]) -> LastUse:
    if isinstance(uses, UsesUnreadable):
        return UseUnknown(uses.reason)
    asked = [pin.reference.tag.value, *map(str, contents)]
    known = [uses.at[each] for each in asked if each in uses.at]
    return UsedAt(max(known)) if known else NotUsedSince(uses.since)


def _still(plan: Plan, found: Decision) -> tuple[list[tuple[Item, Delete]], list[tuple[Item, str]]]:
    """What of a plan may go now, and what stays and why."""
    by_key = {each.key: each for each in found.pins}
    going: list[tuple[Item, Delete]] = []
    staying: list[tuple[Item, str]] = []
    for item in plan.items:
        pin, verdict = by_key.get(item.key), found.verdicts.get(item.key)
        if pin is None:
            staying.append((item, "it is not pinned any more"))
        elif (pin.digest, pin.revision) != (item.digest, item.revision):
            staying.append((item, f"it is pinned to {pin.digest} now, in revision {pin.revision}"))
        elif isinstance(verdict, Delete):
            going.append((item, verdict))
        else:
            staying.append((item, verdict.why if isinstance(verdict, Keep) else "no rule deletes it now"))
    return _together(going, staying, found)


def _together(
    going: list[tuple[Item, Delete]], staying: list[tuple[Item, str]], found: Decision
) -> tuple[list[tuple[Item, Delete]], list[tuple[Item, str]]]:
    """Content that several environments pin goes from all of them or from none: a plan may name only some."""
    keys = {item.key for item, _ in going}
    others: defaultdict[Digest, set[str]] = defaultdict(set)
    for pin in found.pins:
        if pin.key not in keys:
            others[pin.digest].add(pin.environment)
    torn = [item for item, _ in going if others[item.digest] - {item.environment}]
    told = [(item, "its content is pinned in another environment, where this plan leaves it") for item in torn]
    return [each for each in going if each[0] not in torn], [*staying, *told]


def _change(item: Item, verdict: Delete, plan: Plan) -> Change:
    detail = {"plan": plan.sha256, "rule": verdict.rule, "because": verdict.reason}
    return Change(item.environment, item.reference, item.digest, None, detail=detail)


def _name(pin: Facts) -> dict[str, Any]:
    return {"environment": pin.environment, "reference": str(pin.reference), "digest": str(pin.digest)}


def _item(pin: Facts, verdict: Delete) -> dict[str, Any]:
    used = {"last_used": pin.used.at.isoformat()} if isinstance(pin.used, UsedAt) else {}
    unused = {"not_used_since": pin.used.since.isoformat()} if isinstance(pin.used, NotUsedSince) else {}
    unknown = {"uses": pin.used.reason} if isinstance(pin.used, UseUnknown) else {}
    facts = {"pinned_at": pin.pinned_at.isoformat(), "state": pin.state, **used, **unused, **unknown}
    named = {**_name(pin), "revision": pin.revision}
    return {**named, "rule": verdict.rule, "reason": verdict.reason, "facts": facts}


def _seal(document: Mapping[str, Any]) -> str:
    """Over everything else in the plan: finds edits, by mistake or by hand; it proves nothing about who made it."""
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {}


def _read(item: Mapping[str, Any]) -> Item:
    reference = parse_reference(item["reference"])
    if not isinstance(reference, TagReference):
        raise Malformed(f"{item['reference']} is no tag")
    return Item(item["environment"], reference, Digest.parse(item["digest"]), item["revision"])
