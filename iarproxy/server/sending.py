"""Bytes to a client, from memory or from a file, as fast as it takes them and never faster.

Rule 1: the kernel copies file bytes (`os.sendfile`) to a duplicate of the socket's descriptor, and only while the
        transport's own buffer is empty. A duplicate, because the loop guards a transport's descriptor, and because
        the number of a closed one may already be another client's (design section 8; threats L15).
Rule 2: at most `Pace.burst` bytes leave per turn of the loop, a small piece counted for what it costs: one client does
        not hold up the others, with a large body or with a thousand ranges.
Rule 3: a client that takes fewer than `Pace.minimum` bytes in `Pace.window` seconds is cut off (threats L5, T72).
        Only waiting for the client counts, and what counts is what its kernel acknowledged: a large socket
        buffer makes "writable" a poor measure of a slow but honest reader.
Rule 4: where the kernel cannot (TLS, systems without a fitting sendfile), `pread` and the transport do the same.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from iarproxy.errors import StoreUnavailable
from iarproxy.mirror.serving.answers import FileSpan

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from iarproxy.server.connection import Connection

KERNEL: Final = sys.platform == "linux"
_COPY = 256 * 1024  # bytes that are read at once where the kernel does not copy
SMALL: Final = 64 * 1024  # bytes up to which one write of head and body is cheaper than sendfile
_TURN: Final = 16 * 1024  # bytes that could have left in the time that the smallest piece takes
_LINGER_RESET = struct.pack("ii", 1, 0)


class Stalled(ConnectionError):
    """The client takes no bytes, or too few to be waited for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a client must take and how much it gets per turn, in bytes; `window` in seconds."""

    minimum: int = 64 * 1024
    window: float = 30.0
    burst: int = 2 * 1024 * 1024


class Wire:
    """The way out to one client, for one answer.

    Attributes:
        sent: bytes handed to the transport or the kernel for this answer.
    """

    __slots__ = ("_burst", "_connection", "_kernel", "_pace", "_transport", "sent")

    def __init__(self, connection: Connection, pace: Pace, *, kernel: bool = KERNEL) -> None:
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._connection = connection
        self._transport = transport
        self._pace = pace
        self._kernel = kernel and transport.get_extra_info("sslcontext") is None
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
        """Break the connection; see `cut`."""
        cut(self._transport, reset=reset)

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
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pump = Pump(self._connection, span, self._pace, partial(_settle, ended))
        pump.start()
        if not ended.done():
            self._burst = 0
        try:
            await ended
        finally:
            pump.stop()
            self.sent += pump.moved
        await self._yield(pump.moved)

    def _progress(self, before: int) -> int:
        now = self._delivered()
        if now - before < self._pace.minimum:
            raise Stalled(f"the client took {now - before} bytes in {self._pace.window} s")
        return now

    def _delivered(self) -> int:
        """Bytes of this answer that the client's side has acknowledged, give or take a constant."""
        return self.sent - self._transport.get_write_buffer_size() - _unacknowledged(self._transport)

    async def _yield(self, count: int) -> None:
        self._burst += max(count, _TURN)
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


class Pump:
    """One span of a file on its way through the kernel, while the transport holds no bytes of its own.

    It tells its end once, by `done`: None, or a ConnectionError (`Stalled` is one), OSError or StoreUnavailable;
    perhaps before `start` returns.

    Attributes:
        moved: bytes that the kernel took.
    """

    __slots__ = (
        *("_connection", "_delivered", "_done", "_fd", "_loop", "_next", "_pace", "_span", "_timer", "_transport"),
        "moved",
    )

    def __init__(
        self, connection: Connection, span: FileSpan, pace: Pace, done: Callable[[Exception | None], None]
    ) -> None:
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._connection, self._transport, self._loop = connection, transport, connection.loop
        self._span, self._pace, self._done = span, pace, done
        self._fd = connection.tap.fileno()
        self._next: asyncio.Handle | None = None  # the next turn, where the kernel may take more at once
        self._timer: asyncio.TimerHandle | None = None  # set while the loop watches for the socket to take more
        self._delivered = 0
        self.moved = 0

    def start(self) -> None:
        """Send what can be sent now; the rest follows by itself."""
        self._next = None
        self._connection.pumping = self
        try:
            self._move()
        except BlockingIOError:
            self._wait()
        except (OSError, StoreUnavailable) as error:
            self._end(error)
        else:
            if self.moved == self._span.count:
                self._end(None)
            elif self._timer is None:
                self._next = self._loop.call_soon(self.start)

    def stop(self) -> None:
        """Send no more, and do not tell."""
        self._connection.pumping = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._timer is not None:
            self._loop.remove_writer(self._fd)
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """The client is gone."""
        self._end(ConnectionResetError("the client is gone"))

    def _move(self) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        left = self._span.count - self.moved
        count = os.sendfile(self._fd, self._span.fd, self._span.offset + self.moved, min(left, self._pace.burst))
        if count == 0 and left:
            raise _too_short()
        self.moved += count

    def _wait(self) -> None:
        if self._timer is None:
            self._loop.add_writer(self._fd, self.start)
            self._delivered = self.moved - _unacknowledged(self._transport)
            self._timer = self._loop.call_later(self._pace.window, self._judge)

    def _judge(self) -> None:
        now = self.moved - _unacknowledged(self._transport)
        if now - self._delivered < self._pace.minimum:
            self._end(Stalled(f"the client took {now - self._delivered} bytes in {self._pace.window} s"))
            return
        self._delivered = now
        self._timer = self._loop.call_later(self._pace.window, self._judge)

    def _end(self, error: Exception | None) -> None:
        self.stop()
        self._done(error)


def cut(transport: asyncio.Transport, *, reset: bool) -> None:
    """Break a connection, so that its client sees an incomplete body.

    `reset` also drops what the kernel still holds for a client that does not read; without it the client gets what
    was sent, which it may resume from.
    """
    if reset:
        with suppress(OSError, AttributeError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


def _settle(ended: asyncio.Future[None], error: Exception | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


def _too_short() -> StoreUnavailable:
    return StoreUnavailable("a stored file is shorter than its size says; `iarproxy store scrub` repairs it")


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes in the socket's send queue; 0 where the system does not tell."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return 0
    with suppress(OSError, AttributeError):
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    return 0
