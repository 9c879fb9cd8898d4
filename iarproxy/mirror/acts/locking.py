"""Taking over a lock: what it would change, the content that it names, and the one act that changes it.

Rule 1: all or nothing. Everything that is new is fetched by its digest, verified and held before anything is pinned,
        and the pins are changed in one transaction; where one entry cannot be had, or one pin moved meanwhile, none is.
Rule 2: a pin on other content is a difference to be shown. It is changed where a person insists and says why.
Rule 3: an environment that takes pins by promotion takes none from a file. What a lock file gave, only a lock file
        takes away, and only where that is asked for.
Rule 4: what cannot become a pin (followed and refused tags, attachments) is told, never dropped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from iarproxy.errors import Denied, IarproxyError, LedgerDamaged, Malformed, StoreFull, UnknownManifest, UnknownName
from iarproxy.ledger import Change, EventKind, Ledger, Pin, Unpinned
from iarproxy.mirror.mirror import Mirror
from iarproxy.mirror.serving.refusing import insist_on_image
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, TagReference, parse_manifest
from iarproxy.oci.cluster_lock import Pinned
from iarproxy.oci.lock import Lock, Locked, Skipped, locked
from iarproxy.together import together
from iarproxy.trust import Mode, Pattern, TagRule
from iarproxy.trust.environments import Environment, PinsFrom
from iarproxy.upstream import Purpose, Upstreams

_PARALLEL = 16  # entries that are fetched, or asked for, at the same time
_COMPLETED = 200  # new pins whose configs and platforms are fetched at the same time
_ANY = Pattern("**")

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Differs:
    """A tag that is pinned to something else than the lock wants."""

    entry: Locked
    pinned: Digest


@dataclass(frozen=True, slots=True)
class Plan:
    """What taking over a lock means for an environment.

    Attributes:
        gone: pins that the lock does not have, in an environment whose pins come from locks.
    """

    environment: Environment
    unchanged: tuple[Locked, ...]
    new: tuple[Locked, ...]
    differs: tuple[Differs, ...]
    gone: tuple[Pin, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An entry whose content cannot be had, and why."""

    entry: Locked
    error: IarproxyError

    @property
    def is_refused(self) -> bool:
        """Whether policy or the file is in the way, and not that nobody has the content."""
        return isinstance(self.error, (Denied, Malformed))


@dataclass(frozen=True, slots=True)
class Offer:
    """What upstream says that it offers for a tag, a hint; None: the tag is gone, or not known where `error` is set."""

    reference: TagReference
    digest: Digest | None
    error: IarproxyError | None = None


class Locking:
    """Compares locks with pins, and takes them over."""

    def __init__(self, mirror: Mirror, ledger: Ledger, upstreams: Upstreams, rules: Sequence[TagRule]) -> None:
        self._mirror = mirror
        self._ledger = ledger
        self._upstreams = upstreams
        self._rules = tuple(rules)

    async def pins(self, environment: str, pattern: Pattern = _ANY) -> Lock:
        """The pins of an environment as a lock.

        Raises:
            LedgerDamaged: one of them cannot be read; a lock without it would be wrong.
        """
        found = [pin async for pin in self._ledger.within(environment).every_pin() if pattern.matches(pin.reference)]
        damaged = self._ledger.damaged()
        if damaged:
            raise LedgerDamaged(
                f"{len(damaged)} pins cannot be read, and a lock without them would be wrong; the first is"
                f" {damaged[0].reference}: {damaged[0].reason}"
            )
        return locked(_entry(pin) for pin in found)

    async def plan(self, lock: Lock, environment: Environment) -> Plan:
        """Compare.

        Raises:
            Denied: the environment takes pins by promotion. Malformed: the lock has nothing to take over.
            LedgerDamaged, LedgerUnavailable: pins cannot be read.
        """
        if environment.pins_from is PinsFrom.PROMOTION:
            raise Denied(
                f"the environment {environment.name} takes pins by promotion only; `iarproxy lock import` into"
                f" {environment.promote_from}, then `iarproxy promote`"
            )
        passed, skipped = self._judged(lock, environment)
        pins = await self._pins_for(environment, [each.reference for each in passed])
        known = {each.reference for each in passed}
        return Plan(
            environment,
            tuple(each for each in passed if _pinned_to(pins, each) == each.digest),
            tuple(each for each in passed if each.reference not in pins),
            tuple(
                Differs(each, pinned)
                for each in passed
                if (pinned := _pinned_to(pins, each)) is not None and pinned != each.digest
            ),
            tuple(pin for reference, pin in pins.items() if reference not in known),
            (*lock.skipped, *skipped),
        )

    async def _pins_for(self, environment: Environment, references: Sequence[TagReference]) -> dict[TagReference, Pin]:
        """The pins of these tags; where the file is all that there is, every pin of the environment."""
        pins = self._ledger.within(environment.name)
        if environment.pins_from is PinsFrom.LOCK:
            return {each.reference: each async for each in pins.every_pin()}
        found = await together(references, pins.pin_of, at_a_time=_PARALLEL)
        return {each.reference: each for each in found if each is not None}

    def _judged(self, lock: Lock, environment: Environment) -> tuple[list[Locked], list[Skipped]]:
        passed: list[Locked] = []
        skipped: list[Skipped] = []
        for each in lock.entries:
            rule = environment.rule_for(each.reference, self._rules)
            if each.reference.tag.is_attachment:
                skipped.append(Skipped.of(each.line, str(each), "is attached to an image; such tags are no pins"))
            elif rule.mode is not Mode.PIN:
                said = f"the tag rule {rule.match.text!r} says {rule.mode}; it would not be served from a pin"
                skipped.append(Skipped.of(each.line, str(each), said))
            else:
                passed.append(each)
        return passed, skipped

    async def fetch(
        self, entries: Sequence[Locked], advance: Callable[[], None]
    ) -> tuple[dict[TagReference, Descriptor], list[Failed]]:
        """Have the manifests of these entries verified and held; what they are, and what could not be had.

        `advance` is called for each that is done.
        """

        async def one(entry: Locked) -> Descriptor | Failed:
            try:
                return await self._held(entry)
            except IarproxyError as error:
                return Failed(entry, error)
            finally:
                advance()

        results = await together(entries, one, at_a_time=_PARALLEL)
        held = {
            entry.reference: each for entry, each in zip(entries, results, strict=True) if isinstance(each, Descriptor)
        }
        return held, [each for each in results if isinstance(each, Failed)]

    async def _held(self, entry: Locked) -> Descriptor:
        repository = entry.reference.repository
        if repository.registry not in self._upstreams:
            raise UnknownName(f"{repository.registry} is not one of the configured upstreams")
        answer = await self._mirror.manifest(repository, entry.digest)
        insist_on_image(entry.reference, answer)
        found = answer.descriptor
        if self._mirror.store.find(entry.digest) is None:
            raise StoreFull(f"{entry.digest} cannot be kept: the disk is full; a pin needs its manifest on disk")
        if entry.size not in (None, found.size):
            raise Malformed(f"the file says {entry.size} bytes, and the manifest with that digest has {found.size}")
        if not self._mirror.recalling.is_idle:  # what contains recalled content shows when its children are here
            await self._mirror.holding.missing(repository, entry.digest)
            await self._mirror.recalling.require(entry.digest)
        return found

    async def act(
        self,
        plan: Plan,
        held: dict[TagReference, Descriptor],
        *,
        prune: bool,
        source: str,
        reason: str,
        actor: str,
    ) -> list[Pin | Unpinned]:
        """A person's act: pin everything of the plan that is held, and with `prune` remove what is gone (rule 1).

        Raises:
            Conflict: a pin moved since the plan was made. Malformed: without a reason.
            LedgerDamaged, LedgerUnavailable: nothing is changed.
        """
        before = {each.entry.reference: each.pinned for each in plan.differs}
        name, detail = plan.environment.name, {"file": source}
        changes = []
        for reference, new in held.items():
            origin = self._upstreams[reference.repository.registry].source
            changes.append(Change(name, reference, before.get(reference), new, origin, detail))
        if prune:
            changes += [Change(name, pin.reference, pin.descriptor.digest, None, "", detail) for pin in plan.gone]
        if not changes:
            return []
        return await self._ledger.change(EventKind.IMPORTED, changes, reason=reason, actor=actor)

    async def complete(self, made: Iterable[Pin | Unpinned]) -> None:
        """Fetch what new pins promise beside their manifests, as after a first pin; what fails is left to clients."""
        pins = [each for each in made if isinstance(each, Pin)]
        for start in range(0, len(pins), _COMPLETED):
            for pin in pins[start : start + _COMPLETED]:
                self._mirror.holding.start(pin, layers=False)
            await self._mirror.holding.settle()

    async def offers(self, references: Sequence[TagReference]) -> list[Offer]:
        """What upstreams say now for these tags, by HEAD: within their budget, and a hint only."""
        return await together(references, self._offer, at_a_time=_PARALLEL)

    async def _offer(self, reference: TagReference) -> Offer:
        repository = reference.repository
        try:
            if repository.registry not in self._upstreams:
                raise UnknownName(f"{repository.registry} is not one of the configured upstreams")
            told = await self._upstreams[repository.registry].told(repository.name, reference.tag, Purpose.PERSON)
        except UnknownManifest:
            return Offer(reference, None)
        except IarproxyError as error:
            return Offer(reference, None, error)
        if told.beyond is not None:  # a mirror serves its own pin, and tells of its upstream
            return Offer(reference, told.beyond.digest)
        if told.digest is None:
            return Offer(reference, None, UnknownManifest(f"{repository.registry} names no digest for {reference}"))
        return Offer(reference, told.digest)

    async def pinned(self, environment: str, references: Sequence[TagReference]) -> dict[TagReference, Pinned]:
        """The pins of these tags, with what held indexes list."""
        pins = self._ledger.within(environment)
        found = await together(references, pins.pin_of, at_a_time=_PARALLEL)
        return {pin.reference: Pinned(pin.descriptor, await self._children(pin.descriptor)) for pin in found if pin}

    async def _children(self, descriptor: Descriptor) -> frozenset[Digest]:
        raw = await self._mirror.store.read(descriptor.digest, MAX_MANIFEST)
        try:
            children = () if raw is None else parse_manifest(raw, descriptor.media_type, descriptor.digest).children
        except Malformed:
            return frozenset()
        return frozenset(each.descriptor.digest for each in children)


def _entry(pin: Pin) -> Locked:
    found = pin.descriptor
    return Locked(pin.reference, found.digest, found.media_type, found.size)


def _pinned_to(pins: dict[TagReference, Pin], entry: Locked) -> Digest | None:
    pin = pins.get(entry.reference)
    return None if pin is None else pin.descriptor.digest
