"""Looking through a layout: what it would change, and what the store lacks of it. Nothing is changed here.

Rule 1: every document below a name is read, from the layout or else from the store; every blob is in one of them.
Rule 2: an index may lack children; that is told. Nothing else may be lacking.
Rule 3: what refers to imported content (signatures, SBOMs), tagged or not, becomes known under its fallback tag, joined
        with what was known before: attachments grow, and are never pins. What leads nowhere is told.
Rule 4: what is read for all this is bounded, however often a small archive lists the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import assert_never

from iarproxy.archive.held import load_from
from iarproxy.archive.layouts.plan import Differs, Grown, Imported, LayoutPlan, LeftOut
from iarproxy.archive.layouts.reading import Layout, naming
from iarproxy.errors import Denied, Malformed, UnknownName
from iarproxy.ledger import Ledger
from iarproxy.oci import (
    MAX_MANIFEST,
    Descriptor,
    Digest,
    DigestReference,
    Manifest,
    Repository,
    Tag,
    TagReference,
    parse_manifest,
)
from iarproxy.oci.closure import Closure, Root, walk
from iarproxy.oci.layout_index import Given, LayoutEntry, named
from iarproxy.oci.referrer_index import entry_of, joined
from iarproxy.store import Store
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.environments import Environment, PinsFrom

_SHOWN = 20  # digests that are spelled out
MOST_READ = 512 * 1024 * 1024  # bytes of all documents that are looked at, some of them again and again
_LOOKED, _NOTED = 4096, 512  # bytes that looking for a document counts for, and noting something for a repository
_LONGEST = 64  # referrers that refer to each other in a row


class Planning:
    """One look through one layout; `plan` is made once.

    Args:
        rules: which tags are pinned. upstreams: the registries whose content is served here.
        most_read: bytes of documents, repeated ones included, that may be looked at.
    """

    def __init__(
        self,
        layout: Layout,
        environment: Environment,
        *,
        store: Store,
        ledger: Ledger,
        rules: Sequence[TagRule],
        upstreams: Collection[str],
        most_read: int = MOST_READ,
    ) -> None:
        self._layout = layout
        self._environment = environment
        self._store = store
        self._ledger = ledger
        self._rules = rules
        self._upstreams = upstreams
        self._plan = LayoutPlan(environment)
        self._tagged: list[tuple[TagReference, Descriptor]] = []  # attachment tags
        self._untagged: list[Manifest] = []  # what refers to something
        self._nameless_entries: list[LayoutEntry] = []
        self._referring: dict[TagReference, list[Manifest]] = {}
        self._walked: dict[Descriptor, Closure] = {}
        self._noted: set[tuple[Repository, Descriptor]] = set()
        self._most_read, self._read = most_read, 0

    async def plan(self, name: Given | None) -> LayoutPlan:
        """What taking it over means.

        Raises:
            Denied: the environment takes pins from elsewhere. UnknownName: nobody is served that registry's content.
            Malformed: it is damaged, lacks something, or needs a name.
            LedgerDamaged, LedgerUnavailable: pins cannot be read.
        """
        if self._environment.pins_from is PinsFrom.PROMOTION:
            raise Denied(
                f"the environment {self._environment.name} takes pins by promotion only; import into"
                f" {self._environment.promote_from}, then `iarproxy promote`"
            )
        with naming(self._layout.files.called):
            entries = named(self._layout.entries, name)
            for entry in dict.fromkeys(entries):
                await self._entry(entry)
            await self._attach()
        self._tell_nameless()
        self._insist_on_something()
        return self._plan

    def _tell_nameless(self) -> None:
        """What has no name and is a part of nothing that has one."""
        parts = set[Digest]().union(*self._plan.links.values())
        for each in self._nameless_entries:
            if each.descriptor.digest not in parts:
                said = "has no name" if each.called is None else f"is called {each.called}, which is no full name"
                self._plan.left_out.append(LeftOut(each.descriptor.digest.short, f"{said}; --name gives one"))

    def _insist_on_something(self) -> None:
        if self._plan.is_empty:
            why = "; ".join(f"{each.what}: {each.why}" for each in self._plan.left_out[:3])
            raise Malformed(f"{self._layout.files.called} has nothing that can be pinned: {why or 'it lists nothing'}")

    async def _entry(self, entry: LayoutEntry) -> None:
        match entry.called:
            case TagReference() if entry.called.tag.is_attachment:
                self._tagged.append((entry.called, entry.descriptor))
            case TagReference():
                await self._tag(Imported(entry.called, entry.descriptor), entry.called)
            case DigestReference():
                await self._below(entry.called.repository, entry.descriptor, str(entry.called))
                self._plan.held.append(Imported(entry.called, entry.descriptor))
            case Tag() | None:
                await self._nameless(entry)
            case _:
                assert_never(entry.called)

    async def _tag(self, found: Imported, reference: TagReference) -> None:
        rule = self._environment.rule_for(reference, self._rules)
        if rule.mode is not Mode.PIN:
            said = f"the tag rule {rule.match.text!r} says {rule.mode}; it would not be served from a pin"
            self._plan.left_out.append(LeftOut(str(reference), said))
            return
        await self._below(reference.repository, found.descriptor, str(reference))
        pin = await self._ledger.within(self._environment.name).pin_of(reference)
        if pin is None:
            self._plan.new.append(found)
        elif pin.descriptor.digest == found.descriptor.digest:
            self._plan.unchanged.append(found)
        else:
            self._plan.differs.append(Differs(found, pin.descriptor.digest))

    async def _nameless(self, entry: LayoutEntry) -> None:
        found = await self._load(entry.descriptor)
        if found is not None and found.subject is not None:
            self._untagged.append(found)
        else:
            self._nameless_entries.append(entry)

    # --- content -----------------------------------------------------------------------------------------------------

    async def _load(self, descriptor: Descriptor) -> Manifest | None:
        found = await self._layout.document(descriptor) or await load_from(self._store)(descriptor)
        self._spend(_LOOKED + (0 if found is None else len(found.raw)))
        return found

    def _spend(self, count: int) -> None:
        self._read += count
        if self._read > self._most_read:
            raise Malformed(
                f"it has over {self._most_read} bytes of manifests, repeated ones included; import less at once"
            )

    async def _below(self, repository: Repository, descriptor: Descriptor, called: str) -> Closure:
        """Note everything below a manifest, for `repository` to hand out.

        Raises:
            Malformed: some of it is nowhere.
        """
        if repository.registry not in self._upstreams:
            raise UnknownName(
                f"{called}: {repository.registry} is not one of the configured upstreams, so nobody could be served it;"
                f' add [upstreams."{repository.registry}"], or give another --name'
            )
        found = self._walked.get(descriptor) or await walk([Root(descriptor)], self._load)
        self._walked[descriptor] = found
        if (repository, descriptor) not in self._noted:
            self._noted.add((repository, descriptor))
            await self._note(repository, descriptor, found, called)
        if found.absent:
            self._plan.sparse[called] = len(found.absent)
        return found

    async def _note(self, repository: Repository, descriptor: Descriptor, found: Closure, called: str) -> None:
        self._spend(_NOTED * (len(found.documents) + len(found.blobs)))
        if descriptor.digest in found.absent or (found.absent and len(found.documents) == 1):
            raise Malformed(
                f"{self._layout.files.called}: {called}: its content is not in it: {_spelled(found.absent)}"
            )
        lacking = await self._layout.lacking(
            each for each in found.blobs.values() if self._store.find(each.digest) is None
        )
        if lacking:
            raise Malformed(f"{called} lacks {_spelled([each.digest for each in lacking])}")
        for kept, among in ((self._plan.documents, found.documents), (self._plan.blobs, found.blobs)):
            kept.update({digest: each for digest, each in among.items() if self._store.find(digest) is None})
        self._plan.links[repository].update(found.documents, found.blobs)

    # --- attachments -------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        for reference, descriptor in self._tagged:
            await self._below(reference.repository, descriptor, str(reference))
        await self._find_subjects()
        tagged = dict(self._tagged)
        for reference in sorted({*tagged, *self._referring}):
            if reference.tag == Tag.attached_to(_subject(reference)):
                await self._grow_index(reference, tagged.get(reference))
            else:
                await self._grow_signatures(reference, tagged[reference])

    async def _find_subjects(self) -> None:
        """Which repositories untagged referrers belong to, until no more is found: they refer to each other."""
        left = self._untagged
        for _ in range(_LONGEST):
            before, left = left, []
            for each in before:
                left += [] if await self._referrer(each) else [each]
            if len(left) == len(before):
                break
        for each in left:
            said = "has no name, and refers to something that is not imported"
            self._plan.left_out.append(LeftOut(each.descriptor.digest.short, said))

    async def _referrer(self, referrer: Manifest) -> bool:
        """Whether the subject of what refers is imported; then so is that."""
        assert referrer.subject is not None  # noqa: S101  # that is why it is among them
        subject = referrer.subject.digest
        homes = [each for each, linked in self._plan.links.items() if subject in linked]
        if subject.algorithm != "sha256":  # the fallback tag of another one is no attachment, and would be pinned
            return False
        for repository in homes:
            await self._below(repository, referrer.descriptor, f"what refers to {subject.short}")
            self._referring.setdefault(TagReference(repository, Tag.attached_to(subject)), []).append(referrer)
        return bool(homes)

    async def _grow_index(self, reference: TagReference, imported: Descriptor | None) -> None:
        raws = [await self._known(reference), await self._raw(imported)]
        indexes = [raw for raw in raws if raw is not None]
        raw = joined(indexes, map(entry_of, self._referring.get(reference, [])))
        self._grow(reference, raw)

    async def _grow_signatures(self, reference: TagReference, imported: Descriptor) -> None:
        """A `.sig`, `.att` or `.sbom` tag: the larger one of two that contain each other."""
        known, fresh = await self._known(reference), await self._raw(imported)
        if fresh is None:
            return
        ours = set() if known is None else {each.digest for each in parse_manifest(known).layers}
        theirs = {each.digest for each in parse_manifest(fresh).layers}
        if ours <= theirs:
            self._grow(reference, fresh)
        elif not theirs <= ours:
            self._plan.left_out.append(LeftOut(str(reference), "what is known already has others than these"))

    def _grow(self, reference: TagReference, raw: bytes) -> None:
        self._plan.grown.append(Grown(reference, parse_manifest(raw).descriptor, raw))

    async def _known(self, reference: TagReference) -> bytes | None:
        known = await self._ledger.followed(reference)
        return None if known is None else await self._store.read(known[0].digest, MAX_MANIFEST)

    async def _raw(self, descriptor: Descriptor | None) -> bytes | None:
        found = None if descriptor is None else await self._load(descriptor)
        return None if found is None else found.raw


def _subject(reference: TagReference) -> Digest:
    subject = reference.tag.subject
    assert subject is not None  # noqa: S101  # only attachment tags come here
    return subject


def _spelled(digests: Collection[Digest]) -> str:
    """Some digests, and how many more there are."""
    told = ", ".join(map(str, sorted(digests)[:_SHOWN]))
    return f"{told} and {len(digests) - _SHOWN} more" if len(digests) > _SHOWN else told
