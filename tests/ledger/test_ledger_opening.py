"""A ledger that lost its memory does not start (threats T23, R20, R29, R32)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from iarproxy.errors import ConfigError, LedgerDamaged, LedgerUnavailable
from ledger_world import SOURCE, content, copy_ledger, dump, opened, sql, tag

WAY_OUT = r"iarproxy ledger restore.*iarproxy ledger rebuild"


@pytest.fixture
async def pinned(path: Path) -> Path:
    """A ledger with three pins, closed."""
    async with opened(path) as ledger:
        for name in "abc":
            await ledger.add(tag(name), content(name), SOURCE)
    return path


async def _refused(path: Path, match: str, *, empty: bool = False) -> None:
    with pytest.raises(ConfigError, match=match):
        async with opened(path, empty=empty):
            pass


async def test_no_ledger_over_a_store_with_content(path: Path) -> None:
    """A missing database where the store holds content is not made anew."""
    await _refused(path, f"missing.*store is not empty.*{WAY_OUT}")
    assert not path.exists()


@pytest.mark.parametrize("empty", [True, False])
async def test_a_deleted_database(pinned: Path, *, empty: bool) -> None:
    """The journal file alone is enough to know that there was a ledger."""
    pinned.unlink()
    await _refused(pinned, WAY_OUT, empty=empty)
    assert not pinned.exists()


@pytest.mark.parametrize("length", [0, 100, 4096, 20_000])
async def test_a_truncated_database(pinned: Path, length: int) -> None:
    """A database cut short does not open, and is not made anew."""
    os.truncate(pinned, length)
    await _refused(pinned, WAY_OUT)


async def test_an_old_copy(pinned: Path, tmp_path: Path) -> None:
    """A backup put back by cp is behind the journal file and does not open."""
    old = copy_ledger(pinned, tmp_path / "old")
    async with opened(pinned, empty=False) as ledger:
        await ledger.repin(tag("a"), content("a").digest, content("x"), reason="r", actor="ann", source=SOURCE)
    shutil.copy(old, pinned)
    await _refused(pinned, f"old copy.*serial 4.*at 5.*{WAY_OUT}")


async def test_the_database_of_another_store(pinned: Path) -> None:
    """The identity of the store is in the database."""
    with pytest.raises(ConfigError, match=f"another store.*{WAY_OUT}"):
        async with opened(pinned, store="another", empty=False):
            pass


async def test_a_database_and_a_journal_that_disagree(pinned: Path, tmp_path: Path) -> None:
    """The journal file of another ledger beside this one is found at open."""
    other = tmp_path / "other" / "ledger.db"
    other.parent.mkdir()
    async with opened(other) as ledger:
        await ledger.add(tag("z"), content("z"), SOURCE)
    shutil.copy(other.parent / "journal.jsonl", pinned.parent / "journal.jsonl")
    await _refused(pinned, f"different histories.*{WAY_OUT}")


async def test_no_ledger_where_one_is_only_read(path: Path) -> None:
    """`create=False` makes nothing."""
    with pytest.raises(ConfigError, match="no ledger"):
        async with opened(path, create=False):
            pass
    assert not path.exists()


async def test_no_directory(tmp_path: Path) -> None:
    """A path into nowhere is one line."""
    await _refused(tmp_path / "none" / "ledger.db", "does not exist")


@pytest.mark.parametrize("cut", [1, 2, 75, 300])
async def test_a_torn_last_line_is_written_again(pinned: Path, cut: int) -> None:
    """What a crash left of the last line is cut off and written whole from the database."""
    lines = pinned.parent / "journal.jsonl"
    whole = lines.read_bytes()
    os.truncate(lines, len(whole) - cut)
    async with opened(pinned, empty=False) as ledger:
        assert (await ledger.verify()).problems == ()
    assert lines.read_bytes() == whole


async def test_a_torn_line_that_the_database_lacks(pinned: Path, tmp_path: Path) -> None:
    """Even a torn line proves that the database once was further."""
    old = copy_ledger(pinned, tmp_path / "old")
    async with opened(pinned, empty=False) as ledger:
        await ledger.add(tag("d"), content("d"), SOURCE)
    lines = pinned.parent / "journal.jsonl"
    os.truncate(lines, lines.stat().st_size - 40)
    shutil.copy(old, pinned)
    await _refused(pinned, "old copy")


@pytest.mark.parametrize("keep", [0, 1, 2])
async def test_lines_that_are_missing_are_written(pinned: Path, keep: int) -> None:
    """A file that is behind the database, or gone, is brought up to it."""
    lines = pinned.parent / "journal.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(b"".join(whole.splitlines(keepends=True)[:keep]))
    async with opened(pinned, empty=False) as ledger:
        assert (await ledger.verify()).problems == ()
    assert lines.read_bytes() == whole


async def test_a_file_that_is_gone_while_open(pinned: Path) -> None:
    """The next write puts the whole journal file back."""
    lines = pinned.parent / "journal.jsonl"
    async with opened(pinned, empty=False) as ledger:
        lines.unlink()
        await ledger.add(tag("d"), content("d"), SOURCE)
        assert (await ledger.verify()).problems == ()
    assert len(lines.read_bytes().splitlines()) == 5


async def test_a_database_swapped_under_a_process(pinned: Path, tmp_path: Path) -> None:
    """A file put in the place of the open one is not written to, and the old one is not answered from."""
    old = copy_ledger(pinned, tmp_path / "old")
    async with opened(pinned, empty=False) as ledger:
        os.replace(old, pinned)  # noqa: PTH105 (what mv does)
        with pytest.raises(LedgerUnavailable, match="replaced"):
            await ledger.add(tag("d"), content("d"), SOURCE)
        with pytest.raises(LedgerUnavailable, match="replaced"):
            await ledger.pin_of(tag("a"))


async def test_a_schema_changed_under_a_process(pinned: Path) -> None:
    """Dropping a trigger beside a running process stops its writes."""
    async with opened(pinned, empty=False) as ledger:
        sql(pinned, "DROP TRIGGER pins_insert")
        with pytest.raises(LedgerDamaged, match="schema"):
            await ledger.add(tag("d"), content("d"), SOURCE)


async def test_a_crash_before_the_first_commit(path: Path) -> None:
    """An empty file over an empty store is where a crash left it: the ledger is made."""
    path.touch(0o600)
    async with opened(path) as ledger:
        await ledger.add(tag("a"), content("a"), SOURCE)
    assert [row[2] for row in dump(path, "journal")] == ["created", "pinned"]


async def test_a_forked_child_is_told(path: Path) -> None:
    """A ledger opened before a fork is not used after it."""
    async with opened(path) as ledger:
        child = os.fork()
        if child == 0:  # pragma: no cover (in the child)
            try:
                ledger.pin_of(tag("a")).send(None)
            except RuntimeError as told:
                os._exit(0 if "fork" in str(told) else 2)
            except BaseException:  # noqa: BLE001 (whatever it is, it is the wrong answer)
                os._exit(3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await ledger.add(tag("a"), content("a"), SOURCE)
