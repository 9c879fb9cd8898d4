"""`Via`: which instances of iarproxy a request came through, so that one that comes back to us is noticed (item 64).

Rule 1: an instance is named by a pseudonym that tells nothing but "the same one as before".
Rule 2: of what a client sends only such pseudonyms are passed on to an upstream, and at most `MAX_HOPS` of them.
Rule 3: what is asked of upstream on behalf of a request carries its way. The way travels in a context variable, since
        every task that works for a request inherits it, whatever room started the task.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

MAX_HOPS = 8
_NAME = re.compile(r"iarproxy-[0-9a-f]{12}", re.ASCII)
_came_through: ContextVar[tuple[str, ...]] = ContextVar("came_through", default=())


def pseudonym(identity: str) -> str:
    """The name in `Via` of the instance whose store has that identity."""
    return f"iarproxy-{hashlib.sha256(f'via {identity}'.encode()).hexdigest()[:12]}"


def parse_via(values: Sequence[str]) -> tuple[str, ...]:
    """The instances that the `Via` headers of a request name, in order (RFC 9110 section 7.6.3)."""
    hops = [hop.split() for value in values for hop in value.split(",")]
    return tuple(hop[1] for hop in hops if len(hop) > 1 and _NAME.fullmatch(hop[1]))


@contextmanager
def on_the_way(hops: tuple[str, ...]) -> Iterator[None]:
    """What is asked of upstreams inside is asked for a request that came through `hops`."""
    token = _came_through.set(hops)
    try:
        yield
    finally:
        _came_through.reset(token)


def via_header(own: str | None) -> dict[str, str]:
    """The `Via` header of a request to an upstream; empty where we have no name."""
    if own is None:
        return {}
    return {"Via": ", ".join(f"1.1 {hop}" for hop in (*_came_through.get(), own))}
