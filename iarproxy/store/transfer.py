"""What the store asks of whoever fetches: one upstream GET of a blob, from an offset.

Rule 1: the store knows no upstream; these two protocols are all it sees of one.
Rule 2: failures come as `errors.Unavailable` (worth another try) or `errors.Refused` (not).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Transfer(Protocol):
    """One upstream GET of a blob.

    Attributes:
        size: the whole blob's size in bytes; None: upstream does not say.
        offset: where the bytes start: what was asked, or 0 where upstream ignored the Range.
    """

    @property
    def size(self) -> int | None:
        """See above."""
        ...

    @property
    def offset(self) -> int:
        """See above."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, as they arrive."""
        ...


class Fetch(Protocol):
    """Starts a transfer of one blob at `offset` bytes.

    Raises:
        Unavailable, Refused: on entering, or while the chunks arrive.
    """

    def __call__(self, offset: int) -> AbstractAsyncContextManager[Transfer]:
        """A GET from `offset` on, open while its context is."""
        ...
