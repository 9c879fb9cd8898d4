"""Where receivers of events stand, and the dead letters: durable, bounded, and none of a pin's business."""

from __future__ import annotations

from pathlib import Path

from iarproxy.ledger import EventKind, deliveries
from iarproxy.ledger.deliveries import Receiver
from ledger_world import SOURCE, Clock, content, opened, sql, tag


async def test_a_place_lasts(tmp_path: Path) -> None:
    """A new receiver begins at the journal's end; its place is there after a restart; one that left is forgotten."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.add(tag("1"), content("a"), SOURCE)
        serial = await ledger.serial()
        assert [Receiver("ops", serial)] == await ledger.deliveries.begin(["ops"])
        await ledger.add(tag("2"), content("a"), SOURCE)
        await ledger.deliveries.done("ops", serial + 1)
        await ledger.deliveries.done("ops", serial)  # nobody goes back
        await ledger.deliveries.bury("ops", serial + 1, "no")
    async with opened(path, empty=False) as ledger:
        found = await ledger.deliveries.begin(["ops", "siem"])
        assert [Receiver("ops", serial + 1, dead=1), Receiver("siem", serial + 1)] == found
        assert [Receiver("siem", serial + 1)] == await ledger.deliveries.begin(["siem"])
        assert [] == await ledger.deliveries.dead()
        assert (await ledger.verify()).ok


async def test_what_comes_next(tmp_path: Path) -> None:
    """Only the wanted kinds are given, in order; what is skipped counts as looked at."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.deliveries.begin(["ops"])
        for number in range(30):
            await ledger.add(tag(str(number)), content("a"), SOURCE)
        for number in range(25):
            await ledger.repin(
                tag(str(number)), content("a").digest, content("b"), reason="r", actor="ann", source=SOURCE
            )
        head = await ledger.serial()
        page = await ledger.deliveries.after(1, {"repinned"})
        assert ([f"registry.example.com/team/app:{number}" for number in range(20)], True) == (
            [str(event.reference) for event in page.events],
            page.more,
        )
        rest = await ledger.deliveries.after(page.until, {"repinned"})
        assert (5, False, head) == (len(rest.events), rest.more, rest.until)
        assert (EventKind.PINNED, 20) == (
            (first := await ledger.deliveries.after(1, None)).events[0].kind,
            len(first.events),
        )
        assert [25, 55] == [await ledger.deliveries.waiting("ops", kinds) for kinds in ({"repinned"}, None)]
        assert 0 == await ledger.deliveries.waiting("nobody", None)


async def test_dead_letters_have_a_bound(tmp_path: Path) -> None:
    """The oldest leave and are counted; one that was delivered after all is gone."""
    clock = Clock()
    async with opened(tmp_path / "ledger.db", now=clock) as ledger:
        await ledger.deliveries.begin(["ops"])
        for serial in range(1, deliveries.MOST_DEAD + 4):
            await ledger.deliveries.bury("ops", serial, "x" * 10_000)
        letters = await ledger.deliveries.dead()
        assert (deliveries.MOST_DEAD, 4, 500, clock.at) == (
            len(letters),
            letters[0].serial,
            len(letters[0].reason),
            letters[0].at,
        )
        await ledger.deliveries.unearth(letters[0])
        (receiver,) = await ledger.deliveries.receivers()
        assert (deliveries.MOST_DEAD - 1, 3) == (receiver.dead, receiver.dropped)


async def test_a_receiver_stops_and_goes_on(tmp_path: Path) -> None:
    """Why it stopped is kept; its place is the same when it goes on."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.deliveries.begin(["ops"])
        await ledger.deliveries.stop("ops", "410")
        assert ["410"] == [each.stopped for each in await ledger.deliveries.receivers()]
        await ledger.deliveries.stop("ops", "")
        assert [Receiver("ops", 1)] == await ledger.deliveries.receivers()


async def test_damage_is_nobodys_trouble(tmp_path: Path) -> None:
    """A row that fails its checksum is nothing: the receiver begins anew, and letters that are damaged are not told."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.deliveries.begin(["ops"])
        await ledger.deliveries.bury("ops", 1, "no")
    sql(path, "UPDATE receivers SET serial = 99")
    sql(path, "UPDATE dead_letters SET reason = 'yes'")
    async with opened(path, empty=False) as ledger:
        assert [] == await ledger.deliveries.dead()
        assert [("ops", 1)] == [(each.name, each.serial) for each in await ledger.deliveries.begin(["ops"])]


async def test_a_damaged_entry_is_told_apart(tmp_path: Path) -> None:
    """An entry that fails its hash is named, and the others are given."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        for name in "ab":
            await ledger.add(tag(name), content("a"), SOURCE)
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET actor = 'mallory' WHERE serial = 2")
    for statement in _triggers():
        sql(path, statement)
    async with opened(path, empty=False) as ledger:
        page = await ledger.deliveries.after(1, None)
        assert ([3], (2,)) == ([each.serial for each in page.events], page.damaged)


def _triggers() -> list[str]:
    text = "BEGIN\n  SELECT RAISE(ABORT, 'journal is append-only');\nEND"
    return [f"CREATE TRIGGER journal_update BEFORE UPDATE ON journal\n{text}"]
