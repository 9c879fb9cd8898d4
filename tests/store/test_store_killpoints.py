"""Killed before every disk call of an ingest and a put: a final name holds all its bytes, and the next start heals."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import store_nursery
from iarproxy.oci import Digest
from iarproxy.store import Store
from iarproxy.store.usage import Standing
from store_nursery import WORKER, Nursery
from store_world import QUICK, Source, body_of, settled, some_bytes

nursery = store_nursery.nursery

DATA = some_bytes(40_000)
SMALL = b'{"schemaVersion": 2}'
AT_MOST = 200


def orders(folder: Path) -> list[dict[str, Any]]:
    """One cold blob, then one manifest."""
    (folder / "blob").write_bytes(DATA)
    follow = {"digest": str(Digest.of(DATA)), "size": len(DATA), "path": str(folder / "blob")}
    follow |= {"log": str(folder / "log"), "followers": 1, "spread": 0, "pause": 0}
    return [follow, {"put": SMALL.decode()}]


async def wrong_after(folder: Path) -> list[str]:
    """What is wrong after the kill, and after the next start has served the same again."""
    blobs, ingest, source = folder / "store" / "blobs" / "sha256", folder / "store" / "ingest", Source(DATA)
    wrong = [path.name for path in blobs.iterdir() if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    store = Store.open(folder / "store", max_size=10**9, reserve=0, patience=QUICK)
    if await body_of(store.follow(source.digest, None, source.fetch)) != DATA:
        wrong.append("the body")
    await store.put(Digest.of(SMALL), SMALL)
    await settled(store)
    stats = await store.stats()
    if (stats.blobs, stats.bytes) != (2, len(DATA) + len(SMALL)) or stats.standing is not Standing.EXACT:
        wrong.append(f"the count: {stats}")
    await store.close()
    if sorted(path.name for path in blobs.iterdir()) != sorted([source.digest.hex, Digest.of(SMALL).hex]):
        wrong.append("a blob is missing")
    return wrong + [path.name for path in ingest.iterdir()]


async def test_killed_before_every_disk_call(tmp_path: Path, nursery: Nursery) -> None:
    """At each point: no corrupt final file; the same requests then succeed, and no ingest file is left."""
    wrong: list[str] = []
    points = 0
    while points < AT_MOST:
        place = tmp_path / str(points)
        place.mkdir()
        worker = nursery.worker(place / "store")
        worker.order(inline=True)
        worker.order(kill_at=points + 1)
        for order in orders(place):
            worker.order(**order)
        died = worker.died(answers=4)
        wrong += [f"{points + 1}: {what}" for what in await wrong_after(place)]
        if not died:
            break
        points += 1
    assert wrong == []
    assert 50 < points < AT_MOST


@pytest.mark.real("strace")
@pytest.mark.parametrize(("call", "least"), {"fsync": 5, "link,linkat": 3, "fchmod": 2, "pwrite64": 6}.items())
async def test_killed_by_the_kernel(tmp_path: Path, call: str, least: int) -> None:
    """The same by strace, at each of the calls that order the publish protocol, the opening of a new store included."""
    wrong: list[str] = []
    points = 0
    while points < AT_MOST:
        place = tmp_path / str(points)
        place.mkdir()
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        strace += [
            "-e",
            f"inject={call}:signal=KILL:when={points + 1}",
            sys.executable,
            str(WORKER),
            str(place / "store"),
        ]
        lines = "".join(json.dumps(order) + "\n" for order in ({"inline": True}, *orders(place)))
        done = subprocess.run(strace, input=lines, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, -9, 137), done.stderr
        if done.returncode == 0:
            break
        points += 1
        wrong += [f"{call} {points}: {what}" for what in await wrong_after(place)]
    assert wrong == []
    assert points >= least


@pytest.mark.real("strace")
def test_a_disk_that_cannot_sync(tmp_path: Path) -> None:
    """The kernel says EIO to each fsync after the opening: the client gets its bytes, and nothing gets a final name."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=2+"]
    root = tmp_path / "store"
    Store.open(root, max_size=1)
    follow = orders(tmp_path)[0]
    done = subprocess.run(
        [*strace, sys.executable, str(WORKER), str(root)],
        input="".join(json.dumps(order) + "\n" for order in ({"inline": True}, follow)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == json.dumps([Digest.of(DATA).hex])
    assert list((root / "blobs" / "sha256").iterdir()) == []
    assert list((root / "ingest").iterdir()) == []
