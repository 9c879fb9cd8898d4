"""Layers that a manifest says are elsewhere (`urls`): from allowed hosts only, verified, without a credential."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from edges import Edge, edge
from iarproxy.oci import Digest
from iarproxy.oci.foreign import foreign_layers
from iarproxy.oci.manifest import parse_manifest
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from images import OCI_CONFIG, Published, random_blob
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

NAME = "registry.example.com"
REPOSITORY = "team/windows"
FOREIGN_TYPE = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
LAYER = random_blob(300_000, 7)
DIGEST = Digest.of(LAYER)
TARGET = f"/v2/{REPOSITORY}/blobs/{DIGEST}"


def windows(urls: Sequence[Any], *, size: int = len(LAYER)) -> Published:
    """An image whose only layer is foreign."""
    config = b"{}"
    raw = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [{"mediaType": FOREIGN_TYPE, "digest": str(DIGEST), "size": size, "urls": list(urls)}],
        }
    )
    return Published(raw, OCI_MANIFEST, {Digest.of(config): config})


@asynccontextmanager
async def elsewhere() -> AsyncIterator[FakeRegistry]:
    """A host that has the layer."""
    async with FakeRegistry(host="127.0.0.2") as host:
        host.content.publish_blob("files", LAYER)
        yield host


def url_at(host: FakeRegistry) -> str:
    return f"{host.url}/v2/files/blobs/{DIGEST}"


def section(registry: FakeRegistry, *hosts: FakeRegistry | str, **keys: Any) -> dict[str, dict[str, Any]]:
    """`[upstreams]` with these foreign hosts."""
    allowed = [each if isinstance(each, str) else each.url for each in hosts]
    return {NAME: {"url": registry.url, "foreign_hosts": allowed, **keys}}


async def manifest_of(served: Edge) -> None:
    """Pull the image's manifest, as every client does first."""
    assert 200 == (await served.ask(f"/v2/{REPOSITORY}/manifests/1")).status


async def test_from_an_allowed_host(tmp_path: Path) -> None:
    """Upstream is asked first; then one transfer from the named host serves everybody, ranges too, and is kept."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        async with edge(tmp_path, section(registry, host, namespace=True)) as served:
            await manifest_of(served)
            answers = await asyncio.gather(*(served.ask(TARGET) for _ in range(10)))
            assert {LAYER} == {each.body for each in answers}
            part = await served.ask(TARGET, Range="bytes=1000-1999")
            assert (206, LAYER[1000:2000]) == (part.status, part.body)
            head = await served.ask(TARGET, "HEAD")
            assert (200, str(len(LAYER))) == (head.status, head.headers["Content-Length"])
            async with asyncio.timeout(10):
                while served.store.find(DIGEST) is None:  # the disk may be later than the last byte
                    await asyncio.sleep(0.01)
        assert 1 == host.count("GET")
        assert [f"/v2/files/blobs/{DIGEST}"] == [seen.path for seen in host.log]


async def test_upstream_goes_first(tmp_path: Path) -> None:
    """Where the registry has the layer itself, nobody else hears of it."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        registry.content.publish_blob(REPOSITORY, LAYER)
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            assert LAYER == (await served.ask(TARGET)).body
        assert [] == host.log


@pytest.mark.parametrize("allowed", [[], ["127.0.0.2"], ["http://127.0.0.3:7000"], ["localhost"]])
async def test_a_host_that_is_not_in_the_list(tmp_path: Path, allowed: list[str]) -> None:
    """404 BLOB_UNKNOWN that names the host and the setting; scheme, name and port must be the ones that are written."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host), "http://10.0.0.1/x"]))
        async with edge(tmp_path, section(registry, *allowed)) as served:
            await manifest_of(served)
            for method in ("GET", "HEAD"):
                got = await served.ask(TARGET, method)
                assert 404 == got.status
            error = orjson.loads((await served.ask(TARGET)).body)["errors"][0]
            assert "BLOB_UNKNOWN" == error["code"]
            assert f"{host.url}, http://10.0.0.1:80; to have it fetched" in error["message"]
            assert f'foreign_hosts in upstreams."{NAME}"' in error["message"]
        assert [] == host.log


async def test_a_layer_that_no_manifest_names(tmp_path: Path) -> None:
    """What the repository never named as foreign is fetched nowhere, also when another repository does."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        registry.content.publish("other/app", "1", windows([]))
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            got = await served.ask(f"/v2/other/app/blobs/{DIGEST}")
            assert 404 == got.status
        assert [] == host.log


@pytest.mark.parametrize("remembered", [True, False], ids=["with its cache", "without its cache"])
async def test_after_a_restart(tmp_path: Path, remembered: bool) -> None:  # noqa: FBT001  # a column
    """A client that has the manifest asks for the layer alone: what was told is known, or read from the pins again."""
    async with elsewhere() as host, FakeRegistry() as registry:
        child = windows([url_at(host)])
        index = orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [{"mediaType": OCI_MANIFEST, "digest": str(child.digest), "size": len(child.raw)}],
            }
        )
        registry.content.publish(REPOSITORY, "1", Published(index, OCI_INDEX, children=(child,)))
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            assert 200 == (await served.ask(f"/v2/{REPOSITORY}/manifests/{child.digest}")).status
        if not remembered:
            shutil.rmtree(tmp_path / "run")
        async with edge(tmp_path, section(registry, host)) as served:
            assert LAYER == (await served.ask(TARGET)).body


async def test_another_worker_served_the_manifest(tmp_path: Path) -> None:
    """Workers share what manifests told, in their cache; two upstream rooms over one folder are two workers."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        async with edge(tmp_path / "a", section(registry, host)) as one:
            await manifest_of(one)
            shutil.copytree(tmp_path / "a" / "run", tmp_path / "b" / "run", dirs_exist_ok=True)
        async with edge(tmp_path / "b", section(registry, host)) as other:
            assert LAYER == (await other.ask(TARGET)).body


async def test_wrong_bytes_are_nobodys(tmp_path: Path) -> None:
    """The digest is checked as for any blob; nothing is kept, and nobody gets a body that looks complete."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        host.faults.add("*", Fault(corrupt_at=100))
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            with pytest.raises(aiohttp.ClientError):
                await served.ask(TARGET)
            assert served.store.find(DIGEST) is None


async def test_a_size_that_the_manifest_does_not_say(tmp_path: Path) -> None:
    """More bytes than the manifest tells are refused before they are read."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)], size=1000))
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            got = await served.ask(TARGET)
            assert 502 == got.status
            assert b"the manifest says 1000" in got.body


async def test_the_next_url(tmp_path: Path) -> None:
    """Of several allowed hosts the next one is asked where one has no answer, and a break is resumed."""
    async with elsewhere() as host, FakeRegistry(host="127.0.0.3") as broken, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(broken), "ftp://x", 7, url_at(host)]))
        host.faults.add("*", Fault(truncate_at=100_000, reset=True), times=1)
        async with edge(tmp_path, section(registry, broken, host)) as served:
            await manifest_of(served)
            assert LAYER == (await served.ask(TARGET)).body
        assert [False, True] == ["Range" in seen.headers for seen in host.log]


async def test_no_credential_goes_there(tmp_path: Path) -> None:
    """With a private upstream the layer comes without its login; a link is made by the bytes, not by being named."""
    password = tmp_path / "password"
    password.write_text("canary")
    authority = Authority("bearer", users={"me": "canary"}, anonymous=False)
    async with elsewhere() as host, FakeRegistry(authority=authority) as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        registry.content.publish_blob("team/secret", LAYER)
        login = {"username": "me", "password_file": str(password)}
        async with edge(tmp_path, section(registry, host, **login)) as served:
            await manifest_of(served)
            assert LAYER == (await served.ask(f"/v2/team/secret/blobs/{DIGEST}")).body
            assert 0 == host.count()
            assert LAYER == (await served.ask(TARGET)).body
            asked = host.count("GET")
            assert asked > 0
            assert LAYER == (await served.ask(TARGET)).body
            assert asked == host.count("GET")
        assert not [seen for seen in host.log if "Authorization" in seen.headers]


async def test_a_secret_layer_is_not_had_by_naming_it(tmp_path: Path) -> None:
    """Who may push a manifest that names a held blob of a private repository gets what the named host has: nothing."""
    password = tmp_path / "password"
    password.write_text("canary")
    authority = Authority("bearer", users={"me": "canary"}, anonymous=False)
    async with FakeRegistry(host="127.0.0.2") as host, FakeRegistry(authority=authority) as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        registry.content.publish_blob("team/secret", LAYER)
        login = {"username": "me", "password_file": str(password)}
        async with edge(tmp_path, section(registry, host, **login)) as served:
            await manifest_of(served)
            assert LAYER == (await served.ask(f"/v2/team/secret/blobs/{DIGEST}")).body
            got = await served.ask(TARGET)
            assert (404, "BLOB_UNKNOWN") == (got.status, orjson.loads(got.body)["errors"][0]["code"])


async def test_a_redirect_to_a_private_address(tmp_path: Path) -> None:
    """What an allowed host redirects to is judged by what is written for that host."""
    async with elsewhere() as host, FakeRegistry() as registry:
        registry.content.publish(REPOSITORY, "1", windows([url_at(host)]))
        host.faults.add("*", Fault(location="http://169.254.169.254/x"))
        async with edge(tmp_path, section(registry, host)) as served:
            await manifest_of(served)
            got = await served.ask(TARGET)
            assert 502 == got.status
            assert b"address policy" in got.body


def test_what_is_read_of_urls() -> None:
    """Eight web addresses of a sane length; anything else about `urls` is nobody's."""
    long = "https://a.example/" + "x" * 3000
    named = ["https://a.example/1", "file:///etc/passwd", 5, None, "javascript:x", long, "https://ü.example/"]
    manifest = parse_manifest(windows([*named, *(f"http://b.example/{each}" for each in range(20))]).raw)
    (layer,) = foreign_layers(manifest)
    assert ("https://a.example/1", *(f"http://b.example/{each}" for each in range(7))) == layer.urls
    assert (DIGEST, len(LAYER)) == (layer.digest, layer.size)
    assert () == foreign_layers(parse_manifest(windows([]).raw))
    assert () == foreign_layers(parse_manifest(windows(["ftp://x"]).raw))
