"""An HTTP endpoint in the test's own process: for webhooks and for policy decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Self

from aiohttp import web


@dataclass(frozen=True)
class Received:
    """One request as it came; header names in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Listens on a loopback port, answers what it is told to, and writes down what it was sent.

    Attributes:
        decide: the status for one request, instead of `status`.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"allow": true}'
    delay: float = 0.0
    path: str = "/hook"
    tls: SSLContext | None = None
    decide: Callable[[Received], int] | None = None
    seen: list[Received] = field(default_factory=list)
    url: str = ""
    _runner: web.ServerRunner | None = None
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._runner = runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.url = f"{'http' if self.tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}{self.path}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        self._leaving.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(str(request.rel_url), headers, await request.read())
        self.seen.append(received)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.delay):
                await self._leaving.wait()
        status = self.status if self.decide is None else self.decide(received)
        return web.Response(status=status, headers=self.headers, body=self.body)
