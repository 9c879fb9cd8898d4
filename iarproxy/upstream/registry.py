"""One upstream, as the mirror sees it: manifests, blobs, tags and referrers, or one of our two kinds of failure.

Rule 1: GET and HEAD only; both ask for manifests with the full Accept list, so that a tag means one thing.
Rule 2: success is status 200 (206 for a part that was asked for); a header that contradicts the bytes is refused;
        bodies are bounded before they are read (threats T42, T44).
Rule 3: a HEAD is a hint. Where a registry answers it worse than the GET (401, 403, 405), the GET decides.
Rule 4: what is remembered of answers is little and short: long tag lists, missing digests, a missing referrers API.
        What a tag means is always asked anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import aiohttp
from yarl import URL

from iarproxy.errors import DigestInvalid, Refused, UnknownBlob, UnknownManifest, UpstreamWrong
from iarproxy.oci import DOCKER_HUB, MAX_MANIFEST, Digest, Tag
from iarproxy.oci.media_types import ACCEPT_MANIFESTS, without_parameters
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.listing import Lists
from iarproxy.upstream.redirects import Ask
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.transfer import Transfer, begin

T = TypeVar("T")

_EVIDENCE = ("date", "etag", "last-modified", "docker-content-digest", "content-type", "content-length")
_MAX_EVIDENCE = 512  # characters of one header kept as evidence
_MISSING_FOR = 3.0  # seconds that a missing digest is remembered: a herd that asks for it costs one request
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_POOR_HEAD = frozenset({400, 401, 403, 405, 501})


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's bytes as upstream sent them.

    Attributes:
        media_type: what upstream claims, without parameters; empty where it claims nothing.
        digest_header: `Docker-Content-Digest`, which agrees with the bytes; None: there was none.
        headers: for evidence; names are lower case.
    """

    raw: bytes
    media_type: str
    digest_header: str | None
    headers: dict[str, str]


class Upstream:
    """One registry of the closed list. Made by `Upstreams`."""

    def __init__(self, asker: Asker, cache: SharedCache, retry: Retry) -> None:
        self._asker = asker
        self._client = asker.client
        self._cache = cache
        self._retry = retry
        self._lists = Lists(asker, cache)

    @property
    def name(self) -> str:
        """The canonical name of the registry."""
        return self._client.name

    @property
    def url(self) -> URL:
        """The configured base URL."""
        return self._client.url

    @property
    def source(self) -> str:
        """Where a pin says that it comes from."""
        return str(self._client.url.origin())

    async def manifest(self, repository_name: str, wanted: Tag | Digest) -> FetchedManifest:
        """The manifest that a tag or digest names, at most `MAX_MANIFEST` bytes.

        Raises:
            UnknownManifest, UnknownName, Denied: there is none for us.
            UpstreamWrong: the bytes contradict a header or the digest. Unavailable: no answer.
        """
        return await self._sought(
            f"the manifest {_spelled(repository_name, wanted)}",
            wanted,
            UnknownManifest,
            lambda: self._manifest(repository_name, wanted),
        )

    async def head_manifest(self, repository_name: str, wanted: Tag | Digest) -> Digest | None:
        """The digest that upstream names for a tag or digest, unverified; None: it names none.

        Raises:
            As `manifest`.
        """
        return await self._sought(
            f"the manifest {_spelled(repository_name, wanted)}",
            wanted,
            UnknownManifest,
            lambda: self._head(repository_name, wanted),
        )

    async def blob_size(self, repository_name: str, digest: Digest) -> int | None:
        """The size of a blob in bytes; None: upstream has it and does not tell.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. Unavailable: no answer.
        """
        return await self._sought(
            f"the blob {_spelled(repository_name, digest)}",
            digest,
            UnknownBlob,
            lambda: self._blob_size(repository_name, digest),
        )

    @asynccontextmanager
    async def blob(self, repository_name: str, digest: Digest, offset: int = 0) -> AsyncIterator[Transfer]:
        """One GET of a blob from `offset` on; the transfer says where its bytes really start.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. UpstreamWrong, Unavailable: no usable answer.
        """
        ask = Ask("GET", self._path(repository_name, "blobs", digest), offset=offset)
        retry = replace(self._retry, budget=2 * self._client.timeouts.blob)
        async with self._asker.blob_slot():
            transfer, response = await retry.run(
                f"the blob {_spelled(repository_name, digest)}", lambda: self._begin(ask, repository_name, digest)
            )
            try:
                yield transfer
            finally:
                response.release()  # which closes the connection unless the body was read to its end

    async def tags(self, repository_name: str) -> list[str]:
        """The tags of a repository, in upstream's order, at most `listing.MAX_TAGS`.

        Raises:
            UnknownName, Denied: there is no such repository for us. UpstreamWrong, Unavailable: no usable answer.
        """
        url = self._path(repository_name, "tags", "list")
        retry = replace(self._retry, budget=2 * self._retry.budget)  # pages
        return await retry.run(f"the tags of {repository_name}", lambda: self._lists.tags(repository_name, url))

    async def referrers(self, repository_name: str, digest: Digest) -> bytes | None:
        """The image index of what refers to `digest`; None: this registry has no referrers API.

        Raises:
            Denied: it is not for us. UpstreamWrong, Unavailable: no usable answer.
        """
        url = self._path(repository_name, "referrers", digest)
        what = f"the referrers of {_spelled(repository_name, digest)}"
        return await self._retry.run(what, lambda: self._lists.referrers(repository_name, url))

    # --- one try ------------------------------------------------------------------------------------------------------

    async def _sought(
        self, what: str, wanted: Tag | Digest, missing: type[Refused], attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """The result of `attempt`, tried again as `Retry` says; a digest just found missing is not asked for."""
        key = f"missing {self.source} {what}" if isinstance(wanted, Digest) else ""
        if key and await self._cache.get(key) is not None:
            raise missing(f"{self.name} has no {what} (asked a moment ago)", upstream=self.name, status=404)
        try:
            return await self._retry.run(what, attempt)
        except missing:
            if key:
                await self._cache.put(key, b"-", _MISSING_FOR)
            raise

    async def _manifest(self, repository: str, wanted: Tag | Digest) -> FetchedManifest:
        what = f"manifest {_spelled(repository, wanted)}"
        ask = Ask("GET", self._path(repository, "manifests", wanted), ACCEPT_MANIFESTS)
        async with self._asker.answer(ask, repository) as landed:
            raw = await self._asker.body(landed, what, UnknownManifest, MAX_MANIFEST)
            headers = landed.response.headers
        media_type = without_parameters(headers.get("Content-Type"))
        told = headers.get("Docker-Content-Digest")
        if media_type == "text/html":
            raise UpstreamWrong(f"{self.name} answers a web page for the {what}", upstream=self.name)
        if told is not None and not _agrees(told, raw):
            raise UpstreamWrong(f"{self.name} names a digest that its bytes for the {what} do not have")
        if isinstance(wanted, Digest) and Digest.of(raw, wanted.algorithm) != wanted:
            raise UpstreamWrong(f"{self.name} sends bytes for the {what} that do not have this digest")
        evidence = {name: headers[name][:_MAX_EVIDENCE] for name in _EVIDENCE if name in headers}
        return FetchedManifest(raw, media_type, told, evidence)

    async def _head(self, repository: str, wanted: Tag | Digest) -> Digest | None:
        ask = Ask("HEAD", self._path(repository, "manifests", wanted), ACCEPT_MANIFESTS)
        async with self._asker.answer(ask, repository) as landed:
            told = landed.response.headers.get("Docker-Content-Digest", "")
            if landed.response.status == _OK:
                return _digest(told)
            if landed.response.status not in _POOR_HEAD:
                what = f"manifest {_spelled(repository, wanted)}"
                raise await self._asker.failure(landed, what, UnknownManifest)
        raw = (await self._manifest(repository, wanted)).raw
        return Digest.of(raw, wanted.algorithm if isinstance(wanted, Digest) else "sha256")

    async def _blob_size(self, repository: str, digest: Digest) -> int | None:
        url, what = self._path(repository, "blobs", digest), f"blob {_spelled(repository, digest)}"
        for method in ("HEAD", "GET"):
            async with self._asker.answer(Ask(method, url), repository) as landed:
                response = landed.response
                if response.status == _OK:
                    return None if "Content-Encoding" in response.headers else response.content_length
                if method == "GET" or response.status not in _POOR_HEAD:
                    raise await self._asker.failure(landed, what, UnknownBlob)
        raise AssertionError("the loop returns or raises")

    async def _begin(self, ask: Ask, repository: str, digest: Digest) -> tuple[Transfer, aiohttp.ClientResponse]:
        """The transfer that answers `ask`; without a Range where upstream answers another part than asked for."""
        landed = await self._asker.timely(ask, repository)
        response = landed.response
        transfer = None
        try:
            if response.status in (_OK, _PARTIAL):
                transfer = begin(self._client, response, digest, ask.offset)
            elif response.status != _UNSATISFIABLE or not ask.offset:
                raise await self._asker.failure(landed, f"blob {_spelled(repository, digest)}", UnknownBlob)
        finally:
            if transfer is None:
                response.release()
        if transfer is None:
            return await self._begin(replace(ask, offset=0), repository, digest)
        return transfer, response

    def _path(self, repository: str, kind: str, last: object) -> URL:
        if self.name == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return self.url.with_path(f"/v2/{repository}/{kind}/{last}")


def _spelled(repository: str, wanted: Tag | Digest) -> str:
    return f"{repository}@{wanted}" if isinstance(wanted, Digest) else f"{repository}:{wanted}"


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None


def _agrees(told: str, raw: bytes) -> bool:
    digest = _digest(told)
    return digest is not None and Digest.of(raw, digest.algorithm) == digest
