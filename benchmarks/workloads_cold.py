"""Work on what is not cached yet: one client, a herd, and a manifest's readers while a large blob comes in.

Rule 1: every round asks for a blob that no cache has seen; the same one from every server.
Rule 2: what upstream sent is counted at the source. The row `direct` is the source itself, asked without a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from benchmarks.arena import DIRECT, Stage
from benchmarks.content import GIB, KIB, MIB, Content, Stored
from benchmarks.load import Load, Running, outcome_of
from benchmarks.machine import sha256_speed
from benchmarks.measure import Sample, Series, interleaved, refuse, settle, timed
from benchmarks.peers import Server
from benchmarks.plan import Plan, Work
from benchmarks.processes import Failed, cpu_seconds

NAME = "library/cold"
ROUNDS = 3


def _words(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def _one(blob: Stored, *options: str) -> Load:
    return Load(paths=(blob.path,), options=("--requests", "1", "--length", str(blob.size), *options))


@dataclass(frozen=True)
class ColdBlob:
    """One client, blobs that the cache has to fetch: throughput, or with many small ones the time to first byte."""

    name: str
    size: int
    count: int = 1
    kind: str = "cold"

    def title(self, plan: Plan) -> str:
        blobs = "a cold blob" if self.count == 1 else f"{self.count} cold blobs, one after the other,"
        return f"{blobs} of {_words(self._size(plan))}, one client"

    def prepare(self, content: Content, plan: Plan) -> None:
        for _ in range(plan.at_most(ROUNDS) * self.count):
            content.blob(NAME, self._size(plan))

    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]:
        servers = [stage.direct, *(each for each in stage.servers if each.peer.pulls)]
        hashed = Series()

        def once(server: Server, number: int) -> Sample:
            if server.peer is DIRECT:  # what one core's sha256 does is measured in each round too
                by_clock, by_cpu = sha256_speed()
                hashed.samples.append({"bytes_per_second": by_clock, "bytes_per_cpu": by_cpu})
            return self._once(stage, server, number)

        return {"sha256": hashed} | interleaved(servers, plan.at_most(ROUNDS), once)

    def _size(self, plan: Plan) -> int:
        return self.size // 4 if plan.quick and self.count == 1 else self.size

    def _once(self, stage: Stage, server: Server, number: int) -> Sample:
        blobs = [blob for _, blob in stage.content.blobs[number * self.count : (number + 1) * self.count]]
        load = Load(
            paths=tuple(blob.path for blob in blobs),
            options=("--requests", str(self.count), "--length", str(blobs[0].size)),
        )
        mark = stage.source.mark()
        sample = timed(stage.binary, server, load)
        settle(server)
        return sample | {"upstream_ratio": stage.source.since(mark).bytes / (blobs[0].size * self.count)}


@dataclass(frozen=True)
class Herd:
    """Many clients that ask for one cold blob at the same time, compared with one client on another."""

    name: str
    clients: int
    size: int
    kind: str = "herd"

    def title(self, plan: Plan) -> str:
        clients, size = self._scaled(plan)
        return f"{clients:,} clients on one cold blob of {_words(size)}"

    def prepare(self, content: Content, plan: Plan) -> None:
        for _ in range(2):
            content.blob(NAME, self._scaled(plan)[1])

    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]:
        servers = [each for each in stage.servers if each.peer.pulls]
        return interleaved(servers, 1, lambda server, _: self._once(stage, server, plan))

    def _scaled(self, plan: Plan) -> tuple[int, int]:
        return (self.clients // 5, self.size // 4) if plan.quick else (self.clients, self.size)

    def _once(self, stage: Stage, server: Server, plan: Plan) -> Sample:
        (_, lonely), (_, wanted) = stage.content.blobs
        single = timed(stage.binary, server, _one(lonely))
        settle(server)
        clients, mark, before = self._scaled(plan)[0], stage.source.mark(), cpu_seconds(server.process.pid)
        options = ("--spread", "0.1", "--timeout", "45" if plan.quick else "150", "--length", str(wanted.size))
        raw = outcome_of(Load("herd", (wanted.path,), clients, options).command(stage.binary, server.port))
        used = cpu_seconds(server.process.pid) - before
        settle(server)
        return {
            "failures": raw["errors"],
            "upstream_ratio": stage.source.since(mark).bytes / wanted.size,
            "seconds": raw["seconds"],
            "single_seconds": single["seconds"],
            "bytes_per_second": raw["bytes"] / raw["seconds"],
            "bytes_per_cpu": raw["bytes"] / used if used else 0.0,
            "first_byte_p50_us": raw["first_byte_us"]["p50"],
            "first_byte_max_us": raw["first_byte_us"]["max"],
            "p50_us": raw["latency_us"]["p50"],
            "p99_us": raw["latency_us"]["p99"],
        }


@dataclass(frozen=True)
class Ingest:
    """Readers of a hot manifest, without and with a large cold blob coming in. `rate`: requests a second; 0: all."""

    name: str
    rate: int
    size: int = GIB
    kind: str = "ingest"

    def title(self, plan: Plan) -> str:
        pace = f"{self.rate:,} requests a second" if self.rate else "as fast as they are answered"
        return f"hot manifest on 64 connections, {pace}, while a cold blob of {_words(self._size(plan))} comes in"

    def prepare(self, content: Content, plan: Plan) -> None:
        content.image(NAME, "1", [4 * KIB])
        for _ in range(plan.at_most(ROUNDS)):
            content.blob(NAME, self._size(plan))

    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]:
        servers = [each for each in stage.servers if each.peer.pulls]
        return interleaved(servers, plan.at_most(ROUNDS), partial(self._once, stage, plan))

    def _size(self, plan: Plan) -> int:
        return self.size // 2 if plan.quick else self.size

    def _once(self, stage: Stage, plan: Plan, server: Server, number: int) -> Sample:
        image = stage.content.images[0]
        blob = stage.content.blobs[2 + number][1]  # the first two are the image's
        rate = ("--rate", str(self.rate)) if self.rate else ()
        load = Load(paths=(image.tag_path,), connections=64, options=(*rate, "--seconds", str(min(plan.seconds, 1.5))))
        timed(stage.binary, server, load)
        idle = timed(stage.binary, server, load)
        ingest = Running(_one(blob).command(stage.binary, server.port))
        try:
            busy = timed(stage.binary, server, load, ready=ingest.go)
            came = ingest.outcome()
        finally:
            ingest.close()
        refuse(came)
        settle(server)
        if "p99_us" not in idle or "p99_us" not in busy:
            raise Failed("no answer in the time of a run")
        return busy | {
            "idle_p50_us": idle["p50_us"],
            "idle_p99_us": idle["p99_us"],
            "idle_requests_per_second": idle["requests_per_second"],
            "p99_ratio": busy["p99_us"] / idle["p99_us"],
            "ingest_seconds": came["seconds"],
            "covered": min(1.0, came["seconds"] / busy["seconds"]),
        }


ALL: list[Work] = [
    ColdBlob("cold-first", 4 * MIB, count=20),
    ColdBlob("cold-blob", GIB // 4),
    Herd("herd-100", 100, GIB),
    Herd("herd-1000", 1000, 64 * MIB),
    Ingest("ingest-p99", 0),
    Ingest("ingest-p99-paced", 2000),
]
