"""A set as values: what a site needs, by name; `config.sets` reads it from a file.

Rule: the definition of a set is a digest over what it means, lock and values files included, and not over how it is
written: a moved line, a comment, another order, spaces in a range change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson

from iarproxy.oci import Digest, DigestReference, Platform, Reference, Repository, TagReference
from iarproxy.oci.lock import Lock, Locked
from iarproxy.trust.choosing import Selection

Wanted: TypeAlias = TagReference | DigestReference | Locked


@dataclass(frozen=True, slots=True)
class WantedReference:
    """A tag, a digest, or a tag that shall stand for a digest.

    Attributes:
        platforms: of indexes, only these; empty: all.
        referrers: whether what is attached to it is wanted; None: as the set says.
    """

    wanted: Wanted
    platforms: tuple[Platform, ...] = ()
    referrers: bool | None = None

    def __str__(self) -> str:
        return str(self.wanted)

    @property
    def name(self) -> Reference:
        """What it is called, whatever it shall stand for."""
        return self.wanted.reference if isinstance(self.wanted, Locked) else self.wanted

    @property
    def meaning(self) -> tuple[object, ...]:
        """The same for all spellings of it."""
        return str(self), _sorted(self.platforms), self.referrers


@dataclass(frozen=True, slots=True)
class WantedRepository:
    """A repository of a set, and which of its tags; `platforms`, `referrers` as of a `WantedReference`."""

    repository: Repository
    selection: Selection
    platforms: tuple[Platform, ...]
    referrers: bool | None = None

    def __str__(self) -> str:
        return f"{self.repository} ({self.selection})"

    @property
    def meaning(self) -> tuple[object, ...]:
        """The same for all spellings of it."""
        return str(self.repository), *self.selection.meaning, _sorted(self.platforms), self.referrers


@dataclass(frozen=True, slots=True)
class WantedLock:
    """A lock file of a set; `name` as it is written there."""

    name: str
    lock: Lock
    digest: Digest


@dataclass(frozen=True, slots=True)
class WantedChart:
    """A Helm chart of a set; `values`: the contents of the values files with which it is rendered, in their order."""

    reference: Reference
    values: tuple[bytes, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return str(self.reference)


@dataclass(frozen=True, slots=True)
class WantedSet:
    """What a site needs.

    Attributes:
        referrers: whether what is attached to names is wanted, where their own lines do not say it.
        definition: over all that is said here (rule 3).
    """

    name: str
    references: tuple[WantedReference, ...]
    repositories: tuple[WantedRepository, ...]
    platforms: tuple[Platform, ...]
    locks: tuple[WantedLock, ...]
    charts: tuple[WantedChart, ...]
    referrers: bool

    @property
    def definition(self) -> Digest:
        """The digest of what this set says."""
        document = {
            "name": self.name,
            "references": _meanings(self.references),
            "repositories": _meanings(self.repositories),
            "platforms": _sorted(self.platforms),
            "locks": sorted([each.name, str(each.digest)] for each in self.locks),
            "charts": sorted([str(each), [str(Digest.of(text)) for text in each.values]] for each in self.charts),
            "referrers": self.referrers,
        }
        return Digest.of(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


def _meanings(things: Iterable[WantedReference | WantedRepository]) -> list[tuple[object, ...]]:
    return sorted((each.meaning for each in things), key=orjson.dumps)


def _sorted(things: Iterable[object]) -> list[str]:
    return sorted({str(each) for each in things})
