"""Sending bodies: kernel and fallback, growing bodies, cuts, slow and vanishing clients (items 11, 12, 20, T72)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from certificates import contexts
from iarproxy.errors import IarproxyError, StoreFull, UpstreamWrong
from iarproxy.mirror.serving.answers import FileSpan
from iarproxy.server.sending import Pace
from serving import FakeMirror, Served, both_loops, failing, read_reply, serving, until

BIG = os.urandom(1 << 20) * 8
KERNEL_AND_NOT = pytest.mark.parametrize("kernel", [True, False], ids=["sendfile", "fallback"])


def request(digest: object, method: str = "GET") -> bytes:
    return f"{method} /v2/alpine/blobs/{digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode()


@KERNEL_AND_NOT
@both_loops
async def test_large_blob_arrives_whole(tmp_path: Path, *, kernel: bool) -> None:
    """A blob larger than any buffer arrives whole, several at once, and the connection stays usable."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    async with serving(mirror, kernel=kernel, pace=Pace(burst=100_000)) as served:

        async def pull() -> None:
            reader, writer = await served.connect()
            for _ in range(2):
                writer.write(request(blob))
                assert (await read_reply(reader)).body == BIG
            writer.close()

        await asyncio.gather(*(pull() for _ in range(4)))
    assert all(body.closed for body in mirror.bodies)


@KERNEL_AND_NOT
@both_loops
async def test_unix_socket(tmp_path: Path, *, kernel: bool) -> None:
    """A listener on a unix socket sends the same bytes."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    async with serving(mirror, kernel=kernel, unix=tmp_path / "s") as served:
        reader, writer = await served.connect()
        writer.write(request(blob))
        assert (await read_reply(reader)).body == BIG
        writer.close()


@both_loops
async def test_tls_takes_the_fallback(tmp_path: Path) -> None:
    """Rule 4: a TLS transport is never bypassed."""
    offer, trust = contexts(tmp_path)
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    async with serving(mirror, ssl=offer) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=trust)
        writer.write(request(blob))
        assert (await read_reply(reader)).body == BIG
        writer.transport.abort()
        await asyncio.sleep(0.1)


@KERNEL_AND_NOT
@both_loops
async def test_growing_body(tmp_path: Path, *, kernel: bool) -> None:
    """Item 38: the head comes at once, the bytes as they arrive, memory and file spans in order; ranges too."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    gate = asyncio.Event()

    async def plan(fd: int, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        await gate.wait()
        for at in range(start, stop, 300_000):
            count = min(300_000, stop - at)
            await asyncio.sleep(0)
            yield FileSpan(fd, at, count) if at % 2 else os.pread(fd, count, at)

    mirror.growing = plan
    async with serving(mirror, kernel=kernel) as served:
        reader, writer = await served.connect()
        writer.write(request(blob))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200")
        gate.set()
        assert await asyncio.wait_for(reader.readexactly(len(BIG)), 10) == BIG
        writer.close()
        part = await served.ask(f"/v2/alpine/blobs/{blob}", Range="bytes=1000001-3000000")
    assert (part.status, part.body) == (206, BIG[1_000_001:3_000_001])


@pytest.mark.parametrize("failure", [UpstreamWrong("digest"), StoreFull("disk")], ids=repr)
@KERNEL_AND_NOT
@both_loops
async def test_failure_after_the_head_cuts(tmp_path: Path, failure: IarproxyError, *, kernel: bool) -> None:
    """Item 11: what cannot be completed is cut: no padding, no error body, and the sent bytes do arrive."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    mirror.growing = failing(failure, 5000)
    records: list[dict[str, object]] = []
    async with serving(mirror, kernel=kernel, log=lambda each: records.append(dict(each))) as served:
        raw = await served.raw(request(blob))
    body = raw.partition(b"\r\n\r\n")[2]
    assert body == BIG[:5000]
    assert (records[0]["status"], records[0]["outcome"], records[0]["bytes"]) == (200, "broken", 5000)
    assert mirror.bodies[0].closed


async def test_defect_after_the_head_cuts(tmp_path: Path) -> None:
    """An exception that nobody foresaw cuts as well."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    mirror.growing = failing(KeyError("defect"), 5000)
    async with serving(mirror) as served:
        raw = await served.raw(request(blob))
    assert raw.partition(b"\r\n\r\n")[2] == BIG[:5000]


@KERNEL_AND_NOT
@both_loops
async def test_short_file_cuts(tmp_path: Path, *, kernel: bool) -> None:
    """A stored file shorter than its size is never padded."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)

    async def plan(fd: int, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        os.truncate(mirror.blobs[blob], 4_000_000)
        yield FileSpan(fd, start, stop - start)

    mirror.growing = plan
    async with serving(mirror, kernel=kernel) as served:
        raw = await served.raw(request(blob))
    assert raw.partition(b"\r\n\r\n")[2] == BIG[:4_000_000]


async def test_short_small_file_is_an_error(tmp_path: Path) -> None:
    """A small stored file that turns out short is 503 while there is still a head to send."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(b"0123456789")

    async with serving(mirror) as served:
        inner = mirror.blob

        async def shorten(*args: object) -> object:
            body = await inner(*args)  # type: ignore[arg-type]  # passed through
            os.truncate(mirror.blobs[blob], 4)
            return body

        mirror.blob = shorten  # type: ignore[method-assign,assignment]  # the fake's own seam
        reply = await served.ask(f"/v2/alpine/blobs/{blob}")
    assert reply.status == 503


def small_buffers(served: Served) -> socket.socket:
    """A client with a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.port))
    return client


@KERNEL_AND_NOT
@both_loops
async def test_stalled_reader_is_cut(tmp_path: Path, *, kernel: bool) -> None:
    """Threats T72: a client that takes nothing is dropped after the window, and everything it held is free."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    records: list[dict[str, object]] = []
    pace = Pace(window=0.2)
    async with serving(mirror, kernel=kernel, pace=pace, log=lambda each: records.append(dict(each))) as served:
        client = small_buffers(served)
        client.sendall(request(blob))
        await until(lambda: bool(records))
        assert records[0]["outcome"] == "stalled"
        await until(lambda: not served.server.connections)
        client.close()
    assert mirror.bodies[0].closed


@KERNEL_AND_NOT
@both_loops
async def test_slow_reader_is_served(tmp_path: Path, *, kernel: bool) -> None:
    """Item 20: a reader that is slow but takes the minimum gets its blob over many windows."""
    mirror = FakeMirror(tmp_path)
    data = BIG[: 1 << 20]
    blob = mirror.add(data)
    pace = Pace(minimum=1000, window=0.05)
    async with serving(mirror, kernel=kernel, pace=pace) as served:
        client = small_buffers(served)
        client.setblocking(False)  # noqa: FBT003  # the socket's own signature
        client.send(request(blob))
        loop, got = asyncio.get_running_loop(), bytearray()
        while len(got) < len(data):
            chunk = await asyncio.wait_for(loop.sock_recv(client, 30_000), 5)
            assert chunk
            got += chunk
            await asyncio.sleep(0.005)
        client.close()
    assert got.endswith(data[-1000:])


@KERNEL_AND_NOT
@both_loops
async def test_client_that_leaves(tmp_path: Path, *, kernel: bool) -> None:
    """Item 12: a hang-up in the middle is counted, not an error, and releases the blob; containerd does it a lot."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    records: list[dict[str, object]] = []
    async with serving(mirror, kernel=kernel, log=lambda each: records.append(dict(each))) as served:
        for _ in range(5):
            reader, writer = await served.connect()
            writer.write(request(blob))
            await reader.readexactly(1000)
            writer.transport.abort()
        await until(lambda: len(records) == 5)
        await until(lambda: not served.server.connections)
    assert {record["outcome"] for record in records} == {"left"}
    assert all(body.closed for body in mirror.bodies)


@both_loops
async def test_a_fast_client_does_not_hog_the_loop(tmp_path: Path) -> None:
    """Rule 2: while a large blob is sent to a client that takes everything, others are answered in between."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG * 4)
    async with serving(mirror, pace=Pace(burst=64 * 1024), kernel=False) as served:
        reader, writer = await served.connect(limit=2**26)
        writer.write(request(blob))
        await reader.readuntil(b"\r\n\r\n")
        taking = asyncio.create_task(reader.readexactly(len(BIG) * 4))
        assert (await served.ask("/v2/")).status == 200
        assert await taking == BIG * 4
        writer.close()


@KERNEL_AND_NOT
async def test_many_small_parts_do_not_hog_the_loop(tmp_path: Path, *, kernel: bool) -> None:
    """A thousand ranges are as many turns of the kernel as a large body, and take as many turns of the loop."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(BIG)
    ranges = ",".join(f"{at}-{at}" for at in range(1024))
    wanted = f"GET /v2/alpine/blobs/{blob} HTTP/1.1\r\nHost: m\r\nRange: bytes={ranges}\r\n\r\n".encode()
    async with serving(mirror, kernel=kernel) as served:
        reader, writer = await served.connect()
        writer.write(wanted)
        head = await reader.readuntil(b"\r\n\r\n")  # the answer has begun
        turns, length = 0, int(head.lower().partition(b"content-length: ")[2].split()[0])
        rest = asyncio.create_task(reader.readexactly(length))
        while not rest.done():
            turns += 1
            await asyncio.sleep(0)
        writer.close()
    assert turns >= 10
