"""What a person does to the pin of one tag: repin, roll back, approve, remove.

Rule 1: each act names the digest that the person believes to be pinned, or that there is no pin; it fails where that is
        not so. The journal keeps who did it and why.
Rule 2: bytes before names: the manifest is verified and on disk before the pin is changed, from the store where it is
        held, else from upstream by its digest. What a pull needs at once follows, as after a first fetch.
Rule 3: an environment that takes its pins from elsewhere is changed there; the refusal names the command.
Rule 4: a rollback goes to a digest that the tag had, and to no other. After a rollback the next one has to name where
        to: two people who roll back the same bad release must not bring it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from iarproxy.errors import Conflict, Refused, StoreFull, UnknownManifest
from iarproxy.ledger import Change, Event, EventKind, Pin, PinSet
from iarproxy.mirror.mirror import Mirror
from iarproxy.mirror.serving.refusing import insist_on_image
from iarproxy.oci import Descriptor, Digest, TagReference
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.environments import Environment, PinsFrom
from iarproxy.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Act:
    """Who does it, to what, and why. `actor` is what the kernel reports."""

    environment: Environment
    reference: TagReference
    reason: str
    actor: str


class Acting:
    """Carries out acts on single pins."""

    def __init__(self, mirror: Mirror, upstreams: Upstreams, rules: Sequence[TagRule]) -> None:
        self._mirror = mirror
        self._upstreams = upstreams
        self._rules = rules

    async def repin(self, act: Act, old: Digest, new: Digest) -> Pin:
        """Let the tag, which is pinned to `old`, be `new`.

        Raises:
            Conflict: it is not pinned to `old`.
            Refused: the environment, the tag's rule or a recall does not allow it, or upstream has no such content.
            Unavailable: the content is not held, and cannot be had now.
        """
        self._insist_pinned_here(act)
        _insist_repins(act, old)
        if await self._pins(act).pin_of(act.reference) is None:
            raise UnknownManifest(f"{act.reference} has no pin; `iarproxy pins list` shows what has")
        return await self._pin(act, EventKind.REPINNED, old, new)

    async def roll_back(self, act: Act, to: Digest | None, old: Digest | None = None) -> tuple[Pin, Digest]:
        """Let the tag be what it was before, or `to`, which it was once; the new pin, and the digest before it.

        Raises:
            As `repin`, where `old` is named.
            Conflict: it was rolled back already, and `to` says nothing.
        """
        self._insist_pinned_here(act)
        _insist_rolls_back(act)
        pins = self._pins(act)
        pin = await pins.pin_of(act.reference)
        had = [each for each in await pins.had(act.reference) if pin is None or each != pin.descriptor.digest]
        if pin is None:
            last = f"; it was {had[0]} last, and `iarproxy pins approve` brings that back" if had else ""
            raise UnknownManifest(f"{act.reference} has no pin that could be rolled back{last}")
        now = pin.descriptor.digest
        if old not in (None, now):
            raise Conflict(f"{act.reference} is pinned to {now}, not to {old}", pinned=str(now))
        _insist_on_target(act, now, had, to)
        if to is None:
            _insist_not_back(act, await pins.made(act.reference), had)
        return await self._pin(act, EventKind.ROLLED_BACK, now, to or had[0]), now

    async def approve(self, act: Act, digest: Digest) -> Pin:
        """Let the tag, which has no pin, be `digest`, whatever withholds it.

        Raises:
            As `repin`.
        """
        self._insist_pinned_here(act)
        _insist_approves(act, digest)
        pin = await self._pins(act).pin_of(act.reference)
        if pin is not None and pin.descriptor.digest != digest:
            old = pin.descriptor.digest
            raise Conflict(
                f"{act.reference} is pinned to {old}; `iarproxy pins repin {act.reference} --from {old} --to {digest}"
                " --reason TEXT` changes that",
                pinned=str(old),
            )
        return await self._pin(act, EventKind.APPROVED, None, digest)

    async def remove(self, act: Act, digest: Digest) -> None:
        """Take the pin on `digest` away. In an environment of first fetches the next one awaits approval.

        Raises:
            Conflict: the tag is not pinned to `digest`.
            Refused: the environment does not allow it.
        """
        if act.environment.pins_from is PinsFrom.LOCK:
            raise _elsewhere(act, "is removed", f"lock import FILE --env {act.environment.name} --prune --reason TEXT")
        await self._pins(act).remove(act.reference, digest, reason=act.reason, actor=act.actor)

    def _pins(self, act: Act) -> PinSet:
        return self._mirror.ledger.within(act.environment.name)

    def _insist_pinned_here(self, act: Act) -> None:
        rule = act.environment.rule_for(act.reference, self._rules)
        if rule.mode is not Mode.PIN:
            raise Refused(
                f"{act.reference} is no tag that is pinned: the rule {rule.match.text!r} says {rule.mode};"
                " change the configuration"
            )

    async def _pin(self, act: Act, kind: EventKind, old: Digest | None, new: Digest) -> Pin:
        descriptor = await self._content(act.reference, new)
        source = self._upstreams[act.reference.repository.registry].source
        change = Change(act.environment.name, act.reference, old, descriptor, source)
        made = (await self._pins(act).change(kind, [change], reason=act.reason, actor=act.actor))[0]
        assert isinstance(made, Pin)  # noqa: S101  # a change to a descriptor makes a pin; for the type checker
        self._mirror.holding.start(made, layers=False)
        return made

    async def _content(self, reference: TagReference, digest: Digest) -> Descriptor:
        answer = await self._mirror.manifest(reference.repository, digest)
        insist_on_image(reference, answer)
        if self._mirror.store.find(digest) is None:
            raise StoreFull(f"{digest} cannot be kept: the disk is full; a pin needs its manifest on disk")
        return answer.descriptor


def _insist_repins(act: Act, old: Digest) -> None:
    match act.environment.pins_from:
        case PinsFrom.FIRST_FETCH:
            return
        case PinsFrom.PROMOTION:
            raise _elsewhere(act, "is changed", f"{_promote(act)} --replace {old} --reason TEXT")
        case PinsFrom.LOCK:
            raise _elsewhere(act, "is changed", _import(act))
        case _:
            assert_never(act.environment.pins_from)


def _insist_rolls_back(act: Act) -> None:
    match act.environment.pins_from:
        case PinsFrom.FIRST_FETCH | PinsFrom.PROMOTION:
            return
        case PinsFrom.LOCK:
            raise _elsewhere(act, "goes back", _import(act))
        case _:
            assert_never(act.environment.pins_from)


def _insist_on_target(act: Act, now: Digest, had: Sequence[Digest], to: Digest | None) -> None:
    if not had:
        raise Conflict(f"{act.reference} never was another digest than {now}")
    if to is not None and to not in had:
        known = ", ".join(map(str, had[:5]))
        raise Conflict(f"{act.reference} never was {to}; it was {known}; `iarproxy pins repin` takes any digest")


def _insist_not_back(act: Act, made: Event | None, had: Sequence[Digest]) -> None:
    """What was before a rollback is what somebody wanted to be rid of."""
    if made is None or made.kind is not EventKind.ROLLED_BACK:
        return
    known = ", ".join(map(str, had[:5]))
    raise Conflict(
        f"{act.reference} was rolled back already, at {made.at:%Y-%m-%d %H:%M:%SZ} by {made.actor}; name with `--to`"
        f" what it shall be; it was {known}"
    )


def _insist_approves(act: Act, digest: Digest) -> None:
    match act.environment.pins_from:
        case PinsFrom.FIRST_FETCH:
            return
        case PinsFrom.PROMOTION:
            raise _elsewhere(act, f"becomes {digest.short}", f"{_promote(act)} --reason TEXT")
        case PinsFrom.LOCK:
            raise _elsewhere(act, f"becomes {digest.short}", _import(act))
        case _:
            assert_never(act.environment.pins_from)


def _promote(act: Act) -> str:
    return f"promote {act.reference} --from {act.environment.promote_from} --to {act.environment.name}"


def _import(act: Act) -> str:
    return f"lock import FILE --env {act.environment.name} --repin --reason TEXT"


def _elsewhere(act: Act, what: str, command: str) -> Refused:
    where = act.environment
    return Refused(f"{act.reference} {what} in {where.name} by its {where.pins_from} only: `iarproxy {command}`")
