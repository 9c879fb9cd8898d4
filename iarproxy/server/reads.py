"""What the admin face reads of the rooms: Protocols, so that the face is tested without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from iarproxy.ledger import Damage, DriftState, Event, Pin, Recall, UseSummary, Withheld
from iarproxy.mirror.drift.alarms import Accusations
from iarproxy.oci import Digest, TagReference
from iarproxy.store import StoreStats


class UsesReads(Protocol):
    """What the face reads of the uses."""

    async def summary(self, what: TagReference) -> UseSummary:
        """Who pulled a tag."""
        ...


class RecallReads(Protocol):
    """What the face reads of the recalls."""

    @property
    def known(self) -> Mapping[Digest, Recall]:
        """All that is recalled now."""
        ...


class PinReads(Protocol):
    """What the face reads of the pins of an environment."""

    async def pins(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Pin]:
        """One page of the current pins."""
        ...

    async def pin_of(self, reference: TagReference) -> Pin | None:
        """One pin."""
        ...

    def peek_drift(self, reference: TagReference) -> DriftState | None:
        """What the last check found, after `pin_of`."""
        ...

    async def history(self, reference: TagReference) -> list[Event]:
        """The newest events about a tag."""
        ...

    async def waiting(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Withheld]:
        """One page of what is withheld."""
        ...


class LedgerReads(PinReads, Protocol):
    """What the face reads of the ledger."""

    @property
    def uses(self) -> UsesReads:
        """What was served to whom."""
        ...

    @property
    def recalls(self) -> RecallReads:
        """What is recalled."""
        ...

    @property
    def watching(self) -> Accusations:
        """The accusations of drift."""
        ...

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        """The pins under drift."""
        ...

    async def drift_count(self) -> int:
        """How many pins are under drift."""
        ...

    def damaged(self) -> list[Damage]:
        """What this process found damaged."""
        ...

    def within(self, environment: str) -> PinReads:
        """The pins of an environment."""
        ...


class StoreReads(Protocol):
    """What the face reads of the store."""

    async def stats(self) -> StoreStats:
        """How full it is."""
        ...


class AdminRooms(Protocol):
    """The rooms that the face looks into."""

    @property
    def ledger(self) -> LedgerReads:
        """The ledger."""
        ...

    @property
    def store(self) -> StoreReads:
        """The store."""
        ...
