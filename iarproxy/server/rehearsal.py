"""Whether this aiohttp is the one that the fast lane was written for: tried out at start, on a transport of paper.

Rule 1: the lane relies on parts of aiohttp that are not its public interface: what tells that a connection is at rest,
        and what tells when an idle one is closed. Each is looked at here, in the state in which the lane reads it.
Rule 2: what does not hold is a reason, in one line, to serve without the lane: slower, and right.
"""
# ruff: noqa: SLF001  # what is private in aiohttp is what is tried out here

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from iarproxy.server.connection import Connection
from iarproxy.server.done import Done
from iarproxy.server.frame import RegistryServer

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

_HEAD = b"GET /v2/ HTTP/1.1\r\nHost: rehearsal\r\n\r\n"
_TURNS = 20  # of the loop; aiohttp needs three
_FAR = 3600.0  # seconds
_USED = (
    *("_current_request", "_keepalive_handle", "_keepalive_timeout", "_loop", "_manager", "_messages"),
    *("_next_keepalive_close_time", "_paused", "_process_keepalive", "_request_count", "_resume_transport_reading"),
    "_waiter",
)


class _Paper(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(list_of_data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


async def misfit(kind: type[Connection] = Connection) -> str | None:
    """Why connections of `kind` cannot have the fast lane with this aiohttp; None: they can."""
    held = asyncio.Event()
    server = _server(kind, held)
    connection, paper = server(), _Paper()
    try:
        missing = [name for name in _USED if not hasattr(connection, name)]
        if missing:
            return f"aiohttp's connections have no {', '.join(missing)}"
        connection.connection_made(paper)
        return await _rehearse(_Stage(connection, paper, held))
    except Exception as error:  # noqa: BLE001  # whatever breaks here would break a client's connection
        return f"aiohttp's connections break in the rehearsal: {type(error).__name__}: {error}"
    finally:
        held.set()
        connection.connection_lost(None)
        await server.shutdown(0)


@dataclass(frozen=True, slots=True)
class _Stage:
    connection: Connection
    paper: _Paper
    held: asyncio.Event  # set: the handler may answer


def _server(kind: type[Connection], held: asyncio.Event) -> RegistryServer:
    async def answer(request: BaseRequest) -> web.StreamResponse:
        await held.wait()
        return Done(cast("Connection", request.protocol), late=b"answered").as_response()

    class Rehearsing(RegistryServer):
        def __call__(self) -> Connection:
            return kind(self, **self.settings)

    return Rehearsing(answer, header_deadline=_FAR)


async def _rehearse(stage: _Stage) -> str | None:
    for scene, otherwise in _SCENES:
        if not await scene(stage):
            return f"aiohttp does not show {otherwise}"
    return None


async def _comes(state: Callable[[], bool]) -> bool:
    for _ in range(_TURNS):
        if state():
            return True
        await asyncio.sleep(0)
    return False


async def _at_once(stage: _Stage) -> bool:
    connection = stage.connection
    return connection._current_request is None and not connection._messages and connection._request_count == 0


async def _at_first(stage: _Stage) -> bool:
    return await _comes(lambda: stage.connection.idle)


async def _half_asked(stage: _Stage) -> bool:
    stage.connection.data_received(_HEAD[:9])
    await asyncio.sleep(0)
    return stage.connection.idle and stage.connection.is_split


async def _asked(stage: _Stage) -> bool:
    stage.connection.data_received(_HEAD[9:])
    return not stage.connection.idle


async def _answering(stage: _Stage) -> bool:
    begun = await _comes(lambda: stage.connection._current_request is not None)
    return begun and not stage.connection.idle


async def _answered(stage: _Stage) -> bool:
    stage.held.set()
    done = await _comes(lambda: stage.connection.idle)
    at_rest = not stage.connection.is_split and not stage.connection.writing_paused
    return done and at_rest and stage.paper.written.endswith(b"answered")


async def _kept(stage: _Stage) -> bool:
    return not _closes(stage, _FAR)


async def _closed(stage: _Stage) -> bool:
    return _closes(stage, -_FAR)


def _closes(stage: _Stage, seconds: float) -> bool:
    stage.connection._next_keepalive_close_time = asyncio.get_running_loop().time() + seconds
    stage.connection._process_keepalive()
    return stage.paper.closed


_SCENES = (
    (_at_once, "that a new connection was asked nothing"),
    (_at_first, "that a new connection waits for its first request"),
    (_half_asked, "that half a request is no request"),
    (_asked, "that a request has come"),
    (_answering, "that a request is being answered"),
    (_answered, "that an answer is complete"),
    (_kept, "an idle connection any patience before `_next_keepalive_close_time`"),
    (_closed, "an idle connection the door after `_next_keepalive_close_time`"),
)
