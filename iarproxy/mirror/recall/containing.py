"""What a manifest contains: its config and layers, its children, and what those contain.

Rule 1: what a document names is contained, held or not. What is held is opened and looked through; a child that is not
        held may contain anything, so that what was found is not the last word (`Clear.lasting`).
Rule 2: a child that is held and is no manifest contains nothing: it is never served as one.
Rule 3: a walk is bounded, and says so where it ends before it is through: that is no "contains nothing".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass
from typing import TypeAlias

from iarproxy.errors import UnknownManifest
from iarproxy.oci import Digest, Manifest

MAX_OPENED = 1024  # documents below one; an image has some dozens
MAX_NAMED = 50_000  # children below one


@dataclass(frozen=True, slots=True)
class Contains:
    """It is, or contains, what was looked for: `digest`."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Clear:
    """It contains nothing of what was looked for. `lasting`: all below it is known, so that this stays true."""

    lasting: bool


@dataclass(frozen=True, slots=True)
class Doubtful:
    """It was not looked through, and why."""

    reason: str


Verdict: TypeAlias = Contains | Clear | Doubtful
Load: TypeAlias = Callable[[Digest], Awaitable[Manifest | None]]  # None: not held; UnknownManifest: no manifest


async def look_through(
    root: Digest, wanted: Container[Digest], load: Load, known: MutableMapping[Digest, Verdict]
) -> Verdict:
    """Whether `root` is or contains one of `wanted`.

    Args:
        root: a manifest's or blob's digest.
        wanted: what is looked for.
        load: gives what is held.
        known: what earlier walks for the same `wanted` found; images are added.

    Raises:
        Unavailable: something that is held cannot be read now.
    """
    ahead, seen, opened, lasting = [root], {root}, 0, True
    while ahead:
        digest = ahead.pop()
        if digest in wanted:
            return Contains(digest)
        match known.get(digest):
            case Contains() as found:
                return found
            case Clear(lasting=True):
                continue
            case _:
                pass
        if opened == MAX_OPENED or len(seen) > MAX_NAMED:
            return Doubtful(f"more than {MAX_OPENED} manifests or {MAX_NAMED} names are below it")
        try:
            manifest = await load(digest)
        except UnknownManifest:
            continue
        if manifest is None:
            lasting = False
            continue
        opened += 1
        named = next((blob.digest for blob in manifest.blobs if blob.digest in wanted), None)
        if named is not None:
            known[digest] = Contains(named)
            return Contains(named)
        if not manifest.children:
            known[digest] = Clear(lasting=True)
        fresh = dict.fromkeys(child.descriptor.digest for child in manifest.children)
        ahead += [each for each in fresh if each not in seen]
        seen |= fresh.keys()
    return Clear(lasting)
