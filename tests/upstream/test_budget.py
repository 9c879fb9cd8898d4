"""What an endpoint may be asked now (rules of `upstream.budget`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict
from yarl import URL

from iarproxy.errors import UpstreamDown, UpstreamHeld, UpstreamTimeout, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.budget import Budget
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.limits import Quota
from iarproxy.upstream.spending import Spending

BASE = URL("https://registry-1.docker.io")
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SPENT = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}


@dataclass
class Answer:
    """All that a budget looks at."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)


@dataclass
class World:
    """A budget, its clock, and an upstream that answers what it is told to."""

    cache: SharedCache
    seconds: float = 0.0
    sent: int = 0
    away: list[str] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    spendings: list[Spending] = field(default_factory=list)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def budget(self) -> Budget:
        """One more worker's."""
        spending = Spending("docker.io", self.cache, self.now)
        made = Budget(
            "docker.io",
            BASE,
            cache=self.cache,
            spending=spending,
            now=self.now,
            clock=lambda: self.seconds,
            turned_away=self.away.append,
            jitter=lambda: 1.0,
        )
        self.budgets.append(made)
        self.spendings.append(spending)
        return made

    async def ask(
        self,
        budget: Budget,
        what: str = "a/b/manifests/1",
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        error: BaseException | None = None,
    ) -> int:
        async def send() -> Any:
            self.sent += 1
            if error is not None:
                raise error
            return Answer(status, CIMultiDict(headers or {}))

        return (await budget.through("GET", BASE / "v2" / what, send)).status

    async def close(self) -> None:
        for budget in self.budgets:
            await budget.close()
        for spending in self.spendings:
            await spending.close()
        await self.cache.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(await SharedCache.open(tmp_path / "cache"))
    yield made
    await made.close()


async def test_a_429_holds_everything(world: World) -> None:
    """For as long as it asks, who asks is told how long, and upstream is not asked; then there is one probe."""
    budget = world.budget()
    assert 429 == await world.ask(budget, status=429, headers={"Retry-After": "30"})
    for what in ("a/b/manifests/1", "c/d/blobs/sha256:00", "c/d/tags/list"):
        with pytest.raises(UpstreamHeld, match="not asked again for 30 s") as raised:
            await world.ask(budget, what)
        assert 30 == raised.value.retry_after
    assert (1, ["held"] * 3) == (world.sent, world.away)
    world.seconds = 30
    gate = asyncio.Event()

    async def slow() -> Any:
        world.sent += 1
        await gate.wait()
        return Answer()

    probe = asyncio.create_task(budget.through("GET", BASE / "v2/a/b/manifests/1", slow))
    await asyncio.sleep(0.05)
    with pytest.raises(UpstreamHeld):
        await world.ask(budget)
    gate.set()
    assert 200 == (await probe).status
    assert 200 == await world.ask(budget)
    assert 3 == world.sent


async def test_a_503_that_names_a_time(world: World) -> None:
    """It holds as a 429 does; without a time it is a failure like others."""
    budget = world.budget()
    await world.ask(budget, status=503)
    await world.ask(budget, status=503, headers={"Retry-After": "5"})
    with pytest.raises(UpstreamHeld):
        await world.ask(budget)
    assert 2 == world.sent


async def test_a_used_up_quota_lets_blobs_pass(world: World) -> None:
    """Docker Hub's quota counts manifests: the layers of a pull whose manifests are here are fetched on."""
    budget = world.budget()
    await world.ask(budget, status=429, headers=SPENT | {"Retry-After": "60"})
    with pytest.raises(UpstreamHeld):
        await world.ask(budget, "c/d/manifests/1")
    assert 200 == await world.ask(budget, "a/b/blobs/sha256:00")


async def test_workers_share_a_hold(world: World) -> None:
    """What one was told holds the other one within a second."""
    one, other = world.budget(), world.budget()
    await world.ask(other)
    await world.ask(one, status=429, headers={"Retry-After": "30"})
    world.seconds = 1.0
    with pytest.raises(UpstreamHeld):
        await world.ask(other)
    assert 2 == world.sent


async def test_workers_share_what_is_left(world: World) -> None:
    """Also with a process that asks nothing itself; when its window is over nothing is known."""
    one = world.budget()
    await world.ask(one, headers={"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"})
    await one.close()
    told = (await world.budget().standing()).quota
    assert Quota(76, 100, 21600.0, (START + timedelta(hours=6)).timestamp()) == told
    world.seconds = 21600.0
    assert (await world.budget().standing()).quota is None


async def test_the_floor(world: World) -> None:
    """With so many requests left, or fewer, background work stops; unknown is enough."""
    budget = world.budget()
    await budget.require_spare(10)
    await world.ask(budget, headers={"RateLimit-Remaining": "11"})
    await budget.require_spare(10)
    await world.ask(budget, headers={"RateLimit-Remaining": "10"})
    with pytest.raises(UpstreamHeld, match="10 requests left, which are kept for clients"):
        await budget.require_spare(10)
    assert 200 == await world.ask(budget)
    assert ["floor"] == world.away


async def test_no_connection_shuts_the_endpoint(world: World) -> None:
    """After five, requests for anything fail at once and say why, since when and until when; the probe opens it."""
    budget = world.budget()
    for number in range(5):
        error = UpstreamUnavailable("registry is unreachable: no connection", phase="connect")
        with pytest.raises(UpstreamUnavailable):
            await world.ask(budget, f"a/{number}/manifests/1", error=error)
    world.seconds = 0.25
    with pytest.raises(UpstreamDown, match=r"docker.io fails since 12:00:00 UTC \(.*no connection\); .* in 1 s"):
        await world.ask(budget, "other/one/blobs/sha256:00")
    standing = await budget.standing()
    assert (START, 0.75) == (standing.down_since, standing.probe_in)
    world.seconds = 1.0
    assert 200 == await world.ask(budget)
    assert 200 == await world.ask(budget)
    assert (7, ["down"]) == (world.sent, world.away)


async def test_one_dead_repository(world: World) -> None:
    """It answers 500 for one repository: that one is not asked on, all others are."""
    budget = world.budget()
    for _ in range(20):
        assert 500 == await world.ask(budget, status=500)
    with pytest.raises(UpstreamDown, match=r"docker.io/a/b fails since .* \(it answers 500\)"):
        await world.ask(budget)
    assert 200 == await world.ask(budget, "c/d/manifests/1")
    world.seconds = 1.0
    assert 200 == await world.ask(budget)


async def test_failures_everywhere(world: World) -> None:
    """It answers 500 for all repositories: nothing is asked."""
    budget = world.budget()
    for number in range(20):
        await world.ask(budget, f"a/{number}/manifests/1", status=500)
    with pytest.raises(UpstreamDown):
        await world.ask(budget, "new/one/manifests/1")


async def test_refusals_are_answers(world: World) -> None:
    """401, 403, 404 and lies say that somebody is there."""
    budget = world.budget()
    for status in (401, 403, 404, 400) * 10:
        assert status == await world.ask(budget, status=status)
    for _ in range(20):
        with pytest.raises(UpstreamWrong):
            await world.ask(budget, error=UpstreamWrong("a private address"))
    assert 200 == await world.ask(budget)


async def test_waiting_in_vain(world: World) -> None:
    """Requests that were given up after a long wait are failures; those of clients who soon left are none."""
    budget = world.budget()

    async def hang(seconds: float) -> None:
        started = asyncio.Event()

        async def send() -> Any:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(budget.through("GET", BASE / "v2/a/b/manifests/1", send))
        await started.wait()
        world.seconds += seconds
        task.cancel()
        await asyncio.wait((task,))

    for _ in range(20):
        await hang(1.0)
    assert 200 == await world.ask(budget)
    for _ in range(5):
        await hang(10.0)
    with pytest.raises(UpstreamDown, match="does not answer in time"):
        await world.ask(budget)


async def test_a_probe_that_is_cancelled(world: World) -> None:
    """The next request is the probe: nobody waits for one that is gone."""
    budget = world.budget()
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            await world.ask(budget, error=UpstreamTimeout("x", phase="connect"))
    world.seconds = 1.0
    with pytest.raises(asyncio.CancelledError):
        await world.ask(budget, error=asyncio.CancelledError())
    assert 200 == await world.ask(budget)


async def test_bodies_that_keep_breaking(world: World) -> None:
    """Five blobs in a row broke off: the repository rests, the others do not."""
    budget = world.budget()
    for _ in range(5):
        await world.ask(budget, "a/b/blobs/sha256:00")
        budget.broke("a/b", "broke off")
    with pytest.raises(UpstreamDown, match="broke off"):
        await world.ask(budget, "a/b/blobs/sha256:00")
    assert 200 == await world.ask(budget, "c/d/blobs/sha256:00")


async def test_damaged_words_of_other_workers(world: World) -> None:
    """What somebody planted in the cache holds nobody for longer than a quarter of an hour."""
    key = f"budget docker.io {BASE.origin()}"
    for planted in (b"garbage", b"[1]", b'["x", "y", "z", "w"]', b"[[1,2,3],4,5,6]"):
        await world.cache.put(key, planted, 60)
        assert 200 == await world.ask(world.budget())
    await world.cache.put(key, b"[null, 0, 9e99, 0]", 60)
    with pytest.raises(UpstreamHeld) as raised:
        await world.ask(world.budget())
    assert 900 == raised.value.retry_after


async def test_token_servers_are_few(world: World) -> None:
    """An upstream that names another port each time fills no memory; the one that is used keeps what is known of it."""
    budget = world.budget()
    first = budget.beside(BASE.with_port(1))
    assert first is budget.beside(BASE.with_port(1))
    for port in range(2, 100):
        budget.beside(BASE.with_port(port))
    assert first is not budget.beside(BASE.with_port(1))
