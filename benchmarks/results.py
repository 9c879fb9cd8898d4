"""The results as the report reads them: samples by workload and server, and the numbers made of them.

Rule 1: a ratio is the median over rounds of our sample divided by the peer's of the same round.
Rule 2: what is not there is None, and shows as a dash; a failure shows as what the server said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Sample, median, ratio, spread

OURS = "iarproxy"


@dataclass(frozen=True)
class Found:
    """The results file."""

    raw: dict[str, Any]

    def workloads(self, *kinds: str) -> list[str]:
        """The names of the measured workloads of these kinds, in the order of measurement."""
        return [name for name, work in self.raw["workloads"].items() if work["kind"] in kinds]

    def title(self, work: str) -> str:
        return str(self.raw["workloads"][work]["title"])

    def label(self, server: str) -> str:
        """The server's name as people would say it."""
        return str(self.raw.get("servers", {}).get(server, server))

    def servers(self, work: str) -> list[str]:
        return list(self.raw["workloads"].get(work, {}).get("servers", {}))

    def samples(self, work: str, server: str) -> list[Sample]:
        """None at all where the server failed in any round."""
        series = self.raw["workloads"].get(work, {}).get("servers", {}).get(server, {})
        return [] if series.get("failure") else list(series.get("samples", []))

    def failure(self, work: str, server: str) -> str | None:
        series = self.raw["workloads"].get(work, {}).get("servers", {}).get(server, {})
        said = series.get("failure")
        return None if said is None else str(said)

    def value(self, work: str, server: str, metric: str) -> float | None:
        return median(self.samples(work, server), metric)

    def spread(self, work: str, server: str, metric: str) -> float | None:
        return spread(self.samples(work, server), metric)

    def ratio(self, work: str, metric: str, peer: str, ours: str = OURS) -> float | None:
        return ratio(self.samples(work, ours), self.samples(work, peer), metric)


Shown = Callable[[float], str]


def plain(value: float) -> str:
    """A number of about three digits that matter."""
    if value >= 99.95 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(value: float) -> str:
    """Bytes, with the unit that fits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= scale:
            return f"{plain(value / scale)} {unit}"
    return f"{value:.0f} B"


def span(microseconds: float) -> str:
    """A time, with the unit that fits."""
    if microseconds >= 1e6:
        return f"{plain(microseconds / 1e6)} s"
    return f"{plain(microseconds / 1e3)} ms" if microseconds >= 1000 else f"{microseconds:.0f} us"


def seconds(value: float) -> str:
    return span(value * 1e6)


def times(value: float) -> str:
    """A ratio."""
    return f"{plain(value)} x"
