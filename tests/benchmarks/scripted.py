"""A server that says what a test wrote down, so that the load generator can be told lies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Reply = list[bytes] | None  # pieces, each in a packet of its own; None: hang up


class Scripted:
    """Answers request number N (from 0) with `reply(N)`. `heads`: what was asked."""

    def __init__(self, reply: Callable[[int], Reply]) -> None:
        self._reply, self.heads = reply, list[bytes]()
        self._lock = threading.Lock()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                self._open.append(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._answered(client):
                pass

    def _answered(self, client: socket.socket) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = client.recv(4096)
            if not more:
                return False
            head += more
        with self._lock:
            number = len(self.heads)
            self.heads.append(head)
        reply = self._reply(number)
        for piece in reply or []:
            client.sendall(piece)
            threading.Event().wait(0.01 if len(reply or []) > 1 else 0)
        return reply is not None

    def close(self) -> None:
        for each in (self._door, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def scripted(reply: Callable[[int], Reply]) -> Iterator[Scripted]:
    """The server, while the block runs."""
    server = Scripted(reply)
    try:
        yield server
    finally:
        server.close()


def always(*pieces: bytes) -> Callable[[int], Reply]:
    """The same answer to everything."""
    return lambda _: list(pieces)
