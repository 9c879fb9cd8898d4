"""One flipped bit: refused, never a wrong digest, never "no pin", never a re-pin (threats R28, L4)."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import ConfigError, LedgerDamaged, LedgerUnavailable
from iarproxy.ledger import DEFAULT, Name, Pin, Unpinned, rebuild
from iarproxy.ledger.admission import admit
from iarproxy.ledger.pins import standing
from iarproxy.oci import Digest, TagReference
from iarproxy.trust.drift import Vanished
from ledger_world import SOURCE, STORE, content, copy_ledger, database, fill, opened, sql, tag

FLIPS = 200
EVIL = content("evil")


@pytest.fixture
async def filled(path: Path) -> tuple[Path, dict[TagReference, Digest]]:
    """A closed ledger of 20 pins, every third repinned, with a removal and a drift; what each tag stands for."""
    async with opened(path) as ledger:
        pins = await fill(ledger, 20)
        await ledger.remove(tag("v1"), content("first 1").digest, reason="r", actor="ann")
        await ledger.record_check(tag("v2"), Vanished(content("first 2").digest), None, {})
    return path, {reference: digest for reference, digest in pins.items() if reference != tag("v1")}


def _flip(path: Path, source: random.Random) -> str:
    offset, bit = source.randrange(path.stat().st_size), source.randrange(8)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    return f"{path.name} offset {offset} bit {bit}"


def _judged(outcome: Any, expected: Digest | None) -> str:
    """`right` or `refused`; anything else is the failure that this file is about."""
    match outcome:
        case LedgerUnavailable():
            return "refused"
        case Pin() if outcome.descriptor.digest == expected:
            return "right"
        case Unpinned() if expected is None:
            return "right"
        case _:
            return f"WRONG {outcome!r}"


def _asked(path: Path, pins: dict[TagReference, Digest]) -> Counter[str]:
    """What each tag is answered, and then what an add of another digest is."""
    try:
        held = database(path, empty=False)
    except (ConfigError, LedgerUnavailable):
        return Counter(["not opened"])
    found: Counter[str] = Counter()
    wanted = {**pins, tag("v1"): None}
    with closing(held):
        try:
            answers = held.read([partial(standing, name=Name(DEFAULT, each)) for each in wanted])
            found.update(map(_judged, answers, wanted.values()))
            adds = held.write(
                [partial(admit, name=Name(DEFAULT, each), descriptor=EVIL, source=SOURCE) for each in pins]
            )
            found.update(map(_judged, adds, pins.values()))
        except LedgerUnavailable:
            found["refused"] += 1
    return found


async def test_a_flipped_bit_never_gives_a_wrong_answer(
    filled: tuple[Path, dict[TagReference, Digest]], tmp_path: Path
) -> None:
    """Random single-bit flips over the database: every tag is answered rightly, or refused."""
    path, pins = filled
    copy = copy_ledger(path, tmp_path / "copy")
    journal = (copy.parent / "journal.jsonl").read_bytes()
    total: Counter[str] = Counter()
    for seed in range(FLIPS):
        shutil.copyfile(path, copy)
        (copy.parent / "journal.jsonl").write_bytes(journal)
        what = _flip(copy, random.Random(seed))
        found = await asyncio.to_thread(_asked, copy, pins)
        assert [each for each in found if each.startswith("WRONG")] == [], f"seed {seed}: {what}"
        total += found
    assert total["right"] > 0
    assert total["refused"] + total["not opened"] > 0


@pytest.mark.parametrize("occurrence", [0, 1])
async def test_one_damaged_row_leaves_the_others_served(
    filled: tuple[Path, dict[TagReference, Digest]], occurrence: int
) -> None:
    """A tag whose row in pins or journal is damaged is refused, in every way to ask; all others are served."""
    path, pins = filled
    with closing(sqlite3.connect(path)) as raw, raw:  # sightings name digests too, and no tag depends on them
        raw.execute("PRAGMA secure_delete = ON")
        raw.execute("DELETE FROM sightings")
    whole = path.read_bytes()
    places = [each.start() for each in re.finditer(content("first 4").digest.hex.encode(), whole)]
    assert len(places) == 2
    offset = places[occurrence]
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
    async with opened(path, empty=False) as ledger:
        with pytest.raises(LedgerDamaged, match=r"iarproxy ledger restore"):
            await ledger.pin_of(tag("v4"))
        with pytest.raises(LedgerDamaged):
            await ledger.add(tag("v4"), EVIL, SOURCE)
        with pytest.raises(LedgerDamaged):
            await ledger.repin(tag("v4"), content("first 4").digest, EVIL, reason="r", actor="ann", source=SOURCE)
        listed = {pin.reference: pin.descriptor.digest for pin in await ledger.pins()}
        assert listed == {reference: digest for reference, digest in pins.items() if reference != tag("v4")}
        assert [damage.reference for damage in ledger.damaged()] == [str(tag("v4"))]
        assert len((await ledger.verify()).problems) == 1
        assert (await ledger.add(tag("new"), EVIL, SOURCE)).descriptor == EVIL


async def test_a_lost_row_is_not_a_missing_pin(filled: tuple[Path, dict[TagReference, Digest]]) -> None:
    """A pin, or its newest revision, that is gone from the table is known to the journal."""
    path, _ = filled
    trigger = sql(path, "SELECT sql FROM sqlite_schema WHERE name = 'pins_delete'")[0][0]
    sql(path, "DROP TRIGGER pins_delete")
    sql(path, "DELETE FROM pins WHERE tag = 'v4' OR (tag = 'v3' AND revision = 2)")
    sql(path, trigger)
    async with opened(path, empty=False) as ledger:
        for name in ("v3", "v4"):
            with pytest.raises(LedgerDamaged):
                await ledger.pin_of(tag(name))
            with pytest.raises(LedgerDamaged):
                await ledger.add(tag(name), EVIL, SOURCE)


async def test_a_damaged_drift_state_is_made_again(filled: tuple[Path, dict[TagReference, Digest]]) -> None:
    """A drift row that fails its checksum is dropped; the journal's word stands in, and the next check mends it."""
    path, _ = filled
    sql(path, "UPDATE drift SET checked_at = 'x'")
    async with opened(path, empty=False) as ledger:
        assert [state.verdict for _, state in await ledger.drifts()] == ["vanished"]
        assert len((await ledger.verify()).problems) == 1
        assert await ledger.record_check(tag("v2"), Vanished(content("first 2").digest), None, {}) is False
        assert (await ledger.verify()).problems == ()


async def test_damaged_links_and_followed_tags_are_nothing(path: Path) -> None:
    """They are made again by use, and give no access and no content until then."""
    async with opened(path) as ledger:
        await ledger.link(tag("x").repository, [EVIL.digest])
        await ledger.set_followed(tag("x"), EVIL)
    sql(path, "UPDATE links SET checksum = x'00'")
    sql(path, "UPDATE followed SET size = 9")
    async with opened(path, empty=False) as ledger:
        assert await ledger.linked(tag("x").repository, EVIL.digest) is False
        assert await ledger.followed(tag("x")) is None
        assert await ledger.tags_of(tag("x").repository) == []
        await ledger.link(tag("x").repository, [EVIL.digest])
        assert await ledger.linked(tag("x").repository, EVIL.digest) is True


async def test_a_flipped_bit_in_the_journal_file(
    filled: tuple[Path, dict[TagReference, Digest]], tmp_path: Path
) -> None:
    """The database still answers; a rebuild from the file gives the same pins or refuses."""
    path, pins = filled
    for seed in range(12):
        copy = copy_ledger(path, tmp_path / f"copy{seed}")
        what = _flip(copy.parent / "journal.jsonl", random.Random(seed))
        found = await asyncio.to_thread(_asked, copy, pins)
        assert set(found) <= {"right", "not opened"}, what
        os.unlink(copy)  # noqa: PTH108 (the loss that a rebuild is for)
        try:
            await rebuild(copy, store_identity=STORE, actor="ann", reason="r")
        except ConfigError:
            continue
        assert set(await asyncio.to_thread(_asked, copy, pins)) == {"right"}, what
