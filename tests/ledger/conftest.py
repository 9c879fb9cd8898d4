"""Fixtures of the ledger's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from iarproxy.ledger import Ledger
from ledger_world import Clock, opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "ledger.db"


@pytest_asyncio.fixture
async def ledger(path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    async with opened(path, now=clock) as made:
        yield made
