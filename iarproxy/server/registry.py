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
from typing import TYPE_CHECKING, assert_never, cast

from aiohttp.http import HttpVersion10, HttpVersion11

from iarproxy.errors import Malformed, Unsupported
from iarproxy.mirror.answers import ManifestAnswer
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.oci.request import BlobTarget, Catalog, ManifestTarget, Ping, ReferrersTarget, TagsTarget, parse_request
from iarproxy.oci.routing import Routes
from iarproxy.server import access, contents
from iarproxy.server.answer import Answer
from iarproxy.server.connection import Connection, Done
from iarproxy.server.errors import answer_error
from iarproxy.server.exchange import Exchange
from iarproxy.server.hot import HotLane, Known, Peek
from iarproxy.server.ports import Count, Mirror
from iarproxy.server.ranges import Part, select
from iarproxy.server.sending import KERNEL, Pace, Stalled

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
        peek: what the mirror can answer without waiting; None: there is no hot lane.
    """

    mirror: Mirror
    routes: Routes
    pace: Pace = field(default_factory=Pace)
    kernel: bool = KERNEL
    log: access.Sink | None = None
    count: Count | None = None
    peek: Peek | None = None

    def on(self, listener: str) -> Answering:
        """The handler of the listener whose address is `listener`."""
        return Answering(self, listener)


class Answering:
    """Answers the requests of one listener.

    Attributes:
        lane: its hot lane; None: there is none.
    """

    def __init__(self, face: RegistryFace, listener: str) -> None:
        self._face, self._mirror = face, face.mirror
        self._route = lru_cache(maxsize=_REMEMBERED)(partial(face.routes.repository, listener=listener))
        self.lane = None if face.peek is None else HotLane(face.peek, self._account_hot)

    async def __call__(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens; called by aiohttp."""
        started = time.monotonic()
        if request.transport is None:
            return Done(keep_alive=False).as_response()
        exchange = Exchange(request, self._face.pace, kernel=self._face.kernel)
        try:
            await self._answer_or_cut(exchange)
        except Stalled:
            exchange.cut("stalled")
        except ConnectionError:
            exchange.cut("left")
        finally:
            response = exchange.finish()
            self._account(exchange, time.monotonic() - started)
        return response

    async def _answer_or_cut(self, exchange: Exchange) -> None:
        try:
            await self._answer(exchange)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of the server: everything becomes an answer or a cut
            failure = answer_error(error, exchange.target)
            if exchange.status:
                exchange.cut("broken")
                return
            exchange.outcome = "refused"
            await exchange.send(failure)

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
                return await self._blob(exchange, self._repository(exchange, name), digest)
            case ManifestTarget() | TagsTarget() | ReferrersTarget() as target:
                return await exchange.send(await self._small(exchange, self._repository(exchange, target.name), target))
            case _:
                assert_never(asked.target)

    def _repository(self, exchange: Exchange, name: str) -> Repository:
        host = exchange.request.headers.get("Host", "")
        repository = self._route(name, namespace=exchange.namespace, host=host if len(host) <= _MAX_HOST else "")
        exchange.upstream = repository.registry
        return repository

    async def _small(
        self, exchange: Exchange, repository: Repository, target: ManifestTarget | TagsTarget | ReferrersTarget
    ) -> Answer:
        shown = contents.route_headers(repository, exchange.namespace)
        match target:
            case ManifestTarget(wanted=wanted):
                found = await self._mirror.manifest(repository, wanted)
                exchange.cache = contents.state_of(found)
                self._learn(exchange, repository, wanted)
                return contents.manifest(found, wanted, exchange.request.headers.get("If-None-Match"), shown)
            case TagsTarget():
                return contents.tags(await self._mirror.tags(repository), target, exchange.namespace, shown)
            case ReferrersTarget(digest=digest, artifact_types=kinds):
                return contents.referrers(await self._mirror.referrers(repository, digest, kinds), shown)
            case _:
                assert_never(target)

    async def _blob(self, exchange: Exchange, repository: Repository, digest: Digest) -> None:
        headers = exchange.request.headers
        shown = contents.route_headers(repository, exchange.namespace)
        unchanged = contents.none_match(headers.get("If-None-Match"), digest)
        if exchange.request.method == "HEAD" or unchanged:
            size = await self._mirror.blob_size(repository, digest)
            return await exchange.send(contents.blob(digest, size, None, shown, unchanged=unchanged))
        async with await self._mirror.blob(repository, digest) as body:
            exchange.cache = "hit" if body.cached else "miss"
            chosen = select(_single(exchange.request, "Range"), headers.get("If-Range"), f'"{digest}"', body.size)
            part = chosen if isinstance(chosen, Part) else None
            start, stop = (part.start, part.stop) if part else (0, body.size)
            answer = contents.blob(digest, body.size, part, shown)
            await exchange.stream(answer, body.spans(start, stop), ready=body.cached)
        return None

    def _learn(self, exchange: Exchange, repository: Repository, wanted: Tag | Digest) -> None:
        """Let the hot lane answer this request from now on, if it is plain."""
        request = exchange.request
        head = cast("Connection", request.protocol).head
        if self.lane is None or head is None or not request.keep_alive or request.version != HttpVersion11:
            return
        if "If-None-Match" in request.headers or "Upgrade" in request.headers:
            return
        facts = access.facts(exchange)
        with_body = request.method == "GET"
        self.lane.learn(head, Known(repository, wanted, exchange.namespace, with_body, facts))

    def _account(self, exchange: Exchange, seconds: float) -> None:
        if self._face.count is not None:
            self._face.count.answered(
                kind=_KINDS.get(type(exchange.target), "other"),
                upstream=exchange.upstream,
                status=exchange.status,
                outcome=exchange.outcome,
                cache=exchange.cache,
                sent=exchange.body_bytes,
                seconds=seconds,
            )
        if self._face.log is not None:
            self._face.log(access.record(exchange, seconds))

    def _account_hot(self, known: Known, found: ManifestAnswer, seconds: float) -> None:
        cache, sent = contents.state_of(found), len(found.raw) if known.with_body else 0
        if self._face.count is not None:
            self._face.count.answered(
                kind="manifest",
                upstream=known.repository.registry,
                status=200,
                outcome="sent",
                cache=cache,
                sent=sent,
                seconds=seconds,
            )
        if self._face.log is not None:
            self._face.log({**known.facts, **access.result(200, sent, cache, "sent", seconds)})


_KINDS: dict[type, str] = {
    Ping: "ping",
    Catalog: "catalog",
    ManifestTarget: "manifest",
    BlobTarget: "blob",
    TagsTarget: "tags",
    ReferrersTarget: "referrers",
}


def _has_body(request: BaseRequest) -> bool:
    headers = request.headers
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"


def _single(request: BaseRequest, name: str) -> str | None:
    """The header's value; None where it is absent or repeated (two `Range` lines are no range)."""
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else None
