"""All of a worker in this process, wired as `serve` wires it, before a registry that the test owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from iarproxy import config
from iarproxy.cli.wiring import Rooms, open_rooms, routes_of
from iarproxy.metrics import Metrics
from iarproxy.oci import Digest
from iarproxy.server.sending import Pace
from images import Published
from registry import FakeRegistry
from serving import Reply, Served, serving, until

HUB, OTHER = "docker.io", "registry.example.com"


@dataclass
class Whole:
    """A mirror and its upstream."""

    upstream: FakeRegistry
    served: Served
    rooms: Rooms
    metrics: Metrics
    records: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, target: str, method: str = "GET", *lines: str, host: str = "mirror.test:5000") -> Reply:
        """One request on a connection of its own, with these header lines."""
        return Reply.parse(await self.served.raw(head(target, method, *lines, "Connection: close", host=host)))

    async def leave_upstream(self, published: Published) -> None:
        """Stop upstream, once what a pin of this image brings in the background is here."""
        config = Digest.parse(orjson.loads(published.raw)["config"]["digest"])
        await until(lambda: self.rooms.store.find(config) is not None, 20)
        await self.upstream.stop()

    def outcomes(self) -> list[tuple[str, int, str]]:
        """Of each answer so far: kind of path, status, how it ended."""
        if self.served.server.lane is not None:
            self.served.server.lane.close()
        kinds = [str(each["path"]).split("/")[-2] for each in self.records]
        return [(kind, each["status"], each["outcome"]) for kind, each in zip(kinds, self.records, strict=True)]


def head(target: str, method: str = "GET", *lines: str, host: str = "mirror.test:5000") -> bytes:
    """A request's head, the header lines in the order given."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


@asynccontextmanager
async def whole(
    folder: Path,
    *,
    upstream: FakeRegistry | None = None,
    tags: Sequence[dict[str, Any]] = (),
    window: float = 30.0,
    **sections: Any,
) -> AsyncIterator[Whole]:
    """The mirror of `upstream` under two names, with its store in `folder`. `sections`: more of the configuration."""
    registry = upstream or FakeRegistry()
    await registry.start()
    named = {name: {"url": registry.url} for name in (HUB, OTHER)}
    document = {"store": {"path": folder / "store"}, "upstreams": named, "tags": list(tags), **sections}
    settings = config.parse(document, None)
    records: list[dict[str, Any]] = []
    metrics = Metrics.open(None)
    try:
        async with open_rooms(settings, {"RUNTIME_DIRECTORY": str(folder / "run")}, metrics) as rooms:
            mirror = rooms.mirror
            async with serving(
                mirror,
                routes=routes_of(settings),
                memory=mirror,
                uses=mirror,
                count=metrics,
                log=lambda each: records.append(dict(each)),
                pace=Pace(window=window),
            ) as served:
                yield Whole(registry, served, rooms, metrics, records)
    finally:
        await registry.stop()


async def left(served: Served) -> None:
    """Wait until no client is connected any more."""
    async with asyncio.timeout(20):
        while served.server.connections:
            await asyncio.sleep(0.02)
