"""The way out: backup, restore, rebuild."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from iarproxy.errors import ConfigError, LedgerDamaged, Refused
from iarproxy.ledger import DEFAULT, Change, EventKind, RecoveryReport, backup, rebuild, restore
from iarproxy.trust.drift import Drifted, Vanished
from ledger_world import SOURCE, STORE, content, copy_ledger, dump, fill, opened, sql, tag

EVIL = content("evil")
TABLES = ("pins", "journal", "drift")


@pytest.fixture
async def filled(path: Path) -> Path:
    """A closed ledger with first pins, repins, a removal, drifts and their end."""
    async with opened(path) as ledger:
        await fill(ledger, 12)
        await ledger.remove(tag("v1"), content("first 1").digest, reason="malware", actor="ann")
        clean = Change(DEFAULT, tag("v1"), None, content("clean"), SOURCE)
        await ledger.change(EventKind.APPROVED, [clean], reason="mended", actor="ann")
        await ledger.remove(tag("v2"), content("first 2").digest, reason="old", actor="ann")
        await ledger.record_check(tag("v4"), Drifted(content("first 4").digest, EVIL.digest), EVIL, {"etag": "x"})
        await ledger.record_check(tag("v5"), Vanished(content("first 5").digest), None, {})
    return path


async def _rebuilt(path: Path, *, store: str = STORE) -> None:
    await rebuild(path, store_identity=store, actor="ann", reason="the disk failed")


async def _restored(path: Path, source: Path, *, store: str = STORE) -> RecoveryReport:
    return await restore(path, source, store_identity=store, actor="ann", reason="the disk failed")


async def _sound(path: Path) -> None:
    async with opened(path, empty=False) as ledger:
        assert (await ledger.verify()).problems == ()


async def test_a_rebuilt_ledger_equals_the_original(filled: Path) -> None:
    """The same rows, serials and hashes in every journaled table, and then one event that tells who rebuilt it."""
    before = {table: dump(filled, table) for table in TABLES}
    filled.unlink()
    await _rebuilt(filled)
    assert dump(filled, "pins") == before["pins"]
    assert dump(filled, "drift") == before["drift"]
    assert dump(filled, "journal")[:-1] == before["journal"]
    async with opened(filled, empty=False) as ledger:
        last = (await ledger.events(after=len(before["journal"])))[0]
        assert (last.kind, last.actor, last.reason) == (EventKind.RECOVERED, "ann", "the disk failed")
    await _sound(filled)
    assert stat.S_IMODE(filled.stat().st_mode) == 0o600


async def test_rebuild_keeps_the_old_database_aside(filled: Path) -> None:
    """What is replaced is renamed with what belongs to it, each time anew."""
    whole = filled.read_bytes()
    await _rebuilt(filled)
    await _rebuilt(filled)
    assert filled.with_name("ledger.db.replaced-1").read_bytes() == whole
    assert filled.with_name("ledger.db.replaced-2").exists()
    assert list(filled.parent.glob("*.new*")) == []


async def test_rebuild_over_a_ruin(filled: Path) -> None:
    """The state of the old database does not matter."""
    filled.write_bytes(b"ruin")
    await _rebuilt(filled)
    await _sound(filled)


async def test_rebuild_lets_a_torn_line_go(filled: Path) -> None:
    """A line that a crash tore was never answered for; a whole one without its line feed is kept."""
    lines = filled.parent / "journal.jsonl"
    whole = lines.read_bytes()
    count = len(whole.splitlines())
    for cut, kept in ((30, count - 1), (1, count)):
        lines.write_bytes(whole[:-cut])
        filled.unlink()
        report = await rebuild(filled, store_identity=STORE, actor="ann", reason="r")
        assert report.replayed == kept
        assert (report.dropped_bytes > 0) == (kept == count - 1)
        await _sound(filled)


@pytest.mark.parametrize("where", [0, 3, -1])
async def test_rebuild_refuses_a_broken_chain(filled: Path, where: int) -> None:
    """A line that was altered, dropped or put elsewhere is a refusal, and nothing is changed."""
    lines = filled.parent / "journal.jsonl"
    whole = lines.read_bytes().splitlines(keepends=True)
    altered = [*whole]
    altered[where] = whole[where].replace(b'"actor":"', b'"actor":"x')
    dropped = [line for line in whole if line is not whole[where] or where == -1]
    swapped = [whole[5], *whole[1:5], whole[0], *whole[6:]]
    before = filled.read_bytes()
    for bad in (altered, swapped) if where == -1 else (altered, dropped, swapped):
        lines.write_bytes(b"".join(bad))
        with pytest.raises(ConfigError):
            await _rebuilt(filled)
        assert filled.read_bytes() == before


async def test_rebuild_for_another_store(filled: Path) -> None:
    """The journal begins with the identity of its store."""
    with pytest.raises(ConfigError, match="another store"):
        await _rebuilt(filled, store="another")


async def test_rebuild_from_nothing(path: Path) -> None:
    """Without a journal file there is nothing to rebuild from."""
    with pytest.raises(ConfigError, match="no journal file"):
        await _rebuilt(path)


async def test_backup_beside_an_open_ledger(filled: Path, tmp_path: Path) -> None:
    """A backup of a ledger in use is whole, private, and holds the journal as of its moment."""
    target = tmp_path / "backup"
    async with opened(filled, empty=False) as ledger:
        report = await backup(filled, target)
        await ledger.add(tag("later"), content("later"), SOURCE)
    assert report.serial == len(dump(target / "ledger.db", "journal"))
    assert len((target / "journal.jsonl").read_bytes().splitlines()) == report.serial
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in target.iterdir()} == {0o600}
    with pytest.raises(Refused, match="exists"):
        await backup(filled, target)
    with pytest.raises(Refused, match=r"missing/backup cannot be made: No such file"):
        await backup(filled, tmp_path / "missing" / "backup")


async def test_a_damaged_ledger_makes_no_backup(filled: Path, tmp_path: Path) -> None:
    """What does not verify is not kept as a backup."""
    trigger = sql(filled, "SELECT sql FROM sqlite_schema WHERE name = 'pins_update'")[0][0]
    sql(filled, "DROP TRIGGER pins_update")
    sql(filled, "UPDATE pins SET size = 9 WHERE tag = 'v4'")
    sql(filled, trigger)
    with pytest.raises(LedgerDamaged, match="v4"):
        await backup(filled, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_an_old_backup_is_brought_forward(filled: Path, tmp_path: Path) -> None:
    """What happened after the backup is replayed from the journal file: no pin and no drift is lost."""
    await backup(filled, tmp_path / "backup")
    async with opened(filled, empty=False) as ledger:
        await ledger.add(tag("later"), content("later"), SOURCE)
        await ledger.repin(tag("v4"), content("first 4").digest, EVIL, reason="r", actor="ann", source=SOURCE)
        await ledger.record_check(tag("v7"), Vanished(content("first 7").digest), None, {})
    before = {table: dump(filled, table) for table in TABLES}
    filled.unlink()
    await _restored(filled, tmp_path / "backup")
    assert dump(filled, "pins") == before["pins"]
    assert dump(filled, "drift") == before["drift"]
    assert dump(filled, "journal")[:-1] == before["journal"]
    await _sound(filled)


@pytest.mark.parametrize("lost", ["journal.jsonl", "ledger.db", "both"])
async def test_restore_after_a_loss(filled: Path, tmp_path: Path, lost: str) -> None:
    """A backup makes good for either file, or both; without the journal it says that later pins are forgotten."""
    await backup(filled, tmp_path / "backup")
    before = dump(filled, "pins")
    for name in ("journal.jsonl", "ledger.db") if lost == "both" else (lost,):
        (filled.parent / name).unlink()
    report = await _restored(filled, tmp_path / "backup")
    assert report.blind == (lost != "ledger.db")
    assert dump(filled, "pins") == before
    await _sound(filled)


async def test_restore_mends_a_journal_file(filled: Path, tmp_path: Path) -> None:
    """A line that rotted before the backup's end is written anew from it; the rotten file is kept aside."""
    await backup(filled, tmp_path / "backup")
    lines = filled.parent / "journal.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(whole.replace(b'"actor":"ann"', b'"actor":"bob"', 1))
    await _restored(filled, tmp_path / "backup")
    assert lines.read_bytes().startswith(whole)
    assert lines.with_name("journal.jsonl.replaced-1").exists()
    await _sound(filled)


async def test_restore_refuses_what_it_cannot_bring_forward(filled: Path, tmp_path: Path) -> None:
    """A rotten line after the backup's end could hide a pin: refused, and nothing is changed."""
    await backup(filled, tmp_path / "backup")
    async with opened(filled, empty=False) as ledger:
        await ledger.add(tag("x"), content("x"), SOURCE)
        await ledger.add(tag("y"), content("y"), SOURCE)
    lines = filled.parent / "journal.jsonl"
    before = filled.read_bytes()
    for name in (b'"tag":"x"', b'"tag":"y"'):
        whole = lines.read_bytes()
        lines.write_bytes(whole.replace(name, b'"tag":"z"'))
        with pytest.raises(ConfigError, match="newer"):
            await _restored(filled, tmp_path / "backup")
        lines.write_bytes(whole)
    assert filled.read_bytes() == before


async def test_restore_of_another_store_or_history(filled: Path, tmp_path: Path) -> None:
    """A backup of another store, or one that the journal file contradicts, is refused."""
    await backup(filled, tmp_path / "backup")
    with pytest.raises(ConfigError, match="another store"):
        await _restored(filled, tmp_path / "backup", store="another")
    other = tmp_path / "other" / "ledger.db"
    other.parent.mkdir()
    async with opened(other) as ledger:
        await ledger.add(tag("a"), content("a"), SOURCE)
    before = other.read_bytes()
    with pytest.raises(ConfigError, match="different histories"):
        await _restored(other, tmp_path / "backup")
    assert other.read_bytes() == before
    with pytest.raises(ConfigError, match="no backup"):
        await _restored(other, tmp_path / "none")


async def test_restore_of_a_damaged_backup(filled: Path, tmp_path: Path) -> None:
    """A backup that rotted does not replace anything."""
    await backup(filled, tmp_path / "backup")
    rotten = tmp_path / "backup" / "ledger.db"
    whole = rotten.read_bytes()
    place = whole.index(content("first 4").digest.hex.encode())
    rotten.write_bytes(whole[:place] + b"0000" + whole[place + 4 :])
    before = filled.read_bytes()
    with pytest.raises(ConfigError, match="does not verify"):
        await _restored(filled, tmp_path / "backup")
    assert filled.read_bytes() == before


async def test_restore_of_an_old_copy_made_by_cp(filled: Path, tmp_path: Path) -> None:
    """The remedy that the refusal names works: a cp of database and journal file is a backup too."""
    old = copy_ledger(filled, tmp_path / "old")
    async with opened(filled, empty=False) as ledger:
        await ledger.add(tag("later"), content("later"), SOURCE)
    before = dump(filled, "pins")
    shutil.copy(old, filled)
    with pytest.raises(ConfigError, match="old copy"):
        await _sound(filled)
    await _restored(filled, old.parent)
    assert dump(filled, "pins") == before
    await _sound(filled)


async def test_a_crash_between_the_two_renames(filled: Path) -> None:
    """With the old database aside and the new one not yet in place nothing opens, and rebuild goes through again."""
    os.rename(filled, filled.with_name("ledger.db.replaced-1"))  # noqa: PTH104 (what the crash left)
    with pytest.raises(ConfigError, match="rebuild"):
        await _sound(filled)
    await _rebuilt(filled)
    await _sound(filled)
