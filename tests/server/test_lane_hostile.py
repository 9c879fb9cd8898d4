"""The fast lane against clients that want its memory, or never read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from serving import both_loops, read_reply, serving
from test_lane import GET, MemoryMirror


@both_loops
async def test_a_client_that_takes_no_hot_answers_is_cut(tmp_path: Path) -> None:
    """Threats T72: who reads nothing is gone soon after the idle deadline, unsent bytes and all."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3", b"x" * 32_768)
    async with serving(mirror, memory=mirror, header_deadline=0.5) as served:
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
                assert [] == mirror.asked
                while served.server.connections:
                    await asyncio.sleep(0.05)
