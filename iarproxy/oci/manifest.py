"""Manifests and indexes: what is read out of a document that itself is never rewritten.

Rule 1: bytes are sacred. A `Manifest` keeps them; nothing here serialises one.
Rule 2: unknown media types and fields pass; only what would make two readers see two things is refused: a repeated
        JSON key, or one that differs from a field's name by case alone, which Go reads as that field (threats T07);
        both `manifests` and `layers`, or the wrong one of them for the media type (CVE-2021-41190); a `mediaType`
        field that contradicts the header (T06); a size that is no integer (T08); schema 1, whose digest is not over
        its bytes (T09); JSON that is not plain UTF-8.
Rule 3: everything is bounded: bytes, depth, descriptors (T44).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import orjson

from iarproxy.errors import DigestInvalid, Malformed, ManifestInvalid
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.media_types import DOCKER_MANIFEST, INDEXES, OCI_INDEX, OCI_MANIFEST, SCHEMA1, VAGUE, is_media_type

MAX_MANIFEST = 4 * 1024 * 1024  # bytes: what the distribution-spec expects registries to take at least
MAX_DESCRIPTORS = 10_000
_MAX_DEPTH = 64
_IMAGES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_TOP = (
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "blobs",
    "subject",
    "annotations",
)
_FIELDS = {name.casefold(): name for name in _TOP}
_DESCRIPTOR_FIELDS = {name.casefold(): name for name in ("mediaType", "digest", "size", "platform")}
_EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Platform:
    """What a child manifest runs on; an empty string where the index does not say."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def serves(self, wanted: Platform) -> bool:
        """Whether this child is what somebody who wants `wanted` pulls; a variant that is not asked for is free."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (not wanted.variant or wanted.variant == self.variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`os/architecture[/variant]`.

        Raises:
            Malformed: for anything else.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise Malformed(f"not a platform: {text[:80]!r}; expected os/architecture, for example linux/amd64")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Child:
    """A manifest listed by an index."""

    descriptor: Descriptor
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A document whose bytes hash to `descriptor.digest`, and what it points at.

    An index has `children`; an image has `config` and `layers`; an artifact may have only `layers`; a document of an
    unknown kind has none of them. The layers that have `urls` are `foreign` (see `oci.foreign`): registries
    take a manifest with such layers without having them.
    """

    descriptor: Descriptor
    raw: bytes = field(repr=False)
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    children: tuple[Child, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    foreign: frozenset[Digest] = frozenset()
    claimed: bool = False  # its media type is the sender's word: the document alone would be read as another

    @property
    def is_index(self) -> bool:
        """Whether this lists manifests instead of layers."""
        return self.descriptor.media_type in INDEXES or bool(self.children)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, each digest once, in the order in which they are listed."""
        listed = ((self.config,) if self.config else ()) + self.layers
        return tuple({each.digest: each for each in listed}.values())

    @property
    def links(self) -> tuple[Digest, ...]:
        """The digests that this document names and the registry that took it must have had: what serves it may serve
        these too. Foreign layers say nothing: anybody may write any digest there (T53).
        """
        named = (*(each.digest for each in self.blobs), *(child.descriptor.digest for child in self.children))
        return tuple(each for each in named if each not in self.foreign)


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ManifestInvalid("the manifest repeats a JSON key; two readers would see two documents")
    return keys


def _load(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_MANIFEST:
        raise ManifestInvalid(f"the manifest has {len(raw)} bytes; at most {MAX_MANIFEST} are taken")
    try:
        orjson.loads(raw)  # the stricter reader: UTF-8 only, no byte order mark, no half of a surrogate pair, no NaN
        document = json.loads(raw.decode(), object_pairs_hook=_no_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is not JSON: {str(error)[:120]}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is JSON but not an object")
    return _no_lookalikes(document, _FIELDS)


def _no_lookalikes(document: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
    for key in document:
        if fields.get(key.casefold(), key) != key:
            raise ManifestInvalid(f"the manifest has a key {key!r}; some readers would take it for another")
    return document


def _depth(value: Any, limit: int = _MAX_DEPTH) -> None:
    if limit == 0:
        raise ManifestInvalid(f"the manifest nests deeper than {_MAX_DEPTH}")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _depth(inner, limit - 1)


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"the manifest's {key} is not a string")
    return value or ""


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ManifestInvalid(f"the manifest's {key} is not a list of descriptors")
    if len(value) > MAX_DESCRIPTORS:
        raise ManifestInvalid(f"the manifest lists {len(value)} {key}; at most {MAX_DESCRIPTORS} are taken")
    return value


def _descriptor(value: Any) -> Descriptor:
    if not isinstance(value, dict) or not isinstance(value.get("digest"), str):
        raise ManifestInvalid("a descriptor in the manifest has no digest")
    _no_lookalikes(value, _DESCRIPTOR_FIELDS)
    try:
        digest = Digest.parse(value["digest"])
    except DigestInvalid as error:  # whoever asked for the manifest did not write it
        raise ManifestInvalid(f"a descriptor in the manifest has {error}") from error
    media_type = sys.intern(_text(value, "mediaType"))  # one of a few, in all the descriptors that are remembered
    return Descriptor(media_type, digest, value.get("size"))  # type: ignore[arg-type]  # Descriptor checks it


def _optional(document: dict[str, Any], key: str) -> Descriptor | None:
    value = document.get(key)
    return None if value is None else _descriptor(value)


def _platform(value: Any) -> Platform | None:
    if not isinstance(value, dict):
        return None
    return Platform(_text(value, "os"), _text(value, "architecture"), _text(value, "variant"))


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    value = document.get("annotations")
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def media_type_of(document: dict[str, Any], claimed: str) -> str:
    """The media type of a document: what upstream claimed, unless that is vague; then the document's own word.

    Raises:
        ManifestInvalid: when the claim and the document's `mediaType` contradict each other, or for schema 1.
    """
    own = _text(document, "mediaType")
    if document.get("schemaVersion") == 1 or {own, claimed} & SCHEMA1:
        raise ManifestInvalid("upstream offers only a schema 1 manifest, whose digest is not over its bytes")
    if claimed in VAGUE:
        return own or _by_shape(document)
    if own and own != claimed:
        raise ManifestInvalid(f"the manifest says it is {own[:120]!r} but was sent as {claimed[:120]!r}")
    return claimed


def _one_shape(document: dict[str, Any], media_type: str) -> None:
    lists, points = "manifests" in document, "layers" in document or "config" in document
    if (lists and (points or media_type in _IMAGES)) or (points and media_type in INDEXES):
        raise ManifestInvalid("the document is both an index and a manifest (CVE-2021-41190)")


def _by_shape(document: dict[str, Any]) -> str:
    if "manifests" in document:
        return OCI_INDEX
    config = document.get("config")
    docker = isinstance(config, dict) and str(config.get("mediaType", "")).startswith("application/vnd.docker.")
    return DOCKER_MANIFEST if docker else OCI_MANIFEST


def parse_manifest(raw: bytes, claimed: str = "", digest: Digest | None = None) -> Manifest:
    """Read a manifest or index.

    Args:
        raw: the exact bytes.
        claimed: the media type it was sent as, without parameters; empty where nobody said.
        digest: what the caller asked for; the bytes must hash to it. None: their sha256 becomes the digest.

    Raises:
        ManifestInvalid: as the rules above; also when the bytes do not hash to `digest`.
    """
    computed = Digest.of(raw, digest.algorithm if digest else "sha256")
    if digest is not None and computed != digest:
        raise ManifestInvalid(f"the bytes hash to {computed}, not to {digest}")
    document = _load(raw)
    _depth(document)
    media_type = media_type_of(document, claimed)
    if not is_media_type(media_type):
        raise ManifestInvalid(f"not a media type: {media_type[:120]!r}")
    _one_shape(document, media_type)
    config = _optional(document, "config")
    artifact_type = _text(document, "artifactType")
    if not artifact_type and config is not None and config.media_type != _EMPTY_CONFIG:
        artifact_type = config.media_type
    children = tuple(
        Child(_descriptor(each), _platform(each.get("platform"))) for each in _objects(document, "manifests")
    )
    listed = _objects(document, "layers") or _objects(document, "blobs")
    layers = tuple(_descriptor(each) for each in listed)
    return Manifest(
        descriptor=Descriptor(media_type, computed, len(raw)),
        raw=raw,
        config=config,
        layers=layers,
        children=children,
        subject=_optional(document, "subject"),
        artifact_type=artifact_type,
        annotations=_annotations(document),
        foreign=frozenset(layer.digest for layer, each in zip(layers, listed, strict=True) if each.get("urls")),
        claimed=media_type != media_type_of(document, ""),
    )
