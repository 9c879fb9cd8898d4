"""The drift patrol over more pins than anybody wants in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from iarproxy.errors import LedgerUnavailable
from iarproxy.ledger import Pin
from iarproxy.mirror.drift import DriftWatch
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.policy import Pattern
from world import NAME

DESCRIPTOR = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"x"), 1)


class ManyPins:
    """A ledger of a million pins, as a patrol asks it; none can be checked."""

    def __init__(self) -> None:
        self.read, self.checked, self.broken = 0, 0, 0

    async def serial(self) -> int:
        return 10**6

    async def every_pin(self) -> AsyncIterator[Pin]:
        if self.broken:
            self.broken -= 1
            raise LedgerUnavailable("a test")
        for number in range(10**6):
            self.read += 1
            reference = TagReference(Repository(NAME, "team/app"), Tag(f"v{number}"))
            yield Pin(reference, DESCRIPTOR, datetime.now(UTC), "a test", 1)

    async def pin_of(self, _: TagReference) -> None:
        self.checked += 1


async def patrolled(
    ledger: ManyPins, rules: tuple[TagRule, ...] = (), interval: timedelta = timedelta(hours=1)
) -> None:
    """Half a second of a patrol."""
    anything: Any = None
    watch = DriftWatch(
        ledger=cast("Any", ledger),
        upstreams=cast("Any", {NAME: anything}),
        documents=anything,
        blobs=anything,
        holding=anything,
        rules=rules,
        now=lambda: datetime.now(UTC),
    )
    task = asyncio.create_task(watch.patrol(interval, lambda: True), name="patrol")
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_pins_are_read_as_they_are_checked() -> None:
    """The patrol begins with the first pin; it does not list all of them first, nor run ahead."""
    ledger = ManyPins()
    await patrolled(ledger)
    assert 1 < ledger.checked < 30
    assert ledger.read - ledger.checked in (0, 1)


async def test_pins_that_cannot_drift_take_turns_too() -> None:
    """Those that policy follows are passed over, a moment for each, so that others get at the ledger."""
    ledger = ManyPins()
    await patrolled(ledger, (TagRule(Pattern("**"), Mode.FOLLOW),))
    assert 0 == ledger.checked
    assert 1 < ledger.read < 1000


async def test_a_ledger_that_cannot_be_read_is_asked_again() -> None:
    """The round ends there, and the next one begins."""
    ledger = ManyPins()
    ledger.broken = 1
    await patrolled(ledger, interval=timedelta(milliseconds=1))
    assert 1 < ledger.read
