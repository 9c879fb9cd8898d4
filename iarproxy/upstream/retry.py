"""When a failed request is tried again: idempotent ones only, seldom, and never longer than somebody waits.

Rule 1: only `Unavailable` is tried again, and of it neither `UpstreamWrong` (a lie is not repeated until believed) nor
        a 429 that names no time.
Rule 2: waits grow and are spread, so that many callers do not come back together; `Retry-After` is obeyed where it
        fits into the budget, and handed to the caller where it does not (threats R42, R43).
Rule 3: the budget bounds everything, the tries themselves included.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from iarproxy.errors import Unavailable, UpstreamBusy, UpstreamTimeout, UpstreamWrong

T = TypeVar("T")

_FIRST_WAIT = 0.25  # seconds; doubled each time, then multiplied by 0.5 to 1.5
_MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long.

    Attributes:
        tries: requests at most.
        budget: seconds for all of it.
        sleep, jitter: injectable; `jitter` gives a number in [0, 1).
    """

    tries: int = 3
    budget: float = 25.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def run(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, tried again as the rules say.

        Raises:
            UpstreamTimeout: the budget is used up. Else what the last try raised.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.budget
        try:
            async with asyncio.timeout_at(deadline):
                for number in range(self.tries - 1):
                    try:
                        return await attempt()
                    except Unavailable as error:
                        wait = self._wait(number, error, deadline - loop.time())
                        if wait is None:
                            raise
                    await self.sleep(wait)
                return await attempt()
        except TimeoutError:
            raise UpstreamTimeout(f"{what} was not answered within {self.budget:g} s") from None

    def _wait(self, number: int, error: Unavailable, left: float) -> float | None:
        """Seconds until the next try; None: there is none."""
        if isinstance(error, UpstreamWrong) or (isinstance(error, UpstreamBusy) and error.retry_after is None):
            return None
        spread = _FIRST_WAIT * 2.0**number * (0.5 + self.jitter())
        wait = max(spread, error.retry_after or 0.0)
        return wait if wait < left else None


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or a date), at most an hour; None: nothing usable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(0.0, (at - now).total_seconds()), _MAX_RETRY_AFTER)
