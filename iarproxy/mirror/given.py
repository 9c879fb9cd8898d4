"""What a mirror is made over, and how each use case is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from iarproxy.ledger import Ledger, Pin
from iarproxy.mirror.drift.checking import Checked, DriftCheck
from iarproxy.mirror.drift.evidence import Evidence
from iarproxy.mirror.drift.plan import Tally
from iarproxy.mirror.drift.watch import DriftWatch
from iarproxy.mirror.explain.explaining import Explain
from iarproxy.mirror.explain.missing import Missing
from iarproxy.mirror.promotion.facts import Surveying
from iarproxy.mirror.promotion.promoting import Promotion
from iarproxy.mirror.serving.attaching import Attaching
from iarproxy.mirror.serving.blobs import Blobs
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.serving.holding import Holding
from iarproxy.mirror.serving.listing import Listings
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.mirror.sync.attachments import Attachments
from iarproxy.mirror.sync.charts import Charts
from iarproxy.mirror.sync.plan import Planning
from iarproxy.mirror.sync.resolve import Resolving
from iarproxy.mirror.sync.syncing import Syncing
from iarproxy.oci import Platform
from iarproxy.store import Store
from iarproxy.trust import RefusalForm, TagRule
from iarproxy.trust.environments import Environment
from iarproxy.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Given:
    """What a mirror is made over, and the use cases that need most of it. The default environment comes first."""

    store: Store
    ledger: Ledger
    upstreams: Upstreams
    rules: tuple[TagRule, ...]
    environments: tuple[Environment, ...]
    platforms: tuple[Platform, ...]
    now: Callable[[], datetime]

    def resolving(
        self,
        documents: Documents,
        refusal: RefusalForm,
        on_first_pin: Callable[[Pin], None],
        on_hint: Callable[[Pin], None],
    ) -> Callable[..., Manifests]:
        """What resolves the names of an environment, which is still to be given."""
        return partial(
            Manifests,
            ledger=self.ledger,
            upstreams=self.upstreams,
            documents=documents,
            rules=self.rules,
            refusal=refusal,
            now=self.now,
            on_first_pin=on_first_pin,
            on_hint=on_hint,
        )

    def listings(self, documents: Documents, manifests: Manifests) -> Listings:
        """Tag lists and referrers."""
        return Listings(
            store=self.store,
            ledger=self.ledger,
            upstreams=self.upstreams,
            manifests=manifests,
            documents=documents,
            rules=self.rules,
            now=self.now,
        )

    def attachments(self, documents: Documents, listings: Listings) -> Attachments:
        """What is attached to content, for whoever carries it elsewhere."""
        return Attachments(ledger=self.ledger, upstreams=self.upstreams, documents=documents, listings=listings)

    def charts(self, documents: Documents, blobs: Blobs) -> Charts:
        """The images that Helm charts need."""
        return Charts(store=self.store, upstreams=self.upstreams, documents=documents, blobs=blobs)

    def explain(self, documents: Documents, holding: Holding, missing: Missing) -> Explain:
        """Where names stand."""
        return Explain(
            store=self.store,
            ledger=self.ledger,
            documents=documents,
            holding=holding,
            missing=missing,
            rules=self.rules,
            upstreams=self.upstreams,
            environments=self.environments,
            now=self.now,
        )

    def resolving_sets(self, documents: Documents, manifests: Manifests, listings: Listings) -> Resolving:
        """The names of sets."""
        return Resolving(
            store=self.store,
            ledger=self.ledger,
            upstreams=self.upstreams,
            manifests=manifests,
            documents=documents,
            listings=listings,
            rules=self.rules,
        )

    def planning(self, documents: Documents, resolving: Resolving) -> Planning:
        """What syncing a set would do."""
        return Planning(
            store=self.store,
            ledger=self.ledger,
            upstreams=self.upstreams,
            documents=documents,
            tags=resolving.tags,
            rules=self.rules,
        )

    def syncing(
        self, documents: Documents, blobs: Blobs, resolving: Resolving, attachments: Attachments, charts: Charts
    ) -> Syncing:
        """Sets into the store."""
        return Syncing(
            store=self.store,
            ledger=self.ledger,
            documents=documents,
            blobs=blobs,
            resolving=resolving,
            attachments=attachments,
            charts=charts,
        )

    def promotion(self, documents: Documents, holding: Holding, surveying: Surveying, keeping: Attaching) -> Promotion:
        """Names from one environment to another."""
        return Promotion(
            ledger=self.ledger,
            documents=documents,
            holding=holding,
            surveying=surveying,
            keeping=keeping,
            now=self.now,
        )

    def drift(
        self, documents: Documents, blobs: Blobs, holding: Holding, on_verdict: Callable[[Checked], None]
    ) -> DriftCheck:
        """What upstream offers now for one pin."""
        evidence = Evidence(
            documents=documents, blobs=blobs, upstreams=self.upstreams, platforms=self.platforms, now=self.now
        )
        return DriftCheck(
            ledger=self.ledger,
            upstreams=self.upstreams,
            documents=documents,
            holding=holding,
            evidence=evidence,
            rules=self.rules,
            on_verdict=on_verdict,
        )

    def watch(self, drift: DriftCheck, told: Callable[[str, Tally], None]) -> DriftWatch:
        """All pins that can drift, checked for ever."""
        return DriftWatch(
            book=self.ledger.watching,
            check=drift.watch,
            upstreams=self.upstreams.names,
            environments=[each.name for each in self.environments if each.pins_first_fetches],
            wanted=drift.is_watched,
            favourites=self.ledger.uses.favourites,
            now=self.now,
            told=told,
        )
