"""What is attached to content: signatures, attestations and SBOMs, found and fetched for whoever carries it elsewhere.

Rule 1: asking fails closed. Upstream's "there is none" (404, or a list without entries) means none; any other answer
        that is no usable list or manifest makes it lacking, and is never read as an empty list.
Rule 2: upstream is asked afresh, the primary endpoint alone for lists: a copy may lag behind. Its referrers API is
        asked, where it has none the fallback tag (distribution-spec v1.1); and the tags `.sig`, `.att`, `.sbom`.
Rule 3: of everything below a root that is wanted, and of what is found, recursively; how much and how deep is bounded,
        and what lies behind a bound is lacking.
Rule 4: attachments are growing sets. What was attached and is held stays so where upstream has none any more; so a
        signature is not lost with the image that vanished.
Rule 5: an entry of a list that upstream no longer has, and what a person recalled, is left out and said: no list that
        is kept names what is not to be had. A list with the same entries as the one that is held keeps its bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import orjson

from iarproxy.errors import (
    IarproxyError,
    LedgerUnavailable,
    ManifestInvalid,
    Recalled,
    Refused,
    StoreUnavailable,
    Unavailable,
    UnknownBlob,
    UnknownManifest,
    UnknownName,
    Unsupported,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.ledger import Ledger
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.listing import EMPTY, Listings
from iarproxy.oci import Descriptor, Digest, DigestReference, Manifest, Repository, Tag, TagReference, parse_manifest
from iarproxy.oci.closure import Root, walk
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.oci.set_record import Attachment, Lacking
from iarproxy.together import together
from iarproxy.upstream import FetchedManifest, Purpose, Upstreams

T = TypeVar("T")

SUFFIXES = (".sig", ".att", ".sbom")  # cosign's
MAX_SUBJECTS = 2_000  # below one root; each costs some requests
MAX_DEPTH = 6  # signatures of SBOMs of attestations of ...
_PARALLEL = 4  # questions under way
_NONE = (UnknownManifest, UnknownName, UnknownBlob)


@dataclass(slots=True)
class Attached:
    """What is attached to a root and to everything below it. Manifests are held then; blobs are not fetched.

    Attributes:
        attachments: their closure (`oci.closure`, all platforms) is what has to be held of them.
        lacking: what could not be learned or had, and why.
        left_out: what upstream lists and no longer has, and what is recalled; nobody else gets it either.
        subjects: what was asked for: everything below the root, and what was found.
        refused: of what is lacking, that which asking again will not bring.
        again: why upstream did not answer, where that is worth another try; of several reasons the longest to last.
    """

    attachments: list[Attachment] = field(default_factory=list)
    lacking: list[Lacking] = field(default_factory=list)
    left_out: list[Lacking] = field(default_factory=list)
    subjects: set[Digest] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    again: UpstreamUnavailable | None = None
    _listed: int = 0

    def failed(self, what: str, error: IarproxyError) -> None:
        """Take note of something that is lacking, or that is to be had nowhere."""
        if isinstance(error, Recalled):
            self.left_out.append(Lacking(what, str(error)))
        elif all(each.what != what for each in self.lacking):
            self.lacking.append(Lacking(what, str(error)))
            self.refused |= {what} if isinstance(error, Refused) else set()
        if isinstance(error, UpstreamUnavailable) and (self.again is None or _lasts(error) > _lasts(self.again)):
            self.again = error

    def count(self, entries: int) -> None:
        """Take note that so many more manifests are listed.

        Raises:
            ManifestInvalid: they are too many by now.
        """
        self._listed += entries
        if self._listed > MAX_SUBJECTS:
            raise ManifestInvalid(f"more than {MAX_SUBJECTS} manifests are attached; they are not looked at")


class Attachments:
    """Finds what is attached."""

    def __init__(self, *, ledger: Ledger, upstreams: Upstreams, documents: Documents, listings: Listings) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._listings = listings
        self._gate = asyncio.Semaphore(_PARALLEL)

    async def of(self, repository: Repository, root: Root) -> Attached:
        """What is attached in `repository` to `root`, to what is below it for its platforms, and to what is attached.

        Raises:
            StoreUnavailable, LedgerUnavailable: what is found cannot be kept. All else is in `lacking`.
        """
        found, ahead = Attached(), [root]
        for _ in range(MAX_DEPTH):
            subjects = [each for each in await self._below(repository, ahead, found) if each not in found.subjects]
            if not subjects:
                return found
            found.subjects.update(subjects)
            if len(found.subjects) > MAX_SUBJECTS:
                break
            asked = await together(subjects, partial(self._attached_to, repository, found), at_a_time=_PARALLEL)
            ahead = [Root(each) for below in asked for each in below]
        if ahead:
            why = (
                f"there are over {MAX_SUBJECTS} manifests or {MAX_DEPTH} levels of attachments; not all were asked for"
            )
            found.failed(f"{repository}@{root.descriptor.digest}", Unsupported(why))
        return found

    async def _below(self, repository: Repository, roots: Iterable[Root], found: Attached) -> list[Digest]:
        """Everything that something may be attached to, each once."""

        async def load(descriptor: Descriptor) -> Manifest | None:
            what = f"{repository}@{descriptor.digest}"
            return await _noting(found, what, lambda: self._manifest(repository, descriptor.digest))

        closure = await _noting(found, str(repository), lambda: walk(roots, load))
        return [] if closure is None else list(closure.documents)

    async def _attached_to(self, repository: Repository, found: Attached, subject: Digest) -> list[Descriptor]:
        """The manifests that are attached to one subject."""
        what = f"referrers of {repository}@{subject}"
        below = await _noting(found, what, lambda: self._listed(repository, subject, found)) or []
        if subject.algorithm == "sha256":  # no tool has such tags for others
            tags = [TagReference(repository, Tag(f"{Tag.attached_to(subject)}{suffix}")) for suffix in SUFFIXES]

            async def clear(tag: TagReference) -> Manifest | None:
                return await _noting(found, str(tag), partial(self._clear, tag))

            tagged = await together(tags, clear, at_a_time=_PARALLEL)
            for tag, manifest in zip(tags, tagged, strict=True):
                if manifest is not None:
                    await self._keep(tag, manifest.descriptor, found)
                    below.append(manifest.descriptor)
        return below

    async def _keep(self, tag: TagReference, descriptor: Descriptor, found: Attached) -> None:
        await self._ledger.set_followed(tag, descriptor)
        found.attachments.append(Attachment(tag, descriptor))

    async def _listed(self, repository: Repository, subject: Digest, found: Attached) -> list[Descriptor]:
        """The referrers; their list is kept under the fallback tag."""
        fallback = TagReference(repository, Tag.attached_to(subject))
        known = await self._known(fallback)
        said = await self._said(fallback, subject) or (EMPTY if known is None else known.raw)
        joined = await self._listings.completed(repository, subject, said)
        children = [child.descriptor for child in parse_manifest(joined, OCI_INDEX).children]
        found.count(len(children))
        stays = await together(children, partial(self._stays, repository, found), at_a_time=_PARALLEL)
        referrers = [child for child, kept in zip(children, stays, strict=True) if kept]
        if not referrers:
            return []
        if not fallback.tag.is_attachment:
            raise Unsupported(f"lists of what is attached to {subject.algorithm} digests cannot be kept")
        raw = joined if all(stays) else _only(joined, referrers)
        if known is not None and _entries(known.raw) == _entries(raw):
            raw = known.raw
        index = await self._documents.admit(repository, FetchedManifest(raw, OCI_INDEX, None, {}))
        await self._keep(fallback, index.descriptor, found)
        return referrers

    async def _stays(self, repository: Repository, found: Attached, referrer: Descriptor) -> bool:
        """Whether an entry stays on the list (rule 5)."""
        what = f"{repository}@{referrer.digest}"
        try:
            await _noting(found, what, lambda: self._manifest(repository, referrer.digest), apart=(*_NONE, Recalled))
        except (*_NONE, Recalled) as error:
            found.left_out.append(Lacking(what, str(error)))
            return False
        return True

    async def _said(self, fallback: TagReference, subject: Digest) -> bytes | None:
        """The list that upstream has now; None: it has none, or nothing is on it."""
        repository = fallback.repository
        async with self._gate:
            raw = await self._upstreams[repository.registry].attached(repository.name, subject)
        if raw is None:
            manifest = await self._tagged(fallback) if fallback.tag.is_attachment else None
            # a fallback tag may hold anything: what is no index lists no referrers
            return manifest.raw if manifest and manifest.descriptor.media_type == OCI_INDEX else None
        return _list_in(raw, f"{repository.registry} sends no list of the referrers of {repository}@{subject}")

    async def _clear(self, tag: TagReference) -> Manifest | None:
        """As `_tagged`; what is recalled is refused."""
        manifest = await self._tagged(tag)
        return None if manifest is None else await self._manifest(tag.repository, manifest.descriptor.digest)

    async def _tagged(self, tag: TagReference) -> Manifest | None:
        """What the attachment tag is now, recalled or not; None: upstream has none, and we hold none."""
        repository, upstream = tag.repository, self._upstreams[tag.repository.registry]
        try:
            async with self._gate:
                digest = (await upstream.told(repository.name, tag.tag, Purpose.BACKGROUND)).digest
                if digest is None or not self._documents.is_held(repository, digest):
                    fetched = await upstream.manifest(repository.name, tag.tag, Purpose.BACKGROUND)
                    digest = (await self._documents.admit(repository, fetched)).descriptor.digest
        except _NONE:
            return await self._known(tag)
        return await self._documents.held(digest)

    async def _known(self, tag: TagReference) -> Manifest | None:
        """What was found last, if it is held."""
        known = await self._ledger.followed(tag)
        return None if known is None else await self._documents.held(known[0].digest)

    async def _manifest(self, repository: Repository, digest: Digest) -> Manifest:
        async with self._gate:
            return await self._documents.by_digest(DigestReference(repository, digest), Purpose.BACKGROUND)


def _lasts(error: UpstreamUnavailable) -> float:
    return -1.0 if error.retry_after is None else error.retry_after


async def _noting(
    found: Attached, what: str, act: Callable[[], Coroutine[Any, Any, T]], apart: tuple[type[Refused], ...] = ()
) -> T | None:
    """What `act` gives; None where it failed, which is noted, unless it is one of `apart`, or the failure is ours."""
    try:
        return await act()
    except (StoreUnavailable, LedgerUnavailable):
        raise
    except (Refused, Unavailable) as error:
        if isinstance(error, apart):
            raise
        found.failed(what, error)
        return None


def _list_in(raw: bytes, wrong: str) -> bytes | None:
    """The index that a referrers API answered; None: nothing is on it.

    Raises:
        UpstreamWrong: it is none, so that nobody knows what is attached.
    """
    try:
        manifest = parse_manifest(raw, OCI_INDEX)
    except ManifestInvalid as error:
        raise UpstreamWrong(f"{wrong}: {error}") from error
    if "manifests" not in orjson.loads(raw):
        raise UpstreamWrong(wrong)
    return raw if manifest.children else None


def _only(index: bytes, kept: Iterable[Descriptor]) -> bytes:
    """The index without the entries that are not kept."""
    digests = {str(each.digest) for each in kept}
    document: dict[str, Any] = orjson.loads(index)
    return orjson.dumps(
        {**document, "manifests": [each for each in document["manifests"] if each["digest"] in digests]}
    )


def _entries(index: bytes) -> list[bytes]:
    """What an index lists, in an order of its own."""
    return sorted(orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in orjson.loads(index)["manifests"])
