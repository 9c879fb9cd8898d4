"""The one ledger thread of a process: SQL never runs on the event loop.

Rule 1: the connection is opened, used and closed in the thread, after the fork; a child that inherited it is told so.
Rule 2: what waits together is served together: reads on one snapshot, writes in one transaction.
Rule 3: the queue is bounded, and whoever asks waits no longer than a deadline; work whose asker has gone is not begun.
Rule 4: everything reaches the loop in the order in which the thread saw it: first what changed, then the answers.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from iarproxy.errors import LedgerUnavailable
from iarproxy.ledger.database import Changes, Database
from iarproxy.ledger.transaction import Transaction

T = TypeVar("T")

DEADLINE = 30.0  # seconds that a caller waits: longer than another process may hold the ledger (`database.PATIENCE`)
_END = 10.0  # seconds until a closed ledger's thread has ended
POLL = 0.25  # seconds between looks at what other processes changed
_WAITING = 20_000  # pieces of work in the queue
_BATCH = 256  # pieces of work served together
_BREATH = 0.001  # seconds after a batch in which another process can take its turn


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[Any], T]
    writes: bool
    future: asyncio.Future[T]
    kept: Callable[[T], None] | None
    expires: float
    outcome: T | Exception = field(default_factory=lambda: LedgerUnavailable("the ledger was closed"))

    def settle(self) -> None:
        """Give the outcome; on the loop. What is to be kept is kept even where the asker has gone."""
        if isinstance(self.outcome, Exception):
            if not self.future.done():
                self.future.set_exception(self.outcome)
            return
        if self.kept is not None:
            self.kept(self.outcome)
        if not self.future.done():
            self.future.set_result(self.outcome)


class LedgerThread:
    """Runs pieces of work against the database that `opener` opens."""

    def __init__(self, opener: Callable[[], Database], on_change: Callable[[Changes], None]) -> None:
        self._opener = opener
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._queue: queue.Queue[_Job[Any] | None] = queue.Queue(_WAITING)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._stopping = False

    async def start(self, deadline: float = 60.0) -> None:
        """Open the database in the thread.

        Raises:
            ConfigError, LedgerUnavailable: as opening the database does.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(deadline):
                await asyncio.shield(self._opened)
        except BaseException as failure:
            self._stopping = True
            self._queue.put_nowait(None)  # should it open after all, it is closed at once
            if isinstance(failure, TimeoutError):
                raise LedgerUnavailable(f"the ledger did not open within {deadline:g} s") from None
            raise

    async def read(
        self, work: Callable[[Connection], T], *, kept: Callable[[T], None] | None = None, deadline: float = DEADLINE
    ) -> T:
        """Run `work` on a snapshot; `kept` gets its value on the loop, in order (rule 4)."""
        return await self._submit(work, writes=False, kept=kept, deadline=deadline)

    async def write(
        self, work: Callable[[Transaction], T], *, kept: Callable[[T], None] | None = None, deadline: float = DEADLINE
    ) -> T:
        """Run `work` in a transaction, with others that wait; durable when this returns."""
        return await self._submit(work, writes=True, kept=kept, deadline=deadline)

    async def close(self) -> None:
        """Serve what is in the queue, close the database, end the thread."""
        self._insist_pid()
        if not self._stopping:
            self._stopping = True
            await asyncio.to_thread(self._queue.put, None)
        await asyncio.to_thread(self._thread.join, _END)

    async def _submit(
        self, work: Callable[[Any], T], *, writes: bool, kept: Callable[[T], None] | None, deadline: float
    ) -> T:
        self._insist_pid()
        if self._stopping:
            raise LedgerUnavailable("the ledger is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(work, writes, future, kept, time.monotonic() + deadline)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise LedgerUnavailable(f"{_WAITING} callers wait for the ledger already", retry_after=1) from None
        try:
            async with asyncio.timeout(deadline):
                return await future
        except TimeoutError:
            raise LedgerUnavailable(f"the ledger did not answer within {deadline:g} s", retry_after=1) from None

    def _insist_pid(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this ledger was opened before a fork; open one in each process")

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            database = self._opener()
        except Exception as failure:  # noqa: BLE001 (whoever opens the ledger gets it)
            self._post(self._opened_as, failure)
            return
        self._post(self._opened_as, None)
        try:
            self._serve(database)
        finally:
            database.close()

    def _serve(self, database: Database) -> None:
        due = time.monotonic() + POLL
        last = False
        while not last:
            jobs, last = self._take(max(0.0, due - time.monotonic()))
            live = [job for job in jobs if not job.future.cancelled() and time.monotonic() < job.expires]
            reads, writes = [job for job in live if not job.writes], [job for job in live if job.writes]
            _fill(reads, database.read)
            _fill(writes, database.write)
            if writes or time.monotonic() >= due:
                self._look(database)
                due = time.monotonic() + POLL
            if live:
                self._post(_settle, live)
            if writes:
                time.sleep(_BREATH)

    def _take(self, patience: float) -> tuple[list[_Job[Any]], bool]:
        jobs: list[_Job[Any]] = []
        try:
            job = self._queue.get(timeout=patience) if patience else self._queue.get_nowait()
            while job is not None and len(jobs) < _BATCH:
                jobs.append(job)
                job = self._queue.get_nowait()
        except queue.Empty:
            return jobs, False
        if job is not None:
            jobs.append(job)
        return jobs, job is None

    def _look(self, database: Database) -> None:
        """Tell the loop what changed. Where the ledger cannot be read, what is in memory goes on being served (R20)."""
        try:
            changes = database.changes()
        except LedgerUnavailable:
            return
        if changes:
            self._post(self._on_change, changes)

    def _opened_as(self, failure: Exception | None) -> None:
        if self._opened.done():
            return
        if failure is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(failure)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self._stopping = True  # the loop has gone, and with it everybody who waited


def _settle(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        job.settle()


def _fill(jobs: list[_Job[Any]], serve: Callable[[list[Callable[[Any], Any]]], list[Any]]) -> None:
    if not jobs:
        return
    try:
        outcomes = serve([job.work for job in jobs])
    except Exception as failure:  # noqa: BLE001 (every asker of this batch gets it)
        outcomes = [failure] * len(jobs)
    for job, outcome in zip(jobs, outcomes, strict=True):
        job.outcome = outcome
