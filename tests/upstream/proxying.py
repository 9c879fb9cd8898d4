"""An HTTP proxy in the test's own process: CONNECT and absolute-form, with a login where one is wanted, and a log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

_END = b"\r\n\r\n"


@dataclass
class Passed:
    """One request head as the proxy got it; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class FakeProxy:
    """Listens on a loopback port; `login`: the Proxy-Authorization that it wants, empty: none.

    Attributes:
        log: the heads that the proxy itself was sent.
        answer: a status for CONNECT instead of a tunnel; 0: a tunnel.
    """

    login: str = ""
    answer: int = 0
    log: list[Passed] = field(default_factory=list)
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            passed = _parsed(await reader.readuntil(_END))
            self.log.append(passed)
            if self.login and passed.headers.get("proxy-authorization") != self.login:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif passed.method != "CONNECT":
                await self._forward(passed, writer)
            elif self.answer:
                writer.write(f"HTTP/1.1 {self.answer} No\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                return await self._tunnel(passed.target, reader, writer)
            await writer.drain()

    async def _forward(self, passed: Passed, writer: asyncio.StreamWriter) -> None:
        """One request to the origin; its connection is not kept."""
        address, _, path = passed.target.removeprefix("http://").partition("/")
        headers = {name: value for name, value in passed.headers.items() if not name.startswith("proxy-")}
        lines = [f"{passed.method} /{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        host, _, port = address.rpartition(":")
        back, forth = await asyncio.open_connection(host, int(port))
        forth.write(("\r\n".join(lines) + "\r\nConnection: close\r\n\r\n").encode())
        try:
            while piece := await back.read(65536):
                writer.write(piece)
                await writer.drain()
        finally:
            forth.close()
        writer.close()

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        back, forth = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, forth), _pump(back, writer))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    target.close()


def _parsed(head: bytes) -> Passed:
    line, *fields = head.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = line.split(" ")
    pairs = (each.split(":", 1) for each in fields)
    return Passed(method, target, {name.lower(): value.strip() for name, value in pairs})
