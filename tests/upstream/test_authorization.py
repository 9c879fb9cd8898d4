"""Tokens and passwords: who gets them, how often they are asked for, and who never sees them (T33, T40, R40)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from yarl import URL

from dialing import Clock, dialing, whole
from iarproxy.errors import Denied, IarproxyError, UpstreamBusy, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from iarproxy.upstream.client import Timeouts
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

CANARY = "canary-pa:ss-wörd"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\n")
    return file


def _tokens_asked(registry: FakeRegistry) -> int:
    return registry.count(part="/token")


async def test_an_anonymous_token() -> None:
    """One 401, one request for a token of exactly this repository, then no question any more."""
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        for _ in range(3):
            await upstream.manifest("a/b", Tag("1"))
        await whole(upstream, "a/b", image.layers[0])
        await upstream.tags("a/b")
        assert _tokens_asked(registry) == 1
        assert [seen.status for seen in registry.log] == [401, 200, 200, 200, 200, 200, 200]
        asked = URL(registry.seen(part="/token")[0].path).query
        assert dict(asked) == {"client_id": "iarproxy", "scope": "repository:a/b:pull", "service": "registry.test"}
        assert "Authorization" not in registry.seen(part="/token")[0].headers


async def test_a_user_and_a_password(password: Path) -> None:
    """The token server sees Basic with user and password, and the registry never does."""
    authority = Authority("bearer", users={"robot$x": CANARY}, anonymous=False)
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="robot$x", password_file=password) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        for seen in registry.log:
            scheme = seen.headers.get("Authorization", "none").split()[0]
            assert (scheme == "Basic") == seen.path.startswith("/token")


async def test_basic(password: Path) -> None:
    """After one challenge every request carries Basic; a wrong password is Denied, and a rotated file is found."""
    authority = Authority("basic", users={"me": CANARY})
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="me", password_file=password) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        await upstream.manifest("a/b", Tag("1"))
        assert [seen.status for seen in registry.log] == [401, 200, 200]
        authority.users["me"] = "another"
        with pytest.raises(Denied):
            await upstream.manifest("a/b", Tag("1"))
        password.write_text("another")
        await upstream.manifest("a/b", Tag("1"))


async def test_basic_without_credentials() -> None:
    """Nothing to show: Denied, with the remedy, after one request."""
    async with FakeRegistry(authority=Authority("basic")) as registry, dialing(registry) as upstream:
        with pytest.raises(Denied, match="set username and password_file"):
            await upstream.manifest("a/b", Tag("1"))
        assert registry.count() == 1


@pytest.mark.parametrize("field", ["token", "access_token"])
async def test_the_token_by_either_name(field: str) -> None:
    """`token` and `access_token` are the same thing."""
    async with (
        FakeRegistry(authority=Authority("bearer", token_field=field)) as registry,
        dialing(registry) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))


async def test_the_oauth_form_where_get_does_not_exist(password: Path) -> None:
    """A realm that answers GET with 404 is asked once more by POST, with the password in the body."""
    authority = Authority("bearer", users={"me": CANARY}, anonymous=False, post=True)
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="me", password_file=password) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(status=404), methods=frozenset({"GET"}))
        await upstream.manifest("a/b", Tag("1"))
        (posted,) = registry.seen("POST")
        assert posted.path == "/token"
        assert b"grant_type=password" in posted.body
        assert "Authorization" not in posted.headers


# --- how long and how often -------------------------------------------------------------------------------------------


async def test_a_herd_asks_for_one_token() -> None:
    """A hundred requests at once, none with a token: one request to the token server, and everybody is served."""
    patient = Timeouts()
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry, timeouts=patient) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(wait_for="herd"))
        asking = [asyncio.create_task(upstream.manifest("a/b", Tag("1"))) for _ in range(100)]
        while registry.count("GET", "/manifests/") < 16:  # as many as may be under way
            await asyncio.sleep(0.005)
        registry.gate("herd").set()
        assert {fetched.raw for fetched in await asyncio.gather(*asking)} == {image.raw}
        assert _tokens_asked(registry) == 1


async def test_a_token_per_repository() -> None:
    """Scopes are not added up: each repository has a token that is good for it alone."""
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        for name in ("a/b", "c/d"):
            registry.content.publish(name, "1", small_image())
            await upstream.manifest(name, Tag("1"))
        assert sorted(sorted(names) for names, _ in registry.authority.issued.values()) == [["a/b"], ["c/d"]]


@pytest.mark.parametrize(
    ("stated", "life", "fresh"), [(300, 300, 0.8), (None, 60, 0.8), (5, 5, 1), (59, 59, 1), (10**9, 3600, 0.8)]
)
async def test_a_token_is_renewed_in_time(stated: float | None, life: float, fresh: float) -> None:
    """Nothing said means 60 seconds, more than an hour is not believed, and less than a minute is used to its end."""
    clock = Clock()
    authority = Authority("bearer", expires_in=stated, clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, dialing(registry, now=clock) as upstream:
        registry.content.publish("a/b", "1", small_image())
        for after, expected in [(0.0, 1), (fresh - 0.01, 1), (fresh + 0.01, 2)]:
            clock.at = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=after * life)
            await upstream.manifest("a/b", Tag("1"))
            assert _tokens_asked(registry) == expected
        assert registry.count("GET", "/manifests/") == 4  # one challenge, and never a token that had run out


async def test_an_aged_token_serves_while_its_server_is_down() -> None:
    """Between 80 and 100 % of its life a token is used when no new one is to be had."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, dialing(registry, now=clock) as upstream:
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.faults.add("/token*", Fault(status=503))
        clock.at += timedelta(seconds=270)
        await upstream.manifest("a/b", Tag("1"))
        clock.at += timedelta(seconds=31)
        with pytest.raises(UpstreamUnavailable, match="token server"):
            await upstream.manifest("a/b", Tag("1"))


async def test_a_revoked_token_is_replaced_once() -> None:
    """A 401 in spite of a token: one new token and one more try; a second 401 is Denied."""
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.authority.revoke()
        await upstream.manifest("a/b", Tag("1"))
        assert _tokens_asked(registry) == 2
        registry.forget()
        registry.faults.add(
            "/v2/*", Fault(status=401, headers={"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
        )
        with pytest.raises(Denied):
            await upstream.manifest("a/b", Tag("1"))
        assert registry.count("GET", "/manifests/") == 2


async def test_an_expired_token_may_be_a_400() -> None:
    """public.ecr.aws answers 400 to an old token, and others 403: it is dropped, and a new one asked for."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, dialing(registry, now=clock) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        for number, status in enumerate([400, 403], 2):
            clock.at += timedelta(seconds=11)
            registry.faults.add("/v2/*", Fault(status=status), times=1)
            assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
            assert _tokens_asked(registry) == number


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=401), Denied),
        (Fault(status=403), Denied),
        (Fault(status=429, headers={"Retry-After": "600"}), UpstreamBusy),
        (Fault(status=500), UpstreamUnavailable),
        (Fault(no_answer=True), UpstreamUnavailable),
        (Fault(location="http://127.0.0.2:9/"), UpstreamUnavailable),
        (Fault(body=b"<html>"), UpstreamWrong),
        (Fault(body=b"[]"), UpstreamWrong),
        (Fault(body=b"{}"), UpstreamWrong),
        (Fault(body=b'{"token": 7}'), UpstreamWrong),
        (Fault(body=b'{"token": "a\\r\\nHost: evil"}'), UpstreamWrong),
        (Fault(body=b'{"token": "' + b"x" * 100_000 + b'"}'), UpstreamWrong),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
async def test_a_token_server_that_fails(fault: Fault, error: type[IarproxyError]) -> None:
    """Each failure of the token server has its kind, and no redirect of it is followed."""
    clock = Clock()
    authority = Authority("bearer", clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, dialing(registry, now=clock) as upstream:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", fault)
        with pytest.raises(IarproxyError) as raised:
            await upstream.manifest("a/b", Tag("1"))
        assert error is raised.type
        registry.faults.clear()
        clock.at += timedelta(seconds=901)  # the longest that a Retry-After holds
        await upstream.manifest("a/b", Tag("1"))


async def test_a_token_server_that_moved() -> None:
    """Where the realm that a registry named once gives no token any more, the registry is asked anew which it wants."""
    clock = Clock()
    async with (
        FakeRegistry() as old,
        FakeRegistry(authority=Authority("bearer", realm=f"{old.url}/token")) as registry,
        dialing(registry, now=clock) as upstream,
    ):
        old.authority = registry.authority
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        assert (1, 0) == (_tokens_asked(old), _tokens_asked(registry))
        await old.stop()
        registry.authority.realm = ""
        clock.at += timedelta(hours=1)
        await upstream.manifest("a/b", Tag("1"))
        assert 1 == _tokens_asked(registry)
