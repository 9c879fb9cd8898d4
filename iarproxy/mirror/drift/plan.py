"""Which pins the drift watch checks next, and how soon: decided from values, without waiting for anything.

Rule 1: pins are taken in the order of their last checks; of those that are due, the most used come first.
Rule 2: the pace is what brings every pin round in `_CADENCE` of the interval; who is behind may be three times as fast,
        and nobody faster than `rate`. A pin that was checked less than half an interval ago is left alone.
Rule 3: times of day come from a clock that may be set: a check that lies in the future is none, and however far a clock
        jumps, the pace stays within rule 2.
Rule 4: a plan is bounded; what does not fit in is in the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from iarproxy.ledger.values import Name
from iarproxy.ledger.watching import Seen

PLANNED = 20_000  # pins of one upstream: some megabytes
_CADENCE = 0.8  # of the interval
_RESTING = 0.5
_DUE = 0.75  # when use counts
_HASTE = 3.0
_SKEW = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Tally:
    """How an upstream's pins stand: how many, how many were not checked within the interval, the oldest check.

    `oldest` is in seconds. The time of a pin that was never checked is the time when it was pinned.
    """

    pins: int = 0
    overdue: int = 0
    oldest: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an upstream's pins are checked. `interval` in seconds; `rate`: the most checks a second."""

    interval: float
    rate: float

    def pause(self, pins: int) -> float:
        """Seconds between two checks of so many pins."""
        return max(1 / self.rate, _CADENCE * self.interval / max(pins, 1))

    def wait(self, pins: int, *, since_last: float, age: float, jitter: float) -> float:
        """Seconds until the next check.

        Args:
            pins: how many there are.
            since_last: seconds since the last one.
            age: of what is known of the pin, in seconds.
            jitter: by which pauses differ.
        """
        pause = self.pause(pins)
        slot = pause * jitter - since_last
        due = _CADENCE * self.interval - age if age >= -_SKEW else 0.0
        earliest = max(1 / self.rate, pause / _HASTE) * jitter - since_last
        return max(earliest, min(slot, due), 0.0)


class Plan:
    """The pins of one upstream that come next, picked while all of them pass by."""

    def __init__(self, interval: float, now: float, ranks: Mapping[Name, int], size: int = PLANNED) -> None:
        self._interval, self._now, self._ranks, self._size = interval, now, ranks, size
        self._picked: list[tuple[float, float, int, Seen]] = []  # the greatest leaves first, so all are negated
        self._pins = self._overdue = 0
        self._oldest = 0.0

    def consider(self, seen: Seen, *, busy: bool = False) -> None:
        """Count a pin, and pick it if it is among the next; not while it is `busy`."""
        age = self._now - seen.at
        self._pins += 1
        self._overdue += age > self._interval
        self._oldest = max(self._oldest, age)
        urgency = None if busy else self._urgency(seen, age)
        if urgency is None:
            return
        entry = (-urgency[0], -urgency[1], -self._pins, seen)
        if len(self._picked) < self._size:
            heapq.heappush(self._picked, entry)
        else:
            heapq.heappushpop(self._picked, entry)

    def picked(self) -> list[Seen]:
        """Those that come next, the first one first."""
        return [entry[-1] for entry in sorted(self._picked, reverse=True)]

    @property
    def tally(self) -> Tally:
        """How they all stand."""
        return Tally(self._pins, self._overdue, self._oldest)

    def _urgency(self, seen: Seen, age: float) -> tuple[float, float] | None:
        """The smallest comes first; None: it was checked not long ago."""
        if age < -_SKEW:
            return 1.0, 0.0
        if seen.checked and age < _RESTING * self._interval:
            return None
        rank = self._ranks.get(seen.name)
        if rank is not None and age >= _DUE * self._interval:
            return 0.0, float(rank)
        return 1.0, seen.at
