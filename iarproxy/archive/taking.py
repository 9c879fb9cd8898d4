"""Taking bundles from a watched folder: each when it is all there, those of a set in their order, each once.

Rule 1: what is still arriving is waited for, and holds up no other bundle. Of a bundle whose volumes are not all there
        the store keeps what is; its names come with the last one, in a later pass.
Rule 2: of each set the older sequence goes first. One that needs what an earlier one brings waits for that one.
Rule 3: a refusal stops nothing but its own bundle. It is told, and journaled, once for the same content; where nothing
        but the content could help, it is not tried again before that changed.
Rule 4: nothing in the folder is changed. What was applied stays there, and is known by the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from iarproxy.archive.inbox import Arrived, Parts, arrived, parts
from iarproxy.errors import BundleRefused, Refused, Unavailable
from iarproxy.ledger import Ledger
from iarproxy.ledger.bundles import Applied
from iarproxy.ledger.refusals import Refusal
from iarproxy.oci import Digest

_TICK = 1.0  # seconds between two looks at what is arriving
_PATIENCE = 12 * 3600.0  # seconds for which something may go on arriving
_UNNAMED = "refused"  # the code of what is refused without one
# What may be otherwise at the next pass without anything having changed in the folder.
_OF_THE_SITE = frozenset({"missing-base", "conflict", "expired", "replayed", "untrusted-key", "too-few-signatures"})
_OF_THE_SITE |= {_UNNAMED}


class Fate(StrEnum):
    """What became of a bundle in a pass."""

    APPLIED = "applied"
    KNOWN = "known"  # applied before
    OLDER = "older"  # than what is applied
    WAITING = "waiting"  # not all of it is there, or an earlier one is not
    ARRIVING = "arriving"  # it still changed when the pass ended
    REFUSED = "refused"
    REFUSED_BEFORE = "refused-before"  # the same, and told then
    FAILED = "failed"  # the store or the ledger could not take it now
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a bundle.

    Attributes:
        what: the set and sequence, as far as it says; else where it lies.
        said: one sentence, for people.
        bundle: None: it is none.
        code: of a refusal; else empty.
    """

    what: str
    fate: Fate
    said: str
    bundle: Digest | None = None
    code: str = ""


class Taking:
    """One pass over a watched folder.

    Args:
        ledger: knows what was applied, and what was refused.
        root: the folder.
        settle: for so many seconds nothing changed of what is taken to be all there.
        apply: applies the bundle in these folders, and says what that came to.
        again: sees that what was applied before has its receipt.
        actor: who does it.
        terms: what else than the content decides, such as the trusted keys: other terms are worth another try.
        now: seconds since 1970. clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        root: Path,
        settle: float,
        *,
        apply: Callable[[Sequence[Path]], Awaitable[str]],
        again: Callable[[Applied], Awaitable[None]],
        actor: str,
        terms: str = "",
        now: Callable[[], float],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._root = root
        self._settle = settle
        self._apply = apply
        self._again = again
        self._actor = actor
        self._terms = terms
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[Digest, tuple[frozenset[object], float]] = {}  # what was seen of each, and since when
        self._taken: dict[Digest, frozenset[object]] = {}  # what was done with, as it was seen then
        self._told: dict[object, Taken] = {}

    async def run(self) -> list[Taken]:
        """Take what can be taken, until nothing is arriving any more; what became of each, in the order of sequences.

        Raises:
            LedgerUnavailable, LedgerDamaged: nothing can be told of what was applied.
        """
        deadline = self._clock() + _PATIENCE
        while True:
            found, unreadable = await asyncio.to_thread(parts, self._root)
            for each in unreadable:
                self._told[each.where] = Taken(each.where, Fate.UNREADABLE, each.why)
            arriving = [each for each in found if not self._is_settled(each)]
            for one in arriving:
                self._told[one.identity] = _arriving(one)
            await self._take([each for each in found if each not in arriving], is_busy=bool(arriving))
            if not arriving or self._clock() >= deadline:
                return list(self._told.values())
            await self._sleep(min(_TICK, self._settle))

    def _is_settled(self, found: Parts) -> bool:
        """Whether all of it is old, or was seen unchanged for long enough by a clock that nobody sets."""
        snapshot, clock = frozenset[object](found.snapshot), self._clock()
        before, since = self._seen.get(found.identity, (snapshot, clock))
        self._seen[found.identity] = snapshot, (since if before == snapshot else clock)
        age = self._now() - found.changed
        return age >= self._settle or clock - self._seen[found.identity][1] >= self._settle

    async def _take(self, settled: Sequence[Parts], *, is_busy: bool) -> None:
        """Take those that were not looked at before as they are now, and whoever waits for one of them (rule 2)."""
        fresh = [each for each in settled if self._taken.get(each.identity) != each.snapshot]
        if fresh:
            fresh = [each for each in settled if each in fresh or self._waits(each)]
        there: list[Arrived] = []
        for each in fresh:
            self._taken[each.identity] = frozenset[object](each.snapshot)
            try:
                there.append(await asyncio.to_thread(arrived, each))
            except BundleRefused as refused:
                broken = Arrived(each.identity, tuple(each.folders), None, "", str(sorted(map(str, each.files))))
                self._told[each.identity] = await self._refused(broken, refused)
        waiting: list[Arrived] = []
        for one in sorted(there, key=_order):
            self._told.pop(one.identity, None)  # to be told in the order in which they are taken
            taken = await self._one(one, waiting, is_busy=is_busy)
            self._told[one.identity] = taken
            waiting += [one] if taken.fate is Fate.WAITING else []

    def _waits(self, found: Parts) -> bool:
        told = self._told.get(found.identity)
        return told is not None and told.fate is Fate.WAITING

    async def _one(self, one: Arrived, waiting: Iterable[Arrived], *, is_busy: bool) -> Taken:
        if one.lacks:
            return Taken(_what(one), Fate.WAITING, f"waits for {one.lacks}", one.identity)
        known = await self._known(one)
        if known is not None:
            return known
        before = await self._before(one)
        if before is not None and before.code not in _OF_THE_SITE:
            return Taken(
                _what(one), Fate.REFUSED_BEFORE, f"refused before: {before.message}", one.identity, before.code
            )
        try:
            said = await self._apply(one.folders)
        except Refused as refused:
            return _awaits(one, refused, waiting, is_busy=is_busy) or await self._refused(one, refused)
        except Unavailable as error:
            return Taken(_what(one), Fate.FAILED, str(error), one.identity)
        return Taken(_what(one), Fate.APPLIED, said, one.identity)

    async def _known(self, one: Arrived) -> Taken | None:
        """What there is to say where it, or a newer one of its set, was applied; None: neither was."""
        said = one.statement
        if said is None:
            return None
        newest = await self._ledger.bundles.last_applied(said.origin, said.set)
        if newest is None or said.sequence > newest.sequence:
            return None
        if (said.sequence, one.identity) == (newest.sequence, newest.bundle):
            with suppress(Refused):  # of a receipt that cannot be written now; the bundle is applied
                await self._again(newest)
            return Taken(_what(one), Fate.KNOWN, f"applied before, at {newest.at:%Y-%m-%d %H:%M:%S}Z", one.identity)
        if said.sequence == newest.sequence:
            return None  # two bundles of one number: applying refuses that
        told = f"older than sequence {newest.sequence}, which is applied"
        return Taken(_what(one), Fate.OLDER, told, one.identity)

    async def _before(self, one: Arrived) -> Refusal | None:
        content = self._content(one)
        every = await self._ledger.refusals.every()
        return next((each for each in every if each.content == content), None)

    async def _refused(self, one: Arrived, refused: Refused) -> Taken:
        """Tell it, unless that was done (rule 3)."""
        code = refused.code if isinstance(refused, BundleRefused) else _UNNAMED
        said = one.statement
        refusal = Refusal(
            bundle=one.identity,
            content=self._content(one),
            code=code,
            message=str(refused),
            origin=said.origin if said else "",
            set=said.set if said else "",
            sequence=said.sequence if said else 0,
            at=datetime.fromtimestamp(self._now(), UTC),
        )
        every = await self._ledger.refusals.every()
        if any((each.content, each.code) == (refusal.content, code) for each in every):
            return Taken(_what(one), Fate.REFUSED_BEFORE, f"refused before: {refused}", one.identity, code)
        await self._ledger.refusals.note(refusal, actor=self._actor)
        return Taken(_what(one), Fate.REFUSED, str(refused), one.identity, code)

    def _content(self, one: Arrived) -> str:
        return str(Digest.of(f"{one.content} {self._terms}".encode()))


def _awaits(one: Arrived, refused: Refused, waiting: Iterable[Arrived], *, is_busy: bool) -> Taken | None:
    """What to say where what is missing may still come: a volume, or an earlier bundle of the set (rule 2)."""
    code = refused.code if isinstance(refused, BundleRefused) else ""
    if code == "volume-missing":
        return Taken(_what(one), Fate.WAITING, str(refused), one.identity, code)
    if code != "missing-base" or one.statement is None:
        return None
    for each in waiting:
        said = each.statement
        if said is not None and (said.origin, said.set) == (one.statement.origin, one.statement.set):
            told = f"waits for sequence {said.sequence}, which is not all here"
            return Taken(_what(one), Fate.WAITING, told, one.identity, code)
    return Taken(_what(one), Fate.WAITING, "waits for what is still arriving", one.identity, code) if is_busy else None


def _order(one: Arrived) -> tuple[str, str, int]:
    said = one.statement
    return ("", "", 0) if said is None else (said.origin, said.set, said.sequence)


def _arriving(found: Parts) -> Taken:
    where = ", ".join(str(each) for each in found.folders)
    return Taken(where, Fate.ARRIVING, "is still arriving", found.identity)


def _what(one: Arrived) -> str:
    """What it is called: nobody vouches for that yet."""
    said = one.statement
    if said is None:
        return f"{', '.join(str(each) for each in one.folders)} ({one.identity.short})"
    return f"{said.set} {said.sequence} ({one.identity.short})"
