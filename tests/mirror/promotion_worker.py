"""A process of its own that promotes: `python promotion_worker.py FOLDER URL kill|back-and-forth|race NUMBER`.

kill:           promotes three names, and is killed when NUMBER records are durable, before any pin changes.
back-and-forth: moves three names of prod between two digests for ever, and says so each time, until it is killed.
race:           plans to promote three names from the environment of that number, says so, and does it at a line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from iarproxy.errors import Conflict
from iarproxy.ledger import Pin
from iarproxy.mirror.promotion.plan import Wanted
from iarproxy.mirror.promotion.promoting import Keeping, Promotion
from iarproxy.oci import Descriptor, Repository
from iarproxy.oci.artifact import Artifact
from promoting_world import KEY, ORIGIN, order, promote
from world import World, a_world

TAGS = ("a", "b", "c")


class Dying:
    """Keeps `left` records, and then this process is no more."""

    def __init__(self, keeping: Keeping, left: int) -> None:
        self._keeping = keeping
        self._left = left

    async def keep(self, repository: Repository, artifact: Artifact) -> Descriptor:
        kept = await self._keeping.keep(repository, artifact)
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[World]:
    registry: Any = SimpleNamespace(url=url)
    async with a_world(folder, registry) as world:
        yield world


async def kill(folder: Path, url: str, keeps: int) -> None:
    async with opened(folder, url) as world:
        known = world.mirror.promotion
        promotion = Promotion(
            ledger=world.ledger,
            documents=known._documents,
            holding=world.mirror.holding,
            surveying=known._surveying,
            keeping=Dying(known._keeping, keeps),
            now=world.clock,
        )
        await promote(promotion, order(*(world.reference(tag) for tag in TAGS)))


async def back_and_forth(folder: Path, url: str, _: int) -> None:
    async with opened(folder, url) as world:
        while True:
            for source in ("one", "two"):
                wanted = [await _moved(world, tag, source) for tag in TAGS]
                promoted = await promote(world.mirror.promotion, order(*wanted, source=source))
                os.write(1, f"{len(promoted.pins)} from {source}\n".encode())


async def race(folder: Path, url: str, number: int) -> None:
    async with opened(folder, url) as world:
        wanted = order(*(world.reference(tag) for tag in TAGS), source=("one", "two")[number])
        plan = await world.mirror.promotion.plan(wanted, [], fetch=True)
        os.write(1, b"ready\n")
        sys.stdin.readline()
        try:
            promoted = await world.mirror.promotion.carry_out(plan, KEY, ORIGIN)
        except Conflict:
            os.write(1, b"lost\n")
        else:
            os.write(1, f"{len(promoted)} pins\n".encode())


async def _moved(world: World, tag: str, source: str) -> Wanted:
    there = await world.ledger.within("prod").pin_of(world.reference(tag))
    here = await world.ledger.within(source).pin_of(world.reference(tag))
    moves = isinstance(there, Pin) and isinstance(here, Pin) and there.descriptor.digest != here.descriptor.digest
    return Wanted(world.reference(tag), replaces=there.descriptor.digest if there and moves else None)


if __name__ == "__main__":
    ways = {"kill": kill, "back-and-forth": back_and_forth, "race": race}
    asyncio.run(ways[sys.argv[3]](Path(sys.argv[1]), sys.argv[2], int(sys.argv[4])))
