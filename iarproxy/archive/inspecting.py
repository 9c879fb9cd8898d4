"""What a bundle says of itself, for people who hold one: nothing of it is verified, and nothing needs a key.

Rule 1: it reads the documents and how the files begin; no byte of a blob is read.
Rule 2: what cannot be read is said; a bundle that is not whole is looked at as well.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from iarproxy.archive.folder import BundleFolder, VolumeFile
from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci import Digest
from iarproxy.oci.bundle_layout import sizes_of
from iarproxy.oci.bundle_manifest import BundledName, BundleManifest
from iarproxy.trust.bundle import exact
from iarproxy.trust.bundles import BundleStatement, statement_in

_HINT = 44  # characters of a sha256 in base64


class Travels(StrEnum):
    """How much of a name is in a bundle."""

    WHOLE = "whole"  # all that its platforms need; readers of OCI layouts can take it out of the bundle alone
    NEW = "new"  # its manifest is; what else it needs is here, or at the site
    HELD = "held"  # nothing: the site must hold it


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature is said to be by whom; `said`: None: it cannot be read, and `why` says so.

    Attributes:
        key: the fingerprint that it names, hex; empty: none.
        fits: whether it is about this `bundle.json`, byte by byte.
    """

    key: str
    said: BundleStatement | None
    fits: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A volume that the bundle has. `found`: where; empty: it is not here. `problem`: what is wrong with it."""

    number: int
    size: int
    found: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a bundle says of itself. `strangers`: paths of what does not belong to it."""

    manifest: BundleManifest
    signatures: tuple[Signature, ...]
    rotations: int
    parts: tuple[Part, ...]
    strangers: tuple[str, ...]

    @property
    def carried(self) -> int:
        """Bytes of the blobs that travel."""
        return sum(each.size for each in self.manifest.provides)

    @property
    def travels(self) -> list[Travels]:
        """How much of each name is in the bundle, in the order of the names."""
        required = frozenset(self.manifest.requires)
        return [_travels(each, required) for each in self.manifest.names]


def _travels(name: BundledName, required: AbstractSet[Digest]) -> Travels:
    if name.listed:
        return Travels.WHOLE
    return Travels.HELD if name.descriptor.digest in required else Travels.NEW


def inspect(folder: BundleFolder) -> Inspected:
    """Look at an open bundle.

    Raises:
        BundleRefused: `malformed`: its `bundle.json` is none.
    """
    try:
        manifest = BundleManifest.parse(folder.manifest)
        sizes = sizes_of(manifest)
    except Malformed as error:
        raise BundleRefused("malformed", str(error)) from error
    identity, whole = manifest.identity, Digest.of(folder.manifest)
    own = {each.mark[1]: each for each in folder.files if each.mark is not None and each.mark[0] == identity}
    others = [each.path for each in folder.files if each.mark is None or each.mark[0] != identity]
    return Inspected(
        manifest,
        tuple(_signature(each, whole) for each in folder.signatures),
        len(folder.rotations),
        tuple(_part(number, size, own.get(number)) for number, size in enumerate(sizes, 1)),
        (*others, *folder.strangers),
    )


def _part(number: int, size: int, file: VolumeFile | None) -> Part:
    if file is None:
        return Part(number, size, problem="is not here")
    problem = "" if file.size == size else f"has {file.size} bytes"
    return Part(number, size, file.path, problem)


def _signature(raw: bytes, manifest: Digest) -> Signature:
    try:
        envelope = exact(raw)
        said = statement_in(envelope.payload)
    except Malformed as error:
        return Signature("", None, why=str(error))
    return Signature(_fingerprint(envelope.hint), said, fits=said.manifest == manifest)


def _fingerprint(hint: str) -> str:
    try:
        return base64.b64decode(hint[:_HINT], validate=True).hex()
    except binascii.Error:
        return ""
