"""Which repository may serve which content (design invariant 10).

Rule 1: where no upstream has credentials, everything held is public and nothing is asked.
Rule 2: otherwise content is reachable only through a repository that links it: one that served a manifest naming it,
        or for which upstream itself said so. Held content is no exception, and neither is content that arrives for
        somebody else (threats T49, T53).
Rule 3: a manifest links at most `MAX_LINKED` digests by naming them, ten times what any image has; for more upstream is
        asked one by one. Ten thousand rows a manifest would let a few hostile ones hold up the ledger (T44).
"""

from __future__ import annotations

from collections import OrderedDict

from iarproxy.errors import UnknownBlob
from iarproxy.ledger import Ledger
from iarproxy.oci import Digest, Manifest, Repository
from iarproxy.upstream import Upstreams

MAX_LINKED = 1000
_REMEMBERED = 100_000


class Access:
    """The links between repositories and content, remembered per worker and kept in the ledger."""

    def __init__(self, ledger: Ledger, upstreams: Upstreams, *, private: bool) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self._private = private
        self._known: OrderedDict[tuple[Repository, Digest], None] = OrderedDict()

    async def learn(self, repository: Repository, manifest: Manifest) -> None:
        """Record that `repository` served `manifest`, and so links it and what it names."""
        await self._link(repository, (manifest.descriptor.digest, *manifest.links[:MAX_LINKED]))

    def is_known(self, repository: Repository, digest: Digest) -> bool:
        """Whether `require` would return without asking anybody."""
        return not self._private or (repository, digest) in self._known

    async def is_linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether `require` would return without asking upstream."""
        return self.is_known(repository, digest) or await self._ledger.linked(repository, digest)

    async def require(self, repository: Repository, digest: Digest) -> None:
        """Return if `repository` may serve the content.

        Raises:
            UnknownBlob, Denied: it may not, or has no such content.
            Unavailable: upstream has to be asked and does not answer.
        """
        if self.is_known(repository, digest):
            return
        if not await self._ledger.linked(repository, digest):
            await self._ask(repository, digest)
            await self._ledger.link(repository, (digest,))
        self._remember(repository, digest)

    async def vouch(self, repository: Repository, digest: Digest) -> None:
        """Link content whose bytes were just had on behalf of the repository, from where anybody may have them."""
        await self._link(repository, (digest,))

    async def _ask(self, repository: Repository, digest: Digest) -> None:
        upstream = self._upstreams[repository.registry]
        try:
            await upstream.blob_size(repository.name, digest)
        except UnknownBlob:
            await upstream.head_manifest(repository.name, digest)

    async def _link(self, repository: Repository, digests: tuple[Digest, ...]) -> None:
        fresh = [digest for digest in digests if (repository, digest) not in self._known]
        if fresh:
            await self._ledger.link(repository, fresh)
        for digest in fresh:
            self._remember(repository, digest)

    def _remember(self, repository: Repository, digest: Digest) -> None:
        self._known[repository, digest] = None
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
