"""What the fast lane may keep is bounded, whatever clients send; what it answered is accounted for soon."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from pathlib import Path

from iarproxy.oci import Digest
from iarproxy.server.accounts import LOGGED
from iarproxy.server.head import MAX_HEAD
from iarproxy.server.lane import BUDGET, CAPACITY, MAX_FILES, Lane, Table
from serving import Served, both_loops, read_reply, serving, until
from test_lane import GET, MemoryMirror
from test_lane_states import BIG, PING, blob, files_of, head_of, slow_client, taken

MIB = 1 << 20


def lane_of(served: Served) -> Lane:
    assert served.server.lane is not None
    return served.server.lane


class Weighed:
    """How many bytes of memory were allocated between its making and `more`, and are still."""

    def __init__(self) -> None:
        gc.collect()
        tracemalloc.start()

    def more(self) -> int:
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return grown


async def test_heads_that_differ(tmp_path: Path) -> None:
    """Ten thousand different heads of the largest kind leave tables of `BUDGET` bytes, not more."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        weighed = Weighed()
        for at in range(10_000):
            padded = GET.replace(b"\r\n\r\n", b"\r\nX: %d\r\n\r\n" % at)
            padded = padded.replace(b"X: ", b"X: " + b"0" * (MAX_HEAD - len(padded)))
            assert lane_of(served).find(padded) is not None
        assert weighed.more() < 3 * BUDGET
        assert len(lane_of(served).ready) < BUDGET // MAX_HEAD


def test_a_table_is_bounded_by_entries_and_bytes() -> None:
    """Rule 4: what does not fit begins the table anew."""
    table: Table[int, int] = Table()
    for key in range(CAPACITY):
        table.put(key, key, 1)
    assert (CAPACITY, CAPACITY) == (len(table), table.weight)
    table.put(-1, -1, 10)
    assert ({-1: -1}, 10) == (dict(table), table.weight)
    table.put(-2, -2, BUDGET)
    assert ({-2: -2}, BUDGET) == (dict(table), table.weight)


@both_loops
async def test_packets_that_are_no_head(tmp_path: Path) -> None:
    """What is longer than a head may be is not remembered."""
    mirror = MemoryMirror(tmp_path)
    packet = b"".join(PING.replace(b"m", b"%d" % at) for at in range(1000))
    async with serving(mirror, memory=mirror) as served:
        weighed = Weighed()
        for at in range(60):
            reader, writer = await served.connect()
            await asyncio.sleep(0.005)
            writer.write(b"GET /%d/" % at + packet + b"\r\n\r\n")
            await reader.read(1000)
            writer.transport.abort()
        await until(lambda: not served.server.connections)
        del reader, writer
        assert weighed.more() < MIB


@both_loops
async def test_parts_of_a_small_blob(tmp_path: Path) -> None:
    """A thousand parts of one blob that is in memory are not a thousand copies."""
    mirror = MemoryMirror(tmp_path)
    data = os.urandom(1 << 16)
    digest = mirror.add(data)
    mirror.small[digest] = data
    async with serving(mirror, memory=mirror) as served:
        weighed = Weighed()
        for at in range(1000):
            assert lane_of(served).find(blob(digest, f"Range: bytes={at}-")) is not None
        assert weighed.more() < 4 * MIB
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        writer.write(blob(digest, "Range: bytes=7-"))
        assert data[7:] == (await read_reply(reader)).body
        writer.close()
    assert [] == mirror.asked


async def test_open_files(tmp_path: Path) -> None:
    """However many parts of however many files are asked for, `MAX_FILES` stay open at most."""
    mirror = MemoryMirror(tmp_path)
    digests = [mirror.add(b"%d" % at * 100_000) for at in range(3)]
    async with serving(mirror, memory=mirror) as served:
        for at in range(3 * MAX_FILES):
            for digest in digests:
                assert lane_of(served).find(blob(digest, f"Range: bytes={at}-")) is not None
        assert 1 <= _opened(mirror, digests) <= MAX_FILES
        mirror.changed()
        assert 0 == _opened(mirror, digests)


def _opened(mirror: MemoryMirror, digests: list[Digest]) -> int:
    return sum(files_of(mirror.blobs[digest]) for digest in digests)


@both_loops
async def test_a_long_answer_is_accounted_for(tmp_path: Path) -> None:
    """The end of a file that took longer than the second of its head is logged, though nobody asks for more."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    outcomes: list[object] = []
    log = lambda each: outcomes.append(each["outcome"])  # noqa: E731  # what `serving` takes
    async with serving(mirror, memory=mirror, log=log) as served:
        with slow_client(served, blob(digest)) as client:
            await head_of(client)
            await asyncio.sleep(1.2)
            assert BIG == await taken(client, len(BIG))
            await until(lambda: outcomes == ["sent"])


async def test_hits_allocate_nothing_that_stays(tmp_path: Path) -> None:
    """Ten thousand hits leave no more memory in use than a thousand do."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)

        async def hits(count: int) -> None:
            for _ in range(count):
                writer.write(GET)
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(76)
            lane_of(served).close()

        await hits(1000)
        weighed = Weighed()
        await hits(2000)
        assert weighed.more() < 128 * 1024
        writer.close()
    assert [] == mirror.asked


async def test_records_do_not_pile_up(tmp_path: Path) -> None:
    """What is to be logged waits in small numbers: writing thousands of lines at once would hold up everybody."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    lines: list[object] = []
    async with serving(mirror, memory=mirror, log=lines.append) as served:
        ready = lane_of(served).find(GET)
        assert ready is not None
        _, answer = ready
        for count in range(1, 4 * LOGGED):
            lane_of(served).hit(answer.topic, "127.0.0.1", 0.0)
            assert count - len(lines) < LOGGED
