"""What taking over a layout means, as values."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from iarproxy.oci import Descriptor, Digest, Reference, Repository, TagReference
from iarproxy.trust.environments import Environment


@dataclass(frozen=True, slots=True)
class Imported:
    """A name, and what the layout says that it is."""

    reference: Reference
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Differs:
    """A tag that is pinned to something else than the layout has."""

    wanted: Imported
    pinned: Digest


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that is not taken over, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Grown:
    """What a fallback tag, or a `.sig`, `.att`, `.sbom` tag, will stand for."""

    reference: TagReference
    descriptor: Descriptor
    raw: bytes = field(repr=False)


@dataclass(slots=True)
class LayoutPlan:
    """What taking over a layout means for an environment.

    Attributes:
        held: names by digest: their content is kept, and nothing is pinned.
        grown: what becomes of attachment tags.
        sparse: how many children an index has that are nowhere, by its name.
        documents, blobs: what the store does not have yet.
        links: what repositories will hand out.
    """

    environment: Environment
    unchanged: list[Imported] = field(default_factory=list)
    new: list[Imported] = field(default_factory=list)
    differs: list[Differs] = field(default_factory=list)
    held: list[Imported] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    grown: list[Grown] = field(default_factory=list)
    sparse: dict[str, int] = field(default_factory=dict)
    documents: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    links: defaultdict[Repository, set[Digest]] = field(default_factory=lambda: defaultdict(set))

    @property
    def wanted(self) -> list[Imported]:
        """What would be pinned."""
        return [*self.new, *(each.wanted for each in self.differs)]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take over, not even what is there already."""
        return not (self.unchanged or self.new or self.differs or self.held)
