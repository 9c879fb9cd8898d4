"""What an applied bundle says that no journal has: followed tags and links, set again as the bundle has them.

Rule: it changes no name and journals nothing; doing it twice is doing it once. What is not held, or not whole, is left
      out by `reattach_all`: the journal is what a ledger is rebuilt from, and this comes on top.
"""

from __future__ import annotations

from collections.abc import Callable

from iarproxy.archive.applying.contained import Contained, linked
from iarproxy.archive.applying.growing import Growing, attached
from iarproxy.archive.applying.naming import Naming
from iarproxy.errors import BundleRefused, Conflict, Malformed
from iarproxy.ledger import Ledger
from iarproxy.oci.bundle_manifest import MAX_BUNDLE, BundleManifest
from iarproxy.store import Store

_TRIES = 5  # where others attach something at the same time


async def reattach(store: Store, naming: Naming, manifest: BundleManifest, *, moves: bool) -> None:
    """Set what a bundle says of followed tags and links; tags that policy follows and that stand for something here
    only if it `moves` them.

    Raises:
        BundleRefused: `incomplete`: some of it is not held.
        StoreUnavailable, LedgerUnavailable: not now.
    """
    contained = Contained(store, manifest)
    await contained.look()
    growing, brought = Growing(store, naming.ledger), naming.followed(manifest)
    for attempt in range(_TRIES):
        known = await growing.known(brought)
        wanted = [each for each in brought if moves or each[0].tag.is_attachment or known[each[0]] is None]
        followed = await growing.grown(wanted, known)
        try:
            await naming.ledger.bundles.reattach(followed, linked(contained, followed), known=attached(known))
        except Conflict as conflict:
            if attempt + 1 == _TRIES:
                raise BundleRefused("conflict", f"{conflict}; apply the bundle again") from conflict
        else:
            return


async def reattach_all(store: Store, ledger: Ledger, within: Callable[[str], Naming | None]) -> int:
    """The same for all bundles that were ever applied, in order, after the ledger was rebuilt; how many there were.

    Args:
        store: that holds their manifests.
        ledger: that was rebuilt.
        within: how names are taken in the environment of that name; None: there is none any more.
    """
    count = 0
    for applied in await ledger.bundles.history():
        raw, own = await store.read(applied.manifest.digest, MAX_BUNDLE), within(applied.environment)
        if raw is None or own is None:
            continue
        try:
            await reattach(store, own, BundleManifest.parse(raw), moves=True)
        except (BundleRefused, Malformed):
            continue
        count += 1
    return count
