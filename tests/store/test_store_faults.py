"""A full, failing or small disk: nothing final, followers served or refused as designed, recovery by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import store_world
from iarproxy.errors import IarproxyError, StoreFull, StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.store import TAIL, Store
from iarproxy.store.state import LockFile, Record, State
from store_world import MIB, QUICK, FaultyDisk, OpenStore, Source, body_of, leftovers, read_on, settled, some_bytes

open_store = store_world.open_store


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_full_disk_in_mid_ingest(open_store: OpenStore, code: int, elsewhere: bool) -> None:  # noqa: FBT001  # a parameter
    """Followers get StoreFull, and can read what was written, so that a relay can go on from there."""
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    other = await open_store() if elsewhere else store
    disk.fail = {"write": (disk.calls["write"] + 5, code)}
    source = Source(some_bytes(MIB), chunk=100_000, pause=0.03)
    leading = asyncio.create_task(body_of(store.follow(source.digest, None, source.fetch)))
    await asyncio.sleep(0.02)
    async with other.follow(source.digest, None, source.fetch) as held:
        with pytest.raises(StoreFull):
            await read_on(held)
        assert held.written == 400_000
        assert os.pread(held.fd, MIB, 0) == source.data[:400_000]
    with pytest.raises(StoreFull):
        await leading
    await settled(store)
    assert leftovers(store) == []
    assert store.find(source.digest) is None
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data


async def test_a_write_error_in_mid_ingest(open_store: OpenStore) -> None:
    """EIO is no full disk: the store is unavailable for that blob, and recovers by itself."""
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    disk.fail = {"write": (disk.calls["write"] + 2, errno.EIO)}
    source = Source(some_bytes(MIB), chunk=100_000, pause=0.001)
    with pytest.raises(StoreUnavailable) as caught:
        await body_of(store.follow(source.digest, None, source.fetch))
    assert not isinstance(caught.value, StoreFull)
    await settled(store)
    assert leftovers(store) == []
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data


@pytest.mark.parametrize(
    "fault", [{"fsync": 1}, {"fsync": 2}, {"link": 1}], ids=["fsync of the data", "fsync of the folder", "link"]
)
async def test_what_cannot_be_kept_is_still_served(
    open_store: OpenStore, fault: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """The digest agreed, so every follower completes; the failed step is not repeated, and the next request is."""
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    disk.calls.clear()
    disk.fail = {name: (number, errno.EIO) for name, number in fault.items()}
    source = Source(some_bytes(MIB))
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    await settled(store)
    assert leftovers(store) == []
    assert "cannot be kept" in caplog.text
    if "link" in fault or fault["fsync"] == 1:
        assert store.find(source.digest) is None
        assert disk.calls["fsync"] == 1
    assert await body_of(store.follow(source.digest, None, source.fetch)) == source.data
    await settled(store)
    assert store.find(source.digest) is not None


async def test_max_size_stops_admission_before_anything_is_fetched(open_store: OpenStore) -> None:
    """A blob that has no room is refused without a request; what fits still comes in."""
    store = await open_store(max_size=MIB)
    large, small = Source(some_bytes(MIB + 1)), Source(some_bytes(MIB - 1000))
    with pytest.raises(StoreFull, match="max_size"):
        await body_of(store.follow(large.digest, MIB + 1, large.fetch))
    assert large.starts == []
    with pytest.raises(StoreFull):
        await body_of(store.follow(large.digest, None, large.fetch))
    assert large.sent == 0
    assert await body_of(store.follow(small.digest, None, small.fetch)) == small.data
    await settled(store)
    with pytest.raises(StoreFull):
        await body_of(store.follow(large.digest, 2000, large.fetch))
    assert leftovers(store) == []
    manifest = b"{}" * 5000
    assert (await store.put(Digest.of(manifest), manifest)).size == 10_000


async def test_running_ingests_count(open_store: OpenStore) -> None:
    """What another worker's running ingest reserved is not given away twice."""
    one, two = await open_store(max_size=MIB), await open_store(max_size=MIB)
    first, second = Source(some_bytes(700_000), pause=0.01), Source(some_bytes(700_000, 1))
    async with one.follow(first.digest, None, first.fetch):
        with pytest.raises(StoreFull):
            await body_of(two.follow(second.digest, 700_000, second.fetch))
    assert second.starts == []


async def test_room_that_is_gone_when_the_size_is_told(open_store: OpenStore) -> None:
    """Two blobs of unknown size, which together have no room: the second to tell its size ends, though bytes came."""
    one, two = await open_store(max_size=MIB), await open_store(max_size=MIB)
    first, second = (Source(some_bytes(700_000, seed), chunk=20_000, pause=0.01, hold=1) for seed in range(2))
    first.gate.clear()
    second.gate.clear()
    asked = [asyncio.create_task(body_of(s.follow(b.digest, None, b.fetch))) for s, b in ((one, first), (two, second))]
    await asyncio.sleep(0.2)
    first.gate.set()
    second.gate.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StoreFull", "bytes"]
    await settled(one)
    await settled(two)
    assert (await one.stats()).bytes == 700_000
    assert leftovers(one) == []


async def test_a_full_disk_counts_more_than_a_broken_upstream(open_store: OpenStore) -> None:
    """Where both fail at once nothing is resumed: upstream would be asked for bytes that have no place."""
    disk = FaultyDisk()
    store = await open_store(disk=disk)
    disk.fail = {"write": (disk.calls["write"] + 2, errno.ENOSPC)}
    source = Source(some_bytes(300_000), chunk=100_000, cuts=[200_000])
    with pytest.raises(StoreFull):
        await body_of(store.follow(source.digest, None, source.fetch))
    assert source.starts == [0]
    await settled(store)
    assert leftovers(store) == []


async def test_dead_leftovers_make_room(open_store: OpenStore) -> None:
    """Before anything is refused, what no living leader holds is removed."""
    store = await open_store(max_size=MIB)
    dead = Source(some_bytes(700_000, 1))
    part = store.root / "ingest" / f"sha256-{dead.digest.hex}.part"
    part.write_bytes(dead.data[:10])
    lock = LockFile.open(str(part.with_suffix(".lock")))
    lock.write(Record(State.RUNNING, part.stat().st_ino, 700_000, 700_000))
    lock.close()
    source = Source(some_bytes(700_000))
    assert await body_of(store.follow(source.digest, 700_000, source.fetch)) == source.data


async def test_a_blob_of_unknown_size_stops_at_the_limit(open_store: OpenStore) -> None:
    """Where nobody tells a size, the blob may take what is left and not a chunk more."""
    store = await open_store(max_size=MIB)
    source = Source(some_bytes(MIB + 1), tells_size=False)
    with pytest.raises(StoreFull):
        await body_of(store.follow(source.digest, None, source.fetch))
    assert leftovers(store) == []


async def test_the_disks_reserve_is_kept(open_store: OpenStore) -> None:
    """Blobs leave room for manifests and the ledger."""

    class SmallDisk(FaultyDisk):
        def room(self, path: str) -> tuple[int, int]:
            return 10 * MIB, 1000 * MIB

    store = await open_store(disk=SmallDisk(), reserve=None)
    source = Source(some_bytes(MIB))
    with pytest.raises(StoreFull, match="1048576 bytes more: 10485760 are free and 20971520 are kept back"):
        await body_of(store.follow(source.digest, MIB, source.fetch))
    assert source.starts == []
    await store.put(Digest.of(b"{}"), b"{}")


async def test_an_unwritable_ingest_folder(open_store: OpenStore) -> None:
    """A claim that fails is told as the store's failure, not as a crash."""
    store = await open_store()
    (store.root / "ingest").rmdir()
    with pytest.raises(StoreUnavailable, match="starting the ingest"):
        await body_of(store.follow(Digest.of(b"x"), None, Source(b"x").fetch))
    (store.root / "ingest").mkdir(mode=0o700)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Four MiB of memory as a file system."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.root
async def test_a_really_full_disk(small_disk: Path) -> None:
    """On four MiB: blobs come in until the disk is full, followers then get StoreFull, and it recovers when freed."""
    store = Store.open(small_disk / "store", max_size=100 * MIB, reserve=0, patience=QUICK)
    (small_disk / "ballast").write_bytes(bytes(2 * MIB))
    liar = Source(some_bytes(3 * MIB), chunk=100_000, tells_size=False)
    honest = Source(some_bytes(3 * MIB, 1), chunk=100_000)
    try:
        for source in (liar, honest):
            with pytest.raises(StoreFull):
                await body_of(store.follow(source.digest, None, source.fetch))
        assert leftovers(store) == []
        (small_disk / "ballast").unlink()
        assert await body_of(store.follow(honest.digest, None, honest.fetch)) == honest.data
        await settled(store)
        blob = store.find(honest.digest)
        assert blob is not None
        assert Path(blob.path).read_bytes() == honest.data
    finally:
        await store.close()


def test_no_failure_is_bare() -> None:
    """The tail is at least one byte, and the store's failures are of the two kinds."""
    assert TAIL >= 1
    assert issubclass(StoreFull, IarproxyError)
