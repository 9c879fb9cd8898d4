"""Blobs on their way from volumes into the store that is being served.

Rule 1: every blob goes through the store's own door: hashed, durable, named only then; what was taken stays, whatever
        happens to the rest, and is not read again.
Rule 2: a blob whose pieces are not all at hand waits: those that are here are kept until the others come.
Rule 3: a damaged blob ends nothing but itself: all volumes that are wrong are told together. A full disk ends it all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from iarproxy.archive.checking import PieceHashes, Placed, Problem
from iarproxy.archive.extents import Assembled, Source, damaged_at, kept_piece
from iarproxy.archive.folder import VolumeFile
from iarproxy.errors import BundleRefused, Refused, StoreFull, StoreUnavailable, Unavailable, UpstreamWrong
from iarproxy.oci import Digest
from iarproxy.oci.volumes import Extent
from iarproxy.store import Store
from iarproxy.together import together

_PARALLEL: Final = 4  # blobs at a time
_SMALL: Final = 128 * 1024  # bytes: written at once
_TRIES: Final = 5  # where another process fetches the same blob from elsewhere, and fails
_PAUSE: Final = 0.5  # seconds
_ENOUGH: Final = 20  # damaged blobs after which no more are tried


@dataclass(frozen=True, slots=True)
class _Blob:
    """A blob that is not held. `sources`: what of it is at hand; `complete`: that is all of it."""

    digest: Digest
    size: int
    sources: tuple[Source, ...]
    complete: bool

    @property
    def fresh(self) -> list[Source]:
        """What of it is read from volumes."""
        return [each for each in self.sources if each.file is not None]


@dataclass(slots=True)
class Incoming:
    """What a bundle brings to one store.

    Attributes:
        placed: its volumes, as far as they are here.
        spread: where each of its blobs stands in them.
        told: called with how many more bytes are in the store.
        lacking: of volumes that are needed and not here, after `look`.
        size: bytes that are to be read, after `look`.
    """

    store: Store
    placed: Placed
    spread: Mapping[Digest, Sequence[Extent]]
    hashes: PieceHashes
    told: Callable[[int], None] = lambda _: None
    lacking: list[Problem] = field(default_factory=list)
    size: int = 0
    _blobs: list[_Blob] = field(default_factory=list)
    _kept: dict[Extent, int] = field(default_factory=dict)

    def look(self) -> None:
        """Learn what is held already, and what is needed for the rest. Blocking.

        Raises:
            StoreUnavailable: the disk fails.
        """
        wanting = dict[int, Problem]()
        for digest, extents in self.spread.items():
            if self.store.find(digest) is not None:
                continue
            sources = [self._source(extent) for extent in extents]
            wanting.update(
                {problem.number: problem for problem in sources if isinstance(problem, Problem)},
            )
            here = tuple(each for each in sources if isinstance(each, Source))
            self._blobs.append(_Blob(digest, extents[0].piece.whole, here, len(here) == len(extents)))
        self._blobs.sort(key=lambda blob: [(each.extent.volume, each.at) for each in blob.sources])
        self.lacking = [wanting[number] for number in sorted(wanting)]
        self.size = sum(_reads(blob) for blob in self._blobs)

    def close(self) -> None:
        """Close what `look` opened."""
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()

    async def take(self) -> list[Problem]:
        """Bring in all that is at hand; what is wrong with volumes.

        Raises:
            StoreFull, StoreUnavailable: the disk does not take it; what it took stays.
        """
        await self._insist_on_room()
        problems = dict[int, Problem]()
        await together(self._blobs, partial(self._work, problems), at_a_time=_PARALLEL)
        return list(problems.values())

    def _source(self, extent: Extent) -> Source | Problem:
        file = self.placed[extent.volume]
        if not extent.piece.is_whole and self.store.pieces.holds(kept := kept_piece(extent.piece, self.hashes)):
            fd = self._kept[extent] = self.store.pieces.open(kept)
            return Source(extent, fd, 0, None)
        return Source(extent, file.fd, extent.at, file) if isinstance(file, VolumeFile) else file

    async def _insist_on_room(self) -> None:
        stats = await self.store.stats()
        needed = sum(blob.size if blob.complete else _reads(blob) for blob in self._blobs)
        if needed > stats.free:
            raise StoreFull(
                f"{needed} bytes are to come, and the disk of the store has {stats.free} left; free some space, and"
                " apply it again"
            )
        if stats.bytes + needed > stats.max_size:
            raise StoreFull(
                f"{needed} bytes are to come, and the store holds {stats.bytes} of {stats.max_size}; raise"
                " [store] max_size, and apply it again"
            )

    async def _work(self, problems: dict[int, Problem], blob: _Blob) -> None:
        if len(problems) < _ENOUGH and not any(each.extent.volume in problems for each in blob.fresh):
            problem = await self._taken(blob)
            if problem is not None:
                problems[problem.number] = problem

    async def _taken(self, blob: _Blob) -> Problem | None:
        """What is wrong with the volumes that a blob comes from; None: what is at hand is in the store."""
        for attempt in range(_TRIES):
            try:
                await (self._whole(blob) if blob.complete else self._keep(blob.fresh))
            except StoreUnavailable:
                raise
            except (UpstreamWrong, Unavailable, Refused) as error:
                problem = await damaged_at(blob.sources, self.hashes, self.store)
                if problem is not None:
                    return problem
                await self._insist_on_truth(blob)
                if attempt + 1 == _TRIES:
                    raise Unavailable(f"{blob.digest} does not come in: {error}; apply the bundle again") from error
                await asyncio.sleep(_PAUSE)
            else:
                return None
        return None

    async def _insist_on_truth(self, blob: _Blob) -> None:
        """Return if pieces that are as they were signed are the blob's: those of another would never come in."""
        if blob.complete and not await asyncio.to_thread(_agrees, blob):
            await self.store.pieces.discard(blob.digest)
            raise BundleRefused("malformed", f"bundle.json names pieces of {blob.digest} that are not of it")

    async def _whole(self, blob: _Blob) -> None:
        if blob.size <= _SMALL:
            data = await asyncio.to_thread(lambda: b"".join(_all(blob.sources)))
            await self.store.put(blob.digest, data)
            self.told(blob.size)
        else:
            await self._follow(blob)
        if not blob.sources[0].piece.is_whole:
            await self.store.pieces.discard(blob.digest)

    async def _follow(self, blob: _Blob) -> None:
        fetch = Assembled(blob.sources)
        async with self.store.follow(blob.digest, blob.size, fetch, ("bundle", id(self))) as following:
            position = 0
            while position < following.size:
                before, position = position, await following.readable(position)
                self.told(position - before)
            if not await following.kept():
                raise StoreUnavailable(f"{blob.digest} is right, but the disk did not keep it; see the log")

    async def _keep(self, sources: Iterable[Source]) -> None:
        """Keep pieces of a blob that cannot be assembled yet."""
        for source in sources:
            await self.store.pieces.keep(kept_piece(source.piece, self.hashes), source.chunks)
            self.told(source.piece.size)


def _reads(blob: _Blob) -> int:
    return blob.size if blob.complete else sum(each.piece.size for each in blob.fresh)


def _agrees(blob: _Blob) -> bool:
    hasher = blob.digest.hasher()
    for chunk in _all(blob.sources):
        hasher.update(chunk)
    return blob.digest.agrees(hasher)


def _all(sources: Iterable[Source]) -> Iterator[bytes]:
    for source in sources:
        yield from source.chunks()
