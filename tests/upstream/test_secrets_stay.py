"""No secret leaves the host it is for, and none is shown: every kind of credential, every way to lead it astray.

Every secret is a canary; an evil host on another address keeps everything that it is sent (T33, T34, T39, T41).
"""

from __future__ import annotations

import base64
import io
import logging
import stat
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from prometheus_client import generate_latest

from dialing import Clock, dialing, whole
from iarproxy.errors import IarproxyError
from iarproxy.metrics import Metrics
from iarproxy.oci import Digest, Tag
from iarproxy.upstream import Upstream
from images import small_image
from proxying import FakeProxy
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

PASSWORD, IDENTITY, TOKEN = "canary-pass:wörd", "canary-identity", "canary-registry-token"
SIGNED = "X-Amz-Signature=canary-signature"
KINDS = {
    "login": {"username": "me", "password": PASSWORD},
    "identity token": {"username": "me", "password": PASSWORD, "identitytoken": IDENTITY},
    "registry token": {"registrytoken": TOKEN},
    "helper": {},
}
FAULTS = [
    Fault(status=400),
    Fault(status=401),
    Fault(status=403),
    Fault(status=404),
    Fault(status=429, headers={"Retry-After": "1"}),
    Fault(status=500),
    Fault(status=503, body=b"<html>"),
    Fault(no_answer=True),
    Fault(headers={"Content-Length": "x"}),
    Fault(headers={"Content-Encoding": "gzip"}),
    Fault(body=b"{}"),
    Fault(body=b"garbage"),
    Fault(truncate_at=1),
    Fault(stall_at=-1),
    Fault(location="https://u:canary-userinfo@example.com/"),
    Fault(location="http://127.0.0.3:9/x?" + SIGNED),
    Fault(location="http://169.254.169.254/x?" + SIGNED),
    Fault(location="{path}?" + SIGNED),
]


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`docker-credential-test`."""
    script = tmp_path / "bin" / "docker-credential-test"
    script.parent.mkdir()
    answer = orjson.dumps({"ServerURL": "x", "Username": "me", "Secret": PASSWORD}).decode()
    script.write_text(f"#!/bin/sh\nread server\necho canary-stderr >&2\necho '{answer}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    return script


@asynccontextmanager
async def logged_in(registry: FakeRegistry, folder: Path, kind: str, **options: Any) -> AsyncIterator[Upstream]:
    """The upstream, with a credential of this kind."""
    if kind == "helper":
        options["credential_helper"] = "test"
    else:
        file = folder / "auth.json"
        file.write_bytes(orjson.dumps({"auths": {registry.address: KINDS[kind]}}))
        options["auth_file"] = file
    async with dialing(registry, cache_dir=folder / "cache", **options) as upstream:
        yield upstream


def authority(kind: str, scheme: str) -> Authority:
    """Knows all the canaries."""
    made = Authority("basic" if scheme == "basic" else "bearer", users={"me": PASSWORD}, anonymous=False, post=True)
    made.identity_tokens = {IDENTITY}
    made.issued[TOKEN] = (frozenset({"a/b"}), 1e12)
    return made


def secrets(made: Authority) -> list[str]:
    """Whatever may show one: as it is, and as it is sent."""
    pairs = [f"me:{each}".encode() for each in (PASSWORD, IDENTITY)]
    return ["canary", *made.issued, *(base64.b64encode(each).decode().rstrip("=") for each in pairs)]


def sent(host: FakeRegistry) -> str:
    """Everything that a host was sent."""
    return "\n".join(f"{seen.method} {seen.path} {dict(seen.headers)} {seen.body!r}" for seen in host.log)


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("way", ["redirect", "realm", "challenge after redirect", "redirect of the realm"])
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_for_another_host(tmp_path: Path, helper: Path, kind: str, way: str, scheme: str) -> None:
    """A redirect to another host, a realm there, and a challenge from there: it is sent no Authorization, ever."""
    made = authority(kind, scheme)
    evil = FakeRegistry(host="127.0.0.2", authority=Authority("none"))
    async with (
        evil,
        FakeRegistry(authority=made) as registry,
        logged_in(registry, tmp_path, kind) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        blob = image.layers[0]
        if way != "realm":
            with suppress(IarproxyError):
                await upstream.manifest("a/b", Tag("1"))  # logged in before it is led astray
        if way == "challenge after redirect":
            evil.authority = Authority("none", challenges=[f'Bearer realm="{evil.url}/token"', 'Basic realm="x"'])
            evil.authority.kind = "basic"
        if way == "realm":
            made.challenges = [f'Bearer realm="{evil.url}/token",service="x",scope="repository:a/b:pull"']
        elif way == "redirect of the realm":
            made.revoke()
            registry.faults.add("/token*", Fault(location=f"{evil.url}{{path}}"))
        else:
            registry.faults.add("/v2/*", Fault(location=f"{evil.url}{{path}}"))
        for act in (upstream.manifest("a/b", Tag("1")), upstream.tags("a/b"), whole(upstream, "a/b", blob)):
            with suppress(IarproxyError):
                await act
        assert bool(evil.log) == (way in ("redirect", "challenge after redirect"))
        assert all(not {"Authorization", "Cookie"} & set(seen.headers) for seen in evil.log)
        assert [each for each in secrets(made) if each in sent(evil)] == []


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("kind", KINDS)
async def test_no_secret_is_shown(
    tmp_path: Path, helper: Path, kind: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every failure of registry, storage and token server: no canary in a message, traceback, repr, log or metric."""
    caplog.set_level(logging.DEBUG)
    made, clock, metrics = authority(kind, scheme), Clock(), Metrics.open(None)
    made.clock = clock.seconds
    shown: list[str] = []
    async with FakeRegistry(authority=made) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        with structlog.testing.capture_logs() as said:
            async with logged_in(registry, tmp_path, kind, meter=metrics, now=clock) as upstream:
                await shown_by(upstream, image.layers[0], shown)
                for pattern in ("/v2/*", "/token*"):
                    for fault in FAULTS:
                        clock.at = clock.at.replace(hour=(clock.at.hour + 1) % 24)
                        registry.faults.clear()
                        registry.faults.add(pattern, fault, methods=frozenset({"GET", "HEAD", "POST"}))
                        await shown_by(upstream, image.layers[0], shown)
                shown += [repr(vars(each)) for each in reachable(upstream)]
        shown += [str(said), caplog.text, generate_latest(metrics.registry).decode()]
        assert len(shown) > 50
        assert {each: text for text in shown for each in secrets(made) if each in text} == {}


async def test_no_secret_of_a_proxy_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that refuses the login, one that is not there, and one that passes everything on."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "proxy.password").write_text(PASSWORD)
    shown: list[str] = []
    login = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
    async with FakeRegistry() as registry, FakeProxy(login=login) as proxy:
        image = registry.content.publish("a/b", "1", small_image())
        options: dict[str, Any] = {"proxy_username": "me", "proxy_password_file": tmp_path / "proxy.password"}
        with structlog.testing.capture_logs() as said:
            for url, wanted in [(proxy.url, login), (proxy.url, "another"), ("http://127.0.0.1:9", login)]:
                proxy.login = wanted
                async with dialing(registry, proxy=url, **options) as upstream:
                    await shown_by(upstream, image.layers[0], shown)
                    registry.faults.add("*", Fault(status=503), times=9)
                    await shown_by(upstream, image.layers[0], shown)
                    shown += [repr(vars(each)) for each in reachable(upstream)]
                registry.faults.clear()
        assert proxy.log
        assert not [seen for seen in registry.log if "Proxy-Authorization" in seen.headers]
        shown += [str(said), caplog.text]
        assert [text for text in shown for each in ("canary", login[6:30]) if each in text] == []


async def shown_by(upstream: Upstream, blob: Digest, shown: list[str]) -> None:
    """Ask for something of everything; add what the failures show."""
    for act in (upstream.manifest("a/b", Tag("1")), upstream.blob_size("a/b", blob), whole(upstream, "a/b", blob)):
        try:
            await act
        except IarproxyError as error:
            told = traceback.TracebackException.from_exception(error, compact=True)
            shown.append("".join(told.format()) + repr(error) + str(error.detail) + _chain(error))


def _chain(error: BaseException) -> str:
    said = io.StringIO()
    more: BaseException | None = error
    while more is not None:
        said.write(repr(more) + repr(more.args))
        more = more.__cause__ or more.__context__
    return said.getvalue()


def reachable(root: object) -> list[object]:
    """The objects of ours that `root` holds, directly or not: what a debugger or a careless log would print."""
    found: list[object] = []
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if type(each).__module__.startswith("iarproxy.upstream") and hasattr(each, "__dict__") and each not in found:
            found.append(each)
            waiting += vars(each).values()
        elif isinstance(each, (list, tuple)):
            waiting += each
    return found
