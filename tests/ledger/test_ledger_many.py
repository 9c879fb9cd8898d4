"""Acts on more names than one statement takes: they are what as many acts on one name each would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from iarproxy.errors import Conflict, LedgerDamaged, Recalled
from iarproxy.ledger import DEFAULT, Change, EventKind, Ledger, Pin, Unpinned, rebuild
from iarproxy.ledger.rows import AT_ONCE
from ledger_world import SOURCE, STORE, content, opened, sql, tag

MANY = 2 * AT_ONCE + 1
TABLES = ("pins", "sightings", "drift", "candidates")


def moving(old: str | None, new: str | None, count: int = MANY, environment: str = DEFAULT) -> list[Change]:
    """Each name from its content of that word to that of another; None: no pin."""
    return [
        Change(
            environment,
            tag(f"v{number}"),
            content(f"{old} {number}").digest if old else None,
            content(f"{new} {number}") if new else None,
            SOURCE,
        )
        for number in range(count)
    ]


async def act(ledger: Ledger, changes: Sequence[Change], kind: EventKind = EventKind.IMPORTED) -> list[Pin | Unpinned]:
    return await ledger.change(kind, changes, reason="r", actor="ann")


def rows(path: Path, table: str) -> set[object]:
    return set(sql(path, f"SELECT * FROM {table}"))


async def test_a_rebuild_makes_the_same_rows_one_by_one(path: Path) -> None:
    """Made, moved, taken away and made in two environments: each name answers so, as after a rebuild from the lines."""
    async with opened(path) as ledger:
        made = await act(ledger, moving(None, "first"))
        assert [content(f"first {number}") for number in range(MANY)] == [
            each.descriptor for each in made if isinstance(each, Pin)
        ]
        await act(ledger, moving("first", "second"), EventKind.REPINNED)
        gone = await act(ledger, moving("second", None), EventKind.RETIRED)
        was = [(each.revision, each.was, each.retired) for each in gone if isinstance(each, Unpinned)]
        assert [(3, content(f"second {number}").digest, True) for number in range(MANY)] == was
        await act(ledger, [*moving(None, "third"), *moving(None, "other", environment="prod")])
        for number in (0, AT_ONCE - 1, AT_ONCE, MANY - 1):
            assert content(f"third {number}") == (await ledger.standing(tag(f"v{number}"))).descriptor  # type: ignore[union-attr]
        assert (await ledger.verify()).ok
    before = [rows(path, each) for each in TABLES]
    path.unlink()
    await rebuild(path, store_identity=STORE, reason="r", actor="ann")
    assert before == [rows(path, each) for each in TABLES]


async def test_every_conflict_of_many_is_found(path: Path) -> None:
    """Names in whichever statement that moved meanwhile, or are recalled, are told; and then nothing is changed."""
    async with opened(path) as ledger:
        await act(ledger, moving(None, "first"))
        moved = (0, AT_ONCE, MANY - 1)
        for number in moved:
            old, new = content(f"first {number}"), content(f"mine {number}")
            await ledger.repin(tag(f"v{number}"), old.digest, new, reason="r", actor="bob", source=SOURCE)
        serial = await ledger.serial()
        told = "; ".join(
            f"{tag(f'v{number}')} is pinned to {content(f'mine {number}').digest}, "
            f"not to {content(f'first {number}').digest}"
            for number in moved
        )
        with pytest.raises(Conflict) as conflict:
            await act(ledger, moving("first", "second"))
        assert told == str(conflict.value)
        with pytest.raises(Conflict, match=f"; and {MANY - 20} more$"):
            await act(ledger, moving(None, "second"))
        await ledger.recalls.recall([content(f"last {MANY}").digest], reason="r", actor="ann")
        with pytest.raises(Recalled):
            await act(ledger, [*moving(None, "last", environment="prod"), *moving(None, "last", MANY + 1, "dev")])
        assert serial + 1 == await ledger.serial()


@pytest.mark.parametrize("rot", ["digest = lower(hex(zeroblob(32)))", "checksum = zeroblob(16)"])
async def test_one_damaged_name_stops_an_act_on_many(path: Path, rot: str) -> None:
    """A row that rotted is told by its name, in the words that a pull gets, and nothing is changed."""
    async with opened(path) as ledger:
        await act(ledger, moving(None, "first"))
    frozen = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'pins_update'")[0][0]
    sql(path, "DROP TRIGGER pins_update")
    sql(path, f"UPDATE pins SET {rot} WHERE tag = 'v{AT_ONCE + 7}'")
    sql(path, frozen)
    async with opened(path, empty=False) as ledger:
        serial = await ledger.serial()
        with pytest.raises(LedgerDamaged) as pulled:
            await ledger.pin_of(tag(f"v{AT_ONCE + 7}"))
        with pytest.raises(LedgerDamaged) as acted:
            await act(ledger, moving("first", "second"))
        assert str(pulled.value) == str(acted.value)
        assert pulled.value.detail == acted.value.detail
        assert serial == await ledger.serial()


async def test_many_seeds(path: Path) -> None:
    """Those that are new are journaled, each with what was expected before; what is not known is not dropped."""
    async with opened(path) as ledger:
        first = [(DEFAULT, tag(f"v{number}"), content(f"first {number}").digest) for number in range(MANY)]
        assert MANY == len(await ledger.seeds.put(first, reason="r", actor="ann"))
        assert [] == await ledger.seeds.put(first, reason="r", actor="ann")
        second = [*first[:-2], (DEFAULT, first[-2][1], content("x").digest), (DEFAULT, tag("new"), content("y").digest)]
        made = await ledger.seeds.put(second, reason="r", actor="ann")
        assert [first[-2][1], tag("new")] == [each.name.reference for each in made]
        bodies = [event.body for event in await ledger.events(after=1 + MANY)]
        assert [(str(content("x").digest), str(first[-2][2])), (str(content("y").digest), None)] == [
            (each["digest"], each["previous"]) for each in bodies
        ]
        every = [each.name for each in await ledger.seeds.every()]
        assert MANY + 1 == len(every)
        assert MANY + 1 == len(await ledger.seeds.drop([*every, *every[:3]], reason="r", actor="ann"))
        assert [] == await ledger.seeds.drop(every, reason="r", actor="ann")
        assert (await ledger.verify()).ok
