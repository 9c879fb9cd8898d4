"""No sequence of fetches, drift checks, vanishings, restarts, clock jumps, reloads and seeds changes a pin: acts do.

A mirror over a registry that moves and loses its tags, beside a model of a few dictionaries. What a client gets, or why
not, and what is pinned, are predicted before each step. `IARPROXY_SEEDS=200` runs 100 longer sequences instead of 12.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iarproxy.errors import Conflict, Denied, Refused, UnknownManifest
from iarproxy.ledger import DEFAULT, Change, EventKind, rebuild
from iarproxy.mirror.acts.acting import Act, Acting
from iarproxy.oci import Digest, TagReference
from iarproxy.trust.environments import FIRST_FETCHES
from images import small_image
from registry import FakeRegistry
from world import World, a_world

T = TypeVar("T")
IMAGES = [small_image(seed) for seed in range(3)]
NAMES = ("1", "2")
REMEMBERED = timedelta(minutes=5)
TAGS = st.sampled_from(NAMES)
DIGESTS = st.sampled_from([image.digest for image in IMAGES])
HOUR = timedelta(hours=1)
JUMPS = st.sampled_from(
    [timedelta(seconds=1), REMEMBERED, HOUR, 2 * HOUR, timedelta(days=400), -HOUR, -timedelta(days=9)]
)
RULES: list[dict[str, str]] = [
    {},
    {"cool_down": "1h"},
    {"admit": "seeded"},
    {"admit": "seeded", "cool_down": "1h"},
    {"admit": "approved"},
]
NOTHING_BY_ITSELF: list[tuple[str, tuple[st.SearchStrategy[Any], ...]]] = [
    *[("fetch", (TAGS,))] * 6,
    *[("upstream_moves", (TAGS, DIGESTS))] * 3,
    *[("the_clock_jumps", (JUMPS,))] * 2,
    ("upstream_loses", (TAGS,)),
    ("check", (TAGS,)),
    ("reload", (st.sampled_from(RULES),)),
    ("lose_and_rebuild", ()),
    ("seed", (TAGS, DIGESTS)),
    ("unseed", (TAGS,)),
]
ACTS: list[tuple[str, tuple[st.SearchStrategy[Any], ...]]] = [
    *[("repin", (TAGS, DIGESTS, DIGESTS))] * 2,
    *[("remove", (TAGS, DIGESTS))] * 3,
    ("roll_back", (TAGS,)),
    ("approve", (TAGS, DIGESTS)),
    ("retire", (TAGS,)),
]
STEPS = st.sampled_from(NOTHING_BY_ITSELF + ACTS).flatmap(lambda each: st.tuples(st.just(each[0]), *each[1]))
FULL = os.environ.get("IARPROXY_SEEDS") == "200"


@dataclass
class Model:
    """What must be so.

    Attributes:
        past: what a tag's pin was when retention took it away; None: a person did.
        had: the digests that a tag was, the oldest first.
        withheld: what the worker remembers: since when, and until when a cool-down lasts.
    """

    rule: dict[str, str] = field(default_factory=dict)
    now: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    offers: dict[str, Digest] = field(default_factory=dict)
    pins: dict[str, Digest] = field(default_factory=dict)
    past: dict[str, Digest | None] = field(default_factory=dict)
    had: dict[str, list[Digest]] = field(default_factory=lambda: {name: [] for name in NAMES})
    seeds: dict[str, Digest] = field(default_factory=dict)
    seen: dict[Digest, datetime] = field(default_factory=dict)
    withheld: dict[str, tuple[datetime, datetime | None]] = field(default_factory=dict)

    def fetch(self, tag: str) -> type[Exception] | Digest:
        """What a client gets, or how it is refused."""
        if tag in self.pins:
            return self.pins[tag]
        if tag in self.withheld:
            since, until = self.withheld[tag]
            if abs(self.now - since) < REMEMBERED and (until is None or self.now < until):
                return Denied
        if tag not in self.offers:
            return UnknownManifest
        offered = self.offers[tag]
        first = self.seen.setdefault(offered, self.now)
        if self._is_admitted(tag, offered, first):
            self.pin(tag, offered)
            return offered
        until = first + HOUR if self._is_cooling(tag, offered) else None
        self.withheld[tag] = self.now, until
        return Denied

    def _is_admitted(self, tag: str, offered: Digest, first: datetime) -> bool:
        if self.seeds.get(tag, offered) != offered:
            return False
        if tag in self.past:
            return self.past[tag] == offered
        match self.rule.get("admit", "any"):
            case "approved":
                return False
            case "seeded":
                return tag in self.seeds
            case _:
                return tag in self.seeds or "cool_down" not in self.rule or self.now - first >= HOUR

    def _is_cooling(self, tag: str, offered: Digest) -> bool:
        waits = self.rule.get("admit", "any") == "any" and "cool_down" in self.rule
        return waits and tag not in self.past and tag not in self.seeds

    def pin(self, tag: str, digest: Digest) -> None:
        self.seen.setdefault(digest, self.now)
        self.pins[tag] = digest
        self.had[tag].append(digest)
        self.past.pop(tag, None)
        self.withheld.pop(tag, None)

    def end(self, tag: str, past: Digest | None) -> None:
        del self.pins[tag]
        self.past[tag] = past

    def before(self, tag: str) -> Digest | None:
        """What it was before it became what it is."""
        return next((each for each in reversed(self.had[tag]) if each != self.pins.get(tag)), None)


class Pins(RuleBasedStateMachine):
    """The mirror beside its model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.registry = FakeRegistry()
        self.model = Model()
        self.world: World
        self.closing: AsyncExitStack

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    async def _open(self) -> None:
        self.closing = AsyncExitStack()
        rules = [{"match": "**", **self.model.rule}]
        made = a_world(self.folder, self.registry, tags=rules, section={"negative_ttl": "0s"})
        self.world = await self.closing.enter_async_context(made)
        self.world.clock.moment = self.model.now
        self.model.withheld.clear()

    @initialize()
    def start(self) -> None:
        self.run(self.registry.start())
        for image in IMAGES:
            self.registry.content.publish("team/app", None, image)
        for tag in NAMES:
            self.upstream_moves(tag, IMAGES[0].digest)
        self.run(self._open())

    @rule(step=STEPS)
    def step(self, step: tuple[Any, ...]) -> None:
        """One of those below; one rule for all, since hypothesis leaves some rules out of each sequence."""
        getattr(self, step[0])(*step[1:])

    # --- what happens by itself: none of it may change a pin --------------------------------------------------------

    def upstream_moves(self, tag: str, digest: Digest) -> None:
        self.registry.content.move_tag("team/app", tag, digest)
        self.model.offers[tag] = digest

    def upstream_loses(self, tag: str) -> None:
        if self.model.offers.pop(tag, None) is not None:
            self.registry.content.delete_tag("team/app", tag)

    def fetch(self, tag: str) -> None:
        expected = self.model.fetch(tag)
        try:
            got: object = self.run(self.world.tag(tag)).descriptor.digest
        except Refused as refused:
            got = type(refused)
        assert expected == got

    def check(self, tag: str) -> None:
        if tag in self.model.pins:
            self.run(self.world.mirror.drift.check(self.world.reference(tag)))
            if tag in self.model.offers:
                self.model.seen.setdefault(self.model.offers[tag], self.model.now)

    def the_clock_jumps(self, jump: timedelta) -> None:
        self.model.now += jump
        self.world.clock.moment = self.model.now

    def reload(self, settings: dict[str, str]) -> None:
        self.model.rule = settings
        self.run(self.closing.aclose())
        self.run(self._open())

    def lose_and_rebuild(self) -> None:
        path, identity = self.folder / "store" / "ledger.db", self.world.store.identity
        self.run(self.closing.aclose())
        path.unlink()
        self.run(rebuild(path, store_identity=identity, actor="ann", reason="r"))
        self.run(self._open())

    def seed(self, tag: str, digest: Digest) -> None:
        seeds = [(DEFAULT, self.world.reference(tag), digest)]
        self.run(self.world.ledger.seeds.put(seeds, reason="r", actor="ann"))
        if self.model.seeds.get(tag) != digest:
            self.model.withheld.pop(tag, None)
        self.model.seeds[tag] = digest

    def unseed(self, tag: str) -> None:
        found = [
            seed.name for seed in self.run(self.world.ledger.seeds.every()) if seed.name.reference.tag.value == tag
        ]
        self.run(self.world.ledger.seeds.drop(found, reason="r", actor="ann"))
        if self.model.seeds.pop(tag, None) is not None:
            self.model.withheld.pop(tag, None)

    # --- acts: each changes what it names, or nothing ---------------------------------------------------------------

    def _act(self, tag: str) -> tuple[Acting, Act]:
        world = self.world
        return Acting(world.mirror, world.upstreams, ()), Act(FIRST_FETCHES, world.reference(tag), "r", "ann")

    def repin(self, tag: str, old: Digest, new: Digest) -> None:
        acting, act = self._act(tag)
        try:
            self.run(acting.repin(act, old, new))
        except (Conflict, UnknownManifest):
            assert self.model.pins.get(tag) != old or old == new
        else:
            assert self.model.pins[tag] == old
            self.model.pin(tag, new)

    def roll_back(self, tag: str) -> None:
        acting, act = self._act(tag)
        before = self.model.before(tag)
        try:
            pin, old = self.run(acting.roll_back(act, before))
        except (Conflict, UnknownManifest):
            assert tag not in self.model.pins or before is None
        else:
            assert (self.model.pins[tag], before) == (old, pin.descriptor.digest)
            self.model.pin(tag, pin.descriptor.digest)

    def approve(self, tag: str, digest: Digest) -> None:
        acting, act = self._act(tag)
        try:
            self.run(acting.approve(act, digest))
        except Conflict:
            assert tag in self.model.pins
        else:
            assert tag not in self.model.pins
            self.model.pin(tag, digest)

    def remove(self, tag: str, digest: Digest) -> None:
        acting, act = self._act(tag)
        try:
            self.run(acting.remove(act, digest))
        except Conflict:
            assert self.model.pins.get(tag) != digest
        else:
            self.model.end(tag, None)

    def retire(self, tag: str) -> None:
        if tag in self.model.pins:
            was = self.model.pins[tag]
            change = Change(DEFAULT, self.world.reference(tag), was, None)
            self.run(self.world.ledger.change(EventKind.RETIRED, [change], reason="r", actor="ann"))
            self.model.end(tag, was)

    # --- what is always so ------------------------------------------------------------------------------------------

    @invariant()
    def the_pins_are_the_models(self) -> None:
        found = {pin.reference: pin.descriptor.digest for pin in self.run(self.world.ledger.pins())}
        expected: dict[TagReference, Digest] = {self.world.reference(tag): pin for tag, pin in self.model.pins.items()}
        assert expected == found
        for reference, digest in expected.items():
            held = self.world.ledger.peek(reference)
            assert held is None or digest == held.descriptor.digest

    def teardown(self) -> None:
        try:
            assert () == self.run(self.world.ledger.verify()).problems
        finally:
            self.run(self.closing.aclose())
            self.run(self.registry.stop())
            self.runner.close()
            shutil.rmtree(self.folder)


TestPins = pytest.mark.timeout(1800 if FULL else 120)(Pins.TestCase)
TestPins.settings = settings(
    max_examples=100 if FULL else 12,
    stateful_step_count=60 if FULL else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
