"""Many clients at once on raw sockets: what each got, to the byte, complete or not."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

_BUFFER = 1 << 18


@dataclass(frozen=True)
class Body:
    """What one client got. `size`: what the answer promised; -1 where none came. `checksum`: of what arrived."""

    status: int
    size: int
    received: int
    checksum: str

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.received == self.size


def checksum(data: bytes) -> str:
    return xxhash.xxh3_128(data).hexdigest()


async def download(port: int, target: str, *, delay: float = 0, hang_up_after: int | None = None) -> Body:
    """GET `target` after `delay` seconds; leave after `hang_up_after` bytes of the body, None: never."""
    await asyncio.sleep(delay)
    loop = asyncio.get_running_loop()
    with socket.socket() as door:
        door.setblocking(False)  # noqa: FBT003  # the standard library knows no keyword here
        await loop.sock_connect(door, ("127.0.0.1", port))
        await loop.sock_sendall(door, f"GET {target} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n".encode())
        head = b""
        try:
            while b"\r\n\r\n" not in head and (data := await loop.sock_recv(door, _BUFFER)):
                head += data
            head, ended, start = head.partition(b"\r\n\r\n")
            return await _body(door, head, start, hang_up_after) if ended else Body(0, -1, 0, "")
        except ConnectionError:
            return Body(0, -1, 0, "")


async def _body(door: socket.socket, head: bytes, start: bytes, hang_up_after: int | None) -> Body:
    loop, buffer = asyncio.get_running_loop(), bytearray(_BUFFER)
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    hasher, received = xxhash.xxh3_128(start), len(start)
    view = memoryview(buffer)
    try:
        while hang_up_after is None or received < hang_up_after:
            count = await loop.sock_recv_into(door, buffer)
            if not count:
                break
            hasher.update(view[:count])
            received += count
    except ConnectionError:
        pass  # a cut: what came is what came
    return Body(int(head.split(b" ", 2)[1]), int(length[1]) if length else -1, received, hasher.hexdigest())


async def crowd(port: int, target: str, delays: Sequence[float]) -> list[Body]:
    """One client for each of `delays`, all of one target."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(download(port, target, delay=delay)) for delay in delays]
    return [task.result() for task in tasks]
