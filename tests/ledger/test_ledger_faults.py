"""Disks that fail, processes that do not let go, and the other journal mode (threats R15, R18, R30)."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import LedgerDamaged, LedgerUnavailable
from iarproxy.ledger import Pin
from iarproxy.ledger.admission import admit
from iarproxy.ledger.connection import meaning_of
from iarproxy.ledger.database import Database
from iarproxy.ledger.journal_file import Disk
from iarproxy.ledger.lock import FileLock
from iarproxy.ledger.pins import standing
from iarproxy.ledger.thread import LedgerThread
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import Unpinned
from ledger_world import SOURCE, content, database, opened, pin_name, repinning, tag


class FailingDisk:
    """A disk that takes `room` bytes of a write and fails, or fails to sync, while it is told to."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.syncs = True

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.room is None:
            return os.write(descriptor, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written

    def sync(self, descriptor: int) -> None:
        if not self.syncs:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(descriptor)


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def held(path: Path, disk: FailingDisk) -> Iterator[Database]:
    with closing(database(path, disk=Disk(disk.write, disk.sync))) as made:
        yield made


def _added(held: Database, name: str, text: str = "x") -> Any:
    return held.write([partial(admit, name=pin_name(name), descriptor=content(text), source=SOURCE)])[0]


def _lines(path: Path) -> int:
    return len((path.parent / "journal.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("room", [0, 10, 200])
async def test_no_room_for_the_journal_line(path: Path, held: Database, disk: FailingDisk, room: int) -> None:
    """A pin whose line cannot be written is not acknowledged; with room again the file is put right by itself."""
    _added(held, "a")
    disk.room = room
    with pytest.raises(LedgerUnavailable, match="No space left"):
        _added(held, "b", "first")
    disk.room = None
    assert _added(held, "b", "second").descriptor == content("first")
    _added(held, "c")
    assert _lines(path) == 4
    async with opened(path, empty=False) as ledger:
        assert (await ledger.verify()).problems == ()


async def test_a_sync_that_fails_is_not_believed_later(path: Path, held: Database, disk: FailingDisk) -> None:
    """After a failed sync the line is cut off and written again, whatever the page cache shows."""
    _added(held, "a")
    good = (path.parent / "journal.jsonl").stat().st_size
    disk.syncs = False
    with pytest.raises(LedgerUnavailable, match="Input/output error"):
        _added(held, "b")
    written: list[int] = []

    def write(descriptor: int, data: bytes | memoryview) -> int:
        written.append(os.fstat(descriptor).st_size)
        return os.write(descriptor, data)

    disk.syncs = True
    held._outside._disk = Disk(write, disk.sync)
    _added(held, "c")
    assert written[0] == good
    assert _lines(path) == 4
    async with opened(path, empty=False) as ledger:
        assert (await ledger.verify()).problems == ()


async def test_a_full_disk_that_ends_the_transaction(held: Database) -> None:
    """SQLite rolls back all of a batch then: everybody in it is told why, and nothing of it is written."""

    def fail(tx: Transaction) -> object:
        tx.connection.exec_driver_sql("ROLLBACK")
        failure = sqlite3.OperationalError("database or disk is full")
        failure.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise failure

    names = [pin_name("first"), pin_name("later")]
    first, later = (partial(admit, name=name, descriptor=content("x"), source=SOURCE) for name in names)
    works: list[Callable[[Transaction], object]] = [first, fail, later]
    with pytest.raises(LedgerUnavailable, match="cannot be used now: database or disk is full") as told:
        held.write(works)
    assert not isinstance(told.value, LedgerDamaged)
    found = held.read([partial(standing, name=name) for name in names])
    assert [True, True] == [isinstance(each, Unpinned) for each in found]
    assert "a" == _added(held, "a").reference.tag.value


def test_a_lock_that_nobody_lets_go(tmp_path: Path) -> None:
    """The wait for other processes has an end."""
    with closing(FileLock(tmp_path / "x.lock")) as first, closing(FileLock(tmp_path / "x.lock")) as second:
        with first.held(patience=1), pytest.raises(LedgerUnavailable, match="held"), second.held(patience=0.05):
            pass
        with first.held(shared=True, patience=1), second.held(shared=True, patience=0.05):
            pass


async def test_a_caller_waits_no_longer_than_its_deadline(path: Path) -> None:
    """Work that hangs is given up by its caller, and work that was not begun in time is not begun."""
    begun: list[str] = []
    thread = LedgerThread(partial(database, path), lambda _: None)
    await thread.start()
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        hanging = asyncio.create_task(
            thread.read(lambda _: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(5), deadline=0.2)
        )
        await asyncio.sleep(0.05)
        with pytest.raises(LedgerUnavailable, match="did not answer"):
            await thread.write(lambda _: begun.append("late"), deadline=0.05)
        with pytest.raises(LedgerUnavailable, match="did not answer"):
            await hanging
    finally:
        release.set()
        await thread.close()
    assert begun == []


async def test_a_failure_of_one_is_its_own(path: Path) -> None:
    """A mistake in one piece of work reaches its caller as it is, and nobody else."""
    thread = LedgerThread(partial(database, path), lambda _: None)
    await thread.start()
    try:
        wrong, right = await asyncio.gather(
            thread.write(lambda _: int("no number")),
            thread.write(partial(admit, name=pin_name("a"), descriptor=content("a"), source=SOURCE)),
            return_exceptions=True,
        )
    finally:
        await thread.close()
    assert isinstance(wrong, ValueError)
    assert isinstance(right, Pin)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, LedgerUnavailable),
        (sqlite3.SQLITE_IOERR_READ, LedgerUnavailable),
        (sqlite3.SQLITE_FULL, LedgerUnavailable),
        (sqlite3.SQLITE_READONLY, LedgerUnavailable),
        (sqlite3.SQLITE_CORRUPT, LedgerDamaged),
        (sqlite3.SQLITE_NOTADB, LedgerDamaged),
        (sqlite3.SQLITE_CONSTRAINT_TRIGGER, LedgerDamaged),
    ],
)
def test_what_sqlite_says(path: Path, code: int, kind: type[Exception]) -> None:
    """Not able now is told from not what we wrote; neither is "no such row"."""
    failure = sqlite3.OperationalError("x")
    failure.sqlite_errorcode = code
    assert type(meaning_of(failure, path)) is kind


async def test_a_database_that_somebody_else_writes(path: Path) -> None:
    """Reads go on beside a foreign writer, and writes wait for it."""
    async with opened(path) as ledger:
        await ledger.add(tag("a"), content("a"), SOURCE)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await ledger.pin_of(tag("a")) is not None
            writing = asyncio.create_task(ledger.add(tag("b"), content("b"), SOURCE))
            await asyncio.sleep(0.1)
            assert not writing.done()
            other.execute("ROLLBACK")
        assert (await writing).revision == 1


def test_the_write_ahead_log(path: Path) -> None:
    """Where SQLite is new enough the log is used; everything else is the same."""
    with closing(database(path, wal=True)) as first, closing(database(path, empty=False, wal=True)) as second:
        assert path.with_name("ledger.db-wal").exists()
        assert _added(first, "a", "one") == _added(second, "a", "two")
        change = repinning("a", content("one"), content("two"))
        [made] = second.write([change])
        assert isinstance(made, list)
        assert isinstance(made[0], Pin)
        assert first.changes().names == (pin_name("a"),)
        assert first.changes().names == ()
        assert first.read([partial(standing, name=pin_name("z"))]) == [Unpinned(tag("z"))]
        with pytest.raises(LedgerUnavailable, match="locked"):
            database(path, empty=False, wal=False)
    with closing(database(path, empty=False, wal=False)) as back:
        pin = back.read([partial(standing, name=pin_name("a"))])[0]
        assert isinstance(pin, Pin)
        assert pin.descriptor == content("two")


def test_a_whole_history_at_one_look(path: Path) -> None:
    """More changes than are read at one look are read at the next."""
    with closing(database(path)) as first, closing(database(path, empty=False)) as second:
        names = [f"t{number}" for number in range(2001)]
        second.write([partial(admit, name=pin_name(name), descriptor=content("x"), source=SOURCE) for name in names])
        for name in ("t0", "t2000"):
            change = repinning(name, content("x"), content("y"))
            second.write([change])
        assert first.changes().names == ()
        assert first.changes().names == (pin_name("t0"), pin_name("t2000"))
