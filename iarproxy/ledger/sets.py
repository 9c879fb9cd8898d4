"""Sets: what the last sync of each came to.

Rule 1: a sync is a journal entry and nothing else: the newest one about a set counts, and a rebuild makes it again. An
        index over these entries makes them quick to find; there is no second copy that could disagree.
Rule 2: an entry that fails its hash is `LedgerDamaged`, never an older record: a bundle made from that one would be
        wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, literal_column, select

from iarproxy.errors import Malformed
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import JOURNAL
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind, descriptor_of, to_json
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.bundle_manifest import SET_NAME

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

STEP = ("CREATE INDEX journal_sets ON journal (serial) WHERE kind = 'synced'",)
_ENTRIES = (
    select(JOURNAL)
    .where(literal_column("kind") == literal_column("'synced'"))  # in the words of the index
    .order_by(JOURNAL.c.serial.desc())
)


@dataclass(frozen=True, slots=True)
class KeptSet:
    """What the last sync of a set came to.

    Attributes:
        record: of the set's record (`oci.set_record`), a blob in the store.
        definition: of the section in the sets file as it was then.
        complete: whether nothing was lacking.
        at: aware, UTC.
    """

    name: str
    record: Descriptor
    definition: Digest
    complete: bool
    at: datetime


class Sets:
    """The sets of one store, as one process sees them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def keep(self, name: str, record: Descriptor, definition: Digest, *, complete: bool, actor: str) -> None:
        """Journal that a set was synced, and what it came to; where that is what was kept last, nothing happens.

        Raises:
            Malformed: a name that no set can have, or no actor.
            LedgerUnavailable, LedgerDamaged: nothing was kept.
        """
        body = {"set": name, "record": to_json(record), "definition": str(definition), "complete": complete}
        await self._shared.thread.write(partial(_keep, name=name, body=body, actor=actor))

    async def of(self, name: str) -> KeptSet | None:
        """What the last sync of a set came to; None: it was never synced here.

        Raises:
            LedgerDamaged: an entry that may say so fails its hash.
        """
        return await self._shared.thread.read(partial(newest, name=name))

    async def every(self) -> list[KeptSet]:
        """All sets that were ever synced here, by name; raises as `of`."""

        def look(connection: Connection) -> list[KeptSet]:
            found: dict[str, KeptSet] = {}
            for each in _newest_first(connection):
                found.setdefault(each.name, each)
            return [found[name] for name in sorted(found)]

        return await self._shared.thread.read(look)


def newest(connection: Connection, name: str) -> KeptSet | None:
    """What the last sync of a set came to."""
    return next((each for each in _newest_first(connection) if each.name == name), None)


def _newest_first(connection: Connection) -> Iterator[KeptSet]:
    with connection.execute(_ENTRIES) as rows:
        for row in rows:
            event = Entry(*row).event()
            record = descriptor_of(event.body["record"])
            assert record is not None  # noqa: S101  # `keep` writes one; for the type checker
            definition = Digest.parse(event.body["definition"])
            yield KeptSet(event.body["set"], record, definition, bool(event.body["complete"]), event.at)


def _keep(tx: Transaction, *, name: str, body: dict[str, Any], actor: str) -> None:
    if SET_NAME.fullmatch(name) is None or not actor.strip():
        raise Malformed(f"not a set that somebody synced: {name[:80]!r}; a name has lower case letters, digits, . _ -")
    before = newest(tx.connection, name)
    if before is None or _body(before) != body:
        tx.append(EventKind.SYNCED, None, actor=actor, body=body)


def _body(kept: KeptSet) -> dict[str, Any]:
    return {
        "set": kept.name,
        "record": to_json(kept.record),
        "definition": str(kept.definition),
        "complete": kept.complete,
    }
