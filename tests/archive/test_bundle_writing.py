"""Volumes are what the manifest decides, of sound bytes only; a folder looks like a bundle only at the end.

`IARPROXY_SEEDS=200` kills a create at 200 moments instead of 6.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from iarproxy.archive.making.writing import Damaged, Hands, Stopped, Writing
from iarproxy.archive.staging import INCOMPLETE, MANIFEST, staging
from iarproxy.errors import Refused, StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundleManifest, Carried
from iarproxy.oci.volumes import MIN_VOLUME, Piece
from iarproxy.store import Disk, OsDisk, StoredBlob

SIZES = (0, 1, 511, 512, 513, 70_000, MIN_VOLUME - 2000, MIN_VOLUME, 3 * MIN_VOLUME + 5)
SUFFIX = ".tar"
FULL = os.environ.get("IARPROXY_SEEDS") == "200"


def some_bytes(size: int, seed: int) -> bytes:
    return Random(seed).randbytes(size)


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


class FaultyDisk(OsDisk):
    """Is full from a number of written bytes on, or fails the n-th fsync (from 1)."""

    def __init__(self, *, full_after: int | None = None, fsync: int = 0) -> None:
        self.left = full_after
        self.fails = fsync
        self.synced = 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.left is None:
            return super().write(fd, data)
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(fd, data[: self.left])
        self.left -= count
        return count

    def fsync(self, fd: int) -> None:
        self.synced += 1
        if self.synced == self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd)


class Shelf:
    """Blobs in a folder, as a store has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.found: dict[Digest, StoredBlob] = {}

    def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        digest = digest or Digest.of(data)
        path = self.folder / digest.hex
        path.write_bytes(data)
        self.found[digest] = StoredBlob(digest, len(data), str(path))
        return digest

    def manifest(self, limit: int | None = None) -> BundleManifest:
        carried = tuple(Carried(each, self.found[each].size) for each in sorted(self.found))
        return BundleManifest("site-a", (), (), carried, (), limit)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Blobs of many sizes and both algorithms."""
    made = Shelf(tmp_path / "blobs")
    for number, size in enumerate(SIZES):
        made.put(some_bytes(size, number))
    big = some_bytes(MIN_VOLUME + 700, 99)
    made.put(big, Digest.of(big, "sha512"))
    return made


Written = tuple[tuple[Digest, tuple[str, ...]], ...]


def write(
    shelf: Shelf,
    target: Path,
    limit: int | None = None,
    disk: Disk | None = None,
    told: Callable[[int], None] = lambda size: None,
) -> Written:
    manifest = shelf.manifest(limit)
    with (
        staging(target, disk or OsDisk()) as made,
        Writing(Hands(made, shelf.found.get, told, threading.Event())) as writing,
    ):
        pieces = writing.write(volumes_of(manifest))
        made.write(MANIFEST, manifest.dump())
        made.publish()
    return pieces


def volumes_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir()) if each.suffix == SUFFIX}


def expected(manifest: BundleManifest, blobs: Mapping[Digest, StoredBlob]) -> dict[str, bytes]:
    """The volumes, put together with no regard to memory."""
    made = {}
    for volume in volumes_of(manifest):
        raw = bytearray(volume.size)
        for entry in volume.entries:
            content = entry.content
            if isinstance(content, Piece):
                whole = Path(blobs[content.digest].path).read_bytes()
                data = whole[content.start : content.start + content.size]
            else:
                data = content.data
            raw[entry.at : entry.data_at] = entry.header
            raw[entry.data_at : entry.data_at + len(data)] = data
        made[f"volume-{volume.number:03}.tar"] = bytes(raw)
    return made


@pytest.mark.parametrize("limit", [None, MIN_VOLUME, 2 * MIN_VOLUME + 777])
def test_volumes_are_what_the_manifest_decides(shelf: Shelf, tmp_path: Path, limit: int | None) -> None:
    """Every byte stands where it has to, and the pieces of a blob that spans volumes have the sha256 they are given."""
    pieces = write(shelf, tmp_path / "out", limit)
    assert expected(shelf.manifest(limit), shelf.found) == volumes_in(tmp_path / "out")
    spans: dict[Digest, list[str]] = {}
    for volume in volumes_of(shelf.manifest(limit)):
        for entry in volume.pieces:
            piece = entry.content
            assert isinstance(piece, Piece)
            data = Path(shelf.found[piece.digest].path).read_bytes()[piece.start : piece.start + piece.size]
            if not piece.is_whole:
                spans.setdefault(piece.digest, []).append(hashlib.sha256(data).hexdigest())
    assert {digest: tuple(hashes) for digest, hashes in spans.items()} == dict(pieces)
    assert (limit is not None) == bool(pieces)
    assert list(pieces) == sorted(pieces)


def test_progress_is_told_in_bytes_of_blobs(shelf: Shelf, tmp_path: Path) -> None:
    """What is told adds up to what travels."""
    told: list[int] = []
    write(shelf, tmp_path / "out", MIN_VOLUME, told=told.append)
    assert sum(each.size for each in shelf.found.values()) == sum(told)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_modes_and_times_are_the_same_under_any_umask(shelf: Shelf, tmp_path: Path, umask: int) -> None:
    """Files are for all to read and for the owner to write, of one time."""
    before = os.umask(umask)
    try:
        write(shelf, tmp_path / "out", MIN_VOLUME)
    finally:
        os.umask(before)
    found = [each.stat() for each in (tmp_path / "out").iterdir()]
    assert {(0o644, 315_532_800)} == {(stat.S_IMODE(each.st_mode), int(each.st_mtime)) for each in found}
    assert 0o755 == stat.S_IMODE((tmp_path / "out").stat().st_mode)


@pytest.mark.parametrize("limit", [None, MIN_VOLUME])
@pytest.mark.parametrize("where", [0, 500_000, -1])
def test_a_rotten_blob_is_named_and_leaves_nothing(shelf: Shelf, tmp_path: Path, limit: int | None, where: int) -> None:
    """One flipped bit of a blob ends it, wherever it stands, with no file of the bundle left."""
    data = bytearray(some_bytes(3 * MIN_VOLUME + 5, len(SIZES) - 1))
    digest = Digest.of(data)
    data[where] ^= 1
    Path(shelf.found[digest].path).write_bytes(data)
    with pytest.raises(Damaged) as refused:
        write(shelf, tmp_path / "out", limit)
    assert digest == refused.value.digest
    assert not (tmp_path / "out").exists()


def test_a_blob_that_was_cut_is_damaged(shelf: Shelf, tmp_path: Path) -> None:
    """So is one whose file became shorter than what its size was when the bundle was planned."""
    digest = Digest.of(some_bytes(70_000, 5))
    known = shelf.found[digest]
    manifest = shelf.manifest()
    Path(known.path).write_bytes(b"short")
    shelf.found[digest] = StoredBlob(digest, 5, known.path)
    with (
        pytest.raises(Damaged, match=str(digest)),
        staging(tmp_path / "out", OsDisk()) as made,
        Writing(Hands(made, shelf.found.get, lambda size: None, threading.Event())) as writing,
    ):
        writing.write(volumes_of(manifest))


def test_a_blob_that_is_gone_is_named(shelf: Shelf, tmp_path: Path) -> None:
    """So is one that the store does not have any more."""
    manifest = shelf.manifest()
    with (
        pytest.raises(Damaged),
        staging(tmp_path / "out", OsDisk()) as made,
        Writing(Hands(made, lambda digest: None, lambda size: None, threading.Event())) as writing,
    ):
        writing.write(volumes_of(manifest))


class Unreadable(StoredBlob):
    """A blob that the disk opens, and fails to read; `path` says how."""

    __slots__ = ()

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY)


@pytest.mark.parametrize(
    ("path", "error"), [("/proc/self/mem", Damaged), ("/", StoreUnavailable)], ids=["bad sector", "anything else"]
)
def test_a_blob_that_cannot_be_read(tmp_path: Path, path: str, error: type[Exception]) -> None:
    """A bad sector is damage, which quarantine and a sync heal; what else the disk says is told as it is."""
    shelf = Shelf(tmp_path / "blobs")
    digest = shelf.put(b"any")
    shelf.found[digest] = Unreadable(digest, 3, path)
    with pytest.raises(error, match=str(digest)):
        write(shelf, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stop_ends_it(shelf: Shelf, tmp_path: Path) -> None:
    """Another thread ends it within a chunk."""
    stop = threading.Event()
    with (
        pytest.raises(Stopped),
        staging(tmp_path / "out", OsDisk()) as made,
        Writing(Hands(made, shelf.found.get, lambda size: stop.set(), stop)) as writing,
    ):
        writing.write(volumes_of(shelf.manifest()))
    assert not (tmp_path / "out").exists()


def test_memory_does_not_depend_on_the_size_of_blobs(tmp_path: Path) -> None:
    """A blob of 96 MiB goes through the same few buffers as a small one."""
    shelf = Shelf(tmp_path / "blobs")
    shelf.put(bytes(96 * 2**20))
    tracemalloc.start()
    try:
        write(shelf, tmp_path / "out", 32 * 2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 1000, 2_000_000, 6_000_000])
def test_a_full_disk_leaves_nothing(shelf: Shelf, tmp_path: Path, after: int) -> None:
    """A disk that is full from some byte on gives one clear error, and all that was written is gone."""
    with pytest.raises(Refused, match="cannot be written: the disk is full; free some space"):
        write(shelf, tmp_path / "out", MIN_VOLUME, FaultyDisk(full_after=after))
    assert not (tmp_path / "out").exists()


def test_a_failed_fsync_leaves_no_bundle(shelf: Shelf, tmp_path: Path) -> None:
    """Whichever fsync fails, also that of the last name, nothing is left."""
    counting = FaultyDisk()
    write(shelf, tmp_path / "sound", MIN_VOLUME, counting)
    for number in range(1, counting.synced + 1):
        target = tmp_path / f"out-{number}"
        with pytest.raises(Refused, match="cannot be written: Input/output error"):
            write(shelf, target, MIN_VOLUME, FaultyDisk(fsync=number))
        assert not target.exists()


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """What is needed and what is free are named."""
    with (
        pytest.raises(Refused, match=r"out: 9223372036854775808 bytes are needed and [0-9]+ are free"),
        staging(tmp_path / "out", OsDisk()) as made,
    ):
        made.insist_on_room(2**63)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_file_system_for_small_files_is_told(shelf: Shelf, tmp_path: Path) -> None:
    """FAT holds no file of 4 GiB: the remedy is smaller volumes."""
    with at_most(2 * MIN_VOLUME), pytest.raises(Refused, match="choose a smaller --volume-size"):
        write(shelf, tmp_path / "out")


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_anything_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """Nothing of anybody is touched."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(Refused, match="out is not empty; name a new folder"):
        write(shelf, tmp_path / "out")
    assert ["mine"] == names_in(tmp_path / "out")


def test_an_empty_folder_will_do(shelf: Shelf, tmp_path: Path) -> None:
    """So will the root of a file system, which has a folder of its own; and it stays when it fails."""
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    with pytest.raises(Refused, match="the disk is full"):
        write(shelf, tmp_path / "out", disk=FaultyDisk(full_after=5))
    assert ["lost+found"] == names_in(tmp_path / "out")
    write(shelf, tmp_path / "out")
    assert ["bundle.json", "lost+found", "volume-001.tar"] == names_in(tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "no parent", "dangling link"])
def test_a_place_that_is_no_folder_is_refused(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    """A file, a folder whose parent is missing, and a link to nowhere."""
    target = tmp_path / ("away/out" if kind == "no parent" else "out")
    if kind == "file":
        target.write_text("")
    if kind == "dangling link":
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused, match=r"away does not exist; make it first|out is no folder"):
        write(shelf, target)


def test_what_is_not_ours_in_incomplete_stays(shelf: Shelf, tmp_path: Path) -> None:
    """A folder of that name with a person's files in it is no leftover."""
    mine = tmp_path / "out" / INCOMPLETE / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(Refused, match="incomplete holds what no create left there"):
        write(shelf, tmp_path / "out")
    assert mine.is_dir()


def test_what_came_meanwhile_is_not_replaced(shelf: Shelf, tmp_path: Path) -> None:
    """A file that somebody put there while the bundle was made stays as it is, and nothing of the bundle does."""
    target = tmp_path / "out"
    with staging(target, OsDisk()) as made:
        for name in ("volume-001.tar", "volume-002.tar", MANIFEST):
            made.write(name, b"ours")
        (target / "volume-002.tar").write_text("theirs")
        with pytest.raises(Refused, match=r"volume-002\.tar came while the bundle was made"):
            made.publish()
    assert ["volume-002.tar"] == names_in(target)
    assert "theirs" == (target / "volume-002.tar").read_text()


@pytest.mark.parametrize("published", [False, True])
def test_a_create_that_was_killed_while_files_moved(shelf: Shelf, tmp_path: Path, published: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """Without bundle.json in its place what moved is a leftover; with it the bundle is whole, and stays."""
    target = tmp_path / "out"
    (target / INCOMPLETE).mkdir(parents=True)
    (target / "volume-001.tar").write_text("moved")
    (target / MANIFEST if published else target / INCOMPLETE / MANIFEST).write_text("{}")
    if published:
        with pytest.raises(Refused, match="out is not empty"):
            write(shelf, target)
        assert "moved" == (target / "volume-001.tar").read_text()
    else:
        write(shelf, target)
        assert expected(shelf.manifest(), shelf.found) == volumes_in(target)


def test_two_do_not_write_to_one_folder(shelf: Shelf, tmp_path: Path) -> None:
    """The second one is told, and the first one is not disturbed."""
    with staging(tmp_path / "out", OsDisk()) as made:
        made.write(MANIFEST, b"{}")
        with pytest.raises(Refused, match="another create writes to"):
            write(shelf, tmp_path / "out")
        made.publish()
    assert [MANIFEST] == names_in(tmp_path / "out")


KILLED = """
import sys, threading
from pathlib import Path
sys.path[:0] = {path!r}
from test_bundle_writing import *
shelf = Shelf.__new__(Shelf)
shelf.found = {{}}
for each in Path({blobs!r}).iterdir():
    data = each.read_bytes()
    digest = Digest("sha256" if len(each.name) == 64 else "sha512", each.name)
    shelf.found[digest] = StoredBlob(digest, len(data), str(each))
print("ready", flush=True)
write(shelf, Path({target!r}), MIN_VOLUME)
"""


@pytest.mark.timeout(3600 if FULL else 120)
def test_a_killed_create_leaves_no_bundle(shelf: Shelf, tmp_path: Path) -> None:
    """Killed at any moment it leaves a whole bundle or none, and the next one writes to the same folder."""
    target = tmp_path / "out"
    random = Random(6)
    whole = expected(shelf.manifest(MIN_VOLUME), shelf.found)
    code = KILLED.format(path=sys.path, blobs=str(shelf.folder), target=str(target))
    started = time.monotonic()
    write(shelf, tmp_path / "other", MIN_VOLUME)
    takes = time.monotonic() - started
    for _ in range(200 if FULL else 6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, 1.2 * takes))
        process.kill()
        process.communicate()
        if (target / MANIFEST).exists():
            assert whole == volumes_in(target)
            for each in target.iterdir():
                each.rmdir() if each.is_dir() else each.unlink()
    write(shelf, target, MIN_VOLUME)
    assert whole == volumes_in(target)
