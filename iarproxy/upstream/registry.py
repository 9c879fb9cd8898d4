"""One upstream, as the mirror sees it: one registry, reached over one or more endpoints.

Rule 1: tries, their pauses and their budget are the upstream's, whatever endpoint they go to; see `failover`.
Rule 2: what is remembered of answers is little and short: long tag lists, missing digests, a missing referrers API.
        What a tag means is always asked anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from yarl import URL

from iarproxy.errors import Refused, UnknownBlob, UnknownManifest, UpstreamUnavailable
from iarproxy.oci import Digest, Tag
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.endpoint import Endpoint, FetchedManifest, spelled
from iarproxy.upstream.failover import Endpoints
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.transfer import Transfer

T = TypeVar("T")

_MISSING_FOR = 3.0  # seconds that a missing digest is remembered: a herd that asks for it costs one request


class Upstream:
    """One registry of the closed list. Made by `Upstreams`.

    Args:
        endpoints: in the order in which they are asked; the first is the primary one.
    """

    def __init__(self, endpoints: Sequence[Endpoint], cache: SharedCache, retry: Retry) -> None:
        self._endpoints = Endpoints(endpoints, asyncio.get_running_loop().time)
        self._primary = endpoints[0]
        self._blob_budget = 2.0 * sum(each.timeouts.blob for each in endpoints)
        self._cache = cache
        self._retry = retry

    @property
    def name(self) -> str:
        """The canonical name of the registry."""
        return self._primary.name

    @property
    def url(self) -> URL:
        """The configured base URL, of the primary endpoint."""
        return self._primary.url

    @property
    def source(self) -> str:
        """The primary endpoint's origin."""
        return self._primary.source

    async def manifest(self, repository_name: str, wanted: Tag | Digest) -> FetchedManifest:
        """The manifest that a tag or digest names, at most `MAX_MANIFEST` bytes.

        Raises:
            UnknownManifest, UnknownName, Denied: there is none for us.
            UpstreamWrong: the bytes contradict a header or the digest. Unavailable: no answer.
        """
        return await self._sought(
            f"the manifest {spelled(repository_name, wanted)}",
            wanted,
            UnknownManifest,
            lambda endpoint: endpoint.manifest(repository_name, wanted),
        )

    async def head_manifest(self, repository_name: str, wanted: Tag | Digest) -> Digest | None:
        """The digest that upstream names for a tag or digest, unverified; None: it names none.

        Raises:
            As `manifest`.
        """
        return await self._sought(
            f"the manifest {spelled(repository_name, wanted)}",
            wanted,
            UnknownManifest,
            lambda endpoint: endpoint.head_manifest(repository_name, wanted),
        )

    async def blob_size(self, repository_name: str, digest: Digest) -> int | None:
        """The size of a blob in bytes; None: upstream has it and does not tell.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. Unavailable: no answer.
        """
        return await self._sought(
            f"the blob {spelled(repository_name, digest)}",
            digest,
            UnknownBlob,
            lambda endpoint: endpoint.blob_size(repository_name, digest),
        )

    @asynccontextmanager
    async def blob(self, repository_name: str, digest: Digest, offset: int = 0) -> AsyncIterator[Transfer]:
        """One GET of a blob from `offset` on; the transfer says where its bytes really start.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. UpstreamWrong, Unavailable: no usable answer.
        """
        retry = replace(self._retry, budget=self._blob_budget)
        unless = None if offset else self._endpoints.giver(digest)

        async def begin(endpoint: Endpoint) -> tuple[Endpoint, Transfer]:
            return endpoint, await endpoint.begin(repository_name, digest, offset)

        async with self._primary.blob_slot():
            endpoint, transfer = await retry.run(
                f"the blob {spelled(repository_name, digest)}",
                lambda: self._endpoints.ask(begin, by_digest=True, unless=unless),
            )
            try:
                yield transfer
            except UpstreamUnavailable as error:
                self._endpoints.failed(endpoint, error)
                raise
            else:
                self._endpoints.gave(endpoint, digest)
            finally:
                transfer.release()

    async def tags(self, repository_name: str) -> list[str]:
        """The tags of a repository, in upstream's order, at most `listing.MAX_TAGS`.

        Raises:
            UnknownName, Denied: there is no such repository for us. UpstreamWrong, Unavailable: no usable answer.
        """
        retry = replace(self._retry, budget=2 * self._retry.budget)  # pages
        return await retry.run(
            f"the tags of {repository_name}",
            lambda: self._endpoints.ask(lambda endpoint: endpoint.tags(repository_name), by_digest=False),
        )

    async def referrers(self, repository_name: str, digest: Digest) -> bytes | None:
        """The image index of what refers to `digest`; None: this registry has no referrers API.

        Raises:
            Denied: it is not for us. UpstreamWrong, Unavailable: no usable answer.
        """
        what = f"the referrers of {spelled(repository_name, digest)}"
        return await self._retry.run(
            what,
            lambda: self._endpoints.ask(lambda endpoint: endpoint.referrers(repository_name, digest), by_digest=False),
        )

    async def _sought(
        self, what: str, wanted: Tag | Digest, missing: type[Refused], act: Callable[[Endpoint], Awaitable[T]]
    ) -> T:
        """The result of `act`, tried again as `Retry` says; a digest just found missing is not asked for."""
        by_digest = isinstance(wanted, Digest)
        key = f"missing {self.name} {self.source} {what}" if by_digest else ""
        if key and await self._cache.get(key) is not None:
            raise missing(f"{self.name} has no {what} (asked a moment ago)", upstream=self.name, status=404)
        try:
            return await self._retry.run(what, lambda: self._endpoints.ask(act, by_digest=by_digest))
        except missing:
            if key:
                await self._cache.put(key, b"-", _MISSING_FOR)
            raise
