"""`index.json` of others' OCI image layouts (image-spec v1.1, image-layout.md): what is in it, and how it is called.

Rule 1: `io.containerd.image.name` is a full name; `org.opencontainers.image.ref.name` is one where it has a registry or
        a colon, else it is a tag that belongs to whichever repository the layout is of.
Rule 2: an entry without a name is no image to be pinned: it may refer to another one, as signatures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, assert_never

import orjson

from iarproxy.errors import Malformed
from iarproxy.oci.bundle_layout import IMAGE_NAME, REF_NAME
from iarproxy.oci.descriptor import Descriptor
from iarproxy.oci.manifest import parse_manifest
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.oci.reference import (
    DigestReference,
    Reference,
    Tag,
    TagReference,
    is_registry_like,
    parse_reference,
)

LAYOUT, INDEX = "oci-layout", "index.json"
_VERSION = "1.0.0"

Called: TypeAlias = Reference | Tag | None


@dataclass(frozen=True, slots=True)
class LayoutEntry:
    """A manifest that a layout lists. `called`: by a full name, by a tag of a repository that is not said, or not."""

    descriptor: Descriptor
    called: Called = None


@dataclass(frozen=True, slots=True)
class Given:
    """The name that a person gives what is imported; `has_tag`: they wrote one."""

    reference: TagReference
    has_tag: bool


def given(text: str) -> Given:
    """A name as a person wrote it.

    Raises:
        Malformed: it is no name of a tag or repository.
    """
    found = parse_reference(text)
    if not isinstance(found, TagReference):
        raise Malformed(f"{text[:160]!r} is no name of a tag or repository")
    return Given(found, has_tag=":" in text.rpartition("/")[2])


def insist_on_layout(raw: bytes) -> None:
    """Refuse an `oci-layout` file of another version.

    Raises:
        Malformed: that is what it is.
    """
    try:
        version = orjson.loads(raw)["imageLayoutVersion"]
    except (ValueError, LookupError, TypeError) as error:
        raise Malformed(f"{LAYOUT} is damaged: {str(error)[:120]}") from error
    if version != _VERSION:
        raise Malformed(f"{LAYOUT} says version {str(version)[:40]!r}; {_VERSION} is read")


def listed(raw: bytes) -> tuple[LayoutEntry, ...]:
    """What `index.json` lists, in its order.

    Raises:
        Malformed: it is no image index, or lists one name twice for different content.
    """
    children = parse_manifest(raw, OCI_INDEX).children
    documents: list[dict[str, Any]] = orjson.loads(raw).get("manifests") or []
    found = tuple(
        LayoutEntry(child.descriptor, _called(document.get("annotations")))
        for child, document in zip(children, documents, strict=True)
    )
    insist_on_one_meaning(found)
    return found


def insist_on_one_meaning(entries: Sequence[LayoutEntry]) -> None:
    """Refuse names that stand for two things.

    Raises:
        Malformed: one does.
    """
    seen: dict[Called, Descriptor] = {}
    for each in entries:
        if each.called is not None and seen.setdefault(each.called, each.descriptor).digest != each.descriptor.digest:
            raise Malformed(f"{str(each.called)[:300]} stands for two things in it; two readers would take two of them")


def named(entries: Sequence[LayoutEntry], name: Given | None) -> tuple[LayoutEntry, ...]:
    """The entries with the names that they get: their own, or what a person gave, whatever they call themselves.

    A given name with a tag is that of the one image there is. One without is the repository of all images, which keep
    their tags; of the only one that has none it is `latest`.

    Raises:
        Malformed: a name is needed and was not given, or does not fit; says which.
    """
    if name is None:
        found = tuple(entries)
    elif name.has_tag:
        found = _called_so(entries, name.reference)
    else:
        found = _moved(entries, name.reference)
    insist_on_one_meaning(found)
    if not any(isinstance(each.called, TagReference | DigestReference) for each in found):
        raise Malformed(_nameless(entries, name))
    return found


def _nameless(entries: Sequence[LayoutEntry], name: Given | None) -> str:
    if name is not None:
        return f"none of its {len(entries)} images has a name or tag of its own, and --name can name one image only"
    said = sorted({str(each.called) for each in entries if each.called is not None})
    tags = f" (it has the tags {', '.join(said[:10])})" if said else ""
    return f"nothing in it has a full name{tags}; give one: --name REGISTRY/REPOSITORY[:TAG]"


def _called_so(entries: Sequence[LayoutEntry], reference: TagReference) -> tuple[LayoutEntry, ...]:
    """The one image under that name, and what has none."""
    images = [each for each in entries if each.called is not None and not _is_attachment(each)] or list(entries)
    if len({each.descriptor.digest for each in images}) != 1:
        raise Malformed(f"{reference} can be one image, and it has {len(images)}; give --name a repository alone")
    rest = [_in(each, reference) for each in entries if each.descriptor.digest != images[0].descriptor.digest]
    return (replace(images[0], called=reference), *rest)


def _moved(entries: Sequence[LayoutEntry], reference: TagReference) -> tuple[LayoutEntry, ...]:
    """All images in that repository."""
    theirs = {each.called.repository for each in entries if isinstance(each.called, TagReference | DigestReference)}
    if len(theirs) > 1:
        told = ", ".join(map(str, sorted(theirs)[:10]))
        raise Malformed(f"{reference.repository} can be one repository, and it has images of {len(theirs)}: {told}")
    if len(entries) == 1 and entries[0].called is None:
        return (replace(entries[0], called=reference),)
    return tuple(_in(each, reference) for each in entries)


def _in(entry: LayoutEntry, reference: TagReference) -> LayoutEntry:
    """An entry as one of that repository; what has no name stays so."""
    match entry.called:
        case Tag():
            return replace(entry, called=TagReference(reference.repository, entry.called))
        case TagReference() | DigestReference():
            return replace(entry, called=replace(entry.called, repository=reference.repository))
        case None:
            return entry
        case _:
            assert_never(entry.called)


def _is_attachment(entry: LayoutEntry) -> bool:
    tag = entry.called.tag if isinstance(entry.called, TagReference) else entry.called
    return isinstance(tag, Tag) and tag.is_attachment


def _called(annotations: Any) -> Called:
    if not isinstance(annotations, dict):
        return None
    for key in (IMAGE_NAME, REF_NAME):
        text = annotations.get(key)
        if isinstance(text, str) and text:
            found = _full(text) or (_tag(text) if key == REF_NAME else None)
            if found is not None:
                return found
    return None


def _full(text: str) -> Reference | None:
    if ":" not in text and not ("/" in text and is_registry_like(text.partition("/")[0])):
        return None
    try:
        return parse_reference(text)
    except Malformed:
        return None


def _tag(text: str) -> Tag | None:
    try:
        return Tag(text)
    except Malformed:
        return None
