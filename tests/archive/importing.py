"""A store and a ledger that layouts are imported into, without any upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from iarproxy.archive.layouts.importing import act, hold
from iarproxy.archive.layouts.plan import LayoutPlan
from iarproxy.archive.layouts.planning import Planning
from iarproxy.archive.layouts.reading import open_layout
from iarproxy.ledger import Ledger
from iarproxy.oci.layout_index import given
from iarproxy.store import Store
from iarproxy.trust import TagRule
from iarproxy.trust.environments import FIRST_FETCHES, Environment

UPSTREAMS = ("docker.io", "registry.example.com")


@dataclass(frozen=True)
class Site:
    """Where things are imported to."""

    store: Store
    ledger: Ledger

    async def imported(
        self,
        path: Path,
        name: str | None = None,
        *,
        environment: Environment = FIRST_FETCHES,
        rules: Sequence[TagRule] = (),
        repin: bool = False,
    ) -> LayoutPlan:
        """Plan, and do it unless pins differ."""
        layout = open_layout(path)
        try:
            planning = Planning(
                layout, environment, store=self.store, ledger=self.ledger, rules=rules, upstreams=UPSTREAMS
            )
            plan = await planning.plan(None if name is None else given(name))
            if plan.differs and not repin:
                return plan
            await hold(layout, plan, self.store, lambda *_: None)
            await act(plan, self.ledger, source=path.name, reason="because", actor="a test")
            return plan
        finally:
            layout.close()

    async def pins(self) -> dict[str, str]:
        return {str(pin.reference): str(pin.descriptor.digest) async for pin in self.ledger.every_pin()}

    def blobs(self) -> list[str]:
        return sorted(each.name for each in (self.store.root / "blobs").rglob("*") if each.is_file())


@asynccontextmanager
async def a_site(folder: Path, *, max_size: int = 10**9) -> AsyncIterator[Site]:
    store = Store.open(folder / "store", max_size=max_size)
    try:
        ledger = await Ledger.open(
            folder / "store/ledger.db", store_identity=store.identity, store_is_empty=store.is_empty()
        )
        try:
            yield Site(store, ledger)
        finally:
            await ledger.close()
    finally:
        await store.close()
