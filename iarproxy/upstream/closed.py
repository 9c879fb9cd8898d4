"""The closed list of upstreams: what is not in it is never dialled (design invariant 9).

Rule 1: a key is a canonical registry name; it comes from the configuration, never from a request.
Rule 2: nothing is dialled or resolved before something is asked for: the proxy starts with nothing reachable.
Rule 3: what is offline dials nothing at all; see `offline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from iarproxy.config import UpstreamSettings
from iarproxy.errors import UnknownName
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.client import Timeouts
from iarproxy.upstream.guard import Lookup, SystemLookup
from iarproxy.upstream.metering import Meter, Unmetered
from iarproxy.upstream.offline import Lacks, OfflineUpstream, unexplained
from iarproxy.upstream.opening import Opening
from iarproxy.upstream.registry import Upstream, UpstreamStanding
from iarproxy.upstream.retry import Retry


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Upstreams:
    """The upstreams by canonical name. Made by `open` or `offline`, in the process and loop that use them.

    Attributes:
        is_offline: none of them is ever asked.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], held: AsyncExitStack, *, is_offline: bool = False) -> None:
        self._upstreams = dict(upstreams)
        self._held = held
        self.is_offline = is_offline

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
        async with AsyncExitStack() as held:
            if lookup is None:
                lookup = system = SystemLookup()
                held.callback(system.close)
            cache = await SharedCache.open(cache_dir)
            held.push_async_callback(cache.close)
            opening = Opening(held, cache, now, lookup, retry or Retry(), timeouts, meter or Unmetered(), via)
            upstreams = {name: await opening.upstream(name, each) for name, each in settings.items()}
            return cls(upstreams, held.pop_all())

    @classmethod
    def offline(cls, settings: Mapping[str, UpstreamSettings], lacks: Lacks = unexplained) -> Upstreams:
        """The same upstreams, of which none is ever asked: every ask fails at once, as `Offline`.

        Args:
            settings: by canonical name; neither credentials nor certificates are read.
            lacks: why something is not here.
        """
        made = {name: OfflineUpstream(name, each.urls[0], lacks) for name, each in settings.items()}
        return cls(made, AsyncExitStack(), is_offline=True)

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
