"""What an audit finds wrong: in which entries, and what."""

from __future__ import annotations

from dataclasses import dataclass

_ENOUGH = 100  # findings that are kept


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. `serial`: in which entry, None: in none; `last`: up to which, where it is in one of several."""

    serial: int | None
    text: str
    last: int | None = None

    def __str__(self) -> str:
        if self.serial is None:
            return self.text
        if self.last is None or self.last == self.serial:
            return f"entry {self.serial}: {self.text}"
        return f"entries {self.serial} to {self.last}: {self.text}"


class Findings:
    """What was found so far; the first hundred are kept."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def add(self, serial: int | None, text: str, last: int | None = None) -> None:
        """One more."""
        if len(self.found) < _ENOUGH:
            self.found.append(Finding(serial, text, last))

    def within(self, first: int, last: int) -> bool:
        """Whether something was found in an entry from `first` to `last`."""
        return any(each.serial is not None and first <= each.serial <= last for each in self.found)

    def ordered(self) -> tuple[Finding, ...]:
        """By entry; what is about none comes last."""
        return tuple(sorted(self.found, key=lambda each: (each.serial is None, each.serial or 0)))
