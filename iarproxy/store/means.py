"""What every ingest works with: one value, made once by `Store.open`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iarproxy.store.disk import Disk
from iarproxy.store.layout import Layout
from iarproxy.store.publish import Press
from iarproxy.store.space import Space
from iarproxy.store.threads import Threads


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the store waits, and how often it tries.

    Attributes:
        tick: seconds between looks for a dead leader.
        watchdog: seconds that a leader waits for upstream's next chunk.
        stall: seconds without progress after which a follower gives up; more than `watchdog`, so that the leader's
            own failure comes first. A re-hash is added: what is there, at `rehash_rate` bytes per second.
        tries: resumptions in a row that brought no byte.
        resumptions: all resumptions of one ingest.
        pause: seconds before the second try, doubled for each further one and jittered.
        retry_after: upstream's own wish that is still granted, in seconds.
    """

    tick: float = 0.1
    watchdog: float = 90.0
    stall: float = 150.0
    rehash_rate: int = 50_000_000
    tries: int = 4
    resumptions: int = 100
    pause: float = 0.2
    retry_after: float = 5.0


@dataclass(frozen=True, slots=True)
class Means:
    """The layout and seams that ingests share."""

    layout: Layout
    disk: Disk
    space: Space
    press: Press
    threads: Threads
    patience: Patience
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
