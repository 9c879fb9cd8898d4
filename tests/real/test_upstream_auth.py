"""A real registry that wants tokens, or user and password, or both over TLS with a certificate authority of its own.

Its tokens live five seconds, so that a pull spans many of them: 13 seconds here, with `IARPROXY_SEEDS=200` a minute.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from layers import Image, image
from machine import Proxy, Registry, ask
from processes import TRUSTED
from taps import Tap
from token_server import ISSUER, SERVICE, Certified, TokenServer

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry"), pytest.mark.timeout(300)]
LONG = int(os.environ.get("IARPROXY_SEEDS", "12")) >= 200
SECONDS = 60 if LONG else 13  # that the pull takes
LIFE = 5
LAYER, PER_SECOND = 256 * 1024, 2
ME, CANARY = "robot$me", "canary-pa:ss-wörd"
# bcrypt of two passwords
HASHES = {
    "canary-basic-one": "$2b$05$abcdefghijklmnopqrstuuYM7APSAk.LjmoVvv9xdI6WeklSY4Uoi",
    "canary-basic-two": "$2b$05$abcdefghijklmnopqrstuukb8YiGBJb6jUsCj15RPZBD7OLcVb73a",
}


def configure(proxy: Proxy, section: str) -> None:
    """One upstream, whose section this is."""
    head = proxy.config.read_text().partition("[upstreams.")[0]
    proxy.config.write_text(f'{head}[upstreams."registry.example.com"]\n{section}\n')


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry, not started."""
    made = Registry(tmp_path / "upstream")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def proxy(tmp_path: Path, registry: Registry) -> Iterator[Proxy]:
    """A mirror of two workers, not started."""
    made = Proxy(tmp_path / "mirror", registry.port)
    try:
        yield made
    finally:
        if made.started:
            made.stop()


def published(registry: Registry, name: str, *sizes: int) -> Image:
    """Push while nobody has to log in."""
    auth, tls, registry.auth, registry.tls = registry.auth, registry.tls, "", None
    registry.start()
    pushed = registry.push(name, "1", image(name, *sizes))
    registry.stop()
    registry.auth, registry.tls = auth, tls
    return pushed


def pull(proxy: Proxy, name: str, pushed: Image) -> list[int]:
    """Ask for the manifest and each blob; the statuses. What comes with 200 is right."""
    statuses = []
    wanted = {"manifests/1": pushed.manifest} | {f"blobs/{digest}": data for digest, data in pushed.blobs.items()}
    for target, data in wanted.items():
        answer = proxy.get(f"/v2/registry.example.com/{name}/{target}")
        assert answer.status != 200 or answer.body == data
        statuses.append(answer.status)
    return statuses


def kept(proxy: Proxy) -> dict[str, bytes]:
    """What the mirror wrote, by file, except blobs and what its workers share."""
    files = [path for path in proxy.store.rglob("*") if path.is_file() and "blobs" not in path.parts]
    return {path.name: path.read_bytes() for path in [*proxy.folder.glob("*.log"), *files]}


def shown(proxy: Proxy) -> dict[str, bytes]:
    """All that a person may see of the mirror, by where; with what it keeps."""
    found = kept(proxy)
    for target in ("/metrics", "/healthz", "/readyz", "/api/v1/pins", "/api/v1/drift", "/"):
        found[target] = ask(proxy.admin, target).body
    for command in ("check-config", "check-config --json", "explain registry.example.com/team/app:1", "journal show"):
        ran = proxy.command(*command.split())
        found[command] = ran.body + ran.headers["stderr"].encode()
    return found


async def test_tokens_of_five_seconds(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    """A pull that spans many of them works, with one token request per expiry in two workers; no secret is shown."""
    with TokenServer({ME: CANARY}, life=LIFE) as tokens:
        bundle, _ = tokens.signer.write(tmp_path / "signer", "bundle")
        registry.auth = (
            f"{{token: {{realm: {tokens.realm}, service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {bundle}}}}}"
        )
        pushed = await asyncio.to_thread(published, registry, "team/app", *[LAYER] * (SECONDS * PER_SECOND))
        await asyncio.to_thread(registry.start)
        (tmp_path / "password").write_text(f"{CANARY}\n")
        async with Tap(registry.port, rate=LAYER * PER_SECOND) as tap:
            login = f'username = "{ME}"\npassword_file = "{tmp_path / "password"}"'
            configure(proxy, f'url = "http://127.0.0.1:{tap.port}"\n{login}')
            await asyncio.to_thread(proxy.start)
            started = time.monotonic()
            statuses = await asyncio.to_thread(pull, proxy, "team/app", pushed)
            took = time.monotonic() - started
            await asyncio.to_thread(pull, proxy, "team/none", pushed)
        asked = [each.at for each in tokens.log if "team/app" in each.scope]
        assert {200} == set(statuses)
        assert took >= SECONDS - 1
        assert 2 <= len(asked) <= took / LIFE + 1
        assert [] == [later - former for former, later in pairwise(asked) if later - former < LIFE - 0.5]
        await asyncio.to_thread(_expires, registry, tokens.granted[0].token)
        secrets = [CANARY, base64.b64encode(f"{ME}:{CANARY}".encode()).decode(), "canary"]
        secrets += [each.token.rpartition(".")[2] for each in tokens.granted]
        seen = await asyncio.to_thread(shown, proxy)
        assert len(seen) > 15
        assert [] == [(where, secret) for where, text in seen.items() for secret in secrets if secret.encode() in text]


def _expires(registry: Registry, token: str) -> None:
    """The registry does refuse a token that has run out."""
    assert 401 == ask(registry.port, "/v2/team/app/manifests/1", Authorization=f"Bearer {token}").status


@pytest.mark.parametrize("source", ["auth_file", "credential_helper"])
def test_basic_over_tls(registry: Registry, proxy: Proxy, tmp_path: Path, source: str) -> None:
    """A CA of our own and Basic; a login that is changed on both sides is found by a running mirror."""
    registry.tls = Certified.new().write(tmp_path / "tls", "server")
    users = tmp_path / "htpasswd"
    registry.auth = f"{{htpasswd: {{realm: basic, path: {users}}}}}"
    pushed, second = published(registry, "team/app", 100_000), published(registry, "team/second", 100_000)
    address = f"127.0.0.1:{registry.port}"
    auths, script = tmp_path / "config.json", tmp_path / "bin" / "docker-credential-test"
    script.parent.mkdir()
    proxy.environment["PATH"] = f"{script.parent}:{TRUSTED['PATH']}"

    def log_in(password: str) -> None:
        coded = base64.b64encode(f"me:{password}".encode()).decode()
        auths.write_text(json.dumps({"auths": {address: {"auth": coded}}}))
        answer = json.dumps({"ServerURL": address, "Username": "me", "Secret": password})
        script.write_text(f"#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {address}' ] || exit 2\necho '{answer}'\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    one, two = HASHES
    users.write_text(f"me:{HASHES[one]}\n")
    registry.start()
    log_in(one)
    named = {"auth_file": str(auths), "credential_helper": "test"}[source]
    configure(proxy, f'url = "https://{address}"\nca_file = "{registry.tls[0]}"\n{source} = "{named}"')
    proxy.start()
    assert {200} == set(pull(proxy, "team/app", pushed))
    registry.stop()
    users.write_text(f"me:{HASHES[two]}\n")
    registry.start()
    log_in(two)
    time.sleep(5.1 if source == "credential_helper" else 0)  # what a helper said counts that long
    assert {200} == set(pull(proxy, "team/second", second))
    assert [] == [where for where, text in kept(proxy).items() if b"canary" in text]


def test_basic_over_tls_without_a_login(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    """An auth file for other hosts: asked anonymously, refused, and said once in the log of each worker."""
    registry.tls = Certified.new().write(tmp_path / "tls", "server")
    (tmp_path / "htpasswd").write_text("")
    registry.auth = f"{{htpasswd: {{realm: basic, path: {tmp_path / 'htpasswd'}}}}}"
    pushed = published(registry, "team/app", 1000)
    registry.start()
    auths = tmp_path / "config.json"
    auths.write_text(json.dumps({"auths": {"other.example": {"username": "canary", "password": "canary"}}}))
    section = f'url = "https://127.0.0.1:{registry.port}"\nca_file = "{registry.tls[0]}"\nauth_file = "{auths}"'
    configure(proxy, section)
    proxy.start()
    for _ in range(3):
        assert 403 == pull(proxy, "team/app", pushed)[0]
    log = (proxy.folder / "serve.log").read_text()
    assert 1 <= log.count("no login for this upstream in its auth_file") <= 2
    assert "canary" not in log
