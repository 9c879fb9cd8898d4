"""What a sync leaves in store and ledger, made without one: contents held, names pinned, attachments, the record.

Rule 1: it is exactly what `iarproxy sync` leaves (see `mirror.syncing`), so that what reads it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from iarproxy.config.sets import load_sets
from iarproxy.ledger import Ledger
from iarproxy.oci import Descriptor, Digest, Platform, Tag, TagReference, parse_manifest, parse_reference
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.oci.set_record import MEDIA_TYPE, Attachment, Member, SetRecord
from iarproxy.store import Store
from images import Published

SOURCE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Rooms:
    """Store and ledger of a place, open."""

    store: Store
    ledger: Ledger


@dataclass(frozen=True)
class Wanted:
    """A set as a test wants it.

    Attributes:
        names: the images, by full reference: a tag, or a digest.
        attached: what refers to the image of a name: artifacts, listed under its fallback tag.
        platforms: of indexes, only these.
    """

    names: Mapping[str, Published]
    attached: Mapping[str, Sequence[Published]] = field(default_factory=dict)
    platforms: Sequence[str] = ()


async def hold(store: Store, published: Published) -> None:
    """Keep a manifest and everything below it; where the manifest is there, all of it is."""
    if store.find(published.digest) is not None:
        return
    for child in published.children:
        await hold(store, child)
    for digest, data in published.blobs.items():
        await store.put(digest, data)
    await store.put(published.digest, published.raw)


async def pin(rooms: Rooms, reference: TagReference, published: Published) -> None:
    """Pin a tag whose content is held, or move the pin, as a person would."""
    old = await rooms.ledger.pin_of(reference)
    if old is None:
        await rooms.ledger.add(reference, published.descriptor, SOURCE)
    elif old.descriptor.digest != published.digest:
        await rooms.ledger.repin(
            reference, old.descriptor.digest, published.descriptor, reason="new", actor="ann", source=SOURCE
        )


async def kept(rooms: Rooms, sets_file: Path, name: str, wanted: Wanted) -> SetRecord:
    """Hold, pin and record a set that has a section in `sets_file`; its record."""
    for text, published in wanted.names.items():
        reference = parse_reference(text)
        await hold(rooms.store, published)
        await rooms.ledger.link(reference.repository, _contents(published))
        if isinstance(reference, TagReference):
            await pin(rooms, reference, published)
    attached = [await _attach(rooms, text, wanted.names[text], each) for text, each in wanted.attached.items()]
    record = SetRecord(
        name=name,
        definition=load_sets(sets_file)[name].definition,
        members=tuple(_member(text, published, wanted.platforms) for text, published in wanted.names.items()),
        attachments=tuple(attached),
    )
    raw = record.dump()
    described = Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw))
    await rooms.store.put(described.digest, raw)
    await rooms.ledger.sets.keep(name, described, record.definition, complete=record.is_complete, actor="ann")
    return record


def _member(text: str, published: Published, platforms: Sequence[str]) -> Member:
    chosen = tuple(map(Platform.parse, platforms))
    return Member(parse_reference(text), published.descriptor, (f"references: {text}",), chosen)


async def _attach(rooms: Rooms, text: str, subject: Published, artifacts: Sequence[Published]) -> Attachment:
    """Hold artifacts, and what our referrers API says of their subject under its fallback tag."""
    repository = parse_reference(text).repository
    raw = referrers_of(artifacts)
    index = parse_manifest(raw, OCI_INDEX).descriptor
    for each in artifacts:
        await hold(rooms.store, each)
        await rooms.ledger.link(repository, _contents(each))
    await rooms.store.put(index.digest, raw)
    fallback = TagReference(repository, Tag.attached_to(subject.digest))
    await rooms.ledger.set_followed(fallback, index)
    await rooms.ledger.link(repository, [index.digest])
    return Attachment(fallback, index)


def referrers_of(artifacts: Sequence[Published]) -> bytes:
    """The index that a referrers API gives."""
    listed = [
        {
            "mediaType": each.media_type,
            "digest": str(each.digest),
            "size": len(each.raw),
            "artifactType": orjson.loads(each.raw)["artifactType"],
        }
        for each in artifacts
    ]
    return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed})


def _contents(published: Published) -> list[Digest]:
    below = [digest for child in published.children for digest in _contents(child)]
    return [published.digest, *published.blobs, *below]


def contents(*published: Published) -> dict[str, int]:
    """Everything that these consist of, with sizes in bytes."""
    found: dict[str, int] = {}
    for each in published:
        found |= {str(each.digest): len(each.raw)} | {str(digest): len(data) for digest, data in each.blobs.items()}
        found |= contents(*each.children)
    return found
