"""How far a sync is: bars on a terminal, and lines where none is.

Rule: a bar for the stage, one for all bytes, and one for each blob that arrives now; a set has thousands of blobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from iarproxy.cli.output import err, plain
from iarproxy.oci import Descriptor, Digest


class Bars:
    """What is shown of one sync."""

    def __init__(self, stages: Progress, bytes_: Progress, *, quiet: bool) -> None:
        self._stages = stages
        self._bytes = bytes_
        self._quiet = quiet
        self._stage: TaskID | None = None
        self._all: TaskID | None = None
        self._arriving: dict[Digest, TaskID] = {}
        self._done: dict[Digest, int] = {}

    def stage(self, name: str, total: int) -> None:
        """From now on `total` things of this name are worked on."""
        self._stage = self._stages.add_task(name, total=total)

    def step(self) -> None:
        """One of them is done."""
        if self._stage is not None:
            self._stages.advance(self._stage)

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        """These blobs will be fetched."""
        self._all = self._bytes.add_task("all blobs", total=sum(blob.size for blob in blobs))

    def advanced(self, blob: Descriptor, done: int) -> None:
        """`done` bytes of the blob are at hand."""
        if blob.digest not in self._arriving:
            self._arriving[blob.digest] = self._bytes.add_task(blob.digest.short, total=blob.size)
        self._bytes.update(self._arriving[blob.digest], completed=done)
        self._count(blob, done)

    def finished(self, blob: Descriptor) -> None:
        """The blob is verified, or given up."""
        task = self._arriving.pop(blob.digest, None)
        if task is not None:
            self._bytes.remove_task(task)
        self._count(blob, blob.size)

    def _count(self, blob: Descriptor, done: int) -> None:
        if self._all is not None:
            self._bytes.advance(self._all, done - self._done.get(blob.digest, 0))
        self._done[blob.digest] = done

    def waits(self, upstream: str, seconds: float, why: str) -> None:
        """Nothing more is asked of that upstream for so long."""
        if not self._quiet:
            err.print(plain(f"waiting {seconds:.0f} s for {upstream}: {why}"), markup=False)


@contextmanager
def showing(*, quiet: bool) -> Iterator[Bars]:
    """Bars while something goes on; with `quiet`, and where standard error is no terminal, none are drawn."""
    hidden = quiet or not err.is_terminal
    columns = (TextColumn("{task.description:>12}"), BarColumn())
    stages = Progress(*columns, MofNCompleteColumn(), console=err, disable=hidden)
    speed = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    bytes_ = Progress(*columns, *speed, console=err, disable=hidden)
    bars = Bars(stages, bytes_, quiet=quiet)
    if hidden:
        yield bars
        return
    with Live(Group(stages, bytes_), console=err, refresh_per_second=10):
        yield bars
