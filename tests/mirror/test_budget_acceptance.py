"""An upstream that limits, fails, loops or lies: hardly more requests than were needed, no credential elsewhere, and
cached pulls as if nothing were (issue 4 point 5; threats R42-R47; clients.md U23-U28).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import IarproxyError, Unavailable, UnknownManifest, UpstreamHeld, UpstreamWrong
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Tag
from iarproxy.upstream import Purpose
from images import Published, image, random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from world import NAME, World, a_world

NEEDED = 200
AT_MOST = 1.2 * NEEDED
CANARY = "canary-7d1f"


@asynccontextmanager
async def a_warm_world(
    tmp_path: Path, registry: FakeRegistry, **options: Any
) -> AsyncIterator[tuple[World, Published]]:
    """A world that holds one image; the registry has two hundred others, and forgot who asked so far."""
    warm = registry.content.publish("team/app", "1", small_image())
    for number in range(NEEDED):
        registry.content.publish(f"team/app-{number % 20}", f"t{number}", small_image())
    async with a_world(tmp_path, registry, **options) as world:
        await world.tag()
        await world.mirror.holding.settle()
        for layer in warm.layers:
            await world.blob(layer)
        registry.forget()
        yield world, warm


async def pull_cached(world: World, warm: Published) -> None:
    """One pull of what is held."""
    assert warm.digest == (await world.tag()).descriptor.digest
    for layer in warm.layers:
        assert warm.blobs[layer] == await world.blob(layer)


async def need(world: World, warm: Published, *, one: str | None = None) -> int:
    """Two hundred pulls of what is not held, eight at a time, with cached ones between them; how many succeed."""
    gate, good = asyncio.Semaphore(8), 0

    async def pull(number: int) -> None:
        nonlocal good
        async with gate:
            with suppress(IarproxyError):
                await world.tag(f"t{number}", one or f"team/app-{number % 20}")
                good += 1
            async with asyncio.timeout(30):
                await pull_cached(world, warm)

    await asyncio.gather(*(pull(number) for number in range(NEEDED)))
    return good


async def _refusal(world: World) -> str:
    """Why a tag that is not held cannot be had; empty: it can."""
    try:
        await world.tag("t0", "team/app-0")
    except Unavailable as error:
        return str(error)
    return ""


async def test_429_with_retry_after(tmp_path: Path, registry: FakeRegistry) -> None:
    """What was under way when it came, and nothing more until the time is over; then one probe, and all goes on."""
    async with a_warm_world(tmp_path, registry) as (world, warm):
        registry.faults.add("*", Fault(status=429, headers={"Retry-After": "600"}))
        assert 0 == await need(world, warm)
        assert registry.count() <= 16
        with pytest.raises(UpstreamHeld) as raised:
            await world.tag("t0", "team/app-0")
        assert 0 < (raised.value.retry_after or 0) <= 600
    async with a_world(tmp_path, registry) as other:
        registry.forget()
        with pytest.raises(UpstreamHeld):
            await other.tag("t0", "team/app-0")
        await pull_cached(other, warm)
        assert 0 == registry.count()


async def test_503_half_of_the_time(tmp_path: Path, registry: FakeRegistry) -> None:
    """Further tries are a small part of all; a good part of the pulls succeed."""
    async with a_warm_world(tmp_path, registry) as (world, warm):
        registry.faults.add("*", Fault(status=503), share=0.5)
        good = await need(world, warm)
        assert registry.count("GET", "/manifests/") <= AT_MOST
        assert good >= 0.4 * NEEDED


async def test_a_dead_upstream(tmp_path: Path, registry: FakeRegistry) -> None:
    """It costs a few connections; then a no is said in no time, until a probe finds it well again."""
    async with a_warm_world(tmp_path, registry) as (world, warm):
        await registry.stop()
        assert 0 == await need(world, warm)
        async with asyncio.timeout(60):
            while "it is asked again in" not in await _refusal(world):
                await asyncio.sleep(0.05)
        await pull_cached(world, warm)
        standing = await world.upstreams[NAME].standing()
        assert standing.endpoints[0].down_since is not None
        await registry.start()
        async with asyncio.timeout(60):
            while await _refusal(world):
                await asyncio.sleep(0.05)
        assert (await world.upstreams[NAME].standing()).endpoints[0].down_since is None


async def test_401_loops(tmp_path: Path) -> None:
    """It wants a token, gives one, and wants a token: asked a few times, and not for each of two hundred tags."""
    async with (
        FakeRegistry(authority=Authority("bearer")) as registry,
        a_warm_world(tmp_path, registry) as (world, warm),
    ):
        challenge = f'Bearer realm="{registry.url}/token",service="registry.test"'
        registry.faults.add("/v2/*", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        assert 0 == await need(world, warm, one="team/app-0")
        assert registry.count() <= AT_MOST


@pytest.fixture
def login(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(CANARY)
    return file


@contextmanager
def nothing_leaves(elsewhere: FakeRegistry) -> Iterator[None]:
    """What another host was asked carries no credential."""
    yield
    for seen in elsewhere.log:
        assert "Authorization" not in seen.headers
        assert "Cookie" not in seen.headers
        assert CANARY not in f"{seen.path} {list(seen.headers.items())} {seen.body!r}"


async def test_a_realm_on_another_host(tmp_path: Path, login: Path) -> None:
    """It is not asked at all, and upstream once for each pull at most."""
    authority = Authority("bearer", users={"robot": CANARY}, anonymous=False)
    async with (
        FakeRegistry(host="127.0.0.2") as elsewhere,
        FakeRegistry(authority=authority) as registry,
        a_warm_world(tmp_path, registry, password_file=login) as (world, warm),
    ):
        authority.revoke()
        authority.challenges = (f'Bearer realm="{elsewhere.url}/token",service="registry.test"',)
        with nothing_leaves(elsewhere):
            assert 0 == await need(world, warm)
        assert 0 == elsewhere.count()
        assert registry.count() <= AT_MOST


async def test_a_redirect_to_another_host(tmp_path: Path, login: Path) -> None:
    """It is followed without the login."""
    authority = Authority("basic", users={"robot": CANARY})
    async with (
        FakeRegistry(authority=authority) as registry,
        FakeRegistry(host="127.0.0.2", content=registry.content) as elsewhere,
        a_warm_world(tmp_path, registry, password_file=login) as (world, warm),
    ):
        registry.faults.add("/v2/team/app-*", Fault(location=f"{elsewhere.url}{{path}}"))
        with nothing_leaves(elsewhere):
            assert NEEDED == await need(world, warm)
        assert elsewhere.count("GET", "/manifests/") >= NEEDED
        assert registry.count("GET", "/manifests/") <= AT_MOST


async def test_a_redirect_to_a_dead_host(tmp_path: Path, registry: FakeRegistry) -> None:
    """Storage that is dead behind one repository leaves the others alone: it is not upstream that does not answer."""
    async with a_warm_world(tmp_path, registry) as (world, warm):
        async with FakeRegistry(host="127.0.0.2") as elsewhere:
            address = elsewhere.url
        registry.faults.add("/v2/team/app-1/*", Fault(location=f"{address}{{path}}"))
        for number in range(1, NEEDED, 20):
            with suppress(IarproxyError):
                await world.tag(f"t{number}", "team/app-1")
        assert registry.count() <= 2 * NEEDED // 20 + 5  # each once, and what further tries a pull alone may have
        await world.tag("t2", "team/app-2")
        await pull_cached(world, warm)


async def test_a_redirect_to_a_private_address(tmp_path: Path, login: Path) -> None:
    """It is not dialled, and upstream is asked once for each pull."""
    authority = Authority("basic", users={"robot": CANARY})
    async with (
        FakeRegistry(authority=authority) as registry,
        a_warm_world(tmp_path, registry, password_file=login, section={"url": registry.url}) as (world, warm),
    ):
        registry.faults.add("/v2/team/app-*", Fault(location="http://169.254.169.254/latest{path}"))
        with pytest.raises(UpstreamWrong):
            await world.tag("t0", "team/app-0")
        assert 0 == await need(world, warm)
        assert registry.count() <= AT_MOST


async def test_cached_pulls_while_all_places_are_taken(tmp_path: Path, registry: FakeRegistry) -> None:
    """Blobs hang in all places and more wait: what is held is answered, and manifests do not wait for them."""
    async with a_warm_world(tmp_path, registry, section={"max_connections": 2}) as (world, warm):
        slow = registry.content.publish("team/slow", "1", image(*(random_blob(5000, seed) for seed in range(6))))
        await world.tag("1", "team/slow")
        registry.faults.add("/v2/team/slow/blobs/*", Fault(wait_for="later"))
        waiting = [asyncio.create_task(world.blob(layer, name="team/slow")) for layer in slow.layers]
        async with asyncio.timeout(20):
            while (await world.upstreams[NAME].standing()).waiting < 4:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await pull_cached(world, warm)
            await world.tag("t1", "team/app-1")
        registry.gate("later").set()
        assert [slow.blobs[layer] for layer in slow.layers] == await asyncio.gather(*waiting)


async def test_the_floor_of_a_quota(tmp_path: Path, registry: FakeRegistry) -> None:
    """The last requests are for clients: the drift watch and what is fetched ahead let them be; a person may spend."""
    async with a_warm_world(tmp_path, registry, section={"budget_floor": 5}) as (world, _):
        registry.faults.add("*/manifests/*", Fault(headers={"RateLimit-Limit": "100", "RateLimit-Remaining": "5"}))
        registry.content.publish("team/app-0", "t0", small_image(7))
        await world.tag("t0", "team/app-0")
        await world.mirror.holding.settle()
        assert 0 == registry.count("GET", "/blobs/")
        moved = registry.content.publish("team/app-0", "t0", small_image(8))
        registry.forget()
        with pytest.raises(UpstreamHeld, match="5 requests left, which are kept for clients"):
            await world.mirror.drift.check(world.reference("t0", "team/app-0"), Purpose.BACKGROUND)
        assert (1, 0) == (registry.count("HEAD"), registry.count("GET"))
        checked = await world.mirror.drift.check(world.reference("t0", "team/app-0"))
        assert "Drifted" == type(checked.verdict).__name__
        assert Held.NONE is not await world.mirror.holding.of(moved.digest)


async def test_a_person_asks_anew(tmp_path: Path, registry: FakeRegistry) -> None:
    """A tag that was not there a moment ago costs clients no request; `pull` asks, and what it finds is for all."""
    async with a_warm_world(tmp_path, registry) as (world, _):
        for _ in range(5):
            with pytest.raises(UnknownManifest):
                await world.tag("new", "team/app-0")
        assert 1 == registry.count()
        found = registry.content.publish("team/app-0", "other", small_image(8))
        registry.content.move_tag("team/app-0", "new", found.digest)
        pulled = await world.mirror.warm.pull(world.reference("new", "team/app-0"), [], _Silent())
        assert found.digest == pulled.answer.descriptor.digest
        assert found.digest == (await world.tag("new", "team/app-0")).descriptor.digest


async def test_a_herd_is_one_head(tmp_path: Path, registry: FakeRegistry) -> None:
    """A hundred who want the same size, tags or referrers at the same moment: one request each."""
    async with a_warm_world(tmp_path, registry) as (world, warm):
        upstream = world.upstreams[NAME]
        digest = warm.digest
        for ask, part in (
            (lambda: upstream.head_manifest("team/app-0", Tag("t0")), "/manifests/"),
            (lambda: upstream.blob_size("team/app", warm.layers[0]), "/blobs/"),
            (lambda: upstream.tags("team/app"), "/tags/"),
            (lambda: upstream.referrers("team/app", digest), "/referrers/"),
        ):
            await asyncio.gather(*(ask() for _ in range(100)))
            assert 1 == registry.count("", part)


class _Silent:
    """Nobody watches."""

    def planned(self, blobs: Any) -> None:
        """Nothing."""

    def advanced(self, blob: Any, done: int) -> None:
        """Nothing."""

    def finished(self, blob: Any) -> None:
        """Nothing."""
