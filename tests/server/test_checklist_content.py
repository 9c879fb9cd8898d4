"""The server checklist (clients.md section 10), items 21 to 64 as far as no other test proves them; see `checklist`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from iarproxy.oci import MAX_MANIFEST, Digest
from iarproxy.oci.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from images import Published, artifact, image, index, random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from serving import Reply, both_loops, read_reply
from whole import head, whole

NO_DIGEST = "sha256:" + "0" * 64


def code(reply: Reply) -> str:
    return str(orjson.loads(reply.body)["errors"][0]["code"])


UNTOLD = [None, "text/plain", "text/plain; charset=utf-8", "application/octet-stream", "application/json"]


@pytest.mark.parametrize("claimed", [*UNTOLD, f"{OCI_INDEX}; charset=utf-8"])
@pytest.mark.parametrize("spelled", [True, False])
async def test_item_23_the_exact_type(tmp_path: Path, claimed: str | None, *, spelled: bool) -> None:
    """What upstream says without parameters; where it says nothing of use, what the document says or looks like."""
    listed = index([small_image()])
    if not spelled:
        document = orjson.loads(listed.raw)
        del document["mediaType"]
        listed = Published(orjson.dumps(document), OCI_INDEX, children=listed.children)
    async with whole(tmp_path) as world:
        world.upstream.content.publish("library/app", "1", listed)
        world.upstream.faults.add("*/manifests/*", Fault(headers={"Content-Type": claimed}))
        for target in ("1", str(listed.digest)):
            reply = await world.ask(f"/v2/library/app/manifests/{target}")
            assert (OCI_INDEX, listed.raw) == (reply.headers["content-type"], reply.body)


ACCEPTS: list[list[str]] = [
    [],
    ["Accept: */*"],
    ["Accept: application/json"],
    ["Accept: text/html;q=0.9, */*;q=0.1"],
    [f"Accept: {OCI_MANIFEST};q=0.1", f"Accept: {DOCKER_MANIFEST}"],
    [f"Accept: {DOCKER_MANIFEST}", f"Accept: {OCI_MANIFEST};q=0"],
    ["Accept: "],
]


@pytest.mark.parametrize("lines", ACCEPTS, ids=range(len(ACCEPTS)))
async def test_item_26_accept_selects_nothing(tmp_path: Path, lines: list[str]) -> None:
    """Absent, any, JSON only, several lines, weights: the stored bytes with their own type, cold and hot."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", index([small_image()]))
        for _ in range(2):
            reply = await world.ask("/v2/library/app/manifests/1", "GET", *lines)
            assert (200, published.raw, OCI_INDEX) == (reply.status, reply.body, reply.headers["content-type"])


SCHEMA1 = b'{"schemaVersion":1,"name":"library/app","tag":"1","architecture":"amd64","fsLayers":[],"history":[]}'


async def test_item_27_schema_1_is_no_manifest(tmp_path: Path) -> None:
    """What upstream offers only as schema 1 is an error that says so, and no pin."""
    async with whole(tmp_path) as world:
        kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        world.upstream.content.publish("library/app", "1", Published(SCHEMA1, kind))
        reply = await world.ask("/v2/library/app/manifests/1")
        assert reply.status in (404, 502)
        assert "schema 1" in orjson.loads(reply.body)["errors"][0]["message"]
        assert [] == await world.rooms.ledger.pins()


async def test_items_28_and_29_head_tells_what_get_will_give(tmp_path: Path) -> None:
    """HEAD pins (D11): the digest it told is served, after upstream moved the tag and while upstream is away."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image(1))
        told = await world.ask("/v2/library/app/manifests/1", "HEAD")
        assert str(published.digest) == told.headers["docker-content-digest"]
        world.upstream.content.publish("library/app", "1", small_image(2))
        assert published.raw == (await world.ask("/v2/library/app/manifests/1")).body
        await world.leave_upstream(published)
        for method, body in (("HEAD", b""), ("GET", published.raw)):
            reply = await world.ask("/v2/library/app/manifests/1", method)
            assert (200, body, str(len(published.raw))) == (reply.status, reply.body, reply.headers["content-length"])


@pytest.mark.parametrize(("beyond", "status"), [(0, 200), (1, 502)])
async def test_item_30_large_manifests(tmp_path: Path, beyond: int, status: int) -> None:
    """One of 4 MiB passes; a longer one is refused, and nothing of it is kept."""
    assert MAX_MANIFEST >= 4 * 2**20
    document = orjson.loads(small_image().raw)
    spare = MAX_MANIFEST + beyond - len(orjson.dumps({**document, "annotations": {"pad": ""}}))
    raw = orjson.dumps({**document, "annotations": {"pad": "x" * spare}})
    assert MAX_MANIFEST + beyond == len(raw)
    async with whole(tmp_path) as world:
        world.upstream.content.publish("library/app", "1", Published(raw, OCI_MANIFEST))
        reply = await world.ask("/v2/library/app/manifests/1")
        assert (status, status == 200) == (reply.status, reply.body == raw)
        assert (status == 200) == bool(await world.rooms.ledger.pins())


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
@pytest.mark.parametrize("repository", ["library/app", "library/none"])
async def test_items_31_and_32_podmans_signature_codes(tmp_path: Path, suffix: str, repository: str) -> None:
    """What is attached to nothing is 404 MANIFEST_UNKNOWN, in a repository that exists and in one that does not."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        reply = await world.ask(f"/v2/{repository}/manifests/sha256-{published.digest.hex}{suffix}")
        assert (404, "MANIFEST_UNKNOWN") == (reply.status, code(reply))
        assert [] == await world.rooms.ledger.pins()


@pytest.mark.parametrize("wanted", ["sha256:bad", "sha256:" + "A" * 64, "-x", "a" * 129, "%2e%2e"])
async def test_item_33_malformed_references_ask_nobody(tmp_path: Path, wanted: str) -> None:
    """400 or 404 in JSON, and not one request upstream."""
    async with whole(tmp_path) as world:
        for kind in ("manifests", "blobs", "referrers"):
            reply = await world.ask(f"/v2/library/app/{kind}/{wanted}")
            assert reply.status in (400, 404)
            assert code(reply)
        assert [] == world.upstream.log


async def test_item_36_policy_is_403_denied(tmp_path: Path) -> None:
    """Not 401, 404 or 429; the message begins with our name, the detail has the facts."""
    async with whole(tmp_path, tags=[{"match": "docker.io/library/app:no", "mode": "refuse"}]) as world:
        reply = await world.ask("/v2/library/app/manifests/no")
        error = orjson.loads(reply.body)["errors"][0]
        assert (403, "DENIED") == (reply.status, error["code"])
        assert error["message"].startswith("iarproxy: ")
        assert [] == world.upstream.log


@both_loops
async def test_item_45_a_range_far_ahead_of_a_cold_blob(tmp_path: Path) -> None:
    """The head comes at once, the bytes when they are there; the one transfer is of the whole blob, which is kept."""
    async with whole(tmp_path) as world:
        data = random_blob(600_000)
        digest = world.upstream.content.publish_blob("library/app", data)
        world.upstream.faults.add("*/blobs/*", Fault(stall_at=65_536, stall_for=1.0))
        reader, writer = await world.served.connect()
        writer.write(head(f"/v2/library/app/blobs/{digest}", "GET", "Range: bytes=500000-500999"))
        reply = await read_reply(reader, body=False)
        assert (206, "bytes 500000-500999/600000") == (reply.status, reply.headers["content-range"])
        assert world.upstream.sent[str(digest)] <= 65_536
        assert data[500_000:501_000] == await asyncio.wait_for(reader.readexactly(1000), 20)
        writer.close()
        assert data == (await world.ask(f"/v2/library/app/blobs/{digest}")).body
        assert [None] == [each.headers.get("Range") for each in world.upstream.seen("GET", "/blobs/")]


async def test_item_46_blobs_that_cannot_be_had(tmp_path: Path) -> None:
    """Missing is 404 BLOB_UNKNOWN; upstream's trouble is a 5xx with JSON."""
    async with whole(tmp_path) as world:
        world.upstream.content.publish("library/app", "1", small_image())
        missing = await world.ask(f"/v2/library/app/blobs/{NO_DIGEST}")
        assert (404, "BLOB_UNKNOWN") == (missing.status, code(missing))
        world.upstream.faults.add("*/blobs/*", Fault(status=500))
        broken = await world.ask(f"/v2/library/app/blobs/{Digest.of(b'other')}")
        assert (502, "UNAVAILABLE") == (broken.status, code(broken))


@pytest.mark.parametrize("status", [401, 403, 405])
async def test_item_49_head_of_a_blob_where_upstream_has_none(tmp_path: Path, status: int) -> None:
    """Public ECR refuses HEAD on blobs: the size comes from what a manifest says, or from a GET."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image(size=7_000))
        lonely = world.upstream.content.publish_blob("library/app", random_blob(5_000))
        world.upstream.faults.add("*/blobs/*", Fault(status=status), methods=frozenset({"HEAD"}))
        await world.ask("/v2/library/app/manifests/1")
        for digest, size in ((published.layers[0], 7_000), (lonely, 5_000)):
            reply = await world.ask(f"/v2/library/app/blobs/{digest}", "HEAD")
            assert (200, str(size)) == (reply.status, reply.headers["content-length"])


async def test_item_50_foreign_layers_are_not_there(tmp_path: Path) -> None:
    """A layer that only `urls` name is 404, and nobody goes where they point."""
    elsewhere = FakeRegistry()
    await elsewhere.start()
    try:
        async with whole(tmp_path) as world:
            layer = random_blob(3_000)
            document = orjson.loads(image(layer).raw)
            document["layers"][0]["urls"] = [f"{elsewhere.url}/layer"]
            world.upstream.content.publish("library/app", "1", Published(orjson.dumps(document), OCI_MANIFEST))
            assert 200 == (await world.ask("/v2/library/app/manifests/1")).status
            reply = await world.ask(f"/v2/library/app/blobs/{Digest.of(layer)}")
            assert (404, "BLOB_UNKNOWN") == (reply.status, code(reply))
            assert [] == elsewhere.log
    finally:
        await elsewhere.stop()


async def test_item_51_no_redirects(tmp_path: Path) -> None:
    """Where upstream sends us elsewhere for a blob, the client still gets it from us."""
    async with whole(tmp_path) as world:
        data = random_blob(20_000)
        digest = world.upstream.content.publish_blob("library/app", data)
        world.upstream.content.publish_blob("library/storage", data)
        to = f"/v2/library/storage/blobs/{digest}"
        world.upstream.faults.add("*/library/app/blobs/*", Fault(location=to))
        for _ in range(2):
            reply = await world.ask(f"/v2/library/app/blobs/{digest}")
            assert (200, data, False) == (reply.status, reply.body, "location" in reply.headers)


@pytest.mark.parametrize("api", [True, False], ids=["api", "tag"])
async def test_items_53_and_54_referrers(tmp_path: Path, *, api: bool) -> None:
    """An empty index of the exact type where there is nothing; filters are applied, announced, and may be repeated."""
    async with whole(tmp_path, upstream=FakeRegistry(referrers=api)) as world:
        image_ = world.upstream.content.publish("library/app", "1", small_image())
        empty = await world.ask(f"/v2/library/app/referrers/{image_.digest}")
        assert (200, OCI_INDEX) == (empty.status, empty.headers["content-type"])
        assert {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []} == orjson.loads(empty.body)
        other = world.upstream.content.publish("library/two", "1", small_image(2))
        found = world.upstream.content.publish("library/two", None, artifact(other, artifact_type="a/b"))
        if not api:
            listed = {
                "mediaType": OCI_MANIFEST,
                "digest": str(found.digest),
                "size": len(found.raw),
                "artifactType": "a/b",
            }
            raw = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]})
            world.upstream.content.publish("library/two", f"sha256-{other.digest.hex}", Published(raw, OCI_INDEX))
        for query, count in (
            ("", 1),
            ("?artifactType=a/b", 1),
            ("?artifactType=c/d&artifactType=a%2Fb", 1),
            ("?artifactType=c/d", 0),
        ):
            reply = await world.ask(f"/v2/library/two/referrers/{other.digest}{query}")
            assert (200, count) == (reply.status, len(orjson.loads(reply.body)["manifests"]))
            assert bool(query) == (reply.headers.get("oci-filters-applied") == "artifactType")
        bad = await world.ask("/v2/library/app/referrers/sha256:bad")
        assert (400, "DIGEST_INVALID") == (bad.status, code(bad))


@pytest.mark.parametrize(
    ("prefix", "ns"),
    [
        ("library/app", ""),
        ("library/app", "docker.io"),
        ("docker.io/library/app", ""),
        ("docker.io/library/app", "docker.io"),
        ("registry.example.com/library/app", ""),
    ],
)
async def test_items_55_and_56_tags_in_pages(tmp_path: Path, prefix: str, ns: str) -> None:
    """`Link` is relative and keeps name and ns as the client wrote them; followed to its end it lists each tag once."""
    async with whole(tmp_path) as world:
        world.upstream.max_page = 3
        wanted = sorted(["1", "1.0", "latest", "v2", "B", "_x", "a" * 128])
        for tag in wanted:
            world.upstream.content.publish("library/app", tag, small_image())
        query = f"&ns={ns}" if ns else ""
        target, listed = f"/v2/{prefix}/tags/list?n=2{query}", []
        while target:
            reply = await world.ask(target)
            body = orjson.loads(reply.body)
            assert (200, prefix) == (reply.status, body["name"])
            listed += body["tags"]
            link = reply.headers.get("link", "")
            assert not link or (link.startswith(f"</v2/{prefix}/tags/list?") and link.endswith('>; rel="next"'))
            assert not link or (f"ns={ns}" in link) == bool(ns)
            target = link.partition(">")[0].removeprefix("<")
        assert wanted == listed
        nothing = await world.ask(f"/v2/{prefix}/tags/list?n=0{query}")
        assert ([], False) == (orjson.loads(nothing.body)["tags"], "link" in nothing.headers)


async def test_item_60_what_is_not_here_while_upstream_is_away(tmp_path: Path) -> None:
    """Decided: 502 or 504 and a message, not 404: it is not known that it does not exist. What is held is served."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        await world.ask("/v2/library/app/manifests/1")
        await world.leave_upstream(published)
        assert published.raw == (await world.ask("/v2/library/app/manifests/1")).body
        for target in ("manifests/2", f"manifests/{NO_DIGEST}", f"blobs/{NO_DIGEST}"):
            reply = await world.ask(f"/v2/library/app/{target}")
            assert (True, "UNAVAILABLE") == (reply.status in (502, 503, 504), code(reply))
            assert "docker.io" in orjson.loads(reply.body)["errors"][0]["message"]


async def test_item_61_a_rate_limit_upstream(tmp_path: Path) -> None:
    """What is pinned is served; what is not is 429 with a `Retry-After` of at most a minute."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        await world.ask("/v2/library/app/manifests/1")
        world.upstream.faults.add("*", Fault(status=429, headers={"Retry-After": "3600"}))
        assert published.raw == (await world.ask("/v2/library/app/manifests/1")).body
        reply = await world.ask("/v2/library/app/manifests/2")
        assert (429, "TOOMANYREQUESTS") == (reply.status, code(reply))
        assert 0 < int(reply.headers["retry-after"]) <= 60


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_item_62_upstreams_challenge_stays_with_us(tmp_path: Path, kind: str) -> None:
    """A private repository is 403 DENIED or 404; the challenge, which would ask the client for secrets, stays here."""
    authority = Authority(kind=kind, users={"u": "p"}, anonymous=False)  # type: ignore[arg-type]  # both are kinds
    async with whole(tmp_path, upstream=FakeRegistry(authority=authority)) as world:
        world.upstream.content.publish("library/app", "1", small_image())
        for target in ("manifests/1", f"blobs/{NO_DIGEST}", "tags/list"):
            reply = await world.ask(f"/v2/library/app/{target}")
            assert (True, False) == (reply.status in (403, 404, 200), "www-authenticate" in reply.headers)
            assert reply.status == 200 or code(reply) in ("DENIED", "NAME_UNKNOWN", "MANIFEST_UNKNOWN")
