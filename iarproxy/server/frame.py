"""aiohttp's server of one listener: which connections it makes, and how it begins to leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from iarproxy.server.connection import MAX_LINE, Connection
from iarproxy.server.lane import Lane
from iarproxy.server.sending import Pace

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

MAX_HEADERS = 64

Handler = Callable[["BaseRequest"], Awaitable[web.StreamResponse]]


class RegistryServer(web.Server):
    """Makes the connections of one listener.

    Attributes:
        lane: its fast lane; None: all requests take the ordinary path.
        pace: what the lane's clients must take, and get per turn.
        draining: the process is about to leave.
        settings: of every connection, for aiohttp.
    """

    def __init__(
        self, handler: Handler, *, lane: Lane | None = None, pace: Pace | None = None, header_deadline: float = 20.0
    ) -> None:
        super().__init__(cast("Any", handler), handler_cancellation=False)
        self.lane = lane
        self.pace = pace or Pace()
        self.draining = False
        self.settings: dict[str, Any] = {
            "loop": self._loop,
            "keepalive_timeout": header_deadline,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_LINE,
            "max_headers": MAX_HEADERS,
            "auto_decompress": False,
            "access_log": None,
            "lingering_time": 2.0,
        }

    def drain(self) -> None:
        """From now on every answer is its connection's last."""
        self.draining = True
        for connection in self.connections:
            connection.leave_lane()

    @property
    def connections(self) -> list[Connection]:  # type: ignore[override]  # `__call__` makes no others
        """All open connections."""
        return cast("list[Connection]", list(self._connections))

    def __call__(self) -> Connection:
        """The protocol of one more connection."""
        return Connection(self, **self.settings)
