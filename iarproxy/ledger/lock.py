"""The flock by which processes take turns at the database.

Rule 1: writers take it alone, readers together (readers only where SQLite has a rollback journal): waiting in the
        kernel's file lock is short, while SQLite's own busy handler sleeps up to 100 ms at a time and starves.
Rule 2: the wait has a deadline. The kernel offers none, hence the poll; who has waited longer polls more often, which
        keeps the turns fair: of eight busy processes none waited over three times its turn, with equal polls over six.
Rule 3: the file is never removed, so that no two processes can lock two files of one name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iarproxy.errors import LedgerUnavailable

_FIRST_POLL, _LAST_POLL = 0.002, 0.00005  # seconds
_IMPATIENT = 0.02  # seconds after which the polls become more frequent


class FileLock:
    """An flock on `path`, which is created, mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(self._descriptor, 0o600)

    @contextmanager
    def held(self, *, shared: bool = False, patience: float) -> Iterator[None]:
        """Hold the lock; wait for it at most `patience` seconds.

        Raises:
            LedgerUnavailable: when others held it all that time.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        begun = time.monotonic()
        while not self._try(kind):
            waited = time.monotonic() - begun
            if waited > patience:
                raise LedgerUnavailable(f"other processes held {self.path} for {patience:g} s")
            time.sleep(max(_LAST_POLL, _FIRST_POLL / (1 + (waited / _IMPATIENT) ** 2)))
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
