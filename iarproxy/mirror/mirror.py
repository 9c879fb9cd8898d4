"""The mirror as the server and the commands see it: the use cases, wired from the rooms below."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from iarproxy.errors import Stopped
from iarproxy.ledger import Ledger, Pin
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.drift.plan import Tally
from iarproxy.mirror.explain.missing import Missing
from iarproxy.mirror.given import Given
from iarproxy.mirror.promotion.facts import Surveying
from iarproxy.mirror.serving.access import Access
from iarproxy.mirror.serving.answers import (
    BlobBody,
    HeldBlob,
    ManifestAnswer,
    ReferrersAnswer,
    RefusalAnswer,
    Served,
    TagList,
)
from iarproxy.mirror.serving.attaching import Attaching
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.foreign import ForeignBlobs
from iarproxy.mirror.serving.holding import Holding
from iarproxy.mirror.serving.memory import ManifestMemory
from iarproxy.mirror.serving.names import Names
from iarproxy.mirror.serving.probe import NAME as PROBE
from iarproxy.mirror.serving.probe import NO_REFERRERS, Probe
from iarproxy.mirror.serving.refusing import Refusing
from iarproxy.mirror.usage import Usage
from iarproxy.mirror.warm import Warm
from iarproxy.oci import Digest, Platform, Repository, Tag, TagReference
from iarproxy.store import Store
from iarproxy.trust import RefusalForm, TagRule
from iarproxy.trust.environments import FIRST_FETCHES, Environment
from iarproxy.upstream import Upstreams


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Mirror:
    """All use cases over one store, one ledger and one closed list of upstreams. It owns none of them.

    `missing`: tells what should have brought what is not here; None: one of its own.
    """

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
        missing: Missing | None = None,
        rules: Sequence[TagRule] = (),
        platforms: Sequence[Platform] = (),
        environments: Sequence[Environment] = (),
        refusal: RefusalForm = RefusalForm.ERROR,
        private: bool = False,
        record_clients: bool = True,
        now: Callable[[], datetime] = _utc_now,
        on_verdict: Callable[[Checked], None] = lambda _: None,
        on_tally: Callable[[str, Tally], None] = lambda _upstream, _tally: None,
        on_pin: Callable[[Pin], None] = lambda _: None,
    ) -> None:
        given = Given(store, ledger, upstreams, tuple(rules), (FIRST_FETCHES, *environments), tuple(platforms), now)
        self.store, self.ledger, self._on_pin = store, ledger, on_pin
        memory, access = ManifestMemory(), Access(ledger, upstreams, private=private)
        self._refusing = Refusing(store, access, memory)
        self._documents = documents = Documents(store, upstreams, access, memory, ledger.recalls)
        self.recalling = documents.recalling
        self._probe = Probe(store, documents, access, instance=store.identity, form=refusal, now=now)
        self._foreign = ForeignBlobs(ledger, upstreams, documents)
        self._blobs = blobs = Blobs(store, upstreams, access, memory, documents=documents, foreign=self._foreign)
        resolving = given.resolving(documents, refusal, self._first_pin, self._look_soon)
        manifests = {each: resolving(environment=each) for each in given.environments}
        self._listings = listings = given.listings(documents, manifests[FIRST_FETCHES])
        self._names = {
            each.name: Names(each, ledger.within(each.name), found, listings, self._probe)
            for each, found in manifests.items()
        }
        self._default = self._names[FIRST_FETCHES.name]
        self.attachments = given.attachments(documents, listings)
        self.charts = given.charts(documents, blobs)
        self.holding = holding = Holding(store, documents, blobs, platforms)
        self.warm = Warm(manifests[FIRST_FETCHES], documents, blobs, holding)
        sets = given.resolving_sets(documents, manifests[FIRST_FETCHES], listings)
        self.planning = given.planning(documents, sets)
        self.syncing = given.syncing(documents, blobs, sets, self.attachments, self.charts)
        self.explain = given.explain(documents, holding, missing or Missing(store, ledger))
        surveying = Surveying(store, ledger, documents, listings, manifests[FIRST_FETCHES])
        self.promotion = given.promotion(documents, holding, surveying, Attaching(store, access))
        self._usage = Usage(ledger.uses, clients=record_clients)
        self.drift = given.drift(documents, blobs, holding, on_verdict)
        self.watch = given.watch(self.drift, on_tally)

    def _first_pin(self, pin: Pin) -> None:
        self.holding.start(pin, layers=False)
        self._on_pin(pin)

    def _look_soon(self, pin: Pin) -> None:
        self.drift.soon(pin.reference, pin.environment)

    async def close(self) -> None:
        """End what runs in the background. The rooms stay open: whoever opened them closes them."""
        await self.drift.close()
        await self.holding.close()
        for each in self._names.values():
            await each.close()
        await self._listings.close()
        await self._foreign.close()
        await self._documents.close()
        await self._usage.close()

    def within(self, environment: str) -> Names:
        """What names mean in that environment, which is configured. Everything else is the same in all."""
        return self._names[environment]

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        """The manifest that a client of the default environment gets; see `Manifests.answer`."""
        return await self._default.manifest(repository, wanted)

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        """The manifest that such a client gets, where memory alone can tell; see `Manifests.peek`."""
        return self._default.peek(repository, wanted)

    async def refusal(self, reference: TagReference, stopped: Stopped) -> RefusalAnswer:
        """What stops a client that would go on to the real upstream otherwise; see `Refusing.answer`."""
        return await self._refusing.answer(reference, stopped)

    def used(self, served: Iterable[Served]) -> None:
        """Take note of what was served; neither waits nor raises. See `Usage.note`."""
        self._usage.note(served)

    def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
        """The blob, where it can be sent at once; see `Blobs.peek`."""
        return self._blobs.peek(repository, digest)

    def on_change(self, callback: Callable[[TagReference | None], None]) -> None:
        """Have `callback` called on the loop with each tag for which `peek` may tell something else than before.

        None: everything may be told differently, blobs too. A time to live that is over is not told. What other
        processes changed is told within a second of their act. What is called must not raise.
        """
        self.ledger.on_change(callback)

    async def blob(self, repository: Repository, digest: Digest) -> AbstractAsyncContextManager[BlobBody]:
        """The blob, to be entered and sent; see `Blobs.open`."""
        if repository.name == PROBE:
            await self._probe.check(repository, digest)
        return self._blobs.open(repository, digest)

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """The blob's size in bytes; see `Blobs.size`."""
        if repository.name == PROBE:
            await self._probe.check(repository, digest)
        return await self._blobs.size(repository, digest)

    async def tags(self, repository: Repository) -> TagList:
        """All tags of a repository in the default environment; see `Names.tags`."""
        return await self._default.tags(repository)

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_types: Collection[str]
    ) -> ReferrersAnswer:
        """The manifests that refer to a digest; see `Listings.referrers`."""
        if repository.name == PROBE:
            return NO_REFERRERS
        return await self._listings.referrers(repository, digest, artifact_types)
