"""Telling webhooks what happens: from the journal, in order, at least once, whatever becomes of the receivers.

Rule 1: the journal is the source, and each receiver's place in it is durable. An event counts as delivered when the
        receiver answered 2xx; after a crash it may be sent again, under the same id.
Rule 2: receivers are independent of each other, and nothing that serves waits for any of them.
Rule 3: a failed event is tried again after waits that grow and are spread, and not before the receiver's own
        `Retry-After`. After `attempts` it is put aside, and the next one is sent. 410 stops the receiver for good.
Rule 4: what is wrong on our side (an unreadable secret, a ledger that is away) is no attempt: it is waited out.
Rule 5: of checkpoints only the newest waits: it contains those before it. It lives in memory.
Rule 6: one process does all this, the one that is elected for the chores.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from iarproxy.errors import ConfigError, IarproxyError, Unavailable
from iarproxy.ledger import Event, Ledger
from iarproxy.mirror.events.cloud_events import (
    CHECKPOINT,
    EVERYTHING,
    MEDIA_TYPE,
    TEST,
    cloud_event,
    enveloped,
    to_bytes,
)

log = structlog.get_logger("iarproxy.events")

_LOOK = 1.0  # seconds between two looks at the journal's end, where nothing else woke us
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 600.0  # seconds
_SELDOM = 30.0  # seconds: for a receiver that a person lets go on
_RARELY = 1000  # entries that are none of a receiver's business: so often its place is written down
_LEAVE = 2.0  # seconds that closing waits for a POST that is under way
_GONE = 410


class Sender(Protocol):
    """One receiver's door; `upstream.webhook.Webhook` is one."""

    @property
    def name(self) -> str:
        """Of its section."""
        ...

    async def send(self, identity: str, body: bytes, *, media_type: str) -> object:
        """Send one event, or raise an `IarproxyError`."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a receiver wants. `environments`: None: all. `attempts`: for one event."""

    sender: Sender
    events: frozenset[str]
    environments: frozenset[str] | None = None
    attempts: int = 10

    @property
    def name(self) -> str:
        """Of the receiver."""
        return self.sender.name

    @property
    def kinds(self) -> frozenset[str] | None:
        """The kinds of entries that it wants; None: all."""
        return None if EVERYTHING in self.events else self.events - {CHECKPOINT}

    def wants(self, event: Event) -> bool:
        """Whether an entry of these kinds is for it: what is about no name is for all."""
        return self.environments is None or event.reference is None or event.environment in self.environments


@dataclass(slots=True)
class _Line:
    """What one process knows of a receiver. `place`: all up to it is done with; `written`: what the ledger knows.

    `checkpoint`: the newest one that waits.
    """

    wanted: Subscription
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    place: int = 0
    written: int = 0
    checkpoint: bytes | None = None
    checkpoint_id: str = ""
    checkpoint_failed: int = 0  # times in a row
    checkpoint_after: float = 0.0  # of the loop's clock: not tried before
    failing: bool = False

    def pause(self) -> float:
        """Seconds to the next look, where nothing wakes us."""
        wait = self.checkpoint_after - asyncio.get_running_loop().time()
        return _SELDOM if self.checkpoint is None or wait <= 0 else min(wait, _SELDOM)


class Deliverer:
    """Delivers to all webhooks of a configuration.

    Args:
        ledger: whose journal is told.
        identity: of the store.
        subscriptions: the receivers; they are closed with this.
        elected: whether it is this process that delivers; it never waits.
        count: is told the name and whether a try succeeded.
        now: aware UTC.
        jitter: a number in [0, 1).
        look: seconds between two looks at the journal's end.
        first_wait: seconds after the first failure.
    """

    def __init__(
        self,
        ledger: Ledger,
        identity: str,
        subscriptions: Sequence[Subscription],
        elected: Callable[[], bool],
        *,
        count: Callable[[str, bool], None] = lambda _name, _ok: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
        look: float = _LOOK,
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self._ledger, self._identity, self._elected = ledger, identity, elected
        self._count, self._now, self._jitter = count, now, jitter
        self._look, self._first_wait = look, first_wait
        self._lines = [_Line(each) for each in subscriptions]
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, as soon as this process is elected."""
        self._tasks = [asyncio.create_task(self._watch(), name="events")]

    def checkpoint(self, text: str, data: Mapping[str, Any]) -> None:
        """Tell those who want them of a new checkpoint; `text`: the signed note, by which it is known."""
        number = f"checkpoint-{data.get('size', '')}"
        event = enveloped(self._identity, number, CHECKPOINT, at=self._now(), data={**data, "checkpoint": text})
        for line in self._lines:
            if CHECKPOINT in line.wanted.events:
                line.checkpoint, line.checkpoint_id = to_bytes(event), f"{self._identity}/{number}"
                line.woken.set()

    async def close(self) -> None:
        """End; what is under way has a moment to succeed, so that it need not be sent again."""
        self._closing.set()
        for line in self._lines:
            line.woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._lines:
            await line.wanted.sender.close()

    # --- the journal's end ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait to be elected, find everybody's place, then wake who may have something to be told."""
        while not (self._elected() and await self._found()):
            if await self._closed_within(self._look):
                return
        if not self._lines:
            return
        self._ledger.on_change(lambda _: self._wake())
        self._tasks += [
            asyncio.create_task(self._deliver(line), name=f"events for {line.wanted.name}") for line in self._lines
        ]
        seen = -1
        while not await self._closed_within(self._look):
            with suppress(IarproxyError):
                serial = await self._ledger.serial()
                if serial != seen:
                    self._wake()
                seen = serial

    async def _found(self) -> bool:
        try:
            receivers = await self._ledger.deliveries.begin([line.wanted.name for line in self._lines])
        except IarproxyError as error:
            log.warning("webhooks wait for the ledger", reason=str(error))
            return False
        places = {each.name: each.serial for each in receivers}
        for line in self._lines:
            line.place = line.written = places[line.wanted.name]
        return True

    def _wake(self) -> None:
        for line in self._lines:
            line.woken.set()

    # --- one receiver -----------------------------------------------------------------------------------------------

    async def _deliver(self, line: _Line) -> None:
        while not self._closing.is_set():
            line.woken.clear()
            try:
                if await self._turn(line):
                    continue
            except IarproxyError as error:
                log.warning("a webhook waits for the ledger", webhook=line.wanted.name, reason=str(error))
                await self._closed_within(self._look)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(line.pause()):
                    await line.woken.wait()
        await self._write_down(line)

    async def _turn(self, line: _Line) -> bool:
        """Deliver some; whether there may be more."""
        if await self._is_stopped(line):
            return False
        if line.checkpoint is not None:
            await self._send_checkpoint(line)
        page = await self._ledger.deliveries.after(line.place, line.wanted.kinds)
        for serial in page.damaged:
            log.error("a damaged entry of the journal is told to nobody", webhook=line.wanted.name, serial=serial)
        for event in filter(line.wanted.wants, page.events):
            if not await self._settled(line, event):
                return False
        line.place = max(line.place, page.until)
        if line.place - line.written > _RARELY:
            await self._write_down(line)
        return page.more

    async def _is_stopped(self, line: _Line) -> bool:
        found = [each for each in await self._ledger.deliveries.receivers() if each.name == line.wanted.name]
        return bool(found and found[0].stopped)

    async def _settled(self, line: _Line, event: Event) -> bool:
        """Whether the event is done with, delivered or put aside; False: we leave, or the receiver is gone."""
        body, identity = to_bytes(cloud_event(event, self._identity)), f"{self._identity}/{event.serial}"
        tried, failed, reason = 0, 0, ""
        while tried < line.wanted.attempts:
            if self._closing.is_set():
                return False
            failure = await self._tried(line, identity, body)
            if failure is None:
                line.place = event.serial  # first: where the ledger is away now, the event is not sent again for it
                await self._ledger.deliveries.done(line.wanted.name, event.serial)
                line.written = event.serial
                return True
            if failure.detail.get("status") == _GONE:
                await self._stopped(line, str(failure))
                return False
            tried, failed, reason = tried + (not isinstance(failure, ConfigError)), failed + 1, str(failure)
            if tried < line.wanted.attempts and await self._closed_within(self._wait(failed, failure)):
                return False
        log.error("an event is put aside", webhook=line.wanted.name, serial=event.serial, reason=reason)
        await self._ledger.deliveries.bury(line.wanted.name, event.serial, reason)
        line.place = line.written = event.serial
        return True

    async def _tried(self, line: _Line, identity: str, body: bytes) -> IarproxyError | None:
        try:
            await line.wanted.sender.send(identity, body, media_type=MEDIA_TYPE)
        except IarproxyError as error:
            self._count(line.wanted.name, False)  # noqa: FBT003  # of a callback that takes two values
            if not line.failing:
                log.warning("a webhook fails", webhook=line.wanted.name, reason=str(error))
            line.failing = True
            return error
        self._count(line.wanted.name, True)  # noqa: FBT003  # as above
        if line.failing:
            log.info("a webhook answers again", webhook=line.wanted.name)
        line.failing = False
        return None

    async def _send_checkpoint(self, line: _Line) -> None:
        """Tell the newest checkpoint; a failure leaves it for the next turn, unless there is a newer one then."""
        body, identity = line.checkpoint, line.checkpoint_id
        clock = asyncio.get_running_loop().time
        if body is None or clock() < line.checkpoint_after:
            return
        failure = await self._tried(line, identity, body)
        if failure is None:
            line.checkpoint_failed = 0
            if line.checkpoint is body:
                line.checkpoint = None
            return
        line.checkpoint_failed += 1
        line.checkpoint_after = clock() + self._wait(line.checkpoint_failed, failure)
        if failure.detail.get("status") == _GONE:
            await self._stopped(line, str(failure))

    async def _stopped(self, line: _Line, why: str) -> None:
        log.error("a webhook is gone and is told nothing more", webhook=line.wanted.name, reason=why)
        await self._ledger.deliveries.stop(line.wanted.name, why)

    def _wait(self, failed: int, failure: IarproxyError) -> float:
        """Seconds until the next try."""
        wait = min(self._first_wait * 2.0 ** min(failed - 1, 20), _LONGEST_WAIT) * (0.5 + self._jitter())
        asked = failure.retry_after if isinstance(failure, Unavailable) else None
        return wait if asked is None else max(wait, asked)

    async def _write_down(self, line: _Line) -> None:
        if line.place > line.written:
            with suppress(IarproxyError):
                await self._ledger.deliveries.done(line.wanted.name, line.place)
                line.written = line.place

    async def _closed_within(self, seconds: float) -> bool:
        """Wait that long, or until we leave; whether we do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return self._closing.is_set()


async def send_test(sender: Sender, identity: str, nonce: str, now: datetime) -> object:
    """Send an event that says that it is a test.

    Raises:
        Refused, Unavailable: as `Sender.send`.
    """
    data = {"webhook": sender.name, "message": "a test event, sent by iarproxy events test"}
    event = enveloped(identity, f"test-{nonce}", TEST, at=now, data=data)
    return await sender.send(event["id"], to_bytes(event), media_type=MEDIA_TYPE)
