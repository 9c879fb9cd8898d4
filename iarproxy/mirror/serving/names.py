"""What names mean to the clients of one environment. Content has no environment: a digest is the same in all.

Rule 1: where pins come from first fetches, tags are listed as upstream lists them, with those that are pinned.
Rule 2: in the others a list shows the environment's pins and nothing else, and upstream is not asked.
"""

from __future__ import annotations

from iarproxy.errors import UnknownName
from iarproxy.ledger import PinSet
from iarproxy.mirror.serving.answers import ManifestAnswer, TagList
from iarproxy.mirror.serving.listing import Listings
from iarproxy.mirror.serving.manifests import Manifests
from iarproxy.mirror.serving.probe import NAME as PROBE
from iarproxy.mirror.serving.probe import Probe
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.trust.environments import Environment


class Names:
    """Tags and digests, as one environment has them."""

    def __init__(
        self, environment: Environment, pins: PinSet, manifests: Manifests, listings: Listings, probe: Probe
    ) -> None:
        self._environment = environment
        self._pins = pins
        self._manifests = manifests
        self._listings = listings
        self._probe = probe

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer:
        """The manifest that a client gets; see `Manifests.answer`."""
        if repository.name == PROBE:
            return await self._probe.answer(repository, wanted, self._environment.name)
        return await self._manifests.answer(repository, wanted)

    def peek(self, repository: Repository, wanted: Tag | Digest) -> ManifestAnswer | None:
        """The manifest that a client gets, where memory alone can tell; see `Manifests.peek`."""
        if repository.name == PROBE:
            return None
        return self._manifests.peek(repository, wanted)

    async def tags(self, repository: Repository) -> TagList:
        """All tags of a repository; see `Listings.tags`.

        Raises:
            UnknownName: the environment has no pin of it, and takes none from upstream.
        """
        if repository.name == PROBE:
            return TagList(repository, (), complete=True)
        if self._environment.pins_first_fetches:
            return await self._listings.tags(repository, self._pins)
        ours = await self._pins.pinned_tags(repository)
        if not ours:
            raise UnknownName(f"the environment {self._environment.name} has no tag of {repository}")
        return TagList(repository, tuple(ours), complete=True)

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._manifests.close()
