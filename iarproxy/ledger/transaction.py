"""One write transaction: the connection, the journal's head as it moves, and the entries made so far.

Rule 1: the journal entry and what it projects (pin row, drift row) are made together or not at all.
Rule 2: the same projection serves the living ledger and its rebuild from the journal file, one entry and many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from iarproxy.ledger.journal import Entry, Head, insert_entries
from iarproxy.ledger.rows import several
from iarproxy.ledger.values import EventKind, Name
from iarproxy.oci import TagReference
from iarproxy.oci.routing import DEFAULT

Projection = Callable[[Connection, Sequence[Entry]], None]  # of one entry, or of several about different names


@dataclass(frozen=True, slots=True)
class Part:
    """What an act says of one of its names.

    Attributes:
        revision: of the pin that it makes or takes away; None: neither.
    """

    name: Name
    body: dict[str, Any]
    revision: int | None = None


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
        self._take([entry])
        return entry

    def append_all(self, kind: EventKind, parts: Iterable[Part], *, actor: str, reason: str) -> list[Entry]:
        """As `append` for each of several names, no two of them the same, in few statements."""
        head, made, actor, reason = self.head, [], _text(actor), _text(reason)
        for part in parts:
            entry = Entry.made(
                head,
                self.now(),
                kind,
                part.name.reference,
                environment=part.name.environment,
                actor=actor,
                reason=reason,
                revision=part.revision,
                body=part.body,
            )
            made.append(entry)
            head = entry.head
        for some in several(made):
            self._take(some)
        return made

    def replay(self, entry: Entry) -> None:
        """Take over an entry that exists already, with its serial and hash."""
        self._take([entry])

    def _take(self, entries: Sequence[Entry]) -> None:
        insert_entries(self.connection, entries)
        self._project(self.connection, entries)
        self.appended += entries
        self.head = entries[-1].head

    def rewind(self, head: Head) -> None:
        """Forget what was appended after `head`: its savepoint was rolled back."""
        self.head = head
        self.appended = [each for each in self.appended if each.serial <= head.serial]


def _text(text: str) -> str:
    """`text` as UTF-8 can hold it: a command line may carry any bytes."""
    return text.encode("utf-8", "replace").decode()
