"""One request and its answer: what was asked, what has gone out, and how it ended.

Rule 1: before the head is out, a failure becomes an error answer; after it, the connection is cut (threats rule 8:
        nobody can take a wrong or short body for a complete one).
Rule 2: a client that goes away is normal: it is counted, never logged as an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import TYPE_CHECKING, cast

from aiohttp.http import HttpVersion11

from iarproxy.errors import StoreUnavailable
from iarproxy.mirror.serving.answers import FileSpan
from iarproxy.server import access
from iarproxy.server.accounts import KINDS, Content, Facts, Outcome, Topic
from iarproxy.server.answer import Answer
from iarproxy.server.connection import Connection
from iarproxy.server.done import Done
from iarproxy.server.sending import SMALL, Pace, Wire, gather

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

    from iarproxy.oci.request import Target
    from iarproxy.oci.routing import Place


class Exchange:
    """The state of one request while it is answered.

    Attributes:
        target, namespace: what the raw target spells; None until it is parsed.
        status: of the answer; 0 while its head is not out.
        place: where it leads to; None: nowhere, or not known yet.
        cache: for the log and the metrics; empty: not known.
        content: what is given, where that is a use; None: it is not, or not known yet.
        outcome: how it ended; `left`: the client went away, `broken`: the rest of the body was not to be had.
    """

    __slots__ = (
        *("_head_bytes", "_keep_alive", "_wire", "request"),
        *("cache", "content", "namespace", "outcome", "place", "status", "target"),
    )

    def __init__(self, request: BaseRequest, pace: Pace, *, kernel: bool) -> None:
        self.request = request
        self._wire = Wire(cast("Connection", request.protocol), pace, kernel=kernel)
        self._keep_alive = request.keep_alive
        self._head_bytes = 0
        self.target: Target | None = None
        self.namespace: str | None = None
        self.status = 0
        self.place: Place | None = None
        self.cache = ""
        self.content: Content | None = None
        self.outcome: Outcome = "sent"

    @property
    def body_bytes(self) -> int:
        """Bytes of the body that went to the client's connection."""
        return max(0, self._wire.sent - self._head_bytes)

    @property
    def client(self) -> str:
        """What its certificate says, or the peer's address without port; `unix` for a local socket."""
        return cast("Connection", self.request.protocol).client

    def topic(self, *, logged: bool) -> Topic:
        """What is accounted for, now that it has ended; with facts only if they are `logged`."""
        kind = KINDS.get(type(self.target), "other")
        facts = self._facts() if logged else {}
        upstream = "" if self.place is None else self.place.repository.registry
        return Topic(kind, upstream, self.cache, self.status, self.body_bytes, facts, self.content)

    def _facts(self) -> Facts:
        request = self.request
        headers = request.headers
        return access.facts(
            request.method,
            request.raw_path,
            namespace=self.namespace,
            asked_range=headers.get("Range"),
            agent=headers.get("User-Agent"),
            place=self.place,
        )

    def last(self) -> None:
        """Close the connection after this answer."""
        self._keep_alive = False

    async def send(self, answer: Answer) -> None:
        """Send a whole answer; to HEAD its head only."""
        head = self._head(answer)
        await self._wire.write(head if self.request.method == "HEAD" else head + answer.body)

    async def stream(self, answer: Answer, spans: AsyncIterable[FileSpan | bytes], *, ready: bool) -> None:
        """Send the head at once, then the body as it becomes available; both at once if it is `ready` and small."""
        try:
            if ready and (answer.length or 0) <= SMALL:
                body = await gather(spans)
                if len(body) != answer.length:
                    raise StoreUnavailable("a stored file is shorter than its size says")
                await self._wire.write(self._head(answer) + body)
            else:
                await self._wire.write(self._head(answer))
                await self._wire.send(spans)
        finally:
            if isinstance(spans, AsyncGenerator):
                await spans.aclose()  # before the body that it reads from is released

    def cut(self, outcome: Outcome) -> None:
        """Break the connection."""
        self.outcome = outcome
        self._keep_alive = False
        self._wire.cut(reset=outcome == "stalled")

    def finish(self) -> web.StreamResponse:
        """Release what the answer held, and what aiohttp gets back."""
        connection = cast("Connection", self.request.protocol)
        connection.close_tap()
        return Done(connection if self._keep_alive else None).as_response()

    def _head(self, answer: Answer) -> bytes:
        if cast("Connection", self.request.protocol).ends:
            self._keep_alive = False
        self.status = answer.status
        head = answer.head(self._connection_header())
        self._head_bytes = len(head)
        return head

    def _connection_header(self) -> str:
        if not self._keep_alive:
            return "close"
        return "" if self.request.version >= HttpVersion11 else "keep-alive"
