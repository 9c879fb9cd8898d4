"""The hot lane: the same answer without parsing, asked of the mirror each time, and only where that is certain."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from iarproxy.mirror.answers import ManifestAnswer
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.server.hot import MAX_HEAD, is_one_head
from serving import ALPINE, MANIFEST, FakeMirror, Reply, both_loops, read_reply, serving

GET = b"GET /v2/library/alpine/manifests/3?ns=docker.io HTTP/1.1\r\nHost: m\r\nUser-Agent: containerd/2.1\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")


class HotMirror(FakeMirror):
    """Answers from memory without waiting, unless told not to be certain."""

    certain = True
    peeks = 0

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        self.peeks += 1
        return self.manifests.get((str(repository), str(wanted))) if self.certain else None


def same(left: Reply, right: Reply) -> bool:
    left.headers.pop("date")
    right.headers.pop("date")
    return left == right


@both_loops
async def test_same_answer_without_the_ordinary_path(tmp_path: Path) -> None:
    """The second identical request gets the identical answer, and the ordinary path never sees it; HEAD likewise."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", offered=Digest.of(b"other"))
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        for request, body in ((GET, True), (HEAD, False)):
            writer.write(request)
            first = await read_reply(reader, body=body)
            asked = list(mirror.asked)
            for _ in range(3):
                writer.write(request)
                again = await read_reply(reader, body=body)
            assert same(first, again)
            assert mirror.asked == asked
        writer.close()
    assert mirror.peeks == 6


@both_loops
async def test_other_connections_profit(tmp_path: Path) -> None:
    """What one client's request taught serves the first request of the next client."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        for _ in range(3):
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            writer.write(GET)
            assert (await read_reply(reader)).body == MANIFEST
            writer.close()
    assert len(mirror.asked) == 1


async def test_a_changed_pin_shows_at_once(tmp_path: Path) -> None:
    """Rule 2: the mirror is asked each time, so a repin, a drift or a denial is never answered from the past."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(GET)
            await read_reply(reader)
        mirror.pin("docker.io/library/alpine:3", b'{"schemaVersion":2}')
        writer.write(GET)
        assert (await read_reply(reader)).body == b'{"schemaVersion":2}'
        mirror.pin("docker.io/library/alpine:3", b'{"schemaVersion":2}', vanished=True)
        writer.write(GET)
        assert "warning" in (await read_reply(reader)).headers
        del mirror.manifests[str(ALPINE), "3"]
        writer.write(GET)
        assert (await read_reply(reader)).status == 404
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        GET.replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"a" * MAX_HEAD + b"\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    ],
    ids=["condition", "close", "old", "long", "upgrade"],
)
async def test_what_is_not_plain_is_not_learned(tmp_path: Path, request_: bytes) -> None:
    """Rule 1: conditions, closes, old versions, long heads and upgrades take the ordinary path each time."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        for _ in range(3):
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            writer.write(request_)
            await read_reply(reader, body=False)
            writer.close()
    assert len(mirror.asked) == 3


async def test_uncertain_answers_take_the_ordinary_path(tmp_path: Path) -> None:
    """Where the mirror cannot tell without waiting, it is asked in the ordinary way."""
    mirror = HotMirror(tmp_path)
    mirror.certain = False
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(GET)
            assert (await read_reply(reader)).status == 200
        writer.close()
    assert len(mirror.asked) == 3


@both_loops
async def test_packets_that_are_not_requests(tmp_path: Path) -> None:
    """Split, pipelined and mixed requests are answered in order and rightly, known or not."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await read_reply(reader)
        ping = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(ping + GET + ping)
        assert [(await read_reply(reader)).body for _ in range(3)] == [b"{}", MANIFEST, b"{}"]
        writer.write(GET[:20])
        await asyncio.sleep(0.02)
        writer.write(GET[20:])
        assert (await read_reply(reader)).body == MANIFEST
        writer.write(b"GET /v2/ HTTP/1.1\r\nX: ")
        await asyncio.sleep(0.02)
        writer.write(GET)
        assert (await read_reply(reader)).body == b"{}"
        writer.close()


async def test_draining_ends_hot_connections(tmp_path: Path) -> None:
    """Item 74: while the server leaves, a known request gets `Connection: close` as well."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(GET)
            await read_reply(reader)
        served.server.draining = True
        writer.write(GET)
        assert (await read_reply(reader)).headers["connection"] == "close"
        writer.close()


async def test_idle_hot_connections_are_closed(tmp_path: Path) -> None:
    """Threats T70: the deadline of an idle connection counts from its last answer, a hot one included."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, peek=mirror.peek, header_deadline=0.4) as served:
        reader, writer = await served.connect()
        for _ in range(4):
            writer.write(GET)
            assert (await read_reply(reader)).status == 200
            await asyncio.sleep(0.2)
        started = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert time.monotonic() - started < 2
        writer.close()


async def test_hot_answers_are_accounted(tmp_path: Path) -> None:
    """Item 78: the access record of a hot answer tells the same as the ordinary one."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    records: list[dict[str, object]] = []
    async with serving(mirror, peek=mirror.peek, log=lambda each: records.append(dict(each))) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(GET)
            await read_reply(reader)
        writer.close()
    for record in records:
        record.pop("duration_ms")
    assert records[0] == records[1]
    assert (records[1]["cache"], records[1]["ns"], records[1]["bytes"]) == ("pinned", "docker.io", len(MANIFEST))


def test_one_head() -> None:
    """The outline of one request: its method and one blank line, at the end."""
    assert is_one_head(GET)
    assert is_one_head(HEAD)
    assert not is_one_head(GET + GET)
    assert not is_one_head(GET + b"x")
    assert not is_one_head(GET[:-1])
    assert not is_one_head(b"POST /v2/ HTTP/1.1\r\n\r\n")
