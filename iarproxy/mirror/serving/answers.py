"""What the mirror answers: values that the server turns into HTTP, and nothing that knows HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self, TypeAlias

from iarproxy.oci import Descriptor, Digest, Repository, Tag
from iarproxy.oci.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Pinned:
    """The tag is pinned to the digest that is answered, since `since`."""

    since: datetime


@dataclass(frozen=True, slots=True)
class Followed:
    """The tag's policy follows upstream; `since` is when upstream last said so.

    `stale`: the time to live is over, and upstream gave no manifest when it was asked again.
    """

    since: datetime
    stale: bool = False


@dataclass(frozen=True, slots=True)
class ByDigest:
    """The manifest was asked for by digest: no tag's standing is involved."""


Standing: TypeAlias = Pinned | Followed | ByDigest


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A verified manifest.

    Attributes:
        offered: under drift, what upstream offers now for the pinned tag; None: no drift is known.
        vanished: the tag is pinned but upstream no longer has it.
        acknowledged: a person said that what upstream offers is expected.
        cached: nobody was asked for this answer.
        brief: it may be another one soon, without `Mirror.on_change` telling.
    """

    repository: Repository
    descriptor: Descriptor
    raw: bytes
    standing: Standing
    offered: Digest | None = None
    vanished: bool = False
    acknowledged: bool = False
    cached: bool = True
    brief: bool = False


@dataclass(frozen=True, slots=True)
class RefusalAnswer:
    """A refusal manifest, to be answered to the request for a tag under its own media type; see `oci.refusal`."""

    repository: Repository
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`count` bytes at `offset` of the open file `fd`. They never change; send them as the kernel does best."""

    fd: int
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A committed blob that can be answered at once.

    Attributes:
        size: in bytes.
        raw: all of them, verified; None: they are in a file.
        open: a read-only descriptor of that file, which the caller closes; raises `StoreUnavailable`.
    """

    size: int
    raw: bytes | None
    open: Callable[[], int]


class BlobBody(Protocol):
    """A blob that can be sent: cached, still arriving, or relayed. Use as `async with`; leaving releases it.

    Attributes:
        size: the whole blob's size in bytes.
        cached: all of it was on disk before anybody asked.
    """

    size: int
    cached: bool

    def spans(self, start: int, stop: int) -> AsyncIterator[FileSpan | bytes]:
        """The bytes from `start` up to `stop`, in order, as they become sendable.

        The last bytes of a blob that still arrives come only after its digest agreed.

        Raises:
            Unavailable: the rest cannot be had; the connection must be cut, never padded.
        """
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...


@dataclass(frozen=True, slots=True)
class TagList:
    """All tags of a repository, sorted. `complete` is False where upstream could not be asked: only what we hold."""

    repository: Repository
    tags: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ReferrersAnswer:
    """An OCI index of the manifests whose subject is the digest, as bytes; `filtered` by artifact type here."""

    raw: bytes
    filtered: bool


@dataclass(frozen=True, slots=True)
class Served:
    """`count` answers of 200 or 206 with one content to one client, the last of them at `at` (aware, UTC).

    Attributes:
        wanted: what was asked for.
        digest: what was served.
        client: the peer's address without port; `unix` for a local socket.
    """

    repository: Repository
    wanted: Tag | Digest
    digest: Digest
    client: str
    count: int
    at: datetime
    is_manifest: bool
