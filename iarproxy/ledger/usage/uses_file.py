"""The uses' own database, `uses.db` beside the ledger, and the one thread that works on it.

Rule 1: it is apart from the ledger, so that recording never waits for pins nor pins for it, that no damage to it keeps
        a pin from being served, and that no backup of pins carries addresses of clients. It may be removed at any time.
Rule 2: nothing is made, opened or started before something is recorded or asked for.
Rule 3: a file that is damaged or of a newer iarproxy is refused and left as it is; a file that was removed or replaced
        is noticed at the next call.
Rule 4: at most `rows` rows and one in a hundred more for each process; none older than `kept`. Freed bytes are zeroed.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from iarproxy.errors import IarproxyError, LedgerDamaged, LedgerUnavailable
from iarproxy.ledger import schema
from iarproxy.ledger.connection import connect, create_file, meaning_of, transaction
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.usage import uses, uses_latest, uses_ranked
from iarproxy.ledger.usage.uses_latest import LatestUses
from iarproxy.ledger.values import NotUsed, Use, UseSummary, UsesUnreadable
from iarproxy.oci import Digest, Reference, Repository

NAME = "uses.db"
KEPT = timedelta(days=90)  # addresses of clients are personal data
ROWS = 1_000_000  # about 80 MB: 1,000 clients with 300 images each
_SHOWN = 5
_STEP = 1000  # rows forgotten in one transaction
_SHARE = 100  # the rows are counted once in so many of them that were added
_PATIENCE = 5.0  # seconds to wait for other processes
_DEADLINE = 10.0  # seconds that a reader waits
_LAST = 1.0  # seconds that closing waits; the process ends in any case, and its file with it
_SETTINGS = ("synchronous=NORMAL", "secure_delete=ON", "temp_store=MEMORY")
_SIDE_FILES = ("-journal", "-wal", "-shm")

T = TypeVar("T")


class Uses:
    """What was served to whom, as one process sees it. To be made after the fork, and closed."""

    def __init__(self, path: Path, now: Callable[[], datetime], *, rows: int = ROWS, kept: timedelta = KEPT) -> None:
        self.path = path
        self._now, self._rows, self._kept = now, rows, kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="uses")
        self._connection: Connection | None = None
        self._file: os.stat_result | None = None
        self._closed = False
        self._uncounted = rows  # new rows since they were counted: at first nobody knows

    async def record(self, batch: Sequence[Use]) -> None:
        """Merge `batch` into what is kept: all of it or nothing, in one transaction.

        There is no deadline: SQLite waits at most 5 s for other processes, and who gave up would have to record again
        what may be recorded already.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: nothing was recorded.
        """
        await self._do(partial(self._record, tuple(batch)))

    async def missed(self, until: datetime) -> None:
        """Know that uses up to `until` are missing: before it nothing counts as not used.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: nobody knows.
        """
        await self._do(partial(self._missed, int(until.timestamp())))

    async def of(self, what: Reference | Digest, limit: int) -> list[Use]:
        """The newest `limit` uses of a tag, of content in a repository, or of content anywhere; newest first.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: when they cannot be read.
        """
        return await self._ask(lambda connection: uses.newest(connection, what, self._since(), limit), [])

    async def summary(self, what: Reference | Digest, shown: int = _SHOWN) -> UseSummary:
        """All such uses at once, with the `shown` newest of them. Where they cannot be read, why."""
        try:
            return await self._ask(lambda connection: uses.summary(connection, what, self._since(), shown), NotUsed())
        except IarproxyError as error:
            return UsesUnreadable(str(error))

    async def favourites(self, registry: str, limit: int) -> list[tuple[str, str]]:
        """Repository and tag of the `limit` tags of an upstream that were used the most, the first one most.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: when they cannot be read.
        """
        best: list[uses_ranked.Ranked] = []
        after: uses_ranked.Subject | None = uses_ranked.START
        while after is not None:
            look = partial(uses_ranked.page, registry=registry, after=after)
            nothing: tuple[list[uses_ranked.Ranked], uses_ranked.Subject | None] = [], None
            found, after = await self._ask(look, nothing)
            best = heapq.nlargest(limit, best + found)
        return list(dict.fromkeys((repository, tag) for _, _, repository, tag in best))

    async def manifests(self, after: Digest | None, limit: int) -> list[Digest]:
        """At most `limit` manifests that were given to anybody, in order, from behind `after` on. Fewer: that is all.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: when they cannot be read.
        """
        behind = "" if after is None else str(after)
        nothing: list[str] = []
        found = await self._ask(lambda connection: uses.manifests(connection, behind, limit), nothing)
        return [Digest.parse(each) for each in found]

    async def latest(self, repository: Repository) -> LatestUses | UsesUnreadable:
        """When what of a repository was used last, and since when that is known; or why nobody can tell."""

        def look(connection: Connection) -> LatestUses | UsesUnreadable:
            return uses_latest.within(connection, repository, self._since())

        try:
            return await self._ask(look, UsesUnreadable("no use was recorded yet"))
        except IarproxyError as error:
            return UsesUnreadable(str(error))

    async def expire(self) -> int:
        """Forget what is too old to be kept; how many rows.

        Raises:
            LedgerUnavailable, LedgerDamaged, ConfigError: when it cannot be done now.
        """
        return await self._do(self._expire)

    async def problems(self) -> list[str]:
        """What is wrong with the file or its rows."""
        try:
            return await self._do(self._problems)
        except IarproxyError as error:
            return [str(error)]

    async def close(self) -> None:
        """Finish what waits and close the file."""
        if self._closed:
            return
        self._closed = True
        self._thread.submit(self._close)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST):
                await asyncio.to_thread(self._thread.shutdown)

    async def _do(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise LedgerUnavailable(f"{self.path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _ask(self, question: Callable[[Connection], T], nothing: T) -> T:
        try:
            async with asyncio.timeout(_DEADLINE):
                return await self._do(partial(self._read, question, nothing))
        except TimeoutError:
            raise LedgerUnavailable(f"{self.path} did not answer within {_DEADLINE:g} s") from None

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _record(self, batch: Sequence[Use]) -> None:
        if not batch:
            return
        with _failures(self.path):
            connection = self._opened()
            with transaction(connection, "IMMEDIATE"):
                uses_latest.begin(connection, int(self._now().timestamp()))
                new = uses.record(connection, batch)
                uses.expire(connection, self._since(), _STEP)
                crowded = (self._uncounted + new) * _SHARE >= self._rows
                if crowded:
                    uses.trim(connection, self._rows)
        self._uncounted = 0 if crowded else self._uncounted + new

    def _missed(self, until: int) -> None:
        with _failures(self.path):
            connection = self._opened()
            with transaction(connection, "IMMEDIATE"):
                uses_latest.begin(connection, int(self._now().timestamp()))
                uses_latest.left(connection, until)

    def _read(self, question: Callable[[Connection], T], nothing: T) -> T:
        with _failures(self.path):
            if not self.path.exists():
                return nothing
            connection = self._opened()
            with transaction(connection):
                return question(connection)

    def _expire(self) -> int:
        gone = 0
        with _failures(self.path):
            while self.path.exists():
                connection = self._opened()
                with transaction(connection, "IMMEDIATE"):
                    step = uses.expire(connection, self._since(), _STEP)
                gone += step
                if step < _STEP:
                    break
        return gone

    def _problems(self) -> list[str]:
        def look(connection: Connection) -> list[str]:
            found = [str(row[0]).splitlines()[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
            said = [f"{self.path.name}: {each}; {_REMEDY}" for each in found if each != "ok"]
            bad = uses.damaged_rows(connection)
            return said + ([f"{bad} rows of {self.path.name} fail their checksum and are left out"] if bad else [])

        return self._read(look, [])

    def _since(self) -> int:
        return int((self._now() - self._kept).timestamp())

    def _opened(self) -> Connection:
        if self._connection is None or not self._is_same():
            self._close()
            if not self.path.exists():
                self._make()
            self._file = self.path.stat()
            self._connection = _connected(self.path)
        return self._connection

    def _is_same(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(self.path.stat(), self._file)
        except FileNotFoundError:
            return False

    def _make(self) -> None:
        with closing(FileLock(self.path.with_name(f"{NAME}.lock"))) as lock, lock.held(patience=_PATIENCE):
            if not self.path.exists():
                for suffix in _SIDE_FILES:  # of a file that was removed: SQLite would play them into the new one
                    self.path.with_name(NAME + suffix).unlink(missing_ok=True)
                create_file(self.path)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_REMEDY = "it only tells what was served to whom: remove it, and a new one is begun"


def _connected(path: Path) -> Connection:
    connection = connect(path)
    try:
        for pragma in _SETTINGS:
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        if connection.exec_driver_sql("PRAGMA user_version").scalar_one() != len(uses.STEPS):
            with transaction(connection, "IMMEDIATE"):
                schema.upgrade(connection, uses.STEPS)
        schema.check(connection, uses.STEPS)
        connection.exec_driver_sql(uses.STAGE)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """As `connection.failures`, with what to do about this file."""
    try:
        yield
    except LedgerDamaged as damaged:
        raise LedgerDamaged(f"{path} is not usable: {damaged}; {_REMEDY}") from damaged
    except (SQLAlchemyError, sqlite3.Error, OSError, UnicodeDecodeError) as failure:
        meaning = meaning_of(failure, path)
        if isinstance(meaning, LedgerDamaged):
            meaning = LedgerDamaged(f"{path} is damaged: {getattr(failure, 'orig', None) or failure}; {_REMEDY}")
        raise meaning from failure
