"""A whole iarproxy in the test's own process, but for its workers: store, ledger, mirror, and the registry face on a
loopback port. One may be the upstream of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from iarproxy import config
from iarproxy.ledger import Ledger
from iarproxy.mirror.drift.checking import Checked
from iarproxy.mirror.mirror import Mirror
from iarproxy.oci import Platform, Repository, Tag, TagReference
from iarproxy.oci.routing import Routes
from iarproxy.server.frame import RegistryServer
from iarproxy.server.registry import RegistryFace
from iarproxy.store import Store
from iarproxy.upstream import Upstreams
from iarproxy.upstream.via import pseudonym


@dataclass
class Got:
    """An answer; header names as sent, any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Edge:
    """One instance. `url` is where its registry face listens."""

    mirror: Mirror
    ledger: Ledger
    store: Store
    url: str
    client: aiohttp.ClientSession
    verdicts: list[Checked] = field(default_factory=list)

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Got:
        """One request, as a client sends it."""
        async with self.client.request(method, self.url + target, headers=headers) as response:
            return Got(response.status, response.headers, await response.read())

    def reference(self, name: str, registry: str, tag: str = "1") -> TagReference:
        """A tag as this instance names it."""
        return TagReference(Repository.of(registry, name), Tag(tag))


@asynccontextmanager
async def edge(
    folder: Path,
    upstreams: Mapping[str, Mapping[str, Any]],
    *,
    tags: Sequence[Mapping[str, str]] = (),
    port: int = 0,
    default: str | None = None,
) -> AsyncIterator[Edge]:
    """An instance with these `[upstreams]` and `[[tags]]`, whose store is in `folder`."""
    settings = config.parse(
        {"store": {"path": folder / "store"}, "upstreams": dict(upstreams), "tags": list(tags)}, None
    )
    verdicts: list[Checked] = []
    async with AsyncExitStack() as stack:
        store = Store.open(settings.store.path, max_size=10**9)
        stack.push_async_callback(store.close)
        ledger = await Ledger.open(settings.ledger_path, store_identity=store.identity, store_is_empty=store.is_empty())
        stack.push_async_callback(ledger.close)
        via = pseudonym(store.identity)
        opened = await Upstreams.open(settings.upstreams, cache_dir=folder / "run", via=via)
        stack.push_async_callback(opened.close)
        stack.push_async_callback(store.close)
        mirror = Mirror(
            store=store,
            ledger=ledger,
            upstreams=opened,
            rules=settings.rules,
            platforms=[Platform("linux", "amd64")],
            private=any(each.has_credentials for each in settings.upstreams.values()),
            on_verdict=verdicts.append,
        )
        stack.push_async_callback(mirror.close)
        routes = Routes(frozenset(settings.upstreams), default or next(iter(settings.upstreams)))
        face = RegistryFace(mirror, routes, memory=mirror, via=via).on("the-listener")
        server = RegistryServer(face, lane=face.lane, pace=face.pace)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", port)
        stack.callback(face.close)
        stack.push_async_callback(server.shutdown, 0.5)
        stack.callback(listener.close)
        client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield Edge(mirror, ledger, store, url, client, verdicts)
