"""Pieces of blobs that come on several media: kept whole and durable or not at all, and gone in time."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import StoreFull, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.store import KeptPiece, OsDisk, Store
from iarproxy.store.pieces import KEPT

DATA = os.urandom(3_000_000)
WHOLE = Digest.of(DATA)
PIECE = KeptPiece(WHOLE, 1_000, 2_000_000, hashlib.sha256(DATA[1_000:2_001_000]).hexdigest())


def chunks() -> Iterator[bytes]:
    for start in range(1_000, 2_001_000, 500_000):
        yield DATA[start : start + 500_000]


@asynccontextmanager
async def opened(folder: Path, **more: Any) -> Any:
    store = Store.open(folder, max_size=10**9, reserve=0, **more)
    try:
        yield store
    finally:
        await store.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pieces").glob("*"))


async def test_a_piece_is_kept(tmp_path: Path) -> None:
    """It can be read until its blob is assembled, also by whoever opens the store later; twice is once."""
    async with opened(tmp_path / "store") as store:
        assert not store.pieces.holds(PIECE)
        for _ in range(2):
            await store.pieces.keep(PIECE, chunks)
    async with opened(tmp_path / "store") as store:
        assert store.pieces.holds(PIECE)
        fd = store.pieces.open(PIECE)
        assert DATA[1_000:2_001_000] == os.pread(fd, PIECE.size + 1, 0)
        os.close(fd)
        assert [PIECE] == [KeptPiece.parse(name) for name in names(tmp_path / "store")]
        await store.pieces.discard(Digest.of(b"other"))
        assert store.pieces.holds(PIECE)
        await store.pieces.discard(WHOLE)
        assert [] == names(tmp_path / "store")


async def test_other_bytes_are_no_piece(tmp_path: Path) -> None:
    """What is not what its sha256 says, or has another length, leaves nothing."""
    async with opened(tmp_path / "store") as store:
        for wrong in (lambda: iter([DATA[:2_000_000]]), lambda: iter([DATA[1_000:2_000_999]]), lambda: iter([])):
            with pytest.raises(UpstreamWrong):
                await store.pieces.keep(PIECE, wrong)
        assert [] == names(tmp_path / "store")


class FullDisk(OsDisk):
    """A disk that takes one write."""

    def __init__(self) -> None:
        self.left = 1

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, data)


async def test_a_full_disk_keeps_nothing(tmp_path: Path) -> None:
    """What fails half-way leaves nothing, and says what to do."""
    async with opened(tmp_path / "store"):
        pass
    disk = FullDisk()
    async with opened(tmp_path / "store", disk=disk) as store:
        disk.left = 1
        with pytest.raises(StoreFull, match="free some space"):
            await store.pieces.keep(PIECE, chunks)
        assert [] == names(tmp_path / "store")


async def test_pieces_are_swept(tmp_path: Path) -> None:
    """Those of blobs that are held, those that nobody asked for in months, and what a killed process left."""
    clock = [datetime.now(UTC)]
    async with opened(tmp_path / "store", now=lambda: clock[0]) as store:
        await store.pieces.keep(PIECE, chunks)
        (tmp_path / "store/pieces/left.new").write_bytes(b"x")
        await store.sweep()
        assert 2 == len(names(tmp_path / "store"))
        clock[0] += timedelta(hours=2)
        await store.sweep()
        assert [PIECE.name] == names(tmp_path / "store")
        await store.put(WHOLE, DATA)
        await store.sweep()
        assert [] == names(tmp_path / "store")
        other = KeptPiece(Digest.of(b"other"), 1_000, PIECE.size, PIECE.sha256)
        await store.pieces.keep(other, chunks)
        clock[0] += KEPT + timedelta(days=1)
        await store.sweep()
        assert [] == names(tmp_path / "store")


async def test_blobs_that_are_assembled_at_the_same_time(tmp_path: Path) -> None:
    """Each takes its own pieces away, and is not stopped by those of another that go meanwhile."""
    digests = [Digest.of(b"%d" % number) for number in range(4)]
    async with opened(tmp_path / "store") as store:
        await store.pieces.keep(PIECE, chunks)
        for _ in range(10):
            for digest in digests:
                for start in range(100):
                    (tmp_path / "store/pieces" / KeptPiece(digest, start, 1, PIECE.sha256).name).touch()
            await asyncio.gather(*map(store.pieces.discard, digests))
            assert [PIECE.name] == names(tmp_path / "store")
