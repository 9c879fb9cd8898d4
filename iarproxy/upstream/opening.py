"""Making one upstream from its section of the configuration; nothing is dialled or resolved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from yarl import URL

from iarproxy.config import UpstreamSettings
from iarproxy.oci import DOCKER_HUB
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.budget import Budget
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.certificates import Certificates, Files
from iarproxy.upstream.client import Client, Timeouts
from iarproxy.upstream.credentials_source import source_of
from iarproxy.upstream.egress import Proxy
from iarproxy.upstream.endpoint import Endpoint
from iarproxy.upstream.foreign import ForeignLayers, base_of
from iarproxy.upstream.guard import Lookup, Policy
from iarproxy.upstream.metering import Meter
from iarproxy.upstream.negative import Negative
from iarproxy.upstream.registry import Upstream
from iarproxy.upstream.retry import Allowance, Retry
from iarproxy.upstream.spending import Spending
from iarproxy.upstream.tokens import Tokens

# Docker Hub's name is not the host of its API (clients.md 11.1).
_HUB_API = "registry-1.docker.io"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry.hub.docker.com"})


@dataclass(frozen=True, slots=True)
class Opening:
    """What all upstreams of a process have in common; see `Upstreams.open`. `held`: closes what is made."""

    held: AsyncExitStack
    cache: SharedCache
    now: Callable[[], datetime]
    lookup: Lookup
    retry: Retry
    timeouts: Timeouts | None
    meter: Meter
    via: str | None

    async def upstream(self, name: str, settings: UpstreamSettings) -> Upstream:
        """The upstream of one section.

        Raises:
            ConfigError: a certificate or key cannot be used.
        """
        spending = Spending(name, self.cache, self.now, partial(self.meter.spent, name))
        negative_ttl = settings.negative_ttl.total_seconds()
        made = Upstream(
            [await self._endpoint(name, settings, url, spending) for url in settings.urls],
            negative=Negative(name, self.cache, negative_ttl, partial(self.meter.remembered, name)),
            spending=spending,
            retry=replace(self.retry, allowance=Allowance()),
            floor=settings.budget_floor,
            foreign=await self._foreign(name, settings),
        )
        self.held.push_async_callback(made.close)
        return made

    async def _endpoint(self, name: str, settings: UpstreamSettings, base: str, spending: Spending) -> Endpoint:
        url, timeouts = _api(name, URL(base)), self._patience(settings, len(settings.urls))
        budget = Budget(
            name,
            url,
            cache=self.cache,
            spending=spending,
            now=self.now,
            clock=asyncio.get_running_loop().time,
            patience=timeouts.manifest / 2,
            turned_away=partial(self.meter.turned_away, name),
        )
        client = Client(
            name,
            url,
            lookup=self.lookup,
            timeouts=timeouts,
            blobs=settings.max_connections,
            policy=Policy.private(url) if settings.allow_private else None,
            certificates=await _certificates(name, settings, own=True),
            proxy=_proxy(name, settings),
            namespace=name if settings.namespace else None,
            via=self.via,
            meter=self.meter,
            budget=budget,
        )
        self.held.push_async_callback(client.close)
        source = source_of(name, settings, client.url, self.now)
        tokens = Tokens(client, cache=self.cache, now=self.now, source=source, auth_hosts=settings.auth_hosts)
        self.held.push_async_callback(tokens.close)
        return Endpoint(Asker(client, tokens, self.now), self.cache)

    async def _foreign(self, name: str, settings: UpstreamSettings) -> ForeignLayers:
        clients = []
        for host in settings.foreign_hosts:
            client = Client(
                name,
                base_of(host),
                lookup=self.lookup,
                timeouts=self._patience(settings, 1),
                blobs=settings.max_connections,
                certificates=await _certificates(name, settings, own=False),
                proxy=_proxy(name, settings),
                via=self.via,
                meter=self.meter,
            )
            self.held.push_async_callback(client.close)
            clients.append(client)
        return ForeignLayers(name, clients, self.cache, replace(self.retry, budget=60.0, allowance=Allowance()))

    def _patience(self, settings: UpstreamSettings, count: int) -> Timeouts:
        """How long one of `count` endpoints may take: they share what clients wait for an answer (containerd: 30 s)."""
        own = Timeouts(connect=settings.connect_timeout.total_seconds(), read=settings.read_timeout.total_seconds())
        whole = self.timeouts or own
        return replace(whole, connect=whole.connect / count, manifest=whole.manifest / count, blob=whole.blob / count)


async def _certificates(name: str, settings: UpstreamSettings, *, own: bool) -> Certificates:
    """What is trusted, and (`own`) what we show."""
    shown = (settings.client_cert_file, settings.client_key_file) if own else (None, None)
    certificates = Certificates(Files(name, settings.ca_file, *shown))
    await certificates.check()
    return certificates


def _proxy(name: str, settings: UpstreamSettings) -> Proxy | None:
    if settings.proxy is None:
        return None
    return Proxy(name, URL(settings.proxy), settings.proxy_username, settings.proxy_password_file)


def _api(name: str, url: URL) -> URL:
    if name == DOCKER_HUB and (url.host or "").lower() in _HUB_HOSTS:
        return url.with_host(_HUB_API)
    return url
