"""The lock of what a cluster runs, judged from what it tells and from our pins.

Rule 1: what was observed decides: the digest of `imageID`, else the one that the manifest's text says, else our pin.
Rule 2: a runtime may tell the digest of the platform that it runs where the tag is an index: where our pin's index
        lists that manifest, the pin it is.
Rule 3: a tag under which several contents run, or of which nobody knows the digest, is unresolved; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from iarproxy.oci.cluster import Running
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.lock import NO_TAG, Lock, Locked, Skipped, locked
from iarproxy.oci.reference import TagReference


@dataclass(frozen=True, slots=True)
class Pinned:
    """Our pin of a tag, and the manifests that it lists where it is an index."""

    descriptor: Descriptor
    children: frozenset[Digest] = frozenset()

    def covers(self, digest: Digest) -> bool:
        """Whether who runs `digest` runs what is pinned."""
        return digest == self.descriptor.digest or digest in self.children


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A tag that the cluster uses, and why it has no digest here."""

    reference: TagReference
    reason: str
    place: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A tag under which something else runs than is pinned."""

    reference: TagReference
    pinned: Digest
    observed: Digest
    place: str


@dataclass(frozen=True, slots=True)
class ClusterLock:
    """The lock, what has no place in it, and where cluster and pins disagree."""

    lock: Lock
    unresolved: tuple[Unresolved, ...]
    disagreements: tuple[Disagreement, ...]


def references_of(images: Iterable[Running]) -> list[TagReference]:
    """The tags that are used, each once."""
    return sorted({each.named.pulled for each in images if _has_tag(each)})


def lock_of(images: Iterable[Running], pins: Mapping[TagReference, Pinned]) -> ClusterLock:
    """Judge what each tag stands for in the cluster."""
    uses: dict[TagReference, list[Running]] = {}
    skipped: list[Skipped] = []
    for each in images:
        if _has_tag(each):
            uses.setdefault(each.named.pulled, []).append(each)
        else:
            text = f"{each.named.repository}@{each.named.digest}"
            skipped.append(Skipped.of(each.line, text, f"{NO_TAG} ({each.file}: {each.where})"))
    judged = [_judge(reference, uses[reference], pins.get(reference)) for reference in sorted(uses)]
    return ClusterLock(
        locked([each for each in judged if isinstance(each, Locked)], skipped),
        tuple(each for each in judged if isinstance(each, Unresolved)),
        tuple(each for reference in sorted(pins) for each in _disagree(reference, uses, pins[reference])),
    )


def _has_tag(image: Running) -> bool:
    return image.named.tag is not None or image.named.digest is None


def _judge(reference: TagReference, uses: list[Running], pin: Pinned | None) -> Locked | Unresolved:
    observed = {each.observed: None for each in uses if each.observed}
    written = {each.named.digest: None for each in uses if each.named.digest}
    said = list(observed or written)
    if pin is not None and all(pin.covers(each) for each in said):
        return Locked(reference, pin.descriptor.digest, pin.descriptor.media_type, pin.descriptor.size)
    if len(said) == 1:
        return Locked(reference, said[0])
    if said:
        return Unresolved(reference, f"several contents: {', '.join(map(str, said))}", uses[0].place)
    running = next((each.running for each in uses if each.running), "")
    told = f"its imageID {running[:100]!r} names no manifest" if running else "nothing tells its digest"
    return Unresolved(reference, f"{told}, and it has no pin here", uses[0].place)


def _disagree(
    reference: TagReference, uses: Mapping[TagReference, list[Running]], pin: Pinned
) -> Iterable[Disagreement]:
    seen: dict[Digest, Running] = {}
    for each in uses.get(reference, ()):
        digest = each.observed or each.named.digest
        if digest is not None and not pin.covers(digest):
            seen.setdefault(digest, each)
    return [Disagreement(reference, pin.descriptor.digest, digest, each.place) for digest, each in seen.items()]
