"""Retention over a real store and ledger: what is planned, and that nothing else ever goes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from iarproxy.errors import Denied, LedgerDamaged, Malformed, Refused
from iarproxy.ledger import Ledger, Use
from iarproxy.mirror.acts.retaining import Outcome, Retaining
from iarproxy.oci import Descriptor, Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from iarproxy.store import Store
from iarproxy.trust import Pattern
from iarproxy.trust.retention import Action, Delete, Facts, Rule, decide
from world import Clock

APP = Repository("registry.example.com", "team/app")
OLD = Rule(Action.DELETE, Pattern("**"), "default", "rule 1 (delete **)", unused_for=timedelta(days=30))
SEEDS = int(os.environ.get("IARPROXY_SEEDS", "12"))
WHO: dict[str, Any] = {"reason": "cleaning", "actor": "ann"}


def tag(name: str) -> TagReference:
    return TagReference(APP, Tag(name))


@dataclass
class Site:
    """A store and a ledger, with a clock that moves."""

    store: Store
    ledger: Ledger
    clock: Clock
    rules: tuple[Rule, ...] = (OLD,)

    @property
    def retaining(self) -> Retaining:
        return Retaining(self.store, self.ledger, self.rules, [{"action": "delete"}], now=self.clock)

    async def manifest(self, text: str, children: tuple[Descriptor, ...] = ()) -> Descriptor:
        """Content that is held: an image, or an index of `children`."""
        listed = [{"mediaType": each.media_type, "digest": str(each.digest), "size": each.size} for each in children]
        kind = OCI_INDEX if children else OCI_MANIFEST
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
        body: dict[str, Any] = {"manifests": listed} if children else {"config": config, "layers": []}
        document = {"schemaVersion": 2, "mediaType": kind, **body, "annotations": {"text": text}}
        raw = orjson.dumps(document)
        found = Descriptor(kind, Digest.of(raw), len(raw))
        await self.store.put(found.digest, raw)
        return found

    async def pin(self, name: str, text: str = "", within: str = "default") -> Descriptor:
        found = await self.manifest(text or name)
        await self.ledger.within(within).add(tag(name), found, "s")
        return found

    async def pulled(self, wanted: str | Digest, digest: Digest) -> None:
        """Somebody pulled it now."""
        asked = Tag(wanted) if isinstance(wanted, str) else wanted
        await self.ledger.uses.record([Use(APP, asked, digest, "10.0.0.1", self.clock(), self.clock(), 1)])

    async def planned(self) -> tuple[bytes, list[str]]:
        """A plan, and the tags that it takes away."""
        data = await self.retaining.plan()
        return data, [item["reference"].rpartition(":")[2] for item in orjson.loads(data)["items"]]

    async def applied(self, data: bytes) -> Outcome:
        retaining = self.retaining
        return await retaining.apply(retaining.read(data), **WHO)

    async def pinned(self) -> set[tuple[str, str]]:
        found = set()
        for environment in await self.ledger.environments():
            found |= {(environment, str(each.reference)) for each in await self.ledger.within(environment).pins()}
        return found


@asynccontextmanager
async def a_site(folder: Path) -> AsyncIterator[Site]:
    clock = Clock()
    store = Store.open(folder / "store", max_size=10**9)
    ledger = await Ledger.open(
        folder / "store" / "ledger.db", store_identity=store.identity, store_is_empty=store.is_empty(), now=clock
    )
    site = Site(store, ledger, clock)
    try:
        first = await site.manifest("first")
        await site.pulled("first", first.digest)  # from now on uses are known
        yield site
    finally:
        await ledger.close()
        await store.close()


def told(outcome: Outcome) -> tuple[list[str], dict[str, str]]:
    """The tags that went, and those that stayed with why."""
    gone = [item.reference.tag.value for item in outcome.gone]
    return gone, {item.reference.tag.value: why for item, why in outcome.stayed}


async def test_a_plan_and_its_execution(tmp_path: Path) -> None:
    """What was not used for long goes, in one act with the plan's hash; it comes back by itself when it is pulled."""
    async with a_site(tmp_path) as site:
        a = await site.pin("a")
        b = await site.pin("b")
        site.clock.advance(timedelta(days=40))
        await site.pulled("b", b.digest)
        before = await site.ledger.serial()
        data, tags = await site.planned()
        assert (["a"], before) == (tags, await site.ledger.serial())
        assert data == await site.retaining.plan()
        (item,) = orjson.loads(data)["items"]
        assert ("rule 1 (delete **)", "not used for 39 days", 1) == (item["rule"], item["reason"], item["revision"])
        assert (["a"], {}) == told(await site.applied(data))
        event = (await site.ledger.history(tag("a")))[-1]
        assert ("retired", "ann", "cleaning") == (event.kind, event.actor, event.reason)
        assert site.retaining.read(data).sha256 == event.body["plan"]
        assert site.store.find(a.digest) is not None
        assert ([], {"a": "it is not pinned any more"}) == told(await site.applied(data))
        assert a == (await site.ledger.add(tag("a"), a, "s")).descriptor
        assert ["it is pinned to"] == [why[:15] for why in told(await site.applied(data))[1].values()]


async def test_what_happens_in_between_counts(tmp_path: Path) -> None:
    """Pulled, leased, promoted, repinned since: it stays, and the person is told why."""
    async with a_site(tmp_path) as site:
        pins = {name: await site.pin(name) for name in ("gone", "pulled", "leased", "promoted", "repinned")}
        site.clock.advance(timedelta(days=40))
        await site.pulled("first", pins["gone"].digest.__class__.of(b"x"))
        data, tags = await site.planned()
        assert sorted(pins) == tags
        await site.pulled("pulled", pins["pulled"].digest)
        await site.ledger.leases.set("prod", [pins["leased"].digest], lasting=timedelta(days=1), **WHO)
        await site.ledger.within("prod").add(tag("promoted"), pins["promoted"], "s")
        new = await site.manifest("new")
        await site.ledger.repin(tag("repinned"), pins["repinned"].digest, new, source="s", **WHO)
        gone, stayed = told(await site.applied(data))
        assert ["gone"] == gone
        assert {
            "pulled": "no rule deletes it now",
            "leased": "the lease prod names it",
            "promoted": f"its content is pinned in prod too, as {tag('promoted')}",
            "repinned": f"it is pinned to {new.digest} now, in revision 2",
        } == stayed


async def test_a_pull_by_digest_counts_for_the_tags_above(tmp_path: Path) -> None:
    """Also one of a platform's manifest alone: nodes pull by digest."""
    async with a_site(tmp_path) as site:
        child = await site.manifest("amd64")
        index = await site.manifest("index", (child,))
        await site.ledger.add(tag("multi"), index, "s")
        own = await site.pin("own")
        site.clock.advance(timedelta(days=40))
        assert ["multi", "own"] == (await site.planned())[1]
        await site.pulled(child.digest, child.digest)
        await site.pulled(own.digest, own.digest)
        assert [] == (await site.planned())[1]


async def test_what_is_not_known_keeps(tmp_path: Path) -> None:
    """Uses that are gone, damaged or young delete nothing; so do manifests that cannot be read."""
    async with a_site(tmp_path) as site:
        await site.pin("a")
        missing = Descriptor(OCI_MANIFEST, Digest.of(b"nobody has it"), 13)
        await site.ledger.add(tag("missing"), missing, "s")
        site.clock.advance(timedelta(days=40))
        data, tags = await site.planned()
        assert ["a"] == tags
        assert ["its manifest cannot be read, so what leads to it is not known"] == [
            each["why"] for each in orjson.loads(data)["kept"]
        ]
        await asyncio.to_thread((tmp_path / "store" / "uses.db").write_bytes, b"rubbish" * 1000)
        assert ([], {"a": "no rule deletes it now"}) == told(await site.applied(data))
        (tmp_path / "store" / "uses.db").unlink()
        assert [] == (await site.planned())[1]
        await site.pulled("first", missing.digest)
        assert [] == (await site.planned())[1]


def sealed(document: dict[str, Any]) -> bytes:
    """A plan that somebody wrote by hand, with its seal made right."""
    document.pop("seal")
    seal = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**document, "seal": seal})


async def test_a_plan_that_is_not_ours(tmp_path: Path) -> None:
    """Edited, of another store, too old, of another day to come, or no plan at all: refused as a whole."""
    async with a_site(tmp_path / "one") as site, a_site(tmp_path / "two") as other:
        await site.pin("a")
        site.clock.advance(timedelta(days=40))
        data, _ = await site.planned()
        for wrong in (b"", b"[]", b"{}", data.replace(b'"revision": 1', b'"revision": 2'), data[:-3]):
            with pytest.raises(Malformed, match="no plan"):
                site.retaining.read(wrong)
        wrong_values: list[dict[str, Any]] = [{"store": None}, {"items": 5}, {"items": [{}]}, {"as_of": 3}]
        for strange in [*wrong_values, {"as_of": "2026-01-01T00:00:00"}]:
            with pytest.raises((Malformed, Refused)):
                site.retaining.read(sealed({**orjson.loads(data), **strange}))
        other.clock.advance(timedelta(days=40))
        with pytest.raises(Refused, match="of the store"):
            other.retaining.read(data)
        for days in (-1, 9):
            site.clock.advance(timedelta(days=days))
            with pytest.raises(Refused, match="was valid from"):
                site.retaining.read(data)
        assert {("default", str(tag("a")))} == await site.pinned()


async def test_no_plan_over_damage(tmp_path: Path) -> None:
    """A pin that cannot be read may protect anything: first it is mended."""
    import sqlite3  # noqa: PLC0415  # what somebody with the sqlite3 program would do

    async with a_site(tmp_path) as site:
        await site.pin("a")
        await site.pin("b")
        await site.ledger.close()
    raw = sqlite3.connect(tmp_path / "store" / "ledger.db")
    [[guard]] = raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'pins_update'").fetchall()
    raw.execute("DROP TRIGGER pins_update")
    raw.execute("UPDATE pins SET size = size + 1 WHERE tag = 'a'")
    raw.execute(guard)
    raw.commit()
    raw.close()
    async with a_site(tmp_path) as site:
        site.clock.advance(timedelta(days=40))
        with pytest.raises(LedgerDamaged, match="mend it first"):
            await site.retaining.plan()


TAGS = ("1.0", "1.1", "2.0", "latest")
RULES = (
    (OLD,),
    (OLD, Rule(Action.KEEP, Pattern("**:latest"), "default", "keep latest")),
    (OLD, Rule(Action.KEEP, Pattern("**"), "default", "keep newest", count=1)),
    (Rule(Action.DELETE, Pattern("**:1*"), "prod", "prod", pinned_age=timedelta(days=20)), OLD),
)


async def _one_step(site: Site, random: Random) -> None:
    name, within = random.choice(TAGS), random.choice(["default", "prod"])
    pins = site.ledger.within(within)
    match random.randrange(6):
        case 0 | 1:
            with suppress(Denied):  # other content than retention took the name of
                await pins.add(tag(name), await site.manifest(random.choice("ab")), "s")
        case 2 if (pin := await pins.pin_of(tag(name))) is not None:
            await site.pulled(pin.descriptor.digest if random.random() < 0.5 else name, pin.descriptor.digest)
        case 3 if (pin := await pins.pin_of(tag(name))) is not None:
            await site.ledger.leases.set("x", [pin.descriptor.digest], lasting=timedelta(days=20), **WHO)
        case 4:
            site.clock.advance(timedelta(days=random.randrange(1, 25)))
        case _:
            site.rules = random.choice(RULES)


async def _model(site: Site) -> set[tuple[str, str]]:
    """What may go now, from the same facts, by the judgement alone."""
    facts: list[Facts] = await site.retaining._facts(site.clock())
    as_of = site.clock().replace(hour=0, minute=0, second=0, microsecond=0)
    return {key for key, each in decide(facts, site.rules, as_of).items() if isinstance(each, Delete)}


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_goes_that_was_not_planned(tmp_path: Path, seed: int) -> None:
    """Random pins, pulls, leases, rules and days between plan and execution: what goes was in the plan and may go."""
    random = Random(seed)  # a seed makes it the same again
    async with a_site(tmp_path) as site:
        for _ in range(8):
            for _ in range(random.randrange(1, 6)):
                await _one_step(site, random)
            data, _ = await site.planned()
            assert data == await site.retaining.plan()
            planned = {(item["environment"], item["reference"]) for item in orjson.loads(data)["items"]}
            assert planned == await _model(site)
            for _ in range(random.randrange(3)):
                await _one_step(site, random)
            try:
                site.retaining.read(data)
            except Refused:
                continue
            before, may_go = await site.pinned(), await _model(site)
            outcome = await site.applied(data)
            gone = {item.key for item in outcome.gone}
            assert gone == before - await site.pinned()
            assert gone <= planned & may_go
            assert planned == gone | {item.key for item, _ in outcome.stayed}
