"""Two reasons not to ask an upstream now: it fails again and again, or it said 429. Both end with one probe.

Rule 1: no clock, no I/O, no waiting: `now` is given, in seconds of one clock, and the answer is a value.
Rule 2: who is let through says how it went, with the passage it got; what was under way before a door shut neither
        shuts it for longer nor twice.
Rule 3: a shut door opens for exactly one probe at a time. What becomes of the probe decides.
Rule 4: no answer of upstream shuts a door for longer than the bounds below, however long it asks for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

_ENOUGH = 20  # failures in a row; no connection, or no answer in time, counts as `_SILENCE` of them
_SILENCE = 4
_KNOWN = 16  # subjects that failed; when so many did, it is upstream
_BROKEN_BODIES = 5  # in a row
_FIRST_REST, _LONGEST_REST = 1.0, 30.0  # seconds, doubled with each probe that fails
_FIRST_HOLD, _LONGEST_HOLD = 1.0, 60.0  # seconds, after a 429 that names no time
_LONGEST_ASKED = 900.0  # seconds: of what a Retry-After asks for
_PROBE_WAIT = 1.0  # seconds that others wait while a probe is under way


class Passage(Enum):
    """Somebody may ask."""

    FREE = "free"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Shut:
    """Nobody may ask now; in `seconds` the next one may."""

    seconds: float


Admission: TypeAlias = Passage | Shut


class Door:
    """Shut until some moment, then open for one probe at a time, until it is opened."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._probing = False

    @property
    def until(self) -> float | None:
        """When the next probe may pass; None: everybody may."""
        return self._until

    @property
    def is_probing(self) -> bool:
        """Whether a probe is under way."""
        return self._probing

    def admit(self, now: float) -> Admission:
        """Whether somebody may pass."""
        if self._until is None:
            return Passage.FREE
        if now < self._until:
            return Shut(self._until - now)
        if self._probing:
            return Shut(_PROBE_WAIT)
        return self.probe()

    def probe(self) -> Passage:
        """Let somebody pass as the one probe."""
        self._probing = True
        return Passage.PROBE

    def shut(self, until: float) -> None:
        """Let nobody pass before `until`."""
        self._until, self._probing = until, False

    def open(self) -> None:
        """Let everybody pass."""
        self._until, self._probing = None, False

    def gave_up(self, passage: Passage) -> None:
        """Who passed learned nothing; a probe may be tried again."""
        if passage is Passage.PROBE:
            self._probing = False


class Breaker(Door):
    """Shuts after some failures in a row: soon where upstream is silent, seldom where it answers half of the time.

    Args:
        spread: how many subjects must have failed; a failure without a subject counts for all of them.
        jitter: gives a number in [0, 1).
    """

    def __init__(self, *, spread: int = 1, jitter: Callable[[], float] = random.random) -> None:
        super().__init__()
        self._spread = spread
        self._jitter = jitter
        self._failures = 0
        self._subjects: set[str] = set()
        self._broken = 0
        self._rest = _FIRST_REST
        self.since: float | None = None  # when the first of the failures in a row happened
        self.reason = ""

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to remember."""
        return self._failures == 0 and self._broken == 0 and self.until is None

    def admit(self, now: float, subject: str = "") -> Admission:
        """As `Door.admit`. Where only some subjects failed, another one is a probe before the time is over.

        Who asks for broken ones again and again must not keep the door shut for everybody.
        """
        is_early = self._spread > 1 and self.until is not None and now < self.until and not self.is_probing
        if is_early and subject and not self._subjects & {"", subject} and len(self._subjects) < _KNOWN:
            return self.probe()
        return super().admit(now)

    def succeeded(self) -> None:
        """An answer came that is no failure of upstream's."""
        self.open()
        self._failures, self._rest, self.since, self.reason = 0, _FIRST_REST, None, ""
        self._subjects.clear()

    def failed(self, now: float, passage: Passage, reason: str, *, subject: str = "", silent: bool = True) -> bool:
        """No answer came (`silent`), or one that is a failure of upstream's; True: this shut the door."""
        self._failures += _SILENCE if silent else 1
        self.since = now if self.since is None else self.since
        self.reason = reason
        if len(self._subjects) < _KNOWN or not subject:
            self._subjects.add(subject)
        if passage is Passage.PROBE:
            if self.until is not None and now < self.until:  # a newcomer's: the others wait no longer for it
                self.shut(self.until)
            else:
                self._shut_for_a_while(now)
            return False
        if self.until is not None or self._failures < _ENOUGH or not self._is_spread():
            return False
        self._shut_for_a_while(now)
        return True

    def broke(self, now: float, reason: str) -> bool:
        """A body broke off; True: it was one too many without a whole one between them."""
        self._broken += 1
        if self.until is not None or self._broken < _BROKEN_BODIES:
            return False
        self._broken, self.since, self.reason = 0, now, reason
        self._shut_for_a_while(now)
        return True

    def completed(self) -> None:
        """A body came whole."""
        self._broken = 0

    def _is_spread(self) -> bool:
        return "" in self._subjects or len(self._subjects) >= self._spread

    def _shut_for_a_while(self, now: float) -> None:
        self.shut(now + self._rest * (0.5 + self._jitter() / 2))
        self._rest = min(2 * self._rest, _LONGEST_REST)


class Hold(Door):
    """Shuts on a 429 for as long as it asks, within `_LONGEST_ASKED`; where it names no time, for longer each time."""

    def __init__(self) -> None:
        super().__init__()
        self._next = _FIRST_HOLD

    def told(self, now: float, passage: Passage, retry_after: float | None) -> None:
        """A 429 came; `retry_after`: the seconds that it asks for."""
        if retry_after is not None:
            asked = now + min(max(retry_after, _FIRST_HOLD), _LONGEST_ASKED)
            self.shut(max(asked, self.until or asked))
        elif self.until is None or passage is Passage.PROBE:
            self.shut(now + self._next)
            self._next = min(2 * self._next, _LONGEST_HOLD)

    def answered(self, passage: Passage) -> None:
        """Another answer came; one that was asked for before the door shut does not open it."""
        if passage is Passage.PROBE or self.until is None:
            self.open()
            self._next = _FIRST_HOLD

    def admit(self, now: float) -> Admission:
        """As `Door.admit`; a clock that was set back does not make the hold longer than its bound."""
        if self.until is not None and self.until - now > _LONGEST_ASKED:
            self.shut(now + _LONGEST_ASKED)
        return super().admit(now)

    def adopt(self, now: float, until: float) -> None:
        """Another worker was told to wait until then."""
        until = min(until, now + _LONGEST_ASKED)
        if until > max(now, self.until or now):
            self.shut(until)
