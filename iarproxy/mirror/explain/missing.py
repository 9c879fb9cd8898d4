"""Why something is not here, where nobody can be asked: which bundle or set should have brought it, and what to do.

Rule 1: it is told from what the applied bundles say of themselves: the newest of each set, looked into when something
        is missed first, and again when another one was applied.
Rule 2: a flood of misses costs little: what was told is remembered for a moment, and so is what bundles list.
Rule 3: what cannot be told is no failure: the answer is "not held" in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from iarproxy.errors import IarproxyError
from iarproxy.inflight import InFlight
from iarproxy.ledger import Ledger
from iarproxy.ledger.bundles import Applied
from iarproxy.ledger.memory import Memory
from iarproxy.mirror.explain.brought import Listed, listed
from iarproxy.oci import Digest, DigestReference, Reference, Repository, Tag, TagReference
from iarproxy.store import Store
from iarproxy.trust.environments import env_option
from iarproxy.upstream import Lack
from iarproxy.upstream.offline import Wanted

log = structlog.get_logger("iarproxy.mirror")

_REMEMBERED = 10_000  # answers
_FOR = 30.0  # seconds; what is evicted or collected meanwhile changes words only
_NAMED = 3  # sets


class Missing:
    """Tells why something is not here. `clock`: monotonic seconds; None: the loop's."""

    def __init__(self, store: Store, ledger: Ledger, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._every: tuple[Listed, ...] | None = None
        self._told: Memory[tuple[Repository, Wanted], tuple[Lack, float]] = Memory(_REMEMBERED)
        self._reading: InFlight[str, tuple[Listed, ...]] = InFlight()
        ledger.on_change(self._changed)

    async def close(self) -> None:
        """End what is under way."""
        await self._reading.close()

    async def lack(self, repository: Repository, wanted: Wanted) -> Lack:
        """Why it is not here, and what would bring it."""
        now = (self._clock or asyncio.get_running_loop().time)()
        told = self._told.get((repository, wanted))
        if told is not None and now < told[1]:
            return told[0]
        what = f"no tag of {repository} is held" if wanted is None else f"{_named(repository, wanted)} is not held"
        try:
            why = _why(await self._sets(), repository, wanted, is_held=self._is_held(wanted))
        except IarproxyError as error:
            log.warning("cannot tell what should have brought it", what=what, reason=str(error))
            return Lack(f"{what}, and this site is offline; which bundles came cannot be told now: {error}")
        found = Lack(f"{what}, and this site is offline: {why.message}", why.detail)
        self._told.put((repository, wanted), (found, now + _FOR))
        return found

    async def source(self, reference: Reference) -> Applied | None:
        """The newest applied bundle that lists the name, or the content; None: none does.

        Raises:
            LedgerUnavailable, LedgerDamaged: it cannot be told.
        """
        found = [each.applied for each in await self._sets() if each.lists(reference)]
        return max(found, key=lambda each: each.serial, default=None)

    async def _sets(self) -> tuple[Listed, ...]:
        """What the newest bundle of each set lists, the newest first."""
        if self._every is None:
            self._every = await self._reading.once("", self._read)
        return self._every

    async def _read(self) -> tuple[Listed, ...]:
        every = sorted(await self._ledger.bundles.every_applied(), key=lambda each: -each.serial)
        return tuple([await listed(self._store, each) for each in every])

    def _is_held(self, wanted: Wanted) -> bool:
        return isinstance(wanted, Digest) and self._store.find(wanted) is not None

    def _changed(self, reference: TagReference | None) -> None:
        if reference is None:  # as after each apply
            self._every = None
            self._told.clear()


def short(applied: Applied) -> str:
    """A bundle in a few words."""
    digest = f"{applied.bundle.algorithm}:{applied.bundle.hex[:12]}"
    return f"bundle {digest} of the set {applied.set} (sequence {applied.sequence}, from {applied.origin})"


def _why(sets: Sequence[Listed], repository: Repository, wanted: Wanted, *, is_held: bool) -> Lack:
    """What is known of it, the most exact word first; of several bundles the newest's."""
    if wanted is not None:
        reference = _named(repository, wanted)
        for each in sets:
            told = _of_name(each, reference) or _of_content(each, reference, is_held=is_held)
            if told is not None:
                return Lack(told, _facts(each.applied))
    for each in sets:
        some = each.repositories.get(repository)
        if some is not None:
            brings = f"the set {each.applied.set} brings {some} of {repository}, and not this"
            return Lack(f"{brings}; {_addition(each.applied)}", _facts(each.applied))
    return _of_stranger(sets, repository)


def _of_name(each: Listed, reference: Reference) -> str | None:
    if not isinstance(reference, TagReference) or not each.lists(reference):
        return None
    where = each.applied.environment
    history = f"iarproxy pins history {reference}{env_option(where)}"
    return f"{_since(each.applied)} brought this name into the environment {where}; see `{history}`"


def _of_content(each: Listed, reference: Reference, *, is_held: bool) -> str | None:
    if isinstance(reference, TagReference):
        return None
    since, index = _since(each.applied), each.leaves_out(reference.digest)
    if not each.lists(reference):
        return None if index is None else _of_omitted(each.applied, index)
    if is_held:
        return f"{since} has its bytes, and nothing that was brought of {reference.repository} leads to them"
    if each.brings(reference.digest):
        return f"{since} brought it, and it was lost since; apply that bundle again"
    return f"{since} counts on an earlier one for it; apply that one again, or have one made with --full"


def _of_omitted(applied: Applied, index: str) -> str:
    return (
        f"the set {applied.set} leaves it out of {index}, for its platform is not one of the set's; add that to"
        f" `platforms` of the set in the sets file at {applied.origin}, sync, and apply the bundle made then"
    )


def _of_stranger(sets: Sequence[Listed], repository: Repository) -> Lack:
    """Where no set has anything of the repository."""
    if not sets:
        return Lack("no bundle was applied here yet; apply one with `iarproxy bundle apply DIR --trust NAME.pub`")
    unknown = [each.applied for each in sets if not each.is_known]
    if unknown:
        return Lack(f"what {short(unknown[0])} lists cannot be told; apply that bundle again if it should have it")
    names = ", ".join(each.applied.set for each in sets[:_NAMED])
    more = f" and {len(sets) - _NAMED} more" if len(sets) > _NAMED else ""
    brings = f"none of the sets that were applied here ({names}{more}) brings anything of {repository}"
    return Lack(f"{brings}; {_addition(sets[0].applied)}")


def _since(applied: Applied) -> str:
    return f"{short(applied)}, applied at {applied.at:%Y-%m-%d %H:%M} UTC,"


def _addition(applied: Applied) -> str:
    where = f"the set {applied.set} in the sets file at {applied.origin}"
    return f"add it to {where}, sync, and apply the bundle made then"


def _facts(applied: Applied) -> dict[str, str | int]:
    return {
        "bundle": str(applied.bundle),
        "set": applied.set,
        "sequence": applied.sequence,
        "origin": applied.origin,
    }


def _named(repository: Repository, wanted: Tag | Digest) -> Reference:
    return DigestReference(repository, wanted) if isinstance(wanted, Digest) else TagReference(repository, wanted)
