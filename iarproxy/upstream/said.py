"""What an endpoint said of its limits, as workers share it: a few numbers in the shared cache.

Rule 1: what is read was written by us or is damaged; damaged says nothing.
Rule 2: of two quotas the newer one counts, of two holds the longer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson

from iarproxy.upstream.limits import Quota


@dataclass(frozen=True, slots=True)
class Said:
    """All moments are seconds since 1970; 0: never."""

    quota: Quota | None = None
    told_at: float = 0.0
    held_until: float = 0.0
    quota_held_until: float = 0.0

    def dump(self) -> bytes:
        """As bytes for the cache."""
        quota = self.quota
        told = [quota.remaining, quota.limit, quota.window, quota.until, quota.source] if quota else None
        return orjson.dumps([told, self.told_at, self.held_until, self.quota_held_until])

    @classmethod
    def load(cls, raw: bytes | None) -> Self:
        """From the cache."""
        try:
            match orjson.loads(raw or b"null"):
                case [told, int() | float() as told_at, int() | float() as held, int() | float() as quota_held]:
                    return cls(_quota(told), told_at, held, quota_held)
                case _:
                    return cls()
        except orjson.JSONDecodeError:
            return cls()


def merged(one: Said, other: Said) -> Said:
    """What both together say."""
    newer = max(one, other, key=lambda each: each.told_at)
    return Said(
        newer.quota,
        newer.told_at,
        max(one.held_until, other.held_until),
        max(one.quota_held_until, other.quota_held_until),
    )


def _quota(told: Any) -> Quota | None:
    match told:
        case [
            int() as remaining,
            int() | None as limit,
            int() | float() | None as window,
            int() | float() as until,
            str() as source,
        ]:
            return Quota(remaining, limit, window, until, source)
        case _:
            return None
