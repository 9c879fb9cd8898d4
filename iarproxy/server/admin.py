"""The admin face: health, metrics and a read-only API. It listens apart from the registry, and changes nothing.

Rule 1: `/healthz` says that the loop turns; `/readyz` that store and ledger answer. Neither asks any upstream: this
        serves what it holds while all of them are down.
Rule 2: counting the store walks it, so that a count is kept for `_FRESH` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from aiohttp import web

from iarproxy.errors import IarproxyError
from iarproxy.ledger import DEFAULT, Pin
from iarproxy.metrics import CONTENT_TYPE, Metrics
from iarproxy.oci import DOCKER_HUB
from iarproxy.server.api import Api, Explaining, Standings
from iarproxy.server.reads import AdminRooms
from iarproxy.server.replies import HEADERS, anonymous, as_json_errors, reply, soon
from iarproxy.store import StoreStats
from iarproxy.upstream import UpstreamStanding

_FRESH = 15.0  # seconds


async def _none() -> list[UpstreamStanding]:
    return []


class AdminFace:
    """The admin and probes applications of one worker.

    `readings`: what else /metrics tells, by the rest of its name, with its labels if it has any.
    `offline`: no upstream is ever asked.
    `environments`: those that there are beside the default one. `registry`: the upstream of names that say none.
    """

    def __init__(
        self,
        rooms: AdminRooms,
        metrics: Metrics,
        *,
        leaving: Callable[[], bool] = lambda: False,
        gauges: Callable[[], Mapping[str, float]] = dict,
        standings: Standings = _none,
        explain: Explaining | None = None,
        readings: Sequence[Callable[[], Awaitable[Mapping[str, float]]]] = (),
        environments: Collection[str] = (),
        registry: str = DOCKER_HUB,
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environments = (DEFAULT, *environments)
        self._rooms, self._metrics, self._leaving, self._clock = rooms, metrics, leaving, clock
        self._gauges, self._standings, self._readings = gauges, standings, readings
        self._explain, self._registry = explain, registry
        self._offline = offline
        self._counted: tuple[float, StoreStats] | None = None

    def application(self) -> web.Application:
        """Health, metrics and the API."""
        app = self.probes()
        Api(self._rooms.ledger, self._environments, self._standings, self._explain, self._registry).add_to(app)
        return app

    def probes(self) -> web.Application:
        """Health and metrics only."""
        app = web.Application(middlewares=[as_json_errors])
        app.on_response_prepare.append(anonymous)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_text)
        return app

    @property
    def _known_offline(self) -> dict[str, bool]:
        return {"offline": True} if self._offline else {}

    async def _healthz(self, _: web.Request) -> web.Response:
        return reply({"status": "ok", **self._known_offline})

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = ["this worker is leaving"] if self._leaving() else []
        for check in (self._stats, self._first_pin):
            try:
                await soon(check())
            except IarproxyError as error:
                problems.append(str(error))
        told = {"status": "not ready" if problems else "ok", **self._known_offline, "problems": problems}
        return reply(told, 503 if problems else 200)

    async def _metrics_text(self, _: web.Request) -> web.Response:
        stats = await soon(self._stats())
        drifted = await soon(self._rooms.ledger.drift_count())
        now = {
            "store_blobs": stats.blobs,
            "store_bytes": stats.bytes,
            "store_max_bytes": stats.max_size,
            "store_free_bytes": stats.free,
            "store_ingests": stats.ingests,
            "drifted_tags": drifted,
            "damaged_tags": len(self._rooms.ledger.damaged()),
            "offline": int(self._offline),
            "recalled_digests": len(self._rooms.ledger.recalls.known),
            **self._gauges(),
            **({} if self._offline else _budgets(await soon(self._standings()))),
        }
        for reading in self._readings:
            now |= await soon(reading())
        return web.Response(body=self._metrics.render(now), headers={**HEADERS, "Content-Type": CONTENT_TYPE})

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
