"""What a workload is to the session that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from benchmarks.arena import Stage
from benchmarks.content import Content
from benchmarks.measure import Series


@dataclass(frozen=True)
class Plan:
    """How much is measured. `quick`: smaller blobs and herds, as the results say."""

    rounds: int
    seconds: float
    quick: bool

    def at_most(self, rounds: int) -> int:
        """As many rounds as asked for, but no more than these: for what is long or fills disks."""
        return min(self.rounds, rounds)


class Work(Protocol):
    """A workload that needs empty caches: it gets a stage of its own. `kind` chooses its table in the report."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def title(self, plan: Plan) -> str: ...
    def prepare(self, content: Content, plan: Plan) -> None: ...
    def run(self, stage: Stage, plan: Plan) -> dict[str, Series]: ...
