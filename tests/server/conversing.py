"""One conversation, byte for byte the same, with a server that has the fast lane and with one that has none.

Rule 1: what a client sends is a list of packets; between two of them the loop turns a given number of times, so that
        the servers read them apart (the kernel's loopback delivers at once), in whatever state they are then.
Rule 2: a conversation ends with a last request that asks to close, or with a half-close; then all that comes back is
        read until the server closes. So "the connection stays open" is the answer to the last request.
Rule 3: what differs is tried again, for two things are the kernel's: a server that closes with bytes unread resets the
        connection, and a reset may take answers with it; and on a busy machine two packets may arrive as one, of which
        aiohttp answers nothing when its end is no HTTP. What the lane does wrong it does each time.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iarproxy.oci import Digest
from iarproxy.oci.routing import Routes
from serving import HUB, FakeMirror, Served, serving
from test_lane import MemoryMirror

TRIES = 25
PATIENCE = 20.0  # seconds until the server must have closed
_SETTLED = 0.05  # seconds after which a client that has no end yet says that it will send no more
_BEGUN = 5  # turns of the loop in which an accepted connection is ready for its first request
ROUTES = Routes(frozenset({HUB, "ghcr.io", "registry.example.com:5000"}), HUB, {"bound.test": "ghcr.io"})
LAST = b"GET /v2/ HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
ANSWER = b"\r\nDocker-Distribution-API-Version:"  # once in each
_DATE = re.compile(rb"\r\nDate: [^\r]*")

SMALL = bytes(range(256)) * 20  # in memory
MIDDLE = b"middle" * 2000  # in a file, and small enough for the ordinary path to read it at once
LARGE = b"large" * 20_000  # in a file
NAMES = ("docker.io/library/alpine", "ghcr.io/library/alpine", "ghcr.io/a/b", "registry.example.com:5000/a/b")


@dataclass(frozen=True)
class Talk:
    """What one client does.

    Attributes:
        packets: what it sends at once, and how many turns of the loop it waits before it sends more.
        half_close: it ends with a half-close, not with a last request.
        fresh: the lane forgets what it knew, and accounts, after it.
    """

    packets: tuple[tuple[bytes, int], ...]
    half_close: bool = False
    fresh: bool = True


@dataclass(frozen=True)
class Heard:
    """What came back. `half_closed`: the client ended first."""

    data: bytes
    half_closed: bool


@dataclass
class Side:
    """One of the two servers, and what it logged."""

    served: Served
    mirror: FakeMirror
    records: list[tuple[tuple[str, Any], ...]] = field(default_factory=list)

    async def hear(self, talk: Talk) -> Heard:
        """Everything that comes back."""
        with socket.socket() as client:
            client.setblocking(False)  # noqa: FBT003  # the socket's own signature
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.served.port))
            hearing = asyncio.create_task(_hear(client))
            await self._accepted(client.getsockname())
            for packet, turns in talk.packets:
                await _say(client, packet)
                await _turn(turns)
            if not talk.half_close:
                await _say(client, LAST)
                await asyncio.wait([hearing], timeout=_SETTLED)
            ended = hearing.done()
            with suppress(OSError):  # gone already
                client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(PATIENCE):
                data = await hearing
            return Heard(data, half_closed=not ended)

    async def _accepted(self, name: object) -> None:
        async with asyncio.timeout(PATIENCE):
            while name not in [each.get_extra_info("peername") for each in self._transports()]:
                await asyncio.sleep(0)
        await _turn(_BEGUN)

    def _transports(self) -> list[asyncio.Transport]:
        return [each.transport for each in self.served.server.connections if each.transport is not None]

    def accounted(self) -> Counter[tuple[tuple[str, Any], ...]]:
        """What was logged since this was asked."""
        if self.served.server.lane is not None:
            self.served.server.lane.close()
        records, self.records[:] = Counter(self.records), []
        return records


@dataclass
class Pair:
    """A server with the fast lane, and one without."""

    fast: Side
    slow: Side
    blobs: Mapping[str, Digest]
    manifest: Digest

    async def agree(self, talk: Talk, answers: int | None = None) -> None:
        """See that both answer the same but for dates, and as often as is given."""
        for _ in range(TRIES):
            heard = await asyncio.gather(self.fast.hear(talk), self.slow.hear(talk))
            fast, slow = (_comparable(each.data, half_closed=any(one.half_closed for one in heard)) for each in heard)
            accounts = (self.slow.accounted(), self.fast.accounted()) if talk.fresh else (None, None)
            right = fast == slow and answers in (None, fast.count(ANSWER)) and accounts[0] == accounts[1]
            if right:
                break
        assert right, (accounts, fast, slow)


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """Two servers that hold the same."""
    mirrors = [MemoryMirror(folder), MemoryMirror(folder)]
    blobs: dict[str, Digest] = {}
    for mirror in mirrors:
        for name in NAMES:
            manifest = mirror.pin(f"{name}:3")
            mirror.pin(f"{name}:drifted", offered=Digest.of(b"other"))
            mirror.pin(f"{name}:long", b'{"long":"%s"}' % (b"x" * 9000))
        for kind, data in {"small": SMALL, "middle": MIDDLE, "large": LARGE, "empty": b""}.items():
            blobs[kind] = mirror.add(data)
        mirror.small[blobs["small"]] = SMALL
    records: list[list[Any]] = [[], []]
    async with (
        serving(mirrors[0], memory=mirrors[0], routes=ROUTES, log=lambda each: _keep(records[0], each)) as fast,
        serving(mirrors[1], routes=ROUTES, log=lambda each: _keep(records[1], each)) as slow,
    ):
        yield Pair(Side(fast, mirrors[0], records[0]), Side(slow, mirrors[1], records[1]), blobs, manifest)


def _keep(records: list[tuple[tuple[str, Any], ...]], record: Mapping[str, Any]) -> None:
    records.append(tuple((name, value) for name, value in record.items() if name != "duration_ms"))


async def _turn(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def _say(client: socket.socket, packet: bytes) -> None:
    with suppress(OSError):  # the server has closed: what it answered counts
        await asyncio.get_running_loop().sock_sendall(client, packet)


async def _hear(client: socket.socket) -> bytes:
    heard = bytearray()
    with suppress(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(client, 1 << 18):
            heard += data
    return bytes(heard)


def _comparable(heard: bytes, *, half_closed: bool) -> bytes:
    """Without what depends on the moment."""
    undated = _DATE.sub(b"", heard)
    # Whether an answer tells that it is the last depends on when the server reads the half-close.
    return undated.replace(b"\r\nConnection: close\r\n", b"\r\n") if half_closed else undated
