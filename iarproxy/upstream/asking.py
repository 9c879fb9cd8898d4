"""A request to an upstream with the authorization that it wants, to the point where its answer may be judged.

Rule 1: asked without having been challenged only what worked before; a 401 from the upstream's own origin is answered
        once, with a new header, and so is a 403 or 400 to a header that may have run out; never one from anywhere else.
Rule 2: an answer that is taken has status 200, no coding, and a body within a bound that is checked before and while
        it is read (threats T42, T44).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from iarproxy.errors import IarproxyError, Refused, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.challenge import parse_challenges
from iarproxy.upstream.client import Client
from iarproxy.upstream.redirects import Ask, Landed, follow
from iarproxy.upstream.statuses import failure
from iarproxy.upstream.tokens import Place, Shown, Tokens
from iarproxy.upstream.transfer import refuse_encoding

_OK, _UNAUTHORIZED = 200, 401
_PERHAPS_OLD = frozenset({400, 403})  # what ECR says to a login, and public.ecr.aws to a token, that has run out


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
        place = Place(repository, f"{ask.method} {ask.url.raw_parts[-2]}")
        shown = await self._tokens.known(place)
        landed = await self._follow(ask, shown)
        renewed = await self._renewed(landed, place, shown)
        if renewed is None:
            return landed
        landed = await self._follow(ask, renewed)
        if landed.home and landed.response.status in (_UNAUTHORIZED, *_PERHAPS_OLD):
            self._tokens.refused(place, renewed, withheld=landed.response.status == _UNAUTHORIZED)
        return landed

    async def _follow(self, ask: Ask, shown: Shown | None) -> Landed:
        return await follow(self.client, ask, None if shown is None else shown.header.reveal())

    async def _renewed(self, landed: Landed, place: Place, shown: Shown | None) -> Shown | None:
        """What to show in a second try; None: the answer stands. Where there may be one the answer is released."""
        response = landed.response
        if not landed.home:
            return None
        if response.status == _UNAUTHORIZED:
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        elif response.status in _PERHAPS_OLD and shown is not None and self._tokens.may_be_old(place, shown):
            challenges = None
        else:
            return None
        await self.client.drain(response)
        return await self._tokens.renew(place, shown, challenges)

    async def timely(self, ask: Ask, repository: str) -> Landed:
        """As `open`, within the patience for the headers of a blob."""
        async with self.client.within(self.client.timeouts.blob):
            return await self.open(ask, repository)

    @asynccontextmanager
    async def answer(self, ask: Ask, repository: str) -> AsyncIterator[Landed]:
        """The answer to `ask`, released at the end; all of it within the patience for a manifest.

        Raises:
            UpstreamHeld: no place for a small request became free in time.
        """
        patience = self.client.timeouts.manifest
        places = self.client.small_places
        async with places.place(repository, patience / 2), self.client.within(patience):
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

    def blob_place(self, repository: str) -> AbstractAsyncContextManager[None]:
        """One of the connections that blobs may take.

        Raises:
            UpstreamHeld: none became free in time.
        """
        return self.client.places.place(repository, self.client.timeouts.blob)
