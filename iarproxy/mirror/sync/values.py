"""What a sync speaks of: the names that a set asks for, what became of them, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from iarproxy.config.wanted import WantedChart
from iarproxy.errors import IarproxyError, Malformed, Refused, UpstreamUnavailable
from iarproxy.oci import Descriptor, Digest, Platform, Reference
from iarproxy.oci.attached_kind import AttachedKind
from iarproxy.oci.lock import Locked
from iarproxy.oci.set_record import Lacking, SetRecord


@dataclass(frozen=True, slots=True)
class Choice:
    """What a line of a set says of what is attached to its names. `line`: which one, for people."""

    referrers: bool
    line: str

    @classmethod
    def of(cls, line: str, *, referrers: bool | None) -> Choice | None:
        """What the line says; None: nothing."""
        return None if referrers is None else cls(referrers, line)

    def __str__(self) -> str:
        return f"{self.line} says referrers = {str(self.referrers).lower()}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A name that a set asks for.

    Attributes:
        locked: the tag shall stand for this content; None: for what it is pinned to, or upstream's word.
        platforms: of an index, only these; empty: all.
        why: which lines of the set ask for it.
        chart: it is a Helm chart, and the images that it needs are asked for too; None: it is none.
        choice: what a line says of what is attached to it; None: none does, so it is as the set says.
    """

    reference: Reference
    platforms: tuple[Platform, ...] = ()
    why: tuple[str, ...] = ()
    locked: Locked | None = None
    chart: WantedChart | None = None
    choice: Choice | None = None

    def joined(self, other: Asked) -> Asked:
        """Both lines as one.

        Raises:
            Malformed: they want different content under one name, or one wants what is attached and one does not.
        """
        first, second = self.choice, other.choice
        if first is not None and second is not None and first.referrers != second.referrers:
            raise Malformed(f"of what is attached to this name {first}, and {second}; make them agree")
        ours, theirs = self.locked, other.locked
        if ours is not None and theirs is not None and ours.digest != theirs.digest:
            told = f"{ours.digest} ({', '.join(self.why)}) and {theirs.digest} ({', '.join(other.why)})"
            raise Malformed(f"the set wants two contents under this name: {told}; keep one")
        every = not self.platforms or not other.platforms
        return Asked(
            self.reference,
            () if every else tuple(dict.fromkeys((*self.platforms, *other.platforms))),
            tuple(dict.fromkeys((*self.why, *other.why))),
            ours or theirs,
            self.chart or other.chart,
            first or second,
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """What could not be had, and why; `refused`: asking again changes nothing."""

    what: str
    why: str
    refused: bool

    @classmethod
    def of(cls, what: object, error: IarproxyError) -> Failed:
        """What an error says of something; of an upstream that is down why it is, and not until when."""
        down = isinstance(error, UpstreamUnavailable) and error.retry_after is not None
        said = error.detail.get("cause", error) if down else error
        return cls(str(what), str(said), isinstance(error, Refused))

    @property
    def lacking(self) -> Lacking:
        """In the words of the set's record."""
        return Lacking(self.what, self.why)


@dataclass(frozen=True, slots=True)
class Named:
    """What a set names, each name once, and what of it is not known.

    Attributes:
        remarks: what people should know of it, a sentence each.
    """

    asked: tuple[Asked, ...]
    failed: tuple[Failed, ...] = ()
    remarks: tuple[str, ...] = ()


def each_once(asked: Iterable[Asked]) -> Named:
    """The names of several lines, each once."""
    found: dict[Reference, Asked] = {}
    failed: list[Failed] = []
    for each in asked:
        try:
            found[each.reference] = found[each.reference].joined(each) if each.reference in found else each
        except Malformed as error:
            failed.append(Failed.of(each.reference, error))
    return Named(tuple(found.values()), tuple(failed))


def of_locked(entry: Locked, platforms: tuple[Platform, ...], why: str) -> Asked:
    """What a line with tag and digest asks for."""
    return Asked(entry.reference, platforms, (why,), replace(entry, line=0))


class Progress(Protocol):
    """Whoever shows how far a sync is."""

    def stage(self, name: str, total: int) -> None:
        """From now on `total` things of this name are worked on."""
        ...

    def step(self) -> None:
        """One of them is done."""
        ...

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        """These blobs will be fetched."""
        ...

    def advanced(self, blob: Descriptor, done: int) -> None:
        """`done` bytes of the blob are at hand."""
        ...

    def finished(self, blob: Descriptor) -> None:
        """The blob is verified, or given up."""
        ...

    def waits(self, upstream: str, seconds: float, why: str) -> None:
        """Nothing more is asked of that upstream for so long."""
        ...


class Silent:
    """Nobody looks."""

    def stage(self, name: str, total: int) -> None:
        """Nobody is told."""

    def step(self) -> None:
        """Nobody is told."""

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        """Nobody is told."""

    def advanced(self, blob: Descriptor, done: int) -> None:
        """Nobody is told."""

    def finished(self, blob: Descriptor) -> None:
        """Nobody is told."""

    def waits(self, upstream: str, seconds: float, why: str) -> None:
        """Nobody is told."""


@dataclass(frozen=True, slots=True)
class PlannedName:
    """What a sync would do about one name.

    Attributes:
        digest: what it is pinned to, or what upstream offers.
        new: the tag has no pin yet.
        bytes, missing: of all that its platforms need, and of what is not held; shared content counts for each name.
        without: why it comes without what is attached to it; empty: it comes with that.
    """

    reference: Reference
    digest: Digest
    why: tuple[str, ...]
    new: bool
    bytes: int
    missing: int
    without: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sync would do; nothing was written.

    Attributes:
        contents, missing: bytes by digest of everything, and of what is not held; attachments apart.
        manifests: how many there are among `contents`. omitted: children of indexes that no wanted platform needs.
        attached: to how many manifests of the set something is attached; `kinds`: how many names are signed, and so on,
            as far as lists tell. None: nobody was asked.
    """

    names: tuple[PlannedName, ...]
    contents: dict[Digest, int]
    missing: dict[Digest, int]
    manifests: int
    omitted: int
    attached: int | None
    kinds: dict[AttachedKind, int] | None
    failed: tuple[Failed, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync came to.

    Attributes:
        kept: of the record, a blob in the store.
        pinned: tags that had no pin before.
        fetched, bytes: blobs that had to be fetched.
        held: bytes of everything that the set needs and that is here.
        left_out: attachments that upstream lists and nobody can have.
        kinds: how many names are signed, and so on, as far as what is attached claims; None: it was not asked for.
    """

    record: SetRecord
    kept: Descriptor
    pinned: tuple[Reference, ...]
    fetched: int
    bytes: int
    held: int
    failed: tuple[Failed, ...]
    left_out: tuple[Lacking, ...]
    kinds: dict[AttachedKind, int] | None
    remarks: tuple[str, ...]
