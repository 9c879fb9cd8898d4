"""Leases: what somebody runs; and names that are retired only while nothing happened that the decision did not know."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import Conflict, LedgerDamaged, Malformed, UnknownName
from iarproxy.ledger import Change, EventKind, Ledger, Unpinned, rebuild
from iarproxy.ledger.leases import LONGEST, MOST
from iarproxy.oci import Digest
from ledger_world import SOURCE, STORE, Clock, content, opened, sql, tag

DAY = timedelta(days=1)
WHO: dict[str, Any] = {"reason": "r", "actor": "ann"}


async def lease(ledger: Ledger, name: str, *texts: str, lasting: timedelta = DAY) -> None:
    await ledger.leases.set(name, [content(each).digest for each in texts], lasting=lasting, **WHO)


async def test_a_lease_is_in_the_journal(tmp_path: Path) -> None:
    """It is set, replaced and ended by acts; a rebuild brings it back; its time is told, not enforced here."""
    path, clock = tmp_path / "ledger.db", Clock()
    async with opened(path, now=clock) as ledger:
        await lease(ledger, "prod", "a", "b")
        await lease(ledger, "edge", "c")
        await lease(ledger, "prod", "b")
        until = clock.at + DAY
        found = await ledger.leases.every()
        assert [("edge", {content("c").digest}, until), ("prod", {content("b").digest}, until)] == [
            (each.name, set(each.digests), each.until) for each in found
        ]
        await ledger.leases.end("edge", **WHO)
        with pytest.raises(UnknownName, match="there are: prod"):
            await ledger.leases.end("edge", **WHO)
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    async with opened(path, empty=False) as ledger:
        assert ["prod"] == [each.name for each in await ledger.leases.every()]
        kinds = [event.kind for event in await ledger.events()]
        assert [EventKind.LEASED] * 3 + [EventKind.UNLEASED] == kinds[1:5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": ""},
        {"lasting": timedelta(0)},
        {"lasting": LONGEST + DAY},
        {"digests": []},
        {"digests": [Digest.of(str(number).encode()) for number in range(MOST + 1)]},
        {"reason": " "},
        {"actor": ""},
    ],
    ids=str,
)
async def test_what_is_no_lease(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """It is refused, and nothing is written."""
    given = {"name": "prod", "digests": [content("a").digest], "lasting": DAY, **WHO, **wrong}
    async with opened(tmp_path / "ledger.db") as ledger:
        with pytest.raises(Malformed):
            await ledger.leases.set(given.pop("name"), given.pop("digests"), **given)
        assert 1 == await ledger.serial()


async def test_the_largest_lease_fits(tmp_path: Path) -> None:
    """As many digests as are allowed go into the journal and come back."""
    digests = [Digest.of(str(number).encode()) for number in range(MOST)]
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.leases.set("prod", digests, lasting=DAY, **WHO)
        assert (await ledger.verify()).ok
        assert set(digests) == (await ledger.leases.every())[0].digests


async def test_a_damaged_lease_lets_nothing_go(tmp_path: Path) -> None:
    """What a lease protected is not guessed."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await lease(ledger, "prod", "a")
        await ledger.add(tag("a"), content("a"), SOURCE)
    guard = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'journal_update'")[0][0]
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET actor = 'mallory' WHERE kind = 'leased'")
    sql(path, guard)
    async with opened(path, empty=False) as ledger:
        with pytest.raises(LedgerDamaged):
            await ledger.leases.every()


def gone(name: str, text: str, within: str = "default") -> Change:
    return Change(within, tag(name), content(text).digest, None, detail={"plan": "x"})


async def test_names_are_retired(tmp_path: Path) -> None:
    """All at once, as one act; each may be pinned again to what it was."""
    async with opened(tmp_path / "ledger.db") as ledger:
        for name in "abc":
            await ledger.add(tag(name), content(name), SOURCE)
        serial = await ledger.serial()
        made = await ledger.leases.retire([gone("a", "a"), gone("b", "b")], serial=serial, **WHO)
        assert [True, True] == [isinstance(each, Unpinned) and each.retired for each in made or []]
        assert [None, None] == [ledger.peek(tag("a")), await ledger.pin_of(tag("b"))]
        assert "x" == (await ledger.history(tag("a")))[-1].body["plan"]
        assert content("a") == (await ledger.add(tag("a"), content("a"), SOURCE)).descriptor


async def test_what_happened_since_counts(tmp_path: Path) -> None:
    """A lease, a change of the name, or a new pin on its content: decide again. Anything else is no reason to."""
    async with opened(tmp_path / "ledger.db") as ledger:
        for name in "ab":
            await ledger.add(tag(name), content(name), SOURCE)

        async def after(act: Any) -> Any:
            serial = await ledger.serial()
            await act
            return await ledger.leases.retire([gone("a", "a")], serial=serial, **WHO)

        assert None is await after(lease(ledger, "prod", "z"))
        assert None is await after(ledger.leases.end("prod", **WHO))
        assert None is await after(ledger.within("prod").add(tag("x"), content("a"), SOURCE))
        assert None is await after(
            ledger.repin(tag("a"), content("a").digest, content("n"), source=SOURCE, reason="r", actor="ann")
        )
        with pytest.raises(Conflict):
            await ledger.leases.retire([gone("a", "a")], serial=await ledger.serial(), **WHO)
        await ledger.repin(tag("a"), content("n").digest, content("a"), source=SOURCE, reason="r", actor="ann")
        assert None is not await after(ledger.add(tag("other"), content("q"), SOURCE))
