"""The counter: right after a kill, a power cut, a loss and a recount beside publishers; never walked for at a start."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import store_world
from iarproxy.errors import StoreFull
from iarproxy.oci import Digest
from iarproxy.store import OsDisk, Store
from iarproxy.store.usage import FEW, Record, Standing
from store_world import OpenStore, Source, body_of, settled, some_bytes

open_store = store_world.open_store
store = store_world.store

ELSEWHEN = "another run of the machine"


def counted(store: Store) -> tuple[int, int]:
    """Blobs and bytes, as the folders say."""
    sizes = [path.stat().st_size for path in (store.root / "blobs").glob("*/*")]
    return len(sizes), sum(sizes)


async def told(store: Store) -> tuple[int, int]:
    """Blobs and bytes, as the counter says."""
    stats = await store.stats()
    return stats.blobs, stats.bytes


def fill(store: Store, count: int, seed: int = 0) -> list[Digest]:
    """Blobs that nobody counted, quickly."""
    digests = [Digest.of(b"%d %d" % (seed, number)) for number in range(count)]
    for number, digest in enumerate(digests):
        (store.root / "blobs" / "sha256" / digest.hex).write_bytes(bytes(number % 7))
    return digests


def record_of(store: Store) -> Record:
    found = Record.unpack((store.root / "usage").read_bytes())
    assert found is not None
    return found


def rewrite(store: Store, record: Record) -> None:
    (store.root / "usage").write_bytes(record.pack())


# --- lost ---


async def test_a_lost_counter_of_few_blobs_is_made_at_once(open_store: OpenStore) -> None:
    """Without the file, or with bytes that are none of ours in it, the next look counts."""
    store = await open_store()
    fill(store, 10)
    for spoil in ((store.root / "usage").unlink, lambda: (store.root / "usage").write_bytes(bytes(512))):
        spoil()
        assert counted(store) == await told(store)
        assert (await store.stats()).standing is Standing.EXACT


async def test_a_lost_counter_of_many_blobs_waits_for_a_recount(open_store: OpenStore) -> None:
    """The opening does not wait for it; nothing is kept meanwhile but manifests; the recount makes it exact."""
    fill(await open_store(), FEW + 1)
    ((await open_store()).root / "usage").unlink()
    store, source = await open_store(), Source(some_bytes(5000))
    assert (await store.stats()).standing is Standing.LOST
    with pytest.raises(StoreFull, match="counted anew"):
        await body_of(store.follow(source.digest, 5000, source.fetch))
    await store.put(Digest.of(b"manifest"), b"manifest")
    assert await store.recount(rest=0)
    assert counted(store) == await told(store)
    assert source.data == await body_of(store.follow(source.digest, 5000, source.fetch))


# --- killed ---


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("appearing", [True, False])
async def test_what_was_written_ahead_is_settled_by_the_name(store: Store, *, appearing: bool, there: bool) -> None:
    """Whoever was killed around a change left a note of it; whether it came about is seen by that one name."""
    await store.put(Digest.of(b"held"), b"held")
    data, before = b"the one", record_of(store)
    if there:
        (store.root / "blobs" / "sha256" / Digest.of(data).hex).write_bytes(data)
    size = len(data) if appearing else -len(data)
    held = 0 if appearing else -size
    pending = (str(Digest.of(data)), size, 1 if appearing else -1)
    rewrite(
        store,
        Record(before.size + held, before.blobs + (held > 0), before.run, before.low, pending),
    )
    assert counted(store) == await told(store)
    assert record_of(store).pending is None


# --- a power cut ---


class Durable(OsDisk):
    """Knows the least that the disk may show of the counter: the synced record, or any that came after it."""

    def __init__(self, path: Path) -> None:
        self.path, self.least = path, 0

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        if not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(fd)):
            return
        if (record := Record.unpack(self.path.read_bytes())) is not None:
            self.least = record.size + (record.pending[1] if record.pending else 0)


@pytest.mark.parametrize("seed", range(5))
async def test_a_power_cut_costs_the_counter_a_known_amount(open_store: OpenStore, tmp_path: Path, seed: int) -> None:
    """Whatever comes and goes: what the disk may show plus the slack is never below what the folders hold."""
    chance, disk, held = random.Random(seed), Durable(tmp_path / "store" / "usage"), list[Digest]()
    store = await open_store(max_size=64 * 1000, disk=disk)
    syncs = 0
    for number in range(150):
        if held and chance.random() < 0.45:
            store.quarantine(held.pop(chance.randrange(len(held))), "a test")
        else:
            data = some_bytes(chance.choice((10, 100, 700, 3000)), number)
            before = disk.least
            await store.put(Digest.of(data), data)
            syncs += before != disk.least
            held.append(Digest.of(data))
        disk.least = min(disk.least, record_of(store).size)
        assert counted(store)[1] <= disk.least + 1000
    assert 0 < syncs < 100


async def test_what_was_counted_anew_is_made_durable(open_store: OpenStore, tmp_path: Path) -> None:
    """A power cut after a recount does not bring back a counter that is too low by more than the slack."""
    disk = Durable(tmp_path / "store" / "usage")
    store = await open_store(max_size=64 * 1000, disk=disk)
    (store.root / "blobs" / "sha256" / Digest.of(bytes(5000)).hex).write_bytes(bytes(5000))
    store.lock_for_serving().close()
    assert await store.recount()
    assert (1, 5000) == await told(store)
    assert 5000 == disk.least


class Stuck(OsDisk):
    """A disk on which syncs of the counter take until they are let go."""

    def __init__(self, path: Path) -> None:
        self.path, self.syncs, self.go = path, 0, threading.Event()

    def fsync(self, fd: int) -> None:
        if self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(fd)):
            self.syncs += 1
            assert self.go.wait(20)
        super().fsync(fd)


async def test_no_admission_waits_for_a_sync_of_the_counter(open_store: OpenStore, tmp_path: Path) -> None:
    """A disk that takes seconds for it delays whoever published, not what other clients ask for meanwhile."""
    disk = Stuck(tmp_path / "store" / "usage")
    store = await open_store(max_size=64 * 1000, disk=disk)
    first = asyncio.create_task(store.put(Digest.of(bytes(600)), bytes(600)))
    while not disk.syncs:
        await asyncio.sleep(0.01)
    await store.put(Digest.of(bytes(300)), bytes(300))
    assert await told(store) == (2, 900)
    disk.go.set()
    await first
    assert (1, 600) == (disk.syncs, record_of(store).low)


async def test_after_a_power_cut_the_worst_is_believed_until_it_is_counted(open_store: OpenStore) -> None:
    """A counter of another run of the machine may be too low by the slack: what fits only without it is not kept."""
    store = await open_store(max_size=64_000)
    await store.put(Digest.of(bytes(60_000)), bytes(60_000))
    rewrite(store, replace(record_of(store), size=59_500, run=ELSEWHEN))
    fitting, tight = Source(some_bytes(3000)), Source(some_bytes(4000))
    with pytest.raises(StoreFull, match="60500 of 64000"):
        await body_of(store.follow(tight.digest, 4000, tight.fetch))
    assert fitting.data == await body_of(store.follow(fitting.digest, 3000, fitting.fetch))
    await settled(store)
    assert (await store.stats()).standing is Standing.STALE
    assert await store.recount()
    assert counted(store) == await told(store)
    assert (await store.stats()).standing is Standing.EXACT


async def test_where_the_system_does_not_tell_its_restarts(open_store: OpenStore) -> None:
    """There each `serve` begins with a counter that is not believed; other processes beside it believe it."""
    store = await open_store(run=lambda: None)
    await store.put(Digest.of(b"held"), b"held")
    assert (await (await open_store(run=lambda: None)).stats()).standing is Standing.EXACT
    store.lock_for_serving().close()
    assert (await store.stats()).standing is Standing.STALE
    assert await store.recount()
    assert counted(store) == await told(store)


async def test_what_was_removed_by_hand_is_noticed_by_the_next_serve(open_store: OpenStore) -> None:
    """Blobs that somebody removes, or brings in with a copy, are not counted for ever as they were."""
    store = await open_store()
    for each in (b"one", b"two"):
        await store.put(Digest.of(each), each)
    store.lock_for_serving().close()
    assert (await store.stats()).standing is Standing.EXACT
    (store.root / "blobs" / "sha256" / Digest.of(b"one").hex).unlink()
    store.lock_for_serving().close()
    assert (await store.stats()).standing is Standing.STALE
    assert await store.recount()
    assert counted(store) == await told(store) == (1, 3)
    store.lock_for_serving().close()
    assert (await store.stats()).standing is Standing.EXACT


async def test_a_copy_of_a_store_is_counted_anew(open_store: OpenStore, tmp_path: Path) -> None:
    """It was copied while blobs came in: the counter is of another moment than the blobs."""
    store = await open_store()
    await store.put(Digest.of(b"held"), b"held")
    await store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    copy = Store.open(tmp_path / "copy", max_size=2**30)
    copy.lock_for_serving().close()
    assert (await copy.stats()).standing is Standing.STALE
    await copy.close()


# --- a recount beside publishers ---


class Rest:
    """What happens while a recount rests."""

    def __init__(self, happens: Callable[[], Awaitable[None]]) -> None:
        self.happens, self.turns = happens, 0

    async def __call__(self, _: float) -> None:
        self.turns += 1
        await self.happens()


@pytest.mark.parametrize("seed", range(3))
async def test_a_recount_races_with_publishes_and_quarantines(open_store: OpenStore, seed: int) -> None:
    """What comes, goes and comes back while it counts, by this process or another, is counted as it is at the end."""
    chance, store = random.Random(seed), await open_store()
    held = fill(store, 5500, seed)
    rewrite(store, replace(record_of(store), run=ELSEWHEN))

    async def happens() -> None:
        for digest in chance.sample(held, 40):
            other.quarantine(digest, "a test")
        for data in (b"%d" % chance.randrange(60) for _ in range(40)):
            if chance.random() < 0.5:
                await store.put(Digest.of(data), data)
            else:
                other.quarantine(Digest.of(data), "a test")

    rest = Rest(happens)
    counting, other = await open_store(sleep=rest), await open_store()
    assert await counting.recount()
    assert 5 == rest.turns
    assert counted(store) == await told(store)
    assert [] == (store.root / "usage.changes").read_bytes().split()


async def test_one_process_counts_at_a_time(open_store: OpenStore) -> None:
    """Who comes second learns that the count is not there yet; publishing waits for neither."""
    store = await open_store()
    fill(store, 1500)
    rewrite(store, replace(record_of(store), run=ELSEWHEN))
    answers: list[bool] = []

    async def happens() -> None:
        answers.append(await store.recount())

    assert await (await open_store(sleep=Rest(happens))).recount()
    assert [False] == answers
    assert counted(store) == await told(store)


async def test_a_recount_that_was_given_up_is_made_by_the_next(open_store: OpenStore) -> None:
    """A worker ends in the midst of it: nothing is believed, and the next one counts from the start."""
    store, gone = await open_store(), Digest.of(b"9 0")
    fill(store, 1500, 9)
    rewrite(store, replace(record_of(store), run=ELSEWHEN))

    async def happens() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await (await open_store(sleep=Rest(happens))).recount()
    store.quarantine(gone, "a test")
    assert (await store.stats()).standing is Standing.STALE
    assert await store.recount()
    assert counted(store) == await told(store)


# --- a start ---


@pytest.mark.real("strace")
async def test_a_start_walks_no_blobs(open_store: OpenStore, tmp_path: Path) -> None:
    """Opening a store and taking it for serving costs as many system calls with many blobs as with none."""

    def calls() -> int:
        code = (
            f"from iarproxy.store import Store; Store.open({str(tmp_path / 'store')!r}, max_size=9).lock_for_serving()"
        )
        log = tmp_path / "log"
        command = ["strace", "-f", "-qq", "-o", str(log), "-P", str(tmp_path / "store" / "blobs" / "sha256")]
        subprocess.run([*command, sys.executable, "-c", code], check=True, timeout=60)
        return log.read_text().count("\n")

    store = await open_store()
    fill(store, 1)
    calls()  # notices that nobody counted it
    none = calls()
    fill(store, 2000)
    assert none == calls()


async def test_an_exact_counter_is_not_counted_again(open_store: OpenStore) -> None:
    """The chore looks every few seconds: where nothing is in doubt, that is all it costs."""
    store = await open_store()
    fill(store, 1500)
    assert await store.recount()
    assert (0, 0) == await told(store)
