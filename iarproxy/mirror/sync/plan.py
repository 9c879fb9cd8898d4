"""What a sync would do, before it does it: names, bytes, reasons. Nothing is written: no pin, no document, no blob.

Rule 1: upstream is asked, in the background's part of its quota, for what no pin tells. What it answers is verified and
        forgotten.
Rule 2: counts are of content: what several names share counts once in the sums.
Rule 3: what is attached is counted as lists tell of it, and its bytes are not in the sums; images that a chart names
        are known once the chart is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from iarproxy.config.wanted import WantedSet
from iarproxy.errors import Denied, ManifestInvalid, UpstreamWrong
from iarproxy.ledger import Ledger
from iarproxy.mirror.serving.documents import Documents
from iarproxy.mirror.sync.names import Tags, names_of
from iarproxy.mirror.sync.run import AT_A_TIME, Run
from iarproxy.mirror.sync.values import Asked, Plan, PlannedName, Progress
from iarproxy.mirror.sync.waiting import Waiting
from iarproxy.oci import (
    Descriptor,
    Digest,
    DigestReference,
    Manifest,
    Repository,
    Tag,
    TagReference,
    parse_manifest,
)
from iarproxy.oci.attached_kind import kinds_listed, kinds_of
from iarproxy.oci.closure import Root, walk
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.store import Store
from iarproxy.together import together
from iarproxy.trust import Mode, TagRule
from iarproxy.trust.environments import FIRST_FETCHES
from iarproxy.upstream import Purpose, Upstreams


class Planning:
    """Looks at sets."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        upstreams: Upstreams,
        documents: Documents,
        tags: Tags,
        rules: Sequence[TagRule],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._upstreams = upstreams
        self._documents = documents
        self._tags = tags
        self._rules = tuple(rules)

    async def plan(self, wanted: WantedSet, *, referrers: bool | None, patience: float, progress: Progress) -> Plan:
        """What a sync would do; arguments as for `Syncing.sync`.

        Raises:
            LedgerUnavailable: pins cannot be read.
        """
        waiting = Waiting(patience, progress.waits, asyncio.get_running_loop().time)
        run = Run(wanted, waiting, progress, referrers=referrers)
        named = await names_of(wanted, run.waiting, self._tags)
        run.failed += named.failed
        run.remarks += named.remarks

        async def one(each: Asked) -> PlannedName | None:
            registry = each.reference.repository.registry
            return await run.tried(registry, each.reference, partial(self._name, run, each))

        planned = [each for each in await run.each("names", named.asked, one) if each is not None]
        charts = [f"{each.reference}: its images are not counted" for each in named.asked if each.chart]
        contents = run.closure.contents
        run.tell_without(named.asked)
        attached = None if planned and all(each.without for each in planned) else await self._attached(run)
        return Plan(
            tuple(planned),
            contents,
            {digest: size for digest, size in contents.items() if self._store.find(digest) is None},
            len(run.closure.documents),
            sum(digest not in contents for digest in run.closure.omitted),
            attached,
            None if attached is None else run.tally.counts(),
            tuple(run.failed),
            (*run.remarks, *charts),
        )

    # --- one name -----------------------------------------------------------------------------------------------------

    async def _name(self, run: Run, asked: Asked) -> PlannedName:
        repository = asked.reference.repository
        top, new = await self._top(asked)
        root = Root(top.descriptor, asked.platforms)
        run.compare(asked.reference, top, root)

        async def load(descriptor: Descriptor) -> Manifest | None:
            manifest: Manifest | None = top
            if descriptor.digest != top.descriptor.digest:
                reference = DigestReference(repository, descriptor.digest)
                asking = partial(self._document, repository, descriptor.digest)
                manifest = await run.tried(repository.registry, reference, asking)
            if manifest is not None:
                run.tally.look(manifest)
            return manifest

        found = await walk([root], load)
        run.add(found)
        run.tally.below[asked.reference] = frozenset(found.documents)
        without = run.without(asked)
        for digest in () if without else found.documents:
            run.whence.setdefault(digest, {})[repository] = None
        contents = found.contents
        lacking = sum(size for digest, size in contents.items() if self._store.find(digest) is None)
        size = sum(contents.values())
        return PlannedName(asked.reference, top.descriptor.digest, asked.why, new, size, lacking, without)

    async def _top(self, asked: Asked) -> tuple[Manifest, bool]:
        """The manifest that the name stands for, or would; and whether a pin is still to be made."""
        reference = asked.reference
        if isinstance(reference, DigestReference):
            return await self._document(reference.repository, reference.digest), False
        rule = FIRST_FETCHES.rule_for(reference, self._rules)
        if rule.mode is Mode.REFUSE or (asked.locked is not None and rule.mode is not Mode.PIN):
            raise Denied(f"the tag rule {rule.match.text!r} says {rule.mode}")
        pin = await self._ledger.pin_of(reference) if rule.mode is Mode.PIN else None
        locked = asked.locked.digest if asked.locked is not None else None
        if pin is not None and locked not in (None, pin.descriptor.digest):
            raise Denied(f"it is pinned to {pin.descriptor.digest}, and {' and '.join(asked.why)} want {locked}")
        digest = pin.descriptor.digest if pin is not None else locked
        if digest is not None:
            return await self._document(reference.repository, digest), pin is None
        return await self._fetched(reference.repository, reference.tag), rule.mode is Mode.PIN

    async def _document(self, repository: Repository, digest: Digest) -> Manifest:
        self._documents.recalling.insist(digest)
        return await self._documents.held(digest) or await self._fetched(repository, digest)

    async def _fetched(self, repository: Repository, wanted: Tag | Digest) -> Manifest:
        upstream = self._upstreams[repository.registry]
        fetched = await upstream.manifest(repository.name, wanted, Purpose.BACKGROUND)
        try:
            return parse_manifest(fetched.raw, fetched.media_type, wanted if isinstance(wanted, Digest) else None)
        except ManifestInvalid as error:
            raise UpstreamWrong(f"{repository.registry} sent no acceptable manifest: {error}") from error

    # --- what is attached ---------------------------------------------------------------------------------------------

    async def _attached(self, run: Run) -> int:
        """To how many manifests of the set something is attached."""
        subjects = [(repository, digest) for digest, named in run.whence.items() for repository in named]
        repositories = list(dict.fromkeys(repository for repository, _ in subjects))
        found = set().union(*await together(repositories, partial(self._tagged, run), at_a_time=AT_A_TIME))

        async def one(subject: tuple[Repository, Digest]) -> bool:
            repository, digest = subject
            what = f"the referrers of {repository}@{digest}"
            raw = await run.tried(repository.registry, what, partial(self._list, repository, digest))
            run.tally.about[subject] |= kinds_listed(raw) if raw else set()
            return bool(raw)

        listed = await run.each("attachments", subjects, one)
        found |= {digest for (_, digest), is_listed in zip(subjects, listed, strict=True) if is_listed}
        return len(found)

    async def _tagged(self, run: Run, repository: Repository) -> set[Digest]:
        """What of the set the attachment tags of a repository are attached to."""
        listed = await run.tried(repository.registry, f"the tags of {repository}", partial(self._tags, repository))
        found: set[Digest] = set()
        for tag in () if listed is None else map(Tag, listed.tags):
            if tag.subject is None or repository not in run.whence.get(tag.subject, ()):
                continue
            reference = TagReference(repository, tag)
            manifest = await run.tried(repository.registry, reference, partial(self._fetched, repository, tag))
            if manifest is not None:
                found.add(tag.subject)
                run.tally.about[repository, tag.subject] |= kinds_of(manifest.raw) | kinds_listed(manifest.raw)
        return found

    async def _list(self, repository: Repository, subject: Digest) -> bytes:
        """What the upstream's API lists; empty where that is nothing."""
        upstream = self._upstreams[repository.registry]
        await upstream.require(Purpose.BACKGROUND)
        raw = await upstream.attached(repository.name, subject)
        try:
            return raw if raw is not None and parse_manifest(raw, OCI_INDEX).children else b""
        except ManifestInvalid as error:
            raise UpstreamWrong(f"{repository.registry} sends no list of referrers: {error}") from error
