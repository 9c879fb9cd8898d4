"""The bytes of one blob, as they come from upstream.

Rule 1: nothing is believed: status, Content-Range, Content-Length and Content-Encoding must be exactly what was asked
        for, else nothing of the body is read (threats T42, R36, R38; lab L7).
Rule 2: a body that ends early, stalls or trickles is `Unavailable`, so that the consumer resumes; where no length was
        told, its end says nothing, and the consumer's digest decides.
Rule 3: only the time spent waiting for upstream counts; a slow consumer is not upstream's fault.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp

from iarproxy.errors import UpstreamTimeout, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.upstream.client import Client
from iarproxy.upstream.redirects import Landed

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)
_OK, _PARTIAL = 200, 206
_READ_ON = 2**17  # bytes that are read ahead once so many have come: larger steps take less of the loop


class Transfer:
    """One answer with a blob's bytes (the shape of `store.Transfer`).

    Attributes:
        size: of the whole blob, in bytes; None: upstream does not say.
        offset: where the bytes start.
        home: they come from the upstream's own origin.
        came: how many there were so far.
    """

    def __init__(self, client: Client, landed: Landed, *, size: int | None, offset: int) -> None:
        self._client = client
        self._response = landed.response
        self.home = landed.home
        self.size = size
        self.offset = offset
        self.came = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from `offset` to the end.

        Raises:
            UpstreamTimeout, UpstreamUnavailable: they broke off, stalled, or come too slowly.
        """
        pace = _Pace(self._client)
        while piece := await pace.read(self._response):
            self.came += len(piece)
            if self.size is not None and self.offset + self.came > self.size:
                raise UpstreamWrong(f"{self._client.name} sends more than the {self.size} bytes that it announced")
            if self.came >= _READ_ON:
                self._response.content.set_read_chunk_size(_READ_ON)
            yield piece
        if self.size is not None and self.offset + self.came != self.size:
            text = f"{self._client.name} sent {self.came} of {self.size - self.offset} bytes and broke off"
            raise UpstreamUnavailable(text, upstream=self._client.name)

    def release(self) -> None:
        """Be done with it; its connection is closed unless the body was read to its end."""
        self._response.release()


class _Pace:
    """Waits for upstream, and gives up below a minimum rate over a span of waiting."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waited = 0.0
        self._bytes = 0

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next piece; empty at the end."""
        clock = asyncio.get_running_loop().time
        start = clock()
        piece = await self._client.read(response)
        self._waited += clock() - start
        self._bytes += len(piece)
        limits = self._client.timeouts
        if self._waited >= limits.pace:
            if self._bytes < limits.floor * self._waited:
                text = f"{self._client.name} sends less than {limits.floor:g} bytes a second"
                raise UpstreamTimeout(text, upstream=self._client.name)
            self._waited, self._bytes = 0.0, 0
        return piece


def begin(client: Client, landed: Landed, digest: Digest, offset: int) -> Transfer | None:
    """The transfer that an answer with status 200 or 206 starts; None: the part is not the one asked for.

    Raises:
        UpstreamWrong: the answer contradicts the request or the digest.
    """
    response = landed.response
    refuse_encoding(client.name, response)
    told = response.headers.get("Docker-Content-Digest")
    if told is not None and told.partition(":")[0] == digest.algorithm and told != str(digest):
        raise UpstreamWrong(f"{client.name} answers {digest.short} with another digest", upstream=client.name)
    length = response.content_length
    if response.status == _OK:
        return Transfer(client, landed, size=length, offset=0)
    if offset == 0:
        raise UpstreamWrong(f"{client.name} answers a part of {digest.short}, which was not asked for")
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or found[3] == "*":
        return None
    start, end, total = int(found[1]), int(found[2]), int(found[3])
    if (start, end) != (offset, total - 1) or length not in (None, end - start + 1):
        return None
    return Transfer(client, landed, size=total, offset=offset)


def refuse_encoding(name: str, response: aiohttp.ClientResponse) -> None:
    """Raise `UpstreamWrong` where the body is coded although we asked for it as it is."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UpstreamWrong(f"{name} sends a Content-Encoding although identity was asked for", upstream=name)
