"""Answers of the `FakeRegistry` as bytes on a connection, so that each fault is exactly what the test asked for.

Rule 1: every answer goes through `Answer`; aiohttp reads requests and never writes a byte of an answer itself.
Rule 2: what was given to the transport is counted when it is given, not when the answer ends.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from registry_faults import Fault

_PIECE = 65_536  # bytes between two looks at the faults' positions
_NO_BODY = frozenset({204, 304})


class Answer(web.StreamResponse):
    """A status, headers and a body, sent as `fault` says.

    Args:
        count: called with the number of body bytes each time some are given to the transport.
        gates: the events that `Fault.wait_for` names.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        fault: Fault,
        count: Callable[[int], None] = lambda _size: None,
        gates: Callable[[str], asyncio.Event] = lambda _name: asyncio.Event(),
    ) -> None:
        super().__init__(status=status)
        self._fields = dict(headers)
        self._content = body
        self._fault = fault
        self._count = count
        self._gates = gates
        self._wire: AbstractStreamWriter | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it. Called by aiohttp once the handler returned this."""
        fault, transport = self._fault, request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        if fault.wait_for:
            await self._gates(fault.wait_for).wait()
        if fault.stall_at == -1:
            await asyncio.sleep(fault.stall_for)
        self.force_close() if self._ends_connection() or not request.keep_alive else None
        if fault.no_answer:
            _cut(transport, reset=fault.reset)
            return None
        body = self._body_on_wire()
        writer = request.writer
        await writer.write(self._head(len(body)))
        if request.method != "HEAD" and self.status not in _NO_BODY:
            whole = await self._send(writer, transport, body)
            if not whole or fault.close_delimited:
                _cut(transport, reset=fault.reset and not whole)
        return None

    async def write_eof(self, data: Any = b"") -> None:
        """Nothing is left to write: `prepare` sent everything."""

    def _ends_connection(self) -> bool:
        fault = self._fault
        return fault.close_delimited or fault.no_answer or fault.truncate_at is not None or fault.length_by > 0

    def _body_on_wire(self) -> bytes:
        body = self._content
        if self._fault.gzip:
            body = gzip.compress(body, mtime=0)
        if self._fault.length_by < 0:
            body = body[: self._fault.length_by]
        return body + self._fault.append

    def _head(self, size: int) -> bytes:
        fault = self._fault
        fields: dict[str, str | None] = dict(self._fields)
        if fault.gzip:
            fields["Content-Encoding"] = "gzip"
        if fault.chunked:
            fields["Transfer-Encoding"] = "chunked"
        elif not fault.close_delimited:
            fields.setdefault("Content-Length", str(size + max(0, fault.length_by)))
        if self._ends_connection():
            fields["Connection"] = "close"
        lowered = {name.lower(): name for name in fields}
        for name, value in fault.headers.items():
            fields[lowered.get(name.lower(), name)] = value
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Odd"
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    async def _send(self, writer: AbstractStreamWriter, transport: asyncio.Transport, body: bytes) -> bool:
        fault = self._fault
        end = len(body) if fault.truncate_at is None else min(fault.truncate_at, len(body))
        at = 0
        while at < end:
            if fault.stall_at is not None and at == fault.stall_at:
                await asyncio.sleep(fault.stall_for)
            upto = min(end, at + self._piece(at))
            await self._write(writer, transport, body[at:upto])
            if fault.rate:
                await asyncio.sleep((upto - at) / fault.rate)
            at = upto
        if fault.stall_at is not None and at == fault.stall_at == end:
            await asyncio.sleep(fault.stall_for)
        whole = end == len(body)
        if fault.chunked and whole:
            await writer.write(b"0\r\n\r\n")
        if fault.reset and not whole:
            transport.set_write_buffer_limits(0)
            await writer.drain()
        return whole

    def _piece(self, at: int) -> int:
        piece = _PIECE if not self._fault.rate else max(1, min(_PIECE, int(self._fault.rate / 50)))
        stall = self._fault.stall_at
        return min(piece, stall - at) if stall is not None and stall > at else piece

    async def _write(self, writer: AbstractStreamWriter, transport: asyncio.Transport, data: bytes) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._count(len(data))
        if self._fault.chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        await writer.write(data)
        await writer.drain()


def _cut(transport: asyncio.Transport, *, reset: bool) -> None:
    if not reset:
        transport.close()
        return
    held = transport.get_extra_info("socket")
    if held is not None:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
