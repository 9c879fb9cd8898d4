"""From a set to names: what each of its lines asks for.

Rule 1: a line that cannot be answered fails for itself: an upstream that does not list its tags, a range that no tag is
        in. The others go on.
Rule 2: upstream's own list counts. Pinned tags that it no longer has are wanted too; a list without its part,
        or one that was cut for its length, is none: a set would silently shrink.
Rule 3: a line of a lock that has a digest and no tag asks for that content; one that has a tag and no digest for the
        tag, and that is said. So is one that is no name; none is dropped silently.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

from iarproxy.config.wanted import WantedRepository, WantedSet
from iarproxy.errors import IarproxyError, Malformed, UnknownManifest, Unsupported
from iarproxy.mirror.serving.answers import TagList
from iarproxy.mirror.sync.values import Asked, Choice, Failed, Named, each_once, of_locked
from iarproxy.mirror.sync.waiting import Waiting
from iarproxy.oci import DigestReference, Reference, Repository, TagReference, parse_reference
from iarproxy.oci.lock import NO_DIGEST, NO_TAG, Locked, Skipped
from iarproxy.trust.choosing import choose
from iarproxy.upstream.listing import MAX_TAGS


class Tags(Protocol):
    """What lists repositories."""

    def __call__(self, repository: Repository, *, whole: bool = False) -> Awaitable[TagList]:
        """See `Listings.tags`."""
        ...


async def names_of(wanted: WantedSet, waiting: Waiting, tags: Tags) -> Named:
    """What the set asks for, each name once; `tags` lists a repository."""
    asked, failed = list(_written(wanted)), list[Failed]()
    for each in wanted.repositories:
        try:
            asked += await waiting.run(each.repository.registry, partial(_chosen, each, tags))
        except IarproxyError as error:
            failed.append(Failed.of(each, error))
    found = each_once(asked)
    skipped = [(lock, each) for lock in wanted.locks for each in lock.lock.skipped]
    remarks = tuple(
        f"{lock.name}: {_told(each)}" for lock, each in skipped if not isinstance(_half(each), DigestReference)
    )
    return replace(found, failed=(*failed, *found.failed), remarks=remarks)


def _written(wanted: WantedSet) -> Iterator[Asked]:
    """What is spelled out."""
    for each in wanted.references:
        locked = replace(each.wanted, line=0) if isinstance(each.wanted, Locked) else None
        choice = Choice.of("references", referrers=each.referrers)
        yield Asked(each.name, each.platforms, ("references",), locked, choice=choice)
    for lock in wanted.locks:
        for entry in lock.lock.entries:
            yield of_locked(entry, wanted.platforms, f"locks: {lock.name}")
        for skipped in lock.lock.skipped:
            if (half := _half(skipped)) is not None:
                yield Asked(half, wanted.platforms, (f"locks: {lock.name}",))
    for chart in wanted.charts:
        yield Asked(chart.reference, (), ("charts",), chart=chart)


def _half(skipped: Skipped) -> Reference | None:
    """What a line names that has a digest or a tag, and not both; None: nothing."""
    try:
        found = parse_reference(skipped.text) if skipped.reason.startswith((NO_TAG, NO_DIGEST)) else None
    except Malformed:
        return None
    return found if isinstance(found, DigestReference) or skipped.reason.startswith(NO_DIGEST) else None


def _told(skipped: Skipped) -> str:
    return f"{skipped}, so its tag is taken as it is" if _half(skipped) is not None else f"{skipped}; it is not synced"


async def _chosen(wanted: WantedRepository, tags: Tags) -> list[Asked]:
    listed = await tags(wanted.repository, whole=True)
    if len(listed.tags) >= MAX_TAGS:
        raise Unsupported(f"it has {MAX_TAGS} tags or more, too many to choose of; name tags in `references`")
    chosen = choose(wanted.selection, listed.tags)
    if not chosen.tags:
        suffixes = f"; {chosen.suffixed} have a suffix: write a pattern such as *-alpine" if chosen.suffixed else ""
        raise UnknownManifest(f"none of its {len(listed.tags)} tags is wanted{suffixes}")
    why = f"repositories: {wanted}"
    choice = Choice.of(why, referrers=wanted.referrers)
    return [Asked(TagReference(wanted.repository, tag), wanted.platforms, (why,), choice=choice) for tag in chosen.tags]
