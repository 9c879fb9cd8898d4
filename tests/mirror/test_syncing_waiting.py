"""How long a sync waits for upstreams, on a clock that moves when it sleeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iarproxy.config.sets import load_sets
from iarproxy.errors import Unavailable, UnknownManifest, UpstreamBusy, UpstreamDown, UpstreamUnavailable, UpstreamWrong
from iarproxy.mirror.sync.attachments import Attached
from iarproxy.mirror.sync.run import Run
from iarproxy.mirror.sync.values import Silent
from iarproxy.mirror.sync.waiting import Waiting
from iarproxy.oci import Descriptor, Digest, Repository
from iarproxy.oci.closure import Root
from iarproxy.oci.media_types import OCI_MANIFEST


@dataclass
class Time:
    """A clock, and what was slept and told."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def waiting(self, deadline: float) -> Waiting:
        def told(upstream: str, _seconds: float, _why: str) -> None:
            self.told.append(upstream)

        return Waiting(deadline, told, lambda: self.now, self.sleep)


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    """Work that fails with each of these, then is done."""
    ahead = list(errors)

    async def work() -> str:
        if ahead:
            raise ahead.pop(0)
        return "done"

    return work


def busy(retry_after: float | None) -> UpstreamBusy:
    return UpstreamBusy("busy", retry_after=retry_after)


async def test_limits_are_waited_for_until_the_deadline() -> None:
    """Each wait is as long as upstream says; one that says nothing is asked again soon."""
    time = Time()
    assert "done" == await time.waiting(600).run("hub", failing(busy(30.0), busy(None), busy(0.2)))
    assert [30.0, 5.0, 1.0] == time.slept
    assert ["hub"] * 2 == time.told  # nobody notices a second


async def test_a_wait_is_told_once() -> None:
    """However many names wait for the same upstream."""
    time = Time()
    waiting = time.waiting(600)
    now, time.now = time.now, 0.0
    await waiting.run("hub", failing(busy(30.0)))
    time.now = now + 10.0  # another name, in the middle of it
    await waiting.run("hub", failing(busy(20.0)))
    assert (["hub"], [30.0, 20.0]) == (time.told, time.slept)


async def test_nobody_sleeps_in_vain() -> None:
    """A limit that ends behind the deadline is told at once."""
    time = Time()
    with pytest.raises(UpstreamBusy):
        await time.waiting(600).run("hub", failing(busy(300.0), busy(301.0)))
    assert [300.0] == time.slept


@pytest.mark.parametrize(
    "error", [UnknownManifest("none"), UpstreamUnavailable("500"), UpstreamWrong("a lie", retry_after=1.0)]
)
async def test_other_failures_are_told(error: Exception) -> None:
    """They were tried again where they arose."""
    time = Time()
    with pytest.raises(type(error)):
        await time.waiting(600).run("hub", failing(error))
    assert [] == time.slept


async def test_an_upstream_that_is_gone_is_waited_for_once() -> None:
    """It is waited for shortly; all further names are told at once, until it answers."""
    time = Time()
    waiting = time.waiting(600)
    down = [UpstreamDown("down", retry_after=12.0) for _ in range(9)]
    for _ in range(3):
        with pytest.raises(UpstreamDown):
            await waiting.run("gone", failing(*down))
    assert [12.0, 12.0] == time.slept
    assert "done" == await waiting.run("gone", failing())
    assert "done" == await waiting.run("gone", failing(down[0]))
    assert "done" == await waiting.run("gone", failing(UpstreamUnavailable("503", retry_after=12.0)))


async def test_one_name_that_stays_down_ends() -> None:
    """Answers to others do not make one name wait for ever."""
    time = Time()
    waiting = time.waiting(600)
    tries = 0

    async def work() -> str:
        nonlocal tries
        tries += 1
        await waiting.run("hub", failing())
        raise UpstreamDown("this repository fails", retry_after=8.0)

    with pytest.raises(Unavailable):
        await waiting.run("hub", work)
    assert 4 == tries


async def test_a_gone_upstream_is_not_asked_for_attachments_to_the_end(tmp_path: Path) -> None:
    """Patience is for limits; a registry that is gone is told soon there too, with what is lacking of it."""
    (tmp_path / "sets.toml").write_text('[[set]]\nname = "a"\nreferences = ["a:1"]')
    time = Time()
    run = Run(load_sets(tmp_path / "sets.toml")["a"], time.waiting(3600), Silent())

    async def asking() -> Attached:
        found = Attached()
        found.failed("its referrers", UpstreamDown("down", retry_after=12.0))
        return found

    root = Root(Descriptor(OCI_MANIFEST, Digest.of(b"{}"), 2))
    found = await run.attached(Repository("hub.test", "a"), root, asking)
    assert found is not None
    assert (["its referrers"], [12.0, 12.0]) == ([each.what for each in found.lacking], time.slept)
