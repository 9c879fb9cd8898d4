"""What a name of a set stands for: its pin, which is made where there is none, as a client's pull would.

Rule 1: what may cost a request asks for leave first: the last of a quota is for clients.
Rule 2: a tag that the set locks to a digest is never pinned to upstream's word. Another pin on it is refused here: only
        a person moves a pin.
Rule 3: content without a name on disk is not resolved: a record of it would be a promise that a crash breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from iarproxy.errors import Denied, Malformed, StoreFull
from iarproxy.ledger import Change, Ledger
from iarproxy.mirror.serving.answers import ByDigest, Followed, ManifestAnswer, TagList
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.listing import Listings
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.mirror.serving.refusing import insist_on_image
from iarproxy.mirror.sync.values import Asked
from iarproxy.oci import Descriptor, DigestReference, Repository, TagReference
from iarproxy.oci.lock import Locked
from iarproxy.store import Store
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.environments import FIRST_FETCHES
from iarproxy.upstream import Purpose, Upstreams


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name stands for.

    Attributes:
        new: the tag had no pin before.
        change: the tag is locked and has no pin: this one has to be made.
        remark: what people should know of it; empty: nothing.
    """

    asked: Asked
    descriptor: Descriptor
    new: bool = False
    change: Change | None = None
    remark: str = ""


class Resolving:
    """Resolves the names of the default environment."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
        manifests: Manifests,
        documents: Documents,
        listings: Listings,
        rules: Sequence[TagRule],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._upstreams = upstreams
        self._manifests = manifests
        self._documents = documents
        self._listings = listings
        self._rules = tuple(rules)

    async def resolve(self, asked: Asked) -> Resolved:
        """What the name stands for; its manifest is verified and held, and the tag pinned but for `change`.

        Raises:
            Refused: there is no such content, or policy, the set or a pin is against it.
            Unavailable: nobody knows now.
        """
        match asked.reference:
            case DigestReference():
                return Resolved(asked, await self._by_digest(asked.reference))
            case TagReference() if asked.locked is not None:
                return await self._locked(asked, asked.reference, asked.locked)
            case TagReference():
                return await self._tag(asked, asked.reference)
            case _:
                assert_never(asked.reference)

    async def tags(self, repository: Repository, *, whole: bool = False) -> TagList:
        """The tags of a repository, as `Listings.tags` has them for the default environment."""
        await self._upstreams[repository.registry].require(Purpose.BACKGROUND)
        return await self._listings.tags(repository, self._ledger, whole=whole)

    async def _tag(self, asked: Asked, reference: TagReference) -> Resolved:
        upstream = self._upstreams[reference.repository.registry]
        pin = await self._ledger.pin_of(reference)
        if pin is None or not self._documents.is_held(reference.repository, pin.descriptor.digest):
            await upstream.require(Purpose.BACKGROUND)
        answer = await self._manifests.answer(reference.repository, reference.tag, Purpose.BACKGROUND)
        insist_on_image(reference, answer)
        self._insist_on_disk(answer.descriptor)
        stands = answer.standing
        if not isinstance(stands, Followed):
            return Resolved(asked, answer.descriptor, new=pin is None)
        stale = f"upstream did not answer for it; it is what it was at {stands.since:%Y-%m-%d %H:%M:%SZ}"
        return Resolved(asked, answer.descriptor, remark=f"{reference}: {stale}" if stands.stale else "")

    async def _by_digest(self, reference: DigestReference) -> Descriptor:
        manifest = await self._documents.by_digest(reference, Purpose.BACKGROUND)
        self._insist_on_disk(manifest.descriptor)
        return manifest.descriptor

    async def _locked(self, asked: Asked, reference: TagReference, locked: Locked) -> Resolved:
        rule = FIRST_FETCHES.rule_for(reference, self._rules)
        if rule.mode is not Mode.PIN:
            raise Denied(f"it is locked, and the tag rule {rule.match.text!r} says {rule.mode}; change one of them")
        pin = await self._ledger.pin_of(reference)
        if pin is not None and pin.descriptor.digest != locked.digest:
            raise Denied(
                f"it is pinned to {pin.descriptor.digest}, and {' and '.join(asked.why)} want {locked.digest};"
                f" `iarproxy pins repin {reference}`, or correct the file",
                "locked",
            )
        if pin is not None:
            return await self._tag(asked, reference)
        return await self._to_pin(asked, reference, locked)

    async def _to_pin(self, asked: Asked, reference: TagReference, locked: Locked) -> Resolved:
        """A locked tag without a pin: its content is held, the pin is for the caller to make."""
        repository = reference.repository
        manifest = await self._documents.by_digest(DigestReference(repository, locked.digest), Purpose.BACKGROUND)
        found = manifest.descriptor
        if locked.contradicts(found):
            said, true = f"{locked.media_type} of {locked.size} bytes", f"{found.media_type} of {found.size}"
            raise Malformed(f"the lock says that it is {said}, and it is {true}")
        insist_on_image(reference, ManifestAnswer(repository, found, manifest.raw, ByDigest()))
        self._insist_on_disk(found)
        source = self._upstreams[repository.registry].source
        change = Change(FIRST_FETCHES.name, reference, None, found, source, {"file": " and ".join(asked.why)})
        return Resolved(asked, found, new=True, change=change)

    def _insist_on_disk(self, descriptor: Descriptor) -> None:
        if self._store.find(descriptor.digest) is None:
            raise StoreFull(f"{descriptor.digest} cannot be kept: the disk is full")
