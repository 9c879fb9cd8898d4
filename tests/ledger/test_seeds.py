"""Seeds, sightings and candidates in the ledger: what survives what, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.errors import LedgerDamaged, Malformed
from iarproxy.ledger import DEFAULT, Ledger, Name, Pin, Withheld, rebuild
from iarproxy.trust.admission import CoolingDown, SeedMismatch, Terms
from ledger_world import SOURCE, STORE, Clock, content, database, dump, opened, sql, tag

V1, V2 = tag("v1"), tag("v2")
ONE, TWO = content("one"), content("two")
COOLING = Terms(cool_down=timedelta(hours=1))


async def test_seeds_are_kept_replaced_and_dropped(ledger: Ledger) -> None:
    """The newest word about a tag counts; what is said already is no news; each environment has its own."""
    seeds = ledger.seeds
    both = [(DEFAULT, V1, ONE.digest), ("dev", V1, TWO.digest)]
    assert [(each.name.environment, each.digest) for each in await seeds.put(both, reason="lock", actor="ann")] == [
        (DEFAULT, ONE.digest),
        ("dev", TWO.digest),
    ]
    assert await seeds.put(both, reason="lock", actor="ann") == []
    assert (await seeds.of(DEFAULT, V1), await seeds.of("dev", V1)) == (ONE.digest, TWO.digest)
    await seeds.put([(DEFAULT, V1, TWO.digest)], reason="newer", actor="bob")
    assert [(each.digest, each.actor, each.reason) for each in await seeds.every(DEFAULT)] == [
        (TWO.digest, "bob", "newer")
    ]
    name = Name(DEFAULT, V1)
    assert await seeds.drop([name, Name(DEFAULT, V2)], reason="gone", actor="ann") == [name]
    assert (await seeds.of(DEFAULT, V1), [each.name.environment for each in await seeds.every()]) == (None, ["dev"])
    assert [event.kind for event in await ledger.history(V1)] == ["seeded", "seeded", "unseeded"]


@pytest.mark.parametrize(("reason", "actor"), [("", "ann"), ("r", " ")])
async def test_a_seed_is_an_act(ledger: Ledger, reason: str, actor: str) -> None:
    """Without a reason or an actor nothing is kept; nor where a tag is expected to be two things."""
    with pytest.raises(Malformed):
        await ledger.seeds.put([(DEFAULT, V1, ONE.digest)], reason=reason, actor=actor)
    with pytest.raises(Malformed, match="two digests"):
        await ledger.seeds.put([(DEFAULT, V1, ONE.digest), (DEFAULT, V1, TWO.digest)], reason="r", actor="ann")
    assert await ledger.seeds.every() == []


async def test_a_large_import_is_one_transaction_of_short_lines(ledger: Ledger, path: Path) -> None:
    """Three thousand seeds: each its own short line, listed in pages, by name."""
    seeds = [(DEFAULT, tag(f"t{number:04}"), content(str(number)).digest) for number in range(3000)]
    assert len(await ledger.seeds.put(seeds, reason="lock", actor="ann")) == 3000
    found = await ledger.seeds.every()
    assert [(DEFAULT, each.name.reference, each.digest) for each in found] == seeds
    assert max(map(len, path.with_name("journal.jsonl").read_bytes().splitlines())) < 1000
    assert (await ledger.verify()).problems == ()


async def test_a_damaged_seed_refuses_its_tag(path: Path) -> None:
    """What a lock file said cannot be read: the tag is refused, as if it were its pin that is damaged."""
    async with opened(path) as ledger:
        await ledger.seeds.put([(DEFAULT, V1, ONE.digest)], reason="lock", actor="ann")
        await ledger.add(V2, TWO, SOURCE)
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET body = replace(body, ?, ?) WHERE kind = 'seeded'", str(ONE.digest), str(TWO.digest))
    trigger = "CREATE TRIGGER journal_update BEFORE UPDATE ON journal\nBEGIN\n"
    sql(path, trigger + "  SELECT RAISE(ABORT, 'journal is append-only');\nEND")
    async with opened(path, empty=False) as ledger:
        with pytest.raises(LedgerDamaged, match="expected to be"):
            await ledger.add(V1, TWO, SOURCE)
        with pytest.raises(LedgerDamaged):
            await ledger.seeds.every()
        assert await ledger.pin_of(V1) is None
        assert (await ledger.add(V2, ONE, SOURCE)).descriptor == TWO


async def test_another_process_hears_of_a_seed(path: Path) -> None:
    """What was withheld is asked anew once another process seeds the tag."""
    async with opened(path) as one, opened(path, empty=False) as other:
        await other.seeds.put([(DEFAULT, V1, ONE.digest)], reason="lock", actor="ann")
        found = await one.admit(V1, TWO, SOURCE)
        assert isinstance(found, Withheld)
        assert (found.why, one.peek_withheld(V1)) == (SeedMismatch(ONE.digest), found)
        await other.seeds.put([(DEFAULT, V1, TWO.digest)], reason="lock", actor="ann")
        async with asyncio.timeout(30):
            while one.peek_withheld(V1) is not None:
                await asyncio.sleep(0.02)
        assert isinstance(await one.admit(V1, TWO, SOURCE), Pin)


async def test_what_is_known_of_content_survives_a_rebuild(path: Path, clock: Clock) -> None:
    """Sightings, candidates and seeds come back from the journal file alone."""
    tables = ("sightings", "candidates")
    async with opened(path, now=clock) as ledger:
        await ledger.add(V2, TWO, SOURCE)
        clock.later(hours=1)
        await ledger.admit(V1, ONE, SOURCE, COOLING)
        await ledger.seeds.put([("dev", V1, ONE.digest)], reason="lock", actor="ann")
    before = [_rows(path, table) for table in tables]
    path.unlink()
    await rebuild(path, store_identity=STORE, actor="ann", reason="the disk failed")
    assert [_rows(path, table) for table in tables] == before
    async with opened(path, empty=False) as ledger:
        assert await ledger.first_seen(ONE.digest) == clock()
        assert await ledger.seeds.of("dev", V1) == ONE.digest
        assert (await ledger.verify()).problems == ()


def _rows(path: Path, table: str) -> list[object]:
    return sql(path, f"SELECT * FROM {table} ORDER BY 1")


@pytest.mark.parametrize(
    "damage", ["UPDATE sightings SET first_seen = '2020-01-01T00:00:00.000000+00:00'", "DELETE FROM sightings"]
)
async def test_a_lost_sighting_begins_anew(path: Path, clock: Clock, damage: str) -> None:
    """A row that was altered or lost is no proof of age: the cool-down starts over, and ends."""
    async with opened(path, now=clock) as ledger:
        await ledger.admit(V1, ONE, SOURCE, COOLING)
    sql(path, damage)
    clock.later(hours=2)
    async with opened(path, empty=False, now=clock) as ledger:
        found = await ledger.admit(V1, ONE, SOURCE, COOLING)
        assert isinstance(found, Withheld)
        assert found.why == CoolingDown(clock() + timedelta(hours=1))
        clock.later(hours=1)
        assert isinstance(await ledger.admit(V1, ONE, SOURCE, COOLING), Pin)


async def test_a_damaged_candidate_is_left_out(path: Path) -> None:
    """It is an observation: the list goes on without it, `verify` tells, and the next pull makes it anew."""
    async with opened(path) as ledger:
        await ledger.admit(V1, ONE, SOURCE, COOLING)
        await ledger.admit(V2, ONE, SOURCE, COOLING)
    sql(path, "UPDATE candidates SET source = 'x' WHERE tag = 'v1'")
    async with opened(path, empty=False) as ledger:
        assert [each.name.reference for each in await ledger.waiting()] == [V2]
        assert await ledger.candidate(V1) is None
        assert len((await ledger.verify()).problems) == 1
        await ledger.admit(V1, ONE, SOURCE, COOLING)
        assert [each.name.reference for each in await ledger.waiting()] == [V1, V2]
        assert (await ledger.verify()).problems == ()


async def test_waiting_is_read_in_pages(ledger: Ledger) -> None:
    """More names than one look reads; `after` goes on behind a name."""
    names = [tag(f"t{number:03}") for number in range(250)]
    await asyncio.gather(*(ledger.admit(name, ONE, SOURCE, COOLING) for name in names))
    assert [each.name.reference for each in await ledger.waiting()] == names
    assert [each.name.reference for each in await ledger.waiting(after=names[7], limit=3)] == names[8:11]
    assert await ledger.waiting_count() == 250


async def test_acts_are_counted_whoever_did_them(ledger: Ledger) -> None:
    """By kind; what iarproxy itself journals is no act."""
    await ledger.add(V1, ONE, SOURCE)
    await ledger.admit(V2, ONE, SOURCE, COOLING)
    await ledger.repin(V1, ONE.digest, TWO, reason="r", actor="ann", source=SOURCE)
    await ledger.repin(V1, TWO.digest, ONE, reason="r", actor="bob", source=SOURCE)
    await ledger.remove(V1, ONE.digest, reason="r", actor="ann")
    assert await ledger.acts() == {"repinned": 2, "removed": 1}


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("journal_acts", "SELECT kind, count(*) FROM journal WHERE actor != 'iarproxy' GROUP BY kind"),
        (
            "journal_seeds",
            "SELECT * FROM journal WHERE journal.kind IN ('seeded', 'unseeded')"  # noqa: ISC004  # one statement
            " AND environment = ? AND registry = ? AND repository = ? AND tag = ? ORDER BY serial DESC LIMIT 1",
        ),
    ],
)
def test_acts_and_seeds_are_found_without_a_walk(path: Path, index: str, query: str) -> None:
    """Their partial indexes are used: neither a scrape nor a first pin grows with the journal."""
    database(path).close()
    values = ["x"] * query.count("?")
    plan = " ".join(str(row) for row in sql(path, f"EXPLAIN QUERY PLAN {query}", *values))
    assert index in plan
    assert dump(path, "journal") != []
