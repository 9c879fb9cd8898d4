"""A client that has said all it will say still gets every answer, and then the close, at once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from conversing import Side, Talk
from serving import both_loops, serving
from test_lane import GET, MemoryMirror

BIG = os.urandom(1 << 20) * 8
LANE = pytest.mark.parametrize("lane", [True, False], ids=["lane", "ordinary"])


@LANE
@both_loops
async def test_in_every_state_of_the_server(tmp_path: Path, *, lane: bool) -> None:
    """Whenever the half-close comes, however far the server is, all requests are answered."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror if lane else None) as served:
        for request, answers in ((GET, 1), (GET * 3, 3), (GET + GET[:20], 1), (b"", 0)):
            for turns in range(8):
                heard = await Side(served, mirror).hear(Talk(((request, turns),), half_close=True))
                assert answers == heard.data.count(b"HTTP/1.1 200 OK"), (turns, heard)


@LANE
@both_loops
async def test_while_a_body_is_sent(tmp_path: Path, *, lane: bool) -> None:
    """A half-close in the middle of a large body does not leave the connection open behind it."""
    mirror = MemoryMirror(tmp_path)
    blob = mirror.add(BIG)
    async with serving(mirror, memory=mirror if lane else None) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        writer.write(f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        started = time.monotonic()
        assert BIG == await asyncio.wait_for(reader.read(), 10)
        assert time.monotonic() - started < 8
        writer.close()
