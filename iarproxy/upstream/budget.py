"""What one endpoint may be asked now: nothing while it is held or down, and the last of a quota for clients only.

Rule 1: only requests to the endpoint's own origin pass here, and only its answers count: what a storage host or token
        server behind it does shuts nothing (threats 5.3).
Rule 2: a 429, or a 503 that names a time, holds all requests until then. One that tells of a used-up quota holds all
        but blobs, which no quota counts: pulls whose manifests are here go on (clients.md 11.3).
Rule 3: failures of one repository shut that repository; failures of several, or no connection, shut the endpoint.
Rule 4: who is turned away is told at once, for how long and why; upstream is not asked (threats R42, R43, U26).
Rule 5: what was said of limits is shared by workers, at most about once a second; a hold at once.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from iarproxy.errors import UpstreamDown, UpstreamHeld, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.asked import Kind, kind_of
from iarproxy.upstream.behind import Behind
from iarproxy.upstream.breaker import Breaker, Door, Hold, Passage, Shut
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.limits import Quota, parse_quota
from iarproxy.upstream.retry import parse_retry_after
from iarproxy.upstream.said import Said, merged
from iarproxy.upstream.spending import Spending

_SHARE_EVERY = 1.0  # seconds
_KEPT_FOR = 6 * 3600.0  # seconds
_REPOSITORIES = 256  # that fail at the same time
_SERVER_ERROR, _TOO_MANY, _UNAVAILABLE = 500, 429, 503

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


@dataclass(frozen=True, slots=True)
class _Pass:
    """One request that was let through, with its passages through the doors that it met."""

    kind: Kind
    repository: str
    doors: tuple[tuple[Door, Passage], ...]

    def through(self, door: Door) -> Passage:
        return next((passage for each, passage in self.doors if each is door), Passage.FREE)

    def give_up(self) -> None:
        for door, passage in self.doors:
            door.gave_up(passage)


class Budget:
    """The doors of one endpoint.

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
        self._hold, self._quota_hold = Hold(), Hold()
        self._whole = Breaker(spread=2, jitter=jitter)
        self._parts: OrderedDict[str, Breaker] = OrderedDict()
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
            self._failed(passed, str(error), everywhere=error.detail.get("phase") == "connect", silent=True)
            raise
        except BaseException:
            if self._clock() - started < self._patience:
                passed.give_up()
            else:
                self._failed(passed, "it does not answer in time", everywhere=False, silent=True)
            raise
        if self._answered(passed, response):
            await self._behind.now()
        return response

    def _admit(self, kind: Kind, repository: str) -> _Pass:
        """Pass through all doors, or through none.

        Raises:
            UpstreamHeld, UpstreamDown: one is shut.
        """
        doors: list[Door] = [self._hold] if kind is Kind.BLOB else [self._hold, self._quota_hold]
        doors.append(self._whole)
        if (part := self._parts.get(repository)) is not None:
            doors.append(part)
        passed: list[tuple[Door, Passage]] = []
        for door in doors:
            admitted = door.admit(self._clock() if isinstance(door, Breaker) else self._today())
            if isinstance(admitted, Shut):
                _Pass(kind, repository, tuple(passed)).give_up()
                raise self._refusal(door, admitted, repository)
            passed.append((door, admitted))
        return _Pass(kind, repository, tuple(passed))

    def _refusal(self, door: Door, shut: Shut, repository: str) -> UpstreamUnavailable:
        seconds = max(1, round(shut.seconds))
        if not isinstance(door, Breaker):
            self._turned_away("held")
            text = f"{self._who} said that it is asked too much; it is not asked again for {seconds} s"
            return UpstreamHeld(text, upstream=self._name, retry_after=shut.seconds)
        self._turned_away("down")
        where = self._who if door is self._whole else f"{self._who}/{repository}"
        since = f" since {self._wall(door.since):%H:%M:%S} UTC" if door.since is not None else ""
        text = f"{where} fails{since} ({door.reason}); it is asked again in {seconds} s"
        return UpstreamDown(text, upstream=self._name, retry_after=shut.seconds, cause=door.reason)

    def _answered(self, passed: _Pass, response: aiohttp.ClientResponse) -> bool:
        """Take note of an answer; True: it holds what is asked from now on."""
        quota = parse_quota(response.headers, self._today())
        if quota is not None:
            self._quota, self._told_at = quota, self._today()
            self._behind.changed()
        retry_after = parse_retry_after(response.headers.get("Retry-After"), self._now())
        shutting: Hold | None = None
        if response.status == _TOO_MANY or (response.status == _UNAVAILABLE and retry_after is not None):
            used_up = passed.kind is not Kind.BLOB and quota is not None and quota.remaining == 0
            shutting = self._quota_hold if used_up else self._hold
        for hold in (self._hold, self._quota_hold):
            if hold is shutting:
                hold.told(self._today(), passed.through(hold), retry_after)
                self._behind.changed()
            else:
                hold.answered(passed.through(hold))
        if response.status >= _SERVER_ERROR:
            self._failed(passed, f"it answers {response.status}", everywhere=False, silent=False)
        else:
            self._succeeded(passed.repository)
        return shutting is not None

    def _failed(self, passed: _Pass, reason: str, *, everywhere: bool, silent: bool) -> None:
        now = self._clock()
        passed.give_up()  # of the doors that are not shut by this
        subject = "" if everywhere else passed.repository
        self._whole.failed(now, passed.through(self._whole), reason, subject=subject, silent=silent)
        if subject:
            part = self._part(subject)
            part.failed(now, passed.through(part), reason, silent=silent)

    def _succeeded(self, repository: str) -> None:
        self._whole.succeeded()
        if (part := self._parts.get(repository)) is not None:
            part.succeeded()
            self._tidy(repository)

    def broke(self, repository: str, reason: str) -> None:
        """A body from this endpoint's origin broke off."""
        if repository:
            self._part(repository).broke(self._clock(), reason)

    def completed(self, repository: str) -> None:
        """A body came whole."""
        if (part := self._parts.get(repository)) is not None:
            part.completed()
            self._tidy(repository)

    def _part(self, repository: str) -> Breaker:
        part = self._parts.setdefault(repository, Breaker(jitter=self._jitter))
        self._parts.move_to_end(repository)
        while len(self._parts) > _REPOSITORIES:
            self._parts.popitem(last=False)
        return part

    def _tidy(self, repository: str) -> None:
        if self._parts[repository].is_quiet:
            del self._parts[repository]

    def beside(self, url: URL) -> Budget:
        """The budget of a token server: it fails and limits for itself, also where it is on the same host.

        There are as many as the configuration and `realms` allow to be asked.
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
        holds = [each.until for each in (self._hold, self._quota_hold) if each.until and each.until > self._today()]
        shut = self._whole.until is not None
        return Standing(
            origin=self._origin,
            quota=self._known_quota(),
            held_until=datetime.fromtimestamp(max(holds), UTC) if holds else None,
            down_since=self._wall(self._whole.since) if shut and self._whole.since is not None else None,
            reason=self._whole.reason if shut else "",
            probe_in=max(0.0, self._whole.until - self._clock()) if self._whole.until is not None else None,
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
        self._hold.adopt(self._today(), said.held_until)
        self._quota_hold.adopt(self._today(), said.quota_held_until)

    async def _share(self) -> None:
        ours = Said(self._quota, self._told_at, self._hold.until or 0.0, self._quota_hold.until or 0.0)
        await self._cache.update(self._key, lambda raw: merged(Said.load(raw), ours).dump(), _KEPT_FOR)

    async def close(self) -> None:
        """Share what was not shared yet."""
        await self._behind.close()
        for each in self._beside.values():
            await each.close()
