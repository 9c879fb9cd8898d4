"""Webhooks are told in order, at least once, whatever they answer; and nobody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import ConfigError, Denied, IarproxyError, UpstreamUnavailable
from iarproxy.ledger import Ledger
from iarproxy.mirror.events.deliveries import Deliverer, Subscription, send_test
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX

STORE = "0d4a6a3e-3b0e-4d8e-8a0e-0d4a6a3e0001"
APP = Repository("registry.example.com", "team/app")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def tag(name: str) -> TagReference:
    return TagReference(APP, Tag(name))


def content(text: str) -> Descriptor:
    return Descriptor(OCI_INDEX, Digest.of(text.encode()), len(text))


@dataclass
class Hook:
    """A receiver without a network: `failure` is raised as long as it is there; `gate` holds answers back."""

    name: str = "ops"
    failure: IarproxyError | None = None
    gate: asyncio.Event | None = None
    tried: list[str] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False

    async def send(self, identity: str, body: bytes, *, media_type: str) -> None:
        assert "application/cloudevents+json; charset=utf-8" == media_type
        self.tried.append(identity)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        event = json.loads(body)
        assert identity == event["id"]
        self.got.append(event)

    async def close(self) -> None:
        self.closed = True

    @property
    def told(self) -> list[str]:
        """Kinds and tags, in order."""
        return [f"{each['type'].rpartition('.')[2]} {each.get('subject', '').rpartition(':')[2]}" for each in self.got]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Ledger]:
    path = folder / "ledger.db"
    ledger = await Ledger.open(path, store_identity=STORE, store_is_empty=not path.exists())
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def delivering(
    ledger: Ledger,
    *hooks: Hook,
    events: tuple[str, ...] = ("*",),
    environments: frozenset[str] | None = None,
    attempts: int = 3,
    elected: Callable[[], bool] = lambda: True,
    count: Callable[[str, bool], None] = lambda _name, _ok: None,
) -> AsyncIterator[Deliverer]:
    wanted = [Subscription(hook, frozenset(events), environments, attempts) for hook in hooks]
    deliverer = Deliverer(
        ledger, STORE, wanted, elected, count=count, jitter=lambda: 0.5, look=0.02, first_wait=0.01, now=lambda: NOW
    )
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.close()


async def begun(ledger: Ledger, *names: str) -> None:
    """Until the receivers have their places."""

    async def there() -> bool:
        return set(names) <= {each.name for each in await ledger.deliveries.receivers()}

    async with asyncio.timeout(20):
        while not await there():
            await asyncio.sleep(0.01)


async def test_what_happens_is_told_in_order(tmp_path: Path) -> None:
    """A new receiver is told nothing old; then everything that it wants, once, also after a restart in between."""
    hook = Hook()
    async with opened(tmp_path) as ledger:
        await ledger.add(tag("old"), content("a"), "s")
        async with delivering(ledger, hook, events=("repinned", "pinned")):
            await begun(ledger, "ops")
            for number in range(30):
                await ledger.add(tag(str(number)), content("a"), "s")
            await ledger.remove(tag("7"), content("a").digest, reason="r", actor="ann")
            await until(lambda: len(hook.got) == 30)
    assert hook.closed
    assert [f"pinned {number}" for number in range(30)] == hook.told
    async with opened(tmp_path) as ledger:
        await ledger.repin(tag("8"), content("a").digest, content("b"), reason="r", actor="ann", source="s")
        again = Hook()
        async with delivering(ledger, again, events=("repinned", "pinned")):
            await until(lambda: len(again.got) == 1)
    assert ["repinned 8"] == again.told
    assert 31 == len({each["id"] for each in hook.got + again.got})


async def test_a_failure_is_tried_again_under_the_same_id(tmp_path: Path) -> None:
    """The next event waits until this one is through; each try is counted."""
    hook, tries = Hook(failure=UpstreamUnavailable("down")), list[tuple[str, bool]]()

    def counted(name: str, ok: bool) -> None:  # noqa: FBT001  # a callback
        tries.append((name, ok))

    async with opened(tmp_path) as ledger, delivering(ledger, hook, attempts=100, count=counted):
        await begun(ledger, "ops")
        await ledger.add(tag("1"), content("a"), "s")
        await ledger.add(tag("2"), content("a"), "s")
        await until(lambda: len(hook.tried) >= 3)
        hook.failure = None
        await until(lambda: len(hook.got) == 2)
    assert (["pinned 1", "pinned 2"], 2) == (hook.told, len(set(hook.tried)))
    assert {("ops", False), ("ops", True)} == set(tries)
    assert 2 == [ok for _, ok in tries].count(True)


async def test_what_cannot_be_delivered_is_put_aside(tmp_path: Path) -> None:
    """After the last attempt the next event is sent; the dead letter says why."""
    hook = Hook(failure=Denied("answered 400", status=400))
    async with opened(tmp_path) as ledger, delivering(ledger, hook, attempts=2):
        await begun(ledger, "ops")
        await ledger.add(tag("1"), content("a"), "s")
        await until(lambda: len(hook.tried) == 2)
        hook.failure = None
        await ledger.add(tag("2"), content("a"), "s")
        await until(lambda: len(hook.got) == 1)
        letters = await ledger.deliveries.dead()
    assert (["pinned 2"], ["answered 400"]) == (hook.told, [each.reason for each in letters])


async def test_receivers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """One that never answers holds up nobody, and costs a pin nothing."""
    stuck, quick = Hook("stuck", gate=asyncio.Event()), Hook("quick")
    async with opened(tmp_path) as ledger, delivering(ledger, stuck, quick):
        await begun(ledger, "stuck", "quick")
        for number in range(5):
            await ledger.add(tag(str(number)), content("a"), "s")
        await until(lambda: len(quick.got) == 5)
        assert 1 == len(stuck.tried)


async def test_a_receiver_that_is_gone(tmp_path: Path) -> None:
    """410 ends it, over restarts too; a person lets it go on where it stopped."""
    hook = Hook(failure=Denied("answered 410", status=410))
    async with opened(tmp_path) as ledger:
        async with delivering(ledger, hook):
            await begun(ledger, "ops")
            await ledger.add(tag("1"), content("a"), "s")
            await until(lambda: len(hook.tried) == 1)
            await ledger.add(tag("2"), content("a"), "s")
            await asyncio.sleep(0.1)
        assert 1 == len(hook.tried)
        assert ["answered 410"] == [each.stopped for each in await ledger.deliveries.receivers()]
        hook.failure = None
        async with delivering(ledger, hook):
            await asyncio.sleep(0.1)
        assert 1 == len(hook.tried)
        await ledger.deliveries.stop("ops", "")
        async with delivering(ledger, hook):
            await until(lambda: len(hook.got) == 2)
    assert ["pinned 1", "pinned 2"] == hook.told


async def test_what_is_wrong_here_is_no_attempt(tmp_path: Path) -> None:
    """While the secret cannot be read nothing is put aside."""
    hook = Hook(failure=ConfigError("webhooks.ops.secret_file: cannot be read"))
    async with opened(tmp_path) as ledger, delivering(ledger, hook, attempts=1):
        await begun(ledger, "ops")
        await ledger.add(tag("1"), content("a"), "s")
        await until(lambda: len(hook.tried) >= 3)
        hook.failure = None
        await until(lambda: len(hook.got) == 1)
        assert [] == await ledger.deliveries.dead()


async def test_only_some_environments(tmp_path: Path) -> None:
    """What happens in others is none of its business, and is not waited for."""
    hook = Hook()
    async with opened(tmp_path) as ledger, delivering(ledger, hook, environments=frozenset({"prod"})):
        await begun(ledger, "ops")
        await ledger.add(tag("1"), content("a"), "s")
        await ledger.within("prod").add(tag("2"), content("a"), "s")
        await until(lambda: len(hook.got) == 1)
    assert ["pinned 2"] == hook.told


async def test_only_the_elected_process_delivers(tmp_path: Path) -> None:
    """Who is not elected sends nothing; who becomes it goes on from the durable place."""
    elected, first, second = [False], Hook(), Hook()
    async with opened(tmp_path) as ledger:
        async with delivering(ledger, first, elected=lambda: elected[0]):
            await asyncio.sleep(0.1)
            assert [] == await ledger.deliveries.receivers()
            elected[0] = True
            await begun(ledger, "ops")
            await ledger.add(tag("1"), content("a"), "s")
            await until(lambda: len(first.got) == 1)
        await ledger.add(tag("2"), content("a"), "s")
        async with delivering(ledger, second):
            await until(lambda: len(second.got) == 1)
    assert (["pinned 1"], ["pinned 2"]) == (first.told, second.told)


async def test_closing_lets_what_is_under_way_succeed(tmp_path: Path) -> None:
    """An answer that comes within a moment counts: the event is not sent again."""
    gate = asyncio.Event()
    hook, after = Hook(gate=gate), Hook()
    async with opened(tmp_path) as ledger:
        async with delivering(ledger, hook):
            await begun(ledger, "ops")
            await ledger.add(tag("1"), content("a"), "s")
            await until(lambda: len(hook.tried) == 1)
            asyncio.get_running_loop().call_later(0.2, gate.set)
        async with delivering(ledger, after):
            await ledger.add(tag("2"), content("a"), "s")
            await until(lambda: len(after.got) == 1)
    assert (["pinned 1"], ["pinned 2"]) == (hook.told, after.told)


async def test_who_is_killed_sends_again_under_the_same_id(tmp_path: Path) -> None:
    """Nobody knows what became of a POST that was under way: the next process sends it again, and nothing else."""
    hook, after = Hook(gate=asyncio.Event()), Hook()
    async with opened(tmp_path) as ledger:
        deliverer = Deliverer(ledger, STORE, [Subscription(hook, frozenset({"*"}))], lambda: True, look=0.02)
        deliverer.start()
        await begun(ledger, "ops")
        await ledger.add(tag("1"), content("a"), "s")
        await ledger.add(tag("2"), content("a"), "s")
        await until(lambda: len(hook.tried) == 1)
        for task in deliverer._tasks:
            task.cancel()
        await asyncio.gather(*deliverer._tasks, return_exceptions=True)
        async with delivering(ledger, after):
            await until(lambda: len(after.got) == 2)
    assert (["pinned 1", "pinned 2"], hook.tried) == (after.told, after.tried[:1])


async def test_checkpoints_go_to_who_wants_them(tmp_path: Path) -> None:
    """Only the newest one waits while its receiver is away; `*` does not ask for them."""
    hook, other = Hook("siem", failure=UpstreamUnavailable("down")), Hook("ops")
    async with opened(tmp_path) as ledger:
        wanted = [Subscription(hook, frozenset({"checkpoint"})), Subscription(other, frozenset({"*"}))]
        deliverer = Deliverer(ledger, STORE, wanted, lambda: True, look=0.02, now=lambda: NOW)
        deliverer.start()
        await begun(ledger, "siem", "ops")
        deliverer.checkpoint("note 1", {"size": 1})
        await until(lambda: len(hook.tried) >= 1)
        hook.failure = None
        deliverer.checkpoint("note 2", {"size": 2})
        await until(lambda: len(hook.got) == 1)
        await ledger.add(tag("1"), content("a"), "s")
        await until(lambda: len(other.got) == 1)
        await deliverer.close()
    (event,) = hook.got
    assert ("dev.iarproxy.checkpoint", "note 2", f"{STORE}/checkpoint-2") == (
        event["type"],
        event["data"]["checkpoint"],
        event["id"],
    )
    assert ["pinned 1"] == other.told


async def test_a_checkpoint_waits_as_events_do(tmp_path: Path) -> None:
    """Not before `Retry-After`, however often something else wakes us; and 410 ends it."""
    busy, gone = Hook("busy", failure=UpstreamUnavailable("busy", retry_after=600)), Hook("gone")
    gone.failure = Denied("gone", status=410)
    async with opened(tmp_path) as ledger, delivering(ledger, busy, gone, events=("checkpoint",)) as deliverer:
        await begun(ledger, "busy", "gone")
        for number in range(5):
            deliverer.checkpoint(f"note {number}", {"size": number})
            await ledger.add(tag(f"{number}"), content("a"), "s")
            await until(lambda: bool(busy.tried and gone.tried))
            await asyncio.sleep(0.05)
        stopped = {each.name: bool(each.stopped) for each in await ledger.deliveries.receivers()}
    assert ([1, 1], {"busy": False, "gone": True}) == ([len(busy.tried), len(gone.tried)], stopped)


async def test_a_test_event_says_so() -> None:
    """It is what the person asked for, and nothing of the journal."""
    hook = Hook()
    await send_test(hook, STORE, "n1", NOW)
    with pytest.raises(Denied):
        await send_test(Hook(failure=Denied("no")), STORE, "n2", NOW)
    assert ("dev.iarproxy.test", f"{STORE}/test-n1") == (hook.got[0]["type"], hook.got[0]["id"])
