"""What the applied bundles list: the names and content that were brought here, in little room.

Rule 1: of a bundle eight bytes are kept for each name and each digest. What seems to be listed and is not would take
        some 2**64 tries, and would mislead one message: nothing is decided by it.
Rule 2: a manifest that is not at hand, is none, or is larger than `_READABLE`, lists nothing, and says so.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from iarproxy.errors import Malformed
from iarproxy.ledger import Event
from iarproxy.ledger.bundles import Applied
from iarproxy.oci import Digest, Reference, Repository, TagReference
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.store import Store

_READABLE = 32 * 2**20  # bytes: some hundred thousand names and digests
_SHOWN = 3  # tags of a repository
_KEY = 8  # bytes


@dataclass(frozen=True, slots=True)
class Some:
    """The tags of a repository: how many, and the first of them."""

    count: int = 0
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = self.count - len(self.tags)
        return ", ".join(self.tags) + (f" and {more} more" if more else "")


@dataclass(frozen=True, slots=True)
class Listed:
    """What an applied bundle lists. `names`, `provides`, `requires`: keys, ascending.

    Attributes:
        is_known: whether its manifest could be read.
        repositories: those that it has names of.
        omitted: by key what the set leaves out of an index; the name of the index.
    """

    applied: Applied
    is_known: bool = False
    names: Sequence[int] = ()
    provides: Sequence[int] = ()
    requires: Sequence[int] = ()
    repositories: Mapping[Repository, Some] = field(default_factory=dict)
    omitted: Mapping[int, str] = field(default_factory=dict)

    def lists(self, wanted: Reference) -> bool:
        """Whether it has the name, or the content, be it in an earlier bundle of the set."""
        if isinstance(wanted, TagReference):
            return _has(self.names, _key(str(wanted)))
        return self.brings(wanted.digest) or _has(self.requires, _digest_key(wanted.digest))

    def brings(self, digest: Digest) -> bool:
        """Whether the bundle itself has the content."""
        return _has(self.provides, _digest_key(digest))

    def leaves_out(self, digest: Digest) -> str | None:
        """The index that the set carries without this child of it; None: there is none."""
        return self.omitted.get(_digest_key(digest))


@dataclass(frozen=True, slots=True)
class Brought:
    """With what a name came: the bundle, by its identity, and who applied it when and why."""

    bundle: str
    set: str
    sequence: int
    origin: str
    at: datetime
    by: str
    reason: str

    @classmethod
    def of(cls, applied: Applied) -> Brought:
        """With that bundle."""
        return cls(
            str(applied.bundle),
            applied.set,
            applied.sequence,
            applied.origin,
            applied.at,
            applied.actor,
            applied.reason,
        )

    def __str__(self) -> str:
        what = f"{self.bundle} of the set {self.set}, sequence {self.sequence}, from {self.origin}"
        return f"{what}, applied {self.at:%Y-%m-%d %H:%M:%S}Z by {self.by}"


def brought_by(made: Event) -> Brought | None:
    """With what bundle the pin came that an event made; None: with none."""
    match made.body:
        case {"bundle": str(bundle), "set": str(name), "sequence": int(sequence), "origin": str(origin)}:
            return Brought(bundle, name, sequence, origin, made.at, made.actor, made.reason)
        case _:
            return None


async def listed(store: Store, applied: Applied) -> Listed:
    """What a bundle lists, from its manifest in the store."""
    size = applied.manifest.size
    raw = await store.read(applied.manifest.digest, size) if size <= _READABLE else None
    try:
        return Listed(applied) if raw is None else await asyncio.to_thread(_listed, applied, raw)
    except Malformed:
        return Listed(applied)


def _listed(applied: Applied, raw: bytes) -> Listed:
    manifest = BundleManifest.parse(raw)
    references = [each.reference for each in manifest.names]
    return Listed(
        applied,
        is_known=True,
        names=_sorted(_key(str(each)) for each in (*references, *(each.reference for each in manifest.attachments))),
        provides=_sorted(_digest_key(each.digest) for each in manifest.provides),
        requires=_sorted(map(_digest_key, manifest.requires)),
        repositories=_by_repository(references),
        omitted={_digest_key(each): str(name.reference) for name in manifest.names for each in name.omitted},
    )


def _by_repository(references: Iterable[Reference]) -> dict[Repository, Some]:
    found: dict[Repository, Some] = {}
    for each in references:
        some = found.get(each.repository, Some())
        word = each.tag.value if isinstance(each, TagReference) else str(each.digest)
        found[each.repository] = Some(some.count + 1, (*some.tags, word)[:_SHOWN])
    return found


def _sorted(keys: Iterable[int]) -> array[int]:
    return array("Q", sorted(keys))


def _has(keys: Sequence[int], key: int) -> bool:
    at = bisect_left(keys, key)
    return at < len(keys) and keys[at] == key


def _key(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:_KEY], "big")


def _digest_key(digest: Digest) -> int:
    return int(digest.hex[: 2 * _KEY], 16)
