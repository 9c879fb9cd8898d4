"""One upstream's connections: a session that sends what it is told to, and nothing else.

Rule 1: no cookies, no proxies or credentials from the environment, no decompression, no redirects; the headers of a
        request are exactly those given (threats T34, T37, T42, T46; lab L7, L8, L10).
Rule 2: each upstream has its own connections and TLS context, so that nothing meant for one reaches another (T38).
Rule 3: every phase has a deadline: name look-up and connecting, the answer's headers, each read of its body.
Rule 4: exceptions of aiohttp end here. Their texts hold URLs and bodies, so no text of theirs goes into ours (T39).
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp
from yarl import URL

import iarproxy
from iarproxy.errors import ConfigError, UpstreamTimeout, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.guard import AddressRefused, GuardedResolver, Lookup, Policy

T = TypeVar("T")

USER_AGENT = f"iarproxy/{iarproxy.__version__}"

_READ = 2**16  # bytes that are read ahead of the consumer of an answer: its first ones do not wait for more
_MAX_FIELD = 16_384  # bytes of one header field: signed URLs are long
_MAX_FIELDS = 128
_MAX_DRAINED = 16_384  # bytes of a body that nobody wants
_DRAIN_FOR = 0.5  # seconds
_SPARE = 8  # connections beyond those that blobs may take: a manifest never waits for a layer


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


class Meter(Protocol):
    """Whoever counts what upstreams are asked and send; `iarproxy.metrics.Metrics` is one."""

    def asked(self, upstream: str, outcome: str) -> None:
        """One request was answered with a status of the class `outcome` (`2xx`...), or `timeout`, `unreachable`."""
        ...

    def received(self, upstream: str, count: int) -> None:
        """So many bytes of a body came."""
        ...


class Unmetered:
    """Counts nothing."""

    def asked(self, upstream: str, outcome: str) -> None:
        """Nothing."""

    def received(self, upstream: str, count: int) -> None:
        """Nothing."""


class Client:
    """Sends requests for one upstream.

    Args:
        name: the upstream's canonical name, for messages.
        url: its configured base.
        blobs: how many blobs may be under way at once.
        policy: what may be dialled; None: what the URL says.
        meter: is told each request and what came.
    """

    def __init__(
        self,
        name: str,
        url: URL,
        *,
        lookup: Lookup,
        timeouts: Timeouts,
        blobs: int = 32,
        ca_file: Path | None = None,
        policy: Policy | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Unmetered()
        self.name = name
        self.url = url
        self.policy = policy or Policy.of(url)
        self.timeouts = timeouts
        self.blob_slots = asyncio.Semaphore(blobs)
        self._tls = None if ca_file is None else _tls(name, ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=blobs + _SPARE,
                ttl_dns_cache=30,
                dns_cache_max_size=256,
                resolver=GuardedResolver(self.policy, lookup),
                socket_factory=self.policy.socket,
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
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        self._check_host(url)
        tls = await self._tls_for(url)
        request = self._session.request(method, url, headers=sent, data=data, ssl=tls, allow_redirects=False)
        try:
            response = await self._guarded(request)
        except UpstreamUnavailable as error:
            self._meter.asked(self.name, "timeout" if isinstance(error, UpstreamTimeout) else "unreachable")
            raise
        self._meter.asked(self.name, f"{response.status // 100}xx")
        return response

    async def _tls_for(self, url: URL) -> ssl.SSLContext | bool:
        if url.scheme != "https":
            return True
        if self._tls is None:
            # Reading the system's certificates takes 0.1 s of a core: not on the loop, and not before it is needed.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

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
        except TimeoutError:
            failure: UpstreamUnavailable = UpstreamTimeout(f"{self.name} did not answer in time", upstream=self.name)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._failure(error)
        # Outside the except block: aiohttp's exceptions hold the request's headers, and as the context of ours they
        # would travel with it into whatever prints a chain of exceptions.
        raise failure

    def _check_host(self, url: URL) -> None:
        try:
            self.policy.check_host(url.host or "")
        except AddressRefused as error:
            raise self._refused(error) from None

    def _failure(self, error: Exception) -> UpstreamUnavailable:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
            return self._refused(error.os_error)
        if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
            return UpstreamWrong(f"{self.name} sent an answer that is no valid HTTP", upstream=self.name)
        text = _cause(error)
        return UpstreamUnavailable(f"{self.name} is unreachable: {text}", upstream=self.name, cause=text)

    def _refused(self, error: AddressRefused) -> UpstreamWrong:
        remedy = "private addresses are dialled only for an upstream whose configured url names one"
        return UpstreamWrong(f"{self.name}: {error.strerror}; {remedy}", upstream=self.name, cause="address policy")

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _cause(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "its TLS certificate or handshake is not acceptable"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return f"no connection ({os.strerror(number) if number else type(error.os_error).__name__})"
        case aiohttp.ClientPayloadError():
            return "the body broke off"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case _:
            return f"the connection broke ({type(error).__name__})"


def _tls(name: str, ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(
            f'upstreams."{name}".ca_file {ca_file} cannot be used: {error.strerror or "not a PEM certificate"}'
        ) from error
