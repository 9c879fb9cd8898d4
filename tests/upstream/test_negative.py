"""What upstream does not have is not asked for again at once (rules of `upstream.negative`; U28)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dialing import dialing
from iarproxy.errors import Denied, IarproxyError, Refused, UnknownBlob, UnknownManifest, UnknownName
from iarproxy.oci import Digest, Tag
from iarproxy.upstream import Purpose
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.negative import Negative, Question
from images import small_image
from registry import FakeRegistry
from registry_faults import Fault

NAME = "registry.example.com"
TAG = Question("manifests", "a/b", Tag("1"), "the manifest a/b:1")
OTHER_TAG = Question("manifests", "a/b", Tag("2"), "the manifest a/b:2")
OTHER_LIST = Question("tags", "a/b", None, "the tags of a/b")
DIGEST = Question("blobs", "a/b", Digest.of(b"x"), "the blob x")


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[SharedCache]:
    opened = await SharedCache.open(tmp_path / "cache")
    yield opened
    await opened.close()


async def _known(negative: Negative, *questions: Question) -> list[type[IarproxyError] | None]:
    found: list[type[IarproxyError] | None] = []
    for each in questions:
        try:
            await negative.check(each)
            found.append(None)
        except Refused as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize("kind", [UnknownManifest, UnknownBlob, UnknownName, Denied])
async def test_workers_share_a_no(cache: SharedCache, kind: type[Refused]) -> None:
    """What one was told another one says too, in the same kind, about just that; a yes ends it."""
    hits: list[None] = []
    one = Negative(NAME, cache, 10, lambda: None)
    other = Negative(NAME, cache, 10, lambda: hits.append(None))
    error = kind("no", status=403, said_by="registry")
    await one.learn(TAG, error)
    assert [kind, None, None] == await _known(other, TAG, OTHER_TAG, OTHER_LIST)
    assert 1 == len(hits)
    await one.forget(TAG)
    assert [None] == await _known(other, TAG)


async def test_a_standing_401_is_about_the_repository(cache: SharedCache) -> None:
    """No tag of it is asked for; its list may be another matter."""
    negative = Negative(NAME, cache, 10, lambda: None)
    await negative.learn(TAG, Denied("no", status=401, said_by="registry"))
    assert [Denied, Denied, None] == await _known(negative, TAG, OTHER_TAG, OTHER_LIST)


async def test_a_token_server_is_remembered_elsewhere(cache: SharedCache) -> None:
    """Its no is kept with the tokens, in its own words."""
    negative = Negative(NAME, cache, 10, lambda: None)
    await negative.learn(TAG, Denied("the token server says no", status=401))
    assert [None] == await _known(negative, TAG)


async def test_switched_off(cache: SharedCache) -> None:
    """With negative_ttl = 0s only a digest is remembered, for the herd that asks for it at once."""
    negative = Negative(NAME, cache, 0, lambda: None)
    await negative.learn(TAG, UnknownManifest("no"))
    await negative.learn(DIGEST, UnknownBlob("no"))
    assert [None, UnknownBlob] == await _known(negative, TAG, DIGEST)


async def test_planted_words(cache: SharedCache) -> None:
    """What is not one of the words is nothing."""
    for planted in (b"os.system", b"", b"\x80\x04"):
        await cache.put(f"no {NAME} {TAG.key}", planted, 60)
        assert [None] == await _known(Negative(NAME, cache, 10, lambda: None), TAG)


async def test_a_head_says_nothing_about_the_get(tmp_path: Path) -> None:
    """HEAD answers 404 and GET the manifest: what the drift watch was told keeps no client from it."""
    async with FakeRegistry() as registry, dialing(registry, cache_dir=tmp_path / "cache") as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*", Fault(status=404), methods=frozenset({"HEAD"}))
        with pytest.raises(UnknownManifest):
            await upstream.head_manifest("a/b", Tag("1"), Purpose.BACKGROUND)
        assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
