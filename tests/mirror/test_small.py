"""Small blobs in memory: kept when asked for again, verified, bounded; and what can be answered at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from iarproxy.mirror.serving.small import SMALL, SmallBlobs
from iarproxy.oci import Digest
from images import random_blob
from registry import FakeRegistry
from world import World, a_world


def test_a_blob_is_wanted_when_it_is_asked_for_again() -> None:
    """Rule 2: the first request wants nothing, the second does, a large blob never."""
    small, digest = SmallBlobs(), Digest.of(b"a")
    assert [False, True, False] == [small.is_wanted(digest, SMALL) for _ in range(3)]
    assert [False, False] == [small.is_wanted(digest, SMALL + 1) for _ in range(2)]


def test_a_blob_that_is_kept_is_found() -> None:
    """What was kept is there, once, and nothing else is."""
    small, digest = SmallBlobs(), Digest.of(b"abc")
    assert small.get(digest) is None
    small.keep(digest, b"abc")
    small.keep(digest, b"abc")
    assert b"abc" == small.get(digest)


def test_memory_is_bounded() -> None:
    """Rule 3: the least recently asked blob leaves first."""
    small = SmallBlobs(capacity=6)
    one, two, three = (Digest.of(each) for each in (b"one", b"two", b"thr"))
    small.keep(one, b"one")
    small.keep(two, b"two")
    small.get(one)
    small.keep(three, b"thr")
    assert [b"one", None, b"thr"] == [small.get(each) for each in (one, two, three)]


async def test_a_small_blob_comes_to_memory_verified(world: World) -> None:
    """The third request is answered from memory; a damaged file is noticed when it is read again, and healed."""
    data = random_blob(5_000)
    digest = world.registry.content.publish_blob("team/app", data)
    path = world.store.root / "blobs" / digest.algorithm / digest.hex
    await world.blob(digest)
    await committed(world, digest)
    assert data == await world.blob(digest)
    assert world.mirror.peek_blob(world.repository(), digest) is None
    path.chmod(0o644)
    path.write_bytes(b"x" * len(data))
    assert data == await world.blob(digest)
    assert 2 == world.registry.count("GET", "/blobs/")
    await committed(world, digest)
    for _ in range(2):
        assert data == await world.blob(digest)
    held = world.mirror.peek_blob(world.repository(), digest)
    assert held is not None
    assert data == held.raw


async def test_a_large_blob_is_peeked_as_a_file(world: World) -> None:
    """A committed blob of more than 64 KiB can be opened at once; one that is not held cannot."""
    data = random_blob(SMALL + 1)
    digest = world.registry.content.publish_blob("team/app", data)
    assert world.mirror.peek_blob(world.repository(), digest) is None
    await world.blob(digest)
    await committed(world, digest)
    held = world.mirror.peek_blob(world.repository(), digest)
    assert held is not None
    assert (SMALL + 1, None) == (held.size, held.raw)
    with os.fdopen(held.open(), "rb") as file:
        assert data == file.read()


async def test_private_content_is_peeked_only_where_it_is_linked(tmp_path: Path, registry: FakeRegistry) -> None:
    """Design invariant 10: with credentials around, another repository's blob is not answered from memory or disk."""
    data = random_blob(SMALL + 1)
    (password := tmp_path / "password").write_text("secret")
    password.chmod(0o600)
    digest = registry.content.publish_blob("team/app", data)
    async with a_world(tmp_path, registry, password_file=password) as world:
        await world.blob(digest)
        await committed(world, digest)
        assert world.mirror.peek_blob(world.repository(), digest) is not None
        assert world.mirror.peek_blob(world.repository("other/app"), digest) is None


async def committed(world: World, digest: Digest) -> None:
    """Wait until the blob has its final name."""
    async with asyncio.timeout(10):
        while world.store.find(digest) is None:
            await asyncio.sleep(0.01)
