"""What was served to whom: merged, bounded, forgotten in time, and never in the way of a pin."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from iarproxy.errors import LedgerDamaged, LedgerUnavailable
from iarproxy.ledger import KEPT, Ledger, NotUsed, Use, Used, Uses, UsesUnreadable, backup, rebuild
from iarproxy.oci import Digest, DigestReference, Repository, Tag
from ledger_world import APP, SOURCE, STORE, Clock, content, dump, opened, sql, tag

HERE = Path(__file__).parent
ONE, TWO = content("one").digest, content("two").digest
OTHER = Repository("registry.example.com", "other")
V1 = Tag("v1")
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def use(
    wanted: Tag | Digest | None = V1,
    digest: Digest = ONE,
    client: str | None = "10.0.0.1",
    *,
    at: int = 0,
    count: int = 1,
    repository: Repository = APP,
) -> Use:
    """A use `at` so many seconds after the start."""
    moment = START + timedelta(seconds=at)
    return Use(repository, wanted, digest, client, moment, moment, count)


@pytest.fixture
def place(path: Path) -> Path:
    """Where the uses are."""
    return path.with_name("uses.db")


@pytest_asyncio.fixture
async def uses(place: Path, clock: Clock) -> AsyncIterator[Uses]:
    made = Uses(place, clock, rows=100)
    yield made
    await made.close()


async def test_uses_of_a_tag_a_digest_and_content_in_a_repository(uses: Uses) -> None:
    """Each is asked for in its own way; the newest comes first, and no more than the limit."""
    old, by_digest, blob = use(at=1), use(ONE, at=2, client="10.0.0.2"), use(None, TWO, None, at=3)
    elsewhere = use(Tag("v1"), ONE, "10.0.0.3", at=4, repository=OTHER)
    repinned = use(Tag("v1"), TWO, at=5)
    await uses.record([old, by_digest, blob, elsewhere, repinned])
    assert [repinned, old] == await uses.of(tag("v1"), 10)
    assert [repinned] == await uses.of(tag("v1"), 1)
    assert [by_digest, old] == await uses.of(DigestReference(APP, ONE), 10)
    assert [elsewhere, by_digest, old] == await uses.of(ONE, 10)
    assert [repinned, blob] == await uses.of(TWO, 10)
    assert [] == await uses.of(tag("v2"), 10)


async def test_a_summary(uses: Uses) -> None:
    """How often, by how many, since when, and who last."""
    each = [use(client=f"10.0.0.{number % 3}", at=number) for number in range(9)]
    for one in each:
        await uses.record([one])
    found = await uses.summary(tag("v1"), 2)
    assert isinstance(found, Used)
    assert (9, 3, each[0].first, each[8].last) == (found.count, found.clients, found.first, found.last)
    assert ["10.0.0.2", "10.0.0.1"] == [newest.client for newest in found.newest]
    assert NotUsed() == await uses.summary(tag("v2"))


async def test_a_use_without_a_client(uses: Uses) -> None:
    """What has no client counts, but for nobody."""
    await uses.record([use(client=None, count=3), use(client=None, at=60)])
    found = await uses.summary(tag("v1"))
    assert isinstance(found, Used)
    assert (4, 0, (None,)) == (found.count, found.clients, tuple(each.client for each in found.newest))


Recorded = st.builds(
    use,
    wanted=st.sampled_from([Tag("v1"), Tag("v2"), ONE, None]),
    digest=st.sampled_from([ONE, TWO]),
    client=st.sampled_from([None, "10.0.0.1", "fe80::1", "unix"]),
    at=st.integers(-1000, 1000),
    count=st.integers(1, 10**9),
)


def _rows(place: Path) -> list[Any]:
    joined = "subjects JOIN uses ON uses.subject = subjects.id"
    names = "registry, repository, wanted, digest, client, first_at, last_at, count, uses.checksum"
    return sql(place, f"SELECT {names} FROM {joined} ORDER BY 1, 2, 3, 4, 5")


async def _recorded(batches: list[list[Use]]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        made = Uses(Path(folder) / "uses.db", lambda: START)
        for batch in batches:
            await made.record(batch)
        await made.close()
        return _rows(made.path) if made.path.exists() else []


@settings(max_examples=25, deadline=None)
@given(st.lists(Recorded, max_size=12), st.randoms(), st.lists(st.integers(1, 5)))
async def test_order_and_batches_do_not_matter(each: list[Use], chance: Any, sizes: list[int]) -> None:
    """The same uses in any order and any grouping make the same rows, checksums included."""
    shuffled = [*each]
    chance.shuffle(shuffled)
    batches = [[shuffled.pop() for _ in range(min(size, len(shuffled)))] for size in sizes]
    assert await _recorded([each]) == await _recorded([*batches, shuffled])


async def test_the_table_is_bounded(uses: Uses, place: Path) -> None:
    """Above the bound the rows leave that were used the longest ago, and what named only them."""
    for start in range(0, 300, 20):
        await uses.record([use(Tag(f"t{each}"), at=each) for each in range(start, start + 20)])
        assert len(dump(place, "uses")) <= 101
    kept = [row[3] for row in sql(place, "SELECT * FROM subjects ORDER BY id")]
    assert [f"t{each}" for each in range(200, 300)] == kept


async def test_a_batch_above_the_bound(uses: Uses, place: Path) -> None:
    """One batch that holds more than the table may is cut to its newest part."""
    await uses.record([use(Tag(f"t{each}"), at=each) for each in range(150)])
    assert 100 == len(dump(place, "uses"))
    assert [] == await uses.of(tag("t49"), 1)
    assert 1 == len(await uses.of(tag("t50"), 1))


async def test_addresses_are_forgotten(uses: Uses, place: Path, clock: Clock) -> None:
    """After 90 days a use is not told any more, and with the next chore its bytes are gone from the file."""
    await uses.record([use(client=f"client-number-{each}") for each in range(50)])
    clock.later(days=KEPT.days, seconds=1)
    assert NotUsed() == await uses.summary(tag("v1"))
    assert b"client-number-7" in place.read_bytes()
    assert 50 == await uses.expire()
    assert b"client-number" not in place.read_bytes()
    assert [] == sql(place, "SELECT * FROM subjects")


async def test_recording_forgets_too(uses: Uses, place: Path, clock: Clock) -> None:
    """No chore is needed where something is recorded."""
    await uses.record([use(client="old")])
    clock.later(days=KEPT.days, seconds=1)
    await uses.record([use(client="new", at=int(KEPT.total_seconds()))])
    assert ["new"] == [row[1] for row in sql(place, "SELECT * FROM uses")]


async def test_nothing_is_made_before_it_is_needed(ledger: Ledger, place: Path) -> None:
    """A ledger that records nothing has no file of uses; asking makes none."""
    assert NotUsed() == await ledger.uses.summary(tag("v1"))
    assert 0 == await ledger.uses.expire()
    await ledger.uses.record([])
    assert not place.exists()
    await ledger.uses.record([use()])
    assert 0o600 == stat.S_IMODE(place.stat().st_mode)


async def test_the_ledger_itself_is_not_written(path: Path, clock: Clock) -> None:
    """A ledger of before, with its schema and its journal, takes uses as it is: not a byte of it changes."""
    async with opened(path, now=clock) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
    before = {each: each.read_bytes() for each in (path, path.with_name("journal.jsonl"))}
    async with opened(path, empty=False, now=clock) as ledger:
        await ledger.uses.record([use()])
        assert [use()] == await ledger.uses.of(tag("v1"), 1)
        assert () == (await ledger.verify()).problems
    assert before == {each: each.read_bytes() for each in before}


async def test_backup_leaves_uses_out_and_rebuild_leaves_them_alone(path: Path, clock: Clock, tmp_path: Path) -> None:
    """Addresses do not travel with backups; a ledger made anew finds what was recorded."""
    async with opened(path, now=clock) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
        await ledger.uses.record([use()])
    await backup(path, tmp_path / "backup")
    assert {"ledger.db", "journal.jsonl"} == {each.name for each in (tmp_path / "backup").iterdir()}
    await rebuild(path, store_identity=STORE, actor="ann", reason="r", now=clock)
    async with opened(path, empty=False, now=clock) as ledger:
        assert [use()] == await ledger.uses.of(tag("v1"), 1)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE uses SET count = 5",
        "UPDATE uses SET client = '10.9.9.9'",
        "UPDATE uses SET checksum = x'00'",
        "UPDATE subjects SET wanted = 'v2'",
        "UPDATE subjects SET wanted = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_damaged_row_is_nothing(path: Path, place: Path, clock: Clock, damage: str) -> None:
    """It is left out, told by verify, and made anew by the next use; pins do not notice."""
    async with opened(path, now=clock) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
        await ledger.uses.record([use()])
    sql(place, damage)
    async with opened(path, empty=False, now=clock) as ledger:
        assert [[], [], []] == [await ledger.uses.of(what, 9) for what in (tag("v1"), tag("v2"), ONE)]
        assert ("1 rows of uses.db fail their checksum and are left out",) == (await ledger.verify()).problems
        await ledger.uses.record([use(at=7, count=2)])
        assert [use(at=7, count=2)] == await ledger.uses.of(tag("v1"), 9)
        assert await ledger.pin_of(tag("v1")) is not None


def _ruin(place: Path) -> None:
    place.write_bytes(b"ruin" * 5000)


def _cut(place: Path) -> None:
    os.truncate(place, 5000)


def _tamper(place: Path) -> None:
    sql(place, "CREATE TRIGGER more AFTER INSERT ON uses BEGIN SELECT 1; END")


def _rot(place: Path) -> None:
    """Every page but the first is nonsense."""
    whole = place.read_bytes()
    place.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


@pytest.mark.parametrize("damage", [_ruin, _cut, _tamper, _rot])
async def test_a_damaged_file_keeps_no_pin_from_being_served(
    path: Path, place: Path, clock: Clock, damage: Any
) -> None:
    """Uses are refused and say what to do; pins are read and made; once the file is removed it is begun anew."""
    async with opened(path, now=clock) as ledger:
        await ledger.uses.record([use(), use(Tag("v2"))])
    damage(place)
    async with opened(path, empty=False, now=clock) as ledger:
        assert content("two") == (await ledger.add(tag("v2"), content("two"), SOURCE)).descriptor
        found = await ledger.uses.summary(tag("v1"))
        assert isinstance(found, UsesUnreadable)
        assert "uses.db" in found.reason
        assert "remove it" in found.reason
        with pytest.raises(LedgerDamaged, match="remove it"):
            await ledger.uses.record([use()])
        problems = (await ledger.verify()).problems
        assert problems
        assert all("uses.db" in each for each in problems)
        place.unlink()
        await ledger.uses.record([use(at=1)])
        assert [use(at=1)] == await ledger.uses.of(tag("v1"), 9)
        assert () == (await ledger.verify()).problems


async def test_what_a_crash_left_of_a_removed_file_is_not_played_back(uses: Uses, place: Path) -> None:
    """A rollback journal beside a file that somebody removed does not reach into the new one."""
    with closing(sqlite3.connect(place)) as raw:
        raw.execute("CREATE TABLE x (y)")
        raw.execute("INSERT INTO x VALUES (zeroblob(20000))")
        raw.commit()
        raw.execute("UPDATE x SET y = zeroblob(30000)")
        hot = place.with_name("uses.db-journal").read_bytes()
    place.unlink()
    place.with_name("uses.db-journal").write_bytes(hot)
    await uses.record([use()])
    assert [use()] == await uses.of(tag("v1"), 9)
    assert [] == await uses.problems()


async def test_a_file_of_a_newer_iarproxy_is_left_alone(uses: Uses, place: Path) -> None:
    """It is neither read nor written."""
    sql(place, "PRAGMA user_version = 9")
    before = place.read_bytes()
    found = await uses.summary(tag("v1"))
    assert isinstance(found, UsesUnreadable)
    assert "newer" in found.reason
    assert before == place.read_bytes()


async def test_a_replaced_file_is_noticed(uses: Uses, place: Path, tmp_path: Path) -> None:
    """What was put in the file's place is what is read."""
    await uses.record([use()])
    shutil.copy(place, tmp_path / "copy")
    await uses.record([use(at=5)])
    (tmp_path / "copy").rename(place)
    assert [use()] == await uses.of(tag("v1"), 9)


async def test_pins_do_not_wait_for_uses(path: Path, place: Path, clock: Clock) -> None:
    """While somebody holds the file of uses, and a record waits for it, pins are made."""
    async with opened(path, now=clock) as ledger:
        await ledger.uses.record([use()])
        with closing(sqlite3.connect(place, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            waiting = asyncio.create_task(ledger.uses.record([use(at=1)]))
            for number in range(20):
                await ledger.add(tag(f"p{number}"), content("one"), SOURCE)
            assert not waiting.done()
            holder.execute("ROLLBACK")
        await waiting
        assert 2 == (await ledger.uses.of(tag("v1"), 1))[0].count


async def test_a_closed_file_says_so(uses: Uses) -> None:
    """After close nothing is recorded or told; closing again is nothing."""
    await uses.record([use()])
    await uses.close()
    await uses.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await uses.record([use()])
    assert isinstance(await uses.summary(tag("v1")), UsesUnreadable)


async def test_two_processes_record_at_once(path: Path) -> None:
    """Nothing is lost and nothing counted twice when two processes record the same uses in many batches."""
    command = [sys.executable, str(HERE / "ledger_worker.py"), "uses", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    workers = [subprocess.Popen([*command, str(each), "40"], env=environment) for each in range(2)]
    ended = [await asyncio.to_thread(worker.wait, timeout=60) for worker in workers]
    assert [0, 0] == ended
    uses = Uses(path.with_name("uses.db"), lambda: START)
    found = await uses.summary(tag("shared"), 100)
    assert [] == await uses.problems()
    await uses.close()
    assert isinstance(found, Used)
    assert (2 * 40 * 20, 20) == (found.count, found.clients)
    assert {80} == {each.count for each in found.newest}


async def test_a_flipped_bit_never_invents_a_use(uses: Uses, place: Path) -> None:
    """Over the bits of the file: what is told was recorded, or nothing is."""
    batch = [use(Tag(f"t{each}"), client=f"10.0.0.{each}", at=each) for each in range(30)]
    await uses.record(batch)
    await uses.close()
    whole = place.read_bytes()
    for position in range(11, len(whole) * 8, len(whole) * 8 // 150):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        place.write_bytes(flipped)
        looked = Uses(place, lambda: START)
        told = [found for each in batch for found in [await looked.summary(tag(str(each.wanted)))]]
        await looked.close()
        uttered = [found.newest[0] for found in told if isinstance(found, Used)]
        assert [] == [each for each in uttered if each not in batch], f"bit {position}"
