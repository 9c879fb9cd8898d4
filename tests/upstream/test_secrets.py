"""Passwords and tokens: where they never go, and where they are never shown (T33, T34, T39)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from yarl import URL

from dialing import dialing, whole
from iarproxy.errors import IarproxyError, UpstreamUnavailable, UpstreamWrong
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


def _tokens_asked(registry: FakeRegistry) -> int:
    return registry.count(part="/token")


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
        ("https://quay.io/v2/auth", "https://quay.io", (), True),
        ("https://us-west1-docker.pkg.dev/v2/token", "https://us-west1-docker.pkg.dev", (), True),
        ("https://us-east1-docker.pkg.dev/v2/token", "https://us-west1-docker.pkg.dev", (), False),
        ("https://gcr.io/v2/token", "https://gcr.io", (), True),
        ("https://public.ecr.aws/token/", "https://public.ecr.aws", (), True),
        ("https://team.azurecr.io/oauth2/token", "https://team.azurecr.io", (), True),
        ("https://other.azurecr.io/oauth2/token", "https://team.azurecr.io", (), False),
        ("https://gitlab.example.com/jwt/auth", "https://registry.example.com", (), False),
        ("https://ghcr.io/token", "https://lscr.io", (), True),
        ("https://docker-auth.elastic.co/auth", "https://docker.elastic.co", (), True),
        ("https://auth.docker.io/token", "https://lscr.io", (), False),
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
        shown = [repr(upstream), caplog.text, repr(vars(upstream)), repr(vars(upstream._primary._asker._tokens))]
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
    """One line that names the setting, when the credential is needed; it may be there again in a moment."""
    async with (
        FakeRegistry(authority=Authority("basic")) as registry,
        dialing(registry, username="me", password_file=tmp_path / "none") as upstream,
    ):
        with pytest.raises(UpstreamUnavailable, match=r"password_file .*none cannot be read: No such file"):
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
