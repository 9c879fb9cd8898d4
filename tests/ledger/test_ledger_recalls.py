"""Recalls in the ledger: acts, undoing, damage, other processes, recovery."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iarproxy.errors import Conflict, Malformed, Recalled
from iarproxy.ledger import EventKind, Ledger, RecallOutcome, rebuild, recalls
from iarproxy.ledger.recalls import MAX_REASON, one_line
from iarproxy.ledger.rows import checksum
from iarproxy.ledger.transaction import Transaction
from iarproxy.oci import Digest
from ledger_world import SOURCE, STORE, Clock, content, database, opened, sql, tag

BAD, INDEX, CHILD = (Digest.of(each) for each in (b"bad", b"index", b"child"))
WHY, WHO = "malware", "ann (uid 1000)"


async def recall(ledger: Ledger, *digests: Digest, within: Digest | None = None) -> RecallOutcome:
    return await ledger.recalls.recall(digests, reason=WHY, actor=WHO, within=within)


async def until(ledger: Ledger, known: set[Digest]) -> None:
    """Wait until this process knows exactly these as recalled."""
    async with asyncio.timeout(20):
        while set(ledger.recalls.known) != known:
            await asyncio.sleep(0.02)


async def test_a_recall_stands_until_it_is_undone(ledger: Ledger, clock: Clock) -> None:
    """Who, when and why are kept; a second recall changes nothing and says so; undoing is journaled too."""
    done = await recall(ledger, BAD)
    assert (([BAD], "malware", "ann (uid 1000)", clock.at), ()) == (
        ([each.digest for each in done.made], done.made[0].reason, done.made[0].actor, done.made[0].at),
        done.stood,
    )
    clock.later(hours=1)
    again = await ledger.recalls.recall([BAD], reason="again", actor="bob")
    assert ((), done.made) == (again.made, again.stood)
    assert list(done.made) == await ledger.recalls.undo([BAD], reason="false alarm", actor="ann")
    assert {} == dict(ledger.recalls.known)
    kinds = [(each.kind.value, each.reference, each.body["digest"]) for each in (await ledger.events())[1:]]
    assert [("recalled", None, str(BAD)), ("unrecalled", None, str(BAD))] == kinds


async def test_undoing_what_is_not_recalled_is_a_conflict(ledger: Ledger) -> None:
    """Undoing is compare-and-swap: all of the digests are recalled, or nothing is undone."""
    await recall(ledger, BAD)
    with pytest.raises(Conflict, match=str(CHILD)):
        await ledger.recalls.undo([BAD, CHILD], reason="oops", actor="ann")
    assert {BAD} == set(ledger.recalls.known)


async def test_an_act_needs_a_reason_and_an_actor(ledger: Ledger) -> None:
    """A recall without words, or with more of them than are taken, is refused."""
    for reason, actor in ((" ", "ann"), ("malware", ""), ("x" * (MAX_REASON + 1), "ann")):
        with pytest.raises(Malformed):
            await ledger.recalls.recall([BAD], reason=reason, actor=actor)
        with pytest.raises(Malformed):
            await ledger.recalls.undo([BAD], reason=reason, actor=actor)
    assert 1 == await ledger.serial()


async def test_children_name_the_index_they_were_recalled_with(ledger: Ledger) -> None:
    """An index and what is below it are recalled in one act, and it stays known which brought which."""
    await recall(ledger, INDEX, CHILD, within=INDEX)
    assert {INDEX: None, CHILD: INDEX} == {each.digest: each.within for each in ledger.recalls.known.values()}


async def test_no_pin_is_made_on_a_recalled_digest(ledger: Ledger) -> None:
    """Neither a first fetch nor an act of a person pins it; the tag stays as it was."""
    bad = content("bad")
    await ledger.add(tag("v1"), content("good"), SOURCE)
    await recall(ledger, bad.digest)
    with pytest.raises(Recalled, match="malware"):
        await ledger.add(tag("v2"), bad, SOURCE)
    with pytest.raises(Recalled, match="--undo"):
        await ledger.repin(tag("v1"), content("good").digest, bad, reason="newer", actor="bob", source=SOURCE)
    assert (None, 1) == (await ledger.pin_of(tag("v2")), len(await ledger.history(tag("v1"))))


async def test_other_processes_obey_and_forget_what_they_made_ready(path: Path) -> None:
    """A recall made elsewhere is known here soon, and everything that was made ready is told to be forgotten."""
    async with opened(path) as ours, opened(path, empty=False) as other:
        told: list[object] = []
        other.on_change(told.append)
        await recall(ours, BAD)
        await until(other, {BAD})
        assert [None] == told
        await other.recalls.undo([BAD], reason="false alarm", actor="ann")
        await until(ours, set())
    async with opened(path, empty=False) as later:
        assert {} == dict(later.recalls.known)


async def test_a_restart_and_a_rebuild_know_all_recalls(path: Path) -> None:
    """They come back from the database, and from the journal file alone, word for word."""
    async with opened(path) as first:
        await recall(first, INDEX, CHILD, within=INDEX)
        await recall(first, BAD)
        await first.recalls.undo([BAD], reason="false alarm", actor="ann")
        known = dict(first.recalls.known)
    async with opened(path, empty=False) as second:
        assert known == dict(second.recalls.known)
    path.unlink()
    await rebuild(path, store_identity=STORE, actor="ann", reason="lost")
    async with opened(path, empty=False) as third:
        assert known == dict(third.recalls.known)
        assert () == (await third.verify()).problems


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recalls SET digest = 'sha256:0' || substr(digest, 9)",
        "UPDATE recalls SET reason = 'fine'",
        "UPDATE recalls SET checksum = x'00'",
        "DELETE FROM recalls",
    ],
)
async def test_a_damaged_row_lets_nothing_go(path: Path, damage: str) -> None:
    """Whatever becomes of the row: the journal keeps the digest denied, and `verify` tells of it."""
    async with opened(path) as first:
        await recall(first, BAD)
    sql(path, damage)
    async with opened(path, empty=False) as second:
        assert ({BAD}, "malware") == (set(second.recalls.known), second.recalls.known[BAD].reason)
        assert any("recall" in problem for problem in (await second.verify()).problems)
        with pytest.raises(Recalled):
            await second.add(tag("v1"), content("bad"), SOURCE)


async def test_a_damaged_entry_lets_nothing_go(path: Path) -> None:
    """An undoing counts only while its entry is intact, and a recall counts even where its entry is not."""
    async with opened(path) as first:
        await recall(first, BAD)
        await recall(first, CHILD)
        await first.recalls.undo([CHILD], reason="false alarm", actor="ann")
        await first.add(tag("v1"), content("good"), SOURCE)
    [trigger] = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'journal_update'")
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET reason = 'fine' WHERE kind IN ('recalled', 'unrecalled')")
    sql(path, trigger[0])
    async with opened(path, empty=False) as second:
        known = second.recalls.known
        assert {BAD, CHILD} == set(known)
        assert "fails its hash" in str(known[BAD])


async def test_a_forged_row_ends_nothing(path: Path) -> None:
    """A row whose checksum fits and whose words do not is no recall, and takes none away."""
    async with opened(path) as first:
        await recall(first, BAD)
    values = ("sha256:nonsense", "yesterday", "eve", "x", "", 1)
    sql(path, "INSERT INTO recalls VALUES (?, ?, ?, ?, ?, ?, ?)", *values, checksum("recalls", values))
    async with opened(path, empty=False) as second:
        assert {BAD} == set(second.recalls.known)


async def test_what_was_rolled_back_is_not_remembered(path: Path) -> None:
    """A recall in a transaction that is undone leaves nothing, in the process that tried it either."""
    made = database(path)

    def fail(tx: Transaction) -> None:
        tx.append(EventKind.RECALLED, None, actor="a", reason="r", body=body)
        assert {BAD} == set(recalls.read(tx.connection))
        raise Conflict("undone")

    body = {"digest": str(BAD)}
    try:
        [outcome] = made.write([fail])
        assert isinstance(outcome, Conflict)
        assert [{}] == [dict(each) for each in made.read([recalls.read]) if not isinstance(each, Exception)]
    finally:
        made.close()


async def test_one_act_is_bounded(ledger: Ledger) -> None:
    """More digests than one transaction should hold are refused, and none of them is recalled."""
    with pytest.raises(Conflict, match="one act takes"):
        await recall(ledger, *(Digest.of(str(number).encode()) for number in range(recalls.MOST_AT_ONCE + 1)))
    assert {} == dict(ledger.recalls.known)


def test_a_persons_words_become_one_line() -> None:
    """What is shown has no control characters, no line ends, and a bound."""
    assert "a b c d" == one_line("a\r\nb\x1b\u2028c\u202ed")
    assert (200, "...") == (len(one_line("x" * 5000)), one_line("x" * 5000)[-3:])
