"""Counting the blobs anew, beside a store that is in use.

Rule 1: the folders are read without any lock, a batch at a time; at the end, under the counter's lock, the names that
        changed meanwhile are looked at once more, so that the count is exact whatever was published or moved away.
Rule 2: one process counts at a time: it holds the flock of the file where the others note what they change.
Rule 3: it remembers 16 bytes for each blob until it ends.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Final

from iarproxy.errors import DigestInvalid
from iarproxy.oci import Digest
from iarproxy.store.state import LockFile
from iarproxy.store.usage import Counter, Record, Standing, blobs

_BATCH: Final = 1000  # blobs: some milliseconds


def recount(counter: Counter) -> Generator[int]:
    """Make the counter exact, a step at a time; tells how many blobs were seen so far. Blocking.

    It ends at once where the counter is exact, or another process counts already.
    """
    with closing(LockFile.open(counter.layout.changes)) as changes:
        if not changes.acquire() or not _begun(counter, changes):
            return
        names, sizes = array("q"), array("q")
        for name, size in blobs(counter.layout):
            names.append(hash(name))
            sizes.append(size)
            if len(names) % _BATCH == 0:
                yield len(names)
        with counter.held() as usage:
            usage.write(_corrected(counter, _noted(changes), names, sizes))
            os.ftruncate(changes.fd, 0)
    counter.sync_early()  # until then the disk may show what was believed before


def _begun(counter: Counter, changes: LockFile) -> bool:
    with counter.held() as usage:
        if usage.standing is Standing.EXACT:
            return False
        os.ftruncate(changes.fd, 0)
        usage.write(replace(usage.record, noting=True))
    return True


def _noted(changes: LockFile) -> set[Digest]:
    found = set()
    for line in os.pread(changes.fd, os.fstat(changes.fd).st_size, 0).decode(errors="replace").split():
        with suppress(DigestInvalid):  # a line that found no room: its change was never made
            found.add(Digest.parse(line))
    return found


def _corrected(counter: Counter, changed: set[Digest], names: array[int], sizes: array[int]) -> Record:
    size, count = sum(sizes), len(sizes)
    hashes = {hash(digest.hex) for digest in changed}
    for name, each in zip(names, sizes, strict=True) if changed else ():
        if name in hashes:
            size, count = size - each, count - 1
    for digest in changed:
        with suppress(FileNotFoundError):
            size, count = size + os.lstat(counter.layout.blob(digest)).st_size, count + 1
    return Record(size, count, counter.run, 0)
