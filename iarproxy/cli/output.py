"""What commands print: tables for people, JSON for scripts, one line for an error; and the exit codes.

Exit codes (design section 6): 0 done, 1 refused or failed, 2 usage, 3 found something with `--exit-code`,
4 unavailable, 70 internal error.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import IntEnum
from typing import Any, NoReturn

import orjson
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    FOUND = 3
    UNAVAILABLE = 4
    INTERNAL = 70
    INTERRUPTED = 130  # as shells report SIGINT


def print_json(value: Any) -> None:
    """The value as one JSON document; times in RFC 3339, everything else that is no JSON by its text."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def plain(text: str) -> str:
    """The text as one line that steers no terminal: others chose the words of reasons, names and errors."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


class Table:
    """Rows in aligned columns, never cut or folded (they may be piped), some at a time: a long list begins at once."""

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns
        self._widths: list[int] = []

    def print(self, rows: list[list[str]]) -> None:
        """These rows too; those that are wider than any before widen their column from here on."""
        rows = [[plain(cell) for cell in row] for row in rows]
        heading = [] if self._widths else [self._columns]
        before = self._widths or [len(name) for name in self._columns]
        self._widths = [
            max(width, *map(len, column)) for width, column in zip(before, zip(*rows, strict=True), strict=True)
        ]
        for row in [*heading, *rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip()
            out.print(line, markup=False, style="bold" if row is self._columns else None)

    def end(self, empty: str) -> None:
        """There are no more; `empty` is said where there were none."""
        if not self._widths:
            out.print(empty, markup=False)


def print_table(columns: list[str], rows: list[list[str]], *, empty: str) -> None:
    """All rows of a table; one sentence where there are none."""
    table = Table(columns)
    if rows:
        table.print(rows)
    table.end(empty)


def print_error(message: str) -> None:
    """One line on standard error."""
    err.print(plain(f"iarproxy: {message}"), markup=False)


def drop_output() -> None:
    """Let what is still buffered for standard output go nowhere: the interpreter would try once more, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def stop(code: Exit) -> NoReturn:
    """End the command with an exit code of its own."""
    raise SystemExit(int(code))


def when(moment: datetime) -> str:
    """A moment as people read it, in UTC and to the second."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def as_bytes(count: int) -> str:
    """A number of bytes in binary units."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004  # the step between two units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
