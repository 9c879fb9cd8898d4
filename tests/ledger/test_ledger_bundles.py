"""Bundles in the ledger: sequences, and applies that happen as one or not at all, for every process.

`IARPROXY_SEEDS=200` lets an apply beside which others work bring 10,000 names instead of 1,000.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import BundleRefused, Conflict, LedgerDamaged, LedgerUnavailable, Malformed, Recalled
from iarproxy.ledger import DEFAULT, Change, EventKind, Ledger, Pin, Unpinned, rebuild
from iarproxy.ledger.bundles import Applying, apply_within
from iarproxy.ledger.database import Database
from iarproxy.ledger.links import rows_of
from iarproxy.ledger.transaction import Transaction
from iarproxy.oci import Digest, TagReference
from ledger_world import APP, SOURCE, STORE, content, database, opened, sql, tag

ORIGIN = "iarproxy/origin"
FULL = {"kind": "none"}
HERE = Path(__file__).parent
MANY = 10_000 if os.environ.get("IARPROXY_SEEDS") == "200" else 1000


def bundle(text: str) -> Digest:
    return Digest.of(f"bundle {text}".encode())


def bringing(sequence: int, changes: list[tuple[str, str | None, str | None]], **more: Any) -> Applying:
    """An apply of these tags, with the contents that they had and shall have."""
    wanted = [
        Change(DEFAULT, tag(name), content(old).digest if old else None, content(new) if new else None, "a bundle")
        for name, old, new in changes
    ]
    fixed = Applying(
        origin=ORIGIN,
        set="site-a",
        sequence=sequence,
        bundle=bundle(str(sequence)),
        manifest=content(f"manifest {sequence}"),
        environment=DEFAULT,
        changes=wanted,
        followed=[(tag(f"sha256-{'0' * 64}"), content(f"attached {sequence}"))],
        links={APP: [content(new).digest for _, _, new in changes if new]},
        checkpoint="iarproxy/origin\n7\n",
        reason="monthly delivery",
        actor="ann",
    )
    return replace(fixed, **more)


async def pins_of(ledger: Ledger) -> dict[TagReference, Digest]:
    return {pin.reference: pin.descriptor.digest for pin in await ledger.pins()}


async def test_sequences_count_for_each_set(tmp_path: Path) -> None:
    """They begin with 1, rise by 1 for the same bundle too, and a rebuild knows them again."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        made = [await ledger.bundles.make(name, bundle("x"), base=FULL, actor="ann") for name in ("a", "a", "b", "a")]
        assert [1, 2, 1, 3] == made
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    async with opened(path, empty=False) as ledger:
        assert [(1, FULL), (2, FULL), (3, FULL)] == [
            (each.sequence, each.base) for each in await ledger.bundles.made("a")
        ]
        assert 4 == await ledger.bundles.make("a", bundle("y"), base=FULL, actor="ann")
        assert [] == await ledger.bundles.made("c")
        with pytest.raises(Malformed):
            await ledger.bundles.make("No Set", bundle("y"), base=FULL, actor="ann")


async def test_what_was_attached_meanwhile(tmp_path: Path) -> None:
    """A list of referrers that was joined with one that stands no more is refused: it would lose what came since."""
    async with opened(tmp_path / "ledger.db") as ledger:
        attached = tag(f"sha256-{'0' * 64}")
        fresh = bringing(1, [("v1", None, "one")], known={attached: None})
        await ledger.set_followed(attached, content("meanwhile"))
        for known in ({attached: None}, {attached: content("before").digest}):
            with pytest.raises(Conflict, match=r"attached as .* meanwhile"):
                await ledger.bundles.apply(replace(fresh, known=known))
        assert ({}, None) == (await pins_of(ledger), await ledger.bundles.last_applied(ORIGIN, "site-a"))
        await ledger.bundles.apply(replace(fresh, known={attached: content("meanwhile").digest}))
        now = await ledger.followed(attached)
        assert now is not None
        assert content("attached 1") == now[0]


async def test_an_apply_is_one_act(tmp_path: Path) -> None:
    """Names, followed tags, links and the entry are there together, and the entries say which bundle it was."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
        made = await ledger.bundles.apply(bringing(1, [("v1", "one", "two"), ("v2", None, "three")]))
        assert [content("two"), content("three")] == [each.descriptor for each in made if isinstance(each, Pin)]
        assert {tag("v1"): content("two").digest, tag("v2"): content("three").digest} == await pins_of(ledger)
        attached = await ledger.followed(tag(f"sha256-{'0' * 64}"))
        assert attached is not None
        assert content("attached 1") == attached[0]
        assert await ledger.linked(APP, content("two").digest)
        kinds = [(each.kind, each.actor) for each in await ledger.events(after=2)]
        assert [(EventKind.APPLIED, "ann"), *[(EventKind.IMPORTED, "ann")] * 2] == kinds
        last = await ledger.bundles.last_applied(ORIGIN, "site-a")
        assert last is not None
        assert (1, bundle("1"), content("manifest 1"), "iarproxy/origin\n7\n", 3) == (
            last.sequence,
            last.bundle,
            last.manifest,
            last.checkpoint,
            last.serial,
        )
        assert None is await ledger.bundles.last_applied(ORIGIN, "site-b")
        assert None is await ledger.bundles.last_applied("iarproxy/other", "site-a")
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    async with opened(path, empty=False) as ledger:
        assert last == await ledger.bundles.last_applied(ORIGIN, "site-a")
        assert {tag("v1"): content("two").digest, tag("v2"): content("three").digest} == await pins_of(ledger)
        assert None is await ledger.followed(tag(f"sha256-{'0' * 64}"))
        again = bringing(1, [("v1", "one", "two")])
        await ledger.bundles.reattach(again.followed, again.links)
        assert await ledger.followed(tag(f"sha256-{'0' * 64}"))
        assert await ledger.linked(APP, content("two").digest)
        assert (await ledger.verify()).ok


async def test_lists_that_others_changed_meanwhile(tmp_path: Path) -> None:
    """Attachments are set again only where they still are what they were joined with."""
    async with opened(tmp_path / "ledger.db") as ledger:
        brought = bringing(1, [("v1", None, "one")])
        [(reference, attached)] = brought.followed
        await ledger.bundles.reattach(brought.followed, brought.links, known={reference: None})
        newer = [(reference, content("newer"))]
        with pytest.raises(Conflict, match="attached"):
            await ledger.bundles.reattach(newer, {}, known={reference: None})
        found = await ledger.followed(reference)
        assert (attached, True) == (found and found[0], await ledger.linked(APP, content("one").digest))
        await ledger.bundles.reattach(newer, {}, known={reference: attached.digest})
        found = await ledger.followed(reference)
        assert content("newer") == (found and found[0])


async def unchanged(ledger: Ledger, serial: int) -> None:
    """Nothing of an apply is there."""
    assert serial == await ledger.serial()
    assert {tag("v1"): content("one").digest} == await pins_of(ledger)
    assert None is await ledger.followed(tag(f"sha256-{'0' * 64}"))
    assert not await ledger.linked(APP, content("three").digest)
    assert None is await ledger.bundles.last_applied(ORIGIN, "site-a")


async def test_an_apply_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """A pin that moved, a recalled digest, no reason: each time no name, no link, no followed tag, no entry."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.add(tag("v1"), content("one"), SOURCE)
        await ledger.recalls.recall([content("bad").digest], reason="r", actor="ann")
        serial = await ledger.serial()
        with pytest.raises(Conflict, match="v1 is pinned to"):
            await ledger.bundles.apply(bringing(1, [("v2", None, "three"), ("v1", "zero", "two")]))
        await unchanged(ledger, serial)
        with pytest.raises(Recalled):
            await ledger.bundles.apply(bringing(1, [("v2", None, "three"), ("v3", None, "bad")]))
        await unchanged(ledger, serial)
        with pytest.raises(Malformed):
            await ledger.bundles.apply(bringing(1, [("v2", None, "three")], reason=" "))
        with pytest.raises(Malformed):
            await ledger.bundles.apply(bringing(1, [("v2", None, "three")], checkpoint="x" * 100_000))
        await unchanged(ledger, serial)


async def test_no_sequence_is_applied_twice(tmp_path: Path) -> None:
    """The same and an older one are refused by the transaction itself; other sets and origins count for themselves."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.bundles.apply(bringing(3, [("v1", None, "one")]))
        for sequence in (3, 2):
            with pytest.raises(BundleRefused, match="sequence 3") as refused:
                await ledger.bundles.apply(bringing(sequence, [("v2", None, "two")]))
            assert "replayed" == refused.value.code
        await ledger.bundles.apply(bringing(1, [], set="site-b"))
        await ledger.bundles.apply(bringing(2, [], origin="iarproxy/other"))
        await ledger.bundles.apply(bringing(5, [("v1", "one", "two")], signers=("aa",), rotations=(b"bb",)))
        every = await ledger.bundles.every_applied()
        assert [
            ("iarproxy/origin", "site-a", 5),
            ("iarproxy/origin", "site-b", 1),
            ("iarproxy/other", "site-a", 2),
        ] == [(each.origin, each.set, each.sequence) for each in every]
        assert (("aa",), [b"bb"]) == (every[0].signers, await ledger.bundles.rotations())
        assert [3, 1, 2, 5] == [each.sequence for each in await ledger.bundles.history()]


async def test_racing_applies_of_one_bundle(tmp_path: Path) -> None:
    """Of many at the same time one applies it."""
    async with opened(tmp_path / "ledger.db") as ledger:
        several = [ledger.bundles.apply(bringing(1, [("v1", None, "one")])) for _ in range(8)]
        outcomes = await asyncio.gather(*several, return_exceptions=True)
        assert 7 == sum(isinstance(each, BundleRefused) for each in outcomes)
        assert {tag("v1"): content("one").digest} == await pins_of(ledger)


async def test_other_processes_forget_everything(tmp_path: Path) -> None:
    """Who sees the entry of an apply is told to forget all, for followed tags have no entries of their own."""
    path = tmp_path / "ledger.db"
    async with opened(path) as first, opened(path, empty=False) as second:
        told: list[TagReference | None] = []
        second.on_change(told.append)
        await second.add(tag("v1"), content("one"), SOURCE)
        assert second.peek(tag("v1"))
        await first.bundles.apply(bringing(1, [("v1", "one", "two")]))
        async with asyncio.timeout(10):
            while None not in told:
                await asyncio.sleep(0.01)
        assert None is second.peek(tag("v1"))
        pin = await second.pin_of(tag("v1"))
        assert pin is not None
        assert content("two") == pin.descriptor


async def test_a_damaged_apply_is_no_older_one(tmp_path: Path) -> None:
    """An entry that fails its hash is told, and nothing is applied while it does."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.bundles.apply(bringing(1, [("v1", None, "one")]))
        await ledger.bundles.apply(bringing(2, [("v1", "one", "two")]))
    frozen = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'journal_update'")[0][0]
    sql(path, "DROP TRIGGER journal_update")
    sql(path, "UPDATE journal SET body = replace(body, '\"sequence\":2', '\"sequence\":0') WHERE kind = 'applied'")
    sql(path, frozen)
    async with opened(path, empty=False) as ledger:
        with pytest.raises(LedgerDamaged):
            await ledger.bundles.last_applied(ORIGIN, "site-a")
        with pytest.raises(LedgerDamaged):
            await ledger.bundles.apply(bringing(2, [("v1", "two", "one")]))
        assert {tag("v1"): content("two").digest} == await pins_of(ledger)


def applied(held: Database, applying: Applying) -> list[Pin | Unpinned]:
    outcome = held.write([partial(apply_within, applying=applying, links_made=rows_of(applying.links))])[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize("pages", [0, 1, 4, 16])
async def test_no_room_in_the_middle_of_an_apply(tmp_path: Path, pages: int) -> None:
    """A database that cannot grow so far takes nothing of it, and goes on working."""
    path = tmp_path / "ledger.db"
    many = bringing(1, [(f"v{number}", None, f"content {number}") for number in range(300)])
    with closing(database(path)) as held:
        size = held.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        held.connection.exec_driver_sql(f"PRAGMA max_page_count = {size + pages}")
        with pytest.raises(LedgerUnavailable):
            applied(held, many)
        held.connection.exec_driver_sql(f"PRAGMA max_page_count = {2**30}")
        assert 300 == len(applied(held, many))
    async with opened(path, empty=False) as ledger:
        assert 300 == len(await ledger.pins())
        assert 2 + 300 == await ledger.serial()
        assert (await ledger.verify()).ok


def applied_while_asked(path: Path, applying: Applying) -> tuple[str, list[str | None]]:
    """What another process tells of a remembered pin at the end of an apply, and what it was answered after that."""
    command = [sys.executable, str(HERE / "ledger_worker.py"), "beside", str(path), "0", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    pipe = subprocess.PIPE
    links_made, told = rows_of(applying.links), []
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, bufsize=1) as other,
        closing(database(path, empty=False)) as held,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        talk = (other.stdin, other.stdout)
        told.append(talk[1].readline())

        def work(tx: Transaction) -> list[Pin | Unpinned]:
            """The apply, from the first question to the last in the ledger's one transaction."""
            talk[0].write("ask\n")
            told.append(talk[1].readline())
            made = apply_within(tx, applying=applying, links_made=links_made)
            talk[0].write("tell\n")
            told.append(talk[1].readline())
            return made

        outcomes = held.write([work])
        assert [len(applying.changes)] == [len(each) for each in outcomes if isinstance(each, list)]
        answers = json.loads(other.communicate(timeout=60)[0])
    assert ["ready\n", "asked\n"] == told[:2]
    return told[2], answers


async def test_others_go_on_beside_a_large_apply(tmp_path: Path) -> None:
    """While it has the ledger, another process tells what it remembers; what it asks then is answered after it."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.add(tag("held"), content("held"), SOURCE)
    names: list[tuple[str, str | None, str | None]] = [(f"v{each}", None, f"content {each}") for each in range(MANY)]
    followed = [(tag(f"sha256-{number:064x}"), content(f"attached {number}")) for number in range(MANY)]
    told, answers = await asyncio.to_thread(applied_while_asked, path, bringing(1, names, followed=followed))
    assert f"{content('held').digest} True\n" == told
    assert [str(content(each).digest) for each in ("fresh", "content 0", "held")] == answers
    async with opened(path, empty=False) as ledger:
        fresh = await ledger.made(tag("fresh"))
        assert fresh is not None
        assert 2 + 1 + MANY + 1 == fresh.serial == await ledger.serial()
        assert (await ledger.verify()).ok
