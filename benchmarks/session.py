"""One run: which workloads on which servers, in which order, and what becomes of the results."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, report, workloads_cold, workloads_hot, workloads_image, workloads_memory
from benchmarks.arena import Arena
from benchmarks.measure import Series, median, spread
from benchmarks.peers import Peer, all_peers
from benchmarks.plan import Plan, Work
from benchmarks.processes import Failed

_OWN_STAGE: list[Work] = [*workloads_cold.ALL, *workloads_image.ALL, *workloads_memory.ALL]
_LATER = {"tls": "iarproxy has no TLS listener yet: what stands in front of it ends TLS"}
GROWTH = "growth"
_ROOT = Path(__file__).parent.parent


@dataclass
class Session:
    """What a run asks for, and what it found so far."""

    arena: Arena
    peers: list[Peer]
    only: list[str]
    plan: Plan
    iarproxy: Path
    found: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return not self.only or any(name.startswith(each) for each in self.only)

    def keep(self, name: str, title: str, kind: str, series: dict[str, Series]) -> None:
        """Take the samples of a workload into the results, and show them."""
        servers = {server: each.as_json() for server, each in series.items()}
        facts = {key: self.found["machine"][key] for key in ("time", "commit")} | {"quick": self.plan.quick}
        self.found["workloads"][name] = {"title": title, "kind": kind, **facts, "servers": servers}
        print(f"\n{name}: {title}")
        for server, each in series.items():
            print(f"  {server:24} {_shown(each)}", flush=True)


def _shown(series: Series) -> str:
    if series.failure is not None or not series.samples:
        return f"failed: {series.failure}"
    names = [each for each in series.samples[0] if each in _SHOWN]
    return "  ".join(f"{_SHOWN[name]} {median(series.samples, name) or 0:,.5g}" for name in names) + (
        f"  +-{spread(series.samples, 'requests_per_cpu') or 0:.0%}" if "requests_per_cpu" in names else ""
    )


_SHOWN = {
    "requests_per_cpu": "requests/CPU-s",
    "bytes_per_cpu": "bytes/CPU-s",
    "requests_per_second": "requests/s",
    "bytes_per_second": "bytes/s",
    "p50_us": "p50",
    "p99_us": "p99",
    "first_byte_p50_us": "first byte",
    "generator_share": "generator",
    "others_share": "others",
    "upstream_requests": "upstream",
    "upstream_ratio": "upstream bytes x",
    "failures": "failures",
    "single_seconds": "one client s",
    "seconds": "s",
    "warm_seconds": "warm s",
    "server_cpu": "CPU s",
    "idle_p99_us": "idle p99",
    "p99_ratio": "p99 x",
    "covered": "covered",
    "idle": "idle",
    "busy": "busy",
    "cold_1g": "cold 1g",
    "per_connection": "a connection",
}


def names() -> list[str]:
    """The workloads, by name."""
    return [*(work.name for work in workloads_hot.ALL), *(work.name for work in _OWN_STAGE), GROWTH]


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
    plan = Plan(
        options.rounds or (2 if options.quick else 5), options.seconds or (1 if options.quick else 2), options.quick
    )
    peers = [peer for peer in known if not servers or peer.name in servers]
    with Arena.open() as arena:
        facts = machine.facts(options.tools, options.iarproxy, arena.scratch)
        titles = {peer.name: peer.title for peer in known}
        session = Session(
            arena,
            peers,
            only,
            plan,
            options.iarproxy.absolute(),
            {"machine": facts, "servers": titles, "workloads": {}},
        )
        whole, done = not (only or servers), False
        try:
            _measure(session)
            done = True
        finally:
            _finish(session, options, keep=whole or options.save, instead=whole and done)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _measure(session: Session) -> None:
    for peer in list(session.peers):
        reason = peer.missing()
        if reason:
            session.skipped[peer.name] = reason
            session.peers.remove(peer)
    _hot(session)
    for work in _OWN_STAGE:
        if session.wants(work.name):
            _staged(session, work)
    if session.wants(GROWTH):
        _growth(session)


def _hot(session: Session) -> None:
    wanted = [workload for workload in workloads_hot.ALL if session.wants(workload.name)]
    if not wanted:
        return
    with session.arena.stage(session.peers, workloads_hot.prepare, session.skipped) as stage:
        hall = workloads_hot.warmed(stage, session.skipped)
        for workload in wanted:
            series = hall.run(workload, session.plan.rounds, session.plan.seconds)
            session.keep(workload.name, workload.title, workload.unit, series)


def _staged(session: Session, work: Work) -> None:
    plan = session.plan
    with session.arena.stage(session.peers, lambda content: work.prepare(content, plan), session.skipped) as stage:
        session.keep(work.name, work.title(plan), work.kind, work.run(stage, plan))


def _growth(session: Session) -> None:
    if importlib.util.find_spec("benchmarks.growth") is None:
        session.skipped[GROWTH] = "benchmarks/growth.py is not there"
        return
    measure = importlib.import_module("benchmarks.growth").measure
    counts = [1_000, 10_000] if session.plan.quick else [1_000, 100_000, 1_000_000]
    grown = session.found.setdefault(GROWTH, {})
    for count in counts:
        try:
            grown[str(count)] = measure(count, session.iarproxy)
        except Failed as error:
            session.skipped[f"{GROWTH} {count:,}"] = str(error)
            continue
        print(f"\n{GROWTH} {count:,}")
        for name, fact in grown[str(count)].items():
            print(f"  {name:24} {fact}", flush=True)


def _finish(session: Session, options: argparse.Namespace, *, keep: bool, instead: bool) -> None:
    """Write what was found: `instead` of the old results, else a workload that was measured again in its place."""
    found = session.found
    found["skipped"] = session.skipped | _LATER
    for name, reason in session.skipped.items():
        print(f"left out: {name}: {reason}")
    if not (found["workloads"] or found.get(GROWTH)) or not keep:
        return
    results: Path = options.results
    if not instead and results.exists():
        found = _merged(json.loads(results.read_text()), found)
    results.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\{[^{}]*\}", lambda each: " ".join(each[0].split()), json.dumps(found, indent=1)) + "\n"
    for folder in (session.arena.scratch, _ROOT):  # what a server says may name them; nobody else needs to
        text = text.replace(f"{folder}/", "")
    results.write_text(text)
    report.write(results, options.docs)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old results with the workloads that were measured again in their place: each stands for one run."""
    kept = {**old, **new}
    for key in ("workloads", GROWTH, "skipped"):
        kept[key] = {**old.get(key, {}), **new.get(key, {})}
    return kept
