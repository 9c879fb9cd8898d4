"""What real clients do that hurts a mirror, the worst first: each trap as taps saw it, over all of a worker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import permutations
from pathlib import Path

import orjson
import pytest

from dialects import DIALECTS, HELLO, MOBY, ZSTD, Dialect
from iarproxy.oci.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from images import Published, image, index, random_blob, small_image
from registry_faults import Fault
from serving import Reply, both_loops, read_reply
from whole import Whole, head, left, whole

SHIFTS = 6


async def pull(world: Whole, dialect: Dialect, name: str, published: Published) -> None:
    """A whole pull in the client's dialect: whatever it asks is answered rightly."""
    if dialect.hello:
        assert (await world.served.raw(HELLO)).startswith(b"HTTP/1.1 400")
    connection = await world.served.connect()
    turn = 0

    async def ask(target: str, method: str = "GET", *, manifest: bool = True) -> Reply:
        nonlocal connection, turn
        turn += 1
        reader, writer = connection
        writer.write(head(target, method, *dialect.lines(manifest=manifest, turn=turn)))
        reply = await read_reply(reader, body=method == "GET")
        if dialect.closes:
            assert b"" == await reader.read()
            writer.close()
            connection = await world.served.connect()
        return reply

    if dialect.ping:
        assert (200, b"{}") == ((ping := await ask("/v2/", manifest=False)).status, ping.body)
    resolved = await ask(dialect.target(f"library/{name}/manifests/1"), dialect.resolve)
    assert (200, str(published.digest), published.media_type) == (
        resolved.status,
        resolved.headers["docker-content-digest"],
        resolved.headers["content-type"],
    )
    assert str(len(published.raw)) == resolved.headers["content-length"]
    for each in (published, *published.children):
        found = await ask(dialect.target(f"library/{name}/manifests/{each.digest}"))
        assert (each.raw, each.media_type) == (found.body, found.headers["content-type"])
        for digest, data in each.blobs.items():
            assert data == (await ask(dialect.target(f"library/{name}/blobs/{digest}"), manifest=False)).body
    connection[1].close()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.name)
async def test_every_dialect_pulls(tmp_path: Path, dialect: Dialect) -> None:
    """Cold and then hot, image and index, OCI and Docker: each client's own requests; the second pull asks nobody."""
    async with whole(tmp_path) as world:
        kinds = {
            "tiny": small_image(1),
            "docker2": index([small_image(2, docker=True)], docker=True),
            "multi": index([small_image(3), small_image(4, platform="linux/arm64")]),
        }
        for name, published in kinds.items():
            world.upstream.content.publish(f"library/{name}", "1", published)
            await pull(world, dialect, name, published)
            asked = world.upstream.count()
            await pull(world, dialect, name, published)
            assert asked == world.upstream.count()
        assert {"sent"} == {outcome for _, _, outcome in world.outcomes()}


async def test_trap_01_several_accept_lines_in_any_order(tmp_path: Path) -> None:
    """Dockerd sends six `Accept` lines, shuffled: one answer, and upstream is always told all types."""
    async with whole(tmp_path) as world:
        answers: set[bytes] = set()
        for at, lines in enumerate(list(permutations(MOBY))[:: 720 // SHIFTS]):
            published = world.upstream.content.publish(f"library/app{at}", "1", index([small_image(at)]))
            reply = await world.ask(f"/v2/library/app{at}/manifests/1", "HEAD", *(f"Accept: {each}" for each in lines))
            assert (200, str(published.digest)) == (reply.status, reply.headers["docker-content-digest"])
            again = await world.ask("/v2/library/app0/manifests/1", "GET", *(f"Accept: {each}" for each in lines))
            answers.add(again.body)
        assert 1 == len(answers)
        sent = {tuple(each.headers.getall("Accept")) for each in world.upstream.seen("GET", "/manifests/")}
        assert 1 == len(sent)
        for media_type in (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST):
            assert media_type in "".join(*sent)


@pytest.mark.parametrize("docker", [False, True])
async def test_trap_02_the_type_is_the_manifests_own(tmp_path: Path, *, docker: bool) -> None:
    """By tag and by digest alike, hot and cold, whatever the client says it accepts: dockerd checks."""
    async with whole(tmp_path) as world:
        listed = world.upstream.content.publish("library/app", "1", index([small_image(docker=docker)], docker=docker))
        for _ in range(2):
            for each, wanted in (
                (listed, "1"),
                (listed, listed.digest),
                (listed.children[0], listed.children[0].digest),
            ):
                for accept in (OCI_MANIFEST, DOCKER_MANIFEST, "application/json"):
                    reply = await world.ask(f"/v2/library/app/manifests/{wanted}", "GET", f"Accept: {accept}")
                    own = orjson.loads(reply.body)["mediaType"]
                    assert (each.media_type, each.media_type) == (reply.headers["content-type"], own)


CHUNK, PIECES = 256 * 1024, 128


@pytest.mark.parametrize("hot", [False, True], ids=["cold", "hot"])
@both_loops
async def test_trap_03_open_ended_ranges_with_hang_ups(tmp_path: Path, *, hot: bool) -> None:
    """Containerd 2.1: `bytes=0-`, then 128 open-ended ranges, four at a time, each left after its piece.

    One upstream transfer; what arrived is whole; the hang-ups are no errors; nobody else is disturbed.
    """
    data = random_blob(CHUNK * PIECES)
    async with whole(tmp_path) as world:
        digest = world.upstream.content.publish_blob("library/big", data)
        target = f"/v2/library/big/blobs/{digest}?ns=docker.io"
        if hot:
            assert data == (await world.ask(target)).body
            world.records.clear()
        four = asyncio.Semaphore(4)

        async def piece(at: int) -> bytes:
            async with four:
                reader, writer = await world.served.connect()
                writer.write(head(target, "GET", f"Range: bytes={at}-", f"Accept-Encoding: {ZSTD}"))
                reply = await read_reply(reader, body=False)
                assert (206, f"bytes {at}-{len(data) - 1}/{len(data)}") == (
                    reply.status,
                    reply.headers["content-range"],
                )
                assert str(len(data) - at) == reply.headers["content-length"]
                async with asyncio.timeout(60):
                    found = await reader.readexactly(CHUNK)
                writer.transport.abort()
                return found

        whole_one = asyncio.create_task(world.ask(target))
        pieces = await asyncio.gather(*(piece(at * CHUNK) for at in range(PIECES)))
        assert data == b"".join(pieces)
        assert data == (await whole_one).body
        await left(world.served)
        assert 1 == world.upstream.count("GET", "/blobs/")
        found = Counter(world.outcomes())
        assert {"blobs"} == {kind for kind, _, _ in found}
        assert {200, 206} == {status for _, status, _ in found}
        assert {"left", "sent"} >= {outcome for _, _, outcome in found}
        assert data == (await world.ask(target)).body


async def test_trap_03_a_manifest_by_range(tmp_path: Path) -> None:
    """The same client sends `bytes=0-` for manifests too; 200 with all of it is right, digest and length as ever."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        for _ in range(2):
            reply = await world.ask(
                f"/v2/library/app/manifests/{published.digest}?ns=docker.io", "GET", "Range: bytes=0-"
            )
            assert (200, published.raw) == (reply.status, reply.body)


@both_loops
async def test_trap_04_a_tls_hello_is_refused_at_once(tmp_path: Path) -> None:
    """Podman, crane and dockerd send one to the plain port at every start: 400 and the end, not a wait."""
    async with whole(tmp_path) as world:
        started = time.monotonic()
        for _ in range(20):
            raw = await world.served.raw(HELLO)
            assert raw.startswith(b"HTTP/1.1 400 ")
            assert b"application/json" in raw
        assert time.monotonic() - started < 5


async def test_trap_05_a_connection_for_each_request(tmp_path: Path) -> None:
    """Dockerd and podman 4 close after each request: 24 connections for 20 layers, each told that it is the last."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish(
            "library/layers20", "1", image(*(random_blob(9_000, n) for n in range(20)))
        )
        for _ in range(2):
            for digest, data in published.blobs.items():
                reply = await world.ask(f"/v2/library/layers20/blobs/{digest}")
                assert (data, "close") == (reply.body, reply.headers["connection"])
        await left(world.served)


async def test_trap_06_twenty_blobs_at_once(tmp_path: Path) -> None:
    """`ctr` opens 20 cold blobs within 10 ms: one transfer each, all whole."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish(
            "library/layers20", "1", image(*(random_blob(60_000, n) for n in range(20)))
        )
        replies = await asyncio.gather(*(world.ask(f"/v2/library/layers20/blobs/{each}") for each in published.blobs))
        assert list(published.blobs.values()) == [each.body for each in replies]
        assert len(published.blobs) == world.upstream.count("GET", "/blobs/")


async def test_trap_07_one_blob_of_several_repositories(tmp_path: Path) -> None:
    """The same layer through two repositories and two registries is one transfer and one file."""
    async with whole(tmp_path) as world:
        data = random_blob(50_000)
        for repository in ("library/docker2", "library/multi"):
            digest = world.upstream.content.publish_blob(repository, data)
        for target in ("library/docker2", "library/multi", "registry.example.com/library/multi"):
            assert data == (await world.ask(f"/v2/{target}/blobs/{digest}")).body
        assert 1 == world.upstream.count("GET", "/blobs/")


async def test_trap_08_nothing_is_compressed(tmp_path: Path) -> None:
    """`Accept-Encoding: zstd` changes nothing, and upstream is asked for bytes as they are."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", image(b"a" * 100_000))
        for target in ("manifests/1", f"manifests/{published.digest}", f"blobs/{published.layers[0]}"):
            for _ in range(2):
                reply = await world.ask(f"/v2/library/app/{target}", "GET", f"Accept-Encoding: {ZSTD}")
                assert not {"content-encoding", "vary", "transfer-encoding"} & reply.headers.keys()
                assert len(reply.body) == int(reply.headers["content-length"])
        assert b"a" * 100_000 == reply.body
        assert {"identity"} == {each.headers.get("Accept-Encoding") for each in world.upstream.log}


@pytest.mark.parametrize(
    "line", ["Authorization: Basic Og==", "Authorization: Bearer hush", "Authorization: Basic dTpw"]
)
async def test_traps_09_and_10_who_logs_in_is_nobody(tmp_path: Path, line: str) -> None:
    """Dockerd cannot log in to a mirror, `Basic Og==` is nobody: no challenge, no difference, nothing upstream."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        for target in ("/v2/", "/v2/library/app/manifests/1", f"/v2/library/app/blobs/{published.layers[0]}"):
            for _ in range(2):
                reply = await world.ask(target, "GET", line)
                assert (200, False) == (reply.status, "www-authenticate" in reply.headers)
        missing = await world.ask("/v2/library/app/manifests/2", "GET", line)
        assert (404, False) == (missing.status, "www-authenticate" in missing.headers)
        assert not [each for each in world.upstream.log if "Authorization" in each.headers]
        assert "hush" not in str(world.records)


async def test_trap_11_what_is_not_attached_is_asked_for_all_the_time(tmp_path: Path) -> None:
    """Signatures, attestations, SBOMs and referrers: 404 MANIFEST_UNKNOWN, and an empty index."""
    world_tags = ("", ".sig", ".att", ".sbom")
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        for _ in range(10):
            for suffix in world_tags:
                wanted = f"sha256-{published.digest.hex}{suffix}"
                reply = await world.ask(f"/v2/library/app/manifests/{wanted}")
                code = orjson.loads(reply.body)["errors"][0]["code"]
                assert (404, "MANIFEST_UNKNOWN") == (reply.status, code)
            listed = await world.ask(f"/v2/library/app/referrers/{published.digest}")
            assert (200, OCI_INDEX, []) == (
                listed.status,
                listed.headers["content-type"],
                orjson.loads(listed.body)["manifests"],
            )


async def test_trap_12_tracing_headers(tmp_path: Path) -> None:
    """`traceparent` and `baggage` from dockerd's containerd store are taken and go no further."""
    lines = ("Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Baggage: trigger=api")
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        world.upstream.faults.add("*/blobs/*", Fault(rate=1_000_000))
        for target in ("manifests/1", f"manifests/{published.digest}", f"blobs/{published.layers[0]}"):
            for method in ("HEAD", "GET", "GET"):
                assert 200 == (await world.ask(f"/v2/library/app/{target}?ns=docker.io", method, *lines)).status
        sent = {name.lower() for each in world.upstream.log for name in each.headers}
        assert not {"traceparent", "baggage"} & sent
