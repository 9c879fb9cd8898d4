"""The goals that the data plane was given, and whether the results reach them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Found, Shown, size, span, times


def _count(value: float) -> str:
    return f"{value:.0f}"


@dataclass(frozen=True)
class Goal:
    """`least`: the value must not be smaller than the target; else not larger. `value` None: not measured."""

    work: str
    target: float
    value: float | None
    least: bool = True
    show: Shown = times

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.least else '<='} {self.show(self.target)}"

    @property
    def verdict(self) -> str:
        """In words: reached, or short by how much."""
        if self.value is None:
            return "not measured"
        if (self.value >= self.target) if self.least else (self.value <= self.target):
            return "reached"
        part = self.value / self.target if self.least else self.target / max(self.value, 1e-9)
        return (
            f"**short**: {part:.0%} of the way"
            if self.least
            else f"**short**: {1 / max(part, 1e-9):.2g} times the goal"
        )


def goals(found: Found) -> Iterator[Goal]:
    """Every goal, with what was measured."""
    yield from _against(found, "manifest-get", "hot manifest by tag", "requests", {"nginx": 1.5, "drayage": 6})
    yield from _against(found, "manifest-get", "hot manifest by tag", "requests", {"docker-registry-cache": 100})
    ours = {"nginx": 1.0, "drayage": 20, "docker-registry": 20, "docker-registry-cache": 20}
    yield from _against(found, "blob64k", "64 KiB blob", "requests", ours)
    for work, words in (("blob4m", "4 MiB blob"), ("blob256m", "256 MiB blob")):
        yield from _against(found, work, words, "bytes", {"nginx": 1.0, "docker-registry": 1.5, "drayage": 10})
    p99 = found.value("ingest-p99", "iarproxy", "p99_ratio")
    yield Goal("p99 of a hot manifest while a large cold blob comes in, to its idle p99", 3, p99, least=False)
    yield from _cold(found)
    yield from _memory(found)
    yield from _growth(found)


def _against(found: Found, work: str, words: str, unit: str, peers: dict[str, float]) -> Iterator[Goal]:
    for peer, target in peers.items():
        value = found.ratio(work, f"{unit}_per_cpu", peer)
        yield Goal(f"{words}, {unit} per CPU-second, to {peer}", target, value)


def _cold(found: Found) -> Iterator[Goal]:
    first, direct = (found.value("cold-first", each, "first_byte_p50_us") for each in ("iarproxy", "direct"))
    late = first - direct if first is not None and direct is not None else None
    yield Goal("cold blob, first byte later than upstream's by", 5000, late, least=False, show=span)
    yield Goal("cold blob, throughput to the slower of direct and one core's sha256", 0.9, _of_the_possible(found))
    for work in ("herd-1000", "herd-100"):
        copies = found.value(work, "iarproxy", "upstream_ratio")
        if copies is not None:
            yield Goal(f"{found.title(work)}: upstream bytes", 1.0, round(copies, 3), least=False)
            failed = found.value(work, "iarproxy", "failures")
            yield Goal(f"{found.title(work)}: failures", 0, failed, least=False, show=_count)


def _of_the_possible(found: Found) -> float | None:
    """By the clock ours and direct; sha256 by its processor time, as if nobody else used the machine."""
    wanted = (("iarproxy", "bytes_per_second"), ("direct", "bytes_per_second"), ("sha256", "bytes_per_cpu"))
    speeds = ([sample[metric] for sample in found.samples("cold-blob", server)] for server, metric in wanted)
    parts = [ours / min(direct, hashed) for ours, direct, hashed in zip(*speeds, strict=False)]
    return statistics.median(parts) if parts else None


def _memory(found: Found) -> Iterator[Goal]:
    idle = found.value("memory", "iarproxy", "idle_worker")
    yield Goal("memory of an idle worker", 60e6, idle, least=False, show=size)
    each = found.value("memory", "iarproxy", "per_connection")
    yield Goal("memory of an idle connection", 10e3, each, least=False, show=size)
    large, small = (found.value("memory", "iarproxy", name) for name in ("cold_1g", "cold_4m"))
    flat = large / small if large and small else None
    yield Goal("memory flat in blob size: peak at 1 GiB cold, to 4 MiB cold", 1.1, flat, least=False)


def _growth(found: Found) -> Iterator[Goal]:
    grown = found.raw.get("growth", {})
    few, most = grown.get("1000", {}), grown.get("1000000", {})
    start = most.get("start_seconds")
    value = None if start is None else start * 1e6
    yield Goal("start with 10^6 blobs and pins, to the first answer", 2e6, value, least=False, show=span)
    for fact in (each for each in most if each.endswith("_per_cpu_second") and few.get(each)):
        words = fact.removesuffix("_per_cpu_second").replace("_", " ")
        yield Goal(f"hits per CPU-second ({words}) with 10^6 blobs and pins, to 10^3", 0.9, most[fact] / few[fact])
