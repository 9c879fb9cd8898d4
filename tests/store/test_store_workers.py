"""Several worker processes on one store: one transfer for all, and a leader that is killed is succeeded."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import store_nursery
from iarproxy.oci import Digest
from iarproxy.store import Store
from iarproxy.store.part import BOUND
from store_nursery import Nursery, Worker
from store_world import some_bytes

nursery = store_nursery.nursery

SIZE = 1024 * 1024
SEEDS = int(os.environ.get("IARPROXY_SEEDS", "30"))
CHUNK = 16 * 1024  # bytes of the workers' source at a time
SLACK = 2 * (BOUND + CHUNK)  # what a killed leader may have taken from upstream and not yet written: see `part.Pipe`


class Upstream:
    """One blob that all workers may fetch, and the log of what they fetched."""

    def __init__(self, folder: Path, seed: int) -> None:
        data = some_bytes(SIZE, seed)
        self.path, self.log = folder / f"{seed}.blob", folder / f"{seed}.log"
        self.path.write_bytes(data)
        self.log.touch()
        self.digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def order(self, **more: Any) -> dict[str, Any]:
        asked = {"digest": self.digest, "size": SIZE, "path": str(self.path), "log": str(self.log)}
        return asked | {"followers": 5, "spread": 0.005, "pause": 0.001} | more

    @property
    def starts(self) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("start")]

    @property
    def fetched(self) -> int:
        return sum(int(line) for line in self.log.read_text().splitlines() if not line.startswith("start"))

    def await_bytes(self, count: int) -> None:
        give_up = time.monotonic() + 10
        while self.fetched < count:
            assert time.monotonic() < give_up
            time.sleep(0.001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def steady(nursery: Nursery, root: Path) -> Iterator[Worker]:
    """A worker that lives through the test."""
    worker = nursery.worker(root)
    yield worker
    worker.end()


def test_two_workers_many_followers_one_transfer(root: Path, nursery: Nursery, steady: Worker, tmp_path: Path) -> None:
    """Sixty followers of two processes, joining over time, make one transfer of exactly the blob."""
    upstream = Upstream(tmp_path, 1)
    other = nursery.worker(root)
    for worker in (steady, other):
        worker.order(**upstream.order(followers=30))
    bodies = steady.answer() + other.answer()
    other.end()
    assert set(bodies) == {upstream.digest.removeprefix("sha256:")}
    assert upstream.starts == [0]
    assert upstream.fetched == SIZE
    assert list((root / "ingest").iterdir()) == []


def test_a_killed_leader_is_succeeded(root: Path, nursery: Nursery, steady: Worker, tmp_path: Path) -> None:
    """Whenever the leading process is killed: all bodies of the other one are right, nothing is fetched twice but the
    bytes that the dead one had not written, and no ingest file is left.
    """
    wrong = []
    for seed in range(SEEDS):
        upstream, chance = Upstream(tmp_path, seed), random.Random(seed)
        leader = nursery.worker(root)
        leader.order(**upstream.order(followers=2))
        upstream.await_bytes(1)
        steady.order(**upstream.order())
        upstream.await_bytes(chance.randrange(SIZE))
        time.sleep(chance.random() * 0.02)
        leader.end(kill=True)
        bodies = set(steady.answer())
        left = [path.name for path in (root / "ingest").iterdir()]
        if bodies != {upstream.digest.removeprefix("sha256:")} or upstream.fetched > SIZE + SLACK or left:
            wrong.append((seed, bodies, upstream.starts, upstream.fetched, left))
    assert wrong == []


def test_killed_before_anybody_else_asked(root: Path, nursery: Nursery, tmp_path: Path) -> None:
    """With nobody left to take over, the next process resumes what is there."""
    upstream = Upstream(tmp_path, 1)
    first = nursery.worker(root)
    first.order(**upstream.order())
    upstream.await_bytes(SIZE // 2)
    first.end(kill=True)
    second = nursery.worker(root)
    second.order(**upstream.order())
    bodies = second.answer()
    second.end()
    assert set(bodies) == {upstream.digest.removeprefix("sha256:")}
    assert upstream.starts[0] == 0
    assert upstream.starts[1] > 0
    assert upstream.fetched <= SIZE + SLACK
    assert list((root / "ingest").iterdir()) == []


async def test_all_blobs_are_sound_after_the_kills(
    root: Path, nursery: Nursery, steady: Worker, tmp_path: Path
) -> None:
    """Three processes, two of them killed in turn, on four blobs at once: every final name holds its bytes."""
    upstreams = [Upstream(tmp_path, seed) for seed in range(4)]
    for upstream in upstreams:
        doomed = [nursery.worker(root) for _ in range(2)]
        for worker in (*doomed, steady):
            worker.order(**upstream.order(followers=2))
        for number, worker in enumerate(doomed):
            upstream.await_bytes(SIZE * (number + 1) // 3)
            worker.end(kill=True)
        assert set(steady.answer()) == {upstream.digest.removeprefix("sha256:")}
    store = Store.open(root, max_size=10**9)
    for upstream in upstreams:
        digest = Digest.parse(upstream.digest)
        assert await store.read(digest, SIZE) == upstream.path.read_bytes()
    assert (await store.stats()).ingests == 0
    assert (await store.stats()).bytes == 4 * SIZE
    await store.close()
