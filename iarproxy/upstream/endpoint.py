"""One base URL of an upstream, asked once: manifests, blobs, tags and referrers, or one of our two kinds of failure.

Rule 1: GET and HEAD only; both ask for manifests with the full Accept list, so that a tag means one thing.
Rule 2: success is status 200 (206 for a part that was asked for); a header that contradicts the bytes is refused;
        bodies are bounded before they are read (threats T42, T44).
Rule 3: a HEAD is a hint. Where a registry answers it worse than the GET (401, 403, 405), the GET decides.
Rule 4: one call is one try. Whether another one follows, here or at another endpoint, `registry.Upstream` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from yarl import URL

from iarproxy.errors import DigestInvalid, UnknownBlob, UnknownManifest, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import DOCKER_HUB, MAX_MANIFEST, Digest, Tag
from iarproxy.oci.media_types import ACCEPT_MANIFESTS, without_parameters
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.budget import Budget
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.client import Timeouts
from iarproxy.upstream.listing import Lists
from iarproxy.upstream.redirects import Ask
from iarproxy.upstream.transfer import Transfer, begin

_EVIDENCE = ("date", "etag", "last-modified", "docker-content-digest", "content-type", "content-length")
_GONE = "none"  # see `server.standing`
_MAX_EVIDENCE = 512  # characters of one header kept as evidence
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_PROGRESS = 65_536  # bytes of a blob that are worth a request
_POOR_HEAD = frozenset({400, 401, 403, 405, 501})


@dataclass(frozen=True, slots=True)
class Beyond:
    """What an upstream that is itself a mirror says that its own upstream offers now; unverified.

    Attributes:
        digest: of what is offered; None: the tag is gone there.
        by_primary: it is the primary endpoint that says so.
    """

    digest: Digest | None
    by_primary: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """What the answer to a HEAD says of a manifest; unverified.

    Attributes:
        digest: None: it names none.
        beyond: None: it says nothing of that.
    """

    digest: Digest | None
    beyond: Beyond | None = None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's bytes as upstream sent them.

    Attributes:
        media_type: what upstream claims, without parameters; empty where it claims nothing.
        digest_header: `Docker-Content-Digest`, which agrees with the bytes; None: there was none.
        headers: for evidence; names are lower case.
        source: the origin of the endpoint that sent them.
        beyond: where that is a mirror, what it says of its own upstream; None: nothing.
    """

    raw: bytes
    media_type: str
    digest_header: str | None
    headers: dict[str, str]
    source: str = ""
    beyond: Beyond | None = None


class Endpoint:
    """One base URL with its connections, credentials and tokens. Made by `Upstreams`."""

    def __init__(self, asker: Asker, cache: SharedCache) -> None:
        self._asker = asker
        self._client = asker.client
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
        """The origin: where a pin says that it comes from."""
        return str(self._client.url.origin())

    @property
    def timeouts(self) -> Timeouts:
        """How long one try may take."""
        return self._client.timeouts

    async def manifest(self, repository: str, wanted: Tag | Digest) -> FetchedManifest:
        """See `Upstream.manifest`."""
        what = f"manifest {spelled(repository, wanted)}"
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
        return FetchedManifest(raw, media_type, told, evidence, self.source, _beyond(headers))

    async def head_manifest(self, repository: str, wanted: Tag | Digest) -> Told:
        """See `Upstream.told`."""
        ask = Ask("HEAD", self._path(repository, "manifests", wanted), ACCEPT_MANIFESTS)
        async with self._asker.answer(ask, repository) as landed:
            headers = landed.response.headers
            if landed.response.status == _OK:
                return Told(_digest(headers.get("Docker-Content-Digest", "")), _beyond(headers))
            if landed.response.status not in _POOR_HEAD:
                what = f"manifest {spelled(repository, wanted)}"
                raise await self._asker.failure(landed, what, UnknownManifest)
        fetched = await self.manifest(repository, wanted)
        digest = Digest.of(fetched.raw, wanted.algorithm if isinstance(wanted, Digest) else "sha256")
        return Told(digest, fetched.beyond)

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """See `Upstream.blob_size`."""
        url, what = self._path(repository, "blobs", digest), f"blob {spelled(repository, digest)}"
        for method in ("HEAD", "GET"):
            async with self._asker.answer(Ask(method, url), repository) as landed:
                response = landed.response
                if response.status == _OK:
                    return None if "Content-Encoding" in response.headers else response.content_length
                if method == "GET" or response.status not in _POOR_HEAD:
                    raise await self._asker.failure(landed, what, UnknownBlob)
        raise AssertionError("the loop returns or raises")

    @property
    def budget(self) -> Budget | None:
        """What it may be asked now."""
        return self._client.budget

    @property
    def under_way(self) -> int:
        """How many blobs are."""
        return self._client.places.taken

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return self._client.places.waiting + self._client.small_places.waiting

    def broke(self, repository: str, transfer: Transfer, error: UpstreamUnavailable) -> None:
        """A transfer was not what it should be; one that came some way is resumed, and shuts nothing."""
        if self.budget is not None and transfer.home and transfer.came < _PROGRESS:
            self.budget.broke(self._api_name(repository), str(error))

    def completed(self, repository: str) -> None:
        """A transfer came whole."""
        if self.budget is not None:
            self.budget.completed(self._api_name(repository))

    def blob_place(self, repository: str) -> AbstractAsyncContextManager[None]:
        """One of the connections that blobs may take. Raises `UpstreamHeld` where none becomes free in time."""
        return self._asker.blob_place(repository)

    async def begin(self, repository: str, digest: Digest, offset: int) -> Transfer:
        """The transfer of a blob from `offset` on, or from where it likes. The caller releases it.

        Raises:
            As `Upstream.blob`.
        """
        return await self._begin(Ask("GET", self._path(repository, "blobs", digest), offset=offset), repository, digest)

    async def tags(self, repository: str) -> list[str]:
        """See `Upstream.tags`."""
        return await self._lists.tags(repository, self._path(repository, "tags", "list"))

    async def referrers(self, repository: str, digest: Digest, *, strictly: bool = False) -> bytes | None:
        """See `Upstream.referrers`, and with `strictly` `Upstream.attached`."""
        return await self._lists.referrers(repository, self._path(repository, "referrers", digest), strictly=strictly)

    async def _begin(self, ask: Ask, repository: str, digest: Digest) -> Transfer:
        """The transfer that answers `ask`; without a Range where upstream answers another part than asked for."""
        landed = await self._asker.timely(ask, repository)
        response = landed.response
        transfer = None
        try:
            if response.status in (_OK, _PARTIAL):
                transfer = begin(self._client, landed, digest, ask.offset)
            elif response.status != _UNSATISFIABLE or not ask.offset:
                raise await self._asker.failure(landed, f"blob {spelled(repository, digest)}", UnknownBlob)
        finally:
            if transfer is None:
                response.release()
        if transfer is None:
            return await self._begin(replace(ask, offset=0), repository, digest)
        return transfer

    def _path(self, repository: str, kind: str, last: object) -> URL:
        return self.url.with_path(f"/v2/{self._api_name(repository)}/{kind}/{last}")

    def _api_name(self, repository: str) -> str:
        return f"library/{repository}" if self.name == DOCKER_HUB and "/" not in repository else repository


def spelled(repository: str, wanted: Tag | Digest) -> str:
    """A reference for messages."""
    return f"{repository}@{wanted}" if isinstance(wanted, Digest) else f"{repository}:{wanted}"


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None


def _beyond(headers: Mapping[str, str]) -> Beyond | None:
    told = headers.get("IAR-Upstream-Digest", "")
    digest = _digest(told)
    return Beyond(digest) if digest is not None or told == _GONE else None


def _agrees(told: str, raw: bytes) -> bool:
    digest = _digest(told)
    return digest is not None and Digest.of(raw, digest.algorithm) == digest
