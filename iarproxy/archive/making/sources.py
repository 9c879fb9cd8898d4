"""What a bundle of a set has to carry: from the set's record and the documents in the store to its manifest.

Rule 1: nothing is asked of anybody: what the record names is here, or the set has to be synced again.
Rule 2: the manifest follows from record, documents and what the site holds; in no way from when, where or by whom.
Rule 3: foreign layers are named by their documents, and neither carried nor required.
Rule 4: what is left out of an index is declared for each name: it is what a walk of that name finds absent.
Rule 5: a name is listed for readers of layouts if it is an image and all that its platforms need is in this bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from iarproxy.archive.held import Load
from iarproxy.errors import Refused
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.bundle_manifest import BundledAttachment, BundledName, BundleManifest, Carried
from iarproxy.oci.closure import Root, walk
from iarproxy.oci.manifest import Manifest, Platform
from iarproxy.oci.set_record import Attachment, Member, SetRecord

_SHOWN = 20  # digests or names that are spelled out
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_IMAGE_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


@dataclass(frozen=True, slots=True)
class Document:
    """What of a manifest or index is needed once it was read: `below`, in order, and whether it is an image."""

    descriptor: Descriptor
    below: tuple[Digest, ...]
    is_index: bool
    is_image: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Document:
        """Its short form."""
        below = tuple(child.descriptor.digest for child in manifest.children)
        return cls(manifest.descriptor, below, manifest.is_index, _is_image(manifest))


@dataclass(slots=True)
class Sources:
    """What a set consists of.

    Attributes:
        documents: of all of it, by digest.
        contents: everything that a site has to hold.
        wanted: of each member, what its platforms need, foreign layers included.
    """

    record: SetRecord
    documents: dict[Digest, Document] = field(default_factory=dict)
    contents: set[Digest] = field(default_factory=set)
    wanted: dict[Member, frozenset[Digest]] = field(default_factory=dict)

    def manifest(
        self, held: Collection[Digest], volume_size: int | None, size_of: Callable[[Digest], int | None]
    ) -> BundleManifest:
        """The bundle for a site.

        Args:
            held: what the site holds.
            volume_size: the most bytes of a volume; None: one volume.
            size_of: the bytes of a blob in the store; None: it is not there. A document's word counts for nothing.

        Raises:
            Refused: something that has to travel is not there.
        """
        provided = self.contents.difference(held)
        sizes = {each: size_of(each) for each in sorted(provided)}
        provides = tuple(Carried(digest, size) for digest, size in sizes.items() if size is not None)
        if len(provides) < len(sizes):
            raise not_here(self.record.name, (digest for digest, size in sizes.items() if size is None))
        return BundleManifest(
            set=self.record.name,
            names=tuple(self._named(each, provided) for each in sorted(self.record.members, key=_by_name)),
            attachments=tuple(map(self._attached, sorted(self.record.attachments, key=_by_name))),
            provides=provides,
            requires=tuple(sorted(self.contents - provided)),
            volume_size=volume_size,
        )

    def _named(self, member: Member, provided: AbstractSet[Digest]) -> BundledName:
        root = self.documents[member.descriptor.digest]
        reached, omitted = self._below(root)
        images = root.is_image or (root.is_index and any(each.is_image for each in reached))
        listed = images and self.wanted[member] <= provided
        return BundledName(member.reference, member.descriptor, tuple(sorted(omitted)), listed)

    def _below(self, root: Document) -> tuple[list[Document], set[Digest]]:
        """The documents that one leads to, itself included, and those that are absent (rule 4)."""
        reached, absent, ahead = {root.descriptor.digest: root}, set[Digest](), [root]
        while ahead:
            for digest in ahead.pop().below:
                document = self.documents.get(digest)
                if document is None:
                    absent.add(digest)
                elif digest not in reached:
                    reached[digest] = document
                    ahead.append(document)
        return list(reached.values()), absent

    def _attached(self, attachment: Attachment) -> BundledAttachment:
        root = self.documents[attachment.descriptor.digest]
        leads_to = root.below if root.is_index else (root.descriptor.digest,)
        return BundledAttachment(attachment.reference, attachment.descriptor, tuple(sorted(set(leads_to))))


async def gather(record: SetRecord, load: Load) -> Sources:
    """What the set of `record` consists of.

    Args:
        record: what a sync came to.
        load: a document in the store, checked; None: it is not there, or not sound.

    Raises:
        Refused: a document of it is not there.
        ManifestInvalid: a document cannot be read, or there are more of them than anything sane has.
    """
    found = Sources(record)
    walked: dict[tuple[Digest, tuple[Platform, ...]], frozenset[Digest]] = {}

    async def noted(descriptor: Descriptor) -> Manifest | None:
        manifest = await load(descriptor)
        if manifest is not None and descriptor.digest not in found.documents:
            found.documents[descriptor.digest] = Document.of(manifest)
        return manifest

    async def below(root: Root) -> frozenset[Digest]:
        key = root.descriptor.digest, root.platforms
        if key not in walked:
            closure = await walk([root], noted)
            if closure.absent:
                raise not_here(record.name, closure.absent)
            found.contents.update(closure.contents)
            walked[key] = frozenset((*closure.contents, *closure.foreign))
        return walked[key]

    for member in record.members:
        found.wanted[member] = await below(Root(member.descriptor, member.platforms))
    for attachment in record.attachments:
        await below(Root(attachment.descriptor))
    return found


def spelled(names: Iterable[object]) -> str:
    """At most 20 digests or names, in order."""
    listed = sorted(map(str, names))
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def not_here(name: str, digests: Iterable[Digest]) -> Refused:
    """The refusal of a set some of which the store does not have."""
    return Refused(f"the store lacks a part of set {name}: {spelled(digests)}; run `iarproxy sync {name}` again")


def _is_image(manifest: Manifest) -> bool:
    config = manifest.config is not None and manifest.config.media_type in _IMAGE_CONFIGS
    return config and all(each.media_type.startswith(_IMAGE_LAYERS) for each in manifest.layers)


def _by_name(each: Member | Attachment) -> str:
    return str(each.reference)
