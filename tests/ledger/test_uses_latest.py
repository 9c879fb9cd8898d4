"""When something was used last, and since when that is known: what is not certain is never called unused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.ledger import Use, Uses, UsesUnreadable
from iarproxy.ledger.usage.uses_latest import LatestUses
from iarproxy.oci import Repository, Tag
from ledger_world import APP, Clock, content, sql


def use(clock: Clock, tag: str | None, text: str, client: str = "10.0.0.1", repository: Repository = APP) -> Use:
    wanted = None if tag is None else Tag(tag)
    return Use(repository, wanted, content(text).digest, client if tag else None, clock.at, clock.at, 1)


async def known(uses: Uses) -> LatestUses:
    found = await uses.latest(APP)
    assert isinstance(found, LatestUses)
    return found


async def test_the_last_use_of_each_tag_and_digest(tmp_path: Path) -> None:
    """A tag's use is also one of its digest; of several clients the newest counts; others' repositories do not."""
    clock = Clock()
    uses = Uses(tmp_path / "uses.db", clock)
    begun = clock.at
    await uses.record([use(clock, "1", "a"), use(clock, "2", "b", repository=Repository("x.example", "y"))])
    later = clock.later(days=3)
    await uses.record([use(clock, "2", "a", "10.0.0.2"), use(clock, None, "layer")])
    found = await known(uses)
    await uses.close()
    assert begun == found.since
    expected = {"1": begun, "2": later, str(content("a").digest): later, str(content("layer").digest): later}
    assert expected == dict(found.at)


async def test_what_is_known_has_a_beginning(tmp_path: Path) -> None:
    """No file, a file that was begun anew, rows that left for want of room: before that nobody knows."""
    clock, path = Clock(), tmp_path / "uses.db"
    uses = Uses(path, clock, rows=3)
    assert UsesUnreadable("no use was recorded yet") == await uses.latest(APP)
    await uses.record([use(clock, "1", "a")])
    times = [clock.later(days=1) for _ in range(1)]
    await uses.record([use(clock, "2", "a")])
    clock.later(days=1)
    await uses.record([use(clock, str(number), "a") for number in range(3, 6)])
    assert times[0] + timedelta(seconds=1) == (await known(uses)).since
    clock.later(days=100)
    assert clock.at - timedelta(days=90) == (await known(uses)).since
    await uses.close()
    path.unlink()
    uses = Uses(path, clock)
    await uses.record([use(clock, "1", "a")])
    assert clock.at == (await known(uses)).since
    await uses.close()


async def test_uses_that_were_lost(tmp_path: Path) -> None:
    """Where a worker had to let uses go, nothing before that moment counts as not used."""
    clock = Clock()
    uses = Uses(tmp_path / "uses.db", clock)
    await uses.record([use(clock, "1", "a")])
    lost = clock.later(days=2)
    await uses.missed(lost)
    await uses.missed(lost - timedelta(days=1))
    assert lost + timedelta(seconds=1) == (await known(uses)).since
    await uses.close()


@pytest.mark.parametrize(
    "damage", ["UPDATE uses SET last_at = last_at - 1", "UPDATE horizon SET since = 0", "DELETE FROM horizon"]
)
async def test_damage_is_not_disuse(tmp_path: Path, damage: str) -> None:
    """Where a row may be another one than it says, nothing is told."""
    clock, path = Clock(), tmp_path / "uses.db"
    uses = Uses(path, clock)
    await uses.record([use(clock, "1", "a")])
    await uses.close()
    sql(path, damage)
    uses = Uses(path, clock)
    assert isinstance(await uses.latest(APP), UsesUnreadable)
    await uses.close()


async def test_a_file_of_an_earlier_iarproxy(tmp_path: Path) -> None:
    """Its oldest row says since when it is known for certain."""
    clock, path = Clock(), tmp_path / "uses.db"
    begun = clock.at
    uses = Uses(path, clock)
    await uses.record([use(clock, "1", "a")])
    await uses.close()
    sql(path, "DROP TABLE horizon")
    sql(path, "PRAGMA user_version = 1")
    clock.later(days=1)
    uses = Uses(path, clock)
    await uses.record([use(clock, "2", "a")])
    assert begun == (await known(uses)).since
    await uses.close()
