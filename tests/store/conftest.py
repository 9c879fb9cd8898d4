"""Fixtures of the store's tests; their world is `store_world`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_world import MIB, QUICK, OpenStore

from iarproxy.store import Store


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens stores on one folder, as several worker processes would; closes them at the end."""
    opened: list[Store] = []

    async def opener(**knobs: object) -> Store:
        settings = {"max_size": 1000 * MIB, "reserve": 0, "patience": QUICK} | knobs
        store = Store.open(tmp_path / "store", **settings)  # type: ignore[arg-type]  # each test knows its knobs
        opened.append(store)
        return store

    yield opener
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
