"""The drift watch of one upstream: which of its pins are checked when, and what waits while it gives no answers.

Rule 1: a lane knows nothing of the others: an upstream that is slow, down or held holds up its own checks only.
Rule 2: every while all pins pass by, in slices, and the next ones are planned (`plan`); nothing else of them is
        kept in memory. So a new process goes on where the last one stopped.
Rule 3: several answers missing in a row are upstream's trouble: the lane rests, for as long as upstream says or a
        little longer each time. One pin that gets no answer is left aside, longer each time, and the others go on.
Rule 4: checks that are late are told: how many and how old, and why.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from iarproxy.errors import IarproxyError, Malformed, StoreUnavailable, Unavailable
from iarproxy.ledger.values import Name
from iarproxy.ledger.watching import START, Held, Place, Seen
from iarproxy.mirror.drift.plan import Pace, Plan, Tally
from iarproxy.oci import Repository, Tag, TagReference

log = structlog.get_logger("iarproxy.drift")

_LEAST = 0.001  # seconds
_SLICE = 250  # pins: some milliseconds
_AT_ONCE = 8  # checks under way; a manifest that a client waits for has as many places and more
_FAVOURITES = 2000  # tags whose use counts
_TROUBLE = 3  # failures in a row
_REST = 5.0  # seconds; twice as long each time
_LONGEST_REST = 300.0
_ASIDE = 50_000  # pins that are left aside
_LONGER = 4  # times as long each time
_SHARE = 20  # surveys in an interval
_SURVEY_EVERY = (1.0, 600.0)  # seconds, at least and at most


class Book(Protocol):
    """Where pins and their checks are written; `iarproxy.ledger` has one."""

    async def slice(
        self, environment: str, registry: str, *, after: Place, limit: int, wanted: Callable[[TagReference], bool]
    ) -> tuple[list[Seen], Place | None]:
        """The next pins of an upstream."""
        ...

    async def held(self, names: Sequence[Name]) -> list[Held]:
        """The pins of these names."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What all lanes have in common.

    Attributes:
        environments: those whose pins are watched.
        wanted: whether a tag is one that can drift.
        check: asks upstream about one pin.
        settle: has what was found until now written, before the pins pass by again.
        favourites: repository and tag of an upstream's most used tags.
        now: seconds since 1970, from a clock that may be set; `clock`: monotonic seconds.
        jitter: around 1.
        told: is told how an upstream's pins stand.
    """

    book: Book
    environments: Sequence[str]
    wanted: Callable[[TagReference], bool]
    check: Callable[[Held], Awaitable[None]]
    settle: Callable[[], Awaitable[None]]
    favourites: Callable[[str, int], Awaitable[list[tuple[str, str]]]]
    now: Callable[[], float]
    clock: Callable[[], float]
    jitter: Callable[[], float]
    told: Callable[[str, Tally], None]


@dataclass(frozen=True, slots=True)
class _Aside:
    """Until when a pin is left alone, and how long that was."""

    until: float
    seconds: float


class Lane:
    """Watches the pins of `upstream` for as long as `run` runs."""

    def __init__(self, upstream: str, pace: Pace, means: Means) -> None:
        self._upstream, self._pace, self._means = upstream, pace, means
        least, most = _SURVEY_EVERY
        self._every = min(max(least, pace.interval / _SHARE), most)
        self._next: deque[Seen] = deque()
        self._tally = Tally()
        self._surveyed = self._reported = float("-inf")
        self._last = float("-inf")  # when the last check began
        self._jitter = means.jitter()
        self._under_way: dict[Name, asyncio.Task[None]] = {}
        self._freed = asyncio.Event()  # all places were taken, and one is free again
        self._aside: OrderedDict[Name, _Aside] = OrderedDict()
        self._failures = 0
        self._resting_until = float("-inf")
        self._reason = ""

    async def run(self) -> None:
        """For ever; what is under way ends with it."""
        try:
            while True:
                pause = await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(pause, _LEAST)):
                        await self._freed.wait()
                self._freed.clear()
        finally:
            for task in list(self._under_way.values()):
                task.cancel()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _turn(self) -> float:
        """Do what is to be done now; seconds until there is something again."""
        clock = self._means.clock
        try:
            if clock() - self._surveyed >= self._every:
                await self._survey()
        except IarproxyError as error:
            log.warning("pins cannot be listed", upstream=self._upstream, reason=str(error))
            self._surveyed = clock()
        until_survey = max(0.0, self._surveyed + self._every - clock())
        if len(self._under_way) >= _AT_ONCE:
            return until_survey
        if clock() < self._resting_until or not self._next:
            return min(until_survey, max(0.0, self._resting_until - clock()) or until_survey)
        wait = self._wait(self._next[0])
        if wait > 0:
            return min(wait, until_survey)
        self._begin(self._next.popleft())
        return 0.0

    def _wait(self, seen: Seen) -> float:
        since = self._means.clock() - self._last
        age = self._means.now() - seen.at
        return self._pace.wait(self._tally.pins, since_last=since, age=age, jitter=self._jitter)

    # --- what comes next ---------------------------------------------------------------------------------------------

    async def _survey(self) -> None:
        """Let all pins pass by, and plan."""
        await self._means.settle()
        plan = Plan(self._pace.interval, self._means.now(), await self._ranks())
        for environment in self._means.environments:
            place: Place | None = START
            while place is not None:
                found, place = await self._means.book.slice(
                    environment, self._upstream, after=place, limit=_SLICE, wanted=self._means.wanted
                )
                for each in found:
                    plan.consider(each, busy=self._is_busy(each.name))
        clock = self._means.clock()
        if self._last == float("-inf"):  # no process begins with all upstreams, nor at the same moment, at once
            self._last = clock - self._pace.pause(plan.tally.pins) * min(1.0, self._means.jitter() - 0.5)
        self._next, self._tally, self._surveyed = deque(plan.picked()), plan.tally, clock
        self._tell(clock)

    def _is_busy(self, name: Name) -> bool:
        """Whether it is being checked, or left aside for now."""
        aside = self._aside.get(name)
        return name in self._under_way or (aside is not None and aside.until > self._means.clock())

    async def _ranks(self) -> dict[Name, int]:
        try:
            used = await self._means.favourites(self._upstream, _FAVOURITES)
        except IarproxyError as error:
            log.info("drift is watched in no order of use", upstream=self._upstream, reason=str(error))
            return {}
        references = [TagReference(Repository(self._upstream, name), Tag(tag)) for name, tag in used]
        return {
            Name(environment, reference): rank
            for environment in self._means.environments
            for rank, reference in enumerate(references)
        }

    def _tell(self, now: float) -> None:
        self._means.told(self._upstream, self._tally)
        if not self._tally.overdue:
            self._reported = float("-inf")
        elif now - self._reported >= self._pace.interval:
            self._reported = now
            log.warning(
                "drift checks are late",
                upstream=self._upstream,
                pins=self._tally.pins,
                overdue=self._tally.overdue,
                oldest_check_seconds=round(self._tally.oldest),
                reason=self._reason or f"at most {self._pace.rate:g} checks a second, in [drift] rate",
            )

    # --- one check ---------------------------------------------------------------------------------------------------

    def _begin(self, seen: Seen) -> None:
        self._last, self._jitter = self._means.clock(), self._means.jitter()
        task = asyncio.create_task(self._check(seen.name), name=f"check {seen.name}")
        self._under_way[seen.name] = task
        task.add_done_callback(lambda _: self._done(seen.name))

    def _done(self, name: Name) -> None:
        if len(self._under_way) >= _AT_ONCE:
            self._freed.set()
        del self._under_way[name]

    async def _check(self, name: Name) -> None:
        try:
            for held in await self._means.book.held([name]):
                await self._means.check(held)
        except (StoreUnavailable, Malformed) as error:
            self._left_aside(name, error, None)
        except Unavailable as error:
            self._left_aside(name, error, error.retry_after)
            self._fail(error)
        except IarproxyError as error:
            self._left_aside(name, error, None)
        except Exception as error:  # whatever is wrong with one pin, the others are checked
            log.exception("a check failed", reference=str(name))
            self._left_aside(name, error, None)
        else:
            self._failures, self._reason = 0, ""
            self._aside.pop(name, None)

    def _left_aside(self, name: Name, error: Exception, retry_after: float | None) -> None:
        log.info("not judged", reference=str(name), reason=str(error))
        self._reason = str(error)
        before = self._aside.pop(name, None)
        seconds = self._every if before is None else before.seconds * _LONGER
        seconds = min(max(seconds, retry_after or 0.0), self._pace.interval)
        self._aside[name] = _Aside(self._means.clock() + seconds, seconds)
        if len(self._aside) > _ASIDE:
            self._aside.popitem(last=False)

    def _fail(self, error: Unavailable) -> None:
        self._failures += 1
        if self._failures < _TROUBLE:
            return
        longest = min(_LONGEST_REST, self._pace.interval / _SHARE)
        rest = min(longest, _REST * 2 ** min(self._failures - _TROUBLE, 10))
        self._resting_until = self._means.clock() + max(rest, min(error.retry_after or 0.0, self._pace.interval))
