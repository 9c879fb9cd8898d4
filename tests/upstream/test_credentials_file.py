"""Auth files of docker, podman and Kubernetes: what their entries become, and how a change of them is noticed."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from yarl import URL

from dialing import dialing
from iarproxy.errors import Denied, UpstreamUnavailable
from iarproxy.oci import Tag
from iarproxy.upstream.credentials import (
    Credential,
    IdentityToken,
    Login,
    RegistryToken,
    Secret,
    identity_of,
    user_of,
)
from iarproxy.upstream.credentials_file import AuthFile
from iarproxy.upstream.credentials_match import Server
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority

CANARY = "canary-pa:ss-wörd"
AZURE_USER = "00000000-0000-0000-0000-000000000000"


def coded(username: str, password: str) -> str:
    """The `auth` of an entry."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


async def found(
    folder: Path, document: object, *, url: str = "https://ghcr.io", name: str = "org/app"
) -> Credential | None:
    """What an auth file with this document gives."""
    file = folder / "config.json"
    file.write_bytes(orjson.dumps(document))
    source = AuthFile("ghcr.io", file, Server.of(URL(url)), lambda: 0.0)
    try:
        return await source.find(name)
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": coded("me", CANARY)}, Login("me", Secret(CANARY))),
        ({"auth": coded("me", CANARY).rstrip("=")}, Login("me", Secret(CANARY))),
        ({"auth": coded("me", "secret\0\0")}, Login("me", Secret("secret"))),
        ({"username": "me", "password": CANARY}, Login("me", Secret(CANARY))),
        ({"username": "x", "password": "y", "auth": coded("me", CANARY)}, Login("me", Secret(CANARY))),
        ({"auth": coded("_json_key", '{"a": "b:c"}')}, Login("_json_key", Secret('{"a": "b:c"}'))),
        ({"auth": coded("robot$x+y", "z")}, Login("robot$x+y", Secret("z"))),
        ({"identitytoken": "it"}, IdentityToken(Secret("it"))),
        ({"identitytoken": "it", "auth": coded("me", "")}, IdentityToken(Secret("it"), Login("me", Secret("it")))),
        ({"identitytoken": "it", "auth": coded("me", "pw")}, IdentityToken(Secret("it"), Login("me", Secret("pw")))),
        ({"auth": coded("<token>", "it")}, IdentityToken(Secret("it"))),
        (
            {"auth": coded(AZURE_USER, "it")},
            IdentityToken(Secret("it"), Login(AZURE_USER, Secret("it"))),
        ),
        ({"registrytoken": "rt", "auth": coded("me", "pw")}, RegistryToken(Secret("rt"))),
        ({}, None),
        ({"auth": ""}, None),
        ({"email": "me@example.com"}, None),
        ({"username": "me"}, None),
        (None, None),
        ("text", None),
    ],
)
async def test_entries(tmp_path: Path, entry: Any, expected: Credential | None) -> None:
    """Each kind of value becomes its kind of credential; NULs go, and a password may hold colons."""
    assert expected == await found(tmp_path, {"auths": {"ghcr.io": entry}})


async def test_the_legacy_file(tmp_path: Path) -> None:
    """`.dockercfg` has no `auths`: the document is the table."""
    assert Login("me", Secret("pw")) == await found(tmp_path, {"https://ghcr.io/v1/": {"auth": coded("me", "pw")}})


async def test_the_most_specific_entry_with_something_in_it(tmp_path: Path) -> None:
    """Namespaces have logins of their own; an empty entry, as docker leaves beside a credsStore, counts for nothing."""
    auths = {
        "ghcr.io": {"auth": coded("all", "1")},
        "ghcr.io/org": {"auth": coded("org", "2")},
        "ghcr.io/org/app": {},
        "*.io": {"auth": coded("any", "3")},
    }
    for name, user in [("org/app", "org"), ("org/other", "org"), ("another", "all")]:
        assert f"the user {user}" == user_of(await found(tmp_path, {"auths": auths}, name=name))
    assert "the user any" == user_of(await found(tmp_path, {"auths": auths}, url="https://quay.io"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"auths": {"ghcr.io": {"auth": "canary"}}}',
        b'{"auths": {"ghcr.io": {"auth": "Y2FuYXJ5"}}}',
        b'{"auths": {"ghcr.io": {"username": "a:b", "password": "canary"}}}',
        b'{"auths": {"ghcr.io": {"auth": "canary',
        b'{"credsStore": "../canary"}',
        b'{"credHelpers": {"ghcr.io": "-canary"}}',
        b'{"credHelpers": {"ghcr.io": 7}}',
        b'{"canary": "' + b"x" * 2**20 + b'"}',
    ],
    ids=range(10),
)
async def test_a_file_that_is_no_use(tmp_path: Path, raw: bytes) -> None:
    """One line that names the file and says nothing of what is in it; it may be better in a moment."""
    file = tmp_path / "config.json"
    file.write_bytes(raw)
    source = AuthFile("ghcr.io", file, Server.of(URL("https://ghcr.io")), lambda: 0.0)
    with pytest.raises(UpstreamUnavailable, match=r'upstreams."ghcr\.io"\.auth_file .*config\.json ') as raised:
        await source.find("a/b")
    assert "canary" not in str(raised.value).lower()
    assert raised.value.__cause__ is None
    await source.close()


async def test_other_entries_do_not_matter(tmp_path: Path) -> None:
    """What is wrong with somebody else's entry is no reason to fail."""
    auths = {"quay.io": {"auth": "!"}, "ghcr.io": {"auth": coded("me", "pw")}}
    document = {"auths": auths, "credHelpers": {"quay.io": "../x"}, "HttpHeaders": {"X": "y"}}
    assert Login("me", Secret("pw")) == await found(tmp_path, document)


async def test_no_entry_is_anonymous(tmp_path: Path) -> None:
    """The upstream is asked without credentials, which is said once, and what is in the file is not."""
    file = tmp_path / "auth.json"
    file.write_bytes(orjson.dumps({"auths": {"quay.io": {"auth": coded("me", CANARY)}}}))
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry, auth_file=file) as upstream:
        registry.content.publish("a/b", "1", small_image())
        with structlog.testing.capture_logs() as said:
            for _ in range(3):
                await upstream.manifest("a/b", Tag("1"))
        (line,) = said
        assert ("warning", upstream.name) == (line["log_level"], line["upstream"])
        assert "canary" not in str(said)
        assert all(seen.headers.get("Authorization", "Bearer").startswith("Bearer") for seen in registry.log)


async def test_a_changed_file_is_found(tmp_path: Path) -> None:
    """Written anew in place, replaced, of the same length and time: the next request logs in with what is there."""
    authority = Authority("bearer", users={"me": "one"}, anonymous=False)
    file = tmp_path / "auth.json"
    async with FakeRegistry(authority=authority) as registry, dialing(registry, auth_file=file) as upstream:
        registry.content.publish("a/b", "1", small_image())

        def write(path: Path, password: str) -> None:
            path.write_bytes(orjson.dumps({"auths": {registry.address: {"auth": coded("me", password)}}}))
            os.utime(path, (0, 0))

        write(file, "one")
        await upstream.manifest("a/b", Tag("1"))
        old = set(authority.issued)
        authority.users["me"] = "two"
        write(file, "two")
        await upstream.manifest("a/b", Tag("1"))
        assert registry.count(part="/token") == 2
        assert registry.log[-1].headers["Authorization"].removeprefix("Bearer ") not in old
        authority.users["me"] = "six"
        write(tmp_path / "new", "six")
        (tmp_path / "new").replace(file)
        await upstream.manifest("a/b", Tag("1"))
        assert registry.count(part="/token") == 3
        file.write_bytes(b'{"auths": {}}')
        with pytest.raises(Denied, match="401 for repository:a/b:pull to anonymous"):
            await upstream.manifest("a/b", Tag("1"))


async def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    """Half of it is not taken for an answer: the tries that follow find it whole."""
    authority = Authority("bearer", users={"me": "one"}, anonymous=False)
    file = tmp_path / "auth.json"
    async with FakeRegistry(authority=authority) as registry, dialing(registry, auth_file=file) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        whole = orjson.dumps({"auths": {registry.address: {"auth": coded("me", "one")}}})
        for part in (b"", whole[:10]):
            file.write_bytes(part)
            with pytest.raises(UpstreamUnavailable, match="auth_file"):
                await upstream.manifest("a/b", Tag("1"))
        assert registry.log == []
        file.write_bytes(whole)
        assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "registry.example.com"])
async def test_a_login_goes_to_its_own_host(tmp_path: Path, key: str) -> None:
    """Docker Hub's login is for Docker Hub's hosts: an upstream called docker.io that is elsewhere does not get it."""
    authority = Authority("basic", users={"me": CANARY})
    file = tmp_path / "auth.json"
    file.write_bytes(orjson.dumps({"auths": {key: {"auth": coded("me", CANARY)}}}))
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, name="docker.io", auth_file=file) as upstream,
    ):
        with pytest.raises(Denied):
            await upstream.manifest("library/alpine", Tag("1"))
        assert all("Authorization" not in seen.headers for seen in registry.log)


def test_identities() -> None:
    """A credential's name changes with user, secret, kind and key, and holds nothing of the secret."""
    key = b"k" * 32
    several: list[Credential | None] = [
        None,
        Login("me", Secret("x")),
        Login("me", Secret("y")),
        Login("you", Secret("x")),
        IdentityToken(Secret("x")),
        IdentityToken(Secret("x"), Login("me", Secret("x"))),
        RegistryToken(Secret("x")),
    ]
    names = [identity_of(each, key) for each in several]
    assert len(set(names)) == len(several)
    assert names == [identity_of(each, key) for each in several]
    assert not set(names[1:]) & {identity_of(each, b"l" * 32) for each in several}
    assert not any("x" in repr(each).removeprefix("Login").replace("Secret(***)", "") for each in several[1:])
