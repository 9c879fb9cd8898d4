"""Tokens that one worker obtains and all use: one request to a token server per key and expiry (R40).

Rule 1: a worker that wants a new token claims its key; the others wait for what it gets, at most as long as a claim
        lasts, so that a worker that died under way costs a moment and not a token.
Rule 2: a refusal is shared and remembered as a token is, only briefly: a token server that says no is not hammered.
Rule 3: without a usable cache each worker is on its own. Everything is bounded.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from iarproxy.errors import Denied, UpstreamBusy, UpstreamHeld
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.issuing import Token

_REMEMBERED = 4096  # keys
_CLAIMED_FOR = 8.0  # seconds; longer than a token server that is well takes
_PATIENCE = 10.0  # seconds for another worker's claim
_POLL = 0.05
_DENIED_FOR = 10.0
_BUSY_FOR, _MAX_BUSY = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """That a token server said no, in our words. `until`: seconds since 1970. `named`: it said itself until when."""

    text: str
    upstream: str
    status: int
    until: float
    named: bool

    @classmethod
    def of(cls, error: Denied | UpstreamBusy, now: float) -> Refusal:
        """What is remembered of a failure."""
        named = error.retry_after if isinstance(error, UpstreamBusy) else None
        usual = _BUSY_FOR if isinstance(error, UpstreamBusy) else _DENIED_FOR
        until = now + min(usual if named is None else named, _MAX_BUSY)
        return cls(
            str(error), str(error.detail["upstream"]), int(str(error.detail["status"])), until, named is not None
        )

    def error(self, now: float) -> Denied | UpstreamBusy:
        """The failure again."""
        text = f"{self.text} (asked a moment ago)"
        if self.status == 429:  # noqa: PLR2004  # the status is its own name
            left = self.until - now if self.named else None
            return UpstreamBusy(text, upstream=self.upstream, status=self.status, retry_after=left)
        return Denied(text, "upstream", upstream=self.upstream, status=self.status)


class SharedTokens:
    """The tokens and refusals of one upstream, by key."""

    def __init__(self, cache: SharedCache, now: Callable[[], datetime]) -> None:
        self._cache = cache
        self._now = now
        self._kept: OrderedDict[str, Token | Refusal] = OrderedDict()

    def held(self, key: str) -> Token | None:
        """The token that this worker has, old as it may be."""
        found = self._kept.get(key)
        return found if isinstance(found, Token) else None

    async def obtain(self, key: str, stale: Token | None, issue: Callable[[], Awaitable[Token]]) -> Token:
        """A fresh token other than `stale`: another worker's, or what `issue` gives.

        Raises:
            Denied, UpstreamBusy: also those of a moment ago. Else as `issue`.
        """
        claim, holder = f"claim {key}", os.urandom(8)
        clock = asyncio.get_running_loop().time
        deadline = clock() + _PATIENCE
        while (found := await self._fresh(key, stale)) is None:
            if await self._cache.claim(claim, holder, _CLAIMED_FOR) or clock() > deadline:
                break
            await asyncio.sleep(_POLL)
        if found is not None:
            return found
        try:
            return await self._fresh(key, stale) or await self._issued(key, issue)
        finally:
            await self._cache.unclaim(claim, holder)

    async def _fresh(self, key: str, stale: Token | None) -> Token | None:
        now = self._now().timestamp()
        found = _load(await self._cache.get(key)) or self._kept.get(key)
        if isinstance(found, Refusal) and 0 < found.until - now <= _MAX_BUSY:
            self._keep(key, found)
            raise found.error(now)
        if isinstance(found, Token) and now < found.fresh_until and found != stale:
            self._keep(key, found)
            return found
        return None

    async def _issued(self, key: str, issue: Callable[[], Awaitable[Token]]) -> Token:
        try:
            token = await issue()
        except UpstreamHeld:
            raise  # it was not asked: its budget remembers until when
        except (Denied, UpstreamBusy) as error:
            now = self._now().timestamp()
            refusal = Refusal.of(error, now)
            self._keep(key, refusal)
            await self._cache.put(key, orjson.dumps(asdict(refusal)), refusal.until - now)
            raise
        self._keep(key, token)
        await self._cache.put(key, orjson.dumps(token.dump()), token.expires - self._now().timestamp())
        return token

    def _keep(self, key: str, answer: Token | Refusal) -> None:
        self._kept[key] = answer
        self._kept.move_to_end(key)
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)


def _load(raw: bytes | None) -> Token | Refusal | None:
    try:
        dumped = orjson.loads(raw or b"null")
    except orjson.JSONDecodeError:
        return None
    match dumped:
        case {
            "text": str(text),
            "upstream": str(upstream),
            "status": int(status),
            "until": int() | float() as until,
            "named": bool(named),
        }:
            return Refusal(text, upstream, status, until, named)
        case _:
            return Token.load(dumped)
