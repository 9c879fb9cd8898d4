"""Several endpoints of one upstream: who is asked, whose word counts, and what goes to each (issue 4, point 4)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dialing import NAME, QUICK, dialing, whole
from iarproxy.config import UpstreamSettings
from iarproxy.errors import (
    Denied,
    UnknownBlob,
    UnknownManifest,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.oci import Digest, Tag
from iarproxy.upstream import Retry, Upstream, Upstreams
from images import Published, random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

DATA = random_blob(300_000)


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[tuple[FakeRegistry, FakeRegistry, Upstream]]:
    """A primary endpoint, a fallback, and the upstream over both. Both hold the same image and blob."""
    async with FakeRegistry() as first, FakeRegistry() as second:
        for each in (first, second):
            each.content.publish("a/b", "1", small_image())
            each.content.publish_blob("a/b", DATA)
        async with dialing(first, fallback_urls=(second.url,), **options) as upstream:
            yield first, second, upstream


IMAGE: Published = small_image()
BLOB = Digest.of(DATA)


async def test_only_the_first_is_asked() -> None:
    """While the primary endpoint answers, nobody else hears of anything."""
    async with two() as (first, second, upstream):
        fetched = await upstream.manifest("a/b", Tag("1"))
        assert DATA == await whole(upstream, "a/b", BLOB)
        assert ["1"] == await upstream.tags("a/b")
    assert (IMAGE.raw, first.url) == (fetched.raw, fetched.source)
    assert [] == second.log


@pytest.mark.parametrize("how", ["stopped", "500", "429", "no answer", "broken off"])
async def test_the_next_is_asked(how: str) -> None:
    """Where the primary gives no answer, everything is had from the fallback, and the pin's source names it."""
    faults = {
        "500": Fault(status=500),
        "429": Fault(status=429),
        "no answer": Fault(no_answer=True),
        "broken off": Fault(truncate_at=10, reset=True),
    }
    async with two() as (first, second, upstream):
        if how == "stopped":
            await first.stop()
        else:
            first.faults.add("*", faults[how])
        fetched = await upstream.manifest("a/b", Tag("1"))
        assert (IMAGE.raw, second.url) == (fetched.raw, fetched.source)
        assert IMAGE.digest == await upstream.head_manifest("a/b", Tag("1"))
        assert IMAGE.raw == (await upstream.manifest("a/b", IMAGE.digest)).raw
        assert len(DATA) == await upstream.blob_size("a/b", BLOB)
        assert DATA == await whole(upstream, "a/b", BLOB)
        assert ["1"] == await upstream.tags("a/b")
        assert await upstream.referrers("a/b", IMAGE.digest) is not None


async def test_a_copy_is_not_asked_what_is_attached() -> None:
    """A list that lags behind would leave out signatures: whoever must miss nothing hears the primary's word only."""
    async with two() as (first, second, upstream):
        first.faults.add("*/referrers/*", Fault(status=500))
        with pytest.raises(UpstreamUnavailable):
            await upstream.attached("a/b", IMAGE.digest)
        assert 0 == second.count()


async def test_a_silent_endpoint_is_spared() -> None:
    """An endpoint that gave no answer comes last for a while: its patience is not paid for again and again."""
    async with two() as (first, second, upstream):
        first.faults.add("*", Fault(no_answer=True, stall_at=-1))
        for _ in range(5):
            await upstream.manifest("a/b", Tag("1"))
        assert (1, 5) == (first.count("GET"), second.count("GET"))


async def test_a_name_that_the_primary_fails_for_makes_nobody_else_decide() -> None:
    """5xx for one repository sends that question on, and no other one."""
    async with two() as (first, second, upstream):
        for each in (first, second):
            each.content.publish("c/d", "1", small_image(2))
        first.faults.add("*/c/d/*", Fault(status=500))
        assert second.url == (await upstream.manifest("c/d", Tag("1"))).source
        assert first.url == (await upstream.manifest("a/b", Tag("1"))).source


async def test_a_transfer_goes_on_elsewhere() -> None:
    """What broke off at one endpoint is resumed at the other, from where it ended."""
    async with two() as (first, second, upstream):
        first.faults.add("*/blobs/*", Fault(truncate_at=100_000, reset=True))
        got: list[bytes] = []

        async def take(offset: int) -> None:
            async with upstream.blob("a/b", BLOB, offset) as transfer:
                assert offset == transfer.offset
                async for piece in transfer.chunks():
                    got.append(piece)  # noqa: PERF401  # what came before the break counts

        with pytest.raises(UpstreamUnavailable):
            await take(0)
        had = len(b"".join(got))
        assert 0 < had <= 100_000
        await take(had)
        assert (DATA, 1, 1) == (b"".join(got), first.count("GET", "/blobs/"), second.count("GET", "/blobs/"))
        assert f"bytes={had}-" == second.log[0].headers["Range"]


async def test_a_digest_may_be_anywhere() -> None:
    """What the primary does not have by digest is asked of the fallback; where nobody has it, it is unknown."""
    async with two() as (first, second, upstream):
        first.content.delete_blob("a/b", BLOB)
        first.content.delete_manifest("a/b", IMAGE.digest)
        assert DATA == await whole(upstream, "a/b", BLOB)
        assert len(DATA) == await upstream.blob_size("a/b", BLOB)
        assert IMAGE.raw == (await upstream.manifest("a/b", IMAGE.digest)).raw
        nowhere = Digest.of(b"nowhere")
        with pytest.raises(UnknownBlob):
            await whole(upstream, "a/b", nowhere)
        with pytest.raises(UnknownManifest):
            await upstream.manifest("a/b", nowhere)
        assert second.count("GET", str(nowhere)) == 2


async def test_a_missing_tag_is_the_primarys_word() -> None:
    """404 for a tag ends it at the primary; a fallback that lacks it while the primary is away makes nothing vanish."""
    async with two() as (first, second, upstream):
        with pytest.raises(UnknownManifest):
            await upstream.manifest("a/b", Tag("2"))
        assert [] == second.log
        await first.stop()
        for ask in (upstream.manifest, upstream.head_manifest):
            with pytest.raises(UpstreamUnavailable):
                await ask("a/b", Tag("2"))


@pytest.mark.parametrize("status", [401, 403])
async def test_denied_is_denied(status: int) -> None:
    """Access that one endpoint denies is not looked for at another, for a tag nor for a digest."""
    async with two() as (first, second, upstream):
        first.faults.add("*", Fault(status=status))
        for wanted in (Tag("1"), IMAGE.digest):
            with pytest.raises(Denied):
                await upstream.manifest("a/b", wanted)
        assert [] == second.log


async def test_a_wrong_answer_about_a_tag_ends_it() -> None:
    """An endpoint that lies about a tag is not believed, and no other one is asked what the tag means."""
    async with two() as (first, second, upstream):
        first.faults.add("*/manifests/*", Fault(corrupt_at=5))
        with pytest.raises(UpstreamWrong):
            await upstream.manifest("a/b", Tag("1"))
        assert [] == second.log
        assert IMAGE.raw == (await upstream.manifest("a/b", IMAGE.digest)).raw


async def test_wrong_bytes_are_asked_of_another() -> None:
    """Who sent all of a blob, and is asked for it again, sent wrong bytes: somebody else is asked first."""
    async with two() as (first, second, upstream):
        first.faults.add("*/blobs/*", Fault(corrupt_at=5))
        assert DATA != await whole(upstream, "a/b", BLOB)
        assert DATA == await whole(upstream, "a/b", BLOB)
        assert (1, 1) == (first.count("GET", "/blobs/"), second.count("GET", "/blobs/"))


async def test_nobody_answers() -> None:
    """The failure told is the primary's, and the whole of it takes no longer than one upstream may."""
    async with two(timeouts=QUICK, retry=Retry(tries=3, budget=3.0)) as (first, second, upstream):
        first.faults.add("*", Fault(status=503))
        second.faults.add("*", Fault(no_answer=True, stall_at=-1))
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailable, match="503"):
            await upstream.manifest("a/b", Tag("1"))
        assert time.monotonic() - started < 20.0
    assert first.count("GET") >= 1 <= second.count("GET")


async def test_the_patience_is_shared() -> None:
    """With three endpoints each may take a third of what clients wait for."""
    urls = ("http://127.0.0.1:9", "http://127.0.0.1:10", "http://127.0.0.1:11")
    settings = {NAME: UpstreamSettings(url=urls[0], fallback_urls=urls[1:])}
    upstreams = await Upstreams.open(settings, cache_dir=None)
    try:
        manifests = {each.timeouts.manifest for each in upstreams[NAME]._endpoints._all}
    finally:
        await upstreams.close()
    assert {20.0 / 3} == manifests


async def test_credentials_go_to_each_of_them_and_nowhere_else(tmp_path: Path) -> None:
    """Each endpoint is logged in to at its own origin, with tokens of its own; a redirect between them carries none."""
    password = tmp_path / "password"
    password.write_text("canary")
    first_users, second_users = (Authority("bearer", users={"me": "canary"}, anonymous=False) for _ in range(2))
    async with (
        FakeRegistry(authority=first_users) as first,
        FakeRegistry(authority=second_users) as second,
        FakeRegistry() as storage,
        dialing(first, fallback_urls=(second.url,), username="me", password_file=password) as upstream,
    ):
        for each in (first, second, storage):
            each.content.publish("a/b", "1", small_image())
            each.content.publish_blob("a/b", DATA)
        await upstream.manifest("a/b", Tag("1"))
        first.faults.add("*/manifests/*", Fault(status=500))
        await upstream.manifest("a/b", Tag("1"))
        second.faults.add("*/blobs/*", Fault(location=f"{storage.url}{{path}}"))
        assert DATA == await whole(upstream, "a/b", BLOB)
        tokens = [set(each.issued) for each in (first_users, second_users)]
        shown = [
            {seen.headers.get("Authorization", "") for seen in each.log if "/v2/" in seen.path}
            for each in (first, second)
        ]
    assert tokens[0].isdisjoint(tokens[1])
    for issued, headers in zip(tokens, shown, strict=True):
        assert headers <= {"", *(f"Bearer {token}" for token in issued)}
    assert not [seen for seen in storage.log if "Authorization" in seen.headers]


async def test_many_at_once_while_the_primary_goes() -> None:
    """Forty manifests are all had while the primary stops answering in the middle."""
    async with two() as (first, _, upstream):
        first.faults.add("*", Fault(status=500), skip=10)
        answers = await asyncio.gather(*(upstream.manifest("a/b", Tag("1")) for _ in range(40)))
    assert {IMAGE.raw} == {each.raw for each in answers}
