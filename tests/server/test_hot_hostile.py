"""The hot lane against clients that want its memory, or never read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from iarproxy.server.hot import MAX_BODY
from serving import both_loops, read_reply, serving
from test_hot import GET, HotMirror


@both_loops
async def test_a_large_manifest_takes_the_ordinary_path(tmp_path: Path) -> None:
    """Threats T80: the lane keeps an answer per head, and heads cost a client nothing: only small ones are kept."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", b"x" * (MAX_BODY + 1))
    async with serving(mirror, peek=mirror.peek) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            await asyncio.sleep(0.01)
            writer.write(GET)
            await read_reply(reader)
        writer.close()
    assert 3 == len(mirror.asked)


@both_loops
async def test_a_client_that_takes_no_hot_answers_is_cut(tmp_path: Path) -> None:
    """Threats T72: who reads nothing is gone soon after the idle deadline, unsent bytes and all."""
    mirror = HotMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", b"x" * MAX_BODY)
    async with serving(mirror, peek=mirror.peek, header_deadline=0.5) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        writer.write(GET)
        await read_reply(reader)
        writer.close()
        await writer.wait_closed()
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a packet is a request
            stalled.connect(("127.0.0.1", served.port))
            async with asyncio.timeout(10):
                await asyncio.sleep(0.01)
                while not any(each.writing_paused for each in served.server.connections):
                    stalled.send(GET)
                    await asyncio.sleep(0.01)
                assert 1 == len(mirror.asked)
                while served.server.connections:
                    await asyncio.sleep(0.05)
