"""The read-only API below /api/v1/: pins, what waits, drift, recalls, upstreams, and where a name stands.

Rule 1: it changes nothing: acts need a person whom the kernel knows, and TCP names none.
Rule 2: lists are paged by `after` and `limit`; `next` is what to send as `after`, null at the end.
Rule 3: what is about pins is about the environment that `environment` names; none: the default one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from iarproxy.errors import Malformed, UnknownManifest, UnknownName
from iarproxy.ledger import DEFAULT
from iarproxy.mirror.drift import alarms
from iarproxy.mirror.explain.explained import explanation_as_json
from iarproxy.mirror.explain.explaining import Explanation
from iarproxy.mirror.spelling import (
    drift_as_json,
    event_as_json,
    pin_as_json,
    recall_as_json,
    upstream_as_json,
    used_as_json,
    withheld_as_json,
)
from iarproxy.oci import DOCKER_HUB, Digest, Reference, TagReference, parse_reference
from iarproxy.server.reads import LedgerReads, PinReads
from iarproxy.server.replies import reply, soon
from iarproxy.upstream import UpstreamStanding

MAX_PAGE = 1000

Explaining: TypeAlias = Callable[[Reference, str], Awaitable[Explanation]]
Standings: TypeAlias = Callable[[], Awaitable[list[UpstreamStanding]]]


@dataclass(frozen=True, slots=True)
class Api:
    """The routes of one worker.

    Attributes:
        environments: those that there are.
        standings: how upstreams stand with us.
        registry: the upstream of names that say none, as for clients and commands.
        explain: everything known about a reference in an environment; None: it is not offered.
    """

    ledger: LedgerReads
    environments: Collection[str]
    standings: Standings
    explain: Explaining | None
    registry: str = DOCKER_HUB

    def add_to(self, app: web.Application) -> None:
        """Let `app` answer for all of it."""
        app.router.add_get("/api/v1/pins", self._pins)
        app.router.add_get("/api/v1/pins/{reference:.+}", self._pin)
        app.router.add_get("/api/v1/waiting", self._waiting)
        app.router.add_get("/api/v1/drift", self._drift)
        app.router.add_get("/api/v1/drift/{reference:.+}", self._drift_of)
        app.router.add_get("/api/v1/recalls", self._recalls)
        app.router.add_get("/api/v1/upstreams", self._upstreams)
        if self.explain is not None:
            app.router.add_get("/api/v1/explain/{reference:.+}", self._explain)

    async def _pins(self, request: web.Request) -> web.Response:
        after, limit = self._page(request)
        pins = await self._set(request).pins(after=after, limit=limit)
        last = str(pins[-1].reference) if len(pins) == limit else None
        damaged = [{"reference": each.reference, "reason": each.reason} for each in self.ledger.damaged()]
        return reply({"pins": [pin_as_json(pin) for pin in pins], "next": last, "damaged": damaged})

    async def _pin(self, request: web.Request) -> web.Response:
        wanted = self._tag(request.match_info["reference"])
        pins = self._set(request)
        pin = await pins.pin_of(wanted)
        if pin is None:
            raise UnknownManifest(f"{wanted} is not pinned")
        drift = pins.peek_drift(wanted)
        events = await pins.history(wanted)
        shown = {
            "drift": None if drift is None else drift_as_json(drift),
            "used": used_as_json(await self.ledger.uses.summary(wanted)),
            "history": [event_as_json(each) for each in events],
        }
        return reply({**pin_as_json(pin), **shown})

    async def _waiting(self, request: web.Request) -> web.Response:
        after, limit = self._page(request)
        found = await self._set(request).waiting(after=after, limit=limit)
        last = str(found[-1].name.reference) if len(found) == limit else None
        return reply({"waiting": [withheld_as_json(each) for each in found], "next": last})

    def _set(self, request: web.Request) -> PinReads:
        """The pins that the request is about."""
        return self.ledger.within(self._environment(request))

    def _environment(self, request: web.Request) -> str:
        """The environment that the request is about."""
        named = request.query.get("environment", DEFAULT)
        if named not in self.environments:
            known = ", ".join(self.environments)
            raise UnknownName(f"no such environment: {named[:80]!r}; there are {known}")
        return named

    def _page(self, request: web.Request) -> tuple[TagReference | None, int]:
        """The `after` and `limit` of a request.

        Raises:
            Malformed: one of them is none.
        """
        after = request.query.get("after", "")
        return (self._tag(after) if after else None), _limit(request)

    def _tag(self, text: str) -> TagReference:
        reference = parse_reference(text, self.registry)
        if not isinstance(reference, TagReference):
            raise Malformed(f"only tags are pinned: {text[:200]!r}")
        return reference

    async def _drift(self, request: web.Request) -> web.Response:
        after, limit = self._page(request)
        found = await alarms.drifting(self.ledger, self._environment(request))
        rest = [each for each in found if after is None or each.pin.reference > after]
        page = [alarms.alarm_as_json(each) for each in await alarms.with_evidence(self.ledger, rest[:limit])]
        last = page[-1]["reference"] if len(rest) > limit else None
        return reply({"drifts": page, "next": last})

    async def _drift_of(self, request: web.Request) -> web.Response:
        wanted = self._tag(request.match_info["reference"])
        found = await alarms.of(self.ledger, self._environment(request), wanted)
        return reply(alarms.alarm_in_full(found))

    async def _recalls(self, request: web.Request) -> web.Response:
        limit, after = _limit(request), request.query.get("after", "")
        known = self.ledger.recalls.known
        rest = sorted(each for each in known if not after or each > Digest.parse(after))
        page = [recall_as_json(known[each]) for each in rest[:limit]]
        return reply({"recalls": page, "next": page[-1]["digest"] if len(rest) > limit else None})

    async def _upstreams(self, _: web.Request) -> web.Response:
        """How upstreams stand with us. What fails and what waits is told of the worker that answers."""
        return reply({"upstreams": [upstream_as_json(each) for each in await soon(self.standings())]})

    async def _explain(self, request: web.Request) -> web.Response:
        assert self.explain is not None  # noqa: S101  # else there is no such route; for the type checker
        wanted = parse_reference(request.match_info["reference"], self.registry)
        return reply(explanation_as_json(await soon(self.explain(wanted, self._environment(request)))))


def _limit(request: web.Request) -> int:
    limit = request.query.get("limit", str(MAX_PAGE))
    if not (limit.isascii() and limit.isdecimal() and 0 < int(limit[:9]) <= MAX_PAGE):
        raise Malformed(f"`limit` is a number from 1 to {MAX_PAGE}")
    return int(limit)
