"""Work on what is cached: manifests, blobs of every size, ranges, one to a thousand connections.

Rule 1: one set of servers serves all of it, warmed by real requests, with every byte checked before anything is timed.
Rule 2: `--unique` heads defeat whoever remembers whole requests; both kinds are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.arena import Stage
from benchmarks.content import GIB, KIB, MIB, Content, Image, Stored
from benchmarks.load import Load, outcome_of
from benchmarks.measure import Sample, Series, interleaved, settle, timed
from benchmarks.peers import Server
from benchmarks.processes import Failed

NAME = "library/bench"
SIZES = {"4k": 4 * KIB, "64k": 64 * KIB, "4m": 4 * MIB, "256m": GIB // 4}
_FILLERS = [2 * KIB, 2 * KIB, 2 * KIB]  # further layers: with them the manifest has the usual 1.3 KB


@dataclass(frozen=True)
class Hot:
    """A workload. `what`: manifest-tag, manifest-digest, or a key of `SIZES`; `unit`: what is counted."""

    name: str
    title: str
    what: str
    connections: int
    unit: str = "requests"
    options: tuple[str, ...] = ()


def _at(what: str, short: str, title: str, crowds: Sequence[int], unit: str = "requests") -> list[Hot]:
    usual = crowds[0]
    return [
        Hot(
            short if crowd == usual else f"{short}-c{crowd}",
            f"{title}, {crowd} connection{'s' if crowd > 1 else ''}",
            what,
            crowd,
            unit,
        )
        for crowd in crowds
    ]


ALL = [
    Hot("manifest-head", "HEAD of a manifest by tag, 64 connections", "manifest-tag", 64, options=("--method", "HEAD")),
    *_at("manifest-tag", "manifest-get", "GET of a manifest by tag", [64, 1, 8, 1000]),
    Hot("manifest-unique", "the same, every request with a head of its own", "manifest-tag", 64, options=("--unique",)),
    Hot(
        "manifest-reconnect",
        "the same, every request on a connection of its own",
        "manifest-tag",
        8,
        options=("--header", "Connection: close"),
    ),
    *_at("manifest-digest", "manifest-digest", "GET of a manifest by digest", [64]),
    *_at("4k", "blob4k", "blob of 4 KiB", [64]),
    *_at("64k", "blob64k", "blob of 64 KiB", [64, 1, 8, 1000]),
    Hot("blob64k-unique", "the same, every request with a head of its own", "64k", 64, options=("--unique",)),
    *_at("4m", "blob4m", "blob of 4 MiB", [8, 64], "bytes"),
    *_at("256m", "blob256m", "blob of 256 MiB", [4, 64], "bytes"),
    Hot(
        "range1m",
        "1 MiB out of the blob of 256 MiB, 8 connections",
        "256m",
        8,
        "bytes",
        ("--range", f"{100 * MIB}-{101 * MIB - 1}"),
    ),
]


def prepare(content: Content) -> None:
    """The image that all of this asks for."""
    content.image(NAME, "1", [*SIZES.values(), *_FILLERS])


def load_of(workload: Hot, image: Image) -> Load:
    """The generator's orders for a workload."""
    targets = _targets(image)
    target = targets[workload.what]
    options = workload.options
    length = MIB if "--range" in options else target.size
    once = () if "Connection: close" in options else ("--ask",)
    options = (*options, *once, "--length", str(length))
    return Load(paths=(target.path,), connections=workload.connections, options=options)


def _targets(image: Image) -> dict[str, Stored]:
    tagged = Stored(image.manifest.digest, image.manifest.size, image.tag_path)
    blobs = dict(zip(SIZES, image.layers, strict=False))
    return {"manifest-tag": tagged, "manifest-digest": image.manifest, **blobs}


@dataclass
class Hall:
    """The servers of the hot workloads, warm and checked."""

    stage: Stage
    image: Image
    servers: list[Server]

    def run(self, workload: Hot, rounds: int, seconds: float) -> dict[str, Series]:
        """The samples of every server."""
        load = load_of(workload, self.image)
        if "-c" in workload.name:  # further crowds of clients need no more than this
            rounds, seconds = min(rounds, 3), min(seconds, 1.5)
        first = replace(load, options=(*load.options, "--seconds", "0.2"))
        load = replace(load, options=(*load.options, "--seconds", str(seconds)))

        def once(server: Server, number: int) -> Sample:
            if number == 0:
                outcome_of(first.command(self.stage.binary, server.port))
                settle(server)
            mark = self.stage.source.mark()
            sample = timed(self.stage.binary, server, load)
            settle(server)
            return sample | {"upstream_requests": self.stage.source.since(mark, quiet=0.02).requests}

        return interleaved(self.servers, rounds, once)


def warmed(stage: Stage, skipped: dict[str, str]) -> Hall:
    """The hall, without the servers that could not be warmed."""
    image, good = stage.content.images[0], []
    for server in stage.servers:
        try:
            stage.warm(server, list(_targets(image).values()))
            good.append(server)
        except Failed as error:
            skipped[server.name] = f"not warm: {error}"
    return Hall(stage, image, good)
