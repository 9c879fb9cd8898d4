"""Messages to the service manager (sd_notify(3)).

Rule 1: no manager, no message: without `NOTIFY_SOCKET` everything here does nothing.
Rule 2: a message that cannot be delivered is dropped: serving goes on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

_MICRO = 1_000_000


class Notifier:
    """Tells the service manager about this process.

    Attributes:
        watchdog: seconds within which a ping is expected; None: none is.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ where its name has a NUL.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = _watchdog(environment)

    def ready(self) -> None:
        """Serving; also ends a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; systemd (Type=notify-reload) wants to know when."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The watchdog's ping."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # noqa: FBT003  # the socket's own signature
            sock.sendto(message.encode(), self._address)


def _watchdog(environment: Mapping[str, str]) -> float | None:
    wanted, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(wanted) / _MICRO
