"""Bytes on their way into an ingest's file: written and hashed at once, told exactly, bounded, believed whole."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import xxhash

from iarproxy.errors import StoreFull, StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.store import OsDisk
from iarproxy.store.part import AHEAD, BOUND, SMALL, Part, Pipe
from iarproxy.store.threads import Threads
from store_world import MIB, FaultyDisk, some_bytes


class ShortDisk(OsDisk):
    """Takes a part of each write, as a disk that gets full or a signal may make it."""

    def __init__(self) -> None:
        self.dice = random.Random(1)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return super().write(fd, data[: self.dice.randrange(1, 100_000)])


class Held(Executor):
    """Runs nothing until it is let go."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append(lambda: future.set_result(call(*args, **kwargs)))
        return future

    def let_go(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


def nothing() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


class Line:
    """A part in a folder, a pipe into it, and what the pipe told."""

    def __init__(
        self, folder: Path, data: bytes, threads: Threads, *, disk: OsDisk | None = None, kind: type[Part] = Part
    ) -> None:
        self.path = folder / "part"
        self.data = data
        self.part = kind(str(self.path), Digest.of(data), disk or OsDisk(), fresh=True)
        self.told: list[int] = []
        self.admission = nothing()
        self.pipe = Pipe(self.part, threads, self._written, self.admission)

    def _written(self) -> None:
        assert self.part.length == self.path.stat().st_size
        self.told.append(self.part.length)

    async def put(self, *sizes: int) -> None:
        at = 0
        for size in sizes:
            await self.pipe.put(self.data[at : at + size])
            at += size
        assert at <= len(self.data)


@pytest.mark.parametrize("disk", [OsDisk, ShortDisk])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_sizes_the_digest_is_that_of_the_file(
    tmp_path: Path, threads: Threads, disk: type[OsDisk], seed: int
) -> None:
    """Chunks of any size, and writes that take only a part: file, digest, checksum and length say the same."""
    dice = random.Random(seed)
    sizes = [dice.choice([1, 1400, SMALL, SMALL + 1, BOUND, 3 * BOUND]) for _ in range(60)]
    line = Line(tmp_path, some_bytes(sum(sizes), seed), threads, disk=disk())
    await line.put(*sizes)
    await line.pipe.finish()
    assert line.path.read_bytes() == line.data
    assert line.part.agrees
    assert line.part.checksum.digest() == xxhash.xxh3_128_digest(line.data)
    assert line.told == sorted(line.told)
    assert line.told[-1] == line.part.length == len(line.data)
    line.part.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_write_fails_while_the_hash_runs(tmp_path: Path, threads: Threads, code: int) -> None:
    """The length still tells what is in the file, the digest agrees with nothing, and all is at rest afterwards."""
    disk = FaultyDisk(write=(3, code))
    line = Line(tmp_path, some_bytes(8 * MIB), threads, disk=disk)
    with pytest.raises(StoreFull if code == errno.ENOSPC else StoreUnavailable):
        await line.put(*[MIB] * 8)
    await line.pipe.settle()
    assert line.path.read_bytes() == line.data[: line.part.length]
    assert line.part.length in (2 * MIB, line.told[-1])
    assert not line.part.agrees
    with pytest.raises(StoreUnavailable):
        await line.pipe.finish()
    line.part.close()


async def test_a_disk_that_fills_in_mid_write(tmp_path: Path, threads: Threads) -> None:
    """What a last short write took is in the file and in the length."""
    line = Line(tmp_path, some_bytes(MIB), threads, disk=FaultyDisk(full_after=700_001))
    with pytest.raises(StoreFull):
        await line.pipe.put(line.data)
    await line.pipe.settle()
    assert line.path.read_bytes() == line.data[:700_001]
    assert line.part.length == line.told[-1] == 700_001
    assert not line.part.agrees
    line.part.close()


async def test_the_same_bytes_are_hashed_by_the_next_leader(tmp_path: Path, threads: Threads) -> None:
    """A leader cancelled in mid-stream leaves a file that agrees once the next one has caught up and added the rest."""
    line = Line(tmp_path, some_bytes(4 * MIB), threads)
    leading = asyncio.create_task(line.put(*[300_000] * 13))
    while not line.told:
        await asyncio.sleep(0)
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    await line.pipe.settle()
    left = line.part.length
    line.part.close()
    assert line.path.read_bytes() == line.data[:left]
    part = Part(str(line.path), Digest.of(line.data), OsDisk(), fresh=False)
    while part.catch_up():
        pass
    part.writelines([line.data[left:]])
    assert (part.length, part.agrees) == (len(line.data), True)
    part.close()


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, threads: Threads) -> None:
    """A disk that hangs stops the intake after `BOUND` bytes beside the batch that it holds."""
    gate = threading.Event()

    class Hanging(OsDisk):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            gate.wait(10)
            return super().write(fd, data)

    line = Line(tmp_path, some_bytes(4 * MIB), threads, disk=Hanging())
    taken = await _taken_before_it_waits(line)
    assert taken <= BOUND + 2 * 65536
    assert line.told == []
    gate.set()
    await line.pipe.finish()
    assert line.part.length == taken
    line.part.close()


async def test_what_waits_for_the_hasher_is_bounded_and_told_already(tmp_path: Path, threads: Threads) -> None:
    """A hasher that hangs stops the intake after `AHEAD` bytes; what is in the file is told, and not believed."""
    whole, held = threads.hashers, Held()
    threads.hashers = held
    line = Line(tmp_path, some_bytes(4 * MIB), threads)
    await line.pipe.put(line.data[: SMALL + 1])
    taken = SMALL + 1 + await _taken_before_it_waits(line, at=SMALL + 1)
    assert AHEAD - BOUND < taken <= AHEAD + BOUND + 2 * 65536
    assert line.told[-1] > AHEAD - BOUND
    assert not line.part.agrees
    finishing = asyncio.create_task(line.pipe.finish())
    while not finishing.done():
        held.let_go()
        await asyncio.sleep(0.001)
    await finishing
    threads.hashers = whole
    part = line.part
    assert part.length == taken
    line.part.close()


async def _taken_before_it_waits(line: Line, at: int = 0) -> int:
    """How many bytes the pipe takes until it stops; at most 4 MiB."""
    taken = 0
    while at + taken < len(line.data):
        putting = asyncio.create_task(line.pipe.put(line.data[at + taken : at + taken + 65536]))
        taken += 65536
        await asyncio.wait({putting}, timeout=0.2)
        if not putting.done():
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)
            break
    return taken


async def test_a_hash_that_fails_ends_the_pipe(tmp_path: Path, threads: Threads) -> None:
    """No memory, or a bug: whoever hands on bytes hears of it instead of waiting for ever."""

    class Failing(Part):
        def hash(self, data: bytes) -> None:
            raise MemoryError

    line = Line(tmp_path, some_bytes(8 * MIB), threads, kind=Failing)
    with pytest.raises(MemoryError):
        await line.put(*[MIB] * 8)
    with pytest.raises(MemoryError):
        await line.pipe.finish()
    assert not line.part.agrees
    line.part.close()


async def test_an_admission_that_fails_ends_the_pipe(tmp_path: Path, threads: Threads) -> None:
    """Room that is refused while the bytes come already stops them, and is the reason."""
    line = Line(tmp_path, some_bytes(MIB), threads)
    admission: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pipe = Pipe(line.part, threads, line._written, admission)
    await pipe.put(line.data[:1000])
    admission.set_exception(StoreFull("no room after all"))
    with pytest.raises(StoreFull, match="no room"):
        await pipe.put(line.data[1000:2000])
    await pipe.settle()
    await line.pipe.settle()
    assert line.path.stat().st_size == line.part.length
    line.part.close()
