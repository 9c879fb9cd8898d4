"""When a failed request is tried again: idempotent ones only, seldom, and never longer than somebody waits.

Rule 1: only `Unavailable` is tried again, and of it neither `UpstreamWrong` (a lie is not repeated until believed) nor
        a 429 that names no time.
Rule 2: waits grow and are spread, so that many callers do not come back together; a `Retry-After` of a few seconds is
        waited for, a longer one is handed to the caller at once (threats R42, R43).
Rule 3: the budget bounds everything, the tries themselves included.
Rule 4: of all requests of an upstream only a small part may be further tries (`Allowance`): while it fails half of the
        time, trying on would be most of its load (R43).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from iarproxy.errors import Unavailable, UpstreamBusy, UpstreamDown, UpstreamHeld, UpstreamTimeout, UpstreamWrong

T = TypeVar("T")

_FIRST_WAIT = 0.25  # seconds; doubled each time, then multiplied by 0.5 to 1.5
_MAX_RETRY_AFTER = 3600.0
_WAITED_FOR = 5.0  # seconds: of a Retry-After. Clients know better what to do with longer ones
_DEPOSIT = 0.1  # further tries that each first try earns
_EARNED_AT_MOST = 20.0
_RESERVE = 10.0  # further tries that nothing was earned for: a lone pull gets its few
_REFILL = 0.1  # of the reserve, a second
_NOT_ASKED = (UpstreamHeld, UpstreamDown)  # upstream was not asked, and would not be the next time


@dataclass(slots=True)
class Allowance:
    """How many further tries an upstream may still get. `now` is monotonic, in seconds."""

    earned: float = 0.0
    reserve: float = _RESERVE
    at: float = 0.0

    def deposit(self) -> None:
        """Somebody asks for the first time."""
        self.earned = min(self.earned + _DEPOSIT, _EARNED_AT_MOST)

    def withdraw(self, now: float) -> bool:
        """Whether another try may be made; it is taken off."""
        self.reserve = min(self.reserve + _REFILL * max(0.0, now - self.at), _RESERVE)
        self.at = now
        if self.earned >= 1:
            self.earned -= 1
        elif self.reserve >= 1:
            self.reserve -= 1
        else:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long.

    Attributes:
        tries: requests at most.
        budget: seconds for all of it.
        allowance: of the upstream, shared by all that is asked of it; None: without bound.
        sleep, jitter: injectable; `jitter` gives a number in [0, 1).
    """

    tries: int = 3
    budget: float = 25.0
    allowance: Allowance | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def run(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, tried again as the rules say.

        Raises:
            UpstreamTimeout: the budget is used up. Else what the last try raised.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.budget
        if self.allowance is not None:
            self.allowance.deposit()
        try:
            async with asyncio.timeout_at(deadline):
                for number in range(self.tries - 1):
                    try:
                        return await attempt()
                    except Unavailable as error:
                        wait = self._wait(number, error, loop.time(), deadline)
                        if wait is None:
                            raise
                    await self.sleep(wait)
                return await attempt()
        except TimeoutError:
            raise UpstreamTimeout(f"{what} was not answered within {self.budget:g} s") from None

    def _wait(self, number: int, error: Unavailable, now: float, deadline: float) -> float | None:
        """Seconds until the next try; None: there is none."""
        if isinstance(error, (UpstreamWrong, *_NOT_ASKED)):
            return None
        if isinstance(error, UpstreamBusy) and error.retry_after is None:
            return None
        if error.retry_after is not None and error.retry_after > _WAITED_FOR:
            return None
        spread = _FIRST_WAIT * 2.0**number * (0.5 + self.jitter())
        # Later than was asked for, and not all at the same moment: who comes too early is told to wait again.
        wait = max(spread, error.retry_after + _FIRST_WAIT * (0.1 + self.jitter())) if error.retry_after else spread
        if wait >= deadline - now or not (self.allowance is None or self.allowance.withdraw(now)):
            return None
        return wait


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or a date), at most an hour; None: nothing usable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or an offset of twenty digits
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(0.0, (at - now).total_seconds()), _MAX_RETRY_AFTER)
