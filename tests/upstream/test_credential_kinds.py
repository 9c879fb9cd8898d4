"""Each kind of credential, and the registries that want it their way (clients.md 11.2, 11.3; U7, U35, U44)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl

import orjson
import pytest

from dialing import Clock, dialing
from iarproxy.errors import Denied
from iarproxy.oci import Tag
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

CANARY = "canary-pa:ss&wö+rd%"
AZURE_USER = "00000000-0000-0000-0000-000000000000"
GET = frozenset({"GET"})


def auth_file(folder: Path, registry: FakeRegistry, entry: Mapping[str, str]) -> Path:
    """An auth file with one entry for the registry."""
    file = folder / "auth.json"
    file.write_bytes(orjson.dumps({"auths": {registry.address: entry}}))
    return file


def asked(registry: FakeRegistry) -> list[str]:
    """The questions to the token server: method, and grant or scheme."""
    said = []
    for seen in registry.seen(part="/token"):
        grant = dict(parse_qsl(seen.body.decode())).get("grant_type")
        said.append(f"{seen.method} {grant or seen.headers.get('Authorization', 'none').split()[0]}")
    return said


@pytest.mark.parametrize(
    ("entry", "post", "expected"),
    [
        ({"identitytoken": CANARY}, 200, ["POST refresh_token"]),
        ({"username": AZURE_USER, "password": CANARY}, 200, ["POST refresh_token"]),
        ({"username": "<token>", "password": CANARY}, 200, ["POST refresh_token"]),
        *[
            ({"username": "me", "password": CANARY, "identitytoken": CANARY}, post, ["POST refresh_token", "GET Basic"])
            for post in (400, 401, 404, 405)
        ],
        ({"username": AZURE_USER, "password": CANARY}, 400, ["POST refresh_token", "GET Basic"]),
        ({"username": "me", "password": CANARY}, 404, ["GET Basic"]),
        ({"username": "oauth2accesstoken", "password": CANARY}, 404, ["GET Basic"]),
        ({"username": "robot$team+x", "password": CANARY}, 404, ["GET Basic"]),
    ],
)
async def test_what_token_servers_are_asked(
    tmp_path: Path, entry: dict[str, str], post: int, expected: list[str]
) -> None:
    """An identity token by POST, by GET where that form is unknown; a password by GET."""
    authority = Authority("bearer", anonymous=False, post=post == 200, post_refusal=post, identity_tokens={CANARY})
    authority.users = {"me": CANARY, AZURE_USER: CANARY, "oauth2accesstoken": CANARY, "robot$team+x": CANARY}
    authority.expires_in = None  # quay.io, GitLab and ACR say nothing
    async with FakeRegistry(authority=authority) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        async with dialing(registry, auth_file=auth_file(tmp_path, registry, entry)) as upstream:
            for _ in range(2):
                assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
        assert expected == asked(registry)


async def test_a_password_is_not_tried_twice(tmp_path: Path) -> None:
    """A GET that is refused is no reason to send the same password by POST."""
    authority = Authority("bearer", users={"me": "other"}, anonymous=False, post=True)
    async with FakeRegistry(authority=authority) as registry:
        entry = {"username": "me", "password": CANARY}
        async with dialing(registry, auth_file=auth_file(tmp_path, registry, entry)) as upstream:
            with pytest.raises(Denied, match="answered 401 for repository:a/b:pull to the user me"):
                await upstream.manifest("a/b", Tag("1"))
        assert ["GET Basic"] == asked(registry)


async def test_an_identity_token_without_another_way(tmp_path: Path) -> None:
    """Where the form is unknown and there is no user: no."""
    async with FakeRegistry(authority=Authority("bearer", anonymous=False)) as registry:
        file = auth_file(tmp_path, registry, {"identitytoken": CANARY})
        async with dialing(registry, auth_file=file) as upstream:
            with pytest.raises(Denied, match="to an identity token"):
                await upstream.manifest("a/b", Tag("1"))
        assert ["POST refresh_token"] == asked(registry)


async def test_the_form_where_get_does_not_exist(tmp_path: Path) -> None:
    """The password goes into the form, whatever characters it has."""
    authority = Authority("bearer", users={"me": CANARY}, anonymous=False, post=True)
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("/token*", Fault(status=405), methods=GET)
        file = auth_file(tmp_path, registry, {"username": "me", "password": CANARY})
        async with dialing(registry, auth_file=file) as upstream:
            await upstream.manifest("a/b", Tag("1"))
        assert ["GET Basic", "POST password"] == asked(registry)


async def test_a_registry_token(tmp_path: Path) -> None:
    """It is shown from the first request on; refused, it is not shown again for a while."""
    clock = Clock()
    authority = Authority("bearer", anonymous=False, clock=clock.seconds)
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("a/b", "1", small_image())
        authority.issued["registry-token"] = (frozenset({"a/b"}), 1e12)
        file = auth_file(tmp_path, registry, {"registrytoken": "registry-token"})
        async with dialing(registry, auth_file=file, now=clock) as upstream:
            await upstream.manifest("a/b", Tag("1"))
            assert [200] == [seen.status for seen in registry.log]
            authority.revoke()
            for _ in range(3):
                with pytest.raises(Denied):
                    await upstream.manifest("a/b", Tag("1"))
        assert ["Bearer", "Bearer", "none", "none"] == [
            seen.headers.get("Authorization", "none").split()[0] for seen in registry.log
        ]


async def test_basic_by_an_auth_file(tmp_path: Path) -> None:
    """Artifactory, Nexus, ECR: user and password with every request; an identity token alone is nothing for them."""
    async with FakeRegistry(authority=Authority("basic", users={"me": CANARY})) as registry:
        registry.content.publish("a/b", "1", small_image())
        file = auth_file(tmp_path, registry, {"username": "me", "password": CANARY})
        async with dialing(registry, auth_file=file) as upstream:
            await upstream.manifest("a/b", Tag("1"))
            auth_file(tmp_path, registry, {"identitytoken": CANARY})
            with pytest.raises(Denied):
                await upstream.manifest("a/b", Tag("1"))
        assert "Authorization" not in registry.log[-1].headers


@pytest.mark.parametrize("pattern", ["*/blobs/*", "*/manifests/*", "*/tags/list*", "*/referrers/*"])
async def test_a_refusal_of_one_kind_of_request(tmp_path: Path, pattern: str) -> None:
    """A registry that answers 401 to HEAD, to lists or to referrers only: the login is still good for all else."""
    methods = frozenset({"HEAD"} if "list" not in pattern and "referrers" not in pattern else {"GET"})
    async with FakeRegistry(authority=Authority("basic", users={"me": CANARY})) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        file = auth_file(tmp_path, registry, {"username": "me", "password": CANARY})
        async with dialing(registry, auth_file=file) as upstream:
            await upstream.manifest("a/b", Tag("1"))
            registry.faults.add(
                pattern, Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}), methods=methods
            )
            for act in (upstream.tags("a/b"), upstream.referrers("a/b", image.digest)):
                with suppress(Denied):
                    await act
            assert image.digest == await upstream.head_manifest("a/b", Tag("1"))
            assert await upstream.blob_size("a/b", image.layers[0])
            assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw


@pytest.mark.parametrize(
    ("user", "text", "password"),
    [
        (
            "_json_key",
            '{\n  "type": "service_account",\n  "key": "x:y"\n}\n',
            '{\n  "type": "service_account",\n  "key": "x:y"\n}',
        ),
        ("_json_key_base64", "eyJ4IjogMX0=\n", "eyJ4IjogMX0="),
        ("me", "one\r\ntwo\n", "one"),
    ],
)
async def test_password_files(tmp_path: Path, user: str, text: str, password: str) -> None:
    """The first line; Google's key is the whole document."""
    file = tmp_path / "password"
    file.write_bytes(text.encode())
    authority = Authority("bearer", users={user: password}, anonymous=False)
    async with (
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username=user, password_file=file) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))


async def test_a_login_per_namespace(tmp_path: Path) -> None:
    """Two repositories of one registry, each with the login that is meant for it."""
    authority = Authority("bearer", users={"one": "1", "two": "2"}, anonymous=False)
    async with FakeRegistry(authority=authority) as registry:
        file = tmp_path / "auth.json"
        auths = {
            f"{registry.address}/{name}": {"username": user, "password": password}
            for name, user, password in [("a", "one", "1"), ("c", "two", "2")]
        }
        file.write_bytes(orjson.dumps({"auths": auths}))
        async with dialing(registry, auth_file=file) as upstream:
            for name in ("a/b", "c/d"):
                registry.content.publish(name, "1", small_image())
                await upstream.manifest(name, Tag("1"))
        paths = [seen.path for seen in registry.seen(part="/token")]
        assert [("a/b" in path, "account=one" in path) for path in paths] == [(True, True), (False, False)]
