"""The journal as a person reads it: from a place on, or the newest, of one kind or of all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, select

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import journal
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import JOURNAL
from iarproxy.ledger.values import Event, EventKind

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

PAGE = 200  # entries; with their evidence they may have a megabyte each


class Reading:
    """The entries of one ledger's journal."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def events(self, *, after: int | None, kind: EventKind | None, limit: int) -> list[Event]:
        """At most `limit` events, in order: those that follow `after`, or, where that is None, the newest.

        Raises:
            LedgerDamaged: one of them fails its hash.
        """
        entries = await self._shared.thread.read(partial(selected, after=after, kind=kind, limit=limit))
        return [entry.event() for entry in entries]

    async def entries(self, after: int, limit: int = PAGE) -> list[Entry]:
        """At most `limit` entries that follow `after`, in order.

        Raises:
            LedgerDamaged: one of them fails its hash.
        """
        entries = await self._shared.thread.read(partial(journal.entries_after, serial=after, limit=limit))
        for entry in entries:
            if not entry.is_intact():
                raise LedgerDamaged(f"journal entry {entry.serial} fails its hash; run `iarproxy journal verify`")
        return entries


def selected(connection: Connection, *, after: int | None, kind: EventKind | None, limit: int) -> list[Entry]:
    """The entries that `Reading.events` gives, as stored."""
    conditions: list[ColumnElement[bool]] = []
    if kind is not None:
        conditions.append(JOURNAL.c.kind == str(kind))
    if after is not None:
        conditions.append(JOURNAL.c.serial > after)
    order = JOURNAL.c.serial.desc() if after is None else JOURNAL.c.serial
    rows = connection.execute(select(JOURNAL).where(*conditions).order_by(order).limit(limit))
    found = [Entry(*row) for row in rows]
    return found[::-1] if after is None else found
