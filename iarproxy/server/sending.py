"""Bytes to a client, from memory or from a file, as fast as it takes them and never faster.

Rule 1: the kernel copies file bytes (`os.sendfile`) to a duplicate of the socket's descriptor, and only while the
        transport's own buffer is empty. A duplicate, because the loop guards a transport's descriptor, and because
        the number of a closed one may already be another client's (design section 8; threats L15).
Rule 2: at most `Pace.burst` bytes leave per turn of the loop: one client does not hold up the others.
Rule 3: a client that takes fewer than `Pace.minimum` bytes in `Pace.window` seconds is cut off (threats L5, T72).
        Only waiting for the client counts, and what counts is what its kernel acknowledged: a large socket
        buffer makes "writable" a poor measure of a slow but honest reader.
Rule 4: where the kernel cannot (TLS, systems without a fitting sendfile), `pread` and the transport do the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iarproxy.errors import StoreUnavailable
from iarproxy.mirror.answers import FileSpan

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from iarproxy.server.connection import Connection

KERNEL: Final = sys.platform == "linux"
_COPY = 256 * 1024  # bytes that are read at once where the kernel does not copy
SMALL: Final = 64 * 1024  # bytes up to which one write of head and body is cheaper than sendfile
_LINGER_RESET = struct.pack("ii", 1, 0)


class Stalled(ConnectionError):
    """The client takes no bytes, or too few to be waited for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a client must take and how much it gets per turn, in bytes; `window` in seconds."""

    minimum: int = 64 * 1024
    window: float = 30.0
    burst: int = 1024 * 1024


class Wire:
    """The way out to one client, for one answer. Close it when the answer is complete or given up.

    Attributes:
        sent: bytes handed to the transport or the kernel for this answer.
    """

    __slots__ = ("_burst", "_connection", "_fd", "_kernel", "_pace", "_transport", "sent")

    def __init__(self, connection: Connection, pace: Pace, *, kernel: bool = KERNEL) -> None:
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._connection = connection
        self._transport = transport
        self._pace = pace
        self._kernel = kernel and transport.get_extra_info("sslcontext") is None
        self._fd = -1
        self._burst = 0
        self.sent = 0

    async def write(self, data: bytes) -> None:
        """Send `data`; returns when the kernel has all of it.

        Raises:
            ConnectionError: the client is gone, or `Stalled`.
        """
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        self.sent += len(data)
        if self._connection.writing_paused:
            await self._flushed()
        await self._yield(len(data))

    async def send(self, spans: AsyncIterable[FileSpan | bytes]) -> None:
        """Send every span as it comes.

        Raises:
            ConnectionError: the client is gone, or `Stalled`.
            IarproxyError: what the spans raise; also StoreUnavailable for a file shorter than its span says.
        """
        async for span in spans:
            if isinstance(span, bytes):
                await self.write(span)
            elif self._kernel:
                await self._sendfile(span)
            else:
                await self._copy(span)

    def cut(self, *, reset: bool) -> None:
        """Break the connection, so that the client sees an incomplete body.

        `reset` also drops what the kernel still holds for a client that does not read; without it the client gets
        what was sent, which it may resume from.
        """
        if reset:
            with suppress(OSError, AttributeError):
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._transport.abort()

    def close(self) -> None:
        """Release the duplicated descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _flushed(self) -> None:
        self._burst = 0
        delivered = self._delivered()
        while not await self._connection.emptied(self._pace.window):
            delivered = self._progress(delivered)

    async def _copy(self, span: FileSpan) -> None:
        offset, stop = span.offset, span.offset + span.count
        while offset < stop:
            data = os.pread(span.fd, min(_COPY, stop - offset), offset)
            if not data:
                raise _too_short()
            offset += len(data)
            await self.write(data)

    async def _sendfile(self, span: FileSpan) -> None:
        if self._connection.writing_paused:
            await self._flushed()
        if self._fd < 0:
            self._fd = os.dup(self._transport.get_extra_info("socket").fileno())
        pump = _Pump(self._transport, self._fd, span, self._pace.burst)
        pump.push()
        if not pump.done.done():
            await self._pumped(pump)
        self.sent += pump.moved
        pump.done.result()
        await self._yield(pump.moved)

    async def _pumped(self, pump: _Pump) -> None:
        loop = asyncio.get_running_loop()
        self._burst = 0
        loop.add_writer(self._fd, pump.push)
        try:
            delivered = self._delivered(pump.moved)
            while not (await asyncio.wait({pump.done}, timeout=self._pace.window))[0]:
                delivered = self._progress(delivered, pump.moved)
        finally:
            loop.remove_writer(self._fd)

    def _progress(self, before: int, moving: int = 0) -> int:
        now = self._delivered(moving)
        if now - before < self._pace.minimum:
            raise Stalled(f"the client took {now - before} bytes in {self._pace.window} s")
        return now

    def _delivered(self, moving: int = 0) -> int:
        """Bytes of this answer that the client's side has acknowledged, give or take a constant."""
        queued = _unacknowledged(self._transport.get_extra_info("socket"))
        return self.sent + moving - self._transport.get_write_buffer_size() - queued

    async def _yield(self, count: int) -> None:
        self._burst += count
        if self._burst >= self._pace.burst:
            self._burst = 0
            await asyncio.sleep(0)


async def gather(spans: AsyncIterable[FileSpan | bytes]) -> bytes:
    """All spans as one piece of memory, for a body of a few bytes that is on disk.

    Raises:
        StoreUnavailable: for a file shorter than its span says.
    """
    pieces = [span if isinstance(span, bytes) else os.pread(span.fd, span.count, span.offset) async for span in spans]
    return b"".join(pieces)


class _Pump:
    """One span on its way through the kernel. `push` is called whenever the socket takes bytes."""

    __slots__ = ("_burst", "_fd", "_span", "_transport", "done", "moved")

    def __init__(self, transport: asyncio.Transport, fd: int, span: FileSpan, burst: int) -> None:
        self._transport, self._fd, self._span, self._burst = transport, fd, span, burst
        self.moved = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def push(self) -> None:
        if self.done.done():
            return
        try:
            self._move()
        except BlockingIOError:
            return
        except (OSError, StoreUnavailable) as error:
            self.done.set_exception(error)
            return
        if self.moved == self._span.count:
            self.done.set_result(None)

    def _move(self) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        left = self._span.count - self.moved
        count = os.sendfile(self._fd, self._span.fd, self._span.offset + self.moved, min(left, self._burst))
        if count == 0 and left:
            raise _too_short()
        self.moved += count


def _too_short() -> StoreUnavailable:
    return StoreUnavailable("a stored file is shorter than its size says; `iarproxy store scrub` repairs it")


def _unacknowledged(sock: socket.socket | None) -> int:
    """Bytes in the socket's send queue; 0 where the system does not tell."""
    if sock is None:
        return 0
    with suppress(OSError, ImportError, AttributeError):
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
        import fcntl  # noqa: PLC0415  # absent where there are no such sockets either
        import termios  # noqa: PLC0415  # as above

        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    return 0
