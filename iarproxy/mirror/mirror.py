"""The mirror as the server and the commands see it: the use cases, wired from the rooms below."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial

from iarproxy.errors import Stopped
from iarproxy.ledger import Ledger, Pin
from iarproxy.mirror.access import Access
from iarproxy.mirror.answers import BlobBody, HeldBlob, ManifestAnswer, ReferrersAnswer, RefusalAnswer, Served, TagList
from iarproxy.mirror.attaching import Attaching
from iarproxy.mirror.blobs import Blobs
from iarproxy.mirror.documents import Documents
from iarproxy.mirror.drift import Checked, DriftCheck
from iarproxy.mirror.evidence import Evidence
from iarproxy.mirror.explain import Explain
from iarproxy.mirror.foreign import ForeignBlobs
from iarproxy.mirror.holding import Holding
from iarproxy.mirror.listing import Listings
from iarproxy.mirror.manifests import Manifests
from iarproxy.mirror.memory import ManifestMemory
from iarproxy.mirror.names import Names
from iarproxy.mirror.probe import NAME as PROBE
from iarproxy.mirror.probe import NO_REFERRERS, Probe
from iarproxy.mirror.promotion import Promotion
from iarproxy.mirror.promotion_facts import Surveying
from iarproxy.mirror.refusing import Refusing
from iarproxy.mirror.usage import Usage
from iarproxy.mirror.warm import Warm
from iarproxy.mirror.watch import DriftWatch
from iarproxy.mirror.watch_plan import Tally
from iarproxy.oci import Digest, Platform, Repository, Tag, TagReference
from iarproxy.store import Store
from iarproxy.trust import RefusalForm, TagRule
from iarproxy.trust.environments import FIRST_FETCHES, Environment
from iarproxy.upstream import Upstreams


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Mirror:
    """All use cases over one store, one ledger and one closed list of upstreams. It owns none of them."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
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
        self._on_pin = on_pin
        self.store = store
        self.ledger = ledger
        memory = ManifestMemory()
        access = Access(ledger, upstreams, private=private)
        self._refusing = Refusing(store, access, memory)
        self._documents = documents = Documents(store, upstreams, access, memory, ledger.recalls)
        self._probe = Probe(store, documents, access, instance=store.identity, form=refusal, now=now)
        resolving = partial(
            Manifests,
            ledger=ledger,
            upstreams=upstreams,
            documents=documents,
            rules=rules,
            refusal=refusal,
            now=now,
            on_first_pin=self._first_pin,
            on_hint=self._look_soon,
        )
        manifests = resolving()
        self._foreign = ForeignBlobs(ledger, upstreams, documents)
        self._blobs = blobs = Blobs(store, upstreams, access, memory, documents=documents, foreign=self._foreign)
        self._listings = Listings(
            store=store,
            ledger=ledger,
            upstreams=upstreams,
            manifests=manifests,
            documents=documents,
            rules=rules,
            now=now,
        )
        self._names = {
            each.name: Names(
                each,
                ledger.within(each.name),
                manifests if each is FIRST_FETCHES else resolving(environment=each),
                self._listings,
                self._probe,
            )
            for each in (FIRST_FETCHES, *environments)
        }
        self._default = self._names[FIRST_FETCHES.name]
        self.holding = Holding(store, documents, blobs, platforms)
        self.warm = Warm(manifests, documents, blobs, self.holding)
        self.explain = Explain(
            store=store,
            ledger=ledger,
            documents=documents,
            holding=self.holding,
            rules=rules,
            upstreams=upstreams,
            environments=environments,
        )
        self.promotion = Promotion(
            ledger=ledger,
            documents=documents,
            holding=self.holding,
            surveying=Surveying(store, ledger, documents, self._listings, manifests),
            keeping=Attaching(store, access),
            now=now,
        )
        self._usage = Usage(ledger.uses, clients=record_clients)
        evidence = Evidence(
            documents=documents, blobs=blobs, upstreams=upstreams, platforms=tuple(platforms), now=now
        )
        self.drift = DriftCheck(
            ledger=ledger,
            upstreams=upstreams,
            documents=documents,
            holding=self.holding,
            evidence=evidence,
            rules=rules,
            on_verdict=on_verdict,
        )
        self.watch = DriftWatch(
            book=ledger.watching,
            check=self.drift.watch,
            upstreams=upstreams.names,
            environments=[each.name for each in (FIRST_FETCHES, *environments) if each.pins_first_fetches],
            wanted=self.drift.is_watched,
            favourites=ledger.uses.favourites,
            now=now,
            told=on_tally,
        )

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
