"""Recalled content is served to nobody: neither the digests that were recalled, nor what contains one.

Rule 1: while nothing is recalled, nothing is done but to see that. Otherwise what memory tells costs one look-up more.
Rule 2: what contains a recalled digest is denied too (`containing`). What was found is remembered until the recalls
        change; where a child of an index is not held, for `_BRIEF` only: it may come, to any worker, and contain one.
Rule 3: it fails closed: what cannot be looked through is not served, and says why.
Rule 4: bytes under way end where a recall meets them: those from upstream, and those of who follows their arrival. An
        answer made of what was held and complete when it began is finished.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import assert_never

from iarproxy.errors import Recalled
from iarproxy.ledger.recalls import Known, Recalls, one_line, remedy
from iarproxy.mirror.recall.containing import Clear, Contains, Doubtful, Load, Verdict, look_through
from iarproxy.oci import MAX_MANIFEST, Digest, Manifest, TagReference
from iarproxy.store import Fetch, StoredBlob, Transfer

_BRIEF = 0.25  # seconds; as often as the ledger looks for what other processes changed
_REMEMBERED = 100_000
_BEGIN = 64  # bytes
_LOOK_AGAIN = 60.0  # seconds until upstream is asked again for a tag that led to denied content
_TAGS = 10_000


class Recalling:
    """What one worker knows of what is recalled, and of what contains it."""

    def __init__(self, recalls: Recalls, load: Load, clock: Callable[[], float] = time.monotonic) -> None:
        self._recalls = recalls
        self._load = load
        self._clock = clock
        self._judged: Known = recalls.known
        self._verdicts: dict[Digest, Verdict] = {}
        self._until: dict[Digest, float] = {}  # so long they are known to be clear
        self._offered: dict[TagReference, tuple[Digest, float]] = {}  # denied, for tags without a pin; until when

    # --- what waits for nobody --------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is recalled."""
        return not self._recalls.known

    def is_clear(self, digest: Digest) -> bool:
        """Whether memory tells that the content may be served; False: ask `require`."""
        if not self._recalls.known:
            return True
        self._known()
        until = self._until.get(digest)
        return until is not None and (until == math.inf or until > self._clock())

    def is_lasting(self, digest: Digest) -> bool:
        """Whether `is_clear` stays true until the recalls change."""
        if not self._recalls.known:
            return True
        self._known()
        return self._until.get(digest) == math.inf

    def insist(self, digest: Digest) -> None:
        """Return unless the digest itself is recalled.

        Raises:
            Recalled: it is.
        """
        known = self._recalls.known
        if known and digest in known:
            raise self._refusal(digest, Contains(digest))

    # --- what may have to read --------------------------------------------------------------------------------------

    async def require(self, digest: Digest, manifest: Manifest | None = None) -> None:
        """Return unless the digest is recalled, or contains what is. `manifest`: what it names, where that is at hand.

        Raises:
            Recalled: it is or does, or it cannot be said.
            Unavailable: what is held cannot be read now.
        """
        if not self.is_clear(digest):
            refused = await self.why(digest, manifest)
            if refused is not None:
                raise refused

    async def why(self, digest: Digest, manifest: Manifest | None = None) -> Recalled | None:
        """Why the content is denied; None: it is not. Otherwise as `require`."""

        async def load(each: Digest) -> Manifest | None:
            return manifest if manifest is not None and each == digest else await self._load(each)

        judged: Known | None = None
        while judged is not self._recalls.known:  # they may change while something is read
            judged = self._known()
            verdict = await look_through(digest, judged, load, self._verdicts) if judged else Clear(lasting=True)
        match verdict:
            case Clear(lasting=lasting):
                self._note(digest, verdict, math.inf if lasting else self._clock() + _BRIEF)
                return None
            case Contains():
                self._note(digest, verdict, 0.0)
                return self._refusal(digest, verdict)
            case Doubtful():
                return self._refusal(digest, verdict)
            case _:
                assert_never(verdict)

    async def without_denied(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those of `digests` that are not denied. Otherwise as `require`."""
        return {each for each in digests if self.is_clear(each) or await self.why(each) is None}

    # --- tags without a pin -----------------------------------------------------------------------------------------

    async def insist_on_tag(self, reference: TagReference) -> None:
        """Return unless upstream was seen a moment ago to offer denied content for the tag: it is not fetched again.

        Raises:
            Recalled: it was.
        """
        digest, until = self._offered.get(reference, (None, 0.0))
        if digest is not None and self._clock() < until:
            await self.require(digest)

    async def insist_on_offer(self, reference: TagReference, manifest: Manifest) -> None:
        """Return if the tag may be pinned to what upstream offers for it.

        Raises:
            Recalled: it is denied.
        """
        try:
            await self.require(manifest.descriptor.digest, manifest)
        except Recalled:
            self._offered[reference] = manifest.descriptor.digest, self._clock() + _LOOK_AGAIN
            if len(self._offered) > _TAGS:
                del self._offered[next(iter(self._offered))]
            raise

    # --- bytes under way --------------------------------------------------------------------------------------------

    def guarded(self, digest: Digest, fetch: Fetch) -> Fetch:
        """`fetch` of that blob, which begins nothing that is recalled, and goes on with nothing that is."""

        @asynccontextmanager
        async def begin(offset: int) -> AsyncIterator[Transfer]:
            self.insist(digest)
            async with fetch(offset) as transfer:
                yield _Guarded(transfer, lambda: self.insist(digest))

        return begin

    # --- what is remembered -----------------------------------------------------------------------------------------

    def _known(self) -> Known:
        known = self._recalls.known
        if known is not self._judged:
            self._judged, self._verdicts, self._until = known, {}, {}
        return known

    def _note(self, digest: Digest, verdict: Verdict, until: float) -> None:
        if len(self._verdicts) + len(self._until) > _REMEMBERED:
            self._verdicts.clear()
            self._until.clear()
        self._verdicts[digest] = verdict
        self._until[digest] = until

    def _refusal(self, digest: Digest, verdict: Contains | Doubtful) -> Recalled:
        if isinstance(verdict, Doubtful):
            told = f"{digest} cannot be looked through for recalled content: {verdict.reason}"
            return Recalled(f"{told}; `iarproxy recall --list` shows what is recalled", digest=str(digest))
        recall = self._recalls.known[verdict.digest]
        told = str(recall) if recall.digest == digest else f"{digest} contains recalled content: {recall}"
        return Recalled(
            f"{told}; `{remedy(recall.digest)}` lifts it",
            digest=str(digest),
            recalled=str(recall.digest),
            since=recall.at.isoformat(timespec="seconds"),
            by=one_line(recall.actor),
            why=one_line(recall.reason),
            remedy=remedy(recall.digest),
        )


def may_be_manifest(blob: StoredBlob) -> bool:
    """Whether what is held may be a manifest, by its size and first bytes; False: it is none.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    if blob.size > MAX_MANIFEST:
        return False
    with os.fdopen(blob.open(), "rb", buffering=0) as file:
        begin = file.read(_BEGIN).lstrip()
    return not begin or begin.startswith(b"{")


class _Guarded:
    """A transfer that ends with `insist`'s error once it raises."""

    def __init__(self, transfer: Transfer, insist: Callable[[], None]) -> None:
        self._transfer = transfer
        self._insist = insist

    @property
    def size(self) -> int | None:
        """As the transfer's."""
        return self._transfer.size

    @property
    def offset(self) -> int:
        """As the transfer's."""
        return self._transfer.offset

    async def chunks(self) -> AsyncIterator[bytes]:
        """As the transfer's, until then."""
        chunks = self._transfer.chunks()
        try:
            async for chunk in chunks:
                self._insist()
                yield chunk
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
