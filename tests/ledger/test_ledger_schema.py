"""Immutability is in the schema: what somebody with raw SQL can and cannot do."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from iarproxy.errors import ConfigError
from iarproxy.ledger import restore
from iarproxy.trust import Steady, Vanished
from ledger_world import SOURCE, STORE, content, dump, opened, sql, tag

COLUMNS = (
    "registry, repository, tag, revision, digest, media_type, size, pinned_at, source, previous_digest, reason, "
    "actor, serial, checksum"
)
PLACES = ", ".join("?" * 14)
OLD, NEW = str(content("one").digest), str(content("evil").digest)
VERBS = ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL", "INSERT OR ROLLBACK"]


@pytest.fixture
async def pinned(path: Path) -> Path:
    """A ledger with one pin, closed."""
    async with opened(path) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
    return path


def _row(revision: object = 1, previous: object = None, reason: object = "", actor: object = "x") -> tuple[object, ...]:
    names = ("registry.example.com", "team/app", "v1", revision)
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


def make_older(path: Path) -> None:
    """What the first released schema was."""
    sql(path, "DROP INDEX drift_unsteady")
    sql(path, "PRAGMA user_version = 1")


async def test_an_older_schema_is_brought_forward(pinned: Path) -> None:
    """A ledger, or a backup, of an older iarproxy gains what it lacks, and keeps what it has."""
    make_older(pinned)
    backup_of_the_old(pinned)
    async with opened(pinned, empty=False) as ledger:
        assert [content("one")] == [pin.descriptor for pin in await ledger.pins()]
        assert (await ledger.verify()).ok
    await restore(pinned, pinned.parent / "backup", store_identity=STORE, actor="ann", reason="a test")
    async with opened(pinned, empty=False) as ledger:
        assert [content("one")] == [pin.descriptor for pin in await ledger.pins()]


def backup_of_the_old(path: Path) -> None:
    """As an older iarproxy made it: this one would not verify it."""
    target = path.parent / "backup"
    target.mkdir()
    for name in ("ledger.db", "journal.jsonl"):
        shutil.copy(path.with_name(name), target / name)


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
    row = ("registry.example.com", "team/app", "v2", 1, b"\x00", "a/b", 1, "2026", "s", None, "", "x", 9, b"")
    with pytest.raises(sqlite3.IntegrityError, match="cannot store BLOB"):
        sql(pinned, f"INSERT INTO pins ({COLUMNS}) VALUES ({PLACES})", *row)


async def test_files_are_private(pinned: Path) -> None:
    """Database, journal and lock are readable and writable by their owner only."""
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in pinned.parent.iterdir()}
    assert set(modes) >= {"ledger.db", "ledger.db.lock", "journal.jsonl"}
    assert set(modes.values()) == {0o600}
