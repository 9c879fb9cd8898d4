"""Who spends what: counted here, added up for all workers, bounded."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from yarl import URL

from iarproxy.upstream.asked import Kind, kind_of
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.spending import OTHERS, Spending, _load

START = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


class Clock:
    """Moves when a test says so."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


async def test_workers_add_up(tmp_path: Path) -> None:
    """What two workers counted is one tally for a third process, most first; their ends write the rest."""
    cache, clock = await SharedCache.open(tmp_path / "cache"), Clock()
    one, other = Spending("docker.io", cache, clock), Spending("docker.io", cache, clock)
    for _ in range(3):
        one.count("library/alpine", Kind.MANIFEST)
        other.count("library/alpine", Kind.BLOB)
    other.count("library/busybox", Kind.HEAD)
    assert ["library/alpine"] == [each.repository for each in await one.spenders()]
    await one.close()
    await other.close()
    found = await Spending("docker.io", cache, clock).spenders()
    assert [("library/alpine", 6), ("library/busybox", 1)] == [(each.repository, each.total) for each in found]
    assert {"manifest": 3, "blob": 3} == found[0].requests
    assert [] == await Spending("quay.io", cache, clock).spenders()
    await cache.close()


async def test_the_window_moves(tmp_path: Path) -> None:
    """After six hours it counts no more, and is not kept either."""
    cache, clock = await SharedCache.open(tmp_path / "cache"), Clock()
    spending = Spending("docker.io", cache, clock)
    spending.count("a/old", Kind.MANIFEST)
    clock.moment += timedelta(hours=5)
    spending.count("a/new", Kind.MANIFEST)
    assert {"a/old", "a/new"} == {each.repository for each in await spending.spenders()}
    clock.moment += timedelta(hours=1)
    assert ["a/new"] == [each.repository for each in await spending.spenders()]
    await spending.close()
    assert b"a/old" not in (await cache.get("spent docker.io") or b"")
    await cache.close()


async def test_bounded(tmp_path: Path) -> None:
    """Thousands of repositories: the first have rows of their own, the others one together."""
    cache = await SharedCache.open(tmp_path / "cache")
    spending = Spending("docker.io", cache, Clock())
    for number in range(3000):
        spending.count(f"a/{number}", Kind.MANIFEST)
    await spending.close()
    found = await spending.spenders()
    assert (501, OTHERS, 2500) == (len(found), found[0].repository, found[0].total)
    await cache.close()


async def test_without_a_cache() -> None:
    """This worker's own counts are there all the same."""
    cache = await SharedCache.open(None)
    spending = Spending("docker.io", cache, Clock())
    spending.count("a/b", Kind.TAGS)
    await spending.close()
    assert [("a/b", {"tags": 1})] == [(each.repository, each.requests) for each in await spending.spenders()]
    await cache.close()


def test_damaged_tallies() -> None:
    """What was planted is nothing, or numbers."""
    for raw in (b"garbage", b"[1]", b'{"x": {"a": {"b": 1}}}', b'{"1": 2}', b'{"1": {"a": {"b": "x"}}}', b"null"):
        assert {} == _load(raw)
    assert {1: {"a": Counter({"b": 2})}} == _load(orjson.dumps({"1": {"a": {"b": 2}}}))


def test_kinds() -> None:
    """The kind and repository are read from the request."""
    base = URL("https://registry.example.com")
    table = {
        ("GET", "/v2/a/b/manifests/1"): (Kind.MANIFEST, "a/b"),
        ("HEAD", "/v2/a/b/manifests/1"): (Kind.HEAD, "a/b"),
        ("HEAD", "/v2/a/blobs/sha256:00"): (Kind.HEAD, "a"),
        ("GET", "/v2/manifests/blobs/sha256:00"): (Kind.BLOB, "manifests"),
        ("GET", "/v2/a/tags/list"): (Kind.TAGS, "a"),
        ("GET", "/v2/a/referrers/sha256:00"): (Kind.REFERRERS, "a"),
        ("GET", "/v2/"): (Kind.OTHER, ""),
        ("GET", "/"): (Kind.OTHER, ""),
        ("GET", "/token"): (Kind.OTHER, ""),
    }
    assert list(table.values()) == [kind_of(method, base.with_path(path)) for method, path in table]
