"""A loop whose clock jumps to the next thing that is due, while real threads are waited for.

Rule 1: time stands still while work in a thread is under way, or else the virtual clock would run ahead of it.
Rule 2: what runs in an executor is noticed; for threads with queues of their own a test counts with `working`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if self.loop.under_way or timeout is None:
            return super().select(0.05)
        self.loop.skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0, and passes only while everybody sleeps."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self.under_way = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._virtual += seconds

    @contextmanager
    def working(self) -> Iterator[None]:
        """A real thread has something to do."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed has one for each Python
        """As ever, and noticed."""
        self.under_way += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self._ended())
        return future

    def _ended(self) -> None:
        self.under_way -= 1


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in as little time as its own computing takes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def counted(call: Awaitable[T]) -> T:
    """The result of a call that a real thread works on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with loop.working():
        return await call
