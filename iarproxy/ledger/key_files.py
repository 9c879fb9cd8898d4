"""Files of private keys: how they are read and made, whoever's they are.

Rule 1: a key is its owner's alone. It has mode 0600 from its first byte; one that others may read is not used.
Rule 2: a key is whole or not there, and durable before anything is signed with it; no file is ever overwritten. Of
        several who make one the first wins.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from iarproxy.errors import Refused
from iarproxy.ledger.journal_file import sync_directory

_MOST = 16 * 1024  # bytes


def read(path: Path, *, links: bool = False) -> bytes:
    """What a key's file holds; `links`: the path may be a link, as a person's may.

    Raises:
        Refused: it is no file, or others may read it.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{path} is no file, and so no key")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            told = "chmod 600 it, or copy it to where modes are kept, and replace the key if somebody read it"
            raise Refused(f"{path} is open to others: {told}")
        return os.read(descriptor, _MOST)
    finally:
        os.close(descriptor)


def create(path: Path, pem: bytes) -> None:
    """Write a key.

    Raises:
        FileExistsError: there is a file already.
        OSError: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, pem)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.hardlink_to(fresh)
        sync_directory(path.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
