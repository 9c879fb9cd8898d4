"""What one endpoint may be asked now: nothing while it is held or down, and the last of a quota for clients only.

Rule 1: only requests to the endpoint's own origin pass here, and only its answers count: what a storage host or token
        server behind it does shuts nothing (threats 5.3).
Rule 2: who is turned away is told at once, for how long and why; upstream is not asked (threats R42, R43, U26).
Rule 3: what was said of limits is shared by workers, at most about once a second; a hold at once.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

import aiohttp
from yarl import URL

from iarproxy.errors import UpstreamDown, UpstreamHeld, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.asked import Kind, kind_of
from iarproxy.upstream.behind import Behind
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.doors import Doors, Down, Held, Pass
from iarproxy.upstream.limits import Quota, parse_quota
from iarproxy.upstream.retry import parse_retry_after
from iarproxy.upstream.said import Said, merged
from iarproxy.upstream.spending import Spending

_SHARE_EVERY = 1.0  # seconds
_BESIDE = 16  # token servers
_KEPT_FOR = 6 * 3600.0  # seconds

Send = Callable[[], Awaitable[aiohttp.ClientResponse]]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one endpoint stands with us.

    Attributes:
        origin: scheme, host and port.
        quota: what it said last of its limits, while that is true; None: nothing.
        held_until: it said 429, and is not asked before; None: it is.
        down_since: since when it fails; None: it does not. `reason`: how.
        probe_in: seconds until it is asked again.
    """

    origin: str
    quota: Quota | None
    held_until: datetime | None
    down_since: datetime | None
    reason: str
    probe_in: float | None


class Budget:
    """The budget of one endpoint.

    Args:
        name: the upstream's.
        url: the endpoint's; its origin is the key under which workers share what it said.
        spending: is told each request.
        patience: seconds without an answer after which a request that is given up was a failure.
        now: aware UTC; holds and quotas are told in it. `clock`: monotonic seconds, for failures.
        turned_away: is called with a word for the reason.
        who: names the endpoint in messages; empty: as the upstream.
    """

    def __init__(
        self,
        name: str,
        url: URL,
        *,
        cache: SharedCache,
        spending: Spending,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        patience: float = 10.0,
        turned_away: Callable[[str], None] = lambda _: None,
        jitter: Callable[[], float] = random.random,
        who: str = "",
    ) -> None:
        self._name = name
        self._origin = str(url.origin())
        self._who = who or name
        self._key = f"budget {self._who} {self._origin}"
        self._cache = cache
        self._spending = spending
        self._now = now
        self._clock = clock
        self._patience = patience
        self._turned_away = turned_away
        self._jitter = jitter
        self._doors = Doors(self._today, clock, jitter)
        self._quota: Quota | None = None
        self._told_at = 0.0  # when the quota was told, in seconds since 1970
        self._looked = float("-inf")
        self._behind = Behind(self._share, _SHARE_EVERY)
        self._beside: dict[str, Budget] = {}

    # --- one request -------------------------------------------------------------------------------------------------

    async def through(
        self, method: str, url: URL, send: Send, *, about: tuple[Kind, str] | None = None
    ) -> aiohttp.ClientResponse:
        """The answer to a request to this endpoint's origin, sent by `send` if that may be.

        `about`: kind and repository of the request; None: the URL tells.

        Raises:
            UpstreamHeld, UpstreamDown: it may not. Else what `send` raises.
        """
        await self._look()
        kind, repository = about or kind_of(method, url)
        passed = self._admit(kind, repository)
        self._spending.count(repository, kind)
        started = self._clock()
        try:
            response = await send()
        except UpstreamWrong:
            passed.give_up()
            raise
        except UpstreamUnavailable as error:
            self._doors.failed(passed, str(error), everywhere=error.detail.get("phase") == "connect", silent=True)
            raise
        except BaseException:
            if self._clock() - started < self._patience:
                passed.give_up()
            else:
                self._doors.failed(passed, "it does not answer in time", everywhere=False, silent=True)
            raise
        if self._answered(passed, response):
            await self._behind.now()
        return response

    def _admit(self, kind: Kind, repository: str) -> Pass:
        """See `Doors.admit`.

        Raises:
            UpstreamHeld, UpstreamDown: one is shut.
        """
        admitted = self._doors.admit(kind, repository)
        match admitted:
            case Pass():
                return admitted
            case Held(seconds=seconds):
                self._turned_away("held")
                text = f"{self._who} said that it is asked too much; it is not asked again for {_whole(seconds)} s"
                raise UpstreamHeld(text, upstream=self._name, retry_after=seconds)
            case Down(seconds=seconds, since=since, reason=reason, where=where):
                self._turned_away("down")
                begun = f" since {self._wall(since):%H:%M:%S} UTC" if since is not None else ""
                which = f"{self._who}/{where}" if where else self._who
                text = f"{which} fails{begun} ({reason}); it is asked again in {_whole(seconds)} s"
                raise UpstreamDown(text, upstream=self._name, retry_after=seconds, cause=reason)
            case _:
                assert_never(admitted)

    def _answered(self, passed: Pass, response: aiohttp.ClientResponse) -> bool:
        """Take note of an answer; True: it holds what is asked from now on."""
        quota = parse_quota(response.headers, self._today())
        if quota is not None:
            self._quota, self._told_at = quota, self._today()
        retry_after = parse_retry_after(response.headers.get("Retry-After"), self._now())
        used_up = quota is not None and quota.remaining == 0
        holds = self._doors.answered(passed, response.status, retry_after, used_up=used_up)
        if holds or quota is not None:
            self._behind.changed()
        return holds

    def broke(self, repository: str, reason: str) -> None:
        """A body from this endpoint's origin broke off."""
        self._doors.broke(repository, reason)

    def completed(self, repository: str) -> None:
        """A body came whole."""
        self._doors.completed(repository)

    def beside(self, url: URL) -> Budget:
        """The budget of a token server: it fails and limits for itself, also where it is on the same host.

        The port is upstream's word: of more than `_BESIDE` the oldest is forgotten.
        """
        origin = str(url.origin())
        if origin not in self._beside:
            self._beside[origin] = Budget(
                self._name,
                url,
                cache=self._cache,
                spending=self._spending,
                now=self._now,
                clock=self._clock,
                patience=self._patience,
                turned_away=self._turned_away,
                jitter=self._jitter,
                who=f"the token server {url.host} of {self._name}",
            )
            while len(self._beside) > _BESIDE:
                del self._beside[next(iter(self._beside))]
        return self._beside[origin]

    # --- what is left, and for whom -----------------------------------------------------------------------------------

    async def require_spare(self, floor: int) -> None:
        """Let background work go on, unless what is left is for clients.

        Raises:
            UpstreamHeld: no more than `floor` requests are left, as far as is known.
        """
        await self._look()
        quota = self._known_quota()
        if quota is None or quota.remaining > floor:
            return
        self._turned_away("floor")
        text = f"{self._name} has {quota.remaining} requests left, which are kept for clients (budget_floor = {floor})"
        raise UpstreamHeld(text, upstream=self._name, retry_after=quota.until - self._today())

    async def standing(self) -> Standing:
        """How this endpoint stands, with what other workers were told."""
        self._looked = float("-inf")
        await self._look()
        ends = [each.until for each in (self._doors.hold, self._doors.quota_hold)]
        holds = [until for until in ends if until is not None and until > self._today()]
        whole = self._doors.whole
        shut = whole.until is not None
        return Standing(
            origin=self._origin,
            quota=self._known_quota(),
            held_until=datetime.fromtimestamp(max(holds), UTC) if holds else None,
            down_since=self._wall(whole.since) if shut and whole.since is not None else None,
            reason=whole.reason if shut else "",
            probe_in=max(0.0, whole.until - self._clock()) if whole.until is not None else None,
        )

    def _known_quota(self) -> Quota | None:
        return self._quota if self._quota is not None and self._today() < self._quota.until else None

    def _wall(self, moment: float) -> datetime:
        """The time of day of a moment of the monotonic clock."""
        return datetime.fromtimestamp(self._today() + moment - self._clock(), UTC)

    def _today(self) -> float:
        """Seconds since 1970: what workers share is told in them."""
        return self._now().timestamp()

    # --- what workers share -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Learn what other workers were told, at most about once a second."""
        now = self._clock()
        if now - self._looked < _SHARE_EVERY:
            return
        self._looked = now
        said = Said.load(await self._cache.get(self._key))
        if said.told_at > self._told_at:
            self._quota, self._told_at = said.quota, said.told_at
        self._doors.hold.adopt(self._today(), said.held_until)
        self._doors.quota_hold.adopt(self._today(), said.quota_held_until)

    async def _share(self) -> None:
        held, quota_held = (each.until or 0.0 for each in (self._doors.hold, self._doors.quota_hold))
        ours = Said(self._quota, self._told_at, held, quota_held)
        await self._cache.update(self._key, lambda raw: merged(Said.load(raw), ours).dump(), _KEPT_FOR)

    async def close(self) -> None:
        """Share what was not shared yet."""
        await self._behind.close()
        for each in self._beside.values():
            await each.close()


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
