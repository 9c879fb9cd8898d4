"""A world for the store: sources of bytes with fault knobs, disks that fail, stores in a temporary folder."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iarproxy.errors import IarproxyError, UpstreamUnavailable
from iarproxy.oci import Digest
from iarproxy.store import Following, OsDisk, Patience, Store

MIB = 1024 * 1024
QUICK = Patience(tick=0.02, watchdog=2.0, stall=5.0, pause=0.001)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Reproducible bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


@dataclass
class OneTransfer:
    """What a `Source` answers once."""

    size: int | None
    offset: int
    source: Source
    stop: int

    async def chunks(self) -> AsyncIterator[bytes]:
        position = self.offset
        while position < self.stop:
            if position >= self.source.hold:
                await self.source.gate.wait()
            await asyncio.sleep(self.source.pause)
            chunk = self.source.data[position : min(self.stop, position + self.source.chunk)]
            position += len(chunk)
            self.source.sent += len(chunk)
            yield chunk
        if self.stop < len(self.source.data) and not self.source.ends_cleanly:
            raise UpstreamUnavailable("the connection was reset")


@dataclass
class Source:
    """An upstream for one blob, with a count of what it gave and knobs for what it does wrong."""

    data: bytes
    chunk: int = 64 * 1024
    pause: float = 0.0
    cuts: list[int] = field(default_factory=list)  # how far each transfer gets, in order; then: to the end
    ends_cleanly: bool = False  # a cut looks like an end
    tells_size: bool = True
    size: int | None = None  # a lie about the size
    ignores_range: bool = False
    refuses: IarproxyError | None = None
    hold: int = 0  # from this byte on, chunks wait for the gate
    starts: list[int] = field(default_factory=list)
    sent: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.data)

    def fetch(self, offset: int) -> AbstractAsyncContextManager[OneTransfer]:
        return self._fetch(offset)

    @asynccontextmanager
    async def _fetch(self, offset: int) -> AsyncIterator[OneTransfer]:
        self.starts.append(offset)
        if self.refuses is not None:
            raise self.refuses
        stop = self.cuts.pop(0) if self.cuts else len(self.data)
        size = (len(self.data) if self.size is None else self.size) if self.tells_size else None
        yield OneTransfer(size, 0 if self.ignores_range else offset, self, stop)


class FaultyDisk(OsDisk):
    """Fails the n-th call (from 1) of a kind, or all from a number of written bytes on."""

    def __init__(self, *, full_after: int | None = None, **fail: tuple[int, int]) -> None:
        self.calls: Counter[str] = Counter()
        self.fail = fail  # name -> (n-th call, errno)
        self.full_after = full_after
        self.written = 0

    def _count(self, name: str) -> None:
        self.calls[name] += 1
        number, code = self.fail.get(name, (0, 0))
        if self.calls[name] == number:
            raise OSError(code, os.strerror(code))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._count("write")
        if self.full_after is not None:
            data = data[: self.full_after - self.written]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(fd, data)
        self.written += count
        return count

    def fsync(self, fd: int) -> None:
        self._count("fsync")
        super().fsync(fd)

    def link(self, source: str, target: str) -> None:
        self._count("link")
        super().link(source, target)


async def body_of(following: Following) -> bytes:
    """All bytes, as a server would send them."""
    async with following as held:
        taken = bytearray()
        while len(taken) < held.size:
            end = await held.readable(len(taken))
            taken += os.pread(held.fd, end - len(taken), len(taken))
        return bytes(taken)


async def read_on(held: Following) -> int:
    """Wait for more and more, until nothing is left; how much there was."""
    taken = 0
    while taken < held.size:
        taken = await held.readable(taken)
    return taken


def leftovers(store: Store) -> list[str]:
    """Names in the ingest folder."""
    return sorted(path.name for path in (store.root / "ingest").iterdir())


async def settled(store: Store) -> None:
    """Wait until no ingest runs here."""
    for _ in range(1000):
        if not store._ingests:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("ingests still run")


OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens stores on one folder, as several worker processes would; closes them at the end."""
    opened: list[Store] = []

    async def opener(**knobs: object) -> Store:
        settings = {"max_size": 1000 * MIB, "reserve": 0, "patience": QUICK} | knobs
        store = Store.open(tmp_path / "store", **settings)  # type: ignore[arg-type]  # each test knows its knobs
        opened.append(store)
        return store

    yield opener
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
