"""The one durable publish protocol: the only code that gives bytes a final name, or takes it away.

Rule 1: verified -> mode 0444 and fsync -> every writer closed -> checksum noted -> link, never over an existing name
        -> fsync of the folder (and of its parent, where the folder is new) -> only then is the caller answered.
Rule 2: a failed fsync is never repeated: the kernel may have marked the pages clean (T: R18). The file is discarded.
Rule 3: an existing final name of the same size stays; one of another size is damage and is moved aside.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import xxhash

from iarproxy.errors import StoreUnavailable
from iarproxy.oci import Digest
from iarproxy.store.blobs import find, read_all
from iarproxy.store.disk import Disk, remove, sync_directory, write_all
from iarproxy.store.layout import Layout
from iarproxy.store.usage import Counter, Usage

_log = logging.getLogger(__name__)
_TRIES: Final = 3
_REASON: Final = 1000


class Press:
    """Publishes files of the ingest folder, and moves damaged ones to quarantine. Blocking: call it in a thread."""

    def __init__(self, layout: Layout, disk: Disk, counter: Counter) -> None:
        self._layout = layout
        self._disk = disk
        self._counter = counter

    def seal(self, fd: int) -> None:
        """Make the bytes behind `fd` durable and read-only; the caller closes `fd` before it publishes."""
        os.fchmod(fd, 0o444)  # before the fsync, so that one fsync makes the mode durable too
        self._disk.fsync(fd)

    def publish(self, source: str, digest: Digest, size: int, checksum: str) -> None:
        """Give the sealed file `source` its final name; durable on return. `source` keeps its own name."""
        self._note(digest, checksum, size)
        with self._counter.held() as usage:
            self._link(source, digest, size, usage)
        self.confirm(digest)
        with suppress(OSError, StoreUnavailable):  # what is published is durable; the next one will try, or wait
            self._counter.sync_early()

    def confirm(self, digest: Digest) -> None:
        """Make an existing final name durable: whoever linked it may not have come to that."""
        sync_directory(self._disk, f"{self._layout.root}/blobs/{digest.algorithm}")

    def put(self, digest: Digest, data: bytes) -> None:
        """Publish `data`, whose digest the caller has verified. Idempotent; any number of callers at once."""
        for _ in range(_TRIES):
            if self._holds(digest, data):
                self.confirm(digest)
                return
            try:
                self._put(digest, data)
            except FileNotFoundError:
                continue  # a sweep took our file in the instant before we had locked it
            return
        raise StoreUnavailable(f"{digest.short} could not be written: its temporary file vanishes; look for a cleaner")

    def quarantine(self, digest: Digest, reason: str) -> None:
        """Move a damaged blob aside, so that the next request fetches it anew."""
        with self._counter.held() as usage:
            self._set_aside(digest, reason, usage)

    def _put(self, digest: Digest, data: bytes) -> None:
        path = f"{self._layout.ingest}/{digest.algorithm}-{digest.hex}.{uuid4().hex}.put"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A second descriptor holds the lock that tells a sweep "alive": the writer must be closed before the link.
            guard = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                write_all(self._disk, fd, data)
                self.seal(fd)
                os.close(fd)
                fd = -1
                self.publish(path, digest, len(data), xxhash.xxh3_128_hexdigest(data))
            finally:
                os.close(guard)
        except BlockingIOError:
            raise FileNotFoundError(path) from None  # the sweep holds it, and removes it
        finally:
            if fd >= 0:
                os.close(fd)
            remove(path)

    def _holds(self, digest: Digest, data: bytes) -> bool:
        blob = find(self._layout, digest)
        if blob is None:
            return False
        if blob.size == len(data) and read_all(blob) is not None:
            return True
        self.quarantine(digest, "found to differ from its digest when it was written again")
        return False

    def _note(self, digest: Digest, checksum: str, size: int) -> None:
        fd = os.open(self._layout.checksums, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            write_all(self._disk, fd, f"{digest} {checksum} {size}\n".encode())
        finally:
            os.close(fd)

    def _link(self, source: str, digest: Digest, size: int, usage: Usage) -> None:
        target = self._layout.blob(digest)
        if os.path.lexists(target):  # only holders of the counter change final names
            found = find(self._layout, digest)
            if found is not None and found.size == size:
                return
            self._set_aside(digest, f"its size is not {size} bytes", usage)
        elif not os.path.isdir(os.path.dirname(target)):  # noqa: PTH112, PTH120  # paths are plain strings here
            self._make_folder(digest)
        with usage.appearing(digest, size):
            self._disk.link(source, target)

    def _make_folder(self, digest: Digest) -> None:
        os.makedirs(f"{self._layout.root}/blobs/{digest.algorithm}", mode=0o700, exist_ok=True)  # noqa: PTH103  # as above
        sync_directory(self._disk, f"{self._layout.root}/blobs")
        sync_directory(self._disk, self._layout.root)

    def _set_aside(self, digest: Digest, reason: str, usage: Usage) -> None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}.{uuid4().hex[:8]}"
        aside = f"{self._layout.quarantine}/{digest.algorithm}-{digest.hex}.{stamp}"
        try:
            size = os.lstat(self._layout.blob(digest)).st_size
            with usage.going(digest, size):
                os.rename(self._layout.blob(digest), aside)  # noqa: PTH104  # paths are plain strings here
        except FileNotFoundError:
            return
        _log.error("blob %s is moved to quarantine: %s", digest, reason[:_REASON])
