"""Verification: every entry, every row, and the file outside, against each other.

Rule 1: it works beside a running `serve`: it reads a page at a time and holds nothing in between. Only SQLite's own
        `integrity_check` is one long read, during which writers wait (about 10 ms for each MB).
Rule 2: it finds and says; it changes nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Connection, TableClause, func, select

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import attached, journal, pins, recalls, schema
from iarproxy.ledger.journal import Entry, Head
from iarproxy.ledger.journal_file import NAME, read_lines
from iarproxy.ledger.rows import CANDIDATES, DRIFT, FOLLOWED, LINKS, PINS, SIGHTINGS, is_intact
from iarproxy.ledger.thread import LedgerThread
from iarproxy.ledger.values import VerifyReport
from iarproxy.oci.routing import DEFAULT

_LONG = 600.0  # seconds
_ENOUGH = 100  # problems listed


class Inspection:
    """What is found while a ledger is walked, from the journal's first entry to its last."""

    def __init__(self) -> None:
        self.head = Head()
        self.pins = 0
        self.problems: list[str] = []

    def whole(self, connection: Connection) -> None:
        """All of a database that nobody else writes."""
        self.structure(connection)
        while self.page(connection):
            pass
        self.observations(connection)

    def structure(self, connection: Connection) -> None:
        """The file's pages and indexes, and the schema."""
        for row in connection.exec_driver_sql(f"PRAGMA integrity_check({_ENOUGH})"):
            if row[0] != "ok":
                self._say(str(row[0]).splitlines()[0])
        try:
            schema.check(connection)
        except LedgerDamaged as damaged:
            self._say(str(damaged))

    def page(self, connection: Connection) -> bool:
        """The next entries with the pins that they made; False at the end, where the pins are counted too."""
        entries = journal.entries_after(connection, self.head.serial)
        for entry in entries:
            self._entry(connection, entry)
        if entries:
            return True
        counted = connection.execute(select(func.count()).select_from(PINS)).scalar_one()
        if counted != self.pins:
            self._say(f"the journal made {self.pins} revisions of pins; the table holds {counted}")
        return False

    def observations(self, connection: Connection) -> None:
        """The rows that can be made anew."""
        for table in (DRIFT, FOLLOWED, LINKS, SIGHTINGS, CANDIDATES):
            if bad := _bad_rows(connection, table):
                self._say(f"{bad} rows of `{table.name}` fail their checksum; they are made anew when next needed")
        for problem in (*recalls.problems(connection), *attached.problems(connection)):
            self._say(problem)

    def outside(self, path: Path) -> None:
        """The journal file at `path`, which must reach where the database was found to end."""
        before, reached = Head(), self.head == Head()
        for number, (_, entry) in enumerate(read_lines(path) if path.exists() else (), 1):
            if entry is None:
                self._say(f"line {number} of {path.name} is broken")
                continue
            if Head(entry.serial - 1, entry.previous) != before:
                self._say(f"line {number} of {path.name} does not continue the line before")
            before, reached = entry.head, reached or entry.head == self.head
        if not reached:
            self._say(f"{path.name} does not hold the database's last entry, serial {self.head.serial}")

    def report(self) -> VerifyReport:
        """What was found."""
        return VerifyReport(self.head.serial, self.head.hash, self.pins, tuple(self.problems))

    def _say(self, problem: str) -> None:
        if len(self.problems) < _ENOUGH:
            self.problems.append(problem)

    def _entry(self, connection: Connection, entry: Entry) -> None:
        if not entry.is_intact():
            self._say(f"journal entry {entry.serial} fails its hash")
        elif (entry.serial, entry.previous) != (self.head.serial + 1, self.head.hash):
            self._say(f"journal entry {entry.serial} does not continue entry {self.head.serial}")
        elif entry.revision is not None and not pins.is_projected(connection, entry):
            where = "" if entry.environment == DEFAULT else f" in {entry.environment}"
            name = f"{entry.registry}/{entry.repository}:{entry.tag}{where}"
            self._say(f"revision {entry.revision} of {name} is damaged or missing among the pins")
        self.pins += entry.revision is not None
        self.head = entry.head


async def verify(thread: LedgerThread, path: Path) -> VerifyReport:
    """The report on the ledger at `path`, which `thread` serves."""
    found = Inspection()
    await thread.read(found.structure, deadline=_LONG)
    while await thread.read(found.page, deadline=_LONG):
        pass
    await thread.read(found.observations, deadline=_LONG)
    await asyncio.to_thread(found.outside, path.with_name(NAME))
    return found.report()


def _bad_rows(connection: Connection, table: TableClause) -> int:
    return sum(not is_intact(table, row) for row in connection.execute(select(table)))
