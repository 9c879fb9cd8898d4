"""The cache that workers share: bytes only, ours only, and never a reason to fail (invariant 11; T83)."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  # planted, to see that nothing reads it
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dialing import dialing
from iarproxy.oci import Tag
from iarproxy.upstream.cache import BytesDisk, SharedCache
from images import small_image
from registry import FakeRegistry
from registry_auth import Authority


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._marker),)


async def test_what_is_put_is_got(tmp_path: Path) -> None:
    """Also by another worker; a lifetime that is over, a large value and what was forgotten are not."""
    folder = tmp_path / "runtime" / "upstream"
    one, other = await SharedCache.open(folder), await SharedCache.open(folder)
    await one.put("key", b"value", 60)
    assert await other.get("key") == b"value"
    await one.put("brief", b"value", 1e-9)
    await one.put("negative", b"value", -1)
    await one.put("large", bytes(2**20 + 1), 60)
    assert [await one.get(key) for key in ("brief", "negative", "large", "none")] == [None] * 4
    await other.forget("key")
    assert await one.get("key") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    with closing(sqlite3.connect(folder / "cache.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    await one.close()
    await other.close()


async def test_a_clock_that_was_ahead_lets_nothing_live_on(tmp_path: Path) -> None:
    """What would live for longer than was meant is a miss, also where several keys are looked for or one is changed."""
    cache = await SharedCache.open(tmp_path / "cache")
    await cache.put("key", b"value", 10)
    with closing(sqlite3.connect(tmp_path / "cache" / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET expire_time = expire_time + 3600")
    seen: list[bytes | None] = []

    def change(value: bytes | None) -> bytes:
        seen.append(value)
        return b"new"

    assert (None, None) == (await cache.get("key"), await cache.first(["key"]))
    await cache.update("key", change, 10)
    assert ([None], b"new") == (seen, await cache.get("key"))
    await cache.close()


async def test_many_values_are_put_at_once(tmp_path: Path) -> None:
    """One that is too large is left out."""
    cache = await SharedCache.open(tmp_path / "cache")
    await cache.put_all({"one": b"1", "two": b"2", "large": bytes(2**20 + 1)}, 60)
    assert [b"1", b"2", None] == [await cache.get(key) for key in ("one", "two", "large")]
    await cache.close()


@pytest.mark.parametrize("where", ["value", "file", "key", "number", "text"])
async def test_a_planted_row_is_never_read(tmp_path: Path, where: str) -> None:
    """A pickle as value, as file or as key does not run; other types of value are misses."""
    cache = await SharedCache.open(tmp_path / "cache")
    await cache.put("key", b"good", 60)
    marker = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(marker))
    (tmp_path / "cache" / "planted.val").write_bytes(bomb)
    planted = {
        "value": ("UPDATE Cache SET mode = 4, value = ?", (bomb,)),
        "file": ("UPDATE Cache SET mode = 4, value = NULL, filename = ?", ("planted.val",)),
        "key": ("UPDATE Cache SET raw = 0, key = ?", (bomb,)),
        "number": ("UPDATE Cache SET value = ?", (7,)),
        "text": ("UPDATE Cache SET value = ?", ("text",)),
    }[where]
    database = sqlite3.connect(tmp_path / "cache" / "cache.db")
    database.execute(*planted)
    database.commit()
    database.close()
    assert await cache.get("key") is None
    await cache.close()
    assert not marker.exists()


async def test_a_planted_file_name_removes_nothing(tmp_path: Path) -> None:
    """A row that names a file outside does not get it removed when the row is replaced, forgotten or evicted."""
    precious = tmp_path / "precious"
    precious.write_text("here")
    cache = await SharedCache.open(tmp_path / "cache")
    for act in (cache.put("key", b"new", 60), cache.forget("key")):
        await cache.put("key", b"good", 60)
        database = sqlite3.connect(tmp_path / "cache" / "cache.db")
        database.execute("UPDATE Cache SET mode = 2, filename = '../precious'")
        database.commit()
        database.close()
        await act
    await cache.close()
    assert precious.read_text() == "here"


def test_only_bytes_go_in(tmp_path: Path) -> None:
    """The disk refuses what it would have to pickle, and anything that is read from a file."""
    disk = BytesDisk(str(tmp_path))
    for value in ("text", 7, 1.5, None, {"a": 1}, bytearray(b"x")):
        with pytest.raises(TypeError):
            disk.store(value, read=False)
    with pytest.raises(TypeError):
        disk.store(b"x", read=True)
    for key in (b"bytes", 7, ("a",), None):
        with pytest.raises(TypeError):
            disk.put(key)
    with pytest.raises(TypeError):
        disk.filename()


async def test_a_damaged_database_starts_anew(tmp_path: Path) -> None:
    """It is rebuildable: garbage in the file costs its content and nothing else."""
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "cache.db").write_bytes(b"garbage" * 1000)
    cache = await SharedCache.open(tmp_path / "cache")
    await cache.put("key", b"value", 60)
    assert await cache.get("key") == b"value"
    await cache.close()


@pytest.mark.parametrize("fault", ["mode", "symlink", "file"])
async def test_a_folder_that_is_not_ours(tmp_path: Path, fault: str) -> None:
    """Open to others, a symlink or no folder: no cache, and requests work as without one."""
    folder = tmp_path / "cache"
    if fault == "mode":
        folder.mkdir(mode=0o755)
    elif fault == "symlink":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    async with (
        FakeRegistry(authority=Authority("bearer")) as registry,
        dialing(registry, cache_dir=folder) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
    assert not (folder / "cache.db").exists()


async def test_a_cache_that_breaks_under_way(tmp_path: Path) -> None:
    """The table vanishes: everything is a miss, and requests work."""
    async with (
        FakeRegistry(authority=Authority("bearer")) as registry,
        dialing(registry, cache_dir=tmp_path / "cache") as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        database = sqlite3.connect(tmp_path / "cache" / "cache.db")
        database.execute("DROP TABLE Cache")
        database.commit()
        database.close()
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
