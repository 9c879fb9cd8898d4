"""No sequence of operations changes a pin, except repin, remove, approve and the apply of a bundle."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iarproxy.errors import BundleRefused, Conflict, Denied
from iarproxy.ledger import DEFAULT, Change, EventKind, Ledger, rebuild
from iarproxy.ledger.bundles import Applying
from iarproxy.oci import Descriptor, TagReference
from iarproxy.trust.drift import Drifted, Steady, Vanished
from ledger_world import SOURCE, STORE, content, tag, utc_now

TAGS = st.sampled_from([tag("v1"), tag("v2"), tag("V1")])
CONTENTS = st.sampled_from([content("one"), content("two"), content("three")])


class Pinning(RuleBasedStateMachine):
    """A ledger beside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger.db"
        self.runner = asyncio.Runner()
        self.pins: dict[TagReference, Descriptor] = {}
        self.removed: set[TagReference] = set()
        self.sequence = 0

    def _open(self) -> None:
        opening = Ledger.open(self.path, store_identity=STORE, store_is_empty=not self.path.exists(), now=utc_now)
        self.ledger = self.runner.run(opening)

    @initialize()
    def start(self) -> None:
        self._open()

    @rule(reference=TAGS, offered=CONTENTS)
    def fetch(self, reference: TagReference, offered: Descriptor) -> None:
        try:
            pin = self.runner.run(self.ledger.add(reference, offered, SOURCE))
        except Denied:
            assert reference in self.removed
        else:
            assert reference not in self.removed
            assert pin.descriptor == self.pins.setdefault(reference, offered)

    @rule(reference=TAGS, wanted=CONTENTS)
    def approve(self, reference: TagReference, wanted: Descriptor) -> None:
        act = [Change(DEFAULT, reference, None, wanted, SOURCE)]
        try:
            self.runner.run(self.ledger.change(EventKind.APPROVED, act, reason="r", actor="ann"))
        except Conflict:
            assert reference in self.pins
        else:
            assert reference not in self.pins
            self.pins[reference] = wanted
            self.removed.discard(reference)

    @rule(reference=TAGS, old=CONTENTS, new=CONTENTS)
    def repin(self, reference: TagReference, old: Descriptor, new: Descriptor) -> None:
        allowed = self.pins.get(reference) == old != new
        try:
            self.runner.run(
                self.ledger.repin(reference, old.digest, new, reason="r", actor="ann", source=SOURCE),
            )
        except Conflict:
            assert not allowed
        else:
            assert allowed
            self.pins[reference] = new

    @rule(reference=TAGS, old=CONTENTS)
    def remove(self, reference: TagReference, old: Descriptor) -> None:
        allowed = self.pins.get(reference) == old
        with suppress(Conflict):
            self.runner.run(self.ledger.remove(reference, old.digest, reason="r", actor="ann"))
            assert allowed
            del self.pins[reference]
            self.removed.add(reference)

    @rule(wanted=st.dictionaries(TAGS, CONTENTS, min_size=1), stale=st.booleans())
    def apply(self, wanted: dict[TagReference, Descriptor], stale: bool) -> None:  # noqa: FBT001  # hypothesis's
        before = {each: self.pins.get(each) for each in wanted}
        moved = [each for each in wanted if before[each] != wanted[each]]
        changes = [
            Change(DEFAULT, each, None if (old := before[each]) is None else old.digest, wanted[each]) for each in moved
        ]
        applying = Applying(
            origin="iarproxy/origin",
            set="site",
            sequence=max(1, self.sequence + (0 if stale else 1)),
            bundle=content("bundle").digest,
            manifest=content("manifest"),
            environment=DEFAULT,
            changes=changes,
            followed=(),
            links={},
            checkpoint="",
            reason="r",
            actor="ann",
        )
        try:
            self.runner.run(self.ledger.bundles.apply(applying))
        except BundleRefused:
            assert stale
            assert self.sequence
        else:
            self.sequence = applying.sequence
            self.pins.update(wanted)
            self.removed.difference_update(wanted)

    @rule(reference=TAGS, pinned=CONTENTS, offered=CONTENTS, which=st.integers(0, 2))
    def check(self, reference: TagReference, pinned: Descriptor, offered: Descriptor, which: int) -> None:
        verdicts = (Steady(pinned.digest), Drifted(pinned.digest, offered.digest), Vanished(pinned.digest))
        self.runner.run(self.ledger.record_check(reference, verdicts[which], offered, {"n": which}))

    @rule(reference=TAGS, offered=CONTENTS)
    def follow(self, reference: TagReference, offered: Descriptor) -> None:
        self.runner.run(self.ledger.set_followed(reference, offered))
        self.runner.run(self.ledger.link(reference.repository, [offered.digest]))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.ledger.close())
        self._open()

    @rule()
    def lose_and_rebuild(self) -> None:
        self.runner.run(self.ledger.close())
        self.path.unlink()
        self.runner.run(rebuild(self.path, store_identity=STORE, actor="ann", reason="r"))
        self._open()

    @invariant()
    def the_pins_are_the_models(self) -> None:
        found = self.runner.run(self.ledger.pins())
        assert {pin.reference: pin.descriptor for pin in found} == self.pins
        for reference, expected in self.pins.items():
            held = self.ledger.peek(reference)
            assert held is None or held.descriptor == expected

    def teardown(self) -> None:
        try:
            assert self.runner.run(self.ledger.verify()).problems == ()
        finally:
            self.runner.run(self.ledger.close())
            self.runner.close()
            shutil.rmtree(self.folder)


TestPinning = Pinning.TestCase
TestPinning.settings = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
