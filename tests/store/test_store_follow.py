"""Following a blob that arrives: one transfer, right bytes, a withheld tail; what a wrong or broken upstream does."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store_world
from iarproxy.errors import (
    Denied,
    IarproxyError,
    Unavailable,
    UnknownBlob,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.oci import Digest
from iarproxy.store import TAIL, Patience, Store
from store_world import MIB, QUICK, OneTransfer, OpenStore, Source, body_of, leftovers, read_on, settled, some_bytes

open_store = store_world.open_store
store = store_world.store


async def test_many_followers_share_one_transfer(store: Store) -> None:
    """Fifty followers that join over time get the right bytes by one fetch, and the blob is kept."""
    source = Source(some_bytes(2 * MIB), pause=0.001)

    async def late(number: int) -> bytes:
        await asyncio.sleep(number * 0.001)
        return await body_of(store.follow(source.digest, None, source.fetch))

    bodies = await asyncio.gather(*map(late, range(50)))
    assert set(bodies) == {source.data}
    assert source.starts == [0]
    await settled(store)
    assert leftovers(store) == []
    found = store.find(source.digest)
    assert found is not None
    assert found.size == 2 * MIB
    assert Path(found.path).stat().st_mode & 0o777 == 0o444
    assert (await store.stats()).bytes == 2 * MIB


@pytest.mark.parametrize("watch", ["inotify", "poll"])
async def test_two_workers_share_one_transfer(open_store: OpenStore, watch: str) -> None:
    """A second worker's followers follow the first one's leader, by notices or by the clock."""
    one, two = await open_store(watch=watch), await open_store(watch=watch)
    source = Source(some_bytes(2 * MIB), pause=0.002)

    async def late(number: int) -> bytes:
        await asyncio.sleep(number * 0.005)
        return await body_of((one, two)[number % 2].follow(source.digest, None, source.fetch))

    assert set(await asyncio.gather(*map(late, range(12)))) == {source.data}
    assert source.starts == [0]
    await settled(one)
    await settled(two)
    assert leftovers(one) == []


@pytest.mark.parametrize("watch", ["inotify", "poll"])
def test_uvloop_follows_too(tmp_path: Path, watch: str) -> None:
    """The same on the loop that serve uses."""

    async def run() -> list[bytes]:
        source = Source(some_bytes(MIB), pause=0.001)
        stores = [Store.open(tmp_path / "s", max_size=9 * MIB, reserve=0, watch=watch) for _ in range(2)]  # type: ignore[arg-type]  # a literal
        bodies = await asyncio.gather(*(body_of(s.follow(source.digest, None, source.fetch)) for s in stores))
        for store in stores:
            await settled(store)
            await store.close()
        assert source.starts == [0]
        return [body for body in bodies if body != source.data]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == []


async def test_the_tail_is_withheld(open_store: OpenStore) -> None:
    """Before the digest agreed the last bytes are not readable, here or in another worker."""
    one, two = await open_store(), await open_store()
    source = Source(some_bytes(MIB), chunk=MIB - 10, hold=1)
    source.gate.clear()
    first = one.follow(source.digest, MIB, source.fetch)
    async with first, two.follow(source.digest, MIB, source.fetch) as second:
        for held in (first, second):
            assert await held.readable(0) <= MIB - TAIL
        waiting = [asyncio.create_task(held.readable(MIB - TAIL)) for held in (first, second)]
        await asyncio.sleep(0.2)
        assert [task.done() for task in waiting] == [False, False]
        source.gate.set()
        assert await asyncio.gather(*waiting) == [MIB, MIB]


async def test_the_first_bytes_are_readable_at_once(store: Store) -> None:
    """A follower is woken by the first chunk, while upstream pauses."""
    source = Source(some_bytes(MIB), chunk=1000, hold=1)
    source.gate.clear()
    async with store.follow(source.digest, None, source.fetch) as held:
        assert held.size == MIB
        assert await held.readable(0) == 1000
        source.gate.set()


async def test_a_follower_that_leaves_changes_nothing(store: Store) -> None:
    """The first follower is cancelled in mid-body; the others and the store get all bytes by the same fetch."""
    source = Source(some_bytes(MIB), pause=0.002)
    first = asyncio.create_task(body_of(store.follow(source.digest, None, source.fetch)))
    others = [asyncio.create_task(body_of(store.follow(source.digest, None, source.fetch))) for _ in range(3)]
    await asyncio.sleep(0.01)
    first.cancel()
    assert await asyncio.gather(*others) == [source.data] * 3
    assert source.starts == [0]


async def test_all_followers_may_leave(store: Store) -> None:
    """The ingest goes on without them, and the blob is kept."""
    source = Source(some_bytes(MIB), pause=0.001)
    async with store.follow(source.digest, None, source.fetch):
        pass
    await settled(store)
    assert store.find(source.digest) is not None
    assert source.starts == [0]


async def test_a_slow_follower_still_reads_after_the_end(store: Store) -> None:
    """The descriptor outlives the ingest's names."""
    source = Source(some_bytes(MIB))
    async with store.follow(source.digest, None, source.fetch) as held:
        await settled(store)
        store.quarantine(source.digest, "gone meanwhile")
        assert os.pread(held.fd, MIB, 0) == source.data


@pytest.mark.parametrize("size", [0, 1, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL])
@pytest.mark.parametrize("known", ["by the manifest", "by upstream", "by nobody"])
async def test_sizes_around_the_tail(store: Store, size: int, known: str) -> None:
    """Any size is followed, whoever knows it."""
    source = Source(some_bytes(size), chunk=10_000, tells_size=known == "by upstream")
    expected = size if known == "by the manifest" else None
    assert await body_of(store.follow(source.digest, expected, source.fetch)) == source.data
    await settled(store)
    assert store.find(source.digest) is not None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 300_000), max_size=6),
    clean=st.booleans(),
    ignores_range=st.booleans(),
    tells_size=st.booleans(),
)
async def test_upstream_may_break_anywhere(cuts: list[int], clean: bool, ignores_range: bool, tells_size: bool) -> None:  # noqa: FBT001  # hypothesis passes them
    """Whatever breaks and however it resumes: the right bytes, each fetched once where Range is honoured."""
    source = Source(
        some_bytes(300_000, sum(cuts)),
        chunk=7_000,
        cuts=list(cuts),
        ends_cleanly=clean,
        ignores_range=ignores_range,
        tells_size=tells_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "s", max_size=MIB, reserve=0, patience=Patience(pause=0.0, tries=9))
        try:
            assert await body_of(store.follow(source.digest, 300_000, source.fetch)) == source.data
            await settled(store)
            assert leftovers(store) == []
        finally:
            await store.close()
    if not ignores_range:
        assert source.sent == 300_000
        assert source.starts == sorted(source.starts)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"data": b"y" * 200_000}, UpstreamWrong),
        ({"data": b"x" * 199_999, "size": 200_000, "ends_cleanly": True}, UpstreamUnavailable),
        ({"data": b"x" * 200_001, "size": 200_000}, UpstreamWrong),
        ({"data": b"x" * 199_999}, UpstreamWrong),
        ({"data": b"x" * 200_001}, UpstreamWrong),
        ({"data": b"x" * 200_001, "tells_size": False}, UpstreamWrong),
        ({"data": b"x" * 199_999, "tells_size": False}, UpstreamWrong),
        ({"data": b"", "size": 200_000}, UpstreamUnavailable),
    ],
)
async def test_wrong_bytes_or_length(open_store: OpenStore, wrong: dict[str, object], error: type[Unavailable]) -> None:
    """No follower, here or in another worker, completes a wrong body; nothing is kept; it heals when upstream does."""
    one, two = await open_store(), await open_store()
    good = Source(b"x" * 200_000)
    bad = Source(**{"chunk": 20_000, "pause": 0.002} | wrong)  # type: ignore[arg-type]  # the fields above
    asked = [body_of(s.follow(good.digest, None, bad.fetch)) for s in (one, two, one)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, UpstreamUnavailable) for outcome in outcomes), outcomes
    assert isinstance(outcomes[0], error)
    await settled(one)
    await settled(two)
    assert leftovers(one) == []
    assert one.find(good.digest) is None
    assert await body_of(two.follow(good.digest, None, good.fetch)) == good.data


@pytest.mark.parametrize(
    "error", [UnknownBlob("no such blob there"), Denied("not for you"), UpstreamBusy("later", retry_after=9.0)]
)
async def test_upstreams_answer_reaches_every_follower(open_store: OpenStore, error: IarproxyError) -> None:
    """What upstream raised is raised on entering, with type and message, in each worker; the next request asks anew."""
    one, two = await open_store(), await open_store()
    source = Source(b"x", refuses=error)
    for _ in range(2):
        asked = [body_of(s.follow(source.digest, None, source.fetch)) for s in (one, one, two)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(error)] * 3
        assert {str(outcome) for outcome in outcomes} == {str(error)}
        await settled(one)
        await settled(two)
    assert len(source.starts) >= 2
    assert leftovers(one) == []


async def test_an_upstream_that_hangs_is_given_up(open_store: OpenStore) -> None:
    """The leader's watchdog ends it, after its tries, as a timeout."""
    store = await open_store(patience=Patience(watchdog=0.05, pause=0.001, tries=2))
    source = Source(some_bytes(MIB), chunk=100_000, hold=1)
    source.gate.clear()
    async with store.follow(source.digest, None, source.fetch) as held:
        with pytest.raises(UpstreamTimeout):
            await read_on(held)
    source.gate.set()
    await settled(store)
    assert leftovers(store) == []


async def test_a_leader_that_hangs_does_not_hang_other_workers(open_store: OpenStore) -> None:
    """A follower's own stall deadline ends its wait although the lock is still held."""
    one = await open_store()
    two = await open_store(patience=Patience(tick=0.02, stall=0.1))
    source = Source(some_bytes(MIB))
    source.gate.clear()
    leading = asyncio.create_task(body_of(one.follow(source.digest, None, source.fetch)))
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable, match="nothing arrived"):
        await body_of(two.follow(source.digest, None, source.fetch))
    source.gate.set()
    assert await leading == source.data


async def test_a_manifests_wrong_size_hurts_its_asker_only(store: Store) -> None:
    """Upstream's own size counts: who announced another one fails, the others do not."""
    source = Source(some_bytes(MIB), pause=0.001)
    asked = [body_of(store.follow(source.digest, size, source.fetch)) for size in (5, MIB, None)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(outcomes[0], UpstreamWrong)
    assert outcomes[1:] == [source.data, source.data]
    assert source.starts == [0]


async def test_a_bug_in_the_fetch_ends_the_followers(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An error of no known kind is logged and ends the ingest as unavailable."""
    with pytest.raises(Unavailable, match="TypeError"):
        await body_of(store.follow(Digest.of(b"x"), None, lambda offset: None))  # type: ignore[arg-type]  # the bug
    assert "broke" in caplog.text
    assert leftovers(store) == []


async def test_the_store_says_who_it_is(store: Store) -> None:
    """Its repr is for the person at 3 a.m."""
    assert repr(store) == f"<Store {store.root} (0 ingests here)>"


def test_patience_is_in_order() -> None:
    """Followers outlast the leader's watchdog, so that its reason reaches them first."""
    for patience in (Patience(), QUICK):
        assert patience.stall > patience.watchdog


async def test_kept_waits_for_the_commit(open_store: OpenStore) -> None:
    """After the last byte one can wait until the store holds the blob, as leader and as follower elsewhere."""
    one, two = await open_store(), await open_store()
    source = Source(some_bytes(MIB), pause=0.001)

    async def is_kept(store: Store) -> bool:
        async with store.follow(source.digest, None, source.fetch) as held:
            await read_on(held)
            return await held.kept()

    assert all(await asyncio.gather(is_kept(one), is_kept(two)))
    assert await is_kept(one)


async def test_an_upstream_that_fails_while_a_takeover_begins(open_store: OpenStore) -> None:
    """Where bytes are there already, even the first refused connection is tried again."""
    one, two = await open_store(), await open_store()
    source = Source(some_bytes(MIB), chunk=10_000, pause=0.001)
    async with one.follow(source.digest, None, source.fetch):
        pass
    await one.close()
    source.refuses = UpstreamUnavailable("connection refused")
    asked = asyncio.create_task(body_of(two.follow(source.digest, None, source.fetch)))
    while len(source.starts) < 2:
        await asyncio.sleep(0)
    source.refuses = None
    assert await asked == source.data


async def test_a_refusal_is_nobody_elses_answer(open_store: OpenStore) -> None:
    """A repository without the blob gets its 404; who followed that request, in any worker, asks upstream itself."""
    one, two = await open_store(), await open_store()
    source = Source(some_bytes(MIB))
    asked = asyncio.Event()

    @asynccontextmanager
    async def refusing(offset: int) -> AsyncIterator[OneTransfer]:
        asked.set()
        await asyncio.sleep(0.1)
        raise UnknownBlob(f"this repository has no such blob, at {offset} neither")
        yield OneTransfer(None, 0, source, 0)

    wrong = asyncio.create_task(body_of(one.follow(source.digest, None, refusing, "public/app")))
    await asked.wait()
    right = await asyncio.gather(
        *(body_of(each.follow(source.digest, None, source.fetch, "team/app")) for each in (one, two))
    )
    assert right == [source.data] * 2
    with pytest.raises(UnknownBlob):
        await wrong


async def test_wrong_bytes_are_nobody_elses_answer(store: Store) -> None:
    """What one upstream gets wrong, another may have right: its askers, sent nothing so far, ask there."""
    right, wrong = Source(some_bytes(40_000)), Source(some_bytes(40_000, 1), pause=0.05)
    led = asyncio.create_task(body_of(store.follow(right.digest, None, wrong.fetch, "hostile.example/app")))
    await asyncio.sleep(0.01)
    assert await body_of(store.follow(right.digest, None, right.fetch, "good.example/app")) == right.data
    with pytest.raises(UpstreamWrong):
        await led
    assert (wrong.starts, right.starts) == ([0], [0])
