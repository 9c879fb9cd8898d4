"""Memory of the servers: proportional set size of the whole process tree, as the kernel adds it up.

Rule 1: the peak of many readings while something happens, since what counts is what a machine must have.
Rule 2: what the kernel keeps for sockets and files is not in it; it is the same for every server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.arena import Stage
from benchmarks.content import GIB, KIB, MIB, Content
from benchmarks.load import Load, Running, outcome_of
from benchmarks.measure import Sample, Series, interleaved, refuse, settle
from benchmarks.peers import Server
from benchmarks.plan import Plan, Work
from benchmarks.processes import pss

NAME = "library/memory"
_SIZES = {"4k": 4 * KIB, "4m": 4 * MIB, "64m": 64 * MIB, "1g": GIB}


@dataclass
class Peak:
    """The largest sizes seen: of the tree, and of the largest process but the first where there are several."""

    tree: int = 0
    worker: int = 0
    processes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self, server: Server) -> None:
        sizes = pss(server.process.pid)
        self.tree = max(self.tree, sum(sizes))
        self.worker = max(self.worker, *(sizes[1:] or sizes))
        self.processes = len(sizes)

    def watch(self, server: Server) -> None:
        while not self._over.wait(0.05):
            self.look(server)

    def end(self) -> None:
        self._over.set()


@contextmanager
def watched(server: Server) -> Iterator[Peak]:
    """The peak while the block runs."""
    peak = Peak()
    peak.look(server)
    watcher = threading.Thread(target=peak.watch, args=(server,))
    watcher.start()
    try:
        yield peak
    finally:
        peak.end()
        watcher.join()
        peak.look(server)


@dataclass(frozen=True)
class Memory:
    """Idle, under load, with many idle connections, and with blobs of several sizes, cold and hot."""

    name: str = "memory"
    kind: str = "memory"

    def title(self, plan: Plan) -> str:
        return f"memory, with {_crowd(plan):,} idle connections"

    def prepare(self, content: Content, plan: Plan) -> None:  # noqa: ARG002  # the same in every plan
        content.image(NAME, "1", list(_SIZES.values()))

    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]:
        return interleaved(stage.servers, 1, lambda server, _: _weighed(stage, server, plan))


def _crowd(plan: Plan) -> int:
    return 2_000 if plan.quick else 10_000


def _weighed(stage: Stage, server: Server, plan: Plan) -> Sample:
    image = stage.content.images[0]
    tag = Load(paths=(image.tag_path,), connections=64, options=("--seconds", "1"))
    idle = _at_rest(server)
    found: Sample = {"processes": idle.processes, "idle": idle.tree, "idle_worker": idle.worker}
    for name, layer in zip(_SIZES, image.layers, strict=True):
        one = Load(paths=(layer.path,), options=("--requests", "1", "--length", str(layer.size)))
        found[f"cold_{name}"] = _peak(stage, server, one).tree
        settle(server)
        many = Load(paths=(layer.path,), connections=8, options=("--seconds", "0.5"))
        found[f"hot_{name}"] = _peak(stage, server, many).tree
        settle(server)
    busy = _peak(stage, server, tag)
    found |= {"busy": busy.tree, "busy_worker": busy.worker}
    return found | _idle_connections(stage, server, _crowd(plan))


def _at_rest(server: Server) -> Peak:
    settle(server)
    peak = Peak()
    peak.look(server)
    return peak


def _peak(stage: Stage, server: Server, load: Load) -> Peak:
    with watched(server) as peak:
        refuse(outcome_of(load.command(stage.binary, server.port)))
    return peak


def _idle_connections(stage: Stage, server: Server, crowd: int) -> Sample:
    before = _at_rest(server)
    path = stage.content.images[0].tag_path
    load = Load("idle", (path,), crowd, ("--ask", "--timeout", "120"))
    running = Running(load.command(stage.binary, server.port))
    try:
        after = _at_rest(server)
        running.go()
        raw = running.outcome()
    finally:
        running.close()
    refuse(raw)
    settle(server)
    return {
        "crowd": after.tree,
        "crowd_open": raw["open"],
        "per_connection": (after.tree - before.tree) / crowd,
        "after_crowd": _at_rest(server).tree,
    }


ALL: list[Work] = [Memory()]
