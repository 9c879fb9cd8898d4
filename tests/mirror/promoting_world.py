"""What the tests of promotions share: orders, gates that say what they are told to say, and the way a command goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from iarproxy.ledger import Pin
from iarproxy.mirror.promotion.gating import Gate
from iarproxy.mirror.promotion.plan import Order, Plan, Wanted
from iarproxy.mirror.promotion.promoting import Promotion
from iarproxy.oci import Digest, TagReference
from iarproxy.trust.gates import Allowed, Facts, Verdict
from iarproxy.trust.signing import PrivateKey
from world import World

KEY = PrivateKey.made()
ORIGIN = "iarproxy/a-store"


@dataclass
class SaysSo:
    """A gate with a verdict of its own; it keeps what it was told."""

    verdict: Verdict = field(default_factory=Allowed)
    name: str = "says so"
    told: list[Facts] = field(default_factory=list)

    async def judge(self, facts: Facts) -> Verdict:
        self.told.append(facts)
        return self.verdict


@dataclass(frozen=True)
class Promoted:
    """How a promotion ended."""

    plan: Plan
    pins: list[Pin]

    @property
    def outcomes(self) -> list[str]:
        """The kind of each step's outcome, and its first reason where it has one."""
        kinds = [(type(step.outcome).__name__, getattr(step.outcome, "reasons", ())) for step in self.plan.steps]
        return [f"{kind}: {reasons[0]}" if reasons else kind for kind, reasons in kinds]


def order(
    *wanted: Wanted | TagReference, source: str = "default", target: str = "prod", partial: bool = False
) -> Order:
    names = [Wanted(each) if isinstance(each, TagReference) else each for each in wanted]
    return Order(source, target, names, "release 7", "ann (uid 1000)", partial)


async def promote(promotion: Promotion, wanted: Order, gates: Sequence[Gate] = (), *, fetch: bool = True) -> Promoted:
    """As the command does it."""
    plan = await promotion.plan(wanted, gates, fetch=fetch)
    return Promoted(plan, await promotion.carry_out(plan, KEY, ORIGIN) if plan.is_possible else [])


async def stands_for(world: World, reference: TagReference, environment: str = "prod") -> Digest | None:
    """What the database says of a name."""
    pin = await world.ledger.within(environment).pin_of(reference)
    return None if pin is None else pin.descriptor.digest


async def bundles(world: World, digest: Digest, name: str = "team/app") -> list[bytes]:
    """What is in the layers of all that refers to a digest, as a verifier gets it from us."""
    answer = await world.mirror.referrers(world.repository(name), digest, ())
    found = []
    for entry in orjson.loads(answer.raw)["manifests"]:
        manifest = await world.mirror.manifest(world.repository(name), Digest.parse(entry["digest"]))
        layer = orjson.loads(manifest.raw)["layers"][0]
        found.append(await world.blob(Digest.parse(layer["digest"]), name=name))
    return found


def blobs(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each blob."""
    files = [each for each in (store / "blobs").rglob("*") if each.is_file()]
    return {each.name: (each.stat().st_ino, each.stat().st_mtime_ns) for each in files}
