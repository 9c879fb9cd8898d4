"""aiohttp's connection, hardened: what it does about bytes that are no request, and how its output is waited for.

Rule 1: the answer to bytes that are no HTTP is one clean 400 and a close, within the same turn of the loop
        (clients.md section 10, item 5: a TLS hello on the plain port).
Rule 2: the transport keeps no backlog: `pause_writing` means "not all of it is with the kernel yet", so that an empty
        buffer is an event and `os.sendfile` can take over from the transport without reordering bytes.
Rule 3: header lines up to 32 KiB pass (podman sends `Range` headers of 20 kB); a slow sender is closed after
        `header_deadline` seconds; bodies are never inflated (threats L5, L12, T70, T73).
Rule 4: a connection that ends while its client does not read ends at once, unsent bytes and all: a transport that is
        closed waits for them for ever (threats T72).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from iarproxy.server.answer import Answer
from iarproxy.server.errors import malformed_http
from iarproxy.server.hot import HotLane, is_one_head

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

MAX_LINE = 32 * 1024  # bytes of a request line or a header line
MAX_HEADERS = 64
_TLS_HANDSHAKE = 0x16
_LAST_WORD = 5.0  # seconds that a client gets to take the answer to what was no request

Handler = Callable[["BaseRequest"], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Done:
    """What aiohttp gets back: an answer that is on the wire already (`late` empty) or that is written now."""

    keep_alive: bool
    late: bytes = b""

    async def prepare(self, request: BaseRequest) -> None:
        """Called by aiohttp."""
        transport = request.transport
        if self.late and transport is not None:
            transport.write(self.late)
            if cast("Connection", request.protocol).writing_paused:
                asyncio.get_running_loop().call_later(_LAST_WORD, transport.abort)

    async def write_eof(self) -> None:
        """Called by aiohttp."""

    def as_response(self) -> web.StreamResponse:
        """Itself, as the type that aiohttp declares; it uses only `prepare`, `write_eof` and `keep_alive`."""
        return cast("web.StreamResponse", self)


class Connection(RequestHandler):
    """One client connection of a `RegistryServer`."""

    __slots__ = ("_aligned", "_emptied", "_heard", "head")

    def __init__(self, server: RegistryServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._emptied: asyncio.Future[None] | None = None
        self._heard = False
        self._aligned = True  # every packet so far was the head of one request: packets and requests are the same
        self.head: bytes | None = None  # of the request that is answered now, where it came as one packet

    @property
    def leaving(self) -> bool:
        """Whether the server shuts down: the answer under way is this connection's last."""
        server = cast("RegistryServer | None", self._manager)
        return server is None or server.draining

    @property
    def idle(self) -> bool:
        """Whether no whole request has come that is not answered yet."""
        return self._waiter is not None and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        # asyncio's TLS transport takes 0 for "always full"; the kernel never sends for it, so one byte does no harm.
        high = 0 if transport.get_extra_info("sslcontext") is None else 1
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=high, low=0)

    def data_received(self, data: bytes) -> None:
        """Bytes came. The first one tells a TLS hello from HTTP."""
        if not self._heard and data:
            self._heard = True
            if data[0] == _TLS_HANDSHAKE and self.transport is not None:
                self.transport.write(_bytes_of(malformed_http(400, "this port speaks plain HTTP, not TLS")))
                self.force_close()
                return
        lane = cast("RegistryServer", self._manager).lane if self._manager is not None else None
        if lane is not None:
            self._aligned = self._aligned and is_one_head(data)
            alone = self._aligned and self.idle and not self.writing_paused and not self.leaving
            self.head = data if alone else None
            wire = lane.answer(data) if alone else None
            if wire is not None and self.transport is not None:
                self._answered_hot(self.transport, wire)
                return
        super().data_received(data)

    def _answered_hot(self, transport: asyncio.Transport, wire: bytes) -> None:
        transport.write(wire)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _process_keepalive(self) -> None:
        """Called by aiohttp when the idle deadline may have passed: a hot answer may still wait for its client."""
        transport = self.transport
        super()._process_keepalive()
        if transport is not None and self.transport is None and self.writing_paused:
            transport.abort()

    def resume_writing(self) -> None:
        """All bytes are with the kernel."""
        super().resume_writing()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone; whoever waits for its buffer to empty learns it."""
        super().connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def emptied(self, patience: float) -> bool:
        """Wait at most `patience` seconds until the transport holds no bytes; False: it still does.

        Raises:
            ConnectionResetError: the client is gone.
        """
        if self.transport is not None and self.writing_paused:
            waiter = self._emptied = self._loop.create_future()
            await asyncio.wait({waiter}, timeout=patience)
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        return not self.writing_paused

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # may quote the client's bytes
    ) -> web.StreamResponse:
        """Called by aiohttp for bytes that do not parse as HTTP; our own handler lets no exception out."""
        if status == 400 and isinstance(exc, LineTooLong):  # noqa: PLR2004  # aiohttp's only client error
            answer = malformed_http(431, f"a request line or header of more than {MAX_LINE} bytes is not taken")
        elif status == 400:  # noqa: PLR2004  # as above
            answer = malformed_http(400, "this is not an HTTP/1.1 request that iarproxy takes")
        else:
            self.logger.error("the server failed outside its handler", exc_info=exc)
            answer = malformed_http(500, "iarproxy: internal error; the log holds the reason")
        return Done(keep_alive=False, late=_bytes_of(answer)).as_response()


class RegistryServer(web.Server):
    """Makes the connections of one listener; `draining` is set when the process is about to leave."""

    def __init__(self, handler: Handler, *, lane: HotLane | None = None, header_deadline: float = 20.0) -> None:
        super().__init__(cast("Any", handler), handler_cancellation=False)
        self.lane = lane
        self.draining = False
        self._settings: dict[str, Any] = {
            "loop": self._loop,
            "keepalive_timeout": header_deadline,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
            "max_headers": MAX_HEADERS,
            "auto_decompress": False,
            "access_log": None,
            "lingering_time": 2.0,
        }

    @property
    def connections(self) -> list[Connection]:  # type: ignore[override]  # `__call__` makes no others
        """All open connections."""
        return cast("list[Connection]", list(self._connections))

    def __call__(self) -> Connection:
        """The protocol of one more connection."""
        return Connection(self, **self._settings)


def _bytes_of(answer: Answer) -> bytes:
    return answer.head("close") + answer.body
