"""Accepting connections from an inherited listening socket, and leaving without losing one.

Rule 1: few connections per turn, so that the workers share them.
Rule 2: at most `limit` connections; the rest wait in the kernel's queue.
Rule 3: leaving: take what the queue holds, stop listening, answer every request that came, then close (item 74). An
        idle connection gets a moment in which a request that is on its way may still arrive.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

from iarproxy.server.frame import RegistryServer
from iarproxy.server.handshake import Gate

_PER_TURN = 8
_RETRY = 0.1  # seconds until a full worker, or one out of descriptors, tries again
IDLE_GRACE = 1.0  # seconds in which a request may still arrive on an idle connection


@dataclass(slots=True)
class Door:
    """One listening socket of one worker, and the server behind it. `gate`: None: it speaks plain HTTP."""

    sock: socket.socket
    server: RegistryServer
    limit: int
    gate: Gate | None = None
    _greeting: set[asyncio.Task[None]] = field(default_factory=set)
    _retry: asyncio.TimerHandle | None = None
    _open: bool = False

    def open(self) -> None:
        """Accept from now on."""
        self._open, self._retry = True, None
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._on_clients)

    def leave(self) -> None:
        """Take the connections that wait already, then stop listening. Answers end their connections from now on."""
        self._pause()
        self._open = False
        while self._accept():
            pass
        self.sock.close()
        self.server.drain()

    async def drained(self, deadline: float) -> bool:
        """Wait until every connection has ended; False: some had not at `deadline` (the loop's time)."""
        clock = asyncio.get_running_loop().time
        idle_until = min(clock() + IDLE_GRACE, deadline)
        while self._greeting or self.server.connections:
            if clock() >= deadline:
                return False
            if clock() >= idle_until:
                for task in self._greeting:  # nothing was asked yet
                    task.cancel()
                for connection in self.server.connections:
                    if connection.idle:
                        connection.force_close()
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """Cut what is left."""
        if self._open:
            self.leave()
        for task in self._greeting:
            task.cancel()
        for connection in self.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self.server.shutdown(0.5)

    def _pause(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        asyncio.get_running_loop().remove_reader(self.sock.fileno())

    def _on_clients(self) -> None:
        for _ in range(_PER_TURN):
            if len(self.server.connections) + len(self._greeting) >= self.limit:
                return self._later()
            if not self._accept():
                return None
        return None

    def _later(self) -> None:
        self._pause()
        self._retry = asyncio.get_running_loop().call_later(_RETRY, self.open)

    def _accept(self) -> bool:
        """Accept one connection; False: nobody waits, or this process cannot take more now."""
        try:
            client, _ = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError:  # out of descriptors or memory: threats L16
            if self._open:
                self._later()
            return False
        client.setblocking(False)  # noqa: FBT003  # the socket's own signature
        task = asyncio.create_task(self._greet(client), name="greet")
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)
        return True

    async def _greet(self, client: socket.socket) -> None:
        if self.gate is not None:
            return await self.gate.admit(self.server, client)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self.server, client)
        except OSError:
            client.close()
        return None
