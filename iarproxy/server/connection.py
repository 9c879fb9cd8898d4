"""aiohttp's connection, hardened: what it does about bytes that are no request, and how its output is waited for.

Rule 1: the answer to bytes that are no HTTP is one clean 400 and a close, within the same turn of the loop
        (clients.md section 10, item 5: a TLS hello on the plain port).
Rule 2: the transport keeps no backlog: `pause_writing` means "not all of it is with the kernel yet", so that an empty
        buffer is an event and `os.sendfile` can take over from the transport without reordering bytes.
Rule 3: header lines up to 32 KiB pass (podman sends `Range` headers of 20 kB); a slow sender is closed after
        `header_deadline` seconds; bodies are never inflated (threats L5, L12, T70, T73).
Rule 4: a connection that ends while its client does not read ends at once, unsent bytes and all: a transport that is
        closed waits for them for ever (threats T72).
Rule 5: the fast lane takes a packet only when the connection is at rest: aiohttp waits for a request, everything that
        it was fed ended where a head ends, and nothing is being sent. Else the packet is aiohttp's.
Rule 6: a client that has said all it will say (half-close) still gets its answers, then the close.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from iarproxy.server.access import client_name
from iarproxy.server.answer import Answer
from iarproxy.server.done import LAST_WORD, Done
from iarproxy.server.errors import malformed_http
from iarproxy.server.lane import Lane
from iarproxy.server.outgoing import Outgoing
from iarproxy.server.ready import OpenFile, Prepared
from iarproxy.server.sending import Pump, cut

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

    from iarproxy.server.frame import RegistryServer

MAX_LINE = 32 * 1024  # bytes of a request line or a header line
_TLS_HANDSHAKE = 0x16
_CORK: int | None = getattr(socket, "TCP_CORK", None)  # Linux only


class Connection(RequestHandler):
    """One client connection of a `RegistryServer`.

    Attributes:
        client: what its certificate says, or the peer's address without port; `unix` for a local socket.
        half_closed: the client will send no more.
        pumping: what sends from a file to `tap` now.
    """

    __slots__ = (
        "_emptied",
        "_encrypted",
        "_fed",
        "_heard",
        "_lane",
        "_outgoing",
        "_split",
        "_tap",
        "client",
        "half_closed",
        "pumping",
    )

    def __init__(self, server: RegistryServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._emptied: asyncio.Future[None] | None = None
        self._encrypted = False
        self._fed = False  # aiohttp was given bytes
        self._heard = False
        self._split = False  # what aiohttp was fed may end within a request
        self._lane: Lane | None = None
        self._outgoing: Outgoing | None = None
        self._tap: socket.SocketType | None = None
        self.client = "unix"
        self.half_closed = False
        self.pumping: Pump | None = None

    @property
    def ends(self) -> bool:
        """Whether the answer that begins now is the last one: the server leaves, or the client has no more to ask."""
        server = cast("RegistryServer | None", self._manager)
        return server is None or server.draining or self.has_heard_all

    @property
    def has_heard_all(self) -> bool:
        """Whether no request can come any more."""
        return self.half_closed and not self._messages

    @property
    def idle(self) -> bool:
        """Whether no whole request has come that is not answered yet."""
        return self._waiter is not None and not self._messages and self._outgoing is None

    @property
    def is_split(self) -> bool:
        """Whether the bytes so far may end within a request."""
        return self._split

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        # asyncio's TLS transport takes 0 for "always full"; the kernel never sends for it, so one byte does no harm.
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=int(self._encrypted), low=0)
        peer = transport.get_extra_info("peername")
        certificate = transport.get_extra_info("peercert") if self._encrypted else None
        if certificate:
            self.client = client_name(certificate)
        elif isinstance(peer, tuple):
            self.client = str(peer[0])
        server = cast("RegistryServer", self._manager)
        self._lane = None if server.draining else server.lane

    def data_received(self, data: bytes) -> None:
        """Bytes came: the fast lane's, where it knows the answer, else aiohttp's."""
        lane = self._lane
        resting = self._waiter is not None or not self._fed  # a new one's data may come before aiohttp's task runs
        if lane is None or not resting or self._paused or self._split or self._messages:
            self._ordinary(data)
            return
        ready = lane.ready.get(data) or lane.find(data)
        transport = self.transport
        if ready is None or transport is None:
            self._ordinary(data)
            return
        head, answer = ready
        if answer.file is not None and not self._takes_files():
            self._ordinary(data)
            return
        now = self._loop.time()
        self._heard = True
        self._next_keepalive_close_time = now + self._keepalive_timeout
        if answer.file is not None:
            self._send_file(transport, head, answer, answer.file)
            return
        if answer.body:
            transport.writelines((head, answer.body))
        else:
            transport.write(head)
        lane.hit(answer.topic, self.client, now)
        if answer.closes:
            self._close_flushed(transport)

    def _close_flushed(self, transport: asyncio.Transport) -> None:
        """Close when the client has taken everything, or when it had its time for that."""
        if self._paused:
            self._loop.call_later(cast("RegistryServer", self._manager).pace.window, transport.abort)
        self.force_close()

    def _ordinary(self, data: bytes) -> None:
        self._fed = True
        if data:
            self._split = not data.endswith(b"\r\n\r\n")
            if not self._heard:
                self._heard = True
                if data[0] == _TLS_HANDSHAKE and self.transport is not None:
                    self.transport.write(_bytes_of(malformed_http(400, "this port speaks plain HTTP, not TLS")))
                    self.force_close()
                    return
        super().data_received(data)

    def leave_lane(self) -> None:
        """Take the ordinary path from now on."""
        self._lane = None

    def force_close(self) -> None:
        """Close without waiting for anything."""
        self._lane = None
        super().force_close()

    def _send_file(self, transport: asyncio.Transport, head: bytes, answer: Prepared, file: OpenFile) -> None:
        self._outgoing = outgoing = Outgoing(self, answer, file, cast("RegistryServer", self._manager).pace, self._sent)
        self._write_ahead(transport, head)
        outgoing.start(flushed=not self._paused)
        if self._outgoing is not None:
            transport.pause_reading()  # what comes next is answered after this

    def _takes_files(self) -> bool:
        """Whether the kernel can send to it: not under TLS, nor where no descriptor is left."""
        try:
            return not self._encrypted and self.tap is not None
        except OSError:
            return False

    def _write_ahead(self, transport: asyncio.Transport, head: bytes) -> None:
        """Send `head`; until `close_tap` the kernel sends whole packets only, which are a quarter cheaper."""
        self._cork(1)
        try:
            count = self.tap.send(head)
        except OSError:  # full, or gone: the transport finds out which
            count = 0
        if count < len(head):
            transport.write(head[count:])

    @property
    def tap(self) -> socket.SocketType:
        """A duplicate of the connection's socket, for the kernel to send files to; closed after each answer.

        A duplicate, because the loop guards a transport's descriptor, and because the number of a closed one may
        already be another client's.
        """
        if self._tap is None:
            assert self.transport is not None  # noqa: S101  # who sends has looked
            duplicate = os.dup(self.transport.get_extra_info("socket").fileno())
            # Told what it is, it does not ask the kernel; its family plays no part in sending.
            self._tap = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, duplicate)
        return self._tap

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop: to ask for the running one costs a system call on Python 3.11."""
        return self._loop

    def close_tap(self) -> None:
        """Give the duplicate back; nothing is sent to it any more."""
        if self._tap is not None:
            self._cork(0)
            self._tap.close()
            self._tap = None

    def _cork(self, on: int) -> None:
        if _CORK is not None and self._tap is not None:
            with suppress(OSError):  # a local socket has no packets
                self._tap.setsockopt(socket.IPPROTO_TCP, _CORK, on)

    def _sent(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        self.close_tap()
        server, transport, now = cast("RegistryServer | None", self._manager), self.transport, self._loop.time()
        assert outgoing is not None  # noqa: S101  # it tells its end once
        if server is not None and server.lane is not None:
            server.lane.sent(outgoing.topic(), self.client, outgoing.outcome, now - outgoing.started, now)
        if transport is None:
            return
        if outgoing.outcome == "sent" and outgoing.closes:
            self._close_flushed(transport)
        elif outgoing.outcome == "sent":
            self._next_keepalive_close_time = now + self._keepalive_timeout
            self._resume_transport_reading()
        else:
            cut(transport, reset=outgoing.outcome == "stalled")

    def _process_keepalive(self) -> None:
        """Called by aiohttp when the idle deadline may have passed; it does not know what the fast lane sends."""
        if self._outgoing is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        transport = self.transport
        super()._process_keepalive()
        if transport is not None and self.transport is None and self.writing_paused:
            transport.abort()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's signature, which aiohttp narrows
        """The client will send no more; True: it still waits for an answer."""
        transport = self.transport
        if transport is None or self._encrypted:
            return None
        answering = self._waiter is None and self._request_count > 0
        if self._messages or answering or self._outgoing is not None:
            self.half_closed = True
            return True
        if self._paused:
            self._loop.call_later(LAST_WORD, transport.abort)
        return None

    def resume_writing(self) -> None:
        """All bytes are with the kernel."""
        super().resume_writing()
        self._wake()
        if self._outgoing is not None:
            self._outgoing.flushed()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone; whoever sends to it learns it."""
        self._lane = None
        if self._outgoing is not None:
            self._outgoing.leave()
        if self.pumping is not None:
            self.pumping.leave()
        super().connection_lost(exc)
        self._wake()
        self.close_tap()

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
        return Done(late=_bytes_of(answer)).as_response()


def _bytes_of(answer: Answer) -> bytes:
    return answer.head("close") + answer.body
