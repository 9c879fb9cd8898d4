"""What a sync resolved a set to: the document that is kept of it, and that a bundle is made from without any upstream.

Rule 1: canonical JSON: sorted keys, sorted lists, no moment in it; so the same content gives the same bytes.
Rule 2: what is read is checked whole; a record that is not exactly what is written here is `Malformed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.digest import Digest
from iarproxy.oci.manifest import Platform
from iarproxy.oci.reference import Reference, TagReference, parse_reference

MEDIA_TYPE = "application/vnd.iarproxy.set.v1+json"
MAX_RECORD = 64 * 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A name that a site needs.

    Attributes:
        why: which lines of the set brought it, for people.
        platforms: of an index, only these; empty: all.
        referrers: whether what is attached to it was asked for.
    """

    reference: Reference
    descriptor: Descriptor
    why: tuple[str, ...]
    platforms: tuple[Platform, ...] = ()
    referrers: bool = True


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is attached to content: a fallback index of referrers, or a `.sig`, `.att`, `.sbom` tag, of a subject.

    Attributes:
        reference: the attachment tag; `reference.tag.subject` is what it is attached to.
    """

    reference: TagReference
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Lacking:
    """What could not be resolved or fetched, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class SetRecord:
    """What a set came to.

    Attributes:
        definition: of the section in the sets file as it was then (canonical, sha256).
        lacking: empty where all of the set is held.
        unresolved: strings in charts that look like images and did not resolve.
    """

    name: str
    definition: Digest
    members: tuple[Member, ...]
    attachments: tuple[Attachment, ...] = ()
    lacking: tuple[Lacking, ...] = ()
    unresolved: tuple[str, ...] = ()

    @property
    def referrers(self) -> bool:
        """Whether of any name it was asked what is attached to it."""
        return any(each.referrers for each in self.members)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lacking."""
        return not self.lacking

    def dump(self) -> bytes:
        """The document."""
        return orjson.dumps(
            {
                "mediaType": MEDIA_TYPE,
                "set": self.name,
                "definition": str(self.definition),
                "members": [_of_member(each) for each in sorted(self.members, key=_by_name)],
                "attachments": [
                    {"reference": str(each.reference), **described(each.descriptor)}
                    for each in sorted(self.attachments, key=_by_name)
                ],
                "lacking": sorted(({"what": each.what, "why": each.why} for each in self.lacking), key=_by_what),
                "unresolved": sorted(self.unresolved),
            },
            option=orjson.OPT_SORT_KEYS,
        )

    @classmethod
    def parse(cls, raw: bytes) -> SetRecord:
        """The record that `dump` wrote.

        Raises:
            Malformed: it is none.
        """
        try:
            document = orjson.loads(raw)
            found = cls(
                name=document["set"],
                definition=Digest.parse(document["definition"]),
                members=tuple(map(_member, document["members"])),
                attachments=tuple(map(_attachment, document["attachments"])),
                lacking=tuple(Lacking(each["what"], each["why"]) for each in document["lacking"]),
                unresolved=tuple(document["unresolved"]),
            )
            if found.dump() == raw:
                return found
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Malformed(f"not the record of a set: {str(error)[:120]}") from error
        raise Malformed("not the record of a set as iarproxy writes it; sync the set again")


def described(descriptor: Descriptor) -> dict[str, Any]:
    """A descriptor in the field names of image-spec v1.1."""
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def described_in(document: dict[str, Any]) -> Descriptor:
    """The descriptor whose fields `document` has among others.

    Raises:
        Malformed, LookupError, TypeError: they are none.
    """
    return Descriptor(document["mediaType"], Digest.parse(document["digest"]), document["size"])


def tag_of(text: str) -> TagReference:
    """The tag that a document names in full.

    Raises:
        Malformed: it names none, or not in the one spelling.
    """
    found = parse_reference(text)
    if not isinstance(found, TagReference) or str(found) != text:
        raise Malformed(f"not the full name of a tag: {text[:160]!r}")
    return found


def reference_of(text: str) -> Reference:
    """The reference that a document names in full.

    Raises:
        Malformed: it names none, or not in the one spelling.
    """
    found = parse_reference(text)
    if str(found) != text:
        raise Malformed(f"not a full name: {text[:160]!r}")
    return found


def _by_name(each: Member | Attachment) -> str:
    return str(each.reference)


def _by_what(each: dict[str, str]) -> tuple[str, str]:
    return each["what"], each["why"]


def _of_member(member: Member) -> dict[str, Any]:
    return {
        "reference": str(member.reference),
        **described(member.descriptor),
        "why": sorted(member.why),
        "platforms": sorted(map(str, member.platforms)),
        "referrers": member.referrers,
    }


def _member(document: dict[str, Any]) -> Member:
    platforms = tuple(Platform.parse(each) for each in document["platforms"])
    reference, why = reference_of(document["reference"]), tuple(document["why"])
    return Member(reference, described_in(document), why, platforms, _flag(document["referrers"]))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"neither true nor false: {str(value)[:40]}")
    return value


def _attachment(document: dict[str, Any]) -> Attachment:
    return Attachment(tag_of(document["reference"]), described_in(document))
