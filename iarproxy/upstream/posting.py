"""One bounded POST of JSON to an address that the operator wrote: webhooks, and endpoints that decide by policy.

Rule 1: the address comes from the configuration only; no redirect is followed, and nothing is dialled that its own
        spelling does not allow (`guard.Policy.of`, decision D19); a proxy is one that is written down (D30).
Rule 2: one deadline for all of it, a bounded answer, and a connection of its own: what is sent seldom would else fail
        now and then on a connection that was closed meanwhile, and a POST is not repeated here.
Rule 3: an address may hold a secret in its path or query, headers hold tokens, and bodies are others' business: of all
        these no message tells anything. It tells the setting, the origin and the status.
Rule 4: a status of 2xx is an answer. 408, 425, 429 and 5xx are `Unavailable`, with what `Retry-After` says; every other
        one is `Refused`. Nothing is tried again here: only who posts knows what another try is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from yarl import URL

from iarproxy.errors import Denied, Refused, UpstreamUnavailable, UpstreamWrong
from iarproxy.upstream.certificates import Certificates, Files
from iarproxy.upstream.client import Client, Timeouts
from iarproxy.upstream.egress import Proxy
from iarproxy.upstream.guard import Lookup, Policy, SystemLookup
from iarproxy.upstream.retry import parse_retry_after

MAX_ANSWER = 65_536  # bytes
_CONNECT = 10.0  # seconds
_REDIRECTS = range(300, 400)
_OK = range(200, 300)
_LATER = frozenset({408, 425, 429})
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Destination:
    """Where something is posted.

    Attributes:
        name: of the setting, for messages; for example `webhooks.ops`.
        url: http or https, without user and password.
        ca_file: the authority to trust (PEM); None: the system's.
        proxy: an HTTP proxy, `http://HOST:PORT`; None: straight.
        allow_private: the name may resolve to private addresses.
    """

    name: str
    url: str
    ca_file: Path | None = None
    proxy: str | None = None
    allow_private: bool = False

    def __repr__(self) -> str:
        return f"Destination({self.spelled})"

    @property
    def spelled(self) -> str:
        """Setting and origin: what a message may tell (rule 3)."""
        return f"{self.name} at {URL(self.url).origin()}"


@dataclass(frozen=True, slots=True)
class Posted:
    """What was answered with 2xx. `body`: empty where none was wanted."""

    status: int
    body: bytes


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Poster:
    """Posts to one destination. Made in the loop that uses it, and closed by who made it.

    Args:
        destination: where to.
        timeout: seconds for one POST, from the name's look-up to the answer's end.
        lookup: name to addresses; None: the system's.
        now: aware UTC; for a `Retry-After` that is a date.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        timeout: float,
        lookup: Lookup | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._destination = destination
        self._timeout = timeout
        self._now = now
        self._url = url = URL(destination.url)
        self._names = SystemLookup(threads=1)
        proxy = None if destination.proxy is None else Proxy(destination.name, URL(destination.proxy))
        self._client = Client(
            destination.spelled,
            url,
            lookup=lookup or self._names,
            timeouts=Timeouts(connect=min(_CONNECT, timeout), manifest=timeout, blob=timeout, read=timeout),
            blobs=1,
            policy=Policy.private(url) if destination.allow_private else Policy.of(url),
            certificates=Certificates(Files(destination.name, destination.ca_file, section=destination.name)),
            proxy=proxy,
        )

    async def post(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, media_type: str, wanted: int = MAX_ANSWER
    ) -> Posted:
        """Send `body`, and wait for what comes back.

        Args:
            body: as it is sent.
            headers: further ones; their values never show up anywhere.
            media_type: of `body`.
            wanted: bytes of the answer at most; 0: its body is left unread.

        Raises:
            Refused: the answer is no (`detail["status"]` says which), or a certificate file cannot be used.
            Unavailable: no usable answer came in time.
        """
        sent = {"Accept": "application/json", **(headers or {}), "Content-Type": media_type, "Connection": "close"}
        async with self._client.within(self._timeout):
            response = await self._client.send("POST", self._url, sent, data=body)
            try:
                self._check(response)
                return Posted(response.status, await self._read(response, wanted))
            finally:
                response.close()

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status, spelled = response.status, self._destination.spelled
        if status in _OK:
            return
        text = f"{spelled} answered {status}"
        if status in _LATER or status >= _SERVER_ERROR:
            wait = parse_retry_after(response.headers.get("Retry-After"), self._now())
            raise UpstreamUnavailable(text, retry_after=wait, status=status)
        if status in _REDIRECTS:
            raise Refused(f"{text}: redirects are not followed; write the address that it means", status=status)
        raise Denied(text, status=status)

    async def _read(self, response: aiohttp.ClientResponse, wanted: int) -> bytes:
        body = b""
        while wanted and len(body) <= wanted and (piece := await self._client.read(response)):
            body += piece
        if len(body) > wanted:
            raise UpstreamWrong(f"{self._destination.spelled} answered with more than {wanted} bytes")
        return body

    async def close(self) -> None:
        """Close what is open."""
        await self._client.close()
        self._names.close()
