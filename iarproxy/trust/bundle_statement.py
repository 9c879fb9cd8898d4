"""What is signed of a bundle: an in-toto statement about `bundle.json`, with what a reproducible document cannot say.

Rule 1: all signatures of a bundle are over the same bytes, so a statement is built once and never written again.
Rule 2: it says of each section of `bundle.json` how much it has and its sha256, so that a reader can tell what of a
        document was altered, not only that it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from iarproxy.errors import Malformed
from iarproxy.oci.bundle_manifest import SET_NAME, BundleManifest
from iarproxy.oci.digest import Digest
from iarproxy.trust import statement
from iarproxy.trust.statement import moment, moment_in, number, text

PREDICATE = "https://iarproxy.dev/bundle/v1"
FILE = "bundle.json"
_KINDS = ("names", "attachments", "provides", "requires")


class BaseKind(StrEnum):
    """What a bundle leaves out: nothing, what a receipt acknowledges, or what another bundle is made of."""

    NONE = "none"
    RECEIPT = "receipt"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Base:
    """What the site is said to hold already: the bundle of that identity and sequence; None of both: nothing."""

    kind: BaseKind = BaseKind.NONE
    identity: Digest | None = None
    sequence: int | None = None

    def __post_init__(self) -> None:
        bare = self.identity is None, self.sequence is None
        if bare != ((True, True) if self.kind is BaseKind.NONE else (False, False)):
            raise Malformed("the base of a bundle is none, or has an identity and a sequence")


@dataclass(frozen=True, slots=True)
class BundleStatement:
    """What the signers say.

    Attributes:
        manifest: sha256 of `bundle.json`. bundle: the identity that volumes and messages use.
        origin: of the journal of the side that made it. sequence: from 1, rising for each (origin, set).
        created, expires: aware, whole seconds.
        sections: of each kind of entry in `bundle.json` how many, and the sha256 over them.
        journal: sha256 of `journal.json`.
    """

    manifest: Digest
    bundle: Digest
    origin: str
    set: str
    sequence: int
    created: datetime
    expires: datetime
    base: Base
    sections: Mapping[str, tuple[int, Digest]]
    journal: Digest

    @classmethod
    def about(
        cls,
        manifest: BundleManifest,
        *,
        origin: str,
        sequence: int,
        created: datetime,
        expires: datetime,
        journal: Digest,
        base: Base | None = None,
    ) -> BundleStatement:
        """What there is to say of a bundle."""
        return cls(
            manifest=Digest.of(manifest.dump()),
            bundle=manifest.identity,
            origin=origin,
            set=manifest.set,
            sequence=sequence,
            created=created.replace(microsecond=0),
            expires=expires.replace(microsecond=0),
            base=base or Base(),
            sections=MappingProxyType(manifest.sections()),
            journal=journal,
        )


def statement_of(said: BundleStatement) -> bytes:
    """The statement, ready to be signed; the same value gives the same bytes."""
    base = said.base
    predicate = {
        "bundle": str(said.bundle),
        "origin": said.origin,
        "set": said.set,
        "sequence": said.sequence,
        "createdAt": moment(said.created),
        "expires": moment(said.expires),
        "base": {
            "kind": base.kind.value,
            "bundle": None if base.identity is None else str(base.identity),
            "sequence": base.sequence,
        },
        "sections": {kind: {"count": count, "sha256": of.hex} for kind, (count, of) in said.sections.items()},
        "journal": {"sha256": said.journal.hex},
    }
    return statement.written(FILE, said.manifest, PREDICATE, predicate)


def statement_in(payload: bytes) -> BundleStatement:
    """What a statement says; whether anybody signed it is another question.

    Raises:
        Malformed: it is none, or not as `statement_of` writes it.
    """
    return statement.read(payload, PREDICATE, _made, statement_of)


def _made(manifest: Digest, predicate: dict[str, Any]) -> BundleStatement:
    if SET_NAME.fullmatch(predicate["set"]) is None:
        raise ValueError("its set has no name of a set")
    sections = predicate["sections"]
    return BundleStatement(
        manifest=manifest,
        bundle=Digest.parse(predicate["bundle"]),
        origin=text(predicate["origin"]),
        set=predicate["set"],
        sequence=number(predicate["sequence"], 1),
        created=moment_in(predicate["createdAt"]),
        expires=moment_in(predicate["expires"]),
        base=_base(predicate["base"]),
        sections=MappingProxyType(
            {kind: (number(sections[kind]["count"]), Digest("sha256", sections[kind]["sha256"])) for kind in _KINDS}
        ),
        journal=Digest("sha256", predicate["journal"]["sha256"]),
    )


def _base(document: dict[str, Any]) -> Base:
    identity, sequence = document["bundle"], document["sequence"]
    return Base(
        BaseKind(document["kind"]),
        None if identity is None else Digest.parse(identity),
        None if sequence is None else number(sequence, 1),
    )
