"""Every way an upstream goes wrong, and the failure that it becomes (threats 5.3, R34-R50)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from dialing import QUICK, Waits, dialing, whole
from iarproxy.errors import (
    Denied,
    IarproxyError,
    UnknownBlob,
    UnknownManifest,
    UpstreamDown,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.oci import Digest, Tag
from iarproxy.upstream import Retry, Upstream
from images import random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

DATA = random_blob(200_000)
OTHER = "sha256:" + "0" * 64


def briefly(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def _exactly(error: type[IarproxyError], raised: pytest.ExceptionInfo[IarproxyError]) -> None:
    assert error is raised.type, raised.value


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=400), UpstreamWrong),
        (Fault(status=401), Denied),
        (Fault(status=403), Denied),
        (Fault(status=404), UnknownManifest),
        (Fault(status=408), UpstreamTimeout),
        (Fault(status=410), UnknownManifest),
        (Fault(status=418), UpstreamWrong),
        (Fault(status=451), Denied),
        (Fault(status=500), UpstreamUnavailable),
        (Fault(status=502, body=b"<html>bad gateway</html>"), UpstreamUnavailable),
        (Fault(status=503), UpstreamUnavailable),
        (Fault(status=204), UpstreamWrong),
        (Fault(status=206), UpstreamWrong),
        (Fault(status=304), UpstreamWrong),
        (Fault(no_answer=True), UpstreamUnavailable),
        (Fault(no_answer=True, reset=True), UpstreamUnavailable),
        (Fault(truncate_at=100), UpstreamUnavailable),
        (Fault(truncate_at=100, reset=True), UpstreamUnavailable),
        (Fault(truncate_at=100, chunked=True), UpstreamUnavailable),
        (Fault(truncate_at=100, close_delimited=True), UpstreamWrong),
        (Fault(stall_at=-1), UpstreamTimeout),
        (Fault(stall_at=100), UpstreamTimeout),
        (Fault(corrupt_at=100), UpstreamWrong),
        (Fault(length_by=9), UpstreamUnavailable),
        (Fault(length_by=-9), UpstreamWrong),
        (Fault(headers={"Docker-Content-Digest": OTHER}), UpstreamWrong),
        (Fault(headers={"Docker-Content-Digest": "nonsense"}), UpstreamWrong),
        (Fault(gzip=True), UpstreamWrong),
        (Fault(headers={"Content-Encoding": "br"}), UpstreamWrong),
        (Fault(body=b"<html>sign in</html>", headers={"Content-Type": "text/html"}), UpstreamWrong),
        (Fault(body=b"x" * (4 * 2**20 + 1)), UpstreamWrong),
        (Fault(body=b"x" * (4 * 2**20 + 1), chunked=True), UpstreamWrong),
        (Fault(headers={"Content-Length": "1, 2"}), UpstreamWrong),
        (Fault(headers={"X-Long": "x" * 100_000}), UpstreamWrong),
        (Fault(headers={f"X-{number}": "x" for number in range(1000)}), UpstreamWrong),
    ],
    ids=briefly,
)
async def test_a_manifest(fault: Fault, error: type[IarproxyError]) -> None:
    """By tag: the failure has the right kind, names the upstream, and is over when upstream is right again."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*/manifests/*", fault)
        with pytest.raises(IarproxyError) as raised:
            await upstream.manifest("a/b", Tag("1"))
        _exactly(error, raised)
        assert upstream.name in str(raised.value) or "manifest a/b:1" in str(raised.value)
        registry.faults.clear()
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=401), Denied),
        (Fault(status=403), Denied),
        (Fault(status=404), UnknownBlob),
        (Fault(status=500), UpstreamUnavailable),
        (Fault(no_answer=True), UpstreamUnavailable),
        (Fault(truncate_at=70_000), UpstreamUnavailable),
        (Fault(truncate_at=70_000, reset=True), UpstreamUnavailable),
        (Fault(truncate_at=70_000, chunked=True), UpstreamUnavailable),
        (Fault(stall_at=-1), UpstreamTimeout),
        (Fault(stall_at=70_000), UpstreamTimeout),
        (Fault(stall_at=0), UpstreamTimeout),
        (Fault(rate=1000), UpstreamTimeout),
        (Fault(length_by=9), UpstreamUnavailable),
        (Fault(content_range="bytes 0-199999/200000"), UpstreamWrong),
        (Fault(headers={"Docker-Content-Digest": OTHER}), UpstreamWrong),
        (Fault(gzip=True), UpstreamWrong),
    ],
    ids=briefly,
)
async def test_a_blob(fault: Fault, error: type[IarproxyError]) -> None:
    """Reading a blob to its end fails with the right kind; what came before is a prefix of the blob."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", DATA)
        registry.faults.add("*/blobs/*", fault)
        got = b""
        with pytest.raises(IarproxyError) as raised:  # noqa: PT012  # what came before the failure is looked at
            async with upstream.blob("a/b", digest) as transfer:
                async for piece in transfer.chunks():
                    got += piece
        _exactly(error, raised)
        assert DATA.startswith(got)
        registry.faults.clear()
        if error is not UnknownBlob:
            assert await whole(upstream, "a/b", digest) == DATA


async def test_what_the_consumer_has_to_see() -> None:
    """Without a length a cut body ends like a whole one; a clean body of wrong bytes passes: the digest decides."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", DATA)
        for fault, size, expected in [
            (Fault(close_delimited=True, truncate_at=70_000), None, DATA[:70_000]),
            (Fault(close_delimited=True), None, DATA),
            (Fault(chunked=True), None, DATA),
            (Fault(length_by=-9), len(DATA) - 9, DATA[:-9]),
            (Fault(append=b"more"), len(DATA) + 4, DATA + b"more"),
        ]:
            registry.faults.clear()
            registry.faults.add("*/blobs/*", fault)
            async with upstream.blob("a/b", digest) as transfer:
                assert (transfer.size, transfer.offset) == (size, 0), fault
                assert expected == b"".join([piece async for piece in transfer.chunks()]), fault


@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(content_range="bytes 0-199999/200000"),
        Fault(content_range="bytes 1000-1999/200000"),
        Fault(content_range="bytes 1000-199999/*"),
        Fault(content_range="bytes 1000-199998/199999"),
        Fault(content_range="lines 1000-199999/200000"),
        Fault(headers={"Content-Range": None}),
        Fault(status=416),
    ],
    ids=briefly,
)
async def test_a_resume_that_is_answered_wrong_starts_anew(fault: Fault) -> None:
    """Whatever is not exactly the part that was asked for is left, and the blob comes from its first byte."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", DATA)
        registry.faults.add("*/blobs/*", fault, times=1)
        async with upstream.blob("a/b", digest, 1000) as transfer:
            assert (transfer.offset, transfer.size) == (0, len(DATA))
            assert b"".join([piece async for piece in transfer.chunks()]) == DATA


async def test_a_blob_resumes_where_it_broke() -> None:
    """A cut transfer is continued by Range, and upstream sends no byte twice."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", DATA)
        registry.faults.add("*/blobs/*", Fault(truncate_at=70_000), times=1)
        got = b""
        with suppress(UpstreamUnavailable):
            async with upstream.blob("a/b", digest) as transfer:
                async for piece in transfer.chunks():
                    got += piece
        assert DATA[:70_000] == got
        got += await whole(upstream, "a/b", digest, len(got))
        assert (got, registry.sent[str(digest)]) == (DATA, len(DATA))
        assert registry.log[-1].headers["Range"] == "bytes=70000-"


async def test_blobs_that_break_after_some_progress_shut_nothing() -> None:
    """Blobs that broke on their way are resumed, however many; only those that break at once, again and again, fail."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digests = [registry.content.publish_blob("a/b", random_blob(150_000, seed)) for seed in range(10)]
        registry.faults.add("*/blobs/*", Fault(truncate_at=70_000), times=10)
        for digest in digests:
            assert 70_000 == len(await broken(upstream, "a/b", digest))
        for digest in digests:
            await whole(upstream, "a/b", digest, 70_000)
        registry.faults.add("*/blobs/*", Fault(truncate_at=7))
        for digest in digests[:5]:
            await broken(upstream, "a/b", digest)
        with pytest.raises(UpstreamDown, match="broke off"):
            await whole(upstream, "a/b", digests[0])


async def broken(upstream: Upstream, repository: str, digest: Digest) -> bytes:
    """What came of a blob that does not come whole."""
    got = b""
    with suppress(UpstreamUnavailable):
        async with upstream.blob(repository, digest) as transfer:
            async for piece in transfer.chunks():
                got += piece
        raise AssertionError("it came whole")
    return got


async def test_a_slow_consumer_is_not_upstreams_fault() -> None:
    """A consumer that pauses longer than the pace allows still gets the blob."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", random_blob(1_500_000))
        async with upstream.blob("a/b", digest) as transfer:
            pieces: list[bytes] = []
            async for piece in transfer.chunks():
                if not pieces:
                    await asyncio.sleep(QUICK.pace * 1.5)
                pieces.append(piece)
        assert b"".join(pieces) == random_blob(1_500_000)


# --- tries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=503), Fault(stall_at=-1), Fault(truncate_at=10)])
async def test_a_passing_failure_is_not_seen(fault: Fault) -> None:
    """Two failures are tried again; the third try's answer is the answer."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*", fault, times=2)
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert registry.count() == 3


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (Fault(status=404), 1),
        (Fault(status=403), 1),
        (Fault(status=429), 1),
        (Fault(corrupt_at=3), 1),
        (Fault(status=429, headers={"Retry-After": "600"}), 1),
        (Fault(status=503), 3),
    ],
    ids=briefly,
)
async def test_how_often_is_tried(fault: Fault, tries: int) -> None:
    """A refusal, a lie and a 429 without a near end once; what may pass three times."""
    waits = Waits()
    async with FakeRegistry() as registry, dialing(registry, retry=Retry(sleep=waits, jitter=lambda: 0.5)) as upstream:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*", fault)
        with pytest.raises(IarproxyError) as raised:
            await upstream.manifest("a/b", Tag("1"))
        assert registry.count() == tries
        if fault.headers:
            assert getattr(raised.value, "retry_after", None) == float(fault.headers["Retry-After"] or 0)
        elif tries == 3:
            assert waits.seconds == [0.25, 0.5]


async def test_the_budget_bounds_everything() -> None:
    """An upstream that never answers is given up after the budget, not after tries times timeouts."""
    retry = Retry(budget=0.2, tries=3)
    async with FakeRegistry() as registry, dialing(registry, retry=retry) as upstream:
        registry.faults.add("*", Fault(stall_at=-1))
        with pytest.raises(UpstreamTimeout, match=r"within 0\.2 s"):
            await upstream.manifest("a/b", Tag("1"))


async def test_upstream_is_down() -> None:
    """Nothing listens, the name does not resolve, the listener never accepts: each says so."""

    async def no_such_name(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with FakeRegistry() as registry, dialing(registry) as upstream:
        await registry.stop()
        with pytest.raises(UpstreamUnavailable, match="no connection"):
            await upstream.manifest("a/b", Tag("1"))
    async with dialing("https://nowhere.example", lookup=no_such_name) as upstream:
        with pytest.raises(UpstreamUnavailable, match="does not resolve"):
            await upstream.manifest("a/b", Tag("1"))
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:
        async with dialing(f"http://127.0.0.1:{deaf.getsockname()[1]}") as upstream:
            with pytest.raises(UpstreamTimeout):
                await upstream.manifest("a/b", Tag("1"))
