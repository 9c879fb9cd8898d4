"""Blobs that can be sent: cached (on disk or in memory), still arriving, or relayed because there is no room for them.

Rule 1: whatever the body is, its last bytes come only after the digest agreed (design invariant 5).
Rule 2: leaving a body changes nothing for anybody else.
Rule 3: disk full in the middle of an arriving blob does not end its readers: the rest is relayed to each of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from iarproxy.errors import StoreFull, Unavailable, UpstreamUnavailable, UpstreamWrong
from iarproxy.mirror.serving.answers import FileSpan
from iarproxy.oci import Digest
from iarproxy.store import TAIL, Fetch, Following, StoredBlob

_READ = 1 << 20
_RESUMES = 3


class CachedBody:
    """A committed blob: one span, no verification, no lock."""

    cached = True

    def __init__(self, blob: StoredBlob) -> None:
        self._blob = blob
        self._fd = -1
        self.size = blob.size

    async def __aenter__(self) -> Self:
        self._fd = self._blob.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        os.close(self._fd)
        self._fd = -1

    async def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """All of it at once."""
        yield FileSpan(self._fd, start, stop - start)


class MemoryBody:
    """A small committed blob whose verified bytes are in memory."""

    cached = True

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """All of it at once."""
        yield self._raw[start:stop]


class GrowingBody:
    """A blob that arrives while it is read; falls back to a relay when the disk fills.

    `insist` is called before each piece, and raises where no more may be sent.
    """

    cached = False

    def __init__(self, following: Following, digest: Digest, fetch: Fetch, insist: Callable[[], None]) -> None:
        self._following = following
        self._insist = insist
        self._digest = digest
        self._fetch = fetch
        self.size = -1  # known once entered

    async def __aenter__(self) -> Self:
        await self._following.__aenter__()
        self.size = self._following.size
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._following.__aexit__(None, None, None)

    async def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """What has been written, as it is written."""
        position = start
        while position < stop:
            try:
                end = min(await self._following.readable(position), stop)
            except StoreFull:
                break
            self._insist()
            yield FileSpan(self._following.fd, position, end - position)
            position = end
        if position < stop:
            relay = Relay(self._digest, self.size, self._fetch)
            await relay.adopt(self._following.fd, min(self._following.written, self.size))
            async for piece in relay.pieces(position, stop):
                yield piece


class RelayedBody:
    """A blob that goes from upstream to this one client and is not kept."""

    cached = False

    def __init__(self, digest: Digest, size: int, fetch: Fetch) -> None:
        self._digest = digest
        self._fetch = fetch
        self.size = size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """The whole blob is fetched and hashed; only the range is handed on."""
        return Relay(self._digest, self.size, self._fetch).pieces(start, stop)


class ProvenBody(RelayedBody):
    """A relayed blob; `proven` is called when all of it was sent, so its digest agreed."""

    def __init__(self, digest: Digest, size: int, fetch: Fetch, proven: Callable[[], Awaitable[None]]) -> None:
        super().__init__(digest, size, fetch)
        self._proven = proven

    async def __aenter__(self) -> Self:
        async with self._fetch(0):  # so that "there is none" is an answer, and not a body that breaks off
            return self

    async def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """As a relayed one's."""
        async for piece in super().spans(start, stop):
            yield piece
        await self._proven()


class Relay:
    """Bytes from upstream, hashed on the way; the tail is handed on when the digest agreed."""

    def __init__(self, digest: Digest, size: int, fetch: Fetch) -> None:
        self._digest = digest
        self._size = size
        self._fetch = fetch
        self._hasher = digest.hasher()
        self._seen = 0
        self._head: tuple[int, int] | None = None

    async def adopt(self, fd: int, count: int) -> None:
        """Hash the first `count` bytes, which lie in `fd` already, so that they need not be fetched again."""
        await asyncio.to_thread(self._hash_file, fd, count)
        self._head = (fd, count)

    def _hash_file(self, fd: int, count: int) -> None:
        while self._seen < count:
            piece = os.pread(fd, min(_READ, count - self._seen), self._seen)
            if not piece:
                raise UpstreamUnavailable("the ingest file of a blob is shorter than was written to it")
            self._hasher.update(piece)
            self._seen += len(piece)

    async def pieces(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """The bytes from `start` up to `stop`.

        Raises:
            UpstreamWrong: the content is not what the digest names; the tail was not handed on.
            Unavailable: upstream broke off for good.
        """
        held = b""
        if self._head and start < self._head[1]:
            # What lies in the file but has not been sent: its tail may be the blob's tail, so it goes through `held`.
            fd, count = self._head
            safe = min(stop, count, max(start, self._size - TAIL))
            if start < safe:
                yield FileSpan(fd, start, safe - start)
            held = os.pread(fd, max(0, min(stop, count) - safe), safe)
        async for offset, chunk in self._chunks():
            held += chunk[max(0, start - offset) : max(0, stop - offset)]
            if len(held) > TAIL:
                yield held[:-TAIL]
                held = held[-TAIL:]
        if self._seen != self._size or not self._digest.agrees(self._hasher):
            raise UpstreamWrong(f"upstream sent bytes that are not {self._digest}", digest=str(self._digest))
        if held:
            yield held

    async def _chunks(self) -> AsyncIterator[tuple[int, bytes]]:
        """Every byte not yet hashed, with its offset; a transfer that breaks is resumed where it broke."""
        for attempt in range(_RESUMES + 1):
            try:
                async with self._fetch(self._seen) as transfer:
                    skip = self._seen - transfer.offset
                    async for chunk in transfer.chunks():
                        fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                        if not fresh:
                            continue
                        self._take(fresh)
                        yield self._seen - len(fresh), fresh
            except UpstreamWrong:
                raise
            except Unavailable:
                if attempt == _RESUMES:
                    raise
            else:
                return

    def _take(self, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self._seen += len(chunk)
        if self._seen > self._size:
            raise UpstreamWrong(f"upstream sends more than the {self._size} bytes of {self._digest}")
