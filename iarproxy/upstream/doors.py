"""The doors that a request to one endpoint passes: holds for all of it, breakers for all of it and for a repository.

Rule 1: no I/O and no waiting here; both clocks are given.
Rule 2: a request passes all doors that concern it or none, and settles all its passages, whatever becomes of it.
Rule 3: a 429, or a 503 that names a time, holds all requests until then. One that tells of a used-up quota holds all
        but blobs, which no quota counts: pulls whose manifests are here go on (clients.md 11.3).
Rule 4: failures of one repository shut that repository; failures of several, or no connection, shut the endpoint. While
        only few failed, one that did not is let through, one at a time; if it is answered, all are.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from iarproxy.upstream.asked import Kind
from iarproxy.upstream.breaker import Breaker, Door, Hold, Passage, Shut

_REPOSITORIES = 256  # that fail at the same time
_SERVER_ERROR, _TOO_MANY, _UNAVAILABLE = 500, 429, 503


@dataclass(frozen=True, slots=True)
class Pass:
    """One request that was let through, with its passages through the doors that it met."""

    kind: Kind
    repository: str
    doors: tuple[tuple[Door, Passage], ...]

    def through(self, door: Door) -> Passage:
        """Its passage through one door."""
        return next((passage for each, passage in self.doors if each is door), Passage.FREE)

    def give_up(self) -> None:
        """Nothing was learned."""
        for door, passage in self.doors:
            door.gave_up(passage)


@dataclass(frozen=True, slots=True)
class Held:
    """Upstream said that it is asked too much."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Down:
    """It fails: `since` on the monotonic clock; `where`: the repository, or empty for all of it."""

    seconds: float
    since: float | None
    reason: str
    where: str


class Doors:
    """The doors of one endpoint. `today`: seconds since 1970, for holds; `clock`: monotonic seconds, for failures."""

    def __init__(
        self, today: Callable[[], float], clock: Callable[[], float], jitter: Callable[[], float] = random.random
    ) -> None:
        self._today = today
        self._clock = clock
        self._jitter = jitter
        self.hold, self.quota_hold = Hold(), Hold()
        self.whole = Breaker(spread=2, jitter=jitter)
        self._parts: OrderedDict[str, Breaker] = OrderedDict()

    def admit(self, kind: Kind, repository: str) -> Pass | Held | Down:
        """Pass through all doors, or through none."""
        passed: list[tuple[Door, Passage]] = []
        for door in self._met(kind, repository):
            admitted = door.admit(self._clock(), repository) if isinstance(door, Breaker) else door.admit(self._today())
            if not isinstance(admitted, Shut):
                passed.append((door, admitted))
                continue
            Pass(kind, repository, tuple(passed)).give_up()
            if not isinstance(door, Breaker):
                return Held(admitted.seconds)
            return Down(admitted.seconds, door.since, door.reason, "" if door is self.whole else repository)
        return Pass(kind, repository, tuple(passed))

    def _met(self, kind: Kind, repository: str) -> list[Door]:
        doors: list[Door] = [self.hold] if kind is Kind.BLOB else [self.hold, self.quota_hold]
        part = self._parts.get(repository)
        return [*doors, self.whole] if part is None else [*doors, self.whole, part]

    def answered(self, passed: Pass, status: int, retry_after: float | None, *, used_up: bool) -> bool:
        """An answer came; True: it holds what is asked from now on. `used_up`: it tells that a quota is."""
        shutting: Hold | None = None
        if status == _TOO_MANY or (status == _UNAVAILABLE and retry_after is not None):
            shutting = self.quota_hold if used_up and passed.kind is not Kind.BLOB else self.hold
        for hold in (self.hold, self.quota_hold):
            if hold is shutting:
                hold.told(self._today(), passed.through(hold), retry_after)
            else:
                hold.answered(passed.through(hold))
        if status >= _SERVER_ERROR:
            self.failed(passed, f"it answers {status}", everywhere=False, silent=False)
        else:
            self._succeeded(passed.repository)
        return shutting is not None

    def failed(self, passed: Pass, reason: str, *, everywhere: bool, silent: bool) -> None:
        """No answer came (`silent`), or one that is a failure; `everywhere`: there was not even a connection."""
        now = self._clock()
        passed.give_up()  # of the doors that are not shut by this
        subject = "" if everywhere else passed.repository
        self.whole.failed(now, passed.through(self.whole), reason, subject=subject, silent=silent)
        if subject:
            part = self._part(subject)
            part.failed(now, passed.through(part), reason, silent=silent)

    def broke(self, repository: str, reason: str) -> None:
        """A body broke off."""
        if repository:
            self._part(repository).broke(self._clock(), reason)

    def completed(self, repository: str) -> None:
        """A body came whole."""
        if (part := self._parts.get(repository)) is not None:
            part.completed()
            self._tidy(repository)

    def _succeeded(self, repository: str) -> None:
        self.whole.succeeded()
        if (part := self._parts.get(repository)) is not None:
            part.succeeded()
            self._tidy(repository)

    def _part(self, repository: str) -> Breaker:
        part = self._parts.setdefault(repository, Breaker(jitter=self._jitter))
        self._parts.move_to_end(repository)
        while len(self._parts) > _REPOSITORIES:
            self._parts.popitem(last=False)
        return part

    def _tidy(self, repository: str) -> None:
        if self._parts[repository].is_quiet:
            del self._parts[repository]
