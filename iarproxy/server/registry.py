"""The registry face: the pull half of the distribution API, over a `Mirror`.

Rule 1: only `request.raw_path` says what is asked for; `oci.request` parses it, `oci.routing` names the repository.
        aiohttp's router, `url`, `host` and `match_info` are not used (threats rule 1, T11, T57, L11).
Rule 2: stored bytes go out as they are; `Accept` and `Accept-Encoding` select nothing (clients.md item 7, 26).
Rule 3: HEAD is GET without its body. It starts no transfer of a blob.
Rule 4: a request with a body is refused before a byte of it is read.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, assert_never

from aiohttp.http import HttpVersion10, HttpVersion11

from iarproxy.errors import Malformed, Unsupported
from iarproxy.mirror.answers import BlobBody, ManifestAnswer, ReferrersAnswer, TagList
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.oci.request import BlobTarget, Catalog, ManifestTarget, Ping, ReferrersTarget, TagsTarget, parse_request
from iarproxy.oci.routing import Routes
from iarproxy.server import access, contents
from iarproxy.server.answer import Answer
from iarproxy.server.connection import Done, Handler
from iarproxy.server.errors import answer_error
from iarproxy.server.exchange import Exchange
from iarproxy.server.ranges import Part, select
from iarproxy.server.sending import KERNEL, Pace, Stalled

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest


class Mirror(Protocol):
    """What the face asks of the mirror; each may raise `Refused` or `Unavailable`."""

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        """The verified manifest of a tag or digest."""
        ...

    async def blob(self, repository: Repository, digest: Digest) -> AbstractAsyncContextManager[BlobBody]:
        """A blob to be entered with `async with`, which may raise too."""
        ...

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """A blob's size in bytes; starts no transfer."""
        ...

    async def tags(self, repository: Repository) -> TagList:
        """All tags."""
        ...

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_types: tuple[str, ...]
    ) -> ReferrersAnswer:
        """What refers to a digest."""
        ...


class Count(Protocol):
    """Where finished answers are counted; `iarproxy.metrics` is one."""

    def answered(
        self, *, kind: str, upstream: str, status: int, outcome: str, cache: str, sent: int, seconds: float
    ) -> None:
        """One answer ended. `sent`: bytes of its body; `seconds`: from the request's head to the last byte."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryFace:
    """Answers the requests of the registry's listeners.

    Attributes:
        kernel: let the kernel copy file bytes where it can.
        log: where access records go; None: nowhere.
        count: where answers are counted; None: nowhere.
    """

    mirror: Mirror
    routes: Routes
    pace: Pace = field(default_factory=Pace)
    kernel: bool = KERNEL
    log: access.Sink | None = None
    count: Count | None = None

    def on(self, listener: str) -> Handler:
        """The handler of the listener whose address is `listener`."""

        async def handle(request: BaseRequest) -> web.StreamResponse:
            return await self._handle(request, listener)

        return handle

    async def _handle(self, request: BaseRequest, listener: str) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        started = clock()
        if request.transport is None:
            return Done(keep_alive=False).as_response()
        exchange = Exchange(request, self.pace, kernel=self.kernel)
        try:
            await self._answer_or_cut(exchange, listener)
        except Stalled:
            exchange.cut("stalled")
        except ConnectionError:
            exchange.cut("left")
        finally:
            response = exchange.finish()
            self._account(exchange, clock() - started)
        return response

    async def _answer_or_cut(self, exchange: Exchange, listener: str) -> None:
        try:
            await self._answer(exchange, listener)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of the server: everything becomes an answer or a cut
            failure = answer_error(error, exchange.target)
            if exchange.status:
                exchange.cut("broken")
                return
            exchange.outcome = "refused"
            await exchange.send(failure)

    def _account(self, exchange: Exchange, seconds: float) -> None:
        if self.count is not None:
            kind = _KINDS.get(type(exchange.target), "other")
            self.count.answered(
                kind=kind,
                upstream=exchange.upstream,
                status=exchange.status,
                outcome=exchange.outcome,
                cache=exchange.cache,
                sent=exchange.body_bytes,
                seconds=seconds,
            )
        if self.log is not None:
            self.log(access.record(exchange, seconds))

    async def _answer(self, exchange: Exchange, listener: str) -> None:
        request = exchange.request
        if _has_body(request):
            exchange.last()
        if request.method == "OPTIONS":
            return await exchange.send(Answer(HTTPStatus.NO_CONTENT, {"Allow": "GET, HEAD"}))
        if request.method not in ("GET", "HEAD"):
            raise Unsupported("iarproxy is a read-only mirror: push to the registry itself")
        if request.version not in (HttpVersion10, HttpVersion11):
            exchange.last()
            raise Malformed("iarproxy speaks HTTP/1.0 and HTTP/1.1")
        if _has_body(request):
            raise Malformed("a request for content has no body")
        asked = parse_request(request.raw_path)
        exchange.target, exchange.namespace = asked.target, asked.namespace
        match asked.target:
            case Ping():
                return await exchange.send(contents.ping())
            case Catalog():
                return await exchange.send(contents.no_catalog())
            case BlobTarget(name=name, digest=digest):
                return await self._blob(exchange, self._repository(exchange, name, listener), digest)
            case ManifestTarget() | TagsTarget() | ReferrersTarget() as target:
                repository = self._repository(exchange, target.name, listener)
                return await exchange.send(await self._small(exchange, repository, target))
            case _:
                assert_never(asked.target)

    def _repository(self, exchange: Exchange, name: str, listener: str) -> Repository:
        host = exchange.request.headers.get("Host", "")
        repository = self.routes.repository(name, namespace=exchange.namespace, listener=listener, host=host)
        exchange.upstream = repository.registry
        return repository

    async def _small(
        self, exchange: Exchange, repository: Repository, target: ManifestTarget | TagsTarget | ReferrersTarget
    ) -> Answer:
        shown = contents.route_headers(repository, exchange.namespace)
        match target:
            case ManifestTarget(wanted=wanted):
                found = await self.mirror.manifest(repository, wanted)
                exchange.cache = contents.state_of(found)
                return contents.manifest(found, wanted, exchange.request.headers.get("If-None-Match"), shown)
            case TagsTarget():
                return contents.tags(await self.mirror.tags(repository), target, exchange.namespace, shown)
            case ReferrersTarget(digest=digest, artifact_types=kinds):
                return contents.referrers(await self.mirror.referrers(repository, digest, kinds), shown)
            case _:
                assert_never(target)

    async def _blob(self, exchange: Exchange, repository: Repository, digest: Digest) -> None:
        headers = exchange.request.headers
        shown = contents.route_headers(repository, exchange.namespace)
        unchanged = contents.none_match(headers.get("If-None-Match"), digest)
        if exchange.request.method == "HEAD" or unchanged:
            size = await self.mirror.blob_size(repository, digest)
            return await exchange.send(contents.blob(digest, size, None, shown, unchanged=unchanged))
        async with await self.mirror.blob(repository, digest) as body:
            exchange.cache = "hit" if body.cached else "miss"
            chosen = select(_single(exchange.request, "Range"), headers.get("If-Range"), f'"{digest}"', body.size)
            part = chosen if isinstance(chosen, Part) else None
            start, stop = (part.start, part.stop) if part else (0, body.size)
            answer = contents.blob(digest, body.size, part, shown)
            await exchange.stream(answer, body.spans(start, stop), ready=body.cached)
        return None


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
