"""Blobs under their final names: put, find, read, quarantine, and the count of what is held."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

import store_world
from iarproxy.errors import StoreFull, StoreUnavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.store import Store
from store_world import FaultyDisk, OpenStore, Source, body_of, leftovers, settled, some_bytes

open_store = store_world.open_store
store = store_world.store

DATA = b'{"schemaVersion": 2}'
DIGEST = Digest.of(DATA)


async def test_put_then_find_and_read(store: Store) -> None:
    """What was put is found by one digest, read-only, with its checksum noted."""
    assert store.find(DIGEST) is None
    assert await store.read(DIGEST, 100) is None
    blob = await store.put(DIGEST, DATA)
    assert store.find(DIGEST) == blob
    assert blob.size == len(DATA)
    assert Path(blob.path).stat().st_mode & 0o777 == 0o444
    assert await store.read(DIGEST, 100) == DATA
    assert not store.is_empty()
    digest, checksum, size = (store.root / "checksums").read_text().split()
    assert (digest, len(checksum), size) == (str(DIGEST), 32, str(len(DATA)))
    assert leftovers(store) == []


async def test_sha512_and_no_bytes(store: Store) -> None:
    """Both algorithms are kept, and the blob of no bytes is one."""
    for data in (b"", b"x"):
        digest = Digest.of(data, "sha512")
        await store.put(digest, data)
        assert await store.read(digest, 10) == data


async def test_wrong_bytes_are_not_put(store: Store) -> None:
    """Put hashes what it is given."""
    with pytest.raises(UpstreamWrong):
        await store.put(DIGEST, DATA + b" ")
    assert store.is_empty()


async def test_concurrent_puts_of_one_digest(open_store: OpenStore) -> None:
    """Any number of puts, in two workers, agree and count once."""
    one, two = await open_store(), await open_store()
    blobs = await asyncio.gather(*(s.put(DIGEST, DATA) for s in (one, two) * 10))
    assert set(blobs) == {blobs[0]}
    assert leftovers(one) == []
    stats = await two.stats()
    assert (stats.blobs, stats.bytes) == (1, len(DATA))


async def test_putting_again_makes_the_name_durable(open_store: OpenStore) -> None:
    """A put that finds the name there still syncs the folder: whoever linked it may have died before that."""
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    await store.put(DIGEST, DATA)
    before = disk.calls["fsync"]
    await store.put(DIGEST, DATA)
    assert disk.calls["fsync"] == before + 1


@pytest.mark.parametrize("damaged", [b"", b"x", DATA[:-1] + b"]", DATA * 2])
async def test_damage_is_found_on_read_and_heals(store: Store, damaged: bytes) -> None:
    """A changed file reads as missing; it is kept in quarantine and replaced by the next put."""
    blob = await store.put(DIGEST, DATA)
    path = Path(blob.path)
    path.chmod(0o600)
    path.write_bytes(damaged)
    assert await store.read(DIGEST, 1000) is None
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, 1000) == DATA
    assert len(list((store.root / "quarantine").iterdir())) == 1


async def test_damage_is_found_when_put_again(store: Store) -> None:
    """A file of the right size and wrong bytes does not survive a put."""
    path = Path((await store.put(DIGEST, DATA)).path)
    path.chmod(0o600)
    path.write_bytes(DATA[::-1])
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, 1000) == DATA


async def test_an_emptied_blob_is_fetched_again(store: Store) -> None:
    """A zero-length file is no blob, and is replaced."""
    source = Source(some_bytes(200_000))
    await body_of(store.follow(source.digest, None, source.fetch))
    await settled(store)
    blob = store.find(source.digest)
    assert blob is not None
    Path(blob.path).chmod(0o600)
    Path(blob.path).write_bytes(b"")
    assert store.find(source.digest) is None
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    assert source.starts == [0, 0]


async def test_a_shortened_blob_is_noticed_by_its_manifests_size(store: Store) -> None:
    """Where the asker knows the size, a truncated file is judged by its bytes, set aside and fetched again."""
    source = Source(some_bytes(200_000))
    await body_of(store.follow(source.digest, None, source.fetch))
    await settled(store)
    blob = store.find(source.digest)
    assert blob is not None
    Path(blob.path).chmod(0o600)
    Path(blob.path).write_bytes(source.data[:1000])
    with pytest.raises(StoreUnavailable, match="changed its size"):
        blob.open()
    assert await body_of(store.follow(source.digest, 200_000, source.fetch)) == source.data
    with pytest.raises(UpstreamWrong, match="announced"):
        await body_of(store.follow(source.digest, 1234, source.fetch))
    await settled(store)
    assert store.find(source.digest) is not None


async def test_symbolic_links_are_no_blobs(store: Store, tmp_path: Path) -> None:
    """A link in a blob's place is neither found nor opened."""
    (tmp_path / "elsewhere").write_bytes(DATA)
    (store.root / "blobs" / "sha256" / DIGEST.hex).symlink_to(tmp_path / "elsewhere")
    assert store.find(DIGEST) is None
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, 100) == DATA


async def test_too_large_to_read(store: Store) -> None:
    """Read is for small content: past the limit it is none."""
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, len(DATA) - 1) is None
    assert await store.read(DIGEST, len(DATA)) == DATA


async def test_a_vanished_folder_is_made_again(store: Store) -> None:
    """Blobs find their folder even when it was removed meanwhile."""
    (store.root / "blobs" / "sha256").rmdir()
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, 100) == DATA


async def test_the_count_is_shared_and_rebuilt(open_store: OpenStore) -> None:
    """All workers see one count; lost, spoilt or at the start of serving it is counted anew."""
    one, two = await open_store(), await open_store()
    await one.put(DIGEST, DATA)
    await two.put(Digest.of(b"other"), b"other")
    assert (await one.stats()).bytes == len(DATA) + 5
    (one.root / "usage").write_bytes(b"garbage")
    assert (await two.stats()).blobs == 2
    (one.root / "usage").write_bytes(b"7 7".ljust(63) + b"\n")
    two.lock_for_serving().close()
    assert (await two.stats()).blobs == 2
    one.quarantine(DIGEST, "a test")
    one.quarantine(DIGEST, "twice")
    assert ((await two.stats()).blobs, (await two.stats()).bytes) == (1, 5)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"write": (0, 0), "fsync": (1, errno.EIO)}, StoreUnavailable),
        ({"fsync": (2, errno.EIO)}, StoreUnavailable),
        ({"write": (1, errno.ENOSPC)}, StoreFull),
        ({"write": (1, errno.EDQUOT)}, StoreFull),
        ({"link": (1, errno.ENOSPC)}, StoreFull),
        ({"link": (1, errno.EIO)}, StoreUnavailable),
    ],
)
async def test_a_failing_disk_fails_the_put(
    open_store: OpenStore, fault: dict[str, tuple[int, int]], error: type[StoreUnavailable]
) -> None:
    """The caller learns why, nothing half-done stays, and the next put does it all again."""
    (await open_store()).find(DIGEST)
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    disk.calls.clear()
    disk.fail = fault
    with pytest.raises(StoreUnavailable) as caught:
        await store.put(DIGEST, DATA)
    assert type(caught.value) is error
    assert leftovers(store) == []
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, 100) == DATA
