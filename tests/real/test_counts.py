"""What a hit costs, in counts that no machine changes: system calls of the worker, requests of upstream, SQL.

Rule 1: counts are taken from a running `iarproxy serve` with one worker, on one connection that is kept, and of its
        loop's thread; what the worker does by itself each second is a part of the slack, which hundreds of hits dwarf.
Rule 2: a bound is today's count and a little more; it is not to be raised without a reason that is written here.
"""

from __future__ import annotations

import http.client
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from layers import Image, image
from machine import World
from processes import Process, until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry", "strace")]
HITS = {"manifest": 500, "small": 500, "large": 100}
TAG = "/v2/library/hot/manifests/1"
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>[a-z_0-9]+)\((?P<rest>.*)", re.MULTILINE)
_SQL = re.compile(r" (?:pread64|pwrite64|fdatasync|fsync)\(\d+<[^>]*\.db")


@dataclass
class Hot:
    """A world with one worker that holds an image whose blobs have about 60 KiB and 4 MiB."""

    world: World
    image: Image

    def blob(self, at: int) -> str:
        return f"/v2/library/hot/blobs/{self.image.layers[at]}"


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hot]:
    with World(tmp_path_factory.mktemp("counts"), workers=1) as world:
        pushed = world.registry.push("library/hot", "1", image("hot", 50_000, 4 << 20))
        made = Hot(world, pushed)
        for target in (TAG, made.blob(1), made.blob(2)):
            for _ in range(3):  # a small blob is kept in memory when it is asked for again
                assert world.proxy.get(target).status == 200
        world.proxy.wait_for_clean_ingest()
        # All is committed now, so the first request on the traced connection is the fast lane's already. (A client that
        # asks again within microseconds of an ordinary answer stays on the ordinary path.)
        for target in (TAG, made.blob(1), made.blob(2)):
            for _ in range(3):
                assert world.proxy.get(target).status == 200
        yield made


def traced(hot: Hot, log: Path, target: str, hits: int) -> str:
    """Every system call of the worker while the target is asked for so often."""
    (worker,) = hot.world.proxy.workers
    connection = http.client.HTTPConnection("127.0.0.1", hot.world.proxy.port, timeout=60)
    ask(connection, target)
    trace = Process(["strace", "-f", "-y", "-s", "0", "-o", log, "-p", str(worker)], log.with_suffix(".log"))
    try:
        until(lambda: "attached" in trace.output, "strace")
        for _ in range(hits):
            ask(connection, target)
    finally:
        trace.signal(signal.SIGINT)
        trace.stop()
        connection.close()
    return log.read_text()


def ask(connection: http.client.HTTPConnection, target: str) -> None:
    connection.request("GET", target)
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read()


def of_the_loop(trace: str, thread: int) -> Counter[str]:
    """The calls of the worker's first thread, by name; without what writes the access log, a line a request."""
    calls = [found for found in _CALL.finditer(trace) if int(found["thread"]) == thread]
    return Counter(found["name"] for found in calls if not found["rest"].startswith("2<"))


# Calls a hit, and today's count. Memory: epoll_pwait, read, and one write or writev (3.0). A file of 4 MiB: also sendto
# for its head, two or three sendfile, and for each time that the socket is full about ten, most of them libuv's way to
# watch it (19 to 23, as the client's pace has it).
BOUNDS = {"manifest": 3.5, "small": 3.5, "large": 45.0}


@pytest.mark.parametrize("what", BOUNDS)
def test_calls_of_a_hit(hot: Hot, tmp_path: Path, what: str) -> None:
    """A hit is a handful of system calls; it opens no file, asks no SQL and nobody upstream."""
    target, hits = {"manifest": TAG, "small": hot.blob(1), "large": hot.blob(2)}[what], HITS[what]
    (worker,) = hot.world.proxy.workers
    asked = hot.world.registry.requests()
    trace = traced(hot, tmp_path / "trace", target, hits)
    calls = of_the_loop(trace, worker)
    assert asked == hot.world.registry.requests()
    assert hits <= calls["read"] + calls["recvfrom"]
    assert calls.total() < BOUNDS[what] * hits, calls
    assert calls["sendfile"] <= (8 * hits if what == "large" else 0)
    assert calls["openat"] + calls["pread64"] < hits / 4, calls
    assert len(_SQL.findall(trace)) < hits / 2  # a look each second, and uses that are recorded in bulk
