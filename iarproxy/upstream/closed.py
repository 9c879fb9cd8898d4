"""The closed list of upstreams: what is not in it is never dialled (design invariant 9).

Rule 1: a key is a canonical registry name; it comes from the configuration, never from a request.
Rule 2: nothing is dialled or resolved before something is asked for: the proxy starts with nothing reachable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from yarl import URL

from iarproxy.config import UpstreamSettings
from iarproxy.errors import UnknownName
from iarproxy.oci import DOCKER_HUB
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.budget import Budget
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.certificates import Certificates, Files
from iarproxy.upstream.client import Client, Meter, Timeouts, Unmetered
from iarproxy.upstream.credentials_source import source_of
from iarproxy.upstream.egress import Proxy
from iarproxy.upstream.endpoint import Endpoint
from iarproxy.upstream.guard import Lookup, Policy, SystemLookup
from iarproxy.upstream.negative import Negative
from iarproxy.upstream.registry import Upstream, UpstreamStanding
from iarproxy.upstream.retry import Allowance, Retry
from iarproxy.upstream.spending import Spending
from iarproxy.upstream.tokens import Tokens

# Docker Hub's name is not the host of its API (clients.md 11.1).
_HUB_API = "registry-1.docker.io"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry.hub.docker.com"})


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Upstreams:
    """The upstreams by canonical name. Made by `open`, in the process and loop that use them."""

    def __init__(self, upstreams: Mapping[str, Upstream], held: AsyncExitStack) -> None:
        self._upstreams = dict(upstreams)
        self._held = held

    @classmethod
    async def open(
        cls,
        settings: Mapping[str, UpstreamSettings],
        *,
        cache_dir: Path | None,
        now: Callable[[], datetime] = _utc_now,
        lookup: Lookup | None = None,
        retry: Retry | None = None,
        timeouts: Timeouts | None = None,
        meter: Meter | None = None,
        via: str | None = None,
    ) -> Upstreams:
        """Prepare every upstream of the configuration; none is dialled.

        Args:
            settings: by canonical name.
            cache_dir: the folder that workers share, made with mode 0700; None: nothing is shared.
            now: aware UTC.
            lookup: name to addresses; None: the system's.
            retry: instead of the default.
            timeouts: instead of those in `settings`.
            meter: counts what is asked and what comes; None: nobody does.
            via: who we are in `Via`; None: nobody asks.

        Raises:
            ConfigError: a certificate or key cannot be used.
        """
        counted = meter or Unmetered()
        async with AsyncExitStack() as held:
            if lookup is None:
                lookup = system = SystemLookup()
                held.callback(system.close)
            cache = await SharedCache.open(cache_dir)
            held.push_async_callback(cache.close)
            upstreams = {}
            for name, each in settings.items():
                spending = Spending(name, cache, now, partial(counted.spent, name))
                endpoints = []
                for url in each.urls:
                    budget = Budget(
                        name,
                        _api(name, URL(url)),
                        cache=cache,
                        spending=spending,
                        now=now,
                        clock=asyncio.get_running_loop().time,
                        turned_away=partial(counted.turned_away, name),
                    )
                    client = await _client(
                        name,
                        each,
                        url,
                        lookup=lookup,
                        timeouts=_patience(each, timeouts),
                        meter=counted,
                        via=via,
                        budget=budget,
                    )
                    held.push_async_callback(client.close)
                    tokens = _tokens(name, each, client, cache, now)
                    held.push_async_callback(tokens.close)
                    endpoints.append(Endpoint(Asker(client, tokens, now), cache))
                upstreams[name] = Upstream(
                    endpoints,
                    negative=Negative(
                        name, cache, each.negative_ttl.total_seconds(), partial(counted.remembered, name)
                    ),
                    spending=spending,
                    retry=replace(retry or Retry(), allowance=Allowance()),
                    floor=each.budget_floor,
                )
                held.push_async_callback(upstreams[name].close)
            return cls(upstreams, held.pop_all())

    def __getitem__(self, registry: str) -> Upstream:
        """The upstream of a canonical registry name.

        Raises:
            UnknownName: it is not in the list.
        """
        try:
            return self._upstreams[registry]
        except KeyError:
            known = ", ".join(sorted(self._upstreams)) or "none"
            text = f"{registry[:160]} is not one of the configured upstreams: {known}"
            raise UnknownName(text, upstream=registry[:160]) from None

    def get(self, registry: str) -> Upstream | None:
        """The upstream of a canonical registry name; None: it is not in the list."""
        return self._upstreams.get(registry)

    def __contains__(self, registry: object) -> bool:
        return registry in self._upstreams

    @property
    def names(self) -> frozenset[str]:
        """The canonical names."""
        return frozenset(self._upstreams)

    async def standings(self) -> list[UpstreamStanding]:
        """How each stands with us, by name; none is asked."""
        return [await self._upstreams[name].standing() for name in sorted(self._upstreams)]

    async def close(self) -> None:
        """End what is under way and close all connections and the cache."""
        await self._held.aclose()


async def _client(
    name: str,
    settings: UpstreamSettings,
    base: str,
    *,
    lookup: Lookup,
    timeouts: Timeouts,
    meter: Meter,
    via: str | None,
    budget: Budget,
) -> Client:
    url = _api(name, URL(base))
    certificates = Certificates(Files(name, settings.ca_file, settings.client_cert_file, settings.client_key_file))
    await certificates.check()
    proxy = None
    if settings.proxy is not None:
        proxy = Proxy(name, URL(settings.proxy), settings.proxy_username, settings.proxy_password_file)
    return Client(
        name,
        url,
        lookup=lookup,
        timeouts=timeouts,
        blobs=settings.max_connections,
        policy=Policy.private(url) if settings.allow_private else None,
        certificates=certificates,
        proxy=proxy,
        namespace=name if settings.namespace else None,
        via=via,
        meter=meter,
        budget=budget,
    )


def _patience(settings: UpstreamSettings, given: Timeouts | None) -> Timeouts:
    """How long one endpoint may take: what clients wait for an answer (containerd: 30 s) is shared by all of them."""
    own = Timeouts(connect=settings.connect_timeout.total_seconds(), read=settings.read_timeout.total_seconds())
    whole, count = given or own, len(settings.urls)
    return replace(whole, connect=whole.connect / count, manifest=whole.manifest / count, blob=whole.blob / count)


def _api(name: str, url: URL) -> URL:
    if name == DOCKER_HUB and (url.host or "").lower() in _HUB_HOSTS:
        return url.with_host(_HUB_API)
    return url


def _tokens(
    name: str, settings: UpstreamSettings, client: Client, cache: SharedCache, now: Callable[[], datetime]
) -> Tokens:
    return Tokens(
        client, cache=cache, now=now, source=source_of(name, settings, client.url, now), auth_hosts=settings.auth_hosts
    )
