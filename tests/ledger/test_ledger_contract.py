"""What the other rooms rely on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iarproxy.errors import Conflict, Denied, LedgerUnavailable, Malformed
from iarproxy.ledger import DEFAULT, Change, DriftState, EventKind, Ledger, Pin
from iarproxy.oci import Digest, Repository, TagReference
from iarproxy.trust.drift import Drifted, Steady, Vanished
from ledger_world import APP, SOURCE, Clock, content, opened, tag

V1 = tag("v1")
ONE, TWO, THREE = content("one"), content("two"), content("three")


async def _eventually(condition: object) -> None:
    async with asyncio.timeout(1.0):  # design section 5: seen by all workers within one second
        while not condition():  # type: ignore[operator]  # a lambda of each test
            await asyncio.sleep(0.01)


async def test_a_tag_that_nobody_pinned_has_no_pin(ledger: Ledger) -> None:
    """No pin is None, in memory and in the database."""
    assert ledger.peek(V1) is None
    assert await ledger.pin_of(V1) is None


async def test_the_first_fetch_pins(ledger: Ledger, clock: Clock) -> None:
    """A pin tells what, when and from where, and is in memory at once."""
    expected = Pin(V1, ONE, clock.at, SOURCE, 1)
    assert await ledger.add(V1, ONE, SOURCE) == expected
    assert ledger.peek(V1) == expected
    assert await ledger.pin_of(V1) == expected


async def test_the_first_writer_wins(ledger: Ledger) -> None:
    """Who comes later gets the pin of whoever was first."""
    first = await ledger.add(V1, ONE, SOURCE)
    assert await ledger.add(V1, TWO, SOURCE) == first
    assert await ledger.pin_of(V1) == first


async def test_adds_that_arrive_together_agree(ledger: Ledger) -> None:
    """A hundred fetches of one tag with different answers end with one pin."""
    pins = await asyncio.gather(*(ledger.add(V1, content(str(number)), SOURCE) for number in range(100)))
    assert len(set(pins)) == 1


async def test_pins_survive_a_restart(path: Path) -> None:
    """What was pinned is pinned after the process ended."""
    async with opened(path) as ledger:
        pin = await ledger.add(V1, ONE, SOURCE)
    async with opened(path, empty=False, create=False) as ledger:
        assert ledger.peek(V1) is None
        assert await ledger.pin_of(V1) == pin


async def test_repin_names_old_and_new(ledger: Ledger, clock: Clock) -> None:
    """A person's act makes the next revision, and the journal says who and why."""
    await ledger.add(V1, ONE, SOURCE)
    later = clock.later(hours=1)
    pin = await ledger.repin(V1, ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)
    assert pin == Pin(V1, TWO, later, SOURCE, 2) == ledger.peek(V1) == await ledger.pin_of(V1)
    event = (await ledger.history(V1))[-1]
    assert (event.kind, event.actor, event.reason) == (EventKind.REPINNED, "ann", "a fix")
    assert event.body["previous"] == str(ONE.digest)
    assert event.body["descriptor"]["digest"] == str(TWO.digest)


async def test_repin_is_compare_and_swap(ledger: Ledger) -> None:
    """A repin that names another old digest is refused and told the digest that is pinned."""
    await ledger.add(V1, ONE, SOURCE)
    with pytest.raises(Conflict, match=str(ONE.digest)) as refused:
        await ledger.repin(V1, TWO.digest, THREE, reason="a fix", actor="ann", source=SOURCE)
    assert refused.value.detail["pinned"] == str(ONE.digest)
    with pytest.raises(Conflict, match="already"):
        await ledger.repin(V1, ONE.digest, ONE, reason="a fix", actor="ann", source=SOURCE)
    with pytest.raises(Conflict, match="no pin"):
        await ledger.repin(tag("other"), ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)


@pytest.mark.parametrize(("reason", "actor"), [("", "ann"), ("  ", "ann"), ("a fix", ""), ("x" * 5000, "ann")])
async def test_an_act_needs_reason_and_actor(ledger: Ledger, reason: str, actor: str) -> None:
    """Nobody changes a pin without saying who and why."""
    await ledger.add(V1, ONE, SOURCE)
    with pytest.raises(Malformed):
        await ledger.repin(V1, ONE.digest, TWO, reason=reason, actor=actor, source=SOURCE)
    with pytest.raises(Malformed):
        await ledger.remove(V1, ONE.digest, reason=reason, actor=actor)


async def test_one_refused_act_does_not_undo_its_neighbours(ledger: Ledger) -> None:
    """Writes that share a transaction fail alone."""
    await ledger.add(V1, ONE, SOURCE)
    outcomes = await asyncio.gather(
        ledger.add(tag("a"), ONE, SOURCE),
        ledger.repin(V1, TWO.digest, THREE, reason="a fix", actor="ann", source=SOURCE),
        ledger.add(tag("b"), TWO, SOURCE),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [Pin, Conflict, Pin]
    assert (await ledger.verify()).problems == ()


async def test_a_removed_pin_comes_back_by_an_approval_only(ledger: Ledger) -> None:
    """Removal leaves a tombstone, which no fetch passes; the approved content is the revision after it."""
    await ledger.add(V1, ONE, SOURCE)
    await ledger.remove(V1, ONE.digest, reason="malware", actor="ann")
    assert ledger.peek(V1) is None
    assert await ledger.pin_of(V1) is None
    assert await ledger.pins() == []
    for each in (ONE, TWO):
        with pytest.raises(Denied, match="a person removed"):
            await ledger.add(V1, each, SOURCE)
    approved = Change(DEFAULT, V1, None, TWO, SOURCE)
    made = await ledger.change(EventKind.APPROVED, [approved], reason="mended", actor="ann")
    assert [await ledger.pin_of(V1)] == made
    assert [(each.revision, each.descriptor) for each in made if isinstance(each, Pin)] == [(3, TWO)]
    kinds = ["pinned", "removed", "quarantined", "quarantined", "approved"]
    assert [event.kind for event in await ledger.history(V1)] == kinds


async def test_drift_is_news_once(ledger: Ledger, clock: Clock) -> None:
    """One event for each distinct offer; checks in between only move the time of the last check (threats T19)."""
    await ledger.add(V1, ONE, SOURCE)
    seen = clock.later(hours=1)
    verdict = Drifted(ONE.digest, TWO.digest)
    assert await ledger.record_check(V1, Steady(ONE.digest), None, {}) is False
    assert await ledger.record_check(V1, verdict, TWO, {"etag": "x"}) is True
    checked = clock.later(hours=1)
    assert await ledger.record_check(V1, verdict, TWO, {}) is False
    state = DriftState("drifted", TWO, seen, checked)
    assert ledger.peek_drift(V1) == state
    assert [(pin.reference, found) for pin, found in await ledger.drifts()] == [(V1, state)]
    assert await ledger.record_check(V1, Drifted(ONE.digest, THREE.digest), THREE, {}) is True
    assert await ledger.record_check(V1, Vanished(ONE.digest), None, {}) is True
    assert await ledger.record_check(V1, Vanished(ONE.digest), None, {}) is False
    assert await ledger.record_check(V1, Steady(ONE.digest), None, {}) is True
    assert await ledger.record_check(V1, Steady(ONE.digest), None, {}) is False
    assert await ledger.drifts() == []
    kinds = [event.kind for event in await ledger.history(V1)]
    assert kinds == ["pinned", "drifted", "drifted", "vanished", "steadied"]
    assert (await ledger.history(V1))[1].body["evidence"] == {"etag": "x"}


async def test_a_verdict_about_the_past_changes_nothing(ledger: Ledger) -> None:
    """A check that raced with a repin does not accuse the new pin."""
    await ledger.add(V1, ONE, SOURCE)
    await ledger.repin(V1, ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)
    assert await ledger.record_check(V1, Drifted(ONE.digest, TWO.digest), TWO, {}) is False
    assert await ledger.record_check(tag("none"), Drifted(ONE.digest, TWO.digest), TWO, {}) is False
    assert await ledger.drifts() == []


async def test_repin_ends_a_drift(ledger: Ledger) -> None:
    """A new revision begins without the drift of the one before."""
    await ledger.add(V1, ONE, SOURCE)
    await ledger.record_check(V1, Drifted(ONE.digest, TWO.digest), TWO, {})
    await ledger.repin(V1, ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)
    assert ledger.peek_drift(V1) is None
    assert await ledger.drifts() == []


@pytest.mark.parametrize("evidence", [{"manifest": "x" * 300_000}, {"bad": "\ud800"}, {"huge": 2**70}, {"set": {1}}])
async def test_no_evidence_can_silence_the_alarm(ledger: Ledger, evidence: dict[str, object]) -> None:
    """Evidence that is too large, or is no JSON, is replaced by what it was; the event is written."""
    await ledger.add(V1, ONE, SOURCE)
    assert await ledger.record_check(V1, Drifted(ONE.digest, TWO.digest), TWO, evidence) is True
    assert "left_out" in (await ledger.history(V1))[-1].body["evidence"]
    assert (await ledger.verify()).problems == ()


async def test_pins_come_in_pages(ledger: Ledger) -> None:
    """Keyset pages are complete, sorted and without repetition."""
    names = [tag(f"v{number}") for number in range(25)] + [tag("a", Repository("ghcr.io", "x"))]
    await asyncio.gather(*(ledger.add(name, ONE, SOURCE) for name in names))
    found: list[TagReference] = []
    while page := await ledger.pins(after=found[-1] if found else None, limit=7):
        found += [pin.reference for pin in page]
    assert found == sorted(names)


async def test_tags_are_pinned_and_followed_ones(ledger: Ledger) -> None:
    """The tags of a repository that can be served from here, sorted; removed ones are not."""
    for name in ("b", "a", "gone"):
        await ledger.add(tag(name), ONE, SOURCE)
    await ledger.remove(tag("gone"), ONE.digest, reason="x", actor="ann")
    await ledger.set_followed(tag("latest"), TWO)
    assert await ledger.tags_of(APP) == ["a", "b", "latest"]
    assert await ledger.tags_of(Repository("ghcr.io", "other")) == []


async def test_followed_tags_move(ledger: Ledger, clock: Clock) -> None:
    """The last offer of a followed tag replaces the one before."""
    assert await ledger.followed(V1) is None
    await ledger.set_followed(V1, ONE)
    later = clock.later(minutes=5)
    await ledger.set_followed(V1, TWO)
    assert await ledger.followed(V1) == (TWO, later)


async def test_links_are_per_repository(path: Path, ledger: Ledger) -> None:
    """Content is linked where it was linked, however often, and stays so."""
    other = Repository("ghcr.io", "other")
    await ledger.link(APP, [ONE.digest, ONE.digest, TWO.digest])
    await ledger.link(APP, (digest for digest in [ONE.digest]))
    await ledger.link(APP, [])
    assert [await ledger.linked(APP, each.digest) for each in (ONE, TWO, THREE)] == [True, True, False]
    assert await ledger.linked(other, ONE.digest) is False
    async with opened(path) as second:
        assert await second.linked(APP, TWO.digest) is True


async def test_another_process_sees_a_change_within_a_second(path: Path, ledger: Ledger) -> None:
    """A repin by one ledger drops the tag from the other's memory and tells its subscribers; a first pin does not."""
    heard: list[TagReference | None] = []
    async with opened(path) as other:
        ledger.on_change(heard.append)
        await ledger.add(V1, ONE, SOURCE)
        await ledger.add(tag("kept"), ONE, SOURCE)
        await other.add(tag("new"), ONE, SOURCE)
        await other.repin(V1, ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)
        await _eventually(lambda: ledger.peek(V1) is None)
        assert heard == [V1]
        assert ledger.peek(tag("kept")) is not None
        found = await ledger.pin_of(V1)
        assert found is not None
        assert found.descriptor == TWO
        await other.record_check(V1, Vanished(TWO.digest), None, {})
        await _eventually(lambda: ledger.peek(V1) is None)
        await ledger.pin_of(V1)
        assert ledger.peek_drift(V1) is not None


async def test_ones_own_change_is_told_at_once(ledger: Ledger) -> None:
    """When an act of this process returns, its subscribers have been told; a first pin is no change."""
    heard: list[TagReference | None] = []
    ledger.on_change(heard.append)
    await ledger.add(V1, ONE, SOURCE)
    await ledger.pin_of(V1)
    assert [] == heard
    await ledger.record_check(V1, Vanished(ONE.digest), None, {})
    assert V1 in heard
    heard.clear()
    await ledger.repin(V1, ONE.digest, TWO, reason="a fix", actor="ann", source=SOURCE)
    assert V1 in heard
    heard.clear()
    await ledger.remove(V1, TWO.digest, reason="a fix", actor="ann")
    assert V1 in heard


async def test_memory_is_bounded(path: Path) -> None:
    """The pin that was not asked for the longest leaves memory first, and is read again."""
    async with opened(path, remembered=2) as ledger:
        for name in "abc":
            await ledger.add(tag(name), ONE, SOURCE)
        assert [ledger.peek(tag(name)) is not None for name in "abc"] == [False, True, True]
        assert await ledger.pin_of(tag("a")) is not None


async def test_a_closed_ledger_says_so(path: Path) -> None:
    """Nothing hangs on a ledger that was closed."""
    async with opened(path) as ledger:
        pass
    with pytest.raises(LedgerUnavailable, match="closed"):
        await ledger.pin_of(V1)


async def test_sha512_pins(ledger: Ledger) -> None:
    """The other registered algorithm is kept as it is."""
    digest = Digest.of(b"x", "sha512")
    pin = await ledger.add(V1, type(ONE)(ONE.media_type, digest, 1), SOURCE)
    assert pin.descriptor.digest == digest
    assert await ledger.pin_of(V1) == pin
