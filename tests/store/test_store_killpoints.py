"""Killed at every system call of an ingest and a put: a final name holds all its bytes, and the next start heals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store_world import some_bytes

WORKER = Path(__file__).with_name("store_worker.py")
DATA = some_bytes(100_000)
NAME = hashlib.sha256(DATA).hexdigest()
SMALL = '{"schemaVersion": 2}'
SMALL_NAME = hashlib.sha256(SMALL.encode()).hexdigest()
CALLS = ["openat", "write", "pwrite64", "fsync", "fchmod", "link,linkat", "unlink,unlinkat", "close", "flock"]
AT_MOST = 12  # of each; a run of one ingest and one put makes fewer than that of most

pytestmark = pytest.mark.real("strace")


def orders(folder: Path) -> str:
    """One cold blob, then one manifest."""
    (folder / "blob").write_bytes(DATA)
    log = {"path": str(folder / "blob"), "log": str(folder / "log"), "followers": 1, "spread": 0, "pause": 0}
    return json.dumps({"digest": f"sha256:{NAME}", "size": len(DATA)} | log) + "\n" + json.dumps({"put": SMALL}) + "\n"


def paths(root: Path) -> list[str]:
    """The files whose calls are counted: those of the ingest, the final names and their folders."""
    ingest, blobs = root / "ingest", root / "blobs" / "sha256"
    names = [ingest / f"sha256-{NAME}.lock", ingest / f"sha256-{NAME}.part", blobs, blobs / NAME, blobs / SMALL_NAME]
    names += [root / "checksums", root / "usage", ingest]
    return [word for name in names for word in ("-P", str(name))]


def run_killed(folder: Path, call: str, number: int) -> bool:
    """Run the worker, killed at the `number`-th of these calls; whether it came to that."""
    root = folder / "store"
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *paths(root), "-e", f"trace={call}"]
    strace += ["-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        [*strace, sys.executable, WORKER, root], input=orders(folder), capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode != 0


def check(folder: Path) -> list[str]:
    """What is wrong after the kill, and after the next start has served the same again."""
    blobs, ingest = folder / "store" / "blobs" / "sha256", folder / "store" / "ingest"
    wrong = [path.name for path in blobs.iterdir() if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    done = subprocess.run(
        [sys.executable, WORKER, folder / "store"], input=orders(folder), capture_output=True, text=True, check=False
    )
    if done.stdout.splitlines()[1:] != [json.dumps([NAME]), json.dumps(f"sha256:{SMALL_NAME}")]:
        wrong.append(done.stdout + done.stderr)
    wrong += [path.name for path in ingest.iterdir()]
    if sorted(os.listdir(blobs)) != sorted([NAME, SMALL_NAME]):  # noqa: PTH208  # names are what is compared
        wrong.append("a blob is missing")
    return wrong


def kill_at_each(folder: Path, call: str) -> tuple[int, list[str]]:
    """How many kill points of `call` there were, and what was wrong after them."""
    wrong: list[str] = []
    for number in range(1, AT_MOST + 1):
        place = folder / f"{call}-{number}"
        place.mkdir()
        if not run_killed(place, call, number):
            return number - 1, wrong
        wrong += [f"{call} {number}: {what}" for what in check(place)]
    return AT_MOST, wrong


def test_killed_at_every_call(tmp_path: Path) -> None:
    """At each kill point: no corrupt final file; the same requests then succeed, and no ingest file is left."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda call: kill_at_each(tmp_path, call), CALLS))
    assert [wrong for _, wrongs in found for wrong in wrongs] == []
    assert sum(points for points, _ in found) >= 24
