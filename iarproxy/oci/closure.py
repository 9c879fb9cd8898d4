"""What belongs to some content: the documents and blobs below it, for the platforms that are wanted.

Rule 1: no input or output: whoever walks hands in each document when it is asked for, or says that it has none.
Rule 2: of an index, platforms choose among its children; a child that attests one of the chosen (BuildKit's, told by
        annotations, image-spec's platform `unknown/unknown`) goes with it. Where no child fits, all of them are wanted.
Rule 3: what is left out is said: an index without some of its children is served as it is, and never changed.
Rule 4: each document is looked at once, and how many there may be below one root is bounded (threats T44).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from iarproxy.errors import DigestInvalid, ManifestInvalid
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import Child, Manifest, Platform

MAX_DOCUMENTS = 100_000  # of one closure
_MAX_DEPTH = 8
_ATTESTS = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class Root:
    """Where a walk starts; `platforms`: of indexes, only these; empty: all."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...] = ()


@dataclass(slots=True)
class Closure:
    """What was found.

    Attributes:
        documents: manifests and indexes that were there, by digest.
        blobs: configs and layers, by digest; those that may be had elsewhere only (`urls`) are in `foreign` instead.
        omitted: children that no wanted platform needs.
        absent: documents that were asked for and not to be had.
    """

    documents: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    foreign: dict[Digest, Descriptor] = field(default_factory=dict)
    omitted: dict[Digest, Descriptor] = field(default_factory=dict)
    absent: dict[Digest, Descriptor] = field(default_factory=dict)

    def learn(self, manifest: Manifest) -> None:
        """Count a document and the blobs that it names."""
        self.documents[manifest.descriptor.digest] = manifest.descriptor
        for blob in manifest.blobs:
            kept = self.foreign if blob.digest in manifest.foreign else self.blobs
            kept[blob.digest] = blob

    @property
    def contents(self) -> dict[Digest, int]:
        """Everything that has to be held, foreign blobs apart, with the sizes in bytes."""
        return {each.digest: each.size for each in (*self.documents.values(), *self.blobs.values())}


def chosen_children(manifest: Manifest, platforms: Sequence[Platform]) -> tuple[Child, ...]:
    """The children of an index that a site with these platforms needs (rule 2)."""
    fitting = {
        child.descriptor.digest
        for child in manifest.children
        if child.platform and any(map(child.platform.serves, platforms))
    }
    if not fitting:
        return manifest.children
    fitting |= {digest for digest, attested in _attestations(manifest.raw).items() if attested in fitting}
    return tuple(child for child in manifest.children if child.descriptor.digest in fitting)


def _attestations(raw: bytes) -> dict[Digest, Digest]:
    """Of an index that was parsed before: which child attests which."""
    found: dict[Digest, Digest] = {}
    document: dict[str, Any] = orjson.loads(raw)
    for each in document.get("manifests") or ():
        annotations = each.get("annotations")
        attested = annotations.get(_ATTESTS) if isinstance(annotations, dict) else None
        if isinstance(attested, str):
            try:
                found[Digest.parse(each["digest"])] = Digest.parse(attested)
            except DigestInvalid:
                continue
    return found


def closure(roots: Iterable[Root]) -> Generator[Descriptor, Manifest | None, Closure]:
    """Walk down from `roots`: yields each document that is needed, is sent what it is (None: not to be had), and
    returns what was found. `walk` drives it where documents are at hand.

    Raises:
        ManifestInvalid: there are more documents, or deeper ones, than anything sane has.
    """
    found = Closure()
    ahead = deque((root.descriptor, root.platforms, 0) for root in roots)
    seen: set[tuple[Digest, tuple[Platform, ...]]] = set()
    while ahead:
        descriptor, platforms, depth = ahead.popleft()
        if (descriptor.digest, platforms) in seen:
            continue
        seen.add((descriptor.digest, platforms))
        if len(seen) > MAX_DOCUMENTS or depth > _MAX_DEPTH:
            raise ManifestInvalid(f"{descriptor.digest} is one of over {MAX_DOCUMENTS} documents, or {depth} deep")
        manifest = yield descriptor
        if manifest is None:
            found.absent[descriptor.digest] = descriptor
            continue
        found.learn(manifest)
        chosen = chosen_children(manifest, platforms)
        ahead.extend((child.descriptor, platforms, depth + 1) for child in chosen)
        kept = {child.descriptor.digest for child in chosen}
        found.omitted.update(
            (child.descriptor.digest, child.descriptor)
            for child in manifest.children
            if child.descriptor.digest not in kept
        )
    for digest in (*found.documents, *found.absent):
        found.omitted.pop(digest, None)
    return found


async def walk(roots: Iterable[Root], load: Callable[[Descriptor], Awaitable[Manifest | None]]) -> Closure:
    """The closure of `roots`, each document as `load` has it.

    Raises:
        ManifestInvalid: as `closure`; else what `load` raises.
    """
    steps = closure(roots)
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(await load(wanted))
    except StopIteration as end:
        found: Closure = end.value
        return found
