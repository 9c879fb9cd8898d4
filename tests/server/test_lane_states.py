"""The fast lane while something else happens: slow, greedy and leaving clients, changes, drains, files that go away."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

from certificates import contexts
from iarproxy.errors import StoreUnavailable
from iarproxy.mirror.serving.answers import HeldBlob
from iarproxy.oci import Digest, Repository
from iarproxy.server.sending import Pace
from serving import FakeBody, Served, both_loops, read_reply, serving, until
from test_lane import GET, MemoryMirror

BIG = os.urandom(1 << 20) * 10  # more than the kernel keeps for a client that does not read
PING = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"


def blob(digest: Digest, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /v2/alpine/blobs/{digest} HTTP/1.1", "Host: m", *lines, "", ""]).encode()


def slow_client(served: Served, request: bytes) -> socket.socket:
    """A client that has sent a request, and has little room for the answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.connect(("127.0.0.1", served.port))
    client.setblocking(False)  # noqa: FBT003  # the socket's own signature
    client.send(request)
    return client


async def taken(client: socket.socket, count: int, pause: float = 0.0) -> bytes:
    """The next `count` bytes, in small bites; fewer if the connection ends before."""
    got = bytearray()
    async with asyncio.timeout(20):
        while len(got) < count:
            bite = await asyncio.get_running_loop().sock_recv(client, min(1 << 16, count - len(got)))
            if not bite:
                break
            got += bite
            await asyncio.sleep(pause)
    return bytes(got)


async def head_of(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await taken(client, 1)
    return head


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def files_of(path: Path) -> int:
    """How often this process has the file open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).removesuffix(" (deleted)") == str(path)
        except OSError:  # the descriptor that lists the folder
            continue
    return found


@both_loops
async def test_under_tls(tmp_path: Path) -> None:
    """A TLS transport is never bypassed: what is in memory is the lane's, a file is not."""
    offer, trust = contexts(tmp_path)
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    small, large = mirror.add(b"small" * 9000), mirror.add(BIG)
    mirror.small[small] = b"small" * 9000
    async with serving(mirror, memory=mirror, ssl=offer) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=trust)
        await asyncio.sleep(0.05)
        for _ in range(3):
            for request, body in ((GET, None), (blob(small), b"small" * 9000), (blob(large), BIG), (blob(small), None)):
                writer.write(request)
                reply = await read_reply(reader)
                assert body in (None, reply.body)
        writer.transport.abort()
        await asyncio.sleep(0.1)
    assert [f"blob docker.io/library/alpine {large}"] * 3 == mirror.asked


@both_loops
async def test_a_client_that_takes_no_file_is_cut(tmp_path: Path) -> None:
    """After the window its connection is gone, with all that was open for it."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    records: list[dict[str, object]] = []
    log = lambda each: records.append(dict(each))  # noqa: E731  # what `serving` takes
    async with serving(mirror, memory=mirror, pace=Pace(window=0.2), log=log) as served:
        with slow_client(served, blob(digest)):
            await until(lambda: bool(records))
            await until(lambda: not served.server.connections)
        assert served.server.lane is not None
        served.server.lane.forget()
        assert 0 == files_of(mirror.blobs[digest])
    assert ["stalled"] == [each["outcome"] for each in records]
    assert [] == mirror.asked


@both_loops
async def test_a_client_that_takes_no_memory_answer_is_cut(tmp_path: Path) -> None:
    """The same for small blobs, after the idle deadline."""
    mirror = MemoryMirror(tmp_path)
    data = os.urandom(1 << 16)
    digest = mirror.add(data)
    mirror.small[digest] = data
    async with serving(mirror, memory=mirror, header_deadline=0.5) as served:
        with slow_client(served, b"") as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(10):
                while not any(each.writing_paused for each in served.server.connections):
                    client.send(blob(digest))
                    await asyncio.sleep(0.01)
                while served.server.connections:
                    await asyncio.sleep(0.05)


@both_loops
async def test_clients_that_leave_leave_nothing(tmp_path: Path) -> None:
    """Five hundred hang-ups in the middle of a file: no descriptor stays."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    outcomes: list[object] = []
    log = lambda each: outcomes.append(each["outcome"])  # noqa: E731  # what `serving` takes
    async with serving(mirror, memory=mirror, log=log) as served:
        before = descriptors()
        for _ in range(50):
            clients = [slow_client(served, blob(digest)) for _ in range(10)]
            for client in clients[::2]:
                await taken(client, 1000)
            for client in clients:
                client.close()
        await until(lambda: not served.server.connections)
        assert served.server.lane is not None
        served.server.lane.close()
        assert descriptors() <= before + 2
        await until(lambda: len(outcomes) == 500)
    assert {"left"} == set(outcomes)
    assert [] == mirror.asked


@both_loops
async def test_the_next_request_waits(tmp_path: Path) -> None:
    """What is asked while a file is sent is answered after it, in order, be it the lane's or not."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    digest = mirror.add(BIG)
    async with serving(mirror, memory=mirror) as served:
        with slow_client(served, blob(digest)) as client:
            assert b"200 OK" in await head_of(client)
            for each in (GET, blob(digest), b"GET /v2/_catalog HTTP/1.1\r\nHost: m\r\n\r\n", PING[:9]):
                client.send(each)
                await asyncio.sleep(0.01)
            assert BIG == await taken(client, len(BIG))
            for status, body in ((b"200", None), (b"200", BIG), (b"404", None)):
                head = await head_of(client)
                assert status in head
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                found = await taken(client, length)
                assert body in (None, found)
            client.send(PING[9:])
            assert b"200 OK" in await head_of(client)


@both_loops
async def test_slow_readers_keep_their_file(tmp_path: Path) -> None:
    """Forgetting, each second and at each change, closes nothing under those who are being answered."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    starts = range(0, 1_000_000, 100_000)
    async with serving(mirror, memory=mirror) as served:
        asked = [blob(digest, f"Range: bytes={start}-") for start in starts]
        clients = [slow_client(served, each) for each in asked]

        async def take(client: socket.socket, start: int) -> None:
            assert b"206" in await head_of(client)
            assert BIG[start:] == await taken(client, len(BIG) - start, 0.001)
            client.close()

        async def change() -> None:
            while True:
                await asyncio.sleep(0.05)
                mirror.changed()
                mirror.blobs[digest].rename(tmp_path / "away")  # the name may go, the bytes stay
                (tmp_path / "away").rename(mirror.blobs[digest])

        changing = asyncio.create_task(change())
        await asyncio.gather(*(take(client, start) for client, start in zip(clients, starts, strict=True)))
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        await until(lambda: not files_of(mirror.blobs[digest]))
    assert [] == mirror.asked


@both_loops
async def test_drain_while_a_file_is_sent(tmp_path: Path) -> None:
    """Item 74: it is sent whole; then the connection is at rest, which the door closes, or one last answer is given."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    async with serving(mirror, memory=mirror) as served:
        with slow_client(served, blob(digest)) as client:
            assert b"200 OK" in await head_of(client)
            served.server.drain()
            assert not any(each.idle for each in served.server.connections)
            client.send(PING)
            assert BIG == await taken(client, len(BIG))
            assert b"Connection: close" in await head_of(client)
            assert b"{}" == await taken(client, 3)
        await until(lambda: not served.server.connections)


@both_loops
async def test_the_idle_deadline_waits_for_a_file(tmp_path: Path) -> None:
    """A reader that is slow but honest is not idle, however short the deadline; afterwards it is."""
    mirror = MemoryMirror(tmp_path)
    data = BIG[: 7 << 20]
    digest = mirror.add(data)
    async with serving(mirror, memory=mirror, header_deadline=0.2, pace=Pace(minimum=1000, window=0.2)) as served:
        with slow_client(served, blob(digest)) as client:
            assert b"200 OK" in await head_of(client)
            assert data == await taken(client, len(data), 0.002)
            assert b"" == await taken(client, 1)
    assert [] == mirror.asked


@both_loops
async def test_heads_and_empty_bodies(tmp_path: Path) -> None:
    """HEAD of a file and a blob of no bytes send a head and nothing else, and open nothing."""
    mirror = MemoryMirror(tmp_path)
    large, empty = mirror.add(BIG), mirror.add(b"")
    opened: list[Digest] = []

    class Watched(MemoryMirror):
        def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
            held = mirror.peek_blob(repository, digest)
            return held and HeldBlob(held.size, held.raw, lambda: _noted(opened, digest, held.open))

    watched = Watched(tmp_path)
    watched.blobs = mirror.blobs
    async with serving(watched, memory=watched) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        for _ in range(3):
            for request, length in (
                (blob(large, method="HEAD"), len(BIG)),
                (blob(empty), 0),
                (blob(empty, method="HEAD"), 0),
            ):
                writer.write(request)
                reply = await read_reply(reader, body=False)
                assert (200, str(length)) == (reply.status, reply.headers["content-length"])
        writer.close()
    assert [] == opened
    assert [] == watched.asked


def _noted(opened: list[Digest], digest: Digest, opening: Callable[[], int]) -> int:
    opened.append(digest)
    return opening()


@both_loops
async def test_a_file_that_goes_away(tmp_path: Path) -> None:
    """Between peek and open: the ordinary path tells. While it is sent, or short from the start: cut, never padded."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    gone = mirror.add(b"gone" * 50_000)

    class Losing(MemoryMirror):
        def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
            return HeldBlob(200_000, None, _lost) if digest == gone else mirror.peek_blob(repository, digest)

    losing = Losing(tmp_path)
    losing.blobs = {digest: mirror.blobs[digest]}
    outcomes: list[tuple[object, object]] = []
    log = lambda each: outcomes.append((each["outcome"], each["bytes"]))  # noqa: E731  # what `serving` takes
    async with serving(losing, memory=losing, log=log) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        writer.write(blob(gone))
        assert 404 == (await read_reply(reader)).status
        writer.close()
        outcomes.clear()
        with slow_client(served, blob(digest)) as client:
            assert b"200 OK" in await head_of(client)
            os.truncate(mirror.blobs[digest], 8_000_000)
            assert BIG[:8_000_000] == await _rest(client)
        with slow_client(served, blob(digest)) as client:  # what is ready may still be what was
            await head_of(client)
            client.send(PING)
            client.shutdown(socket.SHUT_WR)  # where the new size was told, the answer is complete and nothing is cut
            got = await _rest(client)
            assert BIG[: min(len(got), 8_000_000)] == got[:8_000_000]
    assert ("broken", 8_000_000) == outcomes[0]


def _lost() -> int:
    raise StoreUnavailable("it was evicted")


async def _rest(client: socket.socket) -> bytes:
    got = bytearray()
    try:
        while bite := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1 << 20), 10):
            got += bite
    except ConnectionResetError:
        pass
    return bytes(got)


@both_loops
async def test_on_a_unix_socket(tmp_path: Path) -> None:
    """A unix socket has the lane too, files included."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    digest = mirror.add(BIG)
    async with serving(mirror, memory=mirror, unix=tmp_path / "s") as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        for _ in range(3):
            writer.write(blob(digest))
            assert BIG == (await read_reply(reader)).body
            writer.write(GET)
            assert 200 == (await read_reply(reader)).status
        writer.close()
    assert [] == mirror.asked


@both_loops
async def test_a_change_while_an_answer_is_made(tmp_path: Path) -> None:
    """What is told in the middle of making an answer, or of sending it, neither breaks it nor is forgotten."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)

    class Nervous(MemoryMirror):
        def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
            held = mirror.peek_blob(repository, digest)

            def opening() -> int:
                assert held is not None
                self.changed()
                return held.open()

            return held and HeldBlob(held.size, held.raw, opening)

    nervous = Nervous(tmp_path)
    nervous.blobs = mirror.blobs
    async with serving(nervous, memory=nervous) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        for _ in range(3):
            writer.write(blob(digest))
            await reader.readuntil(b"\r\n\r\n")
            nervous.changed()
            assert BIG == await reader.readexactly(len(BIG))
        writer.close()
    assert [] == nervous.asked


@both_loops
async def test_to_and_fro_on_one_connection(tmp_path: Path) -> None:
    """The ordinary path, the lane and the ordinary path again; then a request to close."""
    mirror = MemoryMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    digest = mirror.add(BIG)
    odd = blob(digest, "If-Match: *", "Range: bytes=1-100000")
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        await asyncio.sleep(0.01)
        for _ in range(5):
            for request, body in ((odd, BIG[1:100_001]), (blob(digest), BIG), (GET, None), (odd, BIG[1:100_001])):
                writer.write(request)
                reply = await read_reply(reader)
                assert body in (None, reply.body)
        writer.write(blob(digest, "Connection: close"))
        reply = await read_reply(reader)
        assert (BIG, "close") == (reply.body, reply.headers["connection"])
        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert 10 == len(mirror.asked)


@both_loops
async def test_a_slow_reader_that_asks_to_close(tmp_path: Path) -> None:
    """The close comes behind the last byte, also of an answer that the kernel cannot keep whole."""
    mirror = MemoryMirror(tmp_path)
    digest = mirror.add(BIG)
    mirror.pin("docker.io/library/alpine:3", BIG)
    async with serving(mirror, memory=mirror) as served:
        for request in (blob(digest, "Connection: close"), GET.replace(b"Host: m", b"Host: m\r\nConnection: close")):
            with slow_client(served, request) as client:
                assert b"Connection: close" in await head_of(client)
                assert BIG == await taken(client, len(BIG), 0.001)
                assert b"" == await taken(client, 1)
    assert [] == mirror.asked


@both_loops
async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Where the process may open no more files, the ordinary path says so; the connection stays, and nothing leaks."""

    class Full(MemoryMirror):
        async def blob(self, repository: Repository, digest: Digest) -> FakeBody:
            try:
                return await super().blob(repository, digest)
            except OSError as error:
                raise StoreUnavailable("too many open files") from error

    mirror = Full(tmp_path)
    digest = mirror.add(BIG)
    async with serving(mirror, memory=mirror) as served:
        reader, writer = await served.connect()
        other_reader, other = await served.connect()
        await asyncio.sleep(0.01)
        writer.write(blob(digest))
        assert BIG == (await read_reply(reader)).body
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = _all_descriptors()
        try:
            for _ in range(3):
                other.write(PING)
                assert 200 == (await read_reply(other_reader)).status
                other.write(blob(digest))
                assert 503 == (await read_reply(other_reader)).status
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for each in spare:
                os.close(each)
        other.write(blob(digest))
        assert BIG == (await read_reply(other_reader)).body
        other.close()
        writer.close()
        await until(lambda: not served.server.connections)
        assert served.server.lane is not None
        served.server.lane.forget()
        assert 0 == files_of(mirror.blobs[digest])


def _all_descriptors() -> list[int]:
    """All that the process may open, for a limit that is within reach."""
    spare: list[int] = []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 20, hard))
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        return spare
