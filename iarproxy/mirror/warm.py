"""Warming the cache: a reference with everything that a client would pull for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iarproxy.errors import UnknownManifest
from iarproxy.mirror.serving.answers import ManifestAnswer
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import Holding
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.oci import Descriptor, DigestReference, Platform, Reference, Repository, TagReference
from iarproxy.together import together
from iarproxy.upstream import Purpose

_PARALLEL = 4


class Progress(Protocol):
    """Whoever shows how far a pull is."""

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        """These blobs will be fetched."""
        ...

    def advanced(self, blob: Descriptor, done: int) -> None:
        """`done` bytes of the blob are at hand."""
        ...

    def finished(self, blob: Descriptor) -> None:
        """The blob is verified; its commit is under way or done."""
        ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: how many blobs had to be fetched, and their bytes."""

    reference: Reference
    answer: ManifestAnswer
    fetched: int
    bytes: int


class Warm:
    """Pulls references into the store."""

    def __init__(self, manifests: Manifests, documents: Documents, blobs: Blobs, holding: Holding) -> None:
        self._manifests = manifests
        self._documents = documents
        self._blobs = blobs
        self._holding = holding

    async def pull(self, reference: Reference, platforms: Sequence[Platform], progress: Progress) -> Pulled:
        """Resolve the reference as a client would (so that a tag is pinned), then fetch what is missing.

        Args:
            reference: what to pull.
            platforms: of an index, only these; empty: all of it.
            progress: is told what is planned and how far it is.

        Raises:
            Refused, Unavailable: as for a client; what was fetched until then stays.
        """
        wanted = reference.tag if isinstance(reference, TagReference) else reference.digest
        answer = await self._manifests.answer(reference.repository, wanted, Purpose.PERSON)
        await self._insist(reference.repository, answer, platforms)
        missing = await self._holding.missing(reference.repository, answer.descriptor.digest, platforms)
        progress.planned(missing)

        async def fetch(blob: Descriptor) -> bool:
            fetched = await self._blobs.hold(reference.repository, blob, _advance(progress, blob))
            progress.finished(blob)
            return fetched

        fetched = await together(missing, fetch, at_a_time=_PARALLEL)
        return Pulled(reference, answer, sum(fetched), sum(blob.size for blob in missing))

    async def _insist(self, repository: Repository, answer: ManifestAnswer, platforms: Sequence[Platform]) -> None:
        """Refuse platforms that an index lacks: a person who names one does not mean all of them."""
        manifest = await self._documents.by_digest(DigestReference(repository, answer.descriptor.digest))
        offered = [child.platform for child in manifest.children if child.platform]
        lacking = [str(each) for each in platforms if offered and not any(has.serves(each) for has in offered)]
        if lacking:
            known = ", ".join(sorted({str(each) for each in offered}))
            raise UnknownManifest(f"{repository} has nothing for {', '.join(lacking)} there; it has {known}")


def _advance(progress: Progress, blob: Descriptor) -> Callable[[int], None]:
    return lambda done: progress.advanced(blob, done)
