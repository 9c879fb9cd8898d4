"""Taking over a layout or archive of others: its content into the store, then its names in one act.

Rule 1: all or nothing: everything that the names need is streamed into the store, which verifies it, before anything
        is pinned; the pins are changed in one transaction (as for a lock file, `mirror.locking`).
Rule 2: a blob goes from its place in the archive into its ingest; nothing is written anywhere else.
Rule 3: blobs before documents, documents before attachments and links, these before pins.
"""

from __future__ import annotations

from collections.abc import Callable

from iarproxy.archive.layouts.plan import LayoutPlan
from iarproxy.archive.layouts.reading import Layout
from iarproxy.errors import Malformed, Refused, StoreUnavailable, UpstreamWrong
from iarproxy.ledger import Change, EventKind, Ledger, Pin, Unpinned
from iarproxy.oci import Descriptor, TagReference
from iarproxy.store import Store
from iarproxy.together import together

_PARALLEL = 4  # blobs that are copied at the same time


async def hold(layout: Layout, plan: LayoutPlan, store: Store, advanced: Callable[[Descriptor, int], None]) -> None:
    """Have all that the plan needs in the store, verified and durable; `advanced` is told the bytes of each blob.

    Raises:
        Malformed: something is not what its digest says; nothing of it is kept.
        StoreFull, StoreUnavailable: the disk does not take it; what it took stays.
    """

    async def one(blob: Descriptor) -> None:
        await _copied(layout, blob, store, advanced)

    at_a_time = 1 if layout.files.is_sequential else _PARALLEL
    await together(layout.in_order(plan.blobs.values()), one, at_a_time=at_a_time)
    for descriptor in plan.documents.values():
        document = await layout.document(descriptor)
        if document is None:
            raise Malformed(f"{layout.files.called}: {descriptor.digest} is gone from it")
        await store.put(descriptor.digest, document.raw)
    for each in plan.grown:
        await store.put(each.descriptor.digest, each.raw)


async def act(plan: LayoutPlan, ledger: Ledger, *, source: str, reason: str, actor: str) -> list[Pin | Unpinned]:
    """A person's act: attach what came along, then pin everything, also what differs. `source` is the archive's name.

    Raises:
        Conflict: a pin moved since the plan was made. Malformed: without a reason.
        Recalled: a digest is denied. LedgerDamaged, LedgerUnavailable: no pin is changed.
    """
    await ledger.bundles.reattach([(each.reference, each.descriptor) for each in plan.grown], plan.links)
    before = {each.wanted.reference: each.pinned for each in plan.differs}
    changes = [
        Change(
            plan.environment.name, each.reference, before.get(each.reference), each.descriptor, source, {"file": source}
        )
        for each in plan.wanted
        if isinstance(each.reference, TagReference)
    ]
    if not changes:
        return []
    return await ledger.change(EventKind.IMPORTED, changes, reason=reason, actor=actor)


async def _copied(layout: Layout, blob: Descriptor, store: Store, advanced: Callable[[Descriptor, int], None]) -> None:
    scope = ("layout", layout.files.called)
    try:
        async with store.follow(blob.digest, blob.size, layout.fetch(blob), scope) as following:
            position = 0
            while position < following.size:
                position = await following.readable(position)
                advanced(blob, position)
            if not await following.kept():
                raise StoreUnavailable(f"{blob.digest} is right, but the disk did not keep it; see the log")
    except UpstreamWrong as wrong:
        raise Malformed(f"{layout.files.called}: {blob.digest} is damaged: its bytes are others") from wrong
    except Malformed:
        raise
    except Refused as refused:  # the store tells failures of a fetch anew, as the nearest kind that it knows
        raise Malformed(str(refused)) from refused
