"""Writing what changed a little later, once for many changes, and never on the path of a request.

Rule 1: the first change after a write starts the wait; whatever changes until its end is in the same write.
Rule 2: the last change is written on close; what changes after it is not. A write that fails is its own business: it
        must not raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Behind:
    """Calls `write` at most once per `every` seconds after something changed."""

    def __init__(self, write: Callable[[], Awaitable[None]], every: float) -> None:
        self._write = write
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._changed = False
        self._closing = asyncio.Event()

    def changed(self) -> None:
        """Something is to be written. Called on the loop."""
        self._changed = True
        if self._task is None and not self._closing.is_set():
            self._task = asyncio.create_task(self._later(), name="write behind")

    async def now(self) -> None:
        """Write at once what is to be written."""
        if self._changed:
            self._changed = False
            await self._write()

    async def _later(self) -> None:
        while self._changed and not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._closing.wait()
            await self.now()
        self._task = None

    async def close(self) -> None:
        """Write what is left, and end."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self.now()
