"""One sync while it goes on: what is known of the set so far, and what failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from iarproxy.config.wanted import WantedSet
from iarproxy.errors import IarproxyError
from iarproxy.mirror.sync.attachments import Attached
from iarproxy.mirror.sync.resolve import Resolved
from iarproxy.mirror.sync.tally import Tally
from iarproxy.mirror.sync.values import Asked, Failed, Progress, each_once
from iarproxy.mirror.sync.waiting import Waiting
from iarproxy.oci import Digest, Manifest, Reference, Repository, TagReference
from iarproxy.oci.closure import Closure, Root
from iarproxy.oci.set_record import Attachment, Lacking, Member
from iarproxy.together import together

AT_A_TIME = 8
_SPELLED = 20  # names

A = TypeVar("A")
B = TypeVar("B")


@dataclass(slots=True)
class Run:
    """What is known so far.

    Attributes:
        unresolved: what looks like an image in charts and is none.
        whence: of content, the repositories that name it, the first one first.
        closure: of all names and attachments that were walked.
        referrers: whether what is attached is wanted, whatever the set says; None: as it says.
    """

    wanted: WantedSet
    waiting: Waiting
    progress: Progress
    failed: list[Failed] = field(default_factory=list)
    left_out: list[Lacking] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    resolved: dict[Reference, Resolved] = field(default_factory=dict)
    unresolved: set[str] = field(default_factory=set)
    attachments: dict[TagReference, Attachment] = field(default_factory=dict)
    whence: dict[Digest, dict[Repository, None]] = field(default_factory=dict)
    closure: Closure = field(default_factory=Closure)
    tally: Tally = field(default_factory=Tally)
    referrers: bool | None = None

    def without(self, asked: Asked) -> str:
        """Why a name comes without what is attached to it; empty: it comes with that."""
        if self.referrers is not None:
            return "" if self.referrers else "it was asked for without referrers"
        if asked.choice is not None:
            return "" if asked.choice.referrers else str(asked.choice)
        return "" if self.wanted.referrers else f"the set {self.wanted.name} says referrers = false"

    def tell_without(self, asked: Iterable[Asked]) -> None:
        """Say which names come without what is attached to them, and why."""
        found: dict[str, list[str]] = {}
        for each in asked:
            found.setdefault(self.without(each), []).append(str(each.reference))
        found.pop("", None)
        for why, names in found.items():
            more = f" and {len(names) - _SPELLED} more" if len(names) > _SPELLED else ""
            listed = ", ".join(sorted(names)[:_SPELLED])
            self.remarks.append(f"{why}, so these come without what is attached to them: {listed}{more}")

    async def tried(self, registry: str, what: object, work: Callable[[], Awaitable[A]]) -> A | None:
        """The result of `work`, with the patience of this sync; None: it failed, which is noted."""
        try:
            return await self.waiting.run(registry, work)
        except IarproxyError as error:
            self.note(what, error)
            return None

    async def attached(
        self, repository: Repository, root: Root, work: Callable[[], Awaitable[Attached]]
    ) -> Attached | None:
        """What is attached to something, as `work` finds it: asked again as for all else, and told with what lacks."""
        found: Attached | None = None

        async def asking() -> None:
            nonlocal found
            found = None
            found = await work()
            if found.again is not None:
                raise found.again

        try:
            await self.waiting.run(repository.registry, asking)
        except IarproxyError as error:
            if found is None:
                self.note(f"what is attached to {repository}@{root.descriptor.digest}", error)
        return found

    async def each(self, stage: str, things: Sequence[A], one: Callable[[A], Awaitable[B]]) -> list[B]:
        """What `one` gives for each of these, in their order; progress is told."""
        self.progress.stage(stage, len(things))

        async def step(thing: A) -> B:
            result = await one(thing)
            self.progress.step()
            return result

        return await together(things, step, at_a_time=AT_A_TIME)

    def note(self, what: object, error: IarproxyError) -> None:
        """Something is lacking; each thing is told once."""
        failed = Failed.of(what, error)
        if all(each.what != failed.what for each in self.failed):
            self.failed.append(failed)

    def learn(self, repository: Repository, manifest: Manifest) -> None:
        """The repository names these blobs; and what the manifest says."""
        self.tally.look(manifest)
        for blob in manifest.blobs:
            self.whence.setdefault(blob.digest, {})[repository] = None

    def compare(self, name: Reference, manifest: Manifest, root: Root) -> None:
        """Say where an index has none of the platforms that are wanted, and all of it comes."""
        offered = {each for child in manifest.children if (each := child.platform) and each.os != "unknown"}
        if not root.platforms or not offered or any(each.serves(one) for each in offered for one in root.platforms):
            return
        wanted, has = (", ".join(sorted(map(str, each))) for each in (root.platforms, offered))
        remark = f"{name} has nothing for {wanted}, so all of it is taken: {has}"
        if remark not in self.remarks:
            self.remarks.append(remark)

    def add(self, found: Closure) -> None:
        """More that has to be held."""
        self.closure.documents |= found.documents
        self.closure.blobs |= found.blobs
        self.closure.foreign |= found.foreign
        self.closure.omitted |= found.omitted
        self.closure.absent |= found.absent

    def attach(self, found: Attached) -> None:
        """What is attached to a name."""
        self.attachments.update((each.reference, each) for each in found.attachments)
        self.left_out += [each for each in found.left_out if each not in self.left_out]
        known = {each.what for each in self.failed}
        self.failed += [
            Failed(each.what, each.why, refused=each.what in found.refused)
            for each in found.lacking
            if each.what not in known
        ]

    def join(self, asked: Iterable[Asked]) -> list[Asked]:
        """Learn that these are asked for too; those of them that have to be resolved still."""
        more = list(asked)
        failed = {each.what for each in self.failed}
        named = each_once([*(each.asked for each in self.resolved.values()), *more])
        self.failed += named.failed
        ahead = []
        for each in named.asked:
            known = self.resolved.get(each.reference)
            if known is not None and each.locked in (None, known.asked.locked):
                self.resolved[each.reference] = replace(known, asked=each)
            elif str(each.reference) not in failed:
                ahead.append(each)
        return ahead

    def members(self) -> tuple[Member, ...]:
        """The names that could be resolved."""
        return tuple(
            Member(
                reference,
                each.descriptor,
                each.asked.why,
                each.asked.platforms,
                referrers=not self.without(each.asked),
            )
            for reference, each in self.resolved.items()
        )
