"""What upstream said that is worth sharing between workers: tokens, long tag lists, short-lived negative answers.

Rule 1: everything in it can be had again; a failure of this cache is a miss and never a failure of a request.
Rule 2: bytes in, bytes out. Nothing is unpickled, evaluated, or read from or removed by a file name that the database
        holds, whatever somebody planted in it (design invariant 11; threats T83, CVE-2025-69872).
Rule 3: its folder is ours, mode 0700, no symlink; else there is no cache.
Rule 4: SQL runs in one thread of its own, never on the loop; every call has a deadline; size is bounded.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import structlog
from diskcache.core import MODE_RAW

log = structlog.get_logger("iarproxy.upstream")

T = TypeVar("T")

_MAX_BYTES = 64 * 2**20  # of all values
_MAGIC = b"SQLite format 3\0"  # what a database file begins with, once it has a page
_MAX_VALUE = 2**20  # bytes of one value
_PATIENCE = 2.0  # seconds for one call
_SECRET = 32  # bytes
_SKEW = 1.0  # seconds by which clocks are corrected all the time


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """How diskcache keeps keys and values: text keys and bytes values, in the table, as they are."""

    def put(self, key: Any) -> tuple[str, bool]:
        """A key on its way into the table."""
        if type(key) is not str:
            raise TypeError("keys of the upstream cache are text")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        """A key from the table."""
        if type(key) is not str or not raw:
            raise ValueError("a key in the upstream cache is not text")
        return key

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, memoryview]:  # noqa: ARG002  # diskcache's signature
        """A value on its way into the table."""
        if type(value) is not bytes or read:
            raise TypeError("values of the upstream cache are bytes")
        return len(value), MODE_RAW, None, memoryview(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> bytes:
        """A value from the table; a pickle, a number or a file that a row names is refused unread."""
        if mode != MODE_RAW or filename is not None or read or type(value) is not bytes:
            raise ValueError("a value in the upstream cache is not plain bytes")
        return value

    def filename(self, key: Any = None, value: Any = None) -> tuple[str, str]:  # noqa: ARG002  # diskcache's signature
        """No value is kept in a file of its own."""
        raise TypeError("the upstream cache keeps no files")

    def remove(self, file_path: Any) -> None:
        """Nothing to remove: we made no files, and names in the table are not trusted."""


class SharedCache:
    """The cache of one node, shared by its workers. Without a usable folder it holds nothing.

    Attributes:
        secret: random bytes that all workers with this cache have, and nobody else; for names that tell nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._cache: Any = None
        self.secret = os.urandom(_SECRET)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="iarproxy-cache")

    @classmethod
    async def open(cls, directory: Path | None) -> SharedCache:
        """The cache in `directory`, which is made if need be; None, or a folder that is not ours: an empty one."""
        cache = cls(directory)
        if directory is not None:
            opened = await cache._in_thread(lambda: _open(directory), patience=5 * _PATIENCE)
            if opened is not None:
                cache._cache, cache.secret = opened
        return cache

    async def get(self, key: str) -> bytes | None:
        """The value, unless it expired or cannot be read."""
        cache = self._cache
        return None if cache is None else await self._in_thread(lambda: _live(cache, key))

    async def first(self, keys: Sequence[str]) -> bytes | None:
        """The first value that there is of several keys."""
        cache = self._cache
        if cache is None:
            return None
        return await self._in_thread(lambda: next(filter(None, (_live(cache, key) for key in keys)), None))

    async def put(self, key: str, value: bytes, lifetime: float) -> None:
        """Keep `value` for `lifetime` seconds at most; a large value is not kept."""
        cache = self._cache
        if cache is not None and lifetime > 0 and len(value) <= _MAX_VALUE:
            await self._in_thread(lambda: cache.set(key, value, expire=lifetime, tag=lifetime))

    async def put_all(self, values: Mapping[str, bytes], lifetime: float) -> None:
        """As `put`, for many values at the cost of one."""
        cache = self._cache
        kept = {key: value for key, value in values.items() if len(value) <= _MAX_VALUE}

        def work() -> None:
            with cache.transact():
                for key, value in kept.items():
                    cache.set(key, value, expire=lifetime, tag=lifetime)

        if cache is not None and kept:
            await self._in_thread(work)

    async def update(self, key: str, change: Callable[[bytes | None], bytes], lifetime: float) -> bool:
        """Replace a value by what `change`, called in the thread, makes of it, with no other worker between.

        False: it was not to be done; the value is what it was.
        """
        cache = self._cache
        if cache is None:
            return False

        def work() -> bool:
            with cache.transact():
                value = change(_live(cache, key))
                return len(value) <= _MAX_VALUE and bool(cache.set(key, value, expire=lifetime, tag=lifetime))

        return bool(await self._in_thread(work))

    async def claim(self, key: str, holder: bytes, lifetime: float) -> bool:
        """Whether a claim on `key` is ours, for `lifetime` seconds at most; without a usable cache it always is."""
        cache = self._cache
        held = None if cache is None else await self._in_thread(lambda: cache.add(key, holder, expire=lifetime))
        return held is not False

    async def unclaim(self, key: str, holder: bytes) -> None:
        """Give back a claim, unless it ran out and is somebody else's by now."""
        cache = self._cache
        if cache is not None and await self.get(key) == holder:
            await self._in_thread(lambda: cache.delete(key))

    async def forget(self, key: str) -> None:
        """Drop the value."""
        cache = self._cache
        if cache is not None:
            await self._in_thread(lambda: cache.delete(key))

    async def close(self) -> None:
        """Close the database in the thread that uses it, and end the thread."""
        cache, self._cache = self._cache, None
        if cache is not None:
            await self._in_thread(cache.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T], patience: float = _PATIENCE) -> T | None:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._thread, work), patience)
        except Exception as error:  # noqa: BLE001  # rule 1: sqlite3 errors, a full disk, a planted row, a deadline
            log.warning("upstream cache unusable for now", error=type(error).__name__, directory=str(self._directory))
            return None


def _live(cache: Any, key: str) -> bytes | None:
    """The value, unless it would live for longer than was meant: the clock was ahead when it was put, or set back."""
    value, expires, lifetime = cache.get(key, expire_time=True, tag=True)
    now = time.time()  # noqa: TID251  # the clock that diskcache reckons with
    is_meant = expires is None or not isinstance(lifetime, (int, float)) or expires - now <= lifetime + _SKEW
    return value if is_meant else None


def _open(directory: Path) -> tuple[Any, bytes]:
    """The database and the secret in the folder."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError("the folder of the upstream cache must be ours, mode 0700, and no symlink")
    if not _may_be_database(directory / "cache.db"):  # diskcache would leave the connection open that it fails on
        _start_anew(directory)
    secret = _secret(directory)
    try:
        return _database(directory), secret
    except Exception as error:
        if "locked" in str(error):
            raise
        _start_anew(directory)  # damaged, or of another version
        return _database(directory), secret


def _secret(directory: Path) -> bytes:
    """The secret in the folder; whoever comes first makes it, whole before it has its name."""
    kept = directory / "secret"
    with suppress(FileNotFoundError):
        if len(found := kept.read_bytes()) == _SECRET:
            return found
        kept.unlink()
    made = directory / f"secret.{os.urandom(8).hex()}"
    made.write_bytes(os.urandom(_SECRET))
    with suppress(FileExistsError):
        os.link(made, kept)
    made.unlink()
    return kept.read_bytes()


def _may_be_database(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_MAGIC)) in (b"", _MAGIC)
    except FileNotFoundError:
        return True


def _start_anew(directory: Path) -> None:
    """All of it is rebuildable."""
    for each in directory.glob("cache.db*"):
        each.unlink(missing_ok=True)


def _database(directory: Path) -> Any:
    return diskcache.Cache(
        str(directory),
        timeout=1,
        disk=BytesDisk,
        size_limit=_MAX_BYTES,
        cull_limit=32,
        eviction_policy="least-recently-stored",
        statistics=0,
        tag_index=0,
        sqlite_journal_mode="delete",
        sqlite_mmap_size=0,
        sqlite_synchronous=0,
    )
