"""The fast lane: the same answer as the ordinary path gives, only where that is certain, and only while it is true."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self

import pytest

from iarproxy.mirror.serving.answers import Followed, HeldBlob, ManifestAnswer, Served
from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.server.head import MAX_HEAD, read_head
from serving import ALPINE, MANIFEST, SINCE, FakeMirror, Reply, both_loops, read_reply, serving

GET = b"GET /v2/library/alpine/manifests/3?ns=docker.io HTTP/1.1\r\nHost: m\r\nUser-Agent: containerd/2.1\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")


class MemoryMirror(FakeMirror):
    """Answers from memory without waiting, unless told not to be certain. `changed` is what `on_change` promises."""

    certain = True
    peeks = 0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.callbacks: list[Callable[[TagReference | None], None]] = []
        self.small: dict[Digest, bytes] = {}

    def within(self, _environment: str) -> Self:
        return self

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        self.peeks += 1
        return self.manifests.get((str(repository), str(wanted))) if self.certain else None

    def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
        path, raw = self.blobs.get(digest), self.small.get(digest)
        if raw is not None:
            return HeldBlob(len(raw), raw, lambda: -1)
        if path is None or not self.certain:
            return None
        return HeldBlob(path.stat().st_size, None, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def on_change(self, callback: Callable[[TagReference | None], None]) -> None:
        self.callbacks.append(callback)

    def changed(self, reference: TagReference | None = None) -> None:
        for callback in self.callbacks:
            callback(reference)


def same(left: Reply, right: Reply) -> bool:
    left.headers.pop("date")
    right.headers.pop("date")
    return left == right


@both_loops
async def test_same_answer_without_the_ordinary_path(tmp_path: Path) -> None:
    """GET and HEAD get the very answer of the ordinary path, which does not see them."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", offered=Digest.of(b"other"))
    async with serving(mirror, memory=mirror) as fast, serving(mirror) as slow:
        for request, body in ((GET, True), (HEAD, False)):
            answers = []
            for served in (fast, slow):
                reader, writer = await served.connect()
                await asyncio.sleep(0.01)
                writer.write(request)
                answers.append(await read_reply(reader, body=body))
                writer.close()
            assert same(*answers)
    assert 2 == len(mirror.asked)


async def test_a_hit_asks_nobody(tmp_path: Path) -> None:
    """Rule 2: until the second is over or something changes, an answer is made once, whoever asks."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        started = datetime.now(UTC)
        for _ in range(3):
            reader, writer = await served.connect()
            await asyncio.sleep(0.001)
            for agent in (b"containerd/2.1", b"containerd/2.2"):
                writer.write(GET.replace(b"containerd/2.1", agent))
                assert MANIFEST == (await read_reply(reader)).body
            writer.close()
        seconds = int((datetime.now(UTC) - started).total_seconds()) + 2
    assert mirror.peeks <= 2 * seconds
    assert [] == mirror.asked


async def test_a_change_shows_at_once(tmp_path: Path) -> None:
    """Rule 2: after a repin, a drift or a denial was told, nothing is answered from the past."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(GET)
            await read_reply(reader)
        mirror.pin("docker.io/library/alpine:3", b'{"schemaVersion":2}')
        mirror.changed()
        writer.write(GET)
        assert (await read_reply(reader)).body == b'{"schemaVersion":2}'
        mirror.pin("docker.io/library/alpine:3", b'{"schemaVersion":2}', vanished=True)
        mirror.changed()
        writer.write(GET)
        assert "warning" in (await read_reply(reader)).headers
        del mirror.manifests[str(ALPINE), "3"]
        mirror.changed()
        writer.write(GET)
        assert (await read_reply(reader)).status == 404
        writer.close()


async def test_the_date_is_that_of_the_answer(tmp_path: Path) -> None:
    """Rule 2: the next second has its own `Date`, and asks the mirror for nothing that did not change."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        dates = set()
        for _ in range(2):
            writer.write(GET)
            reply = await read_reply(reader)
            dates.add(reply.headers["date"])
            seen = parsedate_to_datetime(reply.headers["date"])
            assert abs((datetime.now(UTC) - seen).total_seconds()) < 2
            await asyncio.sleep(1.1)
        writer.close()
    assert (2, 1) == (len(dates), mirror.peeks)


async def test_what_is_true_for_a_time_is_asked_again(tmp_path: Path) -> None:
    """Rule 2: a followed tag, whose time to live nobody tells, is asked for again when the second is over."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", standing=Followed(SINCE))
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        for expected in (MANIFEST, b'{"schemaVersion":2}'):
            writer.write(GET)
            assert expected == (await read_reply(reader)).body
            mirror.pin("docker.io/library/alpine:3", b'{"schemaVersion":2}', standing=Followed(SINCE))
            await asyncio.sleep(1.1)
        writer.close()


async def test_a_change_forgets_its_tag_only(tmp_path: Path) -> None:
    """Rule 2: one tag's news does not make the others' answers be made anew."""
    mirror = MemoryMirror(tmp_path)
    for tag in ("3", "4"):
        mirror.pin(f"docker.io/library/alpine:{tag}")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        for peeks in (2, 3):
            for request in (GET, GET.replace(b"manifests/3", b"manifests/4")):
                writer.write(request)
                await read_reply(reader)
            assert peeks == mirror.peeks
            mirror.changed(TagReference(ALPINE, Tag("3")))
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        GET.replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"a" * MAX_HEAD + b"\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    ],
    ids=["condition", "old", "long", "upgrade"],
)
async def test_what_is_not_plain_takes_the_ordinary_path(tmp_path: Path, request_: bytes) -> None:
    """Rule 1: conditions, old versions, long heads and upgrades are not the lane's."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        for _ in range(3):
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            writer.write(request_)
            await read_reply(reader, body=False)
            writer.close()
    assert len(mirror.asked) == 3


@both_loops
async def test_a_client_that_closes(tmp_path: Path) -> None:
    """Docker's requests all say `Connection: close`: the lane answers them, from memory and from a file, and closes."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    large = os.urandom(3_000_000)
    blob = b"GET /v2/library/alpine/blobs/%s HTTP/1.1\r\nHost: m\r\n\r\n" % str(mirror.add(large)).encode()
    async with serving(mirror, memory=mirror) as served:
        for request, body in ((GET, MANIFEST), (HEAD, b""), (blob, large)):
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            reply = await read_reply(reader, body=False)
            assert "close" == reply.headers["connection"]
            assert body == await asyncio.wait_for(reader.read(), 10)
            writer.close()
    assert [] == mirror.asked


async def test_uncertain_answers_take_the_ordinary_path(tmp_path: Path) -> None:
    """Where the mirror cannot tell without waiting, it is asked in the ordinary way."""
    mirror = MemoryMirror(tmp_path)
    mirror.certain = False
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(GET)
            assert (await read_reply(reader)).status == 200
        writer.close()
    assert len(mirror.asked) == 3


@both_loops
async def test_packets_that_are_not_requests(tmp_path: Path) -> None:
    """Split, pipelined and mixed requests are answered in order and rightly, known or not."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
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


async def test_draining_ends_connections(tmp_path: Path) -> None:
    """Item 74: while the server leaves, a known request gets `Connection: close` as well."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(GET)
            await read_reply(reader)
        served.server.drain()
        writer.write(GET)
        assert (await read_reply(reader)).headers["connection"] == "close"
        writer.close()


async def test_idle_connections_are_closed(tmp_path: Path) -> None:
    """Threats T70: the deadline of an idle connection counts from its last answer, a hot one included."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror, header_deadline=0.4) as served:
        reader, writer = await served.connect()
        for _ in range(4):
            writer.write(GET)
            assert (await read_reply(reader)).status == 200
            await asyncio.sleep(0.2)
        started = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert time.monotonic() - started < 2
        writer.close()


async def test_answers_are_accounted(tmp_path: Path) -> None:
    """Item 78: the access record of the lane's answer tells the same as the ordinary one."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    digest = mirror.add(os.urandom(100_000))
    blob = b"GET /v2/library/alpine/blobs/%s HTTP/1.1\r\nHost: m\r\nRange: bytes=5-90004\r\n\r\n" % str(digest).encode()
    records: list[list[dict[str, object]]] = [[], []]
    fast = serving(mirror, memory=mirror, log=lambda each: records[0].append(dict(each)))
    slow = serving(mirror, log=lambda each: records[1].append(dict(each)))
    for server in (fast, slow):
        async with server as served:
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            for request in (GET, HEAD, blob, blob.replace(b"GET", b"HEAD")):
                writer.write(request)
                await read_reply(reader, body=request.startswith(b"GET"))
            writer.close()
    for record in records[0] + records[1]:
        record.pop("duration_ms")
    assert records[0] == records[1]
    assert [len(MANIFEST), 0, 90_000, 0] == [record["bytes"] for record in records[0]]


@both_loops
async def test_uses_are_told(tmp_path: Path) -> None:
    """What was served to whom is told, merged, from both paths alike: manifests, and bytes of blobs."""
    mirror = MemoryMirror(tmp_path)
    pinned = mirror.pin("docker.io/library/alpine:3")
    digest = mirror.add(os.urandom(100_000))
    blob = b"GET /v2/library/alpine/blobs/%s HTTP/1.1\r\nHost: m\r\n\r\n" % str(digest).encode()
    for memory in (mirror, None):
        told: list[Served] = []
        async with serving(mirror, uses=Told(told), memory=memory) as served:
            reader, writer = await served.connect()
            await asyncio.sleep(0.01)
            for request in (GET, HEAD, GET, blob, blob.replace(b"GET", b"HEAD")):
                writer.write(request)
                await read_reply(reader, body=request.startswith(b"GET"))
            writer.close()
        counted = Counter[tuple[Digest, bool, str]]()
        for each in told:
            counted[each.digest, each.is_manifest, each.client] += each.count
        assert {(pinned, True, "127.0.0.1"): 3, (digest, False, "127.0.0.1"): 1} == counted
        assert all(abs((datetime.now(UTC) - each.at).total_seconds()) < 10 for each in told)


class Told:
    """Remembers what it is told."""

    def __init__(self, told: list[Served]) -> None:
        self._told = told

    def used(self, served: Iterable[Served]) -> None:
        self._told.extend(served)


def test_one_head() -> None:
    """Rule 1: what is read is one head and nothing more."""
    assert read_head(GET) is not None
    assert read_head(HEAD) is not None
    for each in (GET + GET, GET + b"x", GET[:-1], b"\r\n" + GET, b"POST /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"):
        assert read_head(each) is None
