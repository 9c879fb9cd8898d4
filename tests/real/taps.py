"""A tap between the mirror and its upstream: it passes bytes on, counts them, and can slow or cut answers.

Only answers to GET of a blob are touched. A cut ends the connection after so many bytes of the answer, in its head or
in its body; with `abort` by a reset, which also takes back what was under way, else by a plain end.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Self

_BLOB = re.compile(rb"GET \S*/blobs/(sha256:[0-9a-f]{64})\S* HTTP/1\.1\r\n")
_CHUNK = 65536


@dataclass
class _Answer:
    """The blob that a connection is answering, and how many bytes of it may still pass; None: all."""

    digest: str = ""
    left: int | None = None


class Tap:
    """Use as `async with`. `rate`: bytes a second of all blob answers together; None: as fast as they come.

    Attributes:
        port: what the mirror is pointed at.
        cuts: for a digest, after how many bytes each further answer is cut; an empty list cuts no more.
        requests: how often each blob was asked for.
        passed: how many bytes of answers to it went through.
        heads: the head of every request, of those that came in one piece.
    """

    def __init__(self, target: int, *, rate: int | None = None, port: int = 0) -> None:
        self.port = port
        self.cuts: dict[str, list[int]] = {}
        self.abort = False
        self.requests: dict[str, int] = defaultdict(int)
        self.passed: dict[str, int] = defaultdict(int)
        self.heads: list[str] = []
        self._target, self._rate = target, rate
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self.hang_up()
        await self._server.wait_closed()

    async def hang_up(self) -> None:
        """Cut all connections, and wait until they are gone."""
        for transport in self._transports:
            transport.abort()
        await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        answer = _Answer()
        try:
            upstream, towards = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._transports |= {writer.transport, towards.transport}
        pumps = [
            asyncio.create_task(self._ask(reader, towards, answer)),
            asyncio.create_task(self._reply(upstream, writer, answer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, towards):
                each.transport.abort() if self.abort else each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._transports -= {writer.transport, towards.transport}
            self._tasks.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, towards: asyncio.StreamWriter, answer: _Answer) -> None:
        while data := await reader.read(_CHUNK):
            if data.startswith((b"GET", b"HEAD")):
                self.heads.append(data.decode("latin-1"))
            if found := _BLOB.match(data):
                answer.digest = found[1].decode()
                self.requests[answer.digest] += 1
                waiting = self.cuts.get(answer.digest)
                answer.left = waiting.pop(0) if waiting else None
            elif data.startswith((b"GET", b"HEAD")):
                answer.digest, answer.left = "", None
            towards.write(data)
            await towards.drain()

    async def _reply(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: _Answer) -> None:
        while data := await upstream.read(_CHUNK):
            part = data if answer.left is None else data[: answer.left]
            writer.write(part)
            await writer.drain()
            if answer.digest:
                self.passed[answer.digest] += len(part)
                if self._rate:
                    await asyncio.sleep(len(part) / self._rate)
            if answer.left is not None:
                answer.left -= len(part)
                if answer.left <= 0:
                    return
