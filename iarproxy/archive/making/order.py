"""What a person asks a bundle for, and what comes of it, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, assert_never

from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import Volume
from iarproxy.trust.bundles import Base, BundleStatement
from iarproxy.trust.receipts import Receipt
from iarproxy.trust.signing import PrivateKey


@dataclass(frozen=True, slots=True)
class Nothing:
    """The site holds nothing: the bundle is a full one."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The site holds what it says in a receipt, whose signature was verified."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Since:
    """The site is taken to have applied a bundle, and holds all of its set."""

    manifest: BundleManifest


On: TypeAlias = Nothing | Acknowledged | Since


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asks for.

    Attributes:
        definition: of the set's section as it is now.
        on: what the site holds.
        volume_size: the most bytes of a volume; None: one volume.
        lifetime: until the bundle expires.
        rotations: by file name: which keys the key of this order came in the place of.
    """

    set: str
    definition: Digest
    on: On
    key: PrivateKey
    lifetime: timedelta
    actor: str
    volume_size: int | None = None
    rotations: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """A bundle that could be made."""

    order: Order
    manifest: BundleManifest
    base: Base
    volumes: Sequence[Volume]

    @property
    def size(self) -> int:
        """Bytes of all volumes."""
        return sum(each.size for each in self.volumes)


@dataclass(frozen=True, slots=True)
class Created:
    """A bundle that was made."""

    draft: Draft
    statement: BundleStatement


def seen_by(on: On) -> int:
    """How many entries of this journal the site has seen a checkpoint of, as far as it says."""
    match on:
        case Acknowledged(receipt):
            return receipt.seen
        case Nothing() | Since():
            return 0
        case _:
            assert_never(on)


def held_by(on: On) -> frozenset[Digest]:
    """What the site holds."""
    match on:
        case Nothing():
            return frozenset()
        case Acknowledged(receipt):
            return frozenset(receipt.held)
        case Since(manifest):
            return frozenset((*(each.digest for each in manifest.provides), *manifest.requires))
        case _:
            assert_never(on)
