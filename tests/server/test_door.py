"""Accepting, limits and leaving, in one process (item 81; threats L16, T80), and what must be there at start."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from iarproxy.server.door import Door
from iarproxy.server.frame import RegistryServer
from iarproxy.server.limits import connection_limit, raise_file_limit, require_c_parser
from iarproxy.server.listeners import Role, open_listeners
from iarproxy.server.registry import RegistryFace
from serving import ROUTES, FakeMirror, Served, both_loops, read_reply

PING = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"


@asynccontextmanager
async def door(folder: Path, limit: int = 100) -> AsyncIterator[tuple[Door, Served]]:
    (listener,) = open_listeners([(Role.REGISTRY, "127.0.0.1:0")])
    port = listener.sock.getsockname()[1]
    server = RegistryServer(RegistryFace(FakeMirror(folder), ROUTES).on(listener.address))
    opened = Door(listener.sock, server, limit)
    opened.open()
    try:
        yield opened, Served(port, server)
    finally:
        await opened.close()


async def ping(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await served.connect()
    writer.write(PING)
    assert (await read_reply(reader)).body == b"{}"
    return reader, writer


@both_loops
async def test_connections_beyond_the_limit_wait(tmp_path: Path) -> None:
    """A full worker leaves the rest in the kernel's queue, and takes them when there is room."""
    async with door(tmp_path, limit=2) as (_, served):
        _, first = await ping(served)
        _, second = await ping(served)
        third = asyncio.create_task(ping(served))
        await asyncio.wait({third}, timeout=0.3)
        assert not third.done()
        first.close()
        _, writer = await asyncio.wait_for(third, 5)
        second.close()
        writer.close()


@both_loops
async def test_leaving_takes_what_waits(tmp_path: Path) -> None:
    """Rule 3: connections in the kernel's queue are answered after `leave`; later ones are refused."""
    async with door(tmp_path) as (opened, served):
        clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
        opened.leave()
        for client in clients:
            client.sendall(PING)
        loop = asyncio.get_running_loop()
        assert await opened.drained(loop.time() + 5)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            client.close()
        try:
            await served.connect()
        except ConnectionRefusedError:
            return
        raise AssertionError("a connection was accepted after leaving")


@both_loops
async def test_idle_connections_do_not_hold_up_leaving(tmp_path: Path) -> None:
    """Rule 3: an idle connection gets its moment, in which a request is still answered, and is closed then."""
    async with door(tmp_path) as (opened, served):
        idle_reader, idle = await ping(served)
        late_reader, late = await ping(served)
        opened.leave()
        loop = asyncio.get_running_loop()
        draining = asyncio.create_task(opened.drained(loop.time() + 10))
        await asyncio.sleep(0.3)
        late.write(PING)
        assert (await read_reply(late_reader)).headers["connection"] == "close"
        assert await draining
        assert await idle_reader.read() == b""
        idle.close()
        late.close()


async def test_out_of_descriptors(tmp_path: Path) -> None:
    """L16: a worker without descriptors waits instead of spinning or dying, and recovers."""
    async with door(tmp_path) as (_, served):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        clients = [socket.socket() for _ in range(3)]
        used = max(int(each) for each in os.listdir("/proc/self/fd"))  # noqa: PTH208  # Path.iterdir opens one more
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        try:
            for client in clients:
                client.connect(("127.0.0.1", served.port))
                client.sendall(PING)
            await asyncio.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop = asyncio.get_running_loop()
        for client in clients:
            client.setblocking(False)  # noqa: FBT003  # the socket's own signature
            reply = await asyncio.wait_for(loop.sock_recv(client, 4096), 5)
            assert reply.startswith(b"HTTP/1.1 200")
            client.close()


def test_limits_fit_the_descriptors() -> None:
    """Rule 1: never more connections than there are descriptors for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        assert connection_limit(10_000) == 341
        assert connection_limit(100) == 100
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(soft, 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_c_parser_is_required() -> None:
    """T76: without aiohttp's C parser nothing is served, and the line names the remedy."""
    require_c_parser()
    script = "from iarproxy.server.limits import require_c_parser as r; r()"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ConfigError: aiohttp runs without its C parser" in ended.stderr
