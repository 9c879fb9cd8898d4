"""An answer of the fast lane whose body is a file: on its way to one client, without a task.

Rule 1: the head goes by the transport; the file begins when the kernel has all of the head: no byte overtakes another.
Rule 2: the end is told once, whether it came by the last byte, by the client or by the watchdog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from iarproxy.mirror.serving.answers import FileSpan
from iarproxy.server.accounts import Outcome, Topic
from iarproxy.server.ready import OpenFile, Prepared
from iarproxy.server.sending import Pace, Pump, Stalled

if TYPE_CHECKING:
    from iarproxy.server.connection import Connection


class Outgoing:
    """The body of `answer`, which is the file `file`, on its way; `done` is called once when it has ended.

    Attributes:
        started: the loop's time.
        outcome: how it ended; meaningful once `done` was called.
    """

    __slots__ = ("_answer", "_done", "_file", "_loop", "_pace", "_pump", "_timer", "outcome", "started")

    def __init__(
        self,
        connection: Connection,
        answer: Prepared,
        file: OpenFile,
        pace: Pace,
        done: Callable[[], None],
    ) -> None:
        self._answer, self._file, self._pace, self._done = answer, file, pace, done
        self._loop = connection.loop
        self.started = self._loop.time()
        self.outcome: Outcome = "sent"
        self._timer: asyncio.TimerHandle | None = None
        file.hold()
        self._pump = Pump(connection, FileSpan(file.fd, answer.start, answer.count), pace, self._end)

    def start(self, *, flushed: bool) -> None:
        """The head was written; `flushed`: the kernel has all of it."""
        if flushed:
            self._pump.start()
        else:
            stalled = Stalled(f"the client took no head in {self._pace.window} s")
            self._timer = self._loop.call_later(self._pace.window, self._end, stalled)

    def flushed(self) -> None:
        """The kernel has all of the head now; nothing happens if it had before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._pump.start()

    def leave(self) -> None:
        """The client is gone."""
        self._end(ConnectionResetError("the client is gone"))

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return self._answer.closes

    def topic(self) -> Topic:
        """What is accounted for."""
        return self._answer.topic if self.outcome == "sent" else replace(self._answer.topic, sent=self._pump.moved)

    def _end(self, error: Exception | None) -> None:
        if error is not None:
            self.outcome = _outcome(error)
        self._pump.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._file.release()
        self._done()


def _outcome(error: Exception) -> Outcome:
    match error:
        case Stalled():
            return "stalled"
        case ConnectionError():
            return "left"
        case _:
            return "broken"
