"""What the registry face needs from others, named by the verb."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from iarproxy.errors import Stopped
from iarproxy.mirror.serving.answers import (
    BlobBody,
    HeldBlob,
    ManifestAnswer,
    ReferrersAnswer,
    RefusalAnswer,
    Served,
    TagList,
)
from iarproxy.oci import Digest, Repository, Tag, TagReference


class Names(Protocol):
    """What names mean in one environment; each may raise `Refused` or `Unavailable`."""

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        """The verified manifest of a tag or digest."""
        ...

    async def tags(self, repository: Repository) -> TagList:
        """All tags."""
        ...


class Mirror(Protocol):
    """What the face asks of the mirror; each may raise `Refused` or `Unavailable`."""

    def within(self, environment: str) -> Names:
        """Names as that environment has them. What is asked for by digest is the same in all."""
        ...

    async def refusal(self, reference: TagReference, stopped: Stopped) -> RefusalAnswer:
        """The refusal manifest for a tag whose request raised `Stopped`."""
        ...

    async def blob(self, repository: Repository, digest: Digest) -> AbstractAsyncContextManager[BlobBody]:
        """A blob to be entered with `async with`, which may raise too."""
        ...

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """A blob's size in bytes; starts no transfer."""
        ...

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_types: tuple[str, ...]
    ) -> ReferrersAnswer:
        """What refers to a digest."""
        ...


class KnownNames(Protocol):
    """What can be told of the names of one environment without waiting."""

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        """What `Names.manifest` would give; None: ask there."""
        ...


class Memory(Protocol):
    """What the mirror can tell without waiting, for the fast lane."""

    def within(self, environment: str) -> KnownNames:
        """As `Mirror.within`."""
        ...

    def peek_blob(self, repository: Repository, digest: Digest) -> HeldBlob | None:
        """A blob that can be sent at once; None: ask `Mirror.blob`."""
        ...

    def on_change(self, callback: Callable[[TagReference | None], None]) -> None:
        """Have `callback` called on the loop with each tag of which what was told before may be told no more.

        This may be so in any environment. None: nothing that was told before may be. A time to live that is over
        changes nothing in this sense.
        """
        ...


class Count(Protocol):
    """Where finished answers are counted; `iarproxy.metrics` is one."""

    def answered(
        self, *, kind: str, upstream: str, status: int, outcome: str, cache: str, sent: int, seconds: float
    ) -> None:
        """One answer ended. `sent`: bytes of its body; `seconds`: from the request's head to the last byte."""
        ...

    def answered_many(self, *, kind: str, upstream: str, cache: str, count: int, sent: int) -> None:
        """`count` answers of the fast lane ended: status 2xx, outcome `sent`. `sent`: bytes of all their bodies."""
        ...

    def denied(self, reason: str) -> None:
        """Policy, or upstream's access control, said no, in one word."""
        ...

    def took(self, kind: str, seconds: float) -> None:
        """One of those took so long that it is worth noting."""
        ...


class Uses(Protocol):
    """Who is told what was served to whom; `iarproxy.mirror` is one."""

    def used(self, served: Iterable[Served]) -> None:
        """Take note, on the loop; it neither waits nor raises."""
        ...
