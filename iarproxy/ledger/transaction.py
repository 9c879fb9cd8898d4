"""One write transaction: the connection, the journal's head as it moves, and the entries made so far.

Rule 1: the journal entry and what it projects (pin row, drift row) are made together or not at all.
Rule 2: the same projection serves the living ledger and its rebuild from the journal file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from iarproxy.ledger.journal import Entry, Head, insert_entry
from iarproxy.ledger.values import EventKind
from iarproxy.oci import TagReference
from iarproxy.oci.routing import DEFAULT

Projection = Callable[[Connection, Entry], None]


class Transaction:
    """What a piece of writing work is given.

    Attributes:
        head: where the journal ends now.
        appended: the entries made so far, in order.
    """

    def __init__(self, connection: Connection, head: Head, now: Callable[[], datetime], project: Projection) -> None:
        self.connection = connection
        self.now = now
        self.head = head
        self.appended: list[Entry] = []
        self._project = project

    def append(
        self,
        kind: EventKind,
        reference: TagReference | None,
        *,
        environment: str = DEFAULT,
        actor: str,
        reason: str = "",
        revision: int | None = None,
        body: dict[str, Any],
    ) -> Entry:
        """Journal an event and make what follows from it."""
        entry = Entry.made(
            self.head,
            self.now(),
            kind,
            reference,
            environment=environment,
            actor=_text(actor),
            reason=_text(reason),
            revision=revision,
            body=body,
        )
        self.replay(entry)
        return entry

    def replay(self, entry: Entry) -> None:
        """Take over an entry that exists already, with its serial and hash."""
        insert_entry(self.connection, entry)
        self._project(self.connection, entry)
        self.appended.append(entry)
        self.head = entry.head

    def rewind(self, head: Head) -> None:
        """Forget what was appended after `head`: its savepoint was rolled back."""
        self.head = head
        self.appended = [each for each in self.appended if each.serial <= head.serial]


def _text(text: str) -> str:
    """`text` as UTF-8 can hold it: a command line may carry any bytes."""
    return text.encode("utf-8", "replace").decode()
