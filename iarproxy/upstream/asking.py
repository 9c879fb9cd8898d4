"""A request to an upstream with the authorization that it wants, to the point where its answer may be judged.

Rule 1: asked without having been challenged only what worked before; a 401 from the upstream's own origin is answered
        once, with a new header, and never a challenge from anywhere else.
Rule 2: an answer that is taken has status 200, no coding, and a body within a bound that is checked before and while
        it is read (threats T42, T44).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from iarproxy.errors import IarproxyError, Refused, UpstreamBusy, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.challenge import parse_challenges
from iarproxy.upstream.client import Client
from iarproxy.upstream.redirects import Ask, Landed, follow
from iarproxy.upstream.statuses import failure
from iarproxy.upstream.tokens import Tokens
from iarproxy.upstream.transfer import refuse_encoding

_OK, _BAD_REQUEST, _UNAUTHORIZED = 200, 400, 401


class Asker:
    """Asks one upstream."""

    def __init__(self, client: Client, tokens: Tokens, now: Callable[[], datetime]) -> None:
        self.client = client
        self._tokens = tokens
        self._now = now

    async def open(self, ask: Ask, repository: str) -> Landed:
        """The answer to `ask`, whatever its status. The caller releases it.

        Raises:
            Denied: nothing that we may show is enough. UpstreamWrong, Unavailable: no answer that may be used.
        """
        header = await self._tokens.known(repository)
        landed = await follow(self.client, ask, header.reveal() if header else None)
        if landed.home and header is not None and landed.response.status == _BAD_REQUEST:
            # public.ecr.aws says so to a token that has expired: ask as if we had none.
            await self.client.drain(landed.response)
            await self._tokens.forget(repository)
            header = None
            landed = await follow(self.client, ask, None)
        if not landed.home or landed.response.status != _UNAUTHORIZED:
            return landed
        challenges = parse_challenges(landed.response.headers.getall("WWW-Authenticate", []))
        await self.client.drain(landed.response)
        renewed = await self._tokens.renew(repository, challenges, header)
        if renewed is None:
            return landed
        return await follow(self.client, ask, renewed.reveal())

    async def timely(self, ask: Ask, repository: str) -> Landed:
        """As `open`, within the patience for the headers of a blob."""
        async with self.client.within(self.client.timeouts.blob):
            return await self.open(ask, repository)

    @asynccontextmanager
    async def answer(self, ask: Ask, repository: str) -> AsyncIterator[Landed]:
        """The answer to `ask`, released at the end; all of it within the patience for a manifest."""
        async with self.client.within(self.client.timeouts.manifest):
            landed = await self.open(ask, repository)
            try:
                yield landed
            finally:
                landed.response.release()

    async def failure(self, landed: Landed, what: str, missing: type[Refused]) -> IarproxyError:
        """The failure that an answer is, where a 404 means `missing`. Releases it."""
        return await failure(self.client, landed, what, missing, self._now())

    async def body(self, landed: Landed, what: str, missing: type[Refused], limit: int) -> bytes:
        """The body of an answer with status 200.

        Raises:
            UpstreamWrong: it is coded, or longer than `limit` bytes. Else what another status means.
        """
        response, name = landed.response, self.client.name
        if response.status != _OK:
            raise await self.failure(landed, what, missing)
        refuse_encoding(name, response)
        too_long = UpstreamWrong(f"{name} sends more than {limit} bytes for {what}", upstream=name)
        if (response.content_length or 0) > limit:
            raise too_long
        pieces, size = [], 0
        while piece := await self.client.read(response):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_long
        if response.content_length not in (None, size):
            raise UpstreamUnavailable(f"{name} broke off {what}", upstream=name)
        return b"".join(pieces)

    @asynccontextmanager
    async def blob_slot(self) -> AsyncIterator[None]:
        """One of the connections that blobs may take.

        Raises:
            UpstreamBusy: none became free in time.
        """
        slots, patience = self.client.blob_slots, self.client.timeouts.blob
        try:
            async with asyncio.timeout(patience):
                await slots.acquire()
        except TimeoutError:
            name = self.client.name
            text = f"all connections to {name} that blobs may take were in use for {patience:g} s"
            raise UpstreamBusy(text, upstream=name, retry_after=5) from None
        try:
            yield
        finally:
            slots.release()
