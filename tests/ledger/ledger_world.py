"""What the ledger's tests are made of: names, contents, an opened ledger, raw access to its database."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from iarproxy.ledger import DEFAULT, Change, EventKind, Ledger, Name, Pin, Unpinned
from iarproxy.ledger.database import Database
from iarproxy.ledger.journal_file import DISK, Disk
from iarproxy.ledger.opening import open_database
from iarproxy.ledger.pins import change
from iarproxy.ledger.transaction import Transaction
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX

STORE = "0d4a6a3e-store"
SOURCE = "http://127.0.0.1/"
APP = Repository("registry.example.com", "team/app")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def later(self, **how_much: float) -> datetime:
        """Move on, and the time then."""
        self.at += timedelta(**how_much)
        return self.at


def tag(name: str, repository: Repository = APP) -> TagReference:
    return TagReference(repository, Tag(name))


def pin_name(text: str, environment: str = DEFAULT) -> Name:
    """That tag in an environment."""
    return Name(environment, tag(text))


def repinning(text: str, old: Descriptor, new: Descriptor) -> Callable[[Transaction], list[Pin | Unpinned]]:
    """The work of a repin."""
    wanted = [Change(DEFAULT, tag(text), old.digest, new, SOURCE)]
    return partial(change, kind=EventKind.REPINNED, changes=wanted, reason="r", actor="ann")


def content(text: str) -> Descriptor:
    return Descriptor(OCI_INDEX, Digest.of(text.encode()), len(text))


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def opened(
    path: Path,
    *,
    store: str = STORE,
    empty: bool = True,
    now: Callable[[], datetime] = utc_now,
    create: bool = True,
    remembered: int = 100_000,
) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(
        path, store_identity=store, store_is_empty=empty, now=now, create=create, remembered=remembered
    )
    try:
        yield ledger
    finally:
        await ledger.close()


def database(
    path: Path,
    *,
    empty: bool = True,
    now: Callable[[], datetime] = utc_now,
    wal: bool | None = None,
    disk: Disk = DISK,
) -> Database:
    """The same without thread and loop."""
    return open_database(path, store_identity=STORE, store_is_empty=empty, now=now, wal=wal, disk=disk)


def sql(path: Path, statement: str, *values: Any) -> list[Any]:
    """What somebody with the sqlite3 program would do."""
    with closing(sqlite3.connect(path)) as raw, raw:
        return raw.execute(statement, values).fetchall()


def dump(path: Path, table: str) -> list[Any]:
    return sql(path, f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4")


def copy_ledger(path: Path, target: Path) -> Path:
    """`cp` of a closed ledger with its journal file."""
    target.mkdir()
    for each in path.parent.glob("*"):
        if each.is_file() and not each.name.endswith(".lock"):
            shutil.copy(each, target / each.name)
    return target / path.name


async def fill(ledger: Ledger, count: int) -> dict[TagReference, Digest]:
    """`count` pins, every third of them repinned, every fifth drifted; the digest that each has now."""
    for number in range(count):
        await ledger.add(tag(f"v{number}"), content(f"first {number}"), SOURCE)
    for number in range(0, count, 3):
        old, new = content(f"first {number}"), content(f"second {number}")
        await ledger.repin(tag(f"v{number}"), old.digest, new, reason="a fix", actor="ann", source=SOURCE)
    return {pin.reference: pin.descriptor.digest for pin in await ledger.pins(limit=10_000)}
