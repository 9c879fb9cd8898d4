"""What the handler gives back to aiohttp: nothing that aiohttp still has to send, but for its own errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

    from iarproxy.server.connection import Connection

LAST_WORD = 5.0  # seconds that a client gets to take an answer that nobody watches


class Done:
    """What aiohttp gets back: an answer that is on the wire already (`late` empty) or that is written now.

    `connection`: where the answer went; None: it is the last one there.
    """

    def __init__(self, connection: Connection | None = None, *, late: bytes = b"") -> None:
        self._connection, self._late = connection, late

    @property
    def keep_alive(self) -> bool:
        """Read by aiohttp in the turn in which it begins to wait for the next request, which may never come."""
        return self._connection is not None and not self._connection.has_heard_all

    async def prepare(self, request: BaseRequest) -> None:
        """Called by aiohttp."""
        transport = request.transport
        if self._late and transport is not None:
            transport.write(self._late)
            if cast("Connection", request.protocol).writing_paused:
                asyncio.get_running_loop().call_later(LAST_WORD, transport.abort)

    async def write_eof(self) -> None:
        """Called by aiohttp."""

    def as_response(self) -> web.StreamResponse:
        """Itself, as the type that aiohttp declares; it uses only `prepare`, `write_eof` and `keep_alive`."""
        return cast("web.StreamResponse", self)
