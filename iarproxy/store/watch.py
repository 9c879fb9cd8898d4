"""Growth of files that other processes write: inotify where there is one, else a 2 ms poll.

Rule 1: a notice is a hint to look again; whoever waits also gives a deadline, so a lost one costs only time.
Rule 2: files are watched by descriptor, so that it is the very inode that is followed, whatever its name does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
from typing import Final, Literal, Protocol

Notice = Literal["auto", "inotify", "poll"]

POLL: Final = 0.002  # seconds
_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")


class Watch(Protocol):
    """Notices of some open files."""

    def add(self, fd: int) -> None:
        """Watch this open file too."""
        ...

    async def changed(self, within: float) -> None:
        """Wait until one of them may have changed, at most `within` seconds."""
        ...

    def close(self) -> None:
        """Watch no more."""
        ...


class Notices(Protocol):
    """Where watches come from: one per process and event loop."""

    def watch(self) -> Watch:
        """A new watch of nothing yet."""
        ...

    def close(self) -> None:
        """Release what the watches shared."""
        ...


def notices(how: Notice) -> Notices:
    """The best that this system has (`auto`), or what is asked for. To be called on the running loop."""
    if how == "poll" or (how == "auto" and sys.platform != "linux"):
        return Polling()
    try:
        return Inotify()
    except OSError:
        if how == "inotify":
            raise
        return Polling()  # out of inotify instances: slower, but right


class _Poll:
    def add(self, fd: int) -> None:
        """See `Watch.add`: a poll looks at everything anyway."""

    async def changed(self, within: float) -> None:
        """See `Watch.changed`."""
        await asyncio.sleep(min(within, POLL))

    def close(self) -> None:
        """See `Watch.close`."""


class Polling:
    """Notices by the clock alone."""

    def watch(self) -> Watch:
        """See `Notices.watch`."""
        return _Poll()

    def close(self) -> None:
        """See `Notices.close`."""


class _InotifyWatch:
    def __init__(self, owner: Inotify) -> None:
        self._owner = owner
        self._numbers: set[int] = set()
        self.event = asyncio.Event()

    def add(self, fd: int) -> None:
        """See `Watch.add`."""
        self._numbers.add(self._owner.add(fd, self.event))

    async def changed(self, within: float) -> None:
        """See `Watch.changed`."""
        timer = asyncio.get_running_loop().call_later(within, self.event.set)
        try:
            await self.event.wait()
        finally:
            timer.cancel()
            self.event.clear()

    def close(self) -> None:
        """See `Watch.close`."""
        for number in self._numbers:
            self._owner.drop(number, self.event)


class Inotify:
    """One inotify descriptor, read on the event loop."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        self._events: dict[int, list[asyncio.Event]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ready)

    def watch(self) -> Watch:
        """See `Notices.watch`."""
        return _InotifyWatch(self)

    def add(self, fd: int, event: asyncio.Event) -> int:
        """Set `event` whenever the file behind `fd` changes; the number of the watch, for `drop`."""
        path = f"/proc/self/fd/{fd}".encode()
        try:
            number = self._call("inotify_add_watch", self._fd, path, _MODIFY | _ATTRIB)
        except OSError:
            return -1  # out of watches: the waiter's deadline finds the change
        self._events.setdefault(number, []).append(event)
        return number

    def drop(self, number: int, event: asyncio.Event) -> None:
        """Undo one `add`."""
        events = self._events.get(number, [])
        if event in events:
            events.remove(event)
        if number in self._events and not events:
            del self._events[number]
            self._libc.inotify_rm_watch(self._fd, number)  # fails harmlessly where the inode is gone already

    def close(self) -> None:
        """See `Notices.close`."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ready(self) -> None:
        try:
            raw = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        start = 0
        while start < len(raw):
            number, mask, _, length = _EVENT.unpack_from(raw, start)
            start += _EVENT.size + length
            for event in self._concerned(number, mask):
                event.set()

    def _concerned(self, number: int, mask: int) -> list[asyncio.Event]:
        if mask & _OVERFLOW:
            return [event for events in self._events.values() for event in events]
        return self._events.get(number, [])

    def _call(self, name: str, *arguments: int | bytes) -> int:
        result: int = getattr(self._libc, name)(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result
