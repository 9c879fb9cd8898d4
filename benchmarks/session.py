"""One run: which workloads on which servers, in which order, and what becomes of the results."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, report, workloads_hot
from benchmarks.arena import Arena
from benchmarks.measure import Series, median, spread
from benchmarks.peers import Peer, all_peers
from benchmarks.processes import Failed


@dataclass
class Session:
    """What a run asks for, and what it found so far."""

    arena: Arena
    peers: list[Peer]
    only: list[str]
    rounds: int
    seconds: float
    quick: bool
    found: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return not self.only or any(name.startswith(each) for each in self.only)

    def keep(self, name: str, title: str, unit: str, series: dict[str, Series]) -> None:
        """Take the samples of a workload into the results, and show them."""
        samples = {server: each.as_json() for server, each in series.items()}
        self.found["workloads"][name] = {"title": title, "unit": unit, "servers": samples}
        print(f"\n{name}: {title}")
        for server, each in series.items():
            print(f"  {server:24} {_shown(each, unit)}", flush=True)


def _shown(series: Series, unit: str) -> str:
    if series.failure is not None or not series.samples:
        return f"failed: {series.failure}"
    scale, word = (1e-9, "GB") if unit == "bytes" else (1.0, "requests")
    per_cpu, wall = median(series.samples, f"{unit}_per_cpu"), median(series.samples, f"{unit}_per_second")
    parts = [
        f"{(per_cpu or 0) * scale:10,.2f} {word}/CPU-s +-{spread(series.samples, f'{unit}_per_cpu') or 0:4.0%}",
        f"{(wall or 0) * scale:10,.2f} {word}/s",
        f"p50 {median(series.samples, 'p50_us') or 0:9,.0f} us  p99 {median(series.samples, 'p99_us') or 0:9,.0f} us",
        f"generator {median(series.samples, 'generator_share') or 0:4.0%}",
        f"others {median(series.samples, 'others_share') or 0:4.0%}",
        f"upstream {max(each.get('upstream_requests', 0) for each in series.samples):.0f}",
    ]
    return "  ".join(parts)


def names() -> list[str]:
    """The workloads, by name."""
    return [workload.name for workload in workloads_hot.ALL]


def run(options: argparse.Namespace) -> None:
    """Measure what `options` ask for; write results and report.

    Raises:
        Failed: nothing can be measured at all.
    """
    only, servers = _words(options.only), _words(options.servers)
    known = all_peers(options.tools, options.iarproxy, options.against)
    strange = [each for each in servers if each not in {peer.name for peer in known}]
    strange += [each for each in only if not any(name.startswith(each) for name in names())]
    if strange:
        raise Failed(
            f"unknown: {', '.join(strange)}; servers: {', '.join(p.name for p in known)}; workloads: see `list`"
        )
    with Arena.open() as arena:
        session = Session(
            arena,
            workloads_hot.chosen(servers, known),
            only,
            options.rounds or (2 if options.quick else 5),
            options.seconds or (1 if options.quick else 2),
            options.quick,
            {"machine": machine.facts(options.tools, options.iarproxy, arena.scratch), "workloads": {}},
        )
        try:
            _measure(session)
        finally:
            _finish(session, options, whole=not only and not servers)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _measure(session: Session) -> None:
    for peer in list(session.peers):
        reason = peer.missing()
        if reason:
            session.skipped[peer.name] = reason
            session.peers.remove(peer)
            print(f"without {peer.name}: {reason}")
    _hot(session)


def _hot(session: Session) -> None:
    wanted = [workload for workload in workloads_hot.ALL if session.wants(workload.name)]
    if not wanted:
        return
    image = workloads_hot.prepare(session.arena.content)
    with ExitStack() as stack:
        source = stack.enter_context(session.arena.source())
        servers = stack.enter_context(session.arena.servers(session.peers, source, session.skipped))
        hall = workloads_hot.warmed(session.arena, source, image, servers, session.skipped)
        for workload in wanted:
            series = hall.run(workload, session.rounds, session.seconds)
            session.keep(workload.name, workload.title, workload.unit, series)


def _finish(session: Session, options: argparse.Namespace, *, whole: bool) -> None:
    session.found["skipped"] = session.skipped
    for name, reason in session.skipped.items():
        print(f"left out: {name}: {reason}")
    if not session.found["workloads"] or not (whole or options.save):
        return
    results: Path = options.results
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(session.found, indent=1) + "\n")
    report.write(results, options.docs)
