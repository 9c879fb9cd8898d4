"""Requests that come back: an upstream whose url leads to this server, straight or through other mirrors (item 64).

Rule: only a request that may have to ask upstream is looked at; what the fast lane answers is held, and ends any loop.
"""

from __future__ import annotations

from multidict import CIMultiDictProxy

from iarproxy.errors import UpstreamLoops
from iarproxy.upstream.via import MAX_HOPS, parse_via

_REMEDY = (
    "an upstream's url, here or at a mirror in between, leads to this server again; write there the url of the registry"
    " itself"
)


def way_of(headers: CIMultiDictProxy[str], own: str | None) -> tuple[str, ...]:
    """The mirrors of our kind that a request came through.

    Raises:
        UpstreamLoops: this instance, `own`, is one of them; or there are more of them than anybody needs.
    """
    if "Via" not in headers:
        return ()
    hops = parse_via(headers.getall("Via"))
    if own is not None and own in hops:
        raise UpstreamLoops(f"iarproxy: this request was sent by this very server: {_REMEDY}", via=own)
    if len(hops) >= MAX_HOPS:
        raise UpstreamLoops(f"iarproxy: this request came through {len(hops)} mirrors: {_REMEDY}")
    return hops
