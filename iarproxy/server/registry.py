"""The registry face: the pull half of the distribution API, over a `Mirror`.

Rule 1: only `request.raw_path` says what is asked for; `oci.request` parses it, `oci.routing` names the repository.
        aiohttp's router, `url`, `host` and `match_info` are not used (threats rule 1, T11, T57, L11).
Rule 2: stored bytes go out as they are; `Accept` and `Accept-Encoding` select nothing (clients.md item 7, 26).
Rule 3: HEAD is GET without its body. It starts no transfer of a blob.
Rule 4: a request with a body is refused before a byte of it is read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, assert_never

from aiohttp.http import HttpVersion10, HttpVersion11

from iarproxy.errors import Denied, Malformed, Stopped, Unsupported
from iarproxy.oci import Digest, Tag, TagReference
from iarproxy.oci.request import BlobTarget, Catalog, ManifestTarget, Ping, ReferrersTarget, TagsTarget, parse_request
from iarproxy.oci.routing import Place, Routes
from iarproxy.server import access, contents
from iarproxy.server.accounts import Accounts, Content
from iarproxy.server.answer import Answer
from iarproxy.server.clients import falls_through
from iarproxy.server.done import Done
from iarproxy.server.errors import answer_error
from iarproxy.server.exchange import Exchange
from iarproxy.server.lane import Lane
from iarproxy.server.loops import way_of
from iarproxy.server.multipart import framed
from iarproxy.server.ports import Count, Memory, Mirror, Uses
from iarproxy.server.ranges import Part, Parts, select
from iarproxy.server.ready import Kitchen
from iarproxy.server.sending import KERNEL, Pace, Stalled
from iarproxy.upstream.via import on_the_way

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

_MAX_HOST = 255  # a longer `Host` names nothing that could be bound
_REMEMBERED = 2048  # targets and routes that are read once

# A target means the same each time it is sent; a failure is not remembered.
_read_target = lru_cache(maxsize=_REMEMBERED)(parse_request)


@dataclass(frozen=True, slots=True)
class RegistryFace:
    """What all listeners of the registry share.

    Attributes:
        kernel: let the kernel copy file bytes where it can.
        log: where access records go; None: nowhere.
        count: where answers are counted; None: nowhere.
        uses: who is told what was served to whom; None: nobody.
        memory: what the mirror can answer without waiting; None: there is no fast lane.
        via: who we are in `Via`; None: loops are not noticed.
    """

    mirror: Mirror
    routes: Routes
    pace: Pace = field(default_factory=Pace)
    kernel: bool = KERNEL
    log: access.Sink | None = None
    count: Count | None = None
    uses: Uses | None = None
    memory: Memory | None = None
    via: str | None = None

    def on(self, listener: str) -> Answering:
        """The handler of the listener whose address is `listener`."""
        return Answering(self, listener)


class Answering:
    """Answers the requests of one listener. To be closed when its last connection has ended.

    Attributes:
        lane: its fast lane; None: there is none.
        pace: what clients must take.
    """

    def __init__(self, face: RegistryFace, listener: str) -> None:
        self._face, self._mirror, self.pace = face, face.mirror, face.pace
        self._accounts = Accounts(face.count, face.log, face.uses)
        self._routed = lru_cache(maxsize=_REMEMBERED)(partial(face.routes.place, listener=listener))
        self.lane = None if face.memory is None else self._lane(face.memory)

    def _lane(self, memory: Memory) -> Lane:
        files, logs = self._face.kernel, self._accounts.logs
        return Lane(Kitchen(memory, _read_target, self._route, files=files, logs=logs), self._accounts)

    def close(self) -> None:
        """Account for what was answered, and free what was ready."""
        if self.lane is not None:
            self.lane.close()
        self._accounts.flush()

    async def __call__(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens; called by aiohttp."""
        started = time.monotonic()
        if request.transport is None:
            return Done().as_response()
        exchange = Exchange(request, self._face.pace, kernel=self._face.kernel)
        try:
            await self._answer_or_cut(exchange)
        except Stalled:
            exchange.cut("stalled")
        except ConnectionError:
            exchange.cut("left")
        finally:
            topic = exchange.topic(logged=self._accounts.logs)
            self._accounts.answered(topic, exchange.client, exchange.outcome, time.monotonic() - started)
        return exchange.finish()

    async def _answer_or_cut(self, exchange: Exchange) -> None:
        try:
            with on_the_way(way_of(exchange.request.headers, self._face.via)):
                await self._answer(exchange)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of the server: everything becomes an answer or a cut
            failure = answer_error(error, exchange.target)
            self._note_denial(error)
            if exchange.status:
                exchange.cut("broken")
                return
            exchange.outcome = "refused"
            await exchange.send(failure)

    def _note_denial(self, error: Exception) -> None:
        """Count what policy denied; a client that is stopped is stopped for the same reasons."""
        if self._face.count is not None and isinstance(error, Denied):
            self._face.count.denied(error.reason)

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        has_body = _has_body(request)
        if has_body or request.version not in (HttpVersion10, HttpVersion11):
            exchange.last()
        if request.method == "OPTIONS":
            return await exchange.send(Answer(HTTPStatus.NO_CONTENT, {"Allow": "GET, HEAD"}))
        if request.method not in ("GET", "HEAD"):
            raise Unsupported("iarproxy is a read-only mirror: push to the registry itself")
        if request.version not in (HttpVersion10, HttpVersion11):
            raise Malformed("iarproxy speaks HTTP/1.0 and HTTP/1.1")
        if has_body:
            raise Malformed("a request for content has no body")
        asked = _read_target(request.raw_path)
        exchange.target, exchange.namespace = asked.target, asked.namespace
        match asked.target:
            case Ping():
                return await exchange.send(contents.ping())
            case Catalog():
                return await exchange.send(contents.no_catalog())
            case BlobTarget(name=name, digest=digest):
                return await self._blob(exchange, self._place(exchange, name), digest)
            case ManifestTarget() | TagsTarget() | ReferrersTarget() as target:
                return await exchange.send(await self._small(exchange, self._place(exchange, target.name), target))
            case _:
                assert_never(asked.target)

    def _route(self, name: str, namespace: str | None, host: str) -> Place:
        return self._routed(name, namespace=namespace, host=host if len(host) <= _MAX_HOST else "")

    def _place(self, exchange: Exchange, name: str) -> Place:
        exchange.place = self._route(name, exchange.namespace, exchange.request.headers.get("Host", ""))
        return exchange.place

    async def _small(
        self, exchange: Exchange, place: Place, target: ManifestTarget | TagsTarget | ReferrersTarget
    ) -> Answer:
        match target:
            case ManifestTarget(wanted=wanted):
                return await self._manifest(exchange, place, wanted)
            case TagsTarget():
                listed = await self._mirror.within(place.environment).tags(place.repository)
                shown = contents.place_headers(place, None, exchange.namespace)
                return contents.tags(listed, target, exchange.namespace, shown)
            case ReferrersTarget(digest=digest, artifact_types=kinds):
                shown = contents.route_headers(place.repository, exchange.namespace)
                return contents.referrers(await self._mirror.referrers(place.repository, digest, kinds), shown)
            case _:
                assert_never(target)

    async def _manifest(self, exchange: Exchange, place: Place, wanted: Tag | Digest) -> Answer:
        try:
            found = await self._mirror.within(place.environment).manifest(place.repository, wanted)
        except Stopped as stopped:
            return await self._refusal(exchange, place, wanted, stopped)
        exchange.cache = contents.state_of(found)
        exchange.content = Content(place.repository, wanted, found.descriptor.digest, is_manifest=True)
        shown = contents.place_headers(place, wanted, exchange.namespace)
        return contents.manifest(found, wanted, exchange.request.headers.get("If-None-Match"), shown)

    async def _refusal(self, exchange: Exchange, place: Place, wanted: Tag | Digest, stopped: Stopped) -> Answer:
        agent = exchange.request.headers.get("User-Agent", "")
        if isinstance(wanted, Digest) or not falls_through(agent, exchange.namespace):
            raise stopped
        self._note_denial(stopped)
        exchange.outcome = "refused"
        found = await self._mirror.refusal(TagReference(place.repository, wanted), stopped)
        return contents.refusal(found, str(stopped), contents.place_headers(place, wanted, exchange.namespace))

    async def _blob(self, exchange: Exchange, place: Place, digest: Digest) -> None:
        repository, headers = place.repository, exchange.request.headers
        shown = contents.route_headers(repository, exchange.namespace)
        unchanged = contents.none_match(headers.get("If-None-Match"), digest)
        if exchange.request.method == "HEAD" or unchanged:
            size = await self._mirror.blob_size(repository, digest)
            return await exchange.send(contents.blob(digest, size, None, shown, unchanged=unchanged))
        async with await self._mirror.blob(repository, digest) as body:
            exchange.cache = "hit" if body.cached else "miss"
            exchange.content = Content(repository, digest, digest, is_manifest=False)
            chosen = select(_single(exchange.request, "Range"), headers.get("If-Range"), f'"{digest}"', body.size)
            if isinstance(chosen, Parts):
                several = framed(digest, body.size, chosen, shown)
                return await exchange.stream(several.answer, several.body(body.spans), ready=body.cached)
            part = chosen if isinstance(chosen, Part) else None
            start, stop = (part.start, part.stop) if part else (0, body.size)
            answer = contents.blob(digest, body.size, part, shown)
            await exchange.stream(answer, body.spans(start, stop), ready=body.cached)
        return None


def _has_body(request: BaseRequest) -> bool:
    headers = request.headers
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"


def _single(request: BaseRequest, name: str) -> str | None:
    """The header's value; None where it is absent or repeated (two `Range` lines are no range)."""
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else None
