"""The drift watch: every pin of every environment that takes first fetches is checked within an interval, for ever.

Rule 1: in exactly one process: the elected one. Who is not asks every second whether it is by now.
Rule 2: never on the serving path; each upstream has a lane of its own (`lane`), with a pace and jitter.
Rule 3: that nothing changed is written for many pins at once, within seconds; what is news, at once (`drift`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

import structlog

from iarproxy.errors import IarproxyError
from iarproxy.ledger.watching import Finding, Held
from iarproxy.mirror.drift.lane import Book, Lane, Means
from iarproxy.mirror.drift.plan import Pace, Tally
from iarproxy.oci import TagReference

log = structlog.get_logger("iarproxy.drift")

_ELECTION_EVERY = 1.0  # seconds
_AGAIN = 60.0  # seconds after a failure that should not be
_WRITE_EVERY = 10.0  # seconds, or a hundredth of the interval
_TOGETHER = 64  # findings in one transaction: some ten milliseconds in which no pin can be made


class WritableBook(Book, Protocol):
    """Where findings are written; `iarproxy.ledger` has one."""

    async def confirm(self, findings: Sequence[Finding]) -> None:
        """Write them, all in one transaction."""
        ...


Check: TypeAlias = Callable[[Held], Awaitable[Finding | None]]


def _jitter() -> float:
    return random.uniform(0.5, 1.5)  # noqa: S311  # no secret


class DriftWatch:
    """Watches all pins.

    Args:
        book: the ledger's.
        check: asks upstream about one pin; what it finds and did not write itself is written here.
        upstreams: the names of those that are configured.
        environments: the names of those that take first fetches.
        wanted: whether a tag is one that can drift; called in the ledger's thread.
        favourites: repository and tag of an upstream's most used tags.
        told: is told how an upstream's pins stand.
    """

    def __init__(
        self,
        *,
        book: WritableBook,
        check: Check,
        upstreams: Iterable[str],
        environments: Sequence[str],
        wanted: Callable[[TagReference], bool],
        favourites: Callable[[str, int], Awaitable[list[tuple[str, str]]]],
        now: Callable[[], datetime],
        told: Callable[[str, Tally], None] = lambda _upstream, _tally: None,
        jitter: Callable[[], float] = _jitter,
    ) -> None:
        self._book = book
        self._check = check
        self._upstreams = sorted(upstreams)
        self._found: list[Finding] = []
        self._turn = asyncio.Lock()
        self._means = Means(
            book=book,
            environments=tuple(environments),
            wanted=wanted,
            check=self._checked,
            settle=self._write,
            favourites=favourites,
            now=lambda: now().timestamp(),
            clock=lambda: asyncio.get_running_loop().time(),
            jitter=jitter,
            told=told,
        )

    async def patrol(self, interval: timedelta, elected: Callable[[], bool], rate: float = 10.0) -> None:
        """Check every pin within `interval`, for ever, once this process is `elected`; at most `rate` a second of each
        upstream.
        """
        while not elected():  # noqa: ASYNC110  # another process cannot set an event of ours
            await asyncio.sleep(_ELECTION_EVERY)
        log.info("watches drift", upstreams=len(self._upstreams), interval_seconds=round(interval.total_seconds()))
        pace = Pace(interval.total_seconds(), rate)
        while True:
            try:
                await self._watch(pace)
            except* Exception:  # nobody else would watch
                log.exception("the drift watch failed")
            await asyncio.sleep(_AGAIN)

    async def _watch(self, pace: Pace) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                every = min(_WRITE_EVERY, pace.interval / 100)
                group.create_task(self._write_for_ever(every), name="drift findings")
                for upstream in self._upstreams:
                    group.create_task(Lane(upstream, pace, self._means).run(), name=f"drift of {upstream}")
        finally:
            with suppress(IarproxyError):
                await self._write()

    async def _checked(self, held: Held) -> None:
        found = await self._check(held)
        if found is not None:
            self._found.append(found)
            if len(self._found) >= _TOGETHER:
                await self._write()

    async def _write_for_ever(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await self._write()
            except IarproxyError as error:
                log.warning("checks are not recorded", reason=str(error))

    async def _write(self) -> None:
        """Write what was found until now. What cannot be written is checked again."""
        async with self._turn:
            while self._found:
                batch, self._found = self._found[:_TOGETHER], self._found[_TOGETHER:]
                await self._book.confirm(batch)
