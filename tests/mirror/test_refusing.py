"""Refusals in both forms: as errors, and as manifests that stop clients (clients.md section 2.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import Denied, Malformed, Stopped
from iarproxy.mirror.acts.acting import Act, Acting
from iarproxy.mirror.acts.locking import Locking
from iarproxy.oci import Digest, Tag
from iarproxy.oci.lock import Locked
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.oci.refusal import EMPTY
from iarproxy.trust.environments import FIRST_FETCHES
from images import small_image
from registry import FakeRegistry
from world import World, a_world

STOP: list[dict[str, str]] = [{"match": "**", "on_drift": "stop"}]


async def drifted(world: World) -> tuple[Digest, Digest]:
    old = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    new = world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    return old.digest, new.digest


async def stopped(world: World, tag: str = "1") -> Stopped:
    with pytest.raises(Stopped) as caught:
        await world.tag(tag)
    return caught.value


async def test_stop_refuses_a_drifted_tag_with_both_digests(tmp_path: Path, registry: FakeRegistry) -> None:
    """`on_drift = "stop"` raises what the server turns into a refusal manifest; memory does not answer in its place."""
    async with a_world(tmp_path, registry, tags=STOP) as world:
        old, new = await drifted(world)
        error = await stopped(world)
        assert ("tag-drift", str(old), str(new)) == (error.reason, error.detail["pinned"], error.detail["offered"])
        assert world.mirror.peek(world.repository(), Tag("1")) is None


async def test_the_refusal_is_content_of_its_repository(tmp_path: Path, registry: FakeRegistry) -> None:
    """By digest it is an OCI manifest, below /blobs/ it has the same bytes, and its config and layer are there."""
    async with a_world(tmp_path, registry, tags=STOP) as world:
        await drifted(world)
        refusal = (await world.mirror.refusal(world.reference(), await stopped(world))).refusal
        asked = len(registry.log)
        by_digest = await world.mirror.manifest(world.repository(), refusal.digest)
        assert (OCI_MANIFEST, refusal.raw) == (by_digest.descriptor.media_type, by_digest.raw)
        assert refusal.raw == await world.blob(refusal.digest)
        assert await world.blob(Digest.of(EMPTY)) == EMPTY
        assert asked == len(registry.log)


async def test_another_worker_has_the_refusal_too(tmp_path: Path, registry: FakeRegistry) -> None:
    """Rule 1: what one worker told by tag, every worker tells by digest, also where content is private."""
    password = tmp_path / "password"
    password.write_text("hunter2")
    async with a_world(tmp_path, registry, tags=STOP, password_file=password) as world:
        await drifted(world)
        refusal = (await world.mirror.refusal(world.reference(), await stopped(world))).refusal
    async with a_world(tmp_path, registry, tags=STOP, password_file=password) as other:
        assert refusal.raw == (await other.mirror.manifest(other.repository(), refusal.digest)).raw
        assert refusal.digest == (await other.mirror.refusal(other.reference(), await stopped(other))).refusal.digest


async def test_a_refusal_is_no_pin(tmp_path: Path, registry: FakeRegistry) -> None:
    """Rule 2: nothing about the pin, or about what drift says, changes when clients are stopped."""
    async with a_world(tmp_path, registry, tags=STOP) as world:
        old, new = await drifted(world)
        await world.mirror.refusal(world.reference(), await stopped(world))
        pin, drift = await world.ledger.pin_of(world.reference()), world.ledger.peek_drift(world.reference())
        assert pin is not None
        assert drift is not None
        assert drift.offered is not None
        assert (old, new) == (pin.descriptor.digest, drift.offered.digest)


@pytest.mark.parametrize(("form", "kind"), [("error", Denied), ("stop", Stopped)])
async def test_a_tag_rule_refuses_in_the_configured_form(
    tmp_path: Path, registry: FakeRegistry, form: str, kind: type[Denied]
) -> None:
    """`mode = "refuse"` follows `[server] refusal`."""
    rules: list[dict[str, Any]] = [{"match": "**:secret", "mode": "refuse"}]
    async with a_world(tmp_path, registry, tags=rules, refusal=form) as world:
        with pytest.raises(Denied, match=r"refused by the tag rule '\*\*:secret'") as caught:
            await world.tag("secret")
        assert kind is type(caught.value)


async def test_stop_serves_what_has_not_drifted(tmp_path: Path, registry: FakeRegistry) -> None:
    """`on_drift = "stop"` changes nothing for a tag that stays, or that vanished."""
    async with a_world(tmp_path, registry, tags=STOP) as world:
        pinned = registry.content.publish("team/app", "1", small_image(1))
        assert pinned.digest == (await world.tag()).descriptor.digest
        await world.mirror.drift.check(world.reference())
        assert pinned.digest == (await world.tag()).descriptor.digest
        registry.content.delete_tag("team/app", "1")
        await world.mirror.drift.check(world.reference())
        assert pinned.digest == (await world.tag()).descriptor.digest


async def test_names_that_clients_choose_fill_no_disk(tmp_path: Path, registry: FakeRegistry) -> None:
    """Rule 4: every one of a flood of names is refused, and few of the refusals are kept."""
    rules = [{"match": "registry.example.com/evil/**", "mode": "refuse"}]
    async with a_world(tmp_path, registry, tags=rules, refusal="stop") as world:
        kept = 0
        for number in range(600):
            reference = world.reference("1", f"evil/n{number}")
            with pytest.raises(Stopped) as caught:
                await world.tag("1", f"evil/n{number}")
            refusal = (await world.mirror.refusal(reference, caught.value)).refusal
            kept += world.store.find(refusal.digest) is not None
            assert refusal.raw == (await world.mirror.manifest(reference.repository, refusal.digest)).raw
        assert 0 < kept < 300


async def test_no_act_pins_a_refusal(tmp_path: Path, registry: FakeRegistry) -> None:
    """Rule 2: a person who names the digest that a stopped client showed is told what it is; lock files too."""
    async with a_world(tmp_path, registry, tags=STOP) as world:
        old, _ = await drifted(world)
        refusal = (await world.mirror.refusal(world.reference(), await stopped(world))).refusal
        acting = Acting(world.mirror, world.upstreams, ())
        with pytest.raises(Malformed, match="how a mirror refuses a tag"):
            await acting.repin(Act(FIRST_FETCHES, world.reference(), "r", "ann"), old, refusal.digest)
        with pytest.raises(Malformed, match="how a mirror refuses a tag"):
            await acting.approve(Act(FIRST_FETCHES, world.reference("2"), "r", "ann"), refusal.digest)
        locking = Locking(world.mirror, world.ledger, world.upstreams, ())
        held, failed = await locking.fetch([Locked(world.reference("3"), refusal.digest)], lambda: None)
        assert ({}, [Malformed]) == (held, [type(each.error) for each in failed])
        pins = await world.ledger.pins()
        assert [old] == [each.descriptor.digest for each in pins]
