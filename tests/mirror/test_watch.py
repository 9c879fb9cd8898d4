"""The drift watch at scale: a real ledger, a simulated upstream, and a clock that jumps to whatever is due next.

`IARPROXY_SEEDS=200` tries it with 10^5 pins; else there are some hundred, whose interval is shorter as well.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from iarproxy.errors import Denied, UpstreamHeld, UpstreamUnavailable
from iarproxy.ledger import DEFAULT, Ledger, Name, Use
from iarproxy.ledger.watching import Finding, Held, Place, Seen, Watching
from iarproxy.mirror.drift.plan import Plan, Tally
from iarproxy.mirror.drift.watch import DriftWatch
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.trust import Drifted, Steady
from virtual import counted, run_virtually

FULL = int(os.environ.get("IARPROXY_SEEDS", "30")) >= 200
MANY = 100_000 if FULL else 200
INTERVAL = timedelta(hours=6) if FULL else timedelta(minutes=10)
LENGTH = INTERVAL.total_seconds()
WINDOW = LENGTH / 6  # in which upstream counts requests

pytestmark = pytest.mark.timeout(3600 if FULL else 240)
DESCRIPTOR = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"x"), 1)
OTHER = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"other"), 1)
GOOD, BAD = "good.example.com", "bad.example.com"
START = datetime(2026, 3, 1, tzinfo=UTC)


def tag(number: int, registry: str = GOOD) -> TagReference:
    return TagReference(Repository(registry, f"team/app-{number % 97}"), Tag(f"v{number}"))


class Book:
    """The real ledger's, while time stands still."""

    def __init__(self, real: Watching) -> None:
        self._real = real

    async def slice(
        self, environment: str, registry: str, *, after: Place, limit: int, wanted: Callable[[TagReference], bool]
    ) -> tuple[list[Seen], Place | None]:
        return await counted(self._real.slice(environment, registry, after=after, limit=limit, wanted=wanted))

    async def held(self, names: Sequence[Name]) -> list[Held]:
        return await counted(self._real.held(names))

    async def confirm(self, findings: Sequence[Finding]) -> None:
        await counted(self._real.confirm(findings))


@dataclass
class Simulation:
    """A ledger, upstreams that count what they are asked, and the watch over both.

    Attributes:
        asked: when each tag was asked for, in virtual seconds since the start.
        takes: seconds that an answer of an upstream takes. down: those that give none.
        allowed: requests that an upstream gives an answer to in a window; beyond it says 429 until that is over.
        moved: tags that upstream has something else for. denied: those that it says 403 to.
        broken: one whose check fails in a way that nobody thought of.
        tallies: what was told last of each upstream.
        off: by how much the clock of the day is wrong.
    """

    ledger: Ledger
    asked: dict[TagReference, list[float]] = field(default_factory=dict)
    takes: dict[str, float] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    allowed: dict[str, int] = field(default_factory=dict)
    moved: set[TagReference] = field(default_factory=set)
    denied: set[TagReference] = field(default_factory=set)
    broken: TagReference | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    off: timedelta = timedelta()
    turned_away: Counter[str] = field(default_factory=Counter)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _spent: Counter[tuple[str, int]] = field(default_factory=Counter)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time()) + self.off

    async def check(self, held: Held) -> Finding | None:
        pin, before = held
        registry, time = pin.reference.repository.registry, self.loop.time()
        await asyncio.sleep(self.takes.get(registry, 0.05))
        if pin.reference == self.broken:
            raise RuntimeError("a test")
        if pin.reference in self.denied:
            self.turned_away[registry] += 1
            raise Denied(f"{registry} denies {pin.reference}")
        if registry in self.down:
            raise UpstreamUnavailable(f"{registry} does not answer")
        window = int(time // WINDOW)
        if self._spent[registry, window] >= self.allowed.get(registry, 10**9):
            self.turned_away[registry] += 1
            raise UpstreamHeld(f"{registry} said 429", retry_after=(window + 1) * WINDOW - time)
        self._spent[registry, window] += 1
        self.asked.setdefault(pin.reference, []).append(time)
        if pin.reference in self.moved and (before is None or before.verdict == "steady"):
            verdict = Drifted(pin.descriptor.digest, OTHER.digest)
            await counted(self.ledger.record_check(pin.reference, verdict, OTHER, {}))
            return None
        return Finding(pin, Steady(pin.descriptor.digest))

    @asynccontextmanager
    async def watching(self, *upstreams: str, interval: timedelta = INTERVAL, rate: float = 10) -> AsyncIterator[None]:
        """A process that watches, until it is killed."""
        watch = DriftWatch(
            book=Book(self.ledger.watching),
            check=self.check,
            upstreams=upstreams or (GOOD,),
            environments=(DEFAULT,),
            wanted=lambda _: True,
            favourites=self.ledger.uses.favourites,
            now=self.now,
            told=self.tallies.__setitem__,
        )
        task = asyncio.create_task(watch.patrol(interval, lambda: True, rate))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await counted(task)

    def latest(self, registry: str = GOOD) -> list[float]:
        return [times[-1] for each, times in self.asked.items() if each.repository.registry == registry]


@asynccontextmanager
async def simulation(folder: Path, count: int = MANY, *registries: str) -> AsyncIterator[Simulation]:
    """`count` pins of each registry, made at the start."""
    clock: list[Simulation] = []
    opening = Ledger.open(
        folder / "ledger.db",
        store_identity="a test",
        store_is_empty=True,
        now=lambda: clock[0].now() if clock else START,
    )
    ledger = await counted(opening)
    clock.append(Simulation(ledger))
    try:
        for registry in registries or (GOOD,):
            for first in range(0, count, 200):
                some = range(first, min(first + 200, count))
                adding = (ledger.add(tag(number, registry), DESCRIPTOR, "a test") for number in some)
                await counted(asyncio.gather(*adding))
        yield clock[0]
    finally:
        await counted(ledger.close())


def test_many_pins_within_their_period(tmp_path: Path) -> None:
    """Every pin, again and again, never more than an interval apart; evenly, and within what upstream allows."""

    async def story() -> None:
        async with simulation(tmp_path) as world:
            world.allowed[GOOD] = int(MANY / 6 * 1.6)
            async with world.watching(rate=20):
                await asyncio.sleep(2.5 * LENGTH)
            assert MANY == len(world.asked)
            assert Counter() == world.turned_away
            gaps = [later - sooner for times in world.asked.values() for sooner, later in pairwise([0.0, *times])]
            assert max(gaps) <= LENGTH
            assert 0 == world.tallies[GOOD].overdue
            total = sum(map(len, world.asked.values()))
            assert 2.4 * MANY < total < 3.8 * MANY

    run_virtually(story())


def test_an_upstream_in_trouble_holds_up_no_other(tmp_path: Path) -> None:
    """One that is down, slow or held: the pins of another are checked as ever; what is late is counted."""

    async def story(trouble: Callable[[Simulation], None], folder: Path) -> Simulation:
        folder.mkdir()
        async with simulation(folder, 80, GOOD, BAD) as world:
            trouble(world)
            async with world.watching(GOOD, BAD):
                await asyncio.sleep(1.5 * LENGTH)
            assert min(world.latest()) > 0.5 * LENGTH
            assert 0 == world.tallies[GOOD].overdue
            return world

    down = run_virtually(story(lambda world: world.down.add(BAD), tmp_path / "down"))
    assert (0, 80) == (len(down.latest(BAD)), down.tallies[BAD].overdue)
    slow = run_virtually(story(lambda world: world.takes.update({BAD: 3600.0}), tmp_path / "slow"))
    assert slow.tallies[BAD].overdue > 40
    held = run_virtually(story(lambda world: world.allowed.update({BAD: 8}), tmp_path / "held"))
    assert 40 <= len(held.latest(BAD)) <= 80
    assert held.turned_away[BAD] <= 12 * 10
    assert held.tallies[BAD].overdue > 10


def test_pins_that_fail_hold_up_no_others(tmp_path: Path) -> None:
    """Half of an upstream's pins are denied: they are tried seldom, and the other half is checked in time."""

    async def story() -> None:
        async with simulation(tmp_path, 200) as world:
            world.denied = {tag(number) for number in range(0, 200, 2)}
            world.broken = tag(0)
            async with world.watching():
                await asyncio.sleep(2.5 * LENGTH)
            gaps = [later - sooner for times in world.asked.values() for sooner, later in pairwise([0.0, *times])]
            assert (100, 100) == (len(world.asked), world.tallies[GOOD].overdue)
            assert max(gaps) <= LENGTH
            assert world.turned_away[GOOD] < 100 * 8

    run_virtually(story())


def test_a_new_process_goes_on(tmp_path: Path) -> None:
    """What was checked a moment ago is not checked again because the process changed; the rest is, in time."""

    async def story() -> None:
        async with simulation(tmp_path) as world:
            for _ in range(6):
                async with world.watching():
                    await asyncio.sleep(LENGTH / 8)
            assert [1] == list(Counter(map(len, world.asked.values())))
            assert len(world.asked) > 0.8 * MANY

    run_virtually(story())


def test_the_most_used_come_first(tmp_path: Path) -> None:
    """After a long time without a watch, the tags that clients ask for most are checked before the others."""

    async def story() -> None:
        async with simulation(tmp_path, 300) as world:
            used = [tag(number) for number in (7, 150, 299)]
            at = world.now()
            uses = [
                Use(each.repository, each.tag, DESCRIPTOR.digest, "10.0.0.1", at, at, 100 - place)
                for place, each in enumerate(used)
            ]
            await counted(world.ledger.uses.record(uses))
            await asyncio.sleep(3 * LENGTH)
            async with world.watching():
                await asyncio.sleep(LENGTH)
            order = sorted(world.asked, key=lambda each: world.asked[each][0])
            assert used == order[:3]
            assert 300 == len(order)

    run_virtually(story())


def test_clocks_that_are_set(tmp_path: Path) -> None:
    """A year forward, and two years back: the watch neither stops nor hurries beyond its pace."""

    async def story() -> None:
        async with simulation(tmp_path, 60) as world, world.watching():
            for off in (0, 365, -365, 0):
                world.off = timedelta(days=off)
                before = {each: len(times) for each, times in world.asked.items()}
                await asyncio.sleep(LENGTH)
                made = [len(times) - before.get(each, 0) for each, times in world.asked.items()]
                assert 60 == len(made)
                assert min(made) >= 1
                assert sum(made) <= 3.75 * 60

    run_virtually(story())


def test_news_is_written_at_once_and_the_rest_together(tmp_path: Path) -> None:
    """A tag that moved is in the journal when its check ends; steady ones take few transactions and no entries."""

    async def story() -> None:
        async with simulation(tmp_path, 200) as world:
            world.moved.add(tag(5))
            before = await counted(world.ledger.serial())
            async with world.watching():
                await asyncio.sleep(LENGTH)
            assert 1 == await counted(world.ledger.serial()) - before
            events = await counted(world.ledger.history(tag(5)))
            assert ["pinned", "drifted"] == [each.kind.value for each in events]
            assert 1 == await counted(world.ledger.drift_count())

    run_virtually(story())


def test_new_pins_are_noticed(tmp_path: Path) -> None:
    """A pin that is made while the watch runs is checked within the interval, as one that was repinned is."""

    async def story() -> None:
        async with simulation(tmp_path, 50) as world:
            async with world.watching():
                await asyncio.sleep(LENGTH / 2)
                await counted(world.ledger.add(tag(999), DESCRIPTOR, "a test"))
                await asyncio.sleep(LENGTH)
            assert world.asked[tag(999)]

    run_virtually(story())


def test_the_last_of_a_million_is_planned() -> None:
    """A plan picks the oldest of any number of pins, and holds no more than it is to."""
    plan = Plan(3600, 10**6, {}, size=100)
    for number in range(20_000):
        plan.consider(Seen(Name(DEFAULT, tag(number)), 10**5 + (number * 7919) % 20_000, checked=True))
    assert [float(10**5 + number) for number in range(100)] == [each.at for each in plan.picked()]
    assert Tally(20_000, 20_000, 9 * 10**5) == plan.tally
