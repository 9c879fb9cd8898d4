"""The server checklist (clients.md section 10), items 1 to 20 as far as no other test proves them; see `checklist`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from dialects import MOBY
from images import index, random_blob, small_image
from registry_faults import Fault
from serving import Reply, both_loops, read_reply
from whole import Whole, head, whole


def code(reply: Reply) -> str:
    return str(orjson.loads(reply.body)["errors"][0]["code"])


@pytest.mark.parametrize("target", ["/v2/", "/v2", "/v2/?ns=docker.io"])
@both_loops
async def test_item_01_ping_with_every_upstream_down(tmp_path: Path, target: str) -> None:
    """With and without the slash, by GET and HEAD, twice, with nothing reachable."""
    async with whole(tmp_path) as world:
        await world.upstream.stop()
        for method in ("GET", "HEAD", "GET"):
            reply = await world.ask(target, method)
            assert (200, "2", "application/json") == (
                reply.status,
                reply.headers["content-length"],
                reply.headers["content-type"],
            )
            assert "registry/2.0" == reply.headers["docker-distribution-api-version"]


@both_loops
async def test_item_04_expect_is_no_trap(tmp_path: Path) -> None:
    """`Expect: 100-continue` on a GET is answered at once, and the connection goes on."""
    async with whole(tmp_path) as world:
        reader, writer = await world.served.connect()
        for _ in range(2):
            writer.write(head("/v2/", "GET", "Expect: 100-continue"))
            raw = await asyncio.wait_for(reader.readuntil(b"{}"), 5)
            assert raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        writer.close()


@both_loops
async def test_item_06_long_lines(tmp_path: Path) -> None:
    """A `Range` of 20 kB and a path of 4 kB are read; what is longer gets a clean 4xx, each without harm to others."""
    parts = ",".join(f"{at * 100_000_000}-{at * 100_000_000 + 9}" for at in range(1, 1024))
    async with whole(tmp_path) as world:
        digest = world.upstream.content.publish_blob("library/app", random_blob(1000))
        reader, writer = await world.served.connect()
        writer.write(head(f"/v2/library/app/blobs/{digest}", "GET", f"Range: bytes={parts}"))
        assert len(parts) > 20_000
        assert (200, 1000) == ((reply := await read_reply(reader)).status, len(reply.body))
        writer.write(head(f"/v2/library/app/blobs/{digest}?x={'y' * 3900}"))
        assert 200 == (await read_reply(reader)).status
        writer.write(head(f"/v2/{'a/' * 2030}b/manifests/1"))
        assert 404 == (await read_reply(reader)).status  # longer than a name may be, and read to its end
        writer.write(head(f"/v2/{'a/' * 3000}b/manifests/1"))
        assert 400 == (await read_reply(reader)).status
        writer.close()
        for line in (f"X-Long: {'a' * 40_000}", f"Range: bytes={parts * 2}"):
            refused = await world.ask("/v2/", "GET", line)
            assert refused.status in (400, 431)
            assert code(refused)


@pytest.mark.parametrize("fault", [Fault(chunked=True), Fault(close_delimited=True)], ids=["chunked", "close"])
async def test_item_08_the_length_is_always_told(tmp_path: Path, fault: Fault) -> None:
    """Also where upstream tells none, for manifests and for blobs, cold and hot: a length, and no chunks."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image(size=200_000))
        world.upstream.faults.add("*", fault)
        for target in ("manifests/1", f"blobs/{published.layers[0]}"):
            for _ in range(2):
                reply = await world.ask(f"/v2/library/app/{target}")
                assert len(reply.body) == int(reply.headers["content-length"])
                assert "transfer-encoding" not in reply.headers


async def test_item_09_head_equals_get_on_every_endpoint(tmp_path: Path) -> None:
    """Status, all headers and the length, on the wire, with and without the fast lane; HEAD has no body.

    The text of an error may quote what upstream said to that very request, so its length is its own.
    """
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", index([small_image(), small_image(2)]))
        child = published.children[0]
        unknown = "sha256:" + "0" * 64
        names = [
            *("tags/list", "tags/list?n=0", "manifests/1", "manifests/none", f"manifests/{published.digest}"),
            *(f"manifests/{unknown}", "manifests/sha256:bad", f"blobs/{child.layers[0]}", f"blobs/{unknown}"),
            *(f"blobs/{child.digest}", f"referrers/{published.digest}", "referrers/bad", "blobs/uploads/"),
            *(f"manifests/sha256-{published.digest.hex}", f"manifests/sha256-{published.digest.hex}.sig"),
        ]
        targets = [f"/v2/library/app/{each}" for each in names]
        targets += ["/v2/", "/v2", "/v2/_catalog", "/", "/healthz", "/v2/Upper/manifests/1", "/v2/a/manifests/1?ns=b.c"]
        for target in targets:
            await world.ask(target)  # what is not yet here comes
            first, second, got = (
                await world.ask(target, "HEAD"),
                await world.ask(target, "HEAD"),
                await world.ask(target),
            )
            for each in (first, second, got):
                each.headers.pop("date")
                length = int(
                    each.headers.pop("content-length") if each.status >= 400 else each.headers["content-length"]
                )
                assert length == len(got.body) or each is not got
            assert (got.status, got.headers, b"") == (first.status, first.headers, first.body), target
            assert (second.status, second.headers, second.body) == (first.status, first.headers, b""), target


async def test_item_09_head_first(tmp_path: Path) -> None:
    """A HEAD that comes before any GET tells what the GET will: length, type and digest of manifest and blob."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image(size=50_000))
        for target in ("manifests/1", f"manifests/{published.digest}", f"blobs/{published.layers[0]}"):
            told, got = (
                await world.ask(f"/v2/library/app/{target}", "HEAD"),
                await world.ask(f"/v2/library/app/{target}"),
            )
            for name in ("content-length", "content-type", "docker-content-digest", "etag"):
                assert told.headers[name] == got.headers[name]


@both_loops
async def test_item_10_the_head_comes_before_the_body(tmp_path: Path) -> None:
    """Of a cold blob the head goes out as soon as upstream's is in, however slow the rest is (containerd 2.3: 30 s)."""
    async with whole(tmp_path) as world:
        data = random_blob(400_000)
        digest = world.upstream.content.publish_blob("library/app", data)
        world.upstream.faults.add("*/blobs/*", Fault(stall_at=65_536, stall_for=1.5))
        reader, writer = await world.served.connect()
        writer.write(head(f"/v2/library/app/blobs/{digest}"))
        reply = await read_reply(reader, body=False)
        assert (200, str(len(data))) == (reply.status, reply.headers["content-length"])
        assert world.upstream.sent[str(digest)] <= 65_536
        assert data == await asyncio.wait_for(reader.readexactly(len(data)), 20)
        writer.close()


async def test_item_13_what_may_be_cached(tmp_path: Path) -> None:
    """By digest for ever, by tag never without asking, refusals and errors not at all; each with a date."""
    async with whole(tmp_path, tags=[{"match": "docker.io/library/app:no", "mode": "refuse"}]) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        expected = {
            "manifests/1": "no-cache",
            f"manifests/{published.digest}": "public, max-age=31536000, immutable",
            f"blobs/{published.layers[0]}": "public, max-age=31536000, immutable",
            "tags/list": "no-cache",
            "manifests/no": "no-store",
            "manifests/none": "no-store",
        }
        for target, cached in expected.items():
            reply = await world.ask(f"/v2/library/app/{target}")
            assert (cached, True) == (reply.headers["cache-control"], "date" in reply.headers), target


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?ns=docker.io&unknown=1&unknown=2", 200),
        ("?ns=docker%2Eio", 200),
        ("?ns=docker.io&ns=docker.io", 200),
        ("?ns=docker.io&ns=registry.example.com", 400),
        ("?ns=%zz", 404),
        ("?" + "&".join(f"a{at}=1" for at in range(80)), 400),
    ],
)
async def test_item_15_queries(tmp_path: Path, query: str, status: int) -> None:
    """Unknown parameters are ignored, `ns` is decoded once, two different ones are a contradiction."""
    async with whole(tmp_path) as world:
        world.upstream.content.publish("library/app", "1", small_image())
        assert status == (await world.ask(f"/v2/library/app/manifests/1{query}")).status


@pytest.mark.parametrize(
    "host", ["mirror.test", "mirror.test:5000", "127.0.0.1:5000", "[::1]:5000", "localhost", "x" * 300]
)
async def test_item_16_any_host(tmp_path: Path, host: str) -> None:
    """With a port and without, by name and address: `Host` decides nothing that is not configured."""
    async with whole(tmp_path) as world:
        world.upstream.content.publish("library/app", "1", small_image())
        for target in ("/v2/library/app/manifests/1", "http://elsewhere.test/v2/library/app/manifests/1"):
            for _ in range(2):
                raw = await world.served.raw(
                    f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                assert 200 == Reply.parse(raw).status


async def _everything(world: Whole) -> list[str]:
    published = world.upstream.content.publish("library/app", "1", small_image())
    return [
        *("/v2/", "/v2", "/v2/_catalog", "/", "/nothing", "/v2/library/app/tags/list"),
        *("/v2/library/app/manifests/1", "/v2/library/app/manifests/none", "/v2/library/none/manifests/1"),
        *(f"/v2/library/app/blobs/{published.layers[0]}", "/v2/library/app/blobs/sha256:bad", "/v2/A/manifests/1"),
        *(f"/v2/library/app/referrers/{published.digest}", "/v2/a/manifests/1?ns=unknown.test", "/v2/a/b/c"),
    ]


async def test_item_59_no_text_anywhere(tmp_path: Path) -> None:
    """No body is `text/plain` or HTML; every error is the JSON of the specification with at least one entry."""
    async with whole(tmp_path) as world:
        targets = [(each, "GET") for each in await _everything(world)]
        targets += [("/v2/library/app/blobs/uploads/", "POST"), ("/v2/library/app/manifests/1", "PUT")]
        targets += [("/v2/library/app/manifests/1", "DELETE"), ("/v2/", "BREW"), ("*", "GET")]
        for target, method in targets:
            reply = await world.ask(target, method)
            assert not reply.headers["content-type"].startswith("text/"), target
            if reply.status >= 400:
                assert "application/json" == reply.headers["content-type"]
                assert all({"code", "message"} <= each.keys() for each in orjson.loads(reply.body)["errors"])
                assert code(reply)
        for raw in (b"\x16\x03\x01", b"nonsense\r\n\r\n", b"GET /v2/ HTTP/9.9\r\nHost: m\r\n\r\n"):
            answered = Reply.parse(await world.served.raw(raw))
            assert "application/json" == answered.headers["content-type"]
            assert code(answered)


async def test_items_02_03_and_80_on_every_answer(tmp_path: Path) -> None:
    """The version of the API always; never a challenge, nor what switches podman's signature API on."""
    async with whole(tmp_path) as world:
        for target in await _everything(world):
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                reply = await world.ask(target, method, *(f"Accept: {each}" for each in MOBY))
                assert "registry/2.0" == reply.headers["docker-distribution-api-version"]
                assert "nosniff" == reply.headers["x-content-type-options"]
                assert not {"www-authenticate", "x-registry-supports-signatures", "server"} & reply.headers.keys()
