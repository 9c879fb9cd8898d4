"""Tokens and passwords: who gets them, how often they are asked for, and who never sees them (T33, T40, R40)."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from yarl import URL

from dialing import dialing, whole
from iarproxy.errors import ConfigError, Denied, IarproxyError, UpstreamBusy, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from iarproxy.upstream.realms import check_realm
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


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()


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
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(wait_for="herd"))
        asking = [asyncio.create_task(upstream.manifest("a/b", Tag("1"))) for _ in range(100)]
        while registry.count("GET", "/manifests/") < 40:
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


@pytest.mark.parametrize(("stated", "life"), [(300, 300), (None, 60), (5, 60), (10**9, 3600)])
async def test_a_token_is_renewed_at_80_percent(stated: float | None, life: float) -> None:
    """Nothing said means 60 seconds, less is not believed, and nor is more than an hour."""
    clock = Clock()
    authority = Authority("bearer", expires_in=stated, clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry, dialing(registry, now=clock) as upstream:
        registry.content.publish("a/b", "1", small_image())
        for after, expected in [(0.0, 1), (0.79, 1), (0.81, 2)]:
            clock.at = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=after * life)
            if stated == 5:
                authority.issued = {token: (names, 1e12) for token, (names, _) in authority.issued.items()}
            await upstream.manifest("a/b", Tag("1"))
            assert _tokens_asked(registry) == expected


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
    """public.ecr.aws answers 400 to an old token: it is dropped, and a new one asked for."""
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.faults.add("/v2/*", Fault(status=400), times=1)
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert _tokens_asked(registry) == 2


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
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", fault)
        with pytest.raises(IarproxyError) as raised:
            await upstream.manifest("a/b", Tag("1"))
        assert error is raised.type
        registry.faults.clear()
        await upstream.manifest("a/b", Tag("1"))


# --- who never sees them ----------------------------------------------------------------------------------------------


async def test_an_evil_realm_gets_nothing(password: Path) -> None:
    """A realm on another host is not asked at all, and the message names it and the setting (CVE-2026-33540)."""
    evil = FakeRegistry(host="127.0.0.2")
    async with (
        evil,
        FakeRegistry(authority=Authority("bearer", realm=f"{evil.url}/token")) as registry,
        dialing(registry, username="me", password_file=password) as upstream,
    ):
        with pytest.raises(UpstreamWrong, match=r'127\.0\.0\.2.*auth_hosts = \["127\.0\.0\.2"\]'):
            await upstream.manifest("a/b", Tag("1"))
        assert evil.log == []
        assert "Authorization" not in registry.log[0].headers


async def test_a_realm_of_its_own_host_may_be_configured() -> None:
    """With `auth_hosts` the token comes from there (over TLS, which `check_realm` tests; here the check of http)."""
    authority = Authority("bearer")
    async with FakeRegistry(authority=authority) as registry, FakeRegistry(authority=authority) as token_server:
        authority.realm = f"{token_server.url}/token"
        registry.content.publish("a/b", "1", small_image())
        async with dialing(registry) as upstream:  # the same host, another port
            await upstream.manifest("a/b", Tag("1"))
        assert token_server.count(part="/token") == 1


@pytest.mark.parametrize(
    ("realm", "upstream", "hosts", "allowed"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io", (), True),
        ("https://auth.docker.io/token", "https://evil.example", (), False),
        ("https://evil.docker.io/token", "https://registry-1.docker.io", (), False),
        ("https://auth.docker.io.evil.example/token", "https://registry-1.docker.io", (), False),
        ("http://auth.docker.io/token", "https://registry-1.docker.io", (), False),
        ("https://ghcr.io/token", "https://ghcr.io", (), True),
        ("https://GHCR.io/token?x=1", "https://ghcr.io", (), True),
        ("http://ghcr.io/token", "https://ghcr.io", (), False),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", (), True),
        ("https://auth.corp.example/t", "https://reg.corp.example", (), False),
        ("https://auth.corp.example/t", "https://reg.corp.example", ("auth.corp.example",), True),
        ("https://auth.corp.example:8443/t", "https://reg.corp.example", ("auth.corp.example:8443",), True),
        ("http://auth.corp.example/t", "https://reg.corp.example", ("auth.corp.example",), False),
        ("http://127.0.0.1:5001/t", "http://127.0.0.1:5000", (), True),
        ("http://127.0.0.1:5001/t", "https://127.0.0.1:5000", (), False),
        ("http://127.0.0.2:5001/t", "http://127.0.0.1:5000", ("127.0.0.2",), False),
        ("https://user:pw@ghcr.io/token", "https://ghcr.io", (), False),
        ("file:///etc/passwd", "https://ghcr.io", (), False),
        ("/token", "https://ghcr.io", (), False),
        ("", "https://ghcr.io", (), False),
        ("https://[::1", "https://ghcr.io", (), False),
    ],
)
def test_realms(realm: str, upstream: str, hosts: tuple[str, ...], allowed: bool) -> None:  # noqa: FBT001  # a column
    """The upstream's host, a known pair, or a configured one; https, or plain http on a plain http upstream's host."""
    if allowed:
        assert str(check_realm(realm, URL(upstream), hosts)).lower() == realm.lower()
        return
    with pytest.raises(UpstreamWrong):
        check_realm(realm, URL(upstream), hosts)


async def test_a_challenge_of_another_origin_is_not_answered(password: Path) -> None:
    """A storage host that asks for Basic or Bearer after a redirect gets nothing."""
    authority = Authority("basic", users={"me": CANARY})
    storage = FakeRegistry(host="127.0.0.2", authority=Authority("basic", users={"me": CANARY}))
    async with (
        storage,
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="me", password_file=password) as upstream,
    ):
        digest = registry.content.publish_blob("a/b", b"x")
        registry.faults.add("*/blobs/*", Fault(location=f"{storage.url}{{path}}"))
        with pytest.raises(UpstreamUnavailable):
            await whole(upstream, "a/b", digest)
        assert storage.log
        assert all("Authorization" not in seen.headers for seen in storage.log)


async def test_no_secret_is_shown(password: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither password nor token is in a message, a log line, a repr or a chained exception."""
    caplog.set_level(logging.DEBUG)
    authority = Authority("bearer", users={"me": CANARY}, anonymous=False)
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="me", password_file=password) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        (token,) = authority.issued
        shown = [repr(upstream), caplog.text, repr(vars(upstream)), repr(vars(upstream._asker._tokens))]
        for fault in (
            Fault(status=500),
            Fault(status=403),
            Fault(no_answer=True),
            Fault(headers={"Content-Length": "x"}),
        ):
            registry.faults.clear()
            registry.faults.add("*", fault)
            with pytest.raises(IarproxyError) as raised:
                await upstream.manifest("a/b", Tag("1"))
            error: BaseException | None = raised.value
            while error is not None:
                shown.append(repr(error))
                error = error.__cause__ or error.__context__
        assert [text for text in shown if token in text or CANARY in text or "canary" in text] == []


async def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    """One line that names the setting, when the credential is needed."""
    async with (
        FakeRegistry(authority=Authority("basic")) as registry,
        dialing(registry, username="me", password_file=tmp_path / "none") as upstream,
    ):
        with pytest.raises(ConfigError, match=r"password_file .*none cannot be read: No such file"):
            await upstream.manifest("a/b", Tag("1"))


async def test_workers_share_a_token(tmp_path: Path) -> None:
    """A second process finds the first one's token in the cache; another user does not."""
    authority = Authority("bearer", users={"me": "p"})
    (tmp_path / "password").write_text("p")
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("a/b", "1", small_image())
        for _ in range(2):
            async with dialing(registry, cache_dir=tmp_path / "cache") as upstream:
                await upstream.manifest("a/b", Tag("1"))
        assert _tokens_asked(registry) == 1
        file = tmp_path / "password"
        async with dialing(registry, cache_dir=tmp_path / "cache", username="me", password_file=file) as upstream:
            await upstream.manifest("a/b", Tag("1"))
        assert _tokens_asked(registry) == 2
