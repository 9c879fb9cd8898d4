"""An iarproxy whose upstream is an iarproxy: pins, drift, namespaces, lists and refusals pass through, loops do not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from edges import Edge, edge
from iarproxy.errors import Denied, Unavailable, UpstreamUnavailable
from iarproxy.oci import Digest
from iarproxy.trust import Drifted, Steady, Vanished
from images import artifact, image, random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

NAME, OTHER = "registry.example.com", "ghcr.example.com"
REPOSITORY = "team/app"


@dataclass
class Chain:
    """A registry, a mirror of it, and a mirror of that mirror."""

    top: FakeRegistry
    parent: Edge
    child: Edge

    async def pull(self, tag: str = "1") -> Digest:
        """The digest that a client of the child gets for a tag."""
        got = await self.child.ask(f"/v2/{REPOSITORY}/manifests/{tag}")
        assert 200 == got.status
        return Digest.of(got.body)

    async def move(self, seed: int) -> Digest:
        """Move the tag at the top and have the parent see it."""
        moved = self.top.content.publish(REPOSITORY, "1", small_image(seed))
        await self.parent.mirror.drift.check(self.parent.reference(REPOSITORY, NAME))
        return moved.digest


@asynccontextmanager
async def a_chain(folder: Path, **parent: object) -> AsyncIterator[Chain]:
    """The chain, with `NAME` through all of it."""
    async with (
        FakeRegistry() as top,
        edge(folder / "parent", {NAME: {"url": top.url}}, **parent) as above,  # type: ignore[arg-type]  # handed on
        edge(folder / "child", {NAME: {"url": above.url, "namespace": True}}) as below,
    ):
        yield Chain(top, above, below)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with a_chain(tmp_path) as made:
        yield made


async def test_drift_that_the_parent_knows(chain: Chain) -> None:
    """The parent still serves the pin; the child asks for the bytes of what is offered beyond, hashes and accuses."""
    pinned = chain.top.content.publish(REPOSITORY, "1", image(random_blob(100, 1), labels={"version": "1"}))
    assert pinned.digest == await chain.pull()
    offered = await chain.move(2)
    checked = await chain.child.mirror.drift.check(chain.child.reference(REPOSITORY, NAME))
    assert (Drifted(pinned.digest, offered), True) == (checked.verdict, checked.news)
    assert str(offered) == checked.evidence["headers"]["iar-upstream-digest"]
    assert chain.parent.url == checked.evidence["offered_by"]
    assert chain.child.store.find(offered) is not None
    got = await chain.child.ask(f"/v2/{REPOSITORY}/manifests/1", "HEAD")
    assert (str(pinned.digest), str(offered)) == (
        got.headers["Docker-Content-Digest"],
        got.headers["IAR-Upstream-Digest"],
    )
    assert "Warning" in got.headers


async def test_a_tag_that_vanished_at_the_top(chain: Chain) -> None:
    """The parent says `none`; the child records it, and both serve the pin."""
    pinned = chain.top.content.publish(REPOSITORY, "1", small_image())
    await chain.pull()
    chain.top.content.delete_tag(REPOSITORY, "1")
    await chain.parent.mirror.drift.check(chain.parent.reference(REPOSITORY, NAME))
    checked = await chain.child.mirror.drift.check(chain.child.reference(REPOSITORY, NAME))
    assert Vanished(pinned.digest) == checked.verdict
    got = await chain.child.ask(f"/v2/{REPOSITORY}/manifests/1")
    assert (pinned.raw, "none") == (got.body, got.headers["IAR-Upstream-Digest"])


async def test_steady_through_both(chain: Chain) -> None:
    """While nothing moved, a HEAD at the parent is enough, and the top hears nothing of it."""
    pinned = chain.top.content.publish(REPOSITORY, "1", small_image())
    await chain.pull()
    chain.top.forget()
    checked = await chain.child.mirror.drift.check(chain.child.reference(REPOSITORY, NAME))
    assert (Steady(pinned.digest), []) == (checked.verdict, chain.top.log)


async def test_a_first_pin_below_a_drifted_one(chain: Chain) -> None:
    """The child pins what its parent serves, and sees the drift at once."""
    pinned = chain.top.content.publish(REPOSITORY, "1", small_image(1))
    await chain.parent.ask(f"/v2/{REPOSITORY}/manifests/1")
    offered = await chain.move(2)
    assert pinned.digest == await chain.pull()
    async with asyncio.timeout(10):
        while not chain.child.verdicts:
            await asyncio.sleep(0.01)
    assert Drifted(pinned.digest, offered) == chain.child.verdicts[0].verdict
    pin = await chain.child.ledger.pin_of(chain.child.reference(REPOSITORY, NAME))
    assert pin is not None
    assert chain.parent.url == pin.source


async def test_a_repin_at_the_parent_is_drift_below(chain: Chain) -> None:
    """A person accepts the new image at the parent; the child's pin is not moved by that: its people decide."""
    pinned = chain.top.content.publish(REPOSITORY, "1", small_image(1))
    await chain.pull()
    offered = await chain.move(2)
    reference = chain.parent.reference(REPOSITORY, NAME)
    state = chain.parent.ledger.peek_drift(reference)
    assert state is not None
    assert state.offered is not None
    await chain.parent.ledger.repin(
        reference, pinned.digest, state.offered, actor="a person", reason="reviewed", source=chain.top.url
    )
    checked = await chain.child.mirror.drift.check(chain.child.reference(REPOSITORY, NAME))
    assert Drifted(pinned.digest, offered) == checked.verdict
    assert pinned.digest == await chain.pull()


async def test_no_bytes_no_verdict(tmp_path: Path) -> None:
    """A header alone accuses nobody: where the parent cannot give what it tells of, nothing is judged."""
    async with (
        FakeRegistry() as registry,
        edge(tmp_path, {NAME: {"url": registry.url}}) as child,
    ):
        registry.content.publish(REPOSITORY, "1", small_image())
        await child.ask(f"/v2/{REPOSITORY}/manifests/1")
        for told in (str(Digest.of(b"nothing that is there")), "sha256:short", "None", ""):
            registry.faults.clear()
            registry.faults.add("*/manifests/1", Fault(headers={"IAR-Upstream-Digest": told}))
            reference = child.reference(REPOSITORY, NAME)
            if len(told) > 20:
                with pytest.raises(UpstreamUnavailable, match="does not have it"):
                    await child.mirror.drift.check(reference)
            else:
                assert isinstance((await child.mirror.drift.check(reference)).verdict, Steady)


async def test_a_parent_that_denies(tmp_path: Path) -> None:
    """With `on_drift = "deny"` the parent's 403 is a refusal: no verdict below, and the child serves what it holds."""
    async with a_chain(tmp_path, tags=[{"match": f"{NAME}/**", "on_drift": "deny"}]) as chain:
        pinned = chain.top.content.publish(REPOSITORY, "1", small_image(1))
        await chain.pull()
        await chain.move(2)
        with pytest.raises(Denied):
            await chain.child.mirror.drift.check(chain.child.reference(REPOSITORY, NAME))
        assert pinned.digest == await chain.pull()


async def test_a_parent_that_stops_clients(tmp_path: Path) -> None:
    """A refusal manifest is for clients that would go elsewhere; a mirror below is told 403, and pins nothing."""
    async with a_chain(tmp_path, tags=[{"match": f"{NAME}/**", "on_drift": "stop"}]) as chain:
        chain.top.content.publish(REPOSITORY, "1", small_image(1))
        await chain.parent.ask(f"/v2/{REPOSITORY}/manifests/1")
        await chain.move(2)
        got = await chain.child.ask(f"/v2/{REPOSITORY}/manifests/1")
        assert 403 == got.status
        assert await chain.child.ledger.pin_of(chain.child.reference(REPOSITORY, NAME)) is None


async def test_one_parent_for_several_registries(tmp_path: Path) -> None:
    """`namespace = true` keeps two registries apart that share a parent, down to lists and what is remembered."""
    async with FakeRegistry() as one, FakeRegistry() as two:
        for number, registry in enumerate((one, two)):
            for tag in range(25):
                registry.content.publish(REPOSITORY, f"{number}-{tag:02}", small_image(number))
            registry.content.publish(REPOSITORY, "1", small_image(number))
            registry.max_page = 10
        above = {NAME: {"url": one.url}, OTHER: {"url": two.url}}
        async with edge(tmp_path / "parent", above) as parent:
            below = {name: {"url": parent.url, "namespace": True} for name in above}
            async with edge(tmp_path / "child", below) as child:
                for number, name in enumerate(above):
                    ns = f"ns={name}"
                    got = await child.ask(f"/v2/{REPOSITORY}/manifests/1?{ns}")
                    assert small_image(number).raw == got.body
                    assert name == got.headers["OCI-Namespace"]
                    listed = orjson.loads((await child.ask(f"/v2/{REPOSITORY}/tags/list?{ns}")).body)["tags"]
                    assert sorted(["1", *(f"{number}-{tag:02}" for tag in range(25))]) == listed


async def test_without_a_namespace_the_parents_default_answers(tmp_path: Path) -> None:
    """Without the setting nothing is appended: an ordinary registry never sees `ns`."""
    async with (
        FakeRegistry() as top,
        edge(tmp_path / "parent", {NAME: {"url": top.url}}) as parent,
        edge(tmp_path / "child", {NAME: {"url": parent.url}}) as child,
    ):
        top.content.publish(REPOSITORY, "1", small_image())
        assert 200 == (await child.ask(f"/v2/{REPOSITORY}/manifests/1")).status
        assert not [seen.path for seen in top.log if "ns=" in seen.path]


async def test_the_namespace_stays_at_the_endpoint(tmp_path: Path) -> None:
    """A redirect target and a token server get their own URLs as they are."""
    async with (
        FakeRegistry() as storage,
        FakeRegistry() as registry,
        edge(tmp_path, {NAME: {"url": registry.url, "namespace": True}}) as child,
    ):
        digest = registry.content.publish_blob(REPOSITORY, random_blob(1000))
        storage.content.publish_blob(REPOSITORY, random_blob(1000))
        registry.faults.add("*/blobs/*", Fault(location=f"{storage.url}/v2/{REPOSITORY}/blobs/{digest}?signed=1"))
        assert random_blob(1000) == (await child.ask(f"/v2/{REPOSITORY}/blobs/{digest}")).body
        assert {f"/v2/{REPOSITORY}/blobs/{digest}?ns={NAME}"} == {seen.path for seen in registry.log}
        assert {f"/v2/{REPOSITORY}/blobs/{digest}?signed=1"} == {seen.path for seen in storage.log}


async def test_referrers_pass_through(chain: Chain) -> None:
    """Who asks the child for what refers to an image gets what the top says, and the artifact itself."""
    subject = chain.top.content.publish(REPOSITORY, "1", small_image())
    signature = chain.top.content.publish(REPOSITORY, None, artifact(subject))
    index = orjson.loads((await chain.child.ask(f"/v2/{REPOSITORY}/referrers/{subject.digest}")).body)
    assert [str(signature.digest)] == [each["digest"] for each in index["manifests"]]
    got = await chain.child.ask(f"/v2/{REPOSITORY}/manifests/{signature.digest}")
    assert signature.raw == got.body


async def test_top_and_parent_away(tmp_path: Path) -> None:
    """What each of them holds is served, whoever above it is away; a cold tag is an error that names the cause."""
    async with AsyncExitStack() as above, FakeRegistry() as top:
        parent = await above.enter_async_context(edge(tmp_path / "parent", {NAME: {"url": top.url}}))
        async with edge(tmp_path / "child", {NAME: {"url": parent.url, "namespace": True}}) as child:
            chain = Chain(top, parent, child)
            top.content.publish(REPOSITORY, "1", small_image(1))
            held = await chain.pull()
            await top.stop()
            assert held == await chain.pull()
            reference = child.reference(REPOSITORY, NAME)
            assert isinstance((await child.mirror.drift.check(reference)).verdict, Steady)
            cold = await child.ask(f"/v2/{REPOSITORY}/manifests/2")
            assert (502, "UNAVAILABLE") == (cold.status, orjson.loads(cold.body)["errors"][0]["code"])
            await above.aclose()
            assert held == await chain.pull()
            with pytest.raises(Unavailable):
                await child.mirror.drift.check(reference)


# --- loops ------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_a_mirror_of_itself(tmp_path: Path) -> None:
    """A url that leads to this server by a name that no check could know ends at the first request, with the reason."""
    port = free_port()
    async with edge(tmp_path, {NAME: {"url": f"http://localhost:{port}"}}, port=port) as itself:
        for target in ("manifests/1", f"blobs/{Digest.of(b'x')}", "tags/list"):
            async with asyncio.timeout(5):
                got = await itself.ask(f"/v2/{REPOSITORY}/{target}")
            assert 508 == got.status
            message = orjson.loads(got.body)["errors"][0]["message"]
            assert f'write into upstreams."{NAME}" the url of the registry itself' in message


async def test_a_loop_over_two(tmp_path: Path) -> None:
    """Two mirrors that have each other for their upstream notice it, whoever is asked."""
    ports = free_port(), free_port()
    async with (
        edge(tmp_path / "a", {NAME: {"url": f"http://127.0.0.1:{ports[1]}"}}, port=ports[0]) as one,
        edge(tmp_path / "b", {NAME: {"url": f"http://127.0.0.1:{ports[0]}"}}, port=ports[1]) as two,
    ):
        for each in (one, two):
            async with asyncio.timeout(10):
                assert 508 == (await each.ask(f"/v2/{REPOSITORY}/manifests/1")).status
                assert 508 == (await each.ask(f"/v2/{REPOSITORY}/blobs/{Digest.of(b'x')}")).status
