"""Taps and sentinels on a thread with a loop of its own, for tests that wait for programs.

A sentinel stands for the real registry, as the proxy that clients are told to reach the world by: it counts who comes
and sends everybody away. So "nothing reached the real registry" is measured, not assumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from taps import Tap

T = TypeVar("T")
_DEADLINE = 30.0


class Sentinel:
    """Use as `async with`.

    Attributes:
        port: where it listens.
        seen: the first line that each connection brought, such as `CONNECT registry-1.docker.io:443 HTTP/1.1`.
    """

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 10)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.seen.append("(nothing yet)")
        at = len(self.seen) - 1
        try:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                self.seen[at] = (await asyncio.wait_for(reader.readline(), 10)).decode("latin-1").strip()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._tasks.discard(task)


class Wires:
    """The thread. Use as `with`; what was opened and not closed is closed at its end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires")
        self._open: list[Tap | Sentinel] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for each in reversed(self._open[:]):
                self.close(each)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_DEADLINE)
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE)

    def tap(self, target: int, *, port: int = 0) -> Tap:
        """A tap before the loopback port `target`, on `port` (0: any)."""
        made = self._run(Tap(target, port=port).__aenter__())
        self._open.append(made)
        return made

    def sentinel(self) -> Sentinel:
        made = self._run(Sentinel().__aenter__())
        self._open.append(made)
        return made

    def hang_up(self, tap: Tap) -> None:
        """Cut what goes through the tap just now."""
        self._run(tap.hang_up())

    def close(self, wire: Tap | Sentinel) -> None:
        """Close it, and cut what goes through it."""
        self._run(wire.__aexit__())
        self._open.remove(wire)
