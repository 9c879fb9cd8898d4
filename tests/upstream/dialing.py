"""An `Upstreams` over a `FakeRegistry`, quick to fail and with nothing to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iarproxy.config import UpstreamSettings
from iarproxy.oci import Digest
from iarproxy.upstream import Retry, Timeouts, Upstream, Upstreams
from registry import FakeRegistry

NAME = "registry.example.com"
QUICK = Timeouts(connect=0.5, manifest=0.5, blob=0.5, read=0.3, pace=0.4, floor=2000)


class Waits:
    """Stands for `asyncio.sleep` between tries: writes down and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()


def no_waits() -> Retry:
    """Three tries without a pause."""
    return Retry(sleep=Waits(), jitter=lambda: 0.5)


@asynccontextmanager
async def dialing(
    registry: FakeRegistry | str, *, name: str = NAME, cache_dir: Path | None = None, **options: Any
) -> AsyncIterator[Upstream]:
    """The upstream `name` at `registry`; options that `UpstreamSettings` knows go there, others to `Upstreams.open`."""
    url = registry if isinstance(registry, str) else registry.url
    fields = {key: options.pop(key) for key in list(options) if key in UpstreamSettings.model_fields}
    options.setdefault("retry", no_waits())
    options.setdefault("timeouts", QUICK)
    upstreams = await Upstreams.open({name: UpstreamSettings(url=url, **fields)}, cache_dir=cache_dir, **options)
    try:
        yield upstreams[name]
    finally:
        await upstreams.close()


async def whole(upstream: Upstream, repository: str, digest: Digest, offset: int = 0) -> bytes:
    """All bytes of one transfer."""
    async with upstream.blob(repository, digest, offset) as transfer:
        return b"".join([piece async for piece in transfer.chunks()])
