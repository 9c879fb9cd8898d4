"""What an exported layout consists of: names, and everything below them that the wanted platforms need.

Rule 1: it is closed: what a name needs is in it, or the export is refused with the command that fetches it. An index
        of which platforms were left out says so, and keeps its digest.
Rule 2: a docker-archive has images of one platform only; their layers and configs are the store's, byte for byte.
Rule 3: what is attached to content (signatures, SBOMs) goes along where it is asked for, under its attachment tags and,
        for tools that look for subjects, without a name; else it is counted. Readers of images would trip over it.
Rule 4: the same names and content give the same layout, in whichever order they are asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from iarproxy.archive.held import Load
from iarproxy.errors import Malformed, Refused
from iarproxy.oci import Descriptor, Digest, Manifest, Platform, Reference, Repository, TagReference
from iarproxy.oci.bundle_layout import LAYOUT, index_of
from iarproxy.oci.bundle_manifest import BundledAttachment, BundledName
from iarproxy.oci.closure import Closure, Root, walk
from iarproxy.oci.docker_archive import MANIFEST, SavedImage, dump
from iarproxy.oci.volumes import Literal, Piece

SizeOf: TypeAlias = Callable[[Digest], int | None]
AttachedTo: TypeAlias = Callable[[Repository, Digest], Awaitable[Sequence[BundledAttachment]]]


class LayoutFormat(StrEnum):
    """What is written."""

    OCI = "oci"  # an OCI image layout, a folder
    OCI_ARCHIVE = "oci-archive"  # the same as one tar file
    DOCKER_ARCHIVE = "docker-archive"  # both that and what `docker load` reads, of one platform


@dataclass(frozen=True, slots=True)
class Exported:
    """A name, and what it stands for."""

    reference: Reference
    descriptor: Descriptor


@dataclass(slots=True)
class Export:
    """What is written.

    Attributes:
        images: of a docker-archive.
        attachments: attachment tags; `referrers`: the manifests that they list.
        left: how many attachment tags were left out.
        blobs: sizes in bytes.
        foreign: layers that may be had elsewhere only, and are not in it.
    """

    names: list[BundledName] = field(default_factory=list)
    images: list[SavedImage] = field(default_factory=list)
    attachments: dict[str, BundledAttachment] = field(default_factory=dict)
    referrers: dict[Digest, Descriptor] = field(default_factory=dict)
    left: int = 0
    blobs: dict[Digest, int] = field(default_factory=dict)
    foreign: int = 0

    def contents(self) -> list[Literal | Piece]:
        """The files, in order."""
        named = sorted(self.names, key=lambda each: str(each.reference))
        attached = [each for _, each in sorted(self.attachments.items())]
        untagged = [each for _, each in sorted(self.referrers.items())]
        files = [LAYOUT, Literal("index.json", index_of([*named, *attached], untagged))]
        if self.images:
            files.append(Literal(MANIFEST, dump(self._saved())))
        return [*files, *(Piece(digest, 0, size, size) for digest, size in sorted(self.blobs.items()))]

    def _saved(self) -> list[SavedImage]:
        """Each image once, with all of its tags."""
        tags: dict[tuple[str, tuple[str, ...]], list[TagReference]] = {}
        for each in self.images:
            tags.setdefault((each.config, each.layers), []).extend(each.tags)
        return [SavedImage(*image, tuple(sorted(called))) for image, called in sorted(tags.items())]


class Exporting:
    """Gathers exports.

    Args:
        load: a document, checked; None: it is not held. size_of: of a held blob, in bytes.
        platforms: of indexes, only these; empty: all.
        attached: the attachment tags of a digest in a repository.
        flat: name the one platform's image, and not its index.
        referrers: take along what is attached.
    """

    def __init__(
        self,
        load: Load,
        size_of: SizeOf,
        platforms: Sequence[Platform],
        attached: AttachedTo,
        *,
        flat: bool = False,
        referrers: bool = False,
    ) -> None:
        self._load = load
        self._attached = attached
        self._referrers = referrers
        self._size_of = size_of
        self._platforms = tuple(platforms)
        self._flat = flat
        self._export = Export()

    async def gather(self, wanted: Sequence[Exported], form: LayoutFormat) -> Export:
        """All that belongs to `wanted`.

        Raises:
            Refused: something of it is not held; names the command that fetches it.
            Malformed: the format cannot hold it.
        """
        for each in wanted:
            if self._flat or form is LayoutFormat.DOCKER_ARCHIVE:
                await self._one_platform(each, form)
            else:
                await self._closed(each)
        return self._export

    async def _closed(self, wanted: Exported) -> None:
        found = await self._below(wanted, self._platforms)
        self._export.names.append(BundledName(wanted.reference, wanted.descriptor, tuple(sorted(found.omitted))))
        ahead = list(found.documents)
        while ahead:
            for each in await self._attached(wanted.reference.repository, ahead.pop()):
                if str(each.reference) not in self._export.attachments:
                    ahead += await self._attachment(each)

    async def _attachment(self, attachment: BundledAttachment) -> list[Digest]:
        """Take an attachment tag along; the documents below it, which have attachments themselves."""
        if not self._referrers:
            self._export.left += 1
            return []
        self._export.attachments[str(attachment.reference)] = attachment
        found = await self._below(Exported(attachment.reference, attachment.descriptor), ())
        listed = {digest: each for digest, each in found.documents.items() if digest != attachment.descriptor.digest}
        self._export.referrers.update(listed)
        return list(listed)

    async def _below(self, wanted: Exported, platforms: tuple[Platform, ...]) -> Closure:
        found = await walk([Root(wanted.descriptor, platforms)], self._load)
        self._insist_on_all(wanted, found)
        self._export.blobs.update({digest: self._size_of(digest) or 0 for digest in found.contents})
        self._export.foreign += len(found.foreign)
        return found

    async def _one_platform(self, wanted: Exported, form: LayoutFormat) -> None:
        manifest = await self._chosen(wanted)
        chosen = Exported(wanted.reference, manifest.descriptor)
        await self._closed(chosen)
        if form is LayoutFormat.DOCKER_ARCHIVE:
            self._export.images.append(_saved(chosen, manifest))

    async def _chosen(self, wanted: Exported) -> Manifest:
        """The image of the one platform.

        Raises:
            Malformed: there is none, or more than one.
        """
        manifest = await self._load(wanted.descriptor)
        if manifest is None:
            raise _not_held(wanted, [wanted.descriptor.digest], self._platforms)
        if not manifest.is_index:
            return manifest
        fitting = {
            child.descriptor.digest: child.descriptor
            for child in manifest.children
            if child.platform and any(map(child.platform.serves, self._platforms))
        }
        if len(fitting) != 1:
            known = ", ".join(sorted({str(each.platform) for each in manifest.children if each.platform}))
            raise Malformed(f"{wanted.reference} has {len(fitting)} images for that; name one --platform of {known}")
        return await self._chosen(Exported(wanted.reference, next(iter(fitting.values()))))

    def _insist_on_all(self, wanted: Exported, found: Closure) -> None:
        lacking = [*found.absent, *(digest for digest in found.contents if self._size_of(digest) is None)]
        if lacking:
            raise _not_held(wanted, lacking, self._platforms)


def _saved(wanted: Exported, manifest: Manifest) -> SavedImage:
    if manifest.config is None or "image" not in manifest.config.media_type or manifest.foreign:
        raise Malformed(f"{wanted.reference} is no image with all of its layers; a docker-archive takes nothing else")
    tags = (wanted.reference,) if isinstance(wanted.reference, TagReference) else ()
    return SavedImage(_path(manifest.config), tuple(map(_path, manifest.layers)), tags)


def _path(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"


def _not_held(wanted: Exported, lacking: Sequence[Digest], platforms: Sequence[Platform]) -> Refused:
    options = "".join(f" --platform {each}" for each in platforms)
    return Refused(
        f"{wanted.reference}: {len(lacking)} of its documents and blobs are not held, the first is {lacking[0]};"
        f" `iarproxy pull {wanted.reference}{options}` fetches them, or name the --platform that is"
    )
