"""Bundles that were refused where nobody sat in front: journaled, so that webhooks tell of it, and told once.

Rule 1: a refusal is a journal entry and nothing else, found by an index over these; see `ledger.bundles`.
Rule 2: it is about content: a fingerprint of what lay there. Of the same content and code one entry is enough.
Rule 3: whoever may write to the folder may not fill the journal: in a day at most `_A_DAY` refusals are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, text

from iarproxy.ledger.journal import Entry
from iarproxy.ledger.rows import JOURNAL
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import EventKind
from iarproxy.oci import Digest

if TYPE_CHECKING:
    from iarproxy.ledger.pin_reading import Shared

STEP = ("CREATE INDEX journal_refused ON journal (serial) WHERE kind = 'refused'",)
_REMEMBERED = 1000  # the newest
_A_DAY = 100
_MAX_MESSAGE = 4000  # characters
_ENTRIES = (
    select(JOURNAL)
    .where(text("kind = 'refused'"))  # no parameters: SQLite finds its partial index by this
    .order_by(JOURNAL.c.serial.desc())
    .limit(_REMEMBERED)
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused.

    Attributes:
        bundle: the identity that it claims.
        content: a fingerprint of all that lay there.
        code: see `errors.BundleRefused`.
        origin, set, sequence: as it claims; nobody vouched for them.
        at: when it was noted.
    """

    bundle: Digest
    content: str
    code: str
    message: str
    origin: str
    set: str
    sequence: int
    at: datetime


class Refusals:
    """The refusals of one store, as one process sees them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def every(self) -> list[Refusal]:
        """The newest, the newest first.

        Raises:
            LedgerDamaged: an entry of one fails its hash.
        """
        return await self._shared.thread.read(_read)

    async def note(self, refusal: Refusal, *, actor: str) -> bool:
        """Journal it; False: the same was told before, or too many were today.

        Raises:
            LedgerUnavailable, LedgerDamaged: it was not journaled.
        """
        return await self._shared.thread.write(partial(_note, refusal=refusal, actor=actor))


def _note(tx: Transaction, *, refusal: Refusal, actor: str) -> bool:
    known = _read(tx.connection)
    if any((each.content, each.code) == (refusal.content, refusal.code) for each in known):
        return False
    if sum(tx.now() - each.at < timedelta(days=1) for each in known) >= _A_DAY:
        return False
    body = {
        "bundle": str(refusal.bundle),
        "content": refusal.content,
        "code": refusal.code,
        "message": refusal.message[:_MAX_MESSAGE],
        "origin": refusal.origin,
        "set": refusal.set,
        "sequence": refusal.sequence,
    }
    tx.append(EventKind.REFUSED, None, actor=actor, body=body)
    return True


def _read(connection: Connection) -> list[Refusal]:
    found = []
    for row in connection.execute(_ENTRIES):
        event = Entry(*row).event()
        body = event.body
        told = (body["code"], body["message"], body["origin"], body["set"], body["sequence"])
        found.append(Refusal(Digest.parse(body["bundle"]), body["content"], *told, event.at))
    return found
