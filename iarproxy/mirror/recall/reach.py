"""What a digest is part of, which names lead to it, and who was given it: for the person who recalls it.

Rule 1: what is looked through are the manifests that a tag leads to now, and those that were given to anybody as far as
        uses are kept; with the manifests below them. What is not held cannot be looked through, and is counted.
Rule 2: it is work for a thread, a page at a time, in memory that grows with what is found and not with what is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from iarproxy.errors import IarproxyError, ManifestInvalid, Refused
from iarproxy.ledger import DEFAULT, Ledger, Use
from iarproxy.ledger.recalls import MOST_AT_ONCE
from iarproxy.oci import MAX_MANIFEST, Digest, Manifest, TagReference, parse_manifest
from iarproxy.store import Store

PAGE = 250
_REMEMBERED = 200_000  # manifests that contain nothing of it
MOST_PULLS = 100_000
_MOST_BELOW = MOST_AT_ONCE - 1

How: TypeAlias = Literal["pinned", "followed"]
Looked: TypeAlias = Callable[[int], None]  # told how many more manifests were looked through


@dataclass(frozen=True, slots=True)
class Lead:
    """A tag that leads to the content now; `digest` is what it stands for."""

    environment: str
    reference: TagReference
    digest: Digest
    how: How


@dataclass(frozen=True, slots=True)
class Container:
    """A manifest or index that is the content, or contains it."""

    digest: Digest
    is_index: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """All that is known of where some content is.

    Attributes:
        pulls: of the content itself and of what contains it; `Use.client` is None where it is not recorded.
        looked: manifests looked through. `unread`: those that were not, for they are not held, or not readable.
        unknown: why something is missing here, a sentence each.
    """

    leads: tuple[Lead, ...]
    containers: tuple[Container, ...]
    pulls: tuple[Use, ...]
    looked: int
    unread: int
    unknown: tuple[str, ...]


@dataclass
class Search:
    """Looks for `wanted` below manifests of a store. For one thread at a time."""

    store: Store
    wanted: Collection[Digest]
    found: dict[Digest, Container] = field(default_factory=dict)
    looked: int = 0
    unread: int = 0
    _clear: set[Digest] = field(default_factory=set)

    def page(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those of `digests` that are, or contain, what is wanted."""
        return {digest for digest in digests if self._holds(digest)}

    def _holds(self, root: Digest) -> bool:
        """Whether `root` does, with all below it looked through once."""
        ahead: list[tuple[Digest, Manifest | None]] = [(root, None)]
        while ahead:
            digest, manifest = ahead.pop()
            if manifest is not None:
                self._judge(digest, manifest)
            elif digest not in self._clear and digest not in self.found:
                manifest = self._opened(digest)
                if manifest is not None:
                    ahead.append((digest, manifest))  # again, once its children are judged
                    ahead += [(child.descriptor.digest, None) for child in manifest.children]
        return root in self.found or root in self.wanted

    def _judge(self, digest: Digest, manifest: Manifest) -> None:
        children = [child.descriptor.digest for child in manifest.children]
        named = [*(blob.digest for blob in manifest.blobs), *children]
        if digest in self.wanted or any(each in self.wanted or each in self.found for each in named):
            self.found[digest] = Container(digest, manifest.is_index)
        else:
            self._remember(digest)

    def _opened(self, digest: Digest) -> Manifest | None:
        manifest = read_manifest(self.store, digest)
        self.looked += manifest is not None
        self.unread += manifest is None
        if manifest is None:
            self._remember(digest)
        return manifest

    def _remember(self, digest: Digest) -> None:
        if len(self._clear) >= _REMEMBERED:
            self._clear.clear()
        self._clear.add(digest)


def read_manifest(store: Store, digest: Digest) -> Manifest | None:
    """The manifest that is held under the digest, verified; None: there is none that can be read. Blocking."""
    try:
        blob = store.find(digest)
        if blob is None or blob.size > MAX_MANIFEST:
            return None
        with os.fdopen(blob.open(), "rb", buffering=0) as file:
            return parse_manifest(file.read(MAX_MANIFEST + 1), "", digest)
    except (ManifestInvalid, IarproxyError, OSError):
        return None


def below(store: Store, digest: Digest) -> list[Digest] | None:
    """The manifests that an index lists, and those that they list, as far as they are held. Blocking.

    None: the digest itself is not held, or is no manifest.

    Raises:
        Refused: there are more of them than any image has.
    """
    top = read_manifest(store, digest)
    if top is None:
        return None
    found: dict[Digest, None] = {}
    ahead = [child.descriptor.digest for child in top.children]
    while ahead:
        each = ahead.pop()
        if each not in found:
            if len(found) == _MOST_BELOW:
                raise Refused(f"more than {_MOST_BELOW} manifests are below {digest}; recall them one by one")
            found[each] = None
            manifest = read_manifest(store, each)
            ahead += [] if manifest is None else [child.descriptor.digest for child in manifest.children]
    return list(found)


class Reach:
    """Looks for content in one store and ledger."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def of(self, wanted: Collection[Digest], looked: Looked = lambda _: None) -> Reached:
        """Everything that is known of where `wanted` are.

        Raises:
            LedgerUnavailable, LedgerDamaged: the pins cannot be read.
        """
        search, unknown = Search(self._store, frozenset(wanted)), list[str]()
        leads = [lead async for page in self._names() for lead in await self._leading(search, page, looked)]
        damaged = len(self._ledger.damaged())
        if damaged:
            unknown.append(f"{damaged} pins are damaged and were not looked at; `iarproxy ledger verify` names them")
        pulls: list[Use] = []
        try:
            async for digests in self._given():
                await self._look(search, digests, looked)
            pulls = await self._pulls({*wanted, *search.found})
        except IarproxyError as error:
            unknown.append(f"who was given it is not known now: {error}")
        if len(pulls) >= MOST_PULLS:
            unknown.append(f"more than {MOST_PULLS} pulls are known; the rest is not shown")
        if search.unread:
            unknown.append(f"{search.unread} manifests that are not held here were not looked through")
        containers = tuple(sorted(search.found.values(), key=lambda each: each.digest))
        return Reached(tuple(leads), containers, tuple(pulls), search.looked, search.unread, tuple(unknown))

    async def _leading(self, search: Search, page: Sequence[Lead], looked: Looked) -> list[Lead]:
        holding = await self._look(search, [lead.digest for lead in page], looked)
        return [lead for lead in page if lead.digest in holding]

    async def _look(self, search: Search, digests: Sequence[Digest], looked: Looked) -> set[Digest]:
        before = search.looked
        holding = await asyncio.to_thread(search.page, digests)
        looked(search.looked - before)
        return holding

    async def _names(self) -> AsyncIterator[list[Lead]]:
        """What every tag of every environment stands for, page by page."""
        page: list[Lead] = []
        async for lead in self._every_name():
            page.append(lead)
            if len(page) == PAGE:
                yield page
                page = []
        yield page

    async def _every_name(self) -> AsyncIterator[Lead]:
        for environment in sorted({DEFAULT, *await self._ledger.environments()}):
            async for pin in self._ledger.within(environment).every_pin():
                yield Lead(environment, pin.reference, pin.descriptor.digest, "pinned")
        async for reference, digest in self._ledger.every_followed():
            yield Lead(DEFAULT, reference, digest, "followed")

    async def _given(self) -> AsyncIterator[list[Digest]]:
        after: Digest | None = None
        while page := await self._ledger.uses.manifests(after, PAGE):
            yield page
            after = page[-1]

    async def _pulls(self, digests: Collection[Digest]) -> list[Use]:
        found: list[Use] = []
        for digest in sorted(digests):
            found += await self._ledger.uses.of(digest, MOST_PULLS - len(found))
            if len(found) >= MOST_PULLS:
                break
        return sorted(found, key=lambda use: (use.client or "", str(use.repository), str(use.wanted), use.first))
