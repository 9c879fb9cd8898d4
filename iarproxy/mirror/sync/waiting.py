"""Waiting for upstreams that cannot be asked now, for work that nobody waits for at a screen.

Rule 1: a limit (429, Retry-After, a quota whose last part is kept for clients) is waited for if it ends before the
        deadline; otherwise nobody sleeps in vain: it is told at once.
Rule 2: an upstream that fails and will be asked again soon is waited for shortly. Once it has failed for that long it
        is not waited for until it answers: a set of a thousand names must not wait a thousand times for a registry that
        is gone.
Rule 3: a wait is told once for an upstream, however many names wait for it, and where it is long enough to be noticed.
Rule 4: other failures were tried again where they arose (`upstream.retry`); they are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from iarproxy.errors import UpstreamBusy, UpstreamUnavailable, UpstreamWrong

T = TypeVar("T")

_DOWN_FOR = 30.0  # seconds
_AT_LEAST = 1.0
_UNTOLD = 5.0  # between tries where nobody said when
_NOTICED = 3.0


class Waiting:
    """The patience of one sync.

    Args:
        deadline: seconds from now, for limits.
        told: is called with upstream, seconds and reason before each wait.
        clock, sleep: monotonic seconds; injectable.
    """

    def __init__(
        self,
        deadline: float,
        told: Callable[[str, float, str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._until = clock() + deadline
        self._patience = min(deadline, _DOWN_FOR)
        self._told = told
        self._clock = clock
        self._sleep = sleep
        self._silent: dict[str, float] = {}  # upstreams that are down, and since when
        self._told_until: dict[str, float] = {}

    async def run(self, upstream: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, done again after each wait.

        Raises:
            Refused, Unavailable: what `work` raised last.
        """
        started = self._clock()
        while True:
            try:
                result = await work()
            except UpstreamUnavailable as error:
                await self._wait(upstream, error, started)
            else:
                self._silent.pop(upstream, None)
                return result

    async def _wait(self, upstream: str, error: UpstreamUnavailable, started: float) -> None:
        now, limited = self._clock(), isinstance(error, UpstreamBusy)
        if isinstance(error, UpstreamWrong) or (error.retry_after is None and not limited):
            raise error
        seconds = max(_AT_LEAST, _UNTOLD if error.retry_after is None else error.retry_after)
        until = self._until
        if not limited:
            until = min(until, self._silent.setdefault(upstream, now) + self._patience, started + self._patience)
        if now + seconds > until:
            raise error
        self._tell(upstream, seconds, str(error))
        await self._sleep(seconds)

    def _tell(self, upstream: str, seconds: float, why: str) -> None:
        now = self._clock()
        if seconds >= _NOTICED and now >= self._told_until.get(upstream, now):
            self._told_until[upstream] = now + seconds
            self._told(upstream, seconds, why)
