"""Upstreams that are never asked: what a site without a network has in place of registries.

Rule 1: no session, no resolver, no cache, no thread: there is nothing here that could dial.
Rule 2: every ask fails at once as `Offline`: nobody tries it again, and nobody takes it for upstream's word that there
        is none.
Rule 3: why there is none is told by whoever knows what was brought; this room does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from yarl import URL

from iarproxy.errors import Offline
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.upstream.asked import Purpose
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.endpoint import FetchedManifest, Told
from iarproxy.upstream.foreign import ForeignLayers
from iarproxy.upstream.registry import Upstream, UpstreamStanding
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Lack:
    """Why something is not here, for people; `detail`: the facts of it, for machines."""

    message: str
    detail: Mapping[str, str | int] = field(default_factory=dict)


Wanted: TypeAlias = Tag | Digest | None  # None: any tag of the repository
Lacks: TypeAlias = Callable[[Repository, Wanted], Awaitable[Lack]]


async def unexplained(repository: Repository, wanted: Wanted) -> Lack:
    """Why something is not here, where nobody knows more."""
    what = f"{repository}" if wanted is None else f"{wanted} of {repository}"
    return Lack(f"{what} is not held, and this site is offline")


class OfflineUpstream(Upstream):
    """A registry of the closed list that is not asked. It has nothing of what it inherits but the interface.

    Args:
        name: the canonical name of the registry.
        url: where it would be asked.
        lacks: why something is not here.
    """

    def __init__(self, name: str, url: str, lacks: Lacks) -> None:
        self._name = name
        self._url = URL(url)
        self._lacks = lacks
        self.foreign = ForeignLayers(name, (), SharedCache(None), Retry())  # no host, and no folder to share

    @property
    def name(self) -> str:
        """See `Upstream`; so for the rest."""
        return self._name

    @property
    def url(self) -> URL:
        """Where it would be asked."""
        return self._url

    @property
    def source(self) -> str:
        """The origin of that."""
        return str(self._url.origin())

    async def manifest(
        self,
        repository_name: str,
        wanted: Tag | Digest,
        purpose: Purpose = Purpose.CLIENT,  # noqa: ARG002  # as `Upstream`
    ) -> FetchedManifest:
        """Fails."""
        await self._fail(repository_name, wanted)

    async def told(
        self,
        repository_name: str,
        wanted: Tag | Digest,
        purpose: Purpose = Purpose.CLIENT,  # noqa: ARG002  # as `Upstream`
    ) -> Told:
        """Fails."""
        await self._fail(repository_name, wanted)

    async def blob_size(self, repository_name: str, digest: Digest) -> int | None:
        """Fails."""
        await self._fail(repository_name, digest)

    @asynccontextmanager
    async def blob(self, repository_name: str, digest: Digest, offset: int = 0) -> AsyncIterator[Transfer]:  # noqa: ARG002  # as `Upstream`
        """Fails."""
        yield await self._fail(repository_name, digest)

    async def tags(self, repository_name: str) -> list[str]:
        """Fails."""
        await self._fail(repository_name, None)

    async def referrers(self, repository_name: str, digest: Digest) -> bytes | None:
        """Fails."""
        await self._fail(repository_name, digest)

    async def attached(self, repository_name: str, digest: Digest) -> bytes | None:
        """Fails."""
        await self._fail(repository_name, digest)

    async def require(self, purpose: Purpose) -> None:
        """Nothing is ever spent."""

    async def standing(self) -> UpstreamStanding:
        """Nothing is known of it."""
        return UpstreamStanding(self._name, endpoints=(), spenders=(), under_way=0, waiting=0, floor=0, offline=True)

    async def close(self) -> None:
        """There is nothing to close."""

    async def _fail(self, repository_name: str, wanted: Wanted) -> NoReturn:
        lack = await self._lacks(Repository.of(self._name, repository_name), wanted)
        raise Offline(lack.message, upstream=self._name, cause="offline", **lack.detail)
