"""What a dead leader leaves: taken over, resumed, published, or given up, and never served when wrong."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import store_world
from iarproxy.errors import Unavailable
from iarproxy.store import Store
from iarproxy.store.state import LockFile, Record, State
from store_world import MIB, OpenStore, Source, body_of, leftovers, settled, some_bytes

open_store = store_world.open_store
store = store_world.store


def leave(store: Store, source: Source, left: bytes, *, state: State = State.RUNNING, size: int | None = None) -> Path:
    """The files that a leader leaves which dies after `left`."""
    part = store.root / "ingest" / f"sha256-{source.digest.hex}.part"
    part.write_bytes(left)
    lock = LockFile.open(str(part.with_suffix(".lock")))
    lock.write(Record(state, part.stat().st_ino, size))
    lock.close()
    return part


@pytest.mark.parametrize("held", [0, 1, 70_000, 299_999, 300_000])
@pytest.mark.parametrize("size", [300_000, None])
async def test_what_is_left_is_resumed(store: Store, held: int, size: int | None) -> None:
    """The next request fetches only what is missing."""
    source = Source(some_bytes(300_000))
    leave(store, source, source.data[:held], size=size)
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts == ([held] if held < 300_000 else [])
    await settled(store)
    assert leftovers(store) == []


async def test_a_sealed_part_is_published_without_upstream(store: Store) -> None:
    """A leader that died between its fsync and the link had all the bytes."""
    source = Source(some_bytes(300_000))
    leave(store, source, source.data, state=State.AGREED, size=300_000).chmod(0o444)
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts == []
    await settled(store)
    assert store.find(source.digest) is not None
    assert leftovers(store) == []


async def test_a_published_blobs_leftovers_go(open_store: OpenStore) -> None:
    """A leader that died after the link leaves names that the next opening removes."""
    store = await open_store()
    source = Source(some_bytes(1000))
    part = leave(store, source, source.data, state=State.AGREED, size=1000)
    os.link(part, store.root / "blobs" / "sha256" / source.digest.hex)
    await open_store()
    assert leftovers(store) == []
    assert store.find(source.digest) is not None


@pytest.mark.parametrize(
    ("left", "state"),
    [
        (b"z" * 200_000, State.RUNNING),
        (b"z" * 300_000, State.RUNNING),
        (b"z" * 300_000, State.AGREED),
        (b"z" * 300_001, State.RUNNING),
    ],
)
async def test_wrong_leftovers_are_abandoned(store: Store, left: bytes, state: State) -> None:
    """A client that was sent some of them is cut short; one that was sent none gets right bytes from a new start."""
    source = Source(some_bytes(300_000), pause=0.01)
    leave(store, source, left, state=state, size=300_000)
    early, late = (store.follow(source.digest, None, source.fetch) for _ in range(2))
    async with early, late:
        sent = await early.readable(0)
        first = os.pread(early.fd, sent, 0)
        assert await late.readable(299_999) == 300_000
        assert os.pread(late.fd, 300_000, 0) == source.data
        if first == source.data[:sent]:
            assert await early.readable(299_999) == 300_000  # it joined the new start already
        else:
            with pytest.raises(Unavailable, match="fetched anew"):
                await early.readable(299_999)
    await settled(store)
    assert leftovers(store) == []


async def test_wrong_leftovers_give_way_to_right_bytes(store: Store) -> None:
    """Who asks again gets the right bytes."""
    source = Source(some_bytes(300_000))
    leave(store, source, b"z" * 200_000, size=300_000)
    asked = [body_of(store.follow(source.digest, None, source.fetch)) for _ in range(3)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(outcome == source.data or isinstance(outcome, Unavailable) for outcome in outcomes)
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    await settled(store)
    assert leftovers(store) == []


@pytest.mark.parametrize("state", [State.FAILED, State.ABANDONED])
async def test_a_dead_leaders_failure_is_not_inherited(store: Store, state: State) -> None:
    """A leader that died while it cleared away leaves no verdict: the next request starts anew."""
    source = Source(some_bytes(1000))
    leave(store, source, b"zz", state=state)
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts == [0]


async def test_a_part_that_the_lock_does_not_name_is_not_resumed(store: Store) -> None:
    """Another data file in its place, or a torn record, is given up."""
    source = Source(some_bytes(1000))
    part = leave(store, source, source.data[:500])
    part.rename(part.with_suffix(".old"))
    part.write_bytes(b"zzz")
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts == [0]


async def test_a_follower_takes_over_within_ticks(open_store: OpenStore) -> None:
    """A leader that leaves its ingest is succeeded by a follower elsewhere, which fetches only the rest."""
    one, two, three = await open_store(), await open_store(), await open_store()
    source = Source(some_bytes(MIB), chunk=10_000, pause=0.002)
    leading = asyncio.create_task(body_of(one.follow(source.digest, None, source.fetch)))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(body_of(s.follow(source.digest, None, source.fetch))) for s in (two, two, three)]
    await asyncio.sleep(0.05)
    await one.close()
    with pytest.raises(Unavailable, match="closing"):
        await leading
    assert await asyncio.gather(*others) == [source.data] * 3
    assert len(source.starts) == 2
    assert source.sent <= MIB + 20_000
    await settled(two)
    await settled(three)
    assert leftovers(two) == []


async def test_a_chain_of_leaders(open_store: OpenStore) -> None:
    """Five leaders in a row die; the last one completes the blob."""
    source = Source(some_bytes(MIB), chunk=10_000, pause=0.001)
    stores = [await open_store() for _ in range(6)]
    bodies = [asyncio.create_task(body_of(s.follow(source.digest, None, source.fetch))) for s in stores]
    for store in stores[:-1]:
        await asyncio.sleep(0.03)
        await store.close()
    outcomes = await asyncio.gather(*bodies, return_exceptions=True)
    assert outcomes[-1] == source.data
    assert all(outcome == source.data or isinstance(outcome, Unavailable) for outcome in outcomes)
    await settled(stores[-1])
    assert leftovers(stores[-1]) == []


async def test_closing_leaves_the_ingest_resumable(open_store: OpenStore) -> None:
    """A store that closes in mid-ingest leaves its bytes to the next one."""
    one = await open_store()
    source = Source(some_bytes(MIB), chunk=10_000, pause=0.001)
    async with one.follow(source.digest, None, source.fetch):
        pass
    await one.close()
    assert len(leftovers(one)) == 2
    two = await open_store()
    assert await body_of(two.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts[1] > 0
    await settled(two)
    assert leftovers(two) == []


async def test_closing_at_any_moment_gives_the_lock_back(open_store: OpenStore) -> None:
    """Whatever step an ingest is cancelled in, nobody waits for its lock afterwards."""
    for steps in range(0, 60, 2):
        source = Source(some_bytes(100_000, steps), chunk=10_000)
        one, two = await open_store(), await open_store()
        asked = asyncio.create_task(body_of(one.follow(source.digest, None, source.fetch)))
        for _ in range(steps):
            await asyncio.sleep(0)
        await one.close()
        await asyncio.gather(asked, return_exceptions=True)
        assert await body_of(two.follow(source.digest, None, source.fetch)) == source.data
        await settled(two)
        await two.close()
        assert leftovers(two) == []


async def test_the_sweep_takes_only_what_is_dead_and_old(open_store: OpenStore) -> None:
    """A running ingest stays, a fresh leftover stays resumable, an old one goes."""
    moment = datetime.now(UTC)
    store = await open_store(now=lambda: moment)
    running, dead = Source(some_bytes(MIB), pause=0.01), Source(some_bytes(MIB, 1))
    leave(store, dead, b"some")
    async with store.follow(running.digest, None, running.fetch):
        assert await store.sweep() == 0
        assert len(leftovers(store)) == 4
        assert await store.sweep(timedelta(hours=-1)) == 1
        assert {name[7:20] for name in leftovers(store)} == {running.digest.hex[:13]}
    moment += timedelta(hours=2)
    await settled(store)
    leave(store, dead, b"some")
    assert await store.sweep() == 1
    assert leftovers(store) == []
