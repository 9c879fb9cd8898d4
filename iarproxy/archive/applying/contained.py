"""Whether all that the names of a bundle lead to is held, and which repository may hand out what of it.

Rule 1: the same walk as in sync and create (`oci.closure`), over the documents in the store, each hashed as it is read.
Rule 2: what an attachment leads to is what the manifest says of it: people read who signed what there.
Rule 3: what a name leaves out of its indexes is what the manifest declares, and never what it stands for; everything
        else is there, and the manifest names it, or the bundle is `incomplete`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, Reference, Repository, TagReference, parse_manifest
from iarproxy.oci.bundle_manifest import BundledAttachment, BundleManifest
from iarproxy.oci.closure import Closure, Root, walk
from iarproxy.store import Store

_REMEMBERED: Final = 2_000  # documents
_SPELLED: Final = 20


@dataclass(slots=True)
class Contained:
    """What the names of a bundle lead to, as it is found in a store.

    Attributes:
        links: of each repository what it hands out.
        below: of each name and attachment everything that it leads to.
    """

    store: Store
    manifest: BundleManifest
    links: dict[Repository, set[Digest]] = field(default_factory=dict)
    below: dict[Reference, frozenset[Digest]] = field(default_factory=dict)
    _listed: frozenset[Digest] = frozenset()
    _walked: dict[tuple[Digest, tuple[Digest, ...]], frozenset[Digest]] = field(default_factory=dict)
    _documents: dict[Digest, Manifest] = field(default_factory=dict)

    async def look(self) -> None:
        """Walk all of it.

        Raises:
            BundleRefused: `incomplete`: something is not held, or not in the manifest.
            StoreUnavailable: the disk fails.
        """
        manifest = self.manifest
        self._listed = frozenset((*(each.digest for each in manifest.provides), *manifest.requires))
        for name in manifest.names:
            await self._note(name.reference, name.descriptor, name.omitted)
        for attachment in manifest.attachments:
            await self._note(attachment.reference, attachment.descriptor, ())
            await self._insist_on_edges(attachment)

    async def _note(self, reference: Reference, root: Descriptor, omitted: Sequence[Digest]) -> None:
        key = root.digest, tuple(omitted)
        if key not in self._walked:
            self._walked[key] = await self._below(reference, root, frozenset(omitted))
        self.below[reference] = self._walked[key]
        self.links.setdefault(reference.repository, set()).update(self._walked[key])

    async def _insist_on_edges(self, attachment: BundledAttachment) -> None:
        document = await self._document(attachment.reference, attachment.descriptor)
        try:
            if document is not None:
                attachment.insist(document)
        except Malformed as error:
            raise BundleRefused("incomplete", str(error)) from error

    async def _below(self, reference: Reference, root: Descriptor, omitted: frozenset[Digest]) -> frozenset[Digest]:
        async def load(descriptor: Descriptor) -> Manifest | None:
            return None if descriptor.digest in omitted else await self._document(reference, descriptor)

        try:
            found = await walk([Root(root)], load)
        except Malformed as error:
            raise BundleRefused("incomplete", f"{reference} leads to what is no manifest: {error}") from error
        self._insist(reference, found, omitted - {root.digest})
        return frozenset(found.contents)

    def _insist(self, reference: Reference, found: Closure, omitted: frozenset[Digest]) -> None:
        missing = sorted({*found.absent} - omitted)
        if missing:
            raise BundleRefused("incomplete", f"{reference} needs what is not held: {_spelled(missing)}")
        unlisted = sorted({*found.contents} - self._listed)
        if unlisted:
            raise BundleRefused("incomplete", f"{reference} needs what bundle.json does not list: {_spelled(unlisted)}")

    async def _document(self, reference: Reference, descriptor: Descriptor) -> Manifest | None:
        known = self._documents.get(descriptor.digest)
        if known is not None and known.descriptor == descriptor:
            return known
        raw = await self.store.read(descriptor.digest, MAX_MANIFEST)
        if raw is None:
            return None
        manifest = parse_manifest(raw, descriptor.media_type, descriptor.digest)
        if manifest.descriptor != descriptor:
            raise BundleRefused(
                "incomplete",
                f"{reference} names {descriptor.digest} as {descriptor.media_type} of {descriptor.size} bytes, and it"
                f" is {manifest.descriptor.media_type} of {manifest.descriptor.size}",
            )
        if len(self._documents) >= _REMEMBERED:
            del self._documents[next(iter(self._documents))]
        self._documents[descriptor.digest] = manifest
        return manifest


def leading_to(contained: Mapping[Reference, frozenset[Digest]], digests: Mapping[Digest, object]) -> list[Reference]:
    """The names that lead to one of these."""
    return [reference for reference, below in contained.items() if not below.isdisjoint(digests)]


def linked(
    contained: Contained, followed: Iterable[tuple[TagReference, Descriptor]]
) -> dict[Repository, frozenset[Digest]]:
    """What repositories hand out: what their names lead to, and the documents of followed tags."""
    found = {repository: set(digests) for repository, digests in contained.links.items()}
    for reference, descriptor in followed:
        found.setdefault(reference.repository, set()).add(descriptor.digest)
    return {repository: frozenset(digests) for repository, digests in found.items()}


def _spelled(digests: Sequence[Digest]) -> str:
    more = f" and {len(digests) - _SPELLED} more" if len(digests) > _SPELLED else ""
    return ", ".join(map(str, digests[:_SPELLED])) + more
