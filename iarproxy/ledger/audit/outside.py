"""The audit's view of the journal file: line by line beside the entries of the database.

Rule: who comes first by serial is told of: an entry that only one of the two has, one that they tell differently, one
that stands in the wrong place.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from iarproxy.ledger.audit.findings import Findings
from iarproxy.ledger.journal import Entry
from iarproxy.ledger.journal_file import read_lines


class Outside:
    """The lines of the file at `path`, as far as they were met."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self._name = path.name
        self._findings = findings
        self._lines = _lines(path)
        self._next: tuple[int, Entry | None] | None = None
        self._met = 0  # serial
        self._ended = False
        self._advance()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()

    def meet(self, entry: Entry) -> None:
        """The next entry of the database."""
        self._pass_earlier(entry.serial)
        self._met = entry.serial
        if self._next is None:
            if not self._ended:
                self._findings.add(entry.serial, f"is not in {self._name}, which ends before it")
            self._ended = True
            return
        number, found = self._next
        if found is not None and found.serial > entry.serial:
            self._findings.add(entry.serial, f"is not in {self._name}, where line {number} is entry {found.serial}")
            return
        if found is None:
            self._findings.add(entry.serial, f"its line in {self._name}, line {number}, is broken")
        elif found.hash != entry.hash:
            self._findings.add(entry.serial, f"is not the same in the database and in line {number} of {self._name}")
        self._advance()

    def end(self) -> None:
        """The database has no more."""
        while self._next is not None:
            number, found = self._next
            if found is not None:
                self._tell_surplus(number, found)
                if found.serial > self._met:
                    return  # those that follow do so too
            else:
                self._findings.add(self._met + 1, f"its line in {self._name}, line {number}, is broken or torn")
            self._advance()

    def _pass_earlier(self, serial: int) -> None:
        while self._next is not None and self._next[1] is not None and self._next[1].serial < serial:
            self._tell_surplus(*self._next)
            self._advance()

    def _tell_surplus(self, number: int, found: Entry | None) -> None:
        if found is None:
            return
        if found.serial > self._met:
            text = f"is in {self._name}, line {number}, and not in the database, which lost it or is an old copy"
        else:
            text = f"stands out of order in line {number} of {self._name}"
        self._findings.add(found.serial, text)

    def _advance(self) -> None:
        self._next = next(self._lines, None)


def _lines(path: Path) -> Generator[tuple[int, Entry | None], None, None]:
    lines: Iterator[tuple[bytes, Entry | None]] = iter(())
    with suppress(FileNotFoundError):
        lines = read_lines(path)
        for number, (_, entry) in enumerate(lines, 1):
            yield number, entry
