"""Two processes with one store: one of them watches drift, and the other one when that has died."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from images import small_image
from registry import FakeRegistry
from world import a_world

HERE = Path(__file__).resolve().parent


async def until(told: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not told():
            await asyncio.sleep(0.05)


async def test_never_two_watch(tmp_path: Path, registry: FakeRegistry) -> None:
    """All checks come from one process until it is killed; then, within seconds, all come from the other one."""
    async with a_world(tmp_path, registry) as world:
        for number in range(5):
            registry.content.publish("team/app", str(number), small_image(number))
            await world.tag(str(number))
        await world.mirror.holding.settle()
    log = tmp_path / "log"
    log.touch()
    command: list[str | Path] = [sys.executable, HERE / "watch_worker.py", tmp_path / "store", registry.url, log]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1])])}
    workers = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]

    def checks() -> list[int]:
        return [int(each) for each in log.read_text().split()]

    try:
        await until(lambda: len(checks()) >= 10, 60)
        first = checks()[0]
        assert {first} == set(checks())
        next(each for each in workers if each.pid == first).kill()
        await until(lambda: checks()[-1] != first, 30)
        before = len(checks())
        await until(lambda: len(checks()) >= before + 10, 60)
    finally:
        for each in workers:
            each.kill()
            each.wait()
    assert [first, next(each.pid for each in workers if each.pid != first)] == [pid for pid, _ in groupby(checks())]
