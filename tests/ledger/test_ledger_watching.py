"""What the drift watch reads and writes of the ledger, and the order of use."""

from __future__ import annotations

from pathlib import Path

import pytest

from iarproxy.errors import Conflict
from iarproxy.ledger import DEFAULT, Ledger, Name, Use
from iarproxy.ledger.watching import START, Finding, Seen
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.trust import Drifted, Steady, Vanished
from ledger_world import APP, SOURCE, Clock, content, opened, sql, tag

ONE, TWO = content("one"), content("two")


async def every(ledger: Ledger, environment: str = DEFAULT, limit: int = 3) -> list[Seen]:
    """All pins of the registry, slice by slice."""
    found: list[Seen] = []
    place: tuple[str, str] | None = START
    while place is not None:
        some, place = await ledger.watching.slice(
            environment, APP.registry, after=place, limit=limit, wanted=lambda each: each.tag.value != "unwanted"
        )
        found += some
    return found


async def test_all_pins_pass_by(path: Path) -> None:
    """Each wanted pin once, with the time of its last check, or else of the pin; nothing of what was removed."""
    clock = Clock()
    async with opened(path, now=clock) as ledger:
        for name in ("a", "b", "c", "d", "removed", "unwanted"):
            await ledger.add(tag(name), ONE, SOURCE)
        await ledger.within("prod").add(tag("p"), ONE, SOURCE)
        await ledger.add(tag("elsewhere", Repository("other.example.com", "team/app")), ONE, SOURCE)
        await ledger.remove(tag("removed"), ONE.digest, reason="a test", actor="ann")
        pinned = clock.at.timestamp()
        checked = clock.later(hours=1).timestamp()
        await ledger.record_check(tag("b"), Steady(ONE.digest), None, {})
        await ledger.record_check(tag("c"), Vanished(ONE.digest), None, {})
        repinned = clock.later(hours=1).timestamp()
        await ledger.repin(tag("c"), ONE.digest, TWO, reason="a test", actor="ann", source=SOURCE)
        expected = [("a", pinned, False), ("b", checked, True), ("c", repinned, False), ("d", pinned, False)]
        assert expected == [(each.name.reference.tag.value, each.at, each.checked) for each in await every(ledger)]
        assert ["p"] == [each.name.reference.tag.value for each in await every(ledger, "prod")]


async def test_a_damaged_pin_is_left_out(path: Path) -> None:
    """The others pass by, and are checked."""
    async with opened(path) as ledger:
        for name in ("a", "b"):
            await ledger.add(tag(name), ONE, SOURCE)
    [[trigger]] = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'pins_update'")
    for statement in ("DROP TRIGGER pins_update", "UPDATE pins SET size = 7 WHERE tag = 'a'", trigger):
        sql(path, statement)
    async with opened(path, empty=False) as ledger:
        held = await ledger.watching.held([each.name for each in await every(ledger)])
        assert [tag("b")] == [pin.reference for pin, _ in held]


async def test_confirming_is_no_accusation(path: Path) -> None:
    """Many findings in one transaction: known ones are refreshed, a drift that ended is journaled, and what would be an
    accusation without evidence, or is about the past, is not written.
    """
    clock = Clock()
    async with opened(path, now=clock) as ledger:
        pins = [await ledger.add(tag(name), ONE, SOURCE) for name in ("steady", "standing", "ended", "news", "past")]
        for pin in pins[1:3]:
            await ledger.record_check(pin.reference, Drifted(ONE.digest, TWO.digest), TWO, {"etag": "x"})
        await ledger.repin(tag("past"), ONE.digest, TWO, reason="a test", actor="ann", source=SOURCE)
        before, moment = await ledger.serial(), clock.later(hours=1)
        drifted = Drifted(ONE.digest, TWO.digest)
        findings = [
            Finding(pins[0], Steady(ONE.digest)),
            Finding(pins[1], drifted, TWO),
            Finding(pins[2], Steady(ONE.digest)),
            Finding(pins[3], drifted, TWO),
            Finding(pins[4], Steady(ONE.digest)),
        ]
        await ledger.watching.confirm(findings)
        found = await ledger.watching.held([pin.name for pin in pins])
        states = [None if state is None else (state.verdict, state.checked_at == moment) for _, state in found]
        assert [("steady", True), ("drifted", True), ("steady", True), None, None] == states
        assert ["steadied"] == [each.kind.value for each in await ledger.events(after=before)]


async def test_what_is_watched_drives_nothing_out_of_memory(path: Path) -> None:
    """Pins that no client asked for do not come into the memory of those that are served."""
    async with opened(path) as ledger:
        await ledger.add(tag("a"), ONE, SOURCE)
    async with opened(path, empty=False) as ledger:
        name = Name(DEFAULT, tag("a"))
        [(pin, _)] = await ledger.watching.held([name])
        await ledger.watching.confirm([Finding(pin, Steady(ONE.digest))])
        assert ledger.peek(tag("a")) is None
        await ledger.pin_of(tag("a"))
        await ledger.watching.confirm([Finding(pin, Steady(ONE.digest))])
        state = ledger.peek_drift(tag("a"))
        assert state is not None


async def test_another_process_sees_an_acknowledgement(path: Path) -> None:
    """It is an act like any other: whoever holds the tag in memory asks again."""
    async with opened(path) as ledger, opened(path, empty=False) as other:
        await ledger.add(tag("a"), ONE, SOURCE)
        await ledger.record_check(tag("a"), Drifted(ONE.digest, TWO.digest), TWO, {})
        await other.watching.acknowledge(Name(DEFAULT, tag("a")), TWO.digest, reason="a rebuild", actor="ann")
        with pytest.raises(Conflict, match=str(TWO.digest)):
            await other.watching.acknowledge(Name(DEFAULT, tag("a")), ONE.digest, reason="a rebuild", actor="ann")
        for _ in range(200):
            await ledger.pin_of(tag("a"))
            state = ledger.peek_drift(tag("a"))
            if state is not None and not state.alarms:
                break
        assert state is not None
        assert state.acknowledged is not None
        assert ("ann", "a rebuild") == (state.acknowledged.actor, state.acknowledged.reason)
        assert 0 == await ledger.drift_count()


async def test_the_most_used_tags(path: Path) -> None:
    """By how often they were given, whichever digest it was and whoever asked; blobs and digests are no tags."""
    clock = Clock()
    async with opened(path, now=clock) as ledger:

        def use(name: Tag | Digest | None, count: int, client: str = "10.0.0.1", number: int = 0) -> Use:
            return Use(APP, name, content(str(number)).digest, client, clock.at, clock.at, count)

        few = [use(Tag(f"few-{number}"), 1) for number in range(4500)]
        many = [use(Tag("b"), 5), use(Tag("b"), 5, "10.0.0.2"), use(Tag("a"), 7), use(Tag("c"), 6, number=1)]
        for start in range(0, len(few), 500):
            await ledger.uses.record(few[start : start + 500])
        await ledger.uses.record([*many, use(None, 99), use(ONE.digest, 99)])
        found = await ledger.uses.favourites(APP.registry, 3)
        assert [(APP.name, "b"), (APP.name, "a"), (APP.name, "c")] == found
        assert [] == await ledger.uses.favourites("other.example.com", 3)
