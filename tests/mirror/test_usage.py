"""What was served to whom: gathered, merged, recorded later, and told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iarproxy.errors import LedgerUnavailable
from iarproxy.ledger import NotUsed, Use, Used
from iarproxy.mirror.serving.answers import Served
from iarproxy.mirror.usage import Usage
from iarproxy.oci import Digest, DigestReference, Repository, Tag
from world import World

APP = Repository("registry.example.com", "team/app")
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
V1 = Tag("1")
NEVER = 3600.0  # seconds until it would flush by itself


class Keeper:
    """Keeps uses in memory; while `failing` it keeps none, and with a `gate` it waits."""

    def __init__(self) -> None:
        self.kept: dict[Any, Use] = {}
        self.batches: list[int] = []
        self.missing: list[datetime] = []
        self.failing = False
        self.gate: asyncio.Event | None = None
        self.recorded = asyncio.Event()

    async def missed(self, until: datetime) -> None:
        if self.failing:
            raise LedgerUnavailable("busy")
        self.missing.append(until)

    async def record(self, batch: Sequence[Use]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise LedgerUnavailable("busy")
        self.batches.append(len(batch))
        for use in batch:
            key = (use.repository, use.wanted, use.digest, use.client)
            self.kept[key] = use.merged(self.kept[key]) if key in self.kept else use
        self.recorded.set()

    @property
    def count(self) -> int:
        return sum(use.count for use in self.kept.values())


def served(
    wanted: Tag | Digest = V1,
    digest: Digest = ONE,
    client: str = "10.0.0.1",
    *,
    count: int = 1,
    at: int = 0,
    is_manifest: bool = True,
) -> Served:
    return Served(APP, wanted, digest, client, count, START + timedelta(seconds=at), is_manifest)


async def test_answers_merge() -> None:
    """One use for each tag or digest, content and client: first, last, how often."""
    keeper = Keeper()
    usage = Usage(keeper, every=NEVER)
    usage.note([served(at=5, count=2), served(at=9, client="10.0.0.2")])
    usage.note([served(at=7), served(at=3), served(ONE, ONE, at=4)])
    await usage.close()
    expected = [
        Use(APP, V1, ONE, "10.0.0.1", START + timedelta(seconds=3), START + timedelta(seconds=7), 4),
        Use(APP, V1, ONE, "10.0.0.2", START + timedelta(seconds=9), START + timedelta(seconds=9), 1),
        Use(APP, ONE, ONE, "10.0.0.1", START + timedelta(seconds=4), START + timedelta(seconds=4), 1),
    ]
    assert expected == list(keeper.kept.values())


async def test_blobs_have_no_client() -> None:
    """Of a blob only how often and when is kept."""
    keeper = Keeper()
    usage = Usage(keeper, every=NEVER)
    usage.note([served(TWO, TWO, f"10.0.0.{each}", at=each, is_manifest=False) for each in range(5)])
    await usage.close()
    assert [Use(APP, None, TWO, None, START, START + timedelta(seconds=4), 5)] == list(keeper.kept.values())


async def test_clients_can_be_left_out() -> None:
    """Where the configuration says so, no address reaches the ledger."""
    keeper = Keeper()
    usage = Usage(keeper, clients=False, every=NEVER)
    usage.note([served(client="10.0.0.1"), served(client="10.0.0.2")])
    await usage.close()
    assert [Use(APP, V1, ONE, None, START, START, 2)] == list(keeper.kept.values())


Answers = st.lists(
    st.builds(
        served,
        wanted=st.sampled_from([V1, Tag("2"), ONE]),
        digest=st.sampled_from([ONE, TWO]),
        client=st.sampled_from(["10.0.0.1", "fe80::1", "unix"]),
        count=st.integers(1, 1000),
        at=st.integers(-100, 100),
        is_manifest=st.booleans(),
    ),
    max_size=20,
)
Steps = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=8)  # so many noted; whether the ledger is away


@settings(deadline=None)
@given(Answers, st.randoms(), Steps)
async def test_order_batches_and_failures_do_not_matter(each: list[Served], chance: Any, steps: list[Any]) -> None:
    """In whichever order and grouping answers come, and whenever the ledger is away, the same is kept in the end."""
    at_once, in_steps = Keeper(), Keeper()
    plain, stepping = Usage(at_once, every=NEVER), Usage(in_steps, every=NEVER)
    plain.note(each)
    await plain.close()
    left = [*each]
    chance.shuffle(left)
    for size, in_steps.failing in steps:
        stepping.note([left.pop() for _ in range(min(size, len(left)))])
        await stepping.flush()
    in_steps.failing = False
    stepping.note(left)
    await stepping.close()
    assert at_once.kept == in_steps.kept
    assert 0 == stepping.lost


async def test_what_comes_while_the_ledger_is_busy_is_merged_with_what_waits() -> None:
    """A record that fails after a while is tried again, with what came in between, and counts once."""
    keeper = Keeper()
    usage = Usage(keeper, every=NEVER)
    keeper.gate, keeper.failing = asyncio.Event(), True
    usage.note([served(at=1)])
    flush = asyncio.create_task(usage.flush())
    await asyncio.sleep(0)
    usage.note([served(at=2), served(Tag("2"), at=2)])
    keeper.gate.set()
    await flush
    assert {} == keeper.kept
    keeper.failing = False
    await usage.close()
    assert [2, 1] == [use.count for use in sorted(keeper.kept.values(), key=lambda use: str(use.wanted))]


async def test_a_failure_in_the_middle_repeats_nothing() -> None:
    """What was recorded before the failure is not recorded again."""
    keeper = Keeper()

    class Breaking(Keeper):
        async def record(self, batch: Sequence[Use]) -> None:
            keeper.failing = len(keeper.batches) == 2
            await keeper.record(batch)

    usage = Usage(Breaking(), every=NEVER)
    usage.note([served(Tag(f"t{each}")) for each in range(1700)])
    await usage.flush()
    assert [500, 500] == keeper.batches
    keeper.batches.append(0)
    await usage.close()
    assert (1700, {1}) == (keeper.count, {use.count for use in keeper.kept.values()})


async def test_memory_is_bounded_while_the_ledger_is_away() -> None:
    """Above the bound what was used the longest ago leaves, and is counted as lost: kept and lost make the whole."""
    keeper = Keeper()
    usage = Usage(keeper, every=NEVER, limit=100)
    keeper.failing = True
    for each in range(500):
        usage.note([served(Tag(f"t{each}"), at=each, count=2)])
        if each % 50 == 0:
            await usage.flush()
    keeper.failing = False
    await usage.close()
    assert 1000 == keeper.count + usage.lost
    newest_lost = max({*range(500)} - {int(str(use.wanted)[1:]) for use in keeper.kept.values()})
    assert [served(at=newest_lost).at] == keeper.missing
    assert 90 <= len(keeper.kept) <= 100
    assert [f"t{each}" for each in range(500 - len(keeper.kept), 500)] == [
        str(use.wanted) for use in sorted(keeper.kept.values(), key=lambda use: use.last)
    ]


async def test_what_is_noted_is_merged_in_slices() -> None:
    """A long list does not hold up the loop: other work comes in between; and the inbox is bounded too."""
    usage = Usage(Keeper(), every=NEVER, limit=1000)
    usage.note([served()] * 900)
    between = 0
    while usage._inbox:
        await asyncio.sleep(0)
        between += 1
    assert between >= 4
    usage.note([served()] * 5000)
    assert 1000 == len(usage._inbox)
    await usage.close()
    assert 0 == usage.lost


async def test_it_records_by_itself() -> None:
    """Some time after something was noted it is recorded; after a failure it is tried again."""
    keeper = Keeper()
    usage = Usage(keeper, every=0.01)
    usage.note([served()])
    await asyncio.wait_for(keeper.recorded.wait(), 5)
    keeper.recorded.clear()
    keeper.failing = True
    usage.note([served()])
    await asyncio.sleep(0.03)
    keeper.failing = False
    await asyncio.wait_for(keeper.recorded.wait(), 5)
    await usage.close()
    assert 2 == keeper.count


async def test_close_leaves_nothing_behind() -> None:
    """No timer and no task outlive it, and what is noted later starts none."""
    keeper = Keeper()
    usage = Usage(keeper, every=0.001)
    usage.note([served()])
    await usage.close()
    usage.note([served()])
    await asyncio.sleep(0.01)
    assert (1, 1) == (keeper.count, len(asyncio.all_tasks()))


@pytest.mark.parametrize("started", [False, True])
async def test_a_ledger_that_hangs_does_not_hold_up_the_end(*, started: bool) -> None:
    """Close gives up after its deadline, and ends the task that waits."""
    keeper = Keeper()
    keeper.gate = asyncio.Event()
    usage = Usage(keeper, every=0.0 if started else NEVER, last=0.01)
    usage.note([served()])
    await asyncio.sleep(0.01)
    await usage.close()
    assert (0, 1) == (keeper.count, len(asyncio.all_tasks()))


async def test_explain_tells_who_pulled(world: World) -> None:
    """From the answer, over memory and ledger, to what people are told."""
    assert NotUsed() == (await world.mirror.explain.reference(world.reference())).used
    now = world.clock()
    world.mirror.used(
        [
            Served(world.repository(), V1, ONE, "10.0.0.7", 3, now, is_manifest=True),
            Served(world.repository(), TWO, TWO, "10.0.0.7", 1, now, is_manifest=False),
        ]
    )
    await world.mirror.close()
    found = (await world.mirror.explain.reference(world.reference())).used
    assert isinstance(found, Used)
    assert (3, 1, "10.0.0.7", now) == (found.count, found.clients, found.newest[0].client, found.last)
    blob = (await world.mirror.explain.reference(DigestReference(world.repository(), TWO))).used
    assert isinstance(blob, Used)
    assert (1, 0) == (blob.count, blob.clients)
