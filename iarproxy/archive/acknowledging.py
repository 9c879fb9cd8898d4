"""Receipts: what this site says that it holds of a set, for the origin of its bundles.

Rule 1: it is about the bundle that was applied last. It lists what of that bundle's closure is in the store now, so
        what was lost since is not acknowledged, and travels with the next bundle.
Rule 2: it may be written again at any time, and says the journal's head and checkpoint of that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from iarproxy.archive.evidence import newest
from iarproxy.errors import Refused
from iarproxy.ledger import Ledger
from iarproxy.ledger.bundles import Applied
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import MAX_BUNDLE, BundleManifest
from iarproxy.store import Store
from iarproxy.trust.receipts import Receipt, receipt_of
from iarproxy.trust.signing import PrivateKey


@dataclass(frozen=True, slots=True)
class Acknowledging:
    """The use case over one store and its ledger.

    Attributes:
        key: the site's, which signs receipts.
        sign: makes a checkpoint of the journal as it is now; None: there is one already.
        now: the clock (aware).
    """

    store: Store
    ledger: Ledger
    key: PrivateKey
    sign: Callable[[], Awaitable[SignedCheckpoint | None]]
    now: Callable[[], datetime]

    async def applied(self, set_name: str, origin: str | None = None) -> Applied:
        """The bundle of a set that was applied last; `origin`: only one of that journal's side.

        Raises:
            Refused: there is none, or there are several origins.
        """
        found = [each for each in await self.ledger.bundles.every_applied() if each.set == set_name]
        wanted = [each for each in found if origin in (None, each.origin)]
        if not wanted:
            raise Refused(f"no bundle of set {set_name} was applied here; `iarproxy bundle apply DIR` applies one")
        if len(wanted) > 1:
            origins = ", ".join(each.origin for each in wanted)
            raise Refused(f"bundles of set {set_name} came from several origins: {origins}; name one by --origin")
        return wanted[0]

    async def receipt(self, applied: Applied) -> bytes:
        """The signed receipt about a bundle that was applied.

        Raises:
            Refused: its manifest is not in the store; apply it again.
            LedgerUnavailable, LedgerDamaged: the journal cannot be read.
        """
        raw = await self.store.read(applied.manifest.digest, MAX_BUNDLE)
        if raw is None:
            raise Refused(
                f"bundle.json of bundle {applied.sequence} of set {applied.set} is not in the store, or damaged; apply "
                "the bundle again"
            )
        signed = await self.sign() or (await self.ledger.checkpoints.standing()).last
        seen = newest(await self.ledger.bundles.history(), applied.origin)
        said = Receipt(
            origin=applied.origin,
            site=origin_of(self.store.identity),
            set=applied.set,
            sequence=applied.sequence,
            bundle=applied.bundle,
            manifest=applied.manifest.digest,
            environment=applied.environment,
            held=await asyncio.to_thread(self._held, BundleManifest.parse(raw)),
            serial=await self.ledger.serial(),
            at=self.now().replace(microsecond=0),
            checkpoint="" if signed is None else str(signed.note),
            seen=0 if seen is None else seen.size,
        )
        return receipt_of(said, self.key)

    def _held(self, manifest: BundleManifest) -> tuple[Digest, ...]:
        closure = sorted((*(each.digest for each in manifest.provides), *manifest.requires))
        return tuple(digest for digest in closure if self.store.find(digest) is not None)
