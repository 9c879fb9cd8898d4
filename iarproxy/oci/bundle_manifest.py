"""`bundle.json`: what a bundle is, in the one document whose sha256 is signed.

Rule 1: canonical JSON without any moment, host or user in it: the same content gives the same bytes everywhere.
Rule 2: it decides every byte of the volumes. Their framing follows from it (`oci.volumes`), blobs from their digests,
        pieces of blobs from the digests here; so a reader compares, and never interprets what a medium says.
Rule 3: it names all that the set is, not only what travels: `requires` is what the site must hold already, and with
        `provides` it is the whole closure of all names.
Rule 4: what is read is checked whole; a document that is not exactly what is written here is `Malformed`.
Rule 5: it is short, for it travels with each delta: lists of digests are packed (`oci.digest_list`), and media types
        stand in a table of their own, in the order in which names, then attachments, have them. What names and
        attachments say is not said again: their manifests are required where they do not travel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.digest_list import packed, unpacked
from iarproxy.oci.manifest import Manifest
from iarproxy.oci.reference import Reference, TagReference
from iarproxy.oci.set_record import reference_of, tag_of

MEDIA_TYPE = "application/vnd.iarproxy.bundle.v1+json"
MAX_BUNDLE = 256 * 2**20  # bytes of the document
MAX_NAMES = 100_000  # and as many attachments
_MAX_OBJECTS = 2_000_000  # lists and objects in the document: each takes fifty times what it takes there
_MAX_VALUES = 4_000_000  # and of anything else, which takes ten times that
SET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BundledName:
    """A name, and what it stands for.

    Attributes:
        omitted: children of its indexes, at any depth, that no wanted platform needs; declared, not carried.
        listed: whether the layout's `index.json` has it: it is an image, and all of its content is in this bundle.
    """

    reference: Reference
    descriptor: Descriptor
    omitted: tuple[Digest, ...] = ()
    listed: bool = False


@dataclass(frozen=True, slots=True)
class BundledAttachment:
    """An attachment tag, and the manifests that its index or manifest leads to: the edges from subject to referrer."""

    reference: TagReference
    descriptor: Descriptor
    manifests: tuple[Digest, ...] = ()

    def insist(self, document: Manifest) -> None:
        """Return if that is what the document leads to: of an index its children, of anything else itself.

        Raises:
            Malformed: it leads elsewhere.
        """
        children = {child.descriptor.digest for child in document.children}
        if set(self.manifests) != (children if document.is_index else {document.descriptor.digest}):
            raise Malformed(f"{self.reference} leads to other manifests than bundle.json says")


@dataclass(frozen=True, slots=True)
class Carried:
    """A blob that travels in this bundle; `size` in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """What a bundle is.

    Attributes:
        names, attachments: the whole set, sorted by their text.
        provides: what travels, sorted by digest. requires: what the site must hold, sorted.
        volume_size: the most bytes of a volume; None: one volume of any size.
        pieces: of each blob that spans volumes, the sha256 of its pieces in order (hex).
    """

    set: str
    names: tuple[BundledName, ...]
    attachments: tuple[BundledAttachment, ...]
    provides: tuple[Carried, ...]
    requires: tuple[Digest, ...]
    volume_size: int | None = None
    pieces: tuple[tuple[Digest, tuple[str, ...]], ...] = ()
    _identity: Digest | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def identity(self) -> Digest:
        """What the bundle is called in volumes and messages: the sha256 of the document without its pieces, for these
        are known only once the volumes are written. It is computed once.
        """
        if self._identity is None:
            bare = replace(self, pieces=()) if self.pieces else self
            object.__setattr__(self, "_identity", Digest.of(bare.dump()))
        assert self._identity is not None  # noqa: S101  # set above
        return self._identity

    def dump(self) -> bytes:
        """The document."""
        return self._spelled([[str(each.digest), each.size] for each in self.provides])

    def _spelled(self, provides: list[list[Any]]) -> bytes:
        """The document; `provides` as it is to stand there."""
        every: Iterable[BundledName | BundledAttachment] = (*self.names, *self.attachments)
        types = list(dict.fromkeys(each.descriptor.media_type for each in every))
        numbers = {media_type: number for number, media_type in enumerate(types)}
        return orjson.dumps(
            {
                "mediaType": MEDIA_TYPE,
                "set": self.set,
                "mediaTypes": types,
                "names": [_of_name(each, numbers) for each in self.names],
                "attachments": [_of_attachment(each, numbers) for each in self.attachments],
                "provides": provides,
                "requires": packed(self._others),
                "volumeSize": self.volume_size,
                "pieces": {str(digest): list(hashes) for digest, hashes in self.pieces},
            },
            option=orjson.OPT_SORT_KEYS,
        )

    @property
    def _others(self) -> list[Digest]:
        """What the site must hold beside what names and attachments say."""
        said = _said(self.names, self.attachments)
        return [each for each in self.requires if each.hex not in said]

    def sections(self) -> dict[str, tuple[int, Digest]]:
        """How many there are of each kind, and the sha256 over them: signed beside the whole, so that a reader can say
        what of a document was changed.
        """
        document = orjson.loads(self.dump())
        kinds = {
            "names": self.names,
            "attachments": self.attachments,
            "provides": self.provides,
            "requires": self._others,
        }
        return {
            kind: (len(entries), Digest.of(orjson.dumps(document[kind], option=orjson.OPT_SORT_KEYS)))
            for kind, entries in kinds.items()
        }

    @classmethod
    def parse(cls, raw: bytes) -> BundleManifest:
        """The document that `dump` wrote.

        Raises:
            Malformed: it is none.
        """
        try:
            document = document_in(raw)
            if max(len(document["names"]), len(document["attachments"])) > MAX_NAMES:
                raise Malformed(f"not a bundle's manifest: over {MAX_NAMES} names or attachments")
            types = tuple(map(str, document["mediaTypes"]))
            names = tuple(_name(each, types) for each in document["names"])
            attachments = tuple(_attachment(each, types) for each in document["attachments"])
            provides = tuple(Carried(Digest.parse(digest), size) for digest, size in document["provides"])
            found = cls(
                set=document["set"],
                names=names,
                attachments=attachments,
                provides=provides,
                requires=_required(_said(names, attachments), provides, unpacked(document["requires"])),
                volume_size=document["volumeSize"],
                pieces=tuple((Digest.parse(digest), tuple(each)) for digest, each in document["pieces"].items()),
            )
            # `dump`, without spelling a million digests anew: each was parsed from the only text that it has
            exact = type(document["provides"]) is list and found._spelled(document["provides"]) == raw
            sound = exact and _is_sound(found, [digest for digest, _ in document["provides"]])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Malformed(f"not a bundle's manifest: {str(error)[:120]}") from error
        if not sound:
            raise Malformed(
                "not a bundle's manifest as iarproxy writes it: it repeats, misorders or misspells something"
            )
        if not found.pieces:
            object.__setattr__(found, "_identity", Digest.of(raw))
        return found


def document_in(raw: bytes) -> Any:
    """What the JSON says, whoever wrote it; parsed only where it does not take more memory than any bundle's.

    Raises:
        Malformed: it would, or is no JSON.
    """
    objects = raw.count(b"[") + raw.count(b"{")
    if len(raw) > MAX_BUNDLE or objects > _MAX_OBJECTS or raw.count(b",") > _MAX_VALUES:
        raise Malformed("not a bundle's manifest: there is more in it than in any")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not a bundle's manifest: {error}") from error


def _is_sound(found: BundleManifest, provided: list[str]) -> bool:
    """Whether it says what can be. `provided`: the digests of what travels as texts, which sort as digests do."""
    travel, named = set(provided), [str(each.reference) for each in found.names]
    attached = [str(each.reference) for each in found.attachments]
    ordered = all(map(_rises, (provided, named, attached)))  # the packed ones are
    sized = all(type(each.size) is int and each.size >= 0 for each in found.provides)
    limited = found.volume_size is None or (type(found.volume_size) is int and found.volume_size > 0)
    hashed = all(len(each) == 64 and set(each) <= set("0123456789abcdef") for _, all_ in found.pieces for each in all_)  # noqa: PLR2004  # hex digits of a sha256
    known = travel.issuperset(str(digest) for digest, _ in found.pieces)
    apart = travel.isdisjoint(map(str, found.requires))
    tags = all(each.reference.tag.is_attachment for each in found.attachments)
    meant = all(
        isinstance(each.reference, TagReference) or each.reference.digest == each.descriptor.digest
        for each in found.names
    )
    sound = ordered and sized and limited and hashed and known and apart and tags and meant
    return sound and bool(SET_NAME.fullmatch(found.set))


def _said(names: Iterable[BundledName], attachments: Iterable[BundledAttachment]) -> dict[str, Digest]:
    """The digests, by their hex, of which names and attachments say that they belong to the set."""
    found = {each.descriptor.digest.hex: each.descriptor.digest for each in names}
    for each in attachments:
        found |= {digest.hex: digest for digest in (each.descriptor.digest, *each.manifests)}
    return found


def _required(
    said: Mapping[str, Digest], provides: Iterable[Carried], others: tuple[Digest, ...]
) -> tuple[Digest, ...]:
    """What the site must hold: what is said and does not travel, and the others."""
    travel = {each.digest.hex for each in provides}
    held = [digest for hex_, digest in said.items() if hex_ not in travel]
    return tuple(sorted((*others, *held), key=attrgetter("algorithm", "hex"))) if held else others


def _rises(values: Any) -> bool:
    return all(first < second for first, second in pairwise(values))


def _of_name(name: BundledName, types: Mapping[str, int]) -> dict[str, Any]:
    return {
        **_described(name, types),
        **({"omitted": packed(sorted(name.omitted))} if name.omitted else {}),
        **({"listed": True} if name.listed else {}),
    }


def _name(document: dict[str, Any], types: Sequence[str]) -> BundledName:
    omitted = unpacked(document.get("omitted", {}))
    reference = reference_of(document["reference"])
    return BundledName(reference, _descriptor(document, types), omitted, listed=bool(document.get("listed", False)))


def _of_attachment(attachment: BundledAttachment, types: Mapping[str, int]) -> dict[str, Any]:
    return {**_described(attachment, types), "manifests": packed(sorted(attachment.manifests))}


def _attachment(document: dict[str, Any], types: Sequence[str]) -> BundledAttachment:
    return BundledAttachment(
        tag_of(document["reference"]), _descriptor(document, types), unpacked(document["manifests"])
    )


def _described(each: BundledName | BundledAttachment, types: Mapping[str, int]) -> dict[str, Any]:
    """A reference and its descriptor; `type`: the number of its media type in the table, from 0."""
    of = each.descriptor
    return {"reference": str(each.reference), "type": types[of.media_type], "digest": str(of.digest), "size": of.size}


def _descriptor(document: dict[str, Any], types: Sequence[str]) -> Descriptor:
    return Descriptor(types[document["type"]], Digest.parse(document["digest"]), document["size"])
