"""Lists: the tags of a repository, and the manifests that refer to a digest.

Rule 1: tags come live from upstream, together with the pinned ones: a tag that vanished upstream is still served. An
        attachment tag is listed where upstream lists it, for some are made here only, to keep what its API said.
Rule 2: referrers are asked of upstream's API, else read from the fallback tag (distribution-spec v1.1); what upstream
        said last is kept, so that a verifier finds signatures while upstream is away. No word at all means an empty
        list, on which every verifier fails closed; an error would fail pulls of what we hold.
Rule 3: what an API said is true for as long as an attachment tag would be followed: some runtimes ask at each pull.
        After that its news is waited for only shortly where something is held (`patience`).
        Offline all lists are what was brought: nobody has news, so there is nothing to wait for or to warn of.
Rule 4: what iarproxy itself attached is listed after upstream's, whatever upstream says or does, while it is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import orjson

from iarproxy.errors import LedgerUnavailable, ManifestInvalid, Refused, Unavailable
from iarproxy.ledger import Ledger, PinSet
from iarproxy.ledger.attached import AttachedManifest
from iarproxy.mirror.serving.answers import ReferrersAnswer, TagList
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.mirror.serving.patience import Asking, Wait
from iarproxy.mirror.spelling import describe
from iarproxy.oci import Digest, Repository, Tag, TagReference, parse_manifest
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.store import Store
from iarproxy.trust import TagRule, rule_for
from iarproxy.upstream import Upstreams

_REMEMBERED = 10_000
_FOR_TAGS = 10.0  # seconds that a list waits for upstream's part of it
EMPTY = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})


class Listings:
    """Tags and referrers."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
        manifests: Manifests,
        documents: Documents,
        rules: Sequence[TagRule],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._upstreams = upstreams
        self._manifests = manifests
        self._documents = documents
        self._rules = rules
        self._now = now
        self._said: dict[TagReference, tuple[Digest | None, datetime]] = {}  # by an API, and when; None: nothing
        self._asking: Asking[bytes] = Asking()
        ledger.on_change(self._forget)

    def _forget(self, changed: TagReference | None) -> None:
        """Ask the ledger anew: a bundle that some process applied may have brought what no API knew of."""
        if changed is None:
            self._said.clear()

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._asking.close()

    async def tags(self, repository: Repository, pins: PinSet, *, whole: bool = False) -> TagList:
        """All tags that upstream has or that `pins` hold, sorted by their characters' code points.

        `whole`: what we hold alone is no answer, so upstream's part is waited for.

        Raises:
            UnknownName, Denied: upstream has no such repository, and neither have we, or that is no answer.
            Unavailable: upstream does not answer, and we hold no tag of it, or that is no answer.
        """
        ours = await pins.tags_of(repository)
        if ours and self._upstreams.is_offline:
            return TagList(repository, tuple(ours), complete=True)
        complete, alone = True, bool(ours) and not whole
        try:
            async with asyncio.timeout(_FOR_TAGS if alone else None):
                theirs = await self._upstreams[repository.registry].tags(repository.name)
        except (Unavailable, Refused, TimeoutError):
            if not alone:
                raise
            theirs, complete = [], False
        if complete:
            ours = [tag for tag in ours if not Tag(tag).is_attachment]
        return TagList(repository, tuple(sorted({*theirs, *ours})), complete)

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_types: Collection[str]
    ) -> ReferrersAnswer:
        """The index of manifests whose subject is `digest`; with `artifact_types` only those of one of them."""
        upstreams = await self._index(repository, digest)
        try:
            raw = await self.completed(repository, digest, upstreams)
        except LedgerUnavailable:  # an error would fail pulls (rule 2)
            raw = await self._without_recalled(upstreams)
        if not artifact_types:
            return ReferrersAnswer(raw, filtered=False)
        index: dict[str, Any] = orjson.loads(raw)
        index["manifests"] = [each for each in index["manifests"] if each.get("artifactType") in artifact_types]
        return ReferrersAnswer(orjson.dumps(index), filtered=True)

    async def _without_recalled(self, raw: bytes) -> bytes:
        """The index without what is denied; the very bytes where all of it may be listed."""
        if self._documents.recalling.is_idle:
            return raw
        index: dict[str, Any] = orjson.loads(raw)
        listed = [Digest.parse(each["digest"]) for each in index["manifests"]]
        clear = await self._documents.recalling.without_denied(listed)
        if clear.issuperset(listed):
            return raw
        kept = [each for each, digest in zip(index["manifests"], listed, strict=True) if digest in clear]
        return orjson.dumps({**index, "manifests": kept})

    async def completed(self, repository: Repository, digest: Digest, raw: bytes) -> bytes:
        """Upstream's list of referrers as it is answered: with ours at its end, without what is recalled.

        Raises:
            LedgerUnavailable: it cannot be told what is ours.
        """
        attached = await self._ledger.attached.of(repository, digest)
        held = [each for each in attached if self._store.find(each.descriptor.digest) is not None]
        return await self._without_recalled(_joined(raw, held))

    async def _index(self, repository: Repository, digest: Digest) -> bytes:
        fallback = TagReference(repository, Tag.attached_to(digest))
        fresh = await self._fresh(fallback)
        if fresh is not None:
            return fresh
        known = await self._known(fallback)
        if self._upstreams.is_offline:
            return known or EMPTY
        wait = Wait.NEWS if known is not None else self._wait_for_first(repository, digest)
        try:
            return await self._asking.once(fallback, lambda: self._ask(fallback, digest), wait)
        except (Unavailable, Refused):
            return known or EMPTY

    def _wait_for_first(self, repository: Repository, digest: Digest) -> Wait:
        return Wait.FIRST if self._documents.is_held(repository, digest) else Wait.ALL

    async def _ask(self, fallback: TagReference, digest: Digest) -> bytes:
        raw = await self._upstreams[fallback.repository.registry].referrers(fallback.repository.name, digest)
        return await (self._from_tag(fallback) if raw is None else self._keep(fallback, raw))

    async def _fresh(self, fallback: TagReference) -> bytes | None:
        """What the API said a moment ago; None: it has to be asked."""
        digest, moment = self._said.get(fallback, (None, None))
        if moment is None or abs(self._now() - moment) >= rule_for(fallback, self._rules).ttl:
            return None
        if digest is None:
            return EMPTY
        held = await self._documents.held(digest)
        return None if held is None else held.raw

    def _note(self, fallback: TagReference, digest: Digest | None) -> None:
        self._said[fallback] = digest, self._now()
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]

    async def _from_tag(self, fallback: TagReference) -> bytes:
        if not fallback.tag.is_attachment:  # of a sha512 digest: any other tag than an attachment would be pinned
            return EMPTY
        try:
            return _as_index((await self._manifests.answer(fallback.repository, fallback.tag)).raw)
        except (Refused, Unavailable):
            return EMPTY

    async def _keep(self, fallback: TagReference, raw: bytes) -> bytes:
        """Remember what the API said under the fallback tag, where an offline answer will look for it."""
        index = _as_index(raw)
        if index == EMPTY:
            self._note(fallback, None)
            return index
        descriptor = parse_manifest(raw, OCI_INDEX).descriptor
        try:
            await self._store.put(descriptor.digest, raw)
            await self._ledger.set_followed(fallback, descriptor)
            self._note(fallback, descriptor.digest)
        except Unavailable:
            pass  # the answer is right whether or not it can be kept
        return index

    async def _known(self, fallback: TagReference) -> bytes | None:
        """What upstream said last; None: nothing, or nothing that is held."""
        if fallback in self._said and self._said[fallback][0] is None:
            return EMPTY
        known = await self._ledger.followed(fallback)
        held = None if known is None else await self._documents.held(known[0].digest)
        return None if held is None else _as_index(held.raw)


def _joined(raw: bytes, ours: Sequence[AttachedManifest]) -> bytes:
    """The index with ours at its end; the very bytes where there are none."""
    if not ours:
        return raw
    index: dict[str, Any] = orjson.loads(raw)
    listed = {each.get("digest") for each in index["manifests"]}
    index["manifests"] += [_entry(each) for each in ours if str(each.descriptor.digest) not in listed]
    return orjson.dumps(index)


def _entry(attached: AttachedManifest) -> dict[str, Any]:
    described = describe(attached.descriptor)
    return {**described, "artifactType": attached.artifact_type, "annotations": attached.annotations}


def _as_index(raw: bytes) -> bytes:
    """The bytes if they are an image index; else the empty one (a fallback tag may hold anything)."""
    try:
        manifest = parse_manifest(raw)
    except ManifestInvalid:
        return EMPTY
    return raw if manifest.descriptor.media_type == OCI_INDEX and manifest.children else EMPTY
