"""The file of the key that signs the records of promotions: `promotion.key`, beside the ledger.

Rule 1: it is read by its owner alone, and is no link; a file that others may read is not used.
Rule 2: it is made when it is first needed. Whoever replaces it keeps the old public key for what it signed: each
        journal entry of a promotion names the key by its hint.
Rule 3: it is whole or not there, and durable before anything is signed with it; of several who make it, the first one
        wins and the others use that.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from iarproxy.errors import Malformed, Refused
from iarproxy.ledger.journal_file import sync_directory
from iarproxy.trust.signing import KeyType, PrivateKey

NAME = "promotion.key"
_MOST = 16 * 1024  # bytes


def promotion_key(folder: Path) -> PrivateKey:
    """The key in `folder`, which is the ledger's; made where there is none.

    Raises:
        Refused: it cannot be used or made; says what to do.
    """
    path = folder / NAME
    try:
        if not path.is_symlink() and not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise Refused(f"the key for records of promotions {path}: {error.strerror}; look at its folder") from error
    except Malformed as error:
        raise Refused(f"{path} cannot be used: {error}; restore it, or move it away to have a new one made") from error


def _read(path: Path) -> PrivateKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Malformed("it is no file")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Refused(f"{path} is open to others: chmod 600 it, and replace it if somebody read it")
        key = PrivateKey.parse(os.read(descriptor, _MOST))
    finally:
        os.close(descriptor)
    if key.public.type is not KeyType.ECDSA:
        raise Malformed("it is of another kind; an ECDSA key over P-256 in PEM is wanted, as every cosign verifies it")
    return key


def _make(path: Path) -> None:
    fresh = path.with_name(f"{NAME}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, PrivateKey.made().pem)
        os.fsync(descriptor)
        with suppress(FileExistsError):
            path.hardlink_to(fresh)
        sync_directory(path.parent)
    finally:
        os.close(descriptor)
        fresh.unlink(missing_ok=True)
