"""From an accepted socket to a TLS connection of the server.

Rule 1: who has not completed the handshake in `deadline` seconds is dropped (threats T70).
Rule 2: what is no TLS gets a plain 400 that says so, and is closed: a client never hangs on the wrong scheme.
Rule 3: a handshake that fails is counted, and told of at most once a second: anybody can make them fail. A peer that
        leaves without a word is a load balancer's probe, and normal.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import structlog

from iarproxy.server.access import printable
from iarproxy.server.errors import malformed_http
from iarproxy.server.frame import RegistryServer
from iarproxy.server.tls import Tls

_log = structlog.get_logger("iarproxy.server")

Outcome: TypeAlias = Literal["done", "late", "plain", "failed", "left"]

_HELLO = b"\x16"  # the first byte of TLS
_LAST_WORD = 1.0  # seconds in which a client may take the plain 400
_QUIET = 1.0  # seconds between two events


@dataclass(slots=True)
class Gate:
    """Lets clients in by TLS.

    Attributes:
        count: told how each handshake ended.
    """

    tls: Tls
    deadline: float
    count: Callable[[Outcome], None]
    _told: float = field(default=float("-inf"))

    async def admit(self, server: RegistryServer, client: socket.socket) -> None:
        """Make a connection of `server` of it, or close it; raises only if it is cancelled."""
        try:
            self.count(await self._admit(server, client))
        except OSError as error:
            client.close()
            self._fail(_outcome(error), error)
        except BaseException:
            client.close()
            raise

    async def _admit(self, server: RegistryServer, client: socket.socket) -> Outcome:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.deadline
        async with asyncio.timeout_at(until):
            first = await _first_byte(client)
            if first != _HELLO:
                if first:
                    await _answer_plainly(client)
                client.close()
                return "plain" if first else "left"
        await loop.connect_accepted_socket(
            server,
            client,
            ssl=self.tls.context,
            ssl_handshake_timeout=max(0.01, until - loop.time()),
            ssl_shutdown_timeout=server.pace.window,
        )
        return "done"

    def _fail(self, outcome: Outcome, error: OSError) -> None:
        self.count(outcome)
        now = asyncio.get_running_loop().time()
        if outcome == "failed" and now - self._told > _QUIET:
            self._told = now
            _log.info("a TLS handshake failed", reason=printable(str(error)))


def _outcome(error: OSError) -> Outcome:
    match error:
        case TimeoutError() | ConnectionAbortedError():
            return "late"
        case ssl.SSLError():
            return "failed"
        case _:
            return "left"


async def _first_byte(client: socket.socket) -> bytes:
    """What the client says first, left unread; empty: it left."""
    while True:
        with suppress(BlockingIOError, InterruptedError):
            return client.recv(1, socket.MSG_PEEK)
        await _readable(client)


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    loop.add_reader(client.fileno(), _settle, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(client.fileno())


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _answer_plainly(client: socket.socket) -> None:
    answer = malformed_http(400, "this port speaks TLS: use https")
    with suppress(OSError):
        client.recv(1 << 16)  # what lies unread at the close would reset the connection, and the answer with it
        client.send(answer.head("close") + answer.body)
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_LAST_WORD):
            await asyncio.get_running_loop().sock_recv(client, 1 << 16)
