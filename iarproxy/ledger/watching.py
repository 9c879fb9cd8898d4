"""What the drift watch reads and writes: which pins there are and when each was checked, many at a time.

Rule 1: reading is in slices, so that a million pins hold up no pull; nothing of it comes into the memory of pins that
        are being served.
Rule 2: that nothing changed is recorded for many tags in one transaction; what is news has its own, with its evidence.
Rule 3: a pin that cannot be read is left out here: its own answers say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import Connection, text

from iarproxy.errors import IarproxyError
from iarproxy.ledger import drift, pins
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import DriftState, Event, Name, Pin
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.trust.drift import Verdict

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

Held: TypeAlias = tuple[Pin, DriftState | None]
Place: TypeAlias = tuple[str, str]  # repository and tag, after which the next slice begins
START: Place = ("", "")

# SQLite takes the other columns from the row that has the greatest revision.
_SLICE = text("""
SELECT named.repository, named.tag, named.digest, coalesce(drift.checked_at, named.pinned_at),
  drift.checked_at IS NOT NULL FROM (
    SELECT repository, tag, max(revision), digest, pinned_at FROM pins
    WHERE environment = :environment AND registry = :registry AND (repository, tag) > (:repository, :tag)
    GROUP BY repository, tag ORDER BY repository, tag LIMIT :limit) AS named
LEFT JOIN drift ON drift.environment = :environment AND drift.registry = :registry
  AND drift.repository = named.repository AND drift.tag = named.tag AND drift.pinned = named.digest
ORDER BY named.repository, named.tag
""")


@dataclass(frozen=True, slots=True)
class Seen:
    """A pin and when upstream was last known to offer what it says.

    Attributes:
        at: seconds since 1970: of the last check or, where there was none since, of the pin.
        checked: whether it was a check.
    """

    name: Name
    at: float
    checked: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found that is no accusation of its own: the tag is steady, or as it was known to be."""

    pin: Pin
    verdict: Verdict
    offered: Descriptor | None = None


class Watching:
    """The drift watch's view of the ledger."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def slice(
        self, environment: str, registry: str, *, after: Place, limit: int, wanted: Callable[[TagReference], bool]
    ) -> tuple[list[Seen], Place | None]:
        """Those of the next `limit` pins of an upstream that are `wanted`, and where to go on; None: there are no more.

        `wanted` is called in the ledger's thread.
        """
        look = partial(_slice, environment=environment, registry=registry, after=after, limit=limit, wanted=wanted)
        return await self._shared.thread.read(look)

    async def held(self, names: Sequence[Name]) -> list[Held]:
        """The pins of these names that there still are, with what is known of their drift; at most 100."""
        return await self._shared.thread.read(partial(_held, names=names))

    async def confirm(self, findings: Sequence[Finding]) -> None:
        """Record them, all in one transaction.

        Raises:
            LedgerUnavailable: nothing was recorded.
        """
        work = partial(_confirm, findings=findings)

        def keep(found: list[Held]) -> None:
            for pin, state in found:
                self._shared.within(pin.environment).refresh(pin, state)

        await self._shared.thread.write(work, kept=keep)

    async def acknowledge(self, name: Name, digest: Digest, *, reason: str, actor: str) -> Held:
        """A person's act: settle the alarm that upstream offers `digest`; see `drift.acknowledge`.

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: nothing was done.
        """
        work = partial(drift.acknowledge, name=name, digest=digest, reason=reason, actor=actor)

        def keep(held: tuple[Pin, DriftState]) -> None:
            self._shared.within(name.environment).refresh(*held)

        return await self._shared.thread.write(work, kept=keep)

    async def accusations(self, names: Sequence[Name]) -> list[Event | None]:
        """For each name the newest event that accuses upstream, with its evidence; None: there is none."""

        def look(connection: Connection) -> list[Entry | None]:
            return [drift.accusation(connection, name) for name in names]

        return [None if each is None else each.event() for each in await self._shared.thread.read(look)]


def _slice(
    connection: Connection,
    *,
    environment: str,
    registry: str,
    after: Place,
    limit: int,
    wanted: Callable[[TagReference], bool],
) -> tuple[list[Seen], Place | None]:
    key = {"environment": environment, "registry": registry, "repository": after[0], "tag": after[1], "limit": limit}
    rows = connection.execute(_SLICE, key).all()
    found = list[Seen]()
    for repository, tag, digest, at, checked in rows:
        try:
            reference = TagReference(Repository(registry, repository), Tag(tag))
            moment = datetime.fromisoformat(at).timestamp()
        except (IarproxyError, ValueError):
            continue
        if digest is not None and wanted(reference):
            found.append(Seen(Name(environment, reference), moment, bool(checked)))
    return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def _held(connection: Connection, names: Sequence[Name]) -> list[Held]:
    found = list[Held]()
    for name in names:
        try:
            pin = pins.standing(connection, name)
        except IarproxyError:
            continue
        if isinstance(pin, Pin):
            found.append((pin, drift.state_of(connection, pin)))
    return found


def _confirm(tx: Transaction, findings: Sequence[Finding]) -> list[Held]:
    found = list[Held]()
    for each in findings:
        try:
            held = drift.confirm(tx, each.pin.name, each.verdict, each.offered)
        except IarproxyError:
            continue
        found += [] if held is None else [held]
    return found
