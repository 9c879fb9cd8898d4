"""What a registry says about how much may still be asked of it.

Rule 1: it is said by the upstream's own origin only; what a storage host says is about somebody else.
Rule 2: it is a hint: nothing is believed for longer than its window, and never for more than `_LONGEST`.
Rule 3: headers are bounded before they are looked at; what does not parse says nothing.

Docker Hub: `ratelimit-limit: 100;w=21600`, `ratelimit-remaining: 76;w=21600`, `docker-ratelimit-source` (clients.md
11.3). Drafts of the IETF (httpapi-ratelimit-headers): `RateLimit-Limit`, `-Remaining`, `-Reset` (03 to 06);
`RateLimit: limit=100, remaining=50, reset=30` (07); `RateLimit: "default";r=50;t=30` with `RateLimit-Policy:
"default";q=100;w=60` (08 on).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_HEADER = 512  # characters
_LONGEST = 6 * 3600.0  # seconds that a quota is believed
_NUMBER = re.compile(r"[ \t]*([0-9]{1,12})(?![0-9.])", re.ASCII)
_PARAMETER = re.compile(
    r"(?:\A|[,;\s])(limit|remaining|reset|q|w|r|t)[ \t]*=[ \t]*([0-9]{1,12})(?![0-9.])", re.ASCII | re.IGNORECASE
)
_SOURCE = re.compile(r"[0-9A-Za-z.:_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quota:
    """What was said last.

    Attributes:
        remaining: requests that are left.
        limit: requests in a window; None: not said.
        window: seconds; None: not said.
        until: seconds since 1970 after which this says nothing any more.
        source: whom upstream counts (an address or an account); empty: not said.
    """

    remaining: int
    limit: int | None
    window: float | None
    until: float
    source: str = ""


def parse_quota(headers: Mapping[str, str], now: float) -> Quota | None:
    """The quota that an answer's headers tell; None: none that can be read. `now`: seconds since 1970."""
    joint = _parameters(headers.get("RateLimit", ""))
    policy = _parameters(headers.get("RateLimit-Policy", "")) | _parameters(headers.get("RateLimit-Limit", ""))
    remaining = _number(headers.get("RateLimit-Remaining"), joint.get("remaining", joint.get("r")))
    if remaining is None:
        return None
    limit = _number(headers.get("RateLimit-Limit"), joint.get("limit", policy.get("q")))
    reset = _number(headers.get("RateLimit-Reset"), joint.get("reset", joint.get("t")))
    window = policy.get("w")
    believed = reset if reset is not None else window
    source = headers.get("Docker-RateLimit-Source", "")
    return Quota(
        remaining=remaining,
        limit=limit,
        window=None if window is None else float(window),
        until=now + (_LONGEST if believed is None else min(float(believed), _LONGEST)),
        source=source if _SOURCE.fullmatch(source) else "",
    )


def _number(header: str | None, otherwise: int | None) -> int | None:
    found = _NUMBER.match((header or "")[:_MAX_HEADER])
    return otherwise if found is None else int(found[1])


def _parameters(header: str) -> dict[str, int]:
    """The first value of each parameter."""
    found: dict[str, int] = {}
    for each in _PARAMETER.finditer(header[:_MAX_HEADER]):
        found.setdefault(each[1].lower(), int(each[2]))
    return found
