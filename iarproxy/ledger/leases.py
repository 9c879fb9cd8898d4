"""Leases: digests that somebody runs, and that no retention takes the names of; and the retirement of names.

Rule 1: a lease is a journal entry, and nothing else: a rebuild makes it again. The newest entry of a name counts; it
        ends when its time is over, or by an act.
Rule 2: it fails closed: an entry of a lease that fails its hash lets nothing be retired, until it is repaired.
Rule 3: names are retired in one transaction, and only while nothing that the journal tells since the decision is about
        one of them, or about what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select, text

from iarproxy.errors import Malformed, UnknownName
from iarproxy.ledger import pins
from iarproxy.ledger.journal import Entry, pages_after
from iarproxy.ledger.rows import JOURNAL
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Change, EventKind, Name, Pin, Unpinned, to_text
from iarproxy.oci import Digest

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

MOST = 5000  # digests of one lease: an entry of the journal has a bound
LONGEST = timedelta(days=366)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_MAX_REASON = 1000  # characters

STEP = ("CREATE INDEX journal_leases ON journal (serial) WHERE kind IN ('leased', 'unleased')",)
_ENTRIES = (
    select(JOURNAL)
    .where(text("kind IN ('leased', 'unleased')"))  # no parameters: SQLite finds its partial index by this
    .order_by(JOURNAL.c.serial)
)
_KINDS = frozenset({EventKind.LEASED, EventKind.UNLEASED})


@dataclass(frozen=True, slots=True)
class Lease:
    """What somebody runs. `until`: aware, UTC; after it the lease protects nothing."""

    name: str
    digests: frozenset[Digest]
    until: datetime
    at: datetime
    actor: str
    reason: str


class Leases:
    """The leases of one store, as one process sees them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def every(self) -> list[Lease]:
        """All of them, by name; those whose time is over too, until they are ended or set anew.

        Raises:
            LedgerDamaged: an entry of one fails its hash.
        """
        return sorted((await self._shared.thread.read(read)).values(), key=lambda each: each.name)

    async def set(self, name: str, digests: Sequence[Digest], *, lasting: timedelta, reason: str, actor: str) -> Lease:
        """A person's act: protect the names of these digests for so long; what the lease was before is replaced.

        Raises:
            Malformed: a name, a time or a number of digests that cannot be; without a reason or an actor.
        """
        work = partial(_set, name=name, digests=tuple(digests), lasting=lasting, reason=reason, actor=actor)
        return await self._shared.thread.write(work)

    async def end(self, name: str, *, reason: str, actor: str) -> None:
        """A person's act: protect them no more.

        Raises:
            UnknownName: there is no such lease.
        """
        await self._shared.thread.write(partial(_end, name=name, reason=reason, actor=actor))

    async def retire(
        self, changes: Sequence[Change], *, serial: int, reason: str, actor: str
    ) -> list[Pin | Unpinned] | None:
        """Take the pins of `changes` away, all of them, as was decided when the journal ended at `serial`.

        None: something happened since that the decision did not know of; decide again.

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: as `PinSet.change`.
        """
        work = partial(_retire, changes=changes, serial=serial, reason=reason, actor=actor)

        def keep(made: list[Pin | Unpinned] | None) -> None:
            for each in made or ():
                self._shared.within(each.environment).keep_act(each)

        return await self._shared.thread.write(work, kept=keep)


def read(connection: Connection) -> Mapping[str, Lease]:
    """All leases by name.

    Raises:
        LedgerDamaged: an entry of one fails its hash.
    """
    found: dict[str, Lease] = {}
    for entry in [Entry(*row) for row in connection.execute(_ENTRIES)]:
        event = entry.event()
        name = str(event.body["name"])
        if event.kind is EventKind.UNLEASED:
            found.pop(name, None)
            continue
        digests = frozenset(Digest.parse(each) for each in event.body["digests"])
        until = datetime.fromisoformat(event.body["until"])
        found[name] = Lease(name, digests, until, event.at, event.actor, event.reason)
    return found


def _set(
    tx: Transaction, *, name: str, digests: Sequence[Digest], lasting: timedelta, reason: str, actor: str
) -> Lease:
    if _NAME.fullmatch(name) is None:
        raise Malformed(f"not a name for a lease: {name[:80]!r}; letters, digits, dots, - and _, at most 63")
    if not timedelta(0) < lasting <= LONGEST:
        raise Malformed(
            f"a lease lasts at most {LONGEST.days} days, and longer than nothing; set it anew before it ends"
        )
    if not 0 < len(set(digests)) <= MOST:
        raise Malformed(f"a lease names between 1 and {MOST} digests, not {len(set(digests))}; make several of them")
    _insist_on_words(reason, actor)
    until = tx.now() + lasting
    body: dict[str, Any] = {"name": name, "until": to_text(until), "digests": sorted(map(str, set(digests)))}
    entry = tx.append(EventKind.LEASED, None, actor=actor, reason=reason, body=body)
    return Lease(name, frozenset(digests), until, datetime.fromisoformat(entry.at), actor, reason)


def _end(tx: Transaction, *, name: str, reason: str, actor: str) -> None:
    known = read(tx.connection)
    if name not in known:
        raise UnknownName(f"there is no lease {name[:80]!r}; there are: {', '.join(sorted(known)[:20]) or 'none'}")
    _insist_on_words(reason, actor)
    tx.append(EventKind.UNLEASED, None, actor=actor, reason=reason, body={"name": name})


def _insist_on_words(reason: str, actor: str) -> None:
    if not reason.strip() or not actor.strip() or len(reason) > _MAX_REASON:
        raise Malformed(f"a lease needs a reason (at most {_MAX_REASON} characters) and an actor")


def _retire(
    tx: Transaction, *, changes: Sequence[Change], serial: int, reason: str, actor: str
) -> list[Pin | Unpinned] | None:
    names, contents = {each.name for each in changes}, {str(each.old) for each in changes}
    for page in pages_after(tx.connection, serial):
        if any(_matters(entry, names, contents) for entry in page):
            return None
    return pins.change(tx, EventKind.RETIRED, changes, reason=reason, actor=actor)


def _matters(entry: Entry, names: set[Name], contents: set[str]) -> bool:
    """Whether an entry is about one of the names or contents, or may be (rule 3)."""
    if not entry.is_intact() or entry.kind in _KINDS or entry.name in names:
        return True
    if entry.revision is None:
        return False
    made = entry.document().get("descriptor")
    return made is not None and made.get("digest") in contents
