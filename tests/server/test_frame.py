"""The HTTP frame of the registry face, at the socket (clients.md section 10, items 1 to 20 and 59 to 63)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from iarproxy import errors
from iarproxy.mirror.serving.answers import ReferrersAnswer, TagList
from iarproxy.oci import Digest
from iarproxy.server.connection import MAX_LINE
from iarproxy.server.errors import STATUSES
from serving import ALPINE, ROUTES, FakeMirror, both_loops, read_reply, serving

NO_DIGEST = f"sha256:{'0' * 64}"


@both_loops
async def test_ping(tmp_path: Path) -> None:
    """Item 1: `/v2/` and `/v2` answer 200 and `{}` with the mirror failing, to GET and HEAD alike."""
    mirror = FakeMirror(tmp_path, failure=errors.UpstreamUnavailable("down"))
    async with serving(mirror) as served:
        for target in ("/v2/", "/v2"):
            got, head = await served.ask(target), await served.ask(target, "HEAD")
            head.headers["date"] = got.headers["date"]
            assert (got.status, got.body, got.headers["content-type"]) == (200, b"{}", "application/json")
            assert (head.status, head.body) == (200, b"")
            assert got.headers == head.headers


@both_loops
async def test_every_answer_has_the_api_version_and_no_framework_header(tmp_path: Path) -> None:
    """Items 2, 3, 7, 14, 80: version and nosniff always; no challenge, server name, coding or `Vary` ever."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/alpine:3")
    blob = mirror.add(b"layer")
    async with serving(mirror) as served:
        for target in (
            "/v2/",
            "/v2/alpine/manifests/3",
            f"/v2/alpine/blobs/{blob}",
            "/v2/_catalog",
            "/",
            "/v2/A/tags/list",
        ):
            reply = await served.ask(target, Accept_Encoding="gzip, zstd")
            assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
            assert reply.headers["x-content-type-options"] == "nosniff"
            forbidden = {"www-authenticate", "server", "vary", "content-encoding", "transfer-encoding"}
            assert set() == forbidden & reply.headers.keys()
            assert "date" in reply.headers


@both_loops
async def test_head_equals_get(tmp_path: Path) -> None:
    """Item 9: HEAD has the status and the headers of GET, the length included, and no body."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/alpine:3")
    mirror.index = ReferrersAnswer(b'{"schemaVersion":2}', filtered=False)
    blob = mirror.add(b"x" * 100_000)
    targets = [
        *("/v2/", "/v2/_catalog", "/nothing", "/v2/alpine/tags/list", f"/v2/alpine/referrers/{NO_DIGEST}"),
        *("/v2/alpine/manifests/3", "/v2/alpine/manifests/missing", f"/v2/alpine/blobs/{blob}"),
        *(f"/v2/alpine/blobs/{NO_DIGEST}", "/v2/UPPER/manifests/3", "/v2/x/manifests/1?ns=nowhere.test"),
    ]
    async with serving(mirror) as served:
        for target in targets:
            got, head = await served.ask(target), await served.ask(target, "HEAD")
            got.headers.pop("date"), head.headers.pop("date")
            assert (got.status, got.headers, b"") == (head.status, head.headers, head.body), target
            assert len(got.body) == int(got.headers["content-length"])


@both_loops
async def test_pipelining_two_requests(tmp_path: Path) -> None:
    """Item 4: two requests in one packet are answered in order on one connection, a blob among them."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(b"y" * 300_000)
    async with serving(mirror) as served:
        reader, writer = await served.connect()
        one = f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write((one + "GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n").encode())
        first, second = await read_reply(reader), await read_reply(reader)
        writer.close()
    assert (first.body, second.body) == (b"y" * 300_000, b"{}")


@both_loops
async def test_tls_hello(tmp_path: Path) -> None:
    """Item 5: a TLS ClientHello on the plain port is answered `HTTP/1.1 400` and closed within milliseconds."""
    async with serving(FakeMirror(tmp_path)) as served:
        started = time.monotonic()
        raw = await served.raw(bytes.fromhex("160301020001000001fc0303") + bytes(500))
        assert time.monotonic() - started < 1
    assert raw.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert orjson.loads(raw.partition(b"\r\n\r\n")[2])["errors"]


@both_loops
async def test_long_headers(tmp_path: Path) -> None:
    """Item 6: a header of 30 kB passes; a longer one gets a clean 400 or 431 in JSON."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(b"z" * 1000)
    many = "bytes=" + ",".join(f"{at}-{at}" for at in range(6000))
    async with serving(mirror) as served:
        taken = await served.ask(f"/v2/alpine/blobs/{blob}", Range=many[:30_000])
        refused = await served.ask("/v2/", X_Long="a" * (MAX_LINE + 1000))
        target = await served.ask("/v2/" + "a" * 40_000)
    assert (taken.status, len(taken.body)) == (200, 1000)
    assert refused.status in (400, 431)
    assert target.status in (400, 414, 431)
    assert orjson.loads(refused.body)["errors"][0]["code"]


@both_loops
async def test_absolute_form_and_any_host(tmp_path: Path) -> None:
    """Item 16: a proxy-style target is taken for its path; its host decides nothing."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/alpine:3")
    async with serving(mirror) as served:
        reply = await served.ask("http://ghcr.io/v2/library/alpine/manifests/3")
    assert (reply.status, mirror.asked) == (200, ["manifest docker.io/library/alpine 3"])


@both_loops
async def test_methods(tmp_path: Path) -> None:
    """Item 19: other methods get 405, `Allow` and UNSUPPORTED, uploads included; OPTIONS gets 204."""
    async with serving(FakeMirror(tmp_path)) as served:
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
            reply = await served.ask("/v2/alpine/blobs/uploads/", method)
            assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
            assert orjson.loads(reply.body)["errors"][0]["code"] == "UNSUPPORTED"
        options = await served.ask("/v2/", "OPTIONS")
    assert (options.status, options.body, "content-length" in options.headers) == (204, b"", False)


@both_loops
async def test_bodies_are_refused_unread(tmp_path: Path) -> None:
    """Threats L12: a GET with a body is refused at its head, and the connection closes."""
    async with serving(FakeMirror(tmp_path)) as served:
        for header in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
            request = f"GET /v2/ HTTP/1.1\r\nHost: m\r\n{header}\r\n\r\n".encode()
            reader, writer = await served.connect()
            writer.write(request)
            reply = await read_reply(reader)
            writer.close()
            assert (reply.status, reply.headers["connection"]) == (400, "close")


@both_loops
async def test_slow_header_sender_is_closed(tmp_path: Path) -> None:
    """Threats T70: a client that drips its header is closed at the deadline."""
    async with serving(FakeMirror(tmp_path), header_deadline=0.3) as served:
        reader, writer = await served.connect()
        started = time.monotonic()
        writer.write(b"GET /v2/ HTTP/1.1\r\n")
        reading = asyncio.create_task(reader.read())
        while not reading.done() and time.monotonic() - started < 5:
            writer.write(b"a")
            await asyncio.wait({reading}, timeout=0.05)
        with suppress(ConnectionResetError):
            assert await reading == b""
        assert time.monotonic() - started < 2
        writer.close()


@both_loops
async def test_keep_alive_of_old_and_new_clients(tmp_path: Path) -> None:
    """Item 4: HTTP/1.1 stays open unless asked; HTTP/1.0 closes unless asked, and is told."""
    async with serving(FakeMirror(tmp_path)) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
            assert "connection" not in (await read_reply(reader)).headers
        writer.write(b"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await read_reply(reader)).headers["connection"] == "keep-alive"
        writer.write(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


@both_loops
async def test_draining_connections_close(tmp_path: Path) -> None:
    """Item 74: while the server leaves, an answer on a kept connection says `Connection: close`."""
    async with serving(FakeMirror(tmp_path)) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
        await read_reply(reader)
        served.server.draining = True
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


@both_loops
async def test_upgrade_is_ignored(tmp_path: Path) -> None:
    """Threats T76: an `Upgrade` changes nothing."""
    async with serving(FakeMirror(tmp_path)) as served:
        reply = await served.ask("/v2/", Upgrade="websocket")
    assert (reply.status, reply.body) == (200, b"{}")


FAILURES = [
    (errors.Malformed("m"), 400, "NAME_INVALID"),
    (errors.DigestInvalid("m"), 400, "DIGEST_INVALID"),
    (errors.NameInvalid("m"), 404, "NAME_INVALID"),
    (errors.ManifestInvalid("m"), 404, "MANIFEST_INVALID"),
    (errors.UnknownName("m"), 404, "NAME_UNKNOWN"),
    (errors.UnknownManifest("m"), 404, "MANIFEST_UNKNOWN"),
    (errors.UnknownBlob("m"), 404, "BLOB_UNKNOWN"),
    (errors.Denied("m"), 403, "DENIED"),
    (errors.Refused("m"), 403, "DENIED"),
    (errors.Unsupported("m"), 405, "UNSUPPORTED"),
    (errors.UpstreamWrong("m"), 502, "UNAVAILABLE"),
    (errors.UpstreamTimeout("m"), 504, "UNAVAILABLE"),
    (errors.UpstreamBusy("m", retry_after=3600), 429, "TOOMANYREQUESTS"),
    (errors.UpstreamUnavailable("m"), 502, "UNAVAILABLE"),
    (errors.StoreFull("m"), 503, "UNAVAILABLE"),
    (errors.StoreUnavailable("m"), 503, "UNAVAILABLE"),
    (errors.LedgerDamaged("m"), 503, "UNAVAILABLE"),
    (errors.Unavailable("m"), 503, "UNAVAILABLE"),
    (KeyError("secret"), 500, "UNAVAILABLE"),
]


@pytest.mark.parametrize(("failure", "status", "code"), FAILURES, ids=lambda value: type(value).__name__)
async def test_failures_become_errors(tmp_path: Path, failure: Exception, status: int, code: str) -> None:
    """Items 59 to 63: each kind of failure has one status and one code, in JSON that is never cached."""
    async with serving(FakeMirror(tmp_path, failure=failure)) as served:
        reply = await served.ask("/v2/alpine/manifests/3")
    body = orjson.loads(reply.body)
    assert (status, code) == (reply.status, body["errors"][0]["code"])
    assert (reply.headers["content-type"], reply.headers["cache-control"]) == ("application/json", "no-store")
    assert "secret" not in reply.body.decode()
    assert (status in (429, 503)) == ("retry-after" in reply.headers)
    assert int(reply.headers.get("retry-after", "1")) <= 60
    assert (status == 403) == body["errors"][0]["message"].startswith("iarproxy: ") or status == 500


def test_every_error_type_has_a_status() -> None:
    """Rule 18: no type of `errors` falls through the table but the two that serve no request."""
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.IarproxyError)
    }
    unmapped = {kind for kind in kinds if not set(kind.__mro__) & STATUSES.keys()}
    assert {errors.IarproxyError} == unmapped


@pytest.mark.parametrize("target", [f"/v2/x/manifests/sha256-{'0' * 64}.sig", f"/v2/x/referrers/{NO_DIGEST}"])
async def test_signature_lookups_never_hear_name_unknown(tmp_path: Path, target: str) -> None:
    """Item 31: for attachment tags and referrers an unknown name is MANIFEST_UNKNOWN."""
    async with serving(FakeMirror(tmp_path, failure=errors.UnknownName("no"))) as served:
        reply = await served.ask(target)
    assert (reply.status, orjson.loads(reply.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("failure", [errors.Denied("no"), errors.UpstreamTimeout("late"), errors.UpstreamBusy("429")])
async def test_referrers_never_fail(tmp_path: Path, failure: Exception) -> None:
    """Items 11 and 53: what upstream refuses or fails at is 404 for referrers, on which clients go on."""
    async with serving(FakeMirror(tmp_path, failure=failure)) as served:
        reply = await served.ask(f"/v2/alpine/referrers/{NO_DIGEST}")
    assert reply.status == 404


async def test_access_log(tmp_path: Path) -> None:
    """Item 78: one bounded record per answer, without query, token or control characters."""
    records: list[dict[str, object]] = []
    mirror = FakeMirror(tmp_path, listed=TagList(ALPINE, ("1", "2"), complete=True))
    blob = mirror.add(b"0123456789")
    async with serving(mirror, log=lambda record: records.append(dict(record))) as served:
        agent = "containerd/2.1\u00e9\u00ff" + "x" * 1000
        await served.ask(
            f"/v2/library/alpine/blobs/{blob}?ns=docker.io&token=hush",
            Range="bytes=2-4",
            User_Agent=agent,
            Authorization="Basic hush",
        )
        await served.ask("/v2/alpine/manifests/none")
    assert ("GET", f"/v2/library/alpine/blobs/{blob}", "docker.io", 206, 3) == tuple(
        records[0][key] for key in ("method", "path", "ns", "status", "bytes")
    )
    assert tuple(records[0][key] for key in ("range", "cache", "upstream", "outcome")) == (
        "bytes=2-4",
        "hit",
        "docker.io",
        "sent",
    )
    assert (records[1]["status"], records[1]["outcome"]) == (404, "refused")
    assert "hush" not in orjson.dumps(records).decode()
    assert str(records[0]["user_agent"]).isascii()
    assert len(str(records[0]["user_agent"])) <= 256


def test_routes_of_the_tests_know_the_hub() -> None:
    """The fake world has the upstream that the other tests ask for."""
    assert ROUTES.repository("alpine") == ALPINE
    assert Digest.parse(NO_DIGEST).hex == "0" * 64
