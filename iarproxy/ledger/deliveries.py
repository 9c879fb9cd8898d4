"""How far each receiver of events has been told of the journal, and what could not be delivered.

Rule 1: a receiver's place is the serial of the last entry that it was sent, or that is none of its business. A new one
        begins at the journal's end.
Rule 2: places and dead letters are observations: not journaled, and lost by a rebuild, after which each receiver begins
        at the end. A row that fails its checksum is nothing, with the same consequence.
Rule 3: a receiver has at most `MOST_DEAD` dead letters; the oldest leave, and are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, column, delete, func, insert, select, table

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import journal
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.pin_reading import Shared
from iarproxy.ledger.rows import JOURNAL, is_intact, sealed, where
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Event, to_text

MOST_DEAD = 1000
_MAX_REASON = 500  # characters
_PAGE = 20  # entries; with their evidence they may have a megabyte each
_SCANNED = 2000  # entries looked at at once: pins wait for the same thread
_COUNTED = 10_000  # entries; how many wait beyond these nobody needs to know

STEP = (
    """
CREATE TABLE receivers (
  name TEXT NOT NULL PRIMARY KEY,
  serial INTEGER NOT NULL, -- of the last entry that is done with
  stopped TEXT NOT NULL, -- why nothing is sent any more; empty: it is
  dropped INTEGER NOT NULL, -- dead letters that left
  checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE dead_letters (
  receiver TEXT NOT NULL,
  serial INTEGER NOT NULL, -- of the entry
  at TEXT NOT NULL,
  reason TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (receiver, serial)
) STRICT, WITHOUT ROWID
""",
)

_RECEIVERS = table("receivers", *map(column, ("name", "serial", "stopped", "dropped", "checksum")))
_DEAD = table("dead_letters", *map(column, ("receiver", "serial", "at", "reason", "checksum")))
_RECEIVER = select(_RECEIVERS).where(*where(_RECEIVERS, "name"))
_ALL = select(_RECEIVERS).order_by(_RECEIVERS.c.name)
_PUT = insert(_RECEIVERS).prefix_with("OR REPLACE")
_FORGET = delete(_RECEIVERS).where(*where(_RECEIVERS, "name"))
_BURY = insert(_DEAD).prefix_with("OR REPLACE")
_BURIED = select(_DEAD).order_by(_DEAD.c.receiver, _DEAD.c.serial)
_COUNT_DEAD = select(func.count()).select_from(_DEAD).where(*where(_DEAD, "receiver"))
_OLDEST_DEAD = (
    select(_DEAD.c.serial).where(*where(_DEAD, "receiver")).order_by(_DEAD.c.serial).limit(bindparam("limit"))
)
_UNEARTH = delete(_DEAD).where(*where(_DEAD, "receiver", "serial"))
_UNEARTH_ALL = delete(_DEAD).where(*where(_DEAD, "receiver"))
_AFTER = (
    select(JOURNAL)
    .where(JOURNAL.c.serial > bindparam("serial"), JOURNAL.c.serial <= bindparam("until"))
    .order_by(JOURNAL.c.serial)
    .limit(_PAGE)
)
_KINDS = JOURNAL.c.kind.in_(bindparam("kinds", expanding=True))


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a receiver stands.

    Attributes:
        serial: of the last entry that is done with.
        stopped: why nothing is sent any more; empty: it is.
        dead: dead letters that are kept; `dropped`: how many more there were.
    """

    name: str
    serial: int
    stopped: str = ""
    dropped: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that a receiver could not be told of. `at`: when that was given up."""

    receiver: str
    serial: int
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """What comes next for a receiver, in order; `until`: all entries up to this serial were looked at.

    `more`: there may be further ones; `damaged`: the serials of entries that fail their hash.
    """

    events: tuple[Event, ...]
    until: int
    more: bool = False
    damaged: tuple[int, ...] = ()


class Deliveries:
    """Places and dead letters, as one process sees them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def begin(self, names: Collection[str]) -> list[Receiver]:
        """Have exactly these receivers: new ones at the journal's end; what is kept of others is forgotten."""
        return await self._shared.thread.write(partial(_begin, names=frozenset(names)))

    async def receivers(self) -> list[Receiver]:
        """All of them, by name."""
        return await self._shared.thread.read(_receivers)

    async def waiting(self, name: str, kinds: Collection[str] | None) -> int:
        """How many of the next 10,000 entries are of these kinds (None: of all) and were not told to a receiver yet."""
        return await self._shared.thread.read(partial(_waiting, name=name, kinds=kinds))

    async def after(self, serial: int, kinds: Collection[str] | None) -> Page:
        """The first entries of these kinds (None: of all) above `serial`."""
        return await self._shared.thread.read(partial(_page, serial=serial, kinds=kinds))

    async def event(self, serial: int) -> Event | None:
        """One entry; None: there is none.

        Raises:
            LedgerDamaged: it fails its hash.
        """
        entry = await self._shared.thread.read(partial(journal.at_serial, serial=serial))
        return None if entry is None else entry.event()

    async def done(self, name: str, serial: int) -> None:
        """The receiver needs nothing up to `serial` any more."""
        await self._shared.thread.write(partial(_move, name=name, serial=serial))

    async def bury(self, name: str, serial: int, reason: str) -> None:
        """Put an entry aside that the receiver could not be told of, and go on behind it."""
        await self._shared.thread.write(partial(_bury, name=name, serial=serial, reason=reason))

    async def dead(self) -> list[DeadLetter]:
        """What was put aside, by receiver and serial."""
        return await self._shared.thread.read(_buried)

    async def unearth(self, letter: DeadLetter) -> None:
        """It was delivered after all."""
        key = {"receiver": letter.receiver, "serial": letter.serial}
        await self._shared.thread.write(lambda tx: tx.connection.execute(_UNEARTH, key))

    async def stop(self, name: str, why: str) -> None:
        """Send nothing more to a receiver; with an empty `why`: go on where it stopped."""
        await self._shared.thread.write(partial(_stop, name=name, why=why[:_MAX_REASON]))


def _begin(tx: Transaction, names: frozenset[str]) -> list[Receiver]:
    known = {each.name for each in _receivers(tx.connection)}
    for name in known - names:
        tx.connection.execute(_FORGET, {"name": name})
        tx.connection.execute(_UNEARTH_ALL, {"receiver": name})
    for name in names - known:
        _put(tx.connection, Receiver(name, tx.head.serial))
    return _receivers(tx.connection)


def _receivers(connection: Connection) -> list[Receiver]:
    rows = [row for row in connection.execute(_ALL).all() if is_intact(_RECEIVERS, row)]
    return [_value(connection, row) for row in rows]


def _value(connection: Connection, row: Any) -> Receiver:
    dead = connection.execute(_COUNT_DEAD, {"receiver": row.name}).scalar_one()
    return Receiver(row.name, row.serial, row.stopped, row.dropped, dead)


def _receiver(connection: Connection, name: str) -> Receiver | None:
    row = connection.execute(_RECEIVER, {"name": name}).one_or_none()
    return _value(connection, row) if row is not None and is_intact(_RECEIVERS, row) else None


def _put(connection: Connection, receiver: Receiver) -> None:
    values = {
        "name": receiver.name,
        "serial": receiver.serial,
        "stopped": receiver.stopped,
        "dropped": receiver.dropped,
    }
    connection.execute(_PUT, sealed(_RECEIVERS, values))


def _move(tx: Transaction, name: str, serial: int) -> None:
    found = _receiver(tx.connection, name) or Receiver(name, serial)
    _put(tx.connection, Receiver(name, max(serial, found.serial), found.stopped, found.dropped))


def _stop(tx: Transaction, name: str, why: str) -> None:
    found = _receiver(tx.connection, name) or Receiver(name, tx.head.serial)
    _put(tx.connection, Receiver(name, found.serial, why, found.dropped))


def _bury(tx: Transaction, name: str, serial: int, reason: str) -> None:
    row = {"receiver": name, "serial": serial, "at": to_text(tx.now()), "reason": reason[:_MAX_REASON]}
    tx.connection.execute(_BURY, sealed(_DEAD, row))
    found = _receiver(tx.connection, name) or Receiver(name, serial)
    over = max(0, found.dead - MOST_DEAD)
    for old in tx.connection.execute(_OLDEST_DEAD, {"receiver": name, "limit": over}).scalars().all():
        tx.connection.execute(_UNEARTH, {"receiver": name, "serial": old})
    _put(tx.connection, Receiver(name, max(serial, found.serial), found.stopped, found.dropped + over))


def _buried(connection: Connection) -> list[DeadLetter]:
    rows = [row for row in connection.execute(_BURIED).all() if is_intact(_DEAD, row)]
    return [DeadLetter(row.receiver, row.serial, datetime.fromisoformat(row.at), row.reason) for row in rows]


def _page(connection: Connection, serial: int, kinds: Collection[str] | None) -> Page:
    head = journal.last(connection).serial
    entries = _entries(connection, serial, kinds)
    events: list[Event] = []
    damaged: list[int] = []
    for entry in entries:
        try:
            events.append(entry.event())
        except LedgerDamaged:
            damaged.append(entry.serial)
    until = entries[-1].serial if len(entries) == _PAGE else max(serial, min(serial + _SCANNED, head))
    return Page(tuple(events), until, until < head, tuple(damaged))


def _entries(connection: Connection, serial: int, kinds: Collection[str] | None) -> Sequence[Entry]:
    within = {"serial": serial, "until": serial + _SCANNED}
    if kinds is None:
        return [Entry(*row) for row in connection.execute(_AFTER, within)]
    return [Entry(*row) for row in connection.execute(_AFTER.where(_KINDS), {**within, "kinds": sorted(kinds)})]


def _waiting(connection: Connection, name: str, kinds: Collection[str] | None) -> int:
    receiver = _receiver(connection, name)
    if receiver is None:
        return 0
    since, until = receiver.serial, receiver.serial + _COUNTED
    counted = select(func.count()).select_from(JOURNAL).where(JOURNAL.c.serial > since, JOURNAL.c.serial <= until)
    if kinds is not None:
        counted = counted.where(JOURNAL.c.kind.in_(sorted(kinds)))
    count: int = connection.execute(counted).scalar_one()
    return count
