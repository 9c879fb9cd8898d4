"""The admin face: health, metrics and a read-only API. It listens apart from the registry, and changes nothing.

Rule 1: `/healthz` says that the loop turns; `/readyz` that store and ledger answer. Neither asks any upstream: this
        serves what it holds while all of them are down.
Rule 2: lists are paged by `after` and `limit`; `next` is what to send as `after`, null at the end.
Rule 3: counting the store walks it, so that a count is kept for `_FRESH` seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import orjson
from aiohttp import web

from iarproxy.errors import (
    IarproxyError,
    LedgerUnavailable,
    Malformed,
    StoreUnavailable,
    UnknownManifest,
    UnknownName,
)
from iarproxy.ledger import DEFAULT, Damage, DriftState, Event, Pin, Recall, UseSummary, Withheld
from iarproxy.metrics import CONTENT_TYPE, Metrics
from iarproxy.mirror import alarms
from iarproxy.mirror.alarms import Accusations
from iarproxy.mirror.spelling import (
    drift_as_json,
    event_as_json,
    pin_as_json,
    recall_as_json,
    upstream_as_json,
    used_as_json,
    withheld_as_json,
)
from iarproxy.oci import Digest, TagReference, parse_reference
from iarproxy.server.errors import answer_error
from iarproxy.store import StoreStats
from iarproxy.upstream import UpstreamStanding

MAX_PAGE = 1000
_FRESH = 15.0  # seconds
_PATIENCE = 5.0  # seconds until a store or ledger that does not answer counts as not ready
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class UsesReads(Protocol):
    """What the face reads of the uses."""

    async def summary(self, what: TagReference) -> UseSummary:
        """Who pulled a tag."""
        ...


class RecallReads(Protocol):
    """What the face reads of the recalls."""

    @property
    def known(self) -> Mapping[Digest, Recall]:
        """All that is recalled now."""
        ...


class PinReads(Protocol):
    """What the face reads of the pins of an environment."""

    async def pins(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Pin]:
        """One page of the current pins."""
        ...

    async def pin_of(self, reference: TagReference) -> Pin | None:
        """One pin."""
        ...

    def peek_drift(self, reference: TagReference) -> DriftState | None:
        """What the last check found, after `pin_of`."""
        ...

    async def history(self, reference: TagReference) -> list[Event]:
        """The newest events about a tag."""
        ...

    async def waiting(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Withheld]:
        """One page of what is withheld."""
        ...


class LedgerReads(PinReads, Protocol):
    """What the face reads of the ledger."""

    @property
    def uses(self) -> UsesReads:
        """What was served to whom."""
        ...

    @property
    def recalls(self) -> RecallReads:
        """What is recalled."""
        ...

    @property
    def watching(self) -> Accusations:
        """The accusations of drift."""
        ...

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        """The pins under drift."""
        ...

    async def drift_count(self) -> int:
        """How many pins are under drift."""
        ...

    def damaged(self) -> list[Damage]:
        """What this process found damaged."""
        ...

    def within(self, environment: str) -> PinReads:
        """The pins of an environment."""
        ...


class StoreReads(Protocol):
    """What the face reads of the store."""

    async def stats(self) -> StoreStats:
        """How full it is."""
        ...


class AdminRooms(Protocol):
    """The rooms that the face looks into."""

    @property
    def ledger(self) -> LedgerReads:
        """The ledger."""
        ...

    @property
    def store(self) -> StoreReads:
        """The store."""
        ...


async def _none() -> list[UpstreamStanding]:
    return []


class AdminFace:
    """The admin and probes applications of one worker.

    `readings`: what else /metrics tells, by the rest of its name, with its labels if it has any.
    `environments`: those that there are beside the default one.
    """

    def __init__(
        self,
        rooms: AdminRooms,
        metrics: Metrics,
        *,
        leaving: Callable[[], bool] = lambda: False,
        gauges: Callable[[], Mapping[str, float]] = dict,
        standings: Callable[[], Awaitable[list[UpstreamStanding]]] = _none,
        readings: Sequence[Callable[[], Awaitable[Mapping[str, float]]]] = (),
        environments: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environments = (DEFAULT, *environments)
        self._rooms, self._metrics, self._leaving, self._clock = rooms, metrics, leaving, clock
        self._gauges, self._standings, self._readings = gauges, standings, readings
        self._counted: tuple[float, StoreStats] | None = None

    def application(self) -> web.Application:
        """Health, metrics and the API."""
        app = self.probes()
        app.router.add_get("/api/v1/pins", self._pins)
        app.router.add_get("/api/v1/pins/{reference:.+}", self._pin)
        app.router.add_get("/api/v1/waiting", self._waiting)
        app.router.add_get("/api/v1/drift", self._drift)
        app.router.add_get("/api/v1/drift/{reference:.+}", self._drift_of)
        app.router.add_get("/api/v1/recalls", self._recalls)
        app.router.add_get("/api/v1/upstreams", self._upstreams)
        return app

    def probes(self) -> web.Application:
        """Health and metrics only."""
        app = web.Application(middlewares=[_as_json_errors])
        app.on_response_prepare.append(_anonymous)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_text)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = ["this worker is leaving"] if self._leaving() else []
        for check in (self._stats, self._first_pin):
            try:
                await _soon(check())
            except IarproxyError as error:
                problems.append(str(error))
        return _json({"status": "not ready" if problems else "ok", "problems": problems}, 503 if problems else 200)

    async def _metrics_text(self, _: web.Request) -> web.Response:
        stats = await _soon(self._stats())
        drifted = await _soon(self._rooms.ledger.drift_count())
        now = {
            "store_blobs": stats.blobs,
            "store_bytes": stats.bytes,
            "store_max_bytes": stats.max_size,
            "store_free_bytes": stats.free,
            "store_ingests": stats.ingests,
            "drifted_tags": drifted,
            "damaged_tags": len(self._rooms.ledger.damaged()),
            "recalled_digests": len(self._rooms.ledger.recalls.known),
            **self._gauges(),
            **_budgets(await _soon(self._standings())),
        }
        for reading in self._readings:
            now |= await _soon(reading())
        return web.Response(body=self._metrics.render(now), headers={**_HEADERS, "Content-Type": CONTENT_TYPE})

    async def _pins(self, request: web.Request) -> web.Response:
        after, limit = _page(request)
        pins = await self._set(request).pins(after=after, limit=limit)
        last = str(pins[-1].reference) if len(pins) == limit else None
        damaged = [{"reference": each.reference, "reason": each.reason} for each in self._rooms.ledger.damaged()]
        return _json({"pins": [pin_as_json(pin) for pin in pins], "next": last, "damaged": damaged})

    async def _pin(self, request: web.Request) -> web.Response:
        wanted = _tag(request.match_info["reference"])
        pins = self._set(request)
        pin = await pins.pin_of(wanted)
        if pin is None:
            raise UnknownManifest(f"{wanted} is not pinned")
        drift = pins.peek_drift(wanted)
        events = await pins.history(wanted)
        shown = {
            "drift": None if drift is None else drift_as_json(drift),
            "used": used_as_json(await self._rooms.ledger.uses.summary(wanted)),
            "history": [event_as_json(each) for each in events],
        }
        return _json({**pin_as_json(pin), **shown})

    async def _waiting(self, request: web.Request) -> web.Response:
        after, limit = _page(request)
        found = await self._set(request).waiting(after=after, limit=limit)
        last = str(found[-1].name.reference) if len(found) == limit else None
        return _json({"waiting": [withheld_as_json(each) for each in found], "next": last})

    def _set(self, request: web.Request) -> PinReads:
        """The pins that the request is about."""
        return self._rooms.ledger.within(self._environment(request))

    def _environment(self, request: web.Request) -> str:
        """The environment that the request is about."""
        named = request.query.get("environment", DEFAULT)
        if named not in self._environments:
            known = ", ".join(self._environments)
            raise UnknownName(f"no such environment: {named[:80]!r}; there are {known}")
        return named

    async def _drift(self, request: web.Request) -> web.Response:
        after, limit = _page(request)
        found = await alarms.drifting(self._rooms.ledger, self._environment(request))
        rest = [each for each in found if after is None or each.pin.reference > after]
        page = [alarms.alarm_as_json(each) for each in await alarms.with_evidence(self._rooms.ledger, rest[:limit])]
        last = page[-1]["reference"] if len(rest) > limit else None
        return _json({"drifts": page, "next": last})

    async def _drift_of(self, request: web.Request) -> web.Response:
        wanted = _tag(request.match_info["reference"])
        found = await alarms.of(self._rooms.ledger, self._environment(request), wanted)
        return _json(alarms.alarm_in_full(found))

    async def _recalls(self, request: web.Request) -> web.Response:
        limit, after = _limit(request), request.query.get("after", "")
        known = self._rooms.ledger.recalls.known
        rest = sorted(each for each in known if not after or each > Digest.parse(after))
        page = [recall_as_json(known[each]) for each in rest[:limit]]
        return _json({"recalls": page, "next": page[-1]["digest"] if len(rest) > limit else None})

    async def _upstreams(self, _: web.Request) -> web.Response:
        """How upstreams stand with us. What fails and what waits is told of the worker that answers."""
        return _json({"upstreams": [upstream_as_json(each) for each in await _soon(self._standings())]})

    async def _stats(self) -> StoreStats:
        now = self._clock()
        if self._counted is None or now - self._counted[0] > _FRESH:
            self._counted = now, await self._rooms.store.stats()
        return self._counted[1]

    async def _first_pin(self) -> Sequence[Pin]:
        return await self._rooms.ledger.pins(limit=1)


def _budgets(standings: list[UpstreamStanding]) -> dict[str, float]:
    """What is left of upstreams' quotas: of each the least that an endpoint told."""
    left = {each.name: [it.quota for it in each.endpoints if it.quota is not None] for each in standings}
    told = {name: min(quotas, key=lambda quota: quota.remaining) for name, quotas in left.items() if quotas}
    remaining = {f'upstream_quota_remaining{{upstream="{name}"}}': quota.remaining for name, quota in told.items()}
    limits = {f'upstream_quota_limit{{upstream="{name}"}}': quota.limit for name, quota in told.items()}
    held = {f'upstream_held{{upstream="{each.name}"}}': _is_held(each) for each in standings}
    down = {f'upstream_down{{upstream="{each.name}"}}': _is_down(each) for each in standings}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return {**remaining, **known, **held, **down}


def _is_held(standing: UpstreamStanding) -> int:
    return int(all(each.held_until is not None for each in standing.endpoints))


def _is_down(standing: UpstreamStanding) -> int:
    return int(all(each.down_since is not None for each in standing.endpoints))


async def _soon(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await answer
    except TimeoutError as error:
        raise StoreUnavailable(f"the disk did not answer within {_PATIENCE:g} s") from error
    except OSError as error:
        raise LedgerUnavailable(f"a file cannot be read: {error.strerror}") from error


async def _anonymous(_: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.popall("Server", None)


@web.middleware
async def _as_json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"errors": [{"code": "UNSUPPORTED", "message": error.reason}]}, error.status)
    except Exception as error:  # noqa: BLE001  # the edge of this face: everything becomes an answer
        answer = answer_error(error)
        return web.Response(status=answer.status, body=answer.body, headers={**_HEADERS, **answer.headers})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(value), headers={**_HEADERS, "Content-Type": "application/json"}
    )


def _page(request: web.Request) -> tuple[TagReference | None, int]:
    """The `after` and `limit` of a request.

    Raises:
        Malformed: one of them is none.
    """
    after = request.query.get("after", "")
    return (_tag(after) if after else None), _limit(request)


def _limit(request: web.Request) -> int:
    limit = request.query.get("limit", str(MAX_PAGE))
    if not (limit.isascii() and limit.isdecimal() and 0 < int(limit[:9]) <= MAX_PAGE):
        raise Malformed(f"`limit` is a number from 1 to {MAX_PAGE}")
    return int(limit)


def _tag(text: str) -> TagReference:
    reference = parse_reference(text)
    if not isinstance(reference, TagReference):
        raise Malformed(f"only tags are pinned: {text[:200]!r}")
    return reference
