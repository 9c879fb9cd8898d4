"""What attachment tags stand for at a site once a bundle brought its own: they grow, as a sync has them grow.

Rule 1: a bundle takes nothing away that is attached here: it may be one of another set, of an earlier sync, or applied
        once more. A list of referrers has all that either names; a recall is what takes something away.
Rule 2: a `.sig`, `.att` or `.sbom` tag is no list: the bundle's counts, unless ours has all of that, and more.
Rule 3: what is listed here and not held, as of a site that was online, goes: nobody offline could ask for it.
Rule 4: where nothing is known, what the bundle has counts byte for byte, and so where it has all that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from iarproxy.errors import Malformed
from iarproxy.ledger import Ledger
from iarproxy.oci import MAX_MANIFEST, Descriptor, Digest, Manifest, Tag, TagReference, parse_manifest
from iarproxy.oci.referrer_index import joined
from iarproxy.store import Store
from iarproxy.together import together

_AT_ONCE: Final = 200  # tags: the ledger serves together what waits together
_LISTS: Final = 8  # tags whose lists are read, each of up to `MAX_MANIFEST`, and joined

Followed: TypeAlias = tuple[TagReference, Descriptor]
Known: TypeAlias = Mapping[TagReference, Descriptor | None]


@dataclass(frozen=True, slots=True)
class Growing:
    """The use case over one store and its ledger."""

    store: Store
    ledger: Ledger

    async def known(self, brought: Iterable[Followed]) -> Known:
        """What the followed tags that a bundle brings stand for here now.

        Raises:
            LedgerUnavailable: not now.
        """
        return dict(await together((reference for reference, _ in brought), self._known, at_a_time=_AT_ONCE))

    async def _known(self, reference: TagReference) -> tuple[TagReference, Descriptor | None]:
        found = await self.ledger.followed(reference)
        return reference, None if found is None else found[0]

    async def grown(self, brought: Sequence[Followed], known: Known) -> tuple[Followed, ...]:
        """The followed tags that a bundle brings, attachments with what is `known` here; all of it is in the store.

        Raises:
            StoreFull, StoreUnavailable: not now.
        """
        return tuple(await together(brought, lambda each: self._grown(each, known[each[0]]), at_a_time=_LISTS))

    async def _grown(self, brought: Followed, known: Descriptor | None) -> Followed:
        reference, descriptor = brought
        if known is None or known.digest == descriptor.digest or not reference.tag.is_attachment:
            return brought
        ours, theirs = await self._document(known), await self._document(descriptor)
        if ours is None or theirs is None:
            return brought
        denied = self.ledger.recalls.known
        held = {each for each in _parts(ours) if each not in denied and self.store.find(each) is not None}
        if held <= _parts(theirs):
            return brought
        if _parts(theirs) <= held == _parts(ours):
            return reference, ours.descriptor
        return reference, await self._joined(reference, theirs, ours, held)

    async def _document(self, descriptor: Descriptor) -> Manifest | None:
        raw = await self.store.read(descriptor.digest, MAX_MANIFEST)
        try:
            return None if raw is None else parse_manifest(raw, descriptor.media_type, descriptor.digest)
        except Malformed:
            return None

    async def _joined(
        self, reference: TagReference, theirs: Manifest, ours: Manifest, held: AbstractSet[Digest]
    ) -> Descriptor:
        """One list of everything, kept; theirs, where it is none (rule 2), or too long for one."""
        subject = reference.tag.subject
        if subject is None or reference.tag != Tag.attached_to(subject):
            return theirs.descriptor
        try:
            raw = joined([theirs.raw], _entries(ours, held))
            found = parse_manifest(raw).descriptor
        except Malformed:
            return theirs.descriptor
        await self.store.put(found.digest, raw)
        return found


def attached(known: Known) -> dict[TagReference, Digest | None]:
    """Of what is known the attachments: they must be what they were when the lists were joined."""
    return {
        reference: None if descriptor is None else descriptor.digest
        for reference, descriptor in known.items()
        if reference.tag.is_attachment
    }


def _entries(index: Manifest, wanted: AbstractSet[Digest]) -> list[dict[str, Any]]:
    """How an index lists those of its children, as it is written."""
    listed: list[dict[str, Any]] = orjson.loads(index.raw).get("manifests") or []
    return [each for each, child in zip(listed, index.children, strict=True) if child.descriptor.digest in wanted]


def _parts(manifest: Manifest) -> set[Digest]:
    return {child.descriptor.digest for child in manifest.children} or {each.digest for each in manifest.layers}
