"""Foreign layers: bytes that a manifest says are at another host, fetched from there if the configuration names it.

Rule 1: only hosts of `foreign_hosts`, each exactly as written: scheme, name and port. `HOST` is https on its own port.
Rule 2: no credential, token, certificate of ours or `ns` goes there; redirects and addresses are judged as for any
        upstream, from what is written for that host.
Rule 3: the size that the manifest tells bounds the transfer; the digest is checked by whoever takes the bytes.
Rule 4: what manifests told is remembered for all workers, in memory and in the shared cache: both bounded, both to be
        had again from the manifests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import orjson
from yarl import URL

from iarproxy.errors import Refused, UnknownBlob, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.oci.foreign import Foreign
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.client import Client
from iarproxy.upstream.redirects import Ask, Landed, follow
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.transfer import Transfer, begin

Origin: TypeAlias = tuple[str, str, int | None]

_REMEMBERED = 4096
_OF_ONE = 512  # foreign layers of one manifest; images have a few
_KEPT_FOR = 30 * 86_400.0  # seconds
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_MISSING = frozenset({404, 410})


def base_of(host: str) -> URL:
    """The origin that an entry of `foreign_hosts` allows."""
    return URL(host if "://" in host else f"https://{host}")


class ForeignLayers:
    """The foreign layers of one upstream. `clients`: one for each host that is allowed, by its origin."""

    def __init__(self, name: str, clients: Sequence[Client], cache: SharedCache, retry: Retry) -> None:
        self._name = name
        self._clients: Mapping[Origin, Client] = {_origin(each.url): each for each in clients}
        self._cache = cache
        self._retry = retry
        self._told: OrderedDict[tuple[str, Digest], Foreign] = OrderedDict()

    async def learn(self, repository: str, layers: Sequence[Foreign]) -> None:
        """Remember what a manifest of the repository tells."""
        fresh = [each for each in layers[:_OF_ONE] if self._told.get((repository, each.digest)) != each]
        for each in fresh:
            self._remember(repository, each)
        told = {self._key(repository, each.digest): orjson.dumps([each.size, each.urls]) for each in fresh}
        await self._cache.put_all(told, _KEPT_FOR)

    async def told(self, repository: str, digest: Digest) -> Foreign | None:
        """What was told of a digest; None: nothing."""
        found = self._told.get((repository, digest))
        if found is None:
            found = _load(digest, await self._cache.get(self._key(repository, digest)))
            if found is not None:
                self._remember(repository, found)
        return found

    def allowed(self, layer: Foreign) -> list[URL]:
        """Where the layer may be fetched.

        Raises:
            UnknownBlob: nowhere; names the hosts and the setting.
        """
        urls = [url for url in map(_parsed, layer.urls) if url is not None]
        allowed = [url for url in urls if _origin(url) in self._clients]
        if allowed:
            return allowed
        hosts = ", ".join(dict.fromkeys(_spelled(url) for url in urls)) or "no usable address"
        raise UnknownBlob(
            f"{self._name} does not have the foreign layer {layer.digest}, which its manifest says is at {hosts[:300]};"
            f' to have it fetched from there, add the host to foreign_hosts in upstreams."{self._name}"',
            upstream=self._name,
        )

    @asynccontextmanager
    async def blob(self, layer: Foreign, offset: int = 0) -> AsyncIterator[Transfer]:
        """One GET of a foreign layer from `offset` on; the transfer says where its bytes really start.

        Raises:
            UnknownBlob: it is nowhere where it may be fetched. UpstreamWrong, Unavailable: no usable answer.
        """
        urls = self.allowed(layer)
        what = f"the foreign layer {layer.digest}"
        transfer = await self._retry.run(what, lambda: self._first(urls, layer, offset))
        try:
            yield transfer
        finally:
            transfer.release()

    async def _first(self, urls: Sequence[URL], layer: Foreign, offset: int) -> Transfer:
        failure: Refused | UpstreamUnavailable | None = None
        for url in urls:
            try:
                return await self._begin(self._clients[_origin(url)], Ask("GET", url, offset=offset), layer)
            except (Refused, UpstreamUnavailable) as error:
                failure = error if failure is None or isinstance(failure, Refused) else failure
        assert failure is not None  # noqa: S101  # there is a url, and it failed
        raise failure

    async def _begin(self, client: Client, ask: Ask, layer: Foreign) -> Transfer:
        async with client.within(client.timeouts.blob):
            landed = await follow(client, ask, None)
        transfer = None
        try:
            if landed.response.status in (_OK, _PARTIAL):
                transfer = begin(client, landed, layer.digest, ask.offset)
            elif landed.response.status != _UNSATISFIABLE or not ask.offset:
                raise self._failure(client, landed, layer)
        finally:
            if transfer is None:
                landed.response.release()
        if transfer is None:
            return await self._begin(client, replace(ask, offset=0), layer)
        if transfer.size not in (None, layer.size):
            transfer.release()
            text = f"{_spelled(client.url)} sends {transfer.size} bytes, and the manifest says {layer.size}"
            raise UpstreamWrong(text, upstream=self._name, digest=str(layer.digest))
        transfer.size = layer.size
        return transfer

    def _failure(self, client: Client, landed: Landed, layer: Foreign) -> Refused | UpstreamUnavailable:
        status = landed.response.status
        text = f"{_spelled(client.url)} answered {status} for the foreign layer {layer.digest}"
        if status in _MISSING:
            return UnknownBlob(text, upstream=self._name, status=status)
        return UpstreamUnavailable(text, upstream=self._name, status=status)

    def _remember(self, repository: str, layer: Foreign) -> None:
        self._told[repository, layer.digest] = layer
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    def _key(self, repository: str, digest: Digest) -> str:
        return f"foreign {self._name} {repository} {digest}"


def _load(digest: Digest, raw: bytes | None) -> Foreign | None:
    try:
        match orjson.loads(raw or b"null"):
            case [int(size), [*urls]] if all(isinstance(each, str) for each in urls):
                return Foreign(digest, size, tuple(urls))
            case _:
                return None
    except orjson.JSONDecodeError:
        return None


def _parsed(text: str) -> URL | None:
    try:
        url = URL(text, encoded=True)
        usable = url.host and url.port and url.user is None and url.password is None
    except ValueError:
        return None
    return url.with_fragment(None) if usable else None


def _origin(url: URL) -> Origin:
    return url.scheme, (url.host or "").lower(), url.port


def _spelled(url: URL) -> str:
    return f"{url.scheme}://{url.host}:{url.port}"
