"""Immutability is in the schema: what somebody with raw SQL can and cannot do."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from iarproxy.errors import ConfigError, Conflict, Malformed
from iarproxy.ledger import DEFAULT, Change, EventKind, Unpinned, rebuild, restore
from iarproxy.trust import Steady, Vanished
from ledger_world import SOURCE, STORE, content, dump, opened, sql, tag

HERE = Path(__file__).parent
COLUMNS = (
    "environment, registry, repository, tag, revision, digest, media_type, size, pinned_at, source, previous_digest, "
    "reason, actor, serial, checksum"
)
PLACES = ", ".join("?" * 15)
OLD, NEW = str(content("one").digest), str(content("evil").digest)
VERBS = ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL", "INSERT OR ROLLBACK"]


@pytest.fixture
async def pinned(path: Path) -> Path:
    """A ledger with one pin, closed."""
    async with opened(path) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
    return path


def _row(revision: object = 1, previous: object = None, reason: object = "", actor: object = "x") -> tuple[object, ...]:
    names = ("default", "registry.example.com", "team/app", "v1", revision)
    return (*names, NEW, "a/b", 1, "2026", "s", previous, reason, actor, 9, b"")


@pytest.mark.parametrize("verb", VERBS)
async def test_a_second_first_pin_is_ignored(pinned: Path, verb: str) -> None:
    """However it is spelt, INSERT of revision 1 over a pin does nothing: REPLACE too."""
    before = dump(pinned, "pins")
    for first in (1, "1", 1.0):
        sql(pinned, f"{verb} INTO pins ({COLUMNS}) VALUES ({PLACES})", *_row(first))
    assert dump(pinned, "pins") == before


async def test_an_upsert_does_not_pass(pinned: Path) -> None:
    """ON CONFLICT DO UPDATE ends at the same trigger."""
    before = dump(pinned, "pins")
    upsert = "ON CONFLICT DO UPDATE SET digest = excluded.digest"
    sql(pinned, f"INSERT INTO pins ({COLUMNS}) VALUES ({PLACES}) {upsert}", *_row())
    assert dump(pinned, "pins") == before


WRONG_REVISIONS = [
    _row(3, OLD, "r"),
    _row(0, OLD, "r"),
    _row(-1, OLD, "r"),
    _row(None, OLD, "r"),
    _row(2, NEW, "r"),
    _row(2, None, "r"),
    _row(2, OLD, ""),
    _row(2, OLD, "  "),
    _row(2, OLD, None),
    _row(2, OLD, "r", ""),
    _row(2, OLD, "r", None),
]


@pytest.mark.parametrize("verb", VERBS)
async def test_a_revision_must_follow_the_current_one(pinned: Path, verb: str) -> None:
    """Not the next revision, not the digest that is current, no reason or no actor: aborted."""
    before = dump(pinned, "pins")
    for row in WRONG_REVISIONS:
        with pytest.raises(sqlite3.IntegrityError):
            sql(pinned, f"{verb} INTO pins ({COLUMNS}) VALUES ({PLACES})", *row)
    assert dump(pinned, "pins") == before


UPDATES = [
    "UPDATE {} SET actor = 'x'",
    "UPDATE OR REPLACE {} SET actor = 'x'",
    "UPDATE {} SET serial = serial + 1",
    "DELETE FROM {}",
    "DELETE FROM {} WHERE serial = 2",
]


@pytest.mark.parametrize("table", ["pins", "journal"])
async def test_nothing_is_updated_or_deleted(pinned: Path, table: str) -> None:
    """Pins and journal only grow."""
    before = dump(pinned, table)
    for statement in UPDATES:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            sql(pinned, statement.format(table))
    assert dump(pinned, table) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_the_journal_only_grows_at_its_end(pinned: Path, verb: str) -> None:
    """No line is replaced, none is skipped, and a line names the hash before it."""
    before = dump(pinned, "journal")
    columns = "serial, at, kind, actor, reason, previous, body, hash"
    head = before[-1][11]
    for number, previous in ((1, head), (2, head), (4, head), (None, head), (3, "0" * 64), (3, "")):
        values = (number, "2026", "x", "x", "", previous, "{}", "h")
        with pytest.raises(sqlite3.IntegrityError):
            sql(pinned, f"{verb} INTO journal ({columns}) VALUES ({', '.join('?' * 8)})", *values)
    assert dump(pinned, "journal") == before


@pytest.mark.parametrize(
    "tampering",
    [
        "DROP TRIGGER pins_insert",
        "DROP TRIGGER pins_update",
        "DROP TRIGGER journal_delete",
        "DROP INDEX journal_by_revision",
        "CREATE TRIGGER more AFTER INSERT ON pins BEGIN SELECT 1; END",
        "CREATE TABLE more (x)",
        "DROP TABLE links",
        "ALTER TABLE pins ADD COLUMN more TEXT",
    ],
)
async def test_a_schema_that_is_not_ours_does_not_open(pinned: Path, tampering: str) -> None:
    """A trigger, index or table that is missing, altered or added is found at open."""
    sql(pinned, tampering)
    with pytest.raises(ConfigError, match=r"schema.*iarproxy ledger restore"):
        async with opened(pinned, empty=False):
            pass


async def test_a_weakened_trigger_does_not_open(pinned: Path) -> None:
    """The text of a trigger counts, not only its name."""
    sql(pinned, "DROP TRIGGER pins_delete")
    sql(pinned, "CREATE TRIGGER pins_delete BEFORE DELETE ON pins BEGIN SELECT 1; END")
    with pytest.raises(ConfigError, match="pins_delete"):
        async with opened(pinned, empty=False):
            pass


async def test_a_newer_schema_does_not_open(pinned: Path) -> None:
    """A database of a newer iarproxy is left alone."""
    sql(pinned, "PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="newer"):
        async with opened(pinned, empty=False):
            pass


def make_older(folder: Path, version: int) -> Path:
    """What an older iarproxy left: four tags, of which one was repinned, one removed, one drifted and one vanished."""
    with closing(sqlite3.connect(folder / "ledger.db")) as raw:
        raw.executescript((HERE / "version_2.sql").read_text())
        if version == 1:
            raw.executescript("DROP INDEX drift_unsteady; PRAGMA user_version = 1")
    shutil.copy(HERE / "version_2.jsonl", folder / "journal.jsonl")
    return folder / "ledger.db"


@pytest.mark.parametrize("version", [1, 2])
async def test_an_older_schema_is_brought_forward(tmp_path: Path, version: int) -> None:
    """A ledger of an older iarproxy gains what it lacks, and keeps every pin, verdict and line of its journal."""
    wanted = {"v1": content("first v1"), "v2": content("second"), "v4": content("first v4")}
    older = make_older(tmp_path, version)
    lines = older.with_name("journal.jsonl").read_bytes()
    async with opened(older, empty=False) as ledger:
        assert wanted == {pin.reference.tag.value: pin.descriptor for pin in await ledger.pins()}
        assert ["drifted", "vanished"] == [drift.verdict for _, drift in await ledger.drifts()]
        assert Unpinned(tag("v3"), 2, was=content("first v3").digest) == await ledger.standing(tag("v3"))
        assert (await ledger.verify()).ok
        assert [DEFAULT] == await ledger.environments()
        await ledger.repin(tag("v1"), wanted["v1"].digest, content("evil"), reason="r", actor="ann", source=SOURCE)
    assert older.with_name("journal.jsonl").read_bytes().startswith(lines)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_backup_of_an_older_iarproxy_is_restored(pinned: Path, tmp_path: Path, version: int) -> None:
    """As is a backup; and what the journal file of an older one tells makes the same ledger again."""
    folder = tmp_path / "older"
    folder.mkdir()
    make_older(folder, version)
    for each in (pinned, pinned.with_name("journal.jsonl")):
        each.unlink()
    await restore(pinned, folder, store_identity=STORE, actor="ann", reason="a test")
    async with opened(pinned, empty=False) as ledger:
        restored = await ledger.pins()
    await rebuild(pinned, store_identity=STORE, actor="ann", reason="a test")
    async with opened(pinned, empty=False) as ledger:
        assert ["v1", "v2", "v4"] == [pin.reference.tag.value for pin in restored]
        assert restored == await ledger.pins()
        assert (await ledger.verify()).ok


async def test_environments_have_pins_of_their_own(path: Path) -> None:
    """One tag, three environments: what happens in one is nothing to the others, over a rebuild too."""
    async with opened(path) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
        prod, stage = ledger.within("prod"), ledger.within("stage")
        assert None is await prod.pin_of(tag("v1"))
        await stage.add(tag("v1"), content("two"), SOURCE)
        promoted = Change("prod", tag("v1"), None, content("one"), SOURCE, {"from": "default"})
        [made] = await ledger.change(EventKind.PROMOTED, [promoted], reason="tested", actor="ann")
        assert made == await prod.pin_of(tag("v1")) == prod.peek(tag("v1"))
        await ledger.repin(tag("v1"), content("one").digest, content("three"), reason="r", actor="ann", source=SOURCE)
        found = {each.environment: each.peek(tag("v1")) for each in (ledger, prod, stage)}
        digests = {name: pin.descriptor for name, pin in found.items() if pin}
        assert {"default": content("three"), "prod": content("one"), "stage": content("two")} == digests
        assert ["promoted"] == [each.kind for each in await prod.history(tag("v1"))]
        assert (await ledger.verify()).ok
    await rebuild(path, store_identity=STORE, actor="ann", reason="a test")
    async with opened(path, empty=False) as ledger:
        assert ["default", "prod", "stage"] == await ledger.environments()
        assert [promoted.new] == [pin.descriptor for pin in await ledger.within("prod").pins()]
        assert "tested" == (await ledger.within("prod").history(tag("v1")))[0].reason


async def test_an_act_happens_to_all_of_its_names_or_to_none(path: Path) -> None:
    """Every name that is not as the person said is told, and none is changed."""
    async with opened(path) as ledger:
        for name in ("a", "b", "c"):
            await ledger.add(tag(name), content("one"), SOURCE)
        old, other = content("one").digest, content("other").digest
        act = [Change(DEFAULT, tag(name), was, content("two")) for name, was in (("a", old), ("b", other), ("d", old))]
        with pytest.raises(Conflict, match=r"app:b is pinned to .*; .*app:d has no pin"):
            await ledger.change(EventKind.IMPORTED, act, reason="r", actor="ann")
        with pytest.raises(Malformed, match="once"):
            await ledger.change(EventKind.IMPORTED, [act[0], act[0]], reason="r", actor="ann")
        assert {content("one")} == {pin.descriptor for pin in await ledger.pins()}
        assert 4 == await ledger.serial()
        made = await ledger.change(EventKind.RETIRED, [Change(DEFAULT, tag("a"), old, None)], reason="r", actor="ann")
        assert [Unpinned(tag("a"), 2, was=old, retired=True)] == made == [await ledger.standing(tag("a"))]


async def test_the_unsteady_are_found_without_a_walk(pinned: Path) -> None:
    """What `/metrics` asks at each scrape does not grow with the number of pins that were checked."""
    async with opened(pinned, empty=False) as ledger:
        for number in range(20):
            reference = tag(f"v{number}")
            await ledger.add(reference, content("one"), SOURCE)
            await ledger.record_check(reference, Steady(content("one").digest), None, {})
        gone = Vanished(content("one").digest)
        await ledger.record_check(tag("v3"), gone, None, {})
        assert 1 == await ledger.drift_count() == len(await ledger.drifts())
        plan = "EXPLAIN QUERY PLAN SELECT count(*) FROM drift WHERE verdict != 'steady'"
    assert "drift_unsteady" in str(sql(pinned, plan))


async def test_values_have_the_declared_types(pinned: Path) -> None:
    """STRICT: a blob is no digest."""
    name = ("default", "registry.example.com", "team/app", "v2")
    row = (*name, 1, b"\x00", "a/b", 1, "2026", "s", None, "", "x", 9, b"")
    with pytest.raises(sqlite3.IntegrityError, match="cannot store BLOB"):
        sql(pinned, f"INSERT INTO pins ({COLUMNS}) VALUES ({PLACES})", *row)


async def test_files_are_private(pinned: Path) -> None:
    """Database, journal and lock are readable and writable by their owner only."""
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in pinned.parent.iterdir()}
    assert set(modes) >= {"ledger.db", "ledger.db.lock", "journal.jsonl"}
    assert set(modes.values()) == {0o600}
