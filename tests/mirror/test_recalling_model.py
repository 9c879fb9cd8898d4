"""What is denied, against a model, over random graphs of indexes, images, layers and configs."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from iarproxy.errors import UnknownManifest
from iarproxy.ledger import PinSet, Recall, Recalls
from iarproxy.ledger.pin_reading import Shared
from iarproxy.mirror.recall import containing
from iarproxy.mirror.recall.containing import Doubtful, look_through
from iarproxy.mirror.recall.recalling import Recalling
from iarproxy.oci import Digest, Manifest, parse_manifest
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST

EXAMPLES = 2000 if os.environ.get("IARPROXY_SEEDS") else 150
BLOBS = [Digest.of(f"blob {number}".encode()) for number in range(5)]


def entry(digest: Digest, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest), "size": 1}


def an_image(config: Digest, layers: list[Digest]) -> Manifest:
    document = {"config": entry(config), "layers": [entry(each) for each in layers]}
    return parse_manifest(orjson.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **document}))


def an_index(children: list[Digest]) -> Manifest:
    listed = [entry(each, OCI_MANIFEST) for each in children]
    return parse_manifest(orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}))


@dataclass
class Model:
    """The whole rule: a digest is denied if it is recalled, or held and names one that is denied."""

    names: dict[Digest, list[Digest]]
    held: set[Digest] = field(default_factory=set)
    recalled: set[Digest] = field(default_factory=set)

    def denies(self, digest: Digest) -> bool:
        named = self.names.get(digest, []) if digest in self.held else []
        return digest in self.recalled or any(self.denies(each) for each in named)


@dataclass
class Graph:
    """The same in the code's terms; `clock` moves when a step says so."""

    manifests: dict[Digest, Manifest]
    model: Model
    clock: float = 0.0

    def __post_init__(self) -> None:
        self.recalls = Recalls(Shared(1, PinSet))
        self.recalling = Recalling(self.recalls, self.load, lambda: self.clock)

    async def load(self, digest: Digest) -> Manifest | None:
        await asyncio.sleep(0)
        if digest in BLOBS:
            raise UnknownManifest("a layer")
        return self.manifests[digest] if digest in self.model.held else None

    def recall(self, digests: set[Digest]) -> None:
        self.model.recalled = digests
        known = {each: Recall(each, datetime.now(UTC), "ann", "malware") for each in digests}
        self.recalls.keep(MappingProxyType(known))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    manifests: dict[Digest, Manifest] = {}
    for _ in range(draw(st.integers(1, 5))):
        some = draw(st.lists(st.sampled_from(BLOBS), min_size=1, max_size=3))
        made = an_image(some[0], some[1:])
        manifests[made.descriptor.digest] = made
    for _ in range(draw(st.integers(0, 5))):
        below = [*manifests, *BLOBS[:1]]
        made = an_index(draw(st.lists(st.sampled_from(below), min_size=1, max_size=4)))
        manifests[made.descriptor.digest] = made
    names = {
        digest: [*(each.digest for each in it.blobs), *(each.descriptor.digest for each in it.children)]
        for digest, it in manifests.items()
    }
    return Graph(manifests, Model(names))


@settings(max_examples=EXAMPLES)
@given(graph=graphs(), data=st.data())
def test_what_is_denied_is_what_the_model_denies(graph: Graph, data: st.DataObject) -> None:
    """Whatever is recalled, undone and arrives, in whichever order: verdicts agree, and memory never lets more pass."""
    everything = [*BLOBS, *graph.manifests]

    async def look() -> None:
        for digest in data.draw(st.permutations(everything)):
            denied = graph.model.denies(digest)
            assert not (denied and graph.recalling.is_clear(digest))
            assert denied == (await graph.recalling.why(digest) is not None)
            assert denied != graph.recalling.is_clear(digest)
            assert not (denied and graph.recalling.is_lasting(digest))

    async def run() -> None:
        for _ in range(data.draw(st.integers(1, 6))):
            if data.draw(st.booleans()):
                graph.recall(set(data.draw(st.lists(st.sampled_from(everything), max_size=3))))
            else:
                graph.model.held.add(data.draw(st.sampled_from(sorted(graph.manifests))))
                graph.clock += 1
            await look()

    asyncio.run(run())


async def test_concurrent_judgements_of_a_moving_set_end_with_the_newest() -> None:
    """A recall that comes while something is looked through decides it."""
    image = an_image(BLOBS[0], [BLOBS[1]])
    digest = image.descriptor.digest
    graph = Graph({digest: image}, Model({digest: [BLOBS[0], BLOBS[1]]}, {digest}))
    graph.recall({BLOBS[4]})
    judging = asyncio.create_task(graph.recalling.why(digest))
    await asyncio.sleep(0)
    graph.recall({BLOBS[1]})
    assert await judging is not None
    assert not graph.recalling.is_clear(digest)


async def test_what_is_too_large_to_be_looked_through_is_denied() -> None:
    """A walk is bounded; where the bound ends it, the content is denied and the reason said."""
    images = [an_image(BLOBS[0], [Digest.of(str(number).encode())]) for number in range(containing.MAX_OPENED + 1)]
    top = an_index([each.descriptor.digest for each in images])
    held = {each.descriptor.digest: each for each in (*images, top)}

    async def load(digest: Digest) -> Manifest | None:
        return held.get(digest)

    found = await look_through(top.descriptor.digest, {BLOBS[4]}, load, {})
    assert isinstance(found, Doubtful)
    recalls = Recalls(Shared(1, PinSet))
    recalls.keep({BLOBS[4]: Recall(BLOBS[4], datetime.now(UTC), "ann", "malware")})
    refused = await Recalling(recalls, load).why(top.descriptor.digest)
    assert "cannot be looked through" in str(refused)
