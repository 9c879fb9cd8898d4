"""Sets: what their last syncs came to, from the journal alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from iarproxy.errors import LedgerDamaged, Malformed
from iarproxy.ledger import EventKind, Ledger, rebuild
from iarproxy.oci import Digest
from ledger_world import STORE, content, opened, sql

DEFINITION = Digest.of(b"a section")


async def keep(ledger: Ledger, name: str, text: str, *, complete: bool = True) -> None:
    await ledger.sets.keep(name, content(text), DEFINITION, complete=complete, actor="ann")


async def test_the_newest_record_counts(tmp_path: Path) -> None:
    """Of each set what was kept last is told; a set that was never synced is none; a rebuild knows them again."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await keep(ledger, "site-a", "one", complete=False)
        await keep(ledger, "site-b", "other")
        await keep(ledger, "site-a", "two")
        before = await ledger.sets.every()
        assert [("site-a", content("two"), True), ("site-b", content("other"), True)] == [
            (each.name, each.record, each.complete) for each in before
        ]
        assert before[0] == await ledger.sets.of("site-a")
        assert None is await ledger.sets.of("site-c")
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    async with opened(path, empty=False) as ledger:
        assert before == await ledger.sets.every()
        assert (await ledger.verify()).ok


async def test_a_sync_without_news_is_no_entry(tmp_path: Path) -> None:
    """The same record again leaves the journal as it is; what differs in anything does not."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await keep(ledger, "site-a", "one")
        await keep(ledger, "site-b", "one")
        await keep(ledger, "site-a", "one")
        await keep(ledger, "site-a", "one", complete=False)
        assert [EventKind.CREATED, *[EventKind.SYNCED] * 3] == [each.kind for each in await ledger.events()]


@pytest.mark.parametrize(("name", "actor"), [("Site", "ann"), ("", "ann"), ("a/b", "ann"), ("site", " ")])
async def test_what_is_no_set(tmp_path: Path, name: str, actor: str) -> None:
    """It is refused, and nothing is written."""
    async with opened(tmp_path / "ledger.db") as ledger:
        with pytest.raises(Malformed):
            await ledger.sets.keep(name, content("one"), DEFINITION, complete=True, actor=actor)
        assert 1 == await ledger.serial()


async def test_a_damaged_entry_is_no_older_record(tmp_path: Path) -> None:
    """Where the newest entry fails its hash nothing is told of any set that it may be about."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await keep(ledger, "site-a", "one")
        await keep(ledger, "site-a", "two")
        await keep(ledger, "site-b", "one")
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET body = replace(body, 'true', 'false') WHERE serial = 3")
    sql(
        path,
        "CREATE TRIGGER journal_update BEFORE UPDATE ON journal\nBEGIN\n"
        "  SELECT RAISE(ABORT, 'journal is append-only');\nEND",
    )
    async with opened(path, empty=False) as ledger:
        assert await ledger.sets.of("site-b")
        with pytest.raises(LedgerDamaged, match="entry 3"):
            await ledger.sets.of("site-a")
        with pytest.raises(LedgerDamaged, match="entry 3"):
            await ledger.sets.every()
