"""Rounds over several servers, and what the numbers of the rounds say together.

Rule 1: a round asks every server once, in another order than the round before; ratios pair the samples of a round.
Rule 2: a sample with one wrong answer is no sample: it is a failure, in the server's own words.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.load import Load, outcome_of
from benchmarks.peers import Server
from benchmarks.processes import Failed, cpu_seconds, machine_busy

Sample: TypeAlias = dict[str, float]


@dataclass
class Series:
    """The samples of one server in one workload, by round; `failure`: why there are none, or no more."""

    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    def as_json(self) -> dict[str, Any]:
        samples = [{name: float(f"{value:.5g}") for name, value in sample.items()} for sample in self.samples]
        return {"samples": samples, "failure": self.failure}


def median(samples: Sequence[Sample], metric: str) -> float | None:
    """The middle value of a metric; None where no sample has it."""
    values = [sample[metric] for sample in samples if metric in sample]
    return statistics.median(values) if values else None


def spread(samples: Sequence[Sample], metric: str) -> float | None:
    """Half the distance between the extremes, as a share of the median."""
    values = [sample[metric] for sample in samples if metric in sample]
    middle = statistics.median(values) if values else 0.0
    return (max(values) - min(values)) / 2 / middle if middle else None


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample], metric: str) -> float | None:
    """The median over the rounds of our value divided by theirs."""
    pairs = [(a[metric], b[metric]) for a, b in zip(ours, theirs, strict=False) if a.get(metric) and b.get(metric)]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def interleaved(servers: Sequence[Server], rounds: int, once: Callable[[Server, int], Sample]) -> dict[str, Series]:
    """`once` for each server in each round. A server that failed is not asked again."""
    found = {server.name: Series() for server in servers}
    for number in range(rounds):
        for server in _turned(servers, number):
            series = found[server.name]
            if series.failure is not None:
                continue
            try:
                series.samples.append(once(server, number))
            except Failed as error:
                series.failure = str(error)
    return found


def _turned(servers: Sequence[Server], number: int) -> Iterable[Server]:
    at = number % len(servers) if servers else 0
    order = [*servers[at:], *servers[:at]]
    return reversed(order) if number % 2 else order


def timed(binary: Path, server: Server, load: Load, ready: Callable[[], None] = lambda: None) -> Sample:
    """One run of the generator against a server, with the processor time of both.

    `ready` is called when the connections are open and the first request is about to be sent.

    Raises:
        Failed: an answer was wrong, or the generator failed.
    """
    before: list[float] = []

    def begin() -> None:
        before.extend([cpu_seconds(server.process.pid), machine_busy()])
        ready()

    raw = outcome_of(load.command(binary, server.port), begin)
    used = cpu_seconds(server.process.pid) - before[0]
    everybody = machine_busy() - before[1]
    refuse(raw)
    return sample_of(raw, used, everybody)


def settle(server: Server, patience: float = 15.0) -> None:
    """Wait until the server does nothing: some go on with the requests of clients that are gone."""
    deadline, before = time.monotonic() + patience, -1.0
    while (used := cpu_seconds(server.process.pid)) - before > 0.005 and time.monotonic() < deadline:
        before = used
        time.sleep(0.1)


def refuse(raw: dict[str, Any]) -> None:
    """Nothing, if every answer was right.

    Raises:
        Failed: with the first complaint and how many there were.
    """
    if raw["errors"]:
        raise Failed(f"{raw['complaint']} ({raw['errors']} wrong answers, {raw['requests']} right ones)")


def sample_of(raw: dict[str, Any], used: float, everybody: float) -> Sample:
    """The numbers that tables are made of. `used`: the server's processor seconds; `everybody`: the machine's."""
    seconds = raw["seconds"]
    sample = {
        "requests_per_second": raw["requests"] / seconds,
        "bytes_per_second": raw["bytes"] / seconds,
        "seconds": seconds,
        "server_cpu": used,
        "generator_share": raw["cpu_seconds"] / seconds,
        "others_share": max(0.0, everybody - used - raw["cpu_seconds"]) / seconds,
        "reconnects": raw["reconnects"],
        "silent": raw["silent"],
    }
    if raw["requests"]:
        latency, first = raw["latency_us"], raw["first_byte_us"]
        sample |= {"p50_us": latency["p50"], "p99_us": latency["p99"], "max_us": latency["max"]}
        sample |= {"first_byte_p50_us": first["p50"], "first_byte_p99_us": first["p99"]}
    if used > 0:
        sample["requests_per_cpu"] = raw["requests"] / used
        sample["bytes_per_cpu"] = raw["bytes"] / used
    return sample
