"""Who spends what of an upstream: requests by repository and kind, over the last hours, of all workers.

Rule 1: counting is an addition in memory. Every few seconds each worker adds what it counted to the shared tally.
Rule 2: a tally is bounded: hours, repositories, bytes. Whoever comes when it is full is counted under `OTHERS`.
Rule 3: what is read back was written by us, or is damaged: damaged is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from iarproxy.upstream.asked import Kind
from iarproxy.upstream.behind import Behind
from iarproxy.upstream.cache import SharedCache

OTHERS = "(others)"
WINDOW = 6  # hours, the one that has begun included
_HOUR = 3600
_KEPT_FOR = float((WINDOW + 1) * _HOUR)  # seconds
_REPOSITORIES = 500  # in one hour
_WRITE_EVERY = 5.0  # seconds

Tally: TypeAlias = dict[int, dict[str, Counter[str]]]  # hour since 1970 -> repository -> kind -> requests


@dataclass(frozen=True, slots=True)
class Spender:
    """What was asked for one repository; `requests` by kind."""

    repository: str
    requests: Mapping[str, int]

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())


class Spending:
    """The tally of one upstream: this worker's part of it, and all workers' as they last wrote it."""

    def __init__(
        self,
        name: str,
        cache: SharedCache,
        now: Callable[[], datetime],
        counted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._key = f"spent {name}"
        self._cache = cache
        self._now = now
        self._counted = counted
        self._ours: Tally = {}
        self._behind = Behind(self._write, _WRITE_EVERY)

    def count(self, repository: str, kind: Kind) -> None:
        """One request was sent."""
        _add(self._ours, self._hour(), repository or OTHERS, kind.value, 1)
        self._behind.changed()
        self._counted(kind.value)

    async def spenders(self) -> list[Spender]:
        """Who spent in the window, most first."""
        tally = _merged(_load(await self._cache.get(self._key)), self._ours)
        sums: dict[str, Counter[str]] = {}
        for hour, spent in tally.items():
            if hour > self._hour() - WINDOW:
                for repository, kinds in spent.items():
                    sums.setdefault(repository, Counter()).update(kinds)
        found = [Spender(repository, dict(kinds)) for repository, kinds in sums.items()]
        return sorted(found, key=lambda each: (-each.total, each.repository))

    async def close(self) -> None:
        """Write what was counted since the last time."""
        await self._behind.close()

    def _hour(self) -> int:
        return int(self._now().timestamp()) // _HOUR

    async def _write(self) -> None:
        ours, self._ours = self._ours, {}
        oldest = self._hour() - WINDOW
        written = await self._cache.update(self._key, lambda raw: _dump(_merged(_load(raw), ours), oldest), _KEPT_FOR)
        if not written:
            self._ours = _merged(ours, self._ours)


def _add(tally: Tally, hour: int, repository: str, kind: str, count: int) -> None:
    spent = tally.setdefault(hour, {})
    if repository not in spent and len(spent) >= _REPOSITORIES:
        repository = OTHERS
    spent.setdefault(repository, Counter())[kind] += count


def _merged(one: Tally, other: Tally) -> Tally:
    """Both together; the first one is changed."""
    for hour, spent in other.items():
        for repository, kinds in spent.items():
            for kind, count in kinds.items():
                _add(one, hour, repository, kind, count)
    while len(one) > WINDOW + 1:
        del one[min(one)]
    return one


def _dump(tally: Tally, oldest: int) -> bytes:
    return orjson.dumps({str(hour): spent for hour, spent in tally.items() if hour > oldest})


def _load(raw: bytes | None) -> Tally:
    try:
        hours: dict[str, dict[str, dict[str, Any]]] = orjson.loads(raw or b"{}")
        return {
            int(hour): {name: Counter({kind: int(n) for kind, n in kinds.items()}) for name, kinds in spent.items()}
            for hour, spent in hours.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
