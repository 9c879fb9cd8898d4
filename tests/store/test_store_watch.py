"""Notices of growth: by inotify at once, by a poll soon, and never later than asked."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from iarproxy.store.watch import Inotify, Notice, Polling, Watch, notices

pytestmark = pytest.mark.parametrize("how", ["inotify", "poll"])


async def within(watch: Watch, seconds: float) -> float:
    """How long it took to hear of a change."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await watch.changed(seconds)
    return loop.time() - start


async def test_growth_is_noticed(tmp_path: Path, how: Notice) -> None:
    """An append is noticed, also one that came before the wait, and after the file's name is gone."""
    path = tmp_path / "grows"
    path.touch()
    source = notices(how)
    watch = source.watch()
    with path.open("ab", buffering=0) as writer, path.open("rb") as reader:
        watch.add(reader.fileno())
        for _ in range(2):
            writer.write(b"more")
            assert await within(watch, 5.0) < 4.0
            path.unlink(missing_ok=True)
        watch.close()
    source.close()


async def test_a_wait_ends(tmp_path: Path, how: Notice) -> None:
    """Where nothing changes, the wait ends when asked."""
    source = notices(how)
    watch = source.watch()
    assert await within(watch, 0.01) < 4.0
    watch.close()
    source.close()


async def test_two_watches_of_one_file(tmp_path: Path, how: Notice) -> None:
    """Closing one leaves the other awake; adding a closed descriptor harms nobody."""
    path = tmp_path / "grows"
    path.touch()
    source = notices(how)
    one, two = source.watch(), source.watch()
    with path.open("ab", buffering=0) as writer:
        for watch in (one, two):
            watch.add(writer.fileno())
        one.add(10**6)
        one.close()
        writer.write(b"more")
        assert await within(two, 5.0) < 4.0
    two.close()
    source.close()


async def test_the_switch(how: Notice) -> None:
    """Each way can be asked for; `auto` is the better one of this system."""
    source, best = notices(how), notices("auto")
    assert isinstance(source, Inotify if how == "inotify" else Polling)
    assert isinstance(best, Inotify if os.uname().sysname == "Linux" else Polling)
    source.close()
    best.close()
