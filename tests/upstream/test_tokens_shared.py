"""How often token servers are asked: once per key and expiry, whatever the worker, and not again after a no (R40)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from dialing import Clock, dialing
from iarproxy.errors import Denied, UpstreamBusy, UpstreamUnavailable
from iarproxy.oci import Tag
from iarproxy.upstream import Timeouts, Upstream
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.credentials import Secret
from iarproxy.upstream.issuing import Token
from iarproxy.upstream.sharing import SharedTokens
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

CANARY = "canary-pa:ss-wörd"


def tokens_asked(registry: FakeRegistry) -> int:
    return registry.count(part="/token")


@asynccontextmanager
async def workers(
    registry: FakeRegistry, folder: Path, clock: Clock, **options: object
) -> AsyncIterator[list[Upstream]]:
    """Two workers with one cache, which ask each time what was refused a moment ago."""
    async with AsyncExitStack() as stack:
        settings = {
            "cache_dir": folder / "cache",
            "now": clock,
            "timeouts": Timeouts(),
            "negative_ttl": "0s",
            **options,
        }
        yield [await stack.enter_async_context(dialing(registry, **settings)) for _ in range(2)]  # type: ignore[arg-type]  # options by name


async def test_workers_ask_once(tmp_path: Path) -> None:
    """Both want a token at the same moment: one asks, and the other waits for what it gets."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as both:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(wait_for="both"))
        asking = [asyncio.create_task(each.manifest("a/b", Tag("1"))) for each in both]
        while registry.count("GET", "/manifests/") < 2 or not tokens_asked(registry):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)  # the other worker would ask now
        registry.gate("both").set()
        assert {image.raw} == {each.raw for each in await asyncio.gather(*asking)}
        assert 1 == tokens_asked(registry)


@pytest.mark.parametrize("life", [5, 30])
async def test_short_lives(tmp_path: Path, life: int) -> None:
    """A minute with a request a second from each of two workers: one token request per expiry, and no stale token."""
    clock = Clock()
    authority = Authority("bearer", expires_in=life, clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as both:
        registry.content.publish("a/b", "1", small_image())
        for _ in range(60):
            await asyncio.gather(*(each.manifest("a/b", Tag("1")) for each in both))
            clock.at += timedelta(seconds=1)
        assert 60 // life == tokens_asked(registry)
        assert 2 == len([seen for seen in registry.log if seen.status == 401])


async def test_a_token_that_runs_out_under_way(tmp_path: Path) -> None:
    """Its 401 is answered with a new one, for which one worker asks and both profit."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as both:
        registry.content.publish("a/b", "1", small_image())
        for each in both:
            await each.manifest("a/b", Tag("1"))
        authority.revoke()
        await asyncio.gather(*(each.manifest("a/b", Tag("1")) for each in both))
        assert 2 == tokens_asked(registry)


async def test_a_worker_that_dies_while_it_asks(tmp_path: Path) -> None:
    """Its claim runs out, and somebody else asks."""
    clock = Clock()
    cache = await SharedCache.open(tmp_path / "cache")
    issued = Token(Secret("t"), clock.seconds(), clock.seconds() + 10, clock.seconds() + 10)

    async def issue() -> Token:
        return issued

    assert await cache.claim("claim key", b"dead", 0.3)
    assert not await cache.claim("claim key", b"other", 0.3)
    await cache.unclaim("claim key", b"other")
    started = asyncio.get_running_loop().time()
    assert issued == await SharedTokens(cache, clock).obtain("key", None, issue)
    assert asyncio.get_running_loop().time() - started > 0.1
    assert issued == await SharedTokens(cache, clock).obtain("key", None, issue)
    await cache.close()


@pytest.mark.parametrize(("status", "error"), [(401, Denied), (403, Denied), (429, UpstreamBusy)])
async def test_a_no_is_remembered(tmp_path: Path, status: int, error: type[Exception]) -> None:
    """Ten tries by two workers are one question to the token server, until some seconds later."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as both:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(status=status))
        for each in both * 5:
            with pytest.raises(error, match=f"answered {status} for repository:a/b:pull to anonymous"):
                await each.manifest("a/b", Tag("1"))
        assert 1 == tokens_asked(registry)
        registry.faults.clear()
        clock.at += timedelta(seconds=11)
        for each in both:
            await each.manifest("a/b", Tag("1"))
        assert 2 == tokens_asked(registry)


async def test_a_server_that_says_when(tmp_path: Path) -> None:
    """A 429 with Retry-After: not asked before, not longer than a minute, and the caller is told what is left."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as (one, _):
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(status=429, headers={"Retry-After": "600"}))
        for left in (600, 60, 20):
            with pytest.raises(UpstreamBusy) as raised:
                await one.manifest("a/b", Tag("1"))
            assert left == raised.value.retry_after
            clock.at += timedelta(seconds=0 if left == 600 else 40)
        assert 1 == tokens_asked(registry)


async def test_a_token_server_that_is_down_is_asked_again(tmp_path: Path) -> None:
    """A failure of its own is no answer: the next try may find it well."""
    clock = Clock()
    async with FakeRegistry(authority=Authority("bearer")) as registry, workers(registry, tmp_path, clock) as (one, _):
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(status=503), times=1)
        await one.manifest("a/b", Tag("1"))
        registry.faults.add("/token*", Fault(status=503))
        with pytest.raises(UpstreamUnavailable):
            await one.manifest("c/d", Tag("1"))


@pytest.mark.parametrize("status", [401, 403, 400])
async def test_a_loop_of_refusals(tmp_path: Path, status: int) -> None:
    """A registry that refuses every token: one renewed try, then for some seconds one request per request."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as (one, _):
        registry.content.publish("a/b", "1", small_image())
        await one.manifest("a/b", Tag("1"))
        clock.at += timedelta(seconds=11)
        registry.forget()
        challenge = f'Bearer realm="{registry.url}/token",service="registry.test"'
        registry.faults.add("/v2/*", Fault(status=status, headers={"WWW-Authenticate": challenge}))
        for _ in range(5):
            with pytest.raises((Denied, UpstreamUnavailable)):
                await one.manifest("a/b", Tag("1"))
        assert (6, 1) == (registry.count("GET", "/manifests/"), tokens_asked(registry))
        clock.at += timedelta(seconds=11)
        with pytest.raises((Denied, UpstreamUnavailable)):
            await one.manifest("a/b", Tag("1"))
        assert (8, 2) == (registry.count("GET", "/manifests/"), tokens_asked(registry))


async def test_a_403_to_a_new_token_stands(tmp_path: Path) -> None:
    """A token of a moment ago has not run out: the refusal is meant."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, workers(registry, tmp_path, clock) as (one, _):
        registry.content.publish("a/b", "1", small_image())
        await one.manifest("a/b", Tag("1"))
        registry.faults.add("/v2/*", Fault(status=403))
        with pytest.raises(Denied):
            await one.manifest("a/b", Tag("1"))
        assert (3, 1) == (registry.count("GET", "/manifests/"), tokens_asked(registry))


async def test_another_secret_is_another_credential(tmp_path: Path) -> None:
    """A changed password asks for a token of its own, in both workers once; the folder they share tells neither."""
    clock = Clock()
    authority = Authority("bearer", users={"me": CANARY}, anonymous=False, clock=clock.seconds)
    file = tmp_path / "password"
    file.write_text(CANARY)
    async with (
        FakeRegistry(authority=authority) as registry,
        workers(registry, tmp_path, clock, username="me", password_file=file) as both,
    ):
        registry.content.publish("a/b", "1", small_image())
        for number, password in enumerate([CANARY, f"other-{CANARY}"], 1):
            authority.users["me"] = password
            file.write_text(password)
            for each in both:
                await each.manifest("a/b", Tag("1"))
            assert number == tokens_asked(registry)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert {"cache.db", "secret"} == set(kept)
    assert b"canary" not in b"".join(kept.values())
