"""What one process of a `serve` does beside answering: watch drift, keep index.json, sweep what dead leaders left,
count the store where its counter was lost, forget old uses.

Rule 1: every worker runs the chores, but only the one that is elected does them; when it dies another one is.
Rule 2: a chore that fails is logged and tried again at its next turn; it never ends the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from iarproxy.errors import IarproxyError
from iarproxy.ledger import Ledger
from iarproxy.mirror.drift.watch import DriftWatch
from iarproxy.store import Store

log = structlog.get_logger("iarproxy.chores")

_INDEX_EVERY = 5.0  # seconds
_INDEX_SHARE = 20  # it may take a twentieth of the time: listing many pins costs the ledger thread seconds
_SWEEP_EVERY = 600.0  # seconds
_COUNT_EVERY = 5.0  # seconds; it costs one look at the counter where that is exact
_FORGET_EVERY = 3600.0  # seconds
_INDEX_AT_MOST = 10_000  # pins; beyond it index.json is left to exports


class Chores:
    """The background work of one worker."""

    def __init__(self, store: Store, ledger: Ledger, drift: DriftWatch, elected: Callable[[], bool]) -> None:
        self._store = store
        self._ledger = ledger
        self._drift = drift
        self._elected = elected
        self._indexed = -1
        self._index_not_before = 0.0
        self._more: list[tuple[Callable[[], Awaitable[object]], float]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, drift_interval: timedelta, drift_rate: float = 10.0) -> None:
        """Start them; an interval of zero leaves the drift watch off. `drift_rate`: see `DriftWatch.patrol`."""
        work = [self._for_ever(self._index, _INDEX_EVERY), self._for_ever(self._sweep, _SWEEP_EVERY)]
        work.append(self._for_ever(self._count, _COUNT_EVERY))
        work.append(self._for_ever(self._forget, _FORGET_EVERY))
        work += [self._for_ever(chore, every) for chore, every in self._more]
        if drift_interval:
            work.append(self._drift.patrol(drift_interval, self._elected, drift_rate))
        self._tasks = [asyncio.create_task(each, name=f"chore {number}") for number, each in enumerate(work)]

    def add(self, chore: Callable[[], Awaitable[object]], every: timedelta) -> None:
        """One more chore, so often; zero: never. To be called before `start`."""
        if every:
            self._more.append((chore, every.total_seconds()))

    async def close(self) -> None:
        """Stop them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _for_ever(self, chore: Callable[[], Awaitable[object]], every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                if self._elected():
                    await chore()
            except IarproxyError as error:
                log.warning("chore failed", chore=chore.__name__.strip("_"), reason=str(error))

    async def _sweep(self) -> None:
        removed = await self._store.sweep()
        if removed:
            log.info("swept", ingests=removed)

    async def _count(self) -> None:
        await self._store.recount()

    async def _forget(self) -> None:
        forgotten = await self._ledger.uses.expire()
        if forgotten:
            log.info("forgot old uses", rows=forgotten)

    async def _index(self) -> None:
        """Name the pinned manifests in index.json, so that any OCI tool can read the store as a layout."""
        loop = asyncio.get_running_loop()
        serial = await self._ledger.serial()
        if serial == self._indexed or loop.time() < self._index_not_before:
            return
        started = loop.time()
        named = [(str(pin.reference), pin.descriptor) async for pin in self._ledger.every_pin(_INDEX_AT_MOST)]
        await asyncio.to_thread(self._store.write_index, named)
        self._indexed = serial
        self._index_not_before = loop.time() + _INDEX_SHARE * (loop.time() - started)
