"""Refusals of bundles in the journal: each once, and no more than a bound of them a day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from iarproxy.ledger import EventKind, rebuild
from iarproxy.ledger.refusals import Refusal
from iarproxy.oci import Digest
from ledger_world import STORE, Clock, opened

REFUSAL = Refusal(Digest.of(b"one"), "c1", "expired", "too late", "origin", "site-a", 7, Clock()())


async def test_each_is_told_once(tmp_path: Path) -> None:
    """The same content with the same code is one entry; another code or content is one of its own. A rebuild knows."""
    path, clock = tmp_path / "ledger.db", Clock()
    async with opened(path, now=clock) as ledger:
        told = [REFUSAL, REFUSAL, replace(REFUSAL, code="conflict"), replace(REFUSAL, content="c2"), REFUSAL]
        assert [True, False, True, True, False] == [await ledger.refusals.note(each, actor="ann") for each in told]
        known = await ledger.refusals.every()
        assert [told[3], told[2], told[0]] == known
        assert [EventKind.CREATED, *[EventKind.REFUSED] * 3] == [each.kind for each in await ledger.events()]
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    async with opened(path, empty=False) as ledger:
        assert known == await ledger.refusals.every()
        assert (await ledger.verify()).ok


async def test_the_journal_is_not_filled(tmp_path: Path) -> None:
    """Of more than a hundred in a day the rest is not kept; on the next day it may be."""
    clock = Clock()
    async with opened(tmp_path / "ledger.db", now=clock) as ledger:
        kept = [await ledger.refusals.note(replace(REFUSAL, content=str(n)), actor="ann") for n in range(105)]
        assert [True] * 100 + [False] * 5 == kept
        clock.later(hours=25)
        assert await ledger.refusals.note(replace(REFUSAL, content="next"), actor="ann")
