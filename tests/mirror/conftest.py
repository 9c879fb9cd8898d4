"""Fixtures of the mirror's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from registry import FakeRegistry
from world import World, a_world


@pytest_asyncio.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    fake = FakeRegistry()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def world(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[World]:
    async with a_world(tmp_path, registry) as made:
        yield made
