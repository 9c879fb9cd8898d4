"""One upstream's connections: a session that sends what it is told to, and nothing else.

Rule 1: no cookies, no proxies or credentials from the environment, no decompression, no redirects; the headers of a
        request are exactly those given (threats T34, T37, T42, T46; lab L7, L8, L10).
Rule 2: each endpoint has its own connections and TLS contexts, so that nothing meant for one reaches another (T38).
Rule 3: every phase has a deadline: name look-up and connecting, the answer's headers, each read of its body.
Rule 4: exceptions of aiohttp end here. Their texts hold URLs and bodies, so no text of theirs goes into ours (T39).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

import iarproxy
from iarproxy.errors import UpstreamTimeout, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.budget import Budget
from iarproxy.upstream.certificates import Certificates, Files
from iarproxy.upstream.egress import Proxy, Route
from iarproxy.upstream.guard import AddressRefused, GuardedResolver, Lookup, Policy
from iarproxy.upstream.metering import Meter, Unmetered
from iarproxy.upstream.turns import Turns
from iarproxy.upstream.via import via_header

T = TypeVar("T")

USER_AGENT = f"iarproxy/{iarproxy.__version__}"

_READ = 2**16  # bytes that are read ahead of the consumer of an answer: its first ones do not wait for more
_MAX_FIELD = 16_384  # bytes of one header field: signed URLs are long
_MAX_FIELDS = 128
_MAX_DRAINED = 16_384  # bytes of a body that nobody wants
_DRAIN_FOR = 0.5  # seconds
_PROXY_LOGIN = 407
_SPARE = 16  # connections beyond those that blobs may take: a manifest never waits for a layer


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds.

    Attributes:
        connect: for name look-up, TCP and TLS.
        manifest: for one whole answer that is not a blob; below the patience of clients (containerd: 30).
        blob: for the headers of a blob's answer, and for a free connection.
        read: without a byte of a body.
        pace: over which a body's rate is judged; below `floor` bytes a second it is given up (threats T50).
    """

    connect: float = 10.0
    manifest: float = 20.0
    blob: float = 30.0
    read: float = 30.0
    pace: float = 30.0
    floor: float = 1024.0


def same_origin(one: URL, other: URL) -> bool:
    """Whether both have the same scheme, host and port."""
    return (one.scheme, (one.host or "").lower(), one.port) == (other.scheme, (other.host or "").lower(), other.port)


class Client:
    """Sends requests for one endpoint of an upstream.

    Args:
        name: the upstream's canonical name, for messages.
        url: the endpoint's configured base.
        blobs: how many blobs may be under way at once.
        policy: what may be dialled; None: what the URL says.
        certificates: for https; None: the system's authorities, and no certificate of ours.
        proxy: the way out; None: straight.
        namespace: the `ns` that requests to the endpoint itself carry; None: none.
        via: who we are in `Via`; None: nobody asks.
        meter: is told each request and what came.
        budget: says what the origin of `url` may be asked now; None: everything.
    """

    def __init__(
        self,
        name: str,
        url: URL,
        *,
        lookup: Lookup,
        timeouts: Timeouts,
        blobs: int = 32,
        policy: Policy | None = None,
        certificates: Certificates | None = None,
        proxy: Proxy | None = None,
        namespace: str | None = None,
        via: str | None = None,
        meter: Meter | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._meter = meter or Unmetered()
        self.name = name
        self.url = url
        self.policy = policy or Policy.of(url)
        self.timeouts = timeouts
        self.budget = budget
        full = partial(self._meter.turned_away, name, "full")
        self.places = Turns(name, "blobs", blobs, full)
        self.small_places = Turns(name, "manifests and lists", _SPARE, full)
        self._certificates = certificates or Certificates(Files(name))
        self._proxy = proxy
        self._namespace = namespace
        self._via = via
        dialled = self.policy if proxy is None else Policy.of(proxy.url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=blobs + _SPARE,
                ttl_dns_cache=30,
                dns_cache_max_size=256,
                resolver=GuardedResolver(dialled, lookup),
                socket_factory=dialled.socket,
                keepalive_timeout=30,
                enable_cleanup_closed=sys.version_info < (3, 12, 8),
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timeouts.connect, sock_connect=timeouts.connect, sock_read=timeouts.read
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            requote_redirect_url=False,
            read_bufsize=_READ,
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
            max_headers=_MAX_FIELDS,
        )

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], *, data: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send one request; the answer's status and headers are there, its body is not. The caller releases it.

        Raises:
            UpstreamTimeout, UpstreamUnavailable: no answer. UpstreamWrong: an address that may not be dialled.
        """
        self._check_host(url)
        tls = True if url.scheme != "https" else await self._certificates.context(home=same_origin(url, self.url))
        route = Route() if self._proxy is None else await self._proxy.route(url)
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **via_header(self._via), **headers}
        request = self._session.request(
            method,
            url,
            headers=sent | {key: value.reveal() for key, value in route.headers},
            data=data,
            ssl=tls,
            allow_redirects=False,
            proxy=route.proxy,
            proxy_headers={key: value.reveal() for key, value in route.proxy_headers},
        )
        try:
            response = await self._guarded(request)
            self._check_passed(response)
        except UpstreamUnavailable as error:
            self._meter.asked(self.name, "timeout" if isinstance(error, UpstreamTimeout) else "unreachable")
            raise
        self._meter.asked(self.name, f"{response.status // 100}xx")
        return response

    def addressed(self, url: URL) -> URL:
        """The URL of a request to the endpoint itself, with what it needs to know whom the request is meant for."""
        return url if self._namespace is None else url.update_query(ns=self._namespace)

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next piece of a body; empty at its end.

        Raises:
            UpstreamTimeout, UpstreamUnavailable: it broke off or stalled.
        """
        piece = await self._guarded(response.content.readany())
        self._meter.received(self.name, len(piece))
        return piece

    async def drain(self, response: aiohttp.ClientResponse) -> None:
        """Be done with an answer of which only its head mattered; its connection is kept where that costs little."""
        if response.content_length is not None and response.content_length <= _MAX_DRAINED:
            with suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_DRAIN_FOR):
                    await response.content.read(_MAX_DRAINED)
        response.release()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """A deadline for what happens inside; when it passes, `UpstreamTimeout`."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise UpstreamTimeout(f"{self.name} did not answer in time", upstream=self.name) from None

    async def _guarded(self, work: Awaitable[T]) -> T:
        """The result of `work`, an act of aiohttp, or one of our failures."""
        try:
            return await work
        except TimeoutError as error:
            phase = "connect" if isinstance(error, aiohttp.ConnectionTimeoutError) else None
            text = f"{self.name} did not answer in time"
            failure: UpstreamUnavailable = UpstreamTimeout(text, upstream=self.name, phase=phase)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._failure(error)
        # Outside the except block: aiohttp's exceptions hold the request's headers, and as the context of ours they
        # would travel with it into whatever prints a chain of exceptions.
        raise failure

    def _check_host(self, url: URL) -> None:
        try:
            if self._proxy is None:
                self.policy.check_host(url.host or "")
            else:
                self.policy.check_unresolved(url.host or "")
        except AddressRefused as error:
            raise self._refused(error) from None

    def _check_passed(self, response: aiohttp.ClientResponse) -> None:
        """Raise where it is the proxy that answered, and wants a login."""
        if self._proxy is not None and response.status == _PROXY_LOGIN:
            response.release()
            raise self._refused_by_proxy(_PROXY_LOGIN)

    def _refused_by_proxy(self, status: int) -> UpstreamUnavailable:
        remedy = "; set proxy_username and proxy_password_file" if status == _PROXY_LOGIN else ""
        text = f"{self.name} is unreachable: its proxy answers {status}{remedy}"
        return UpstreamUnavailable(text, upstream=self.name, status=status, cause="proxy")

    def _failure(self, error: Exception) -> UpstreamUnavailable:
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return self._refused_by_proxy(error.status)
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
            return self._refused(error.os_error)
        if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
            return UpstreamWrong(f"{self.name} sent an answer that is no valid HTTP", upstream=self.name)
        text = _cause(error, "its" if self._proxy is None else "its proxy's")
        phase = "connect" if isinstance(error, aiohttp.ClientConnectorError) else None
        return UpstreamUnavailable(f"{self.name} is unreachable: {text}", upstream=self.name, cause=text, phase=phase)

    def _refused(self, error: AddressRefused) -> UpstreamWrong:
        remedy = "private addresses are dialled only for an upstream whose configured url names one"
        return UpstreamWrong(f"{self.name}: {error.strerror}; {remedy}", upstream=self.name, cause="address policy")

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _cause(error: Exception, whose: str) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"{whose} name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "its TLS certificate or handshake is not acceptable"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            to = "" if whose == "its" else "to its proxy "
            return f"no connection {to}({os.strerror(number) if number else type(error.os_error).__name__})"
        case aiohttp.ClientPayloadError():
            return "the body broke off"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case _:
            return f"the connection broke ({type(error).__name__})"
