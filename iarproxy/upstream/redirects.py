"""Following redirects, one hop at a time, with nothing carried over that the next hop must not see.

Rule 1: at most five hops; https never leads to http; a Location with user or password is refused (threats T34, R44).
Rule 2: each hop's headers are built from nothing. Authorization goes to the upstream's own origin (scheme, host and
        port) and nowhere else, also when a redirect leads back to it. What is asked there passes `budget`.
Rule 3: a Location may be a signed URL: a secret. It is sent as it came, and never logged, kept or put into a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import aiohttp
from yarl import URL

from iarproxy.errors import UpstreamWrong
from iarproxy.upstream.client import Client, same_origin

_MAX_HOPS = 5
# Printable ASCII without what only sloppy readers allow in a URL; after a scheme of the web an authority must follow.
_SPELLING = re.compile(r"(?!https?:(?!//[^/?#]))[!#-;=?-\[\]-~]+", re.ASCII | re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, before it is known where it ends. `offset`: the first byte wanted; 0 means all, without a Range."""

    method: str
    url: URL
    accept: str = "*/*"
    offset: int = 0

    def headers(self, authorization: str | None) -> dict[str, str]:
        """The headers of one hop."""
        headers = {"Accept": self.accept}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
        if authorization is not None:
            headers["Authorization"] = authorization
        return headers


@dataclass(frozen=True, slots=True)
class Landed:
    """The answer at the end of the hops. `home`: it came from the upstream's own origin, not from a storage host."""

    response: aiohttp.ClientResponse
    url: URL
    home: bool


async def follow(client: Client, ask: Ask, authorization: str | None) -> Landed:
    """The first answer that is no redirect.

    Raises:
        UpstreamWrong: a redirect that is refused, or too many of them. Else as `Client.send`.
    """
    url = client.addressed(ask.url)
    for _ in range(_MAX_HOPS + 1):
        home = same_origin(url, client.url)
        send = partial(client.send, ask.method, url, ask.headers(authorization if home else None))
        response = await (client.budget.through(ask.method, ask.url, send) if home and client.budget else send())
        if response.status not in _REDIRECTS:
            return Landed(response, url, home)
        await client.drain(response)
        url = next_hop(client.name, url, response.headers.get("Location"))
    raise UpstreamWrong(f"{client.name} redirects more than {_MAX_HOPS} times", upstream=client.name)


def next_hop(name: str, url: URL, location: str | None) -> URL:
    """Where a redirect from `url` leads.

    Raises:
        UpstreamWrong: nowhere that we go.
    """
    target = _parsed(url, location)
    if target is None or target.scheme not in ("http", "https") or not target.host:
        raise UpstreamWrong(f"{name} redirects without a usable Location", upstream=name)
    if target.user is not None or target.password is not None:
        raise UpstreamWrong(f"{name} redirects to a URL with credentials in it", upstream=name, host=target.host)
    if (url.scheme, target.scheme) == ("https", "http"):
        raise UpstreamWrong(f"{name} redirects from https to plain http", upstream=name, host=target.host)
    return target.with_fragment(None)


def _parsed(url: URL, location: str | None) -> URL | None:
    # What a signed URL signs is its exact spelling: it is neither decoded nor quoted anew.
    if not location or _SPELLING.fullmatch(location) is None:
        return None
    try:
        target = url.join(URL(location, encoded=True))
        found = bool(target.host and target.port)  # an encoded URL is parsed only now that it is looked at
    except ValueError:
        return None
    return target if found else None
