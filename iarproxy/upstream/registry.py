"""One upstream, as the mirror sees it: one registry, reached over one or more endpoints.

Rule 1: tries, their pauses and their budget are the upstream's, whatever endpoint they go to; see `failover`, `retry`.
Rule 2: what is remembered of answers is little and short: long tag lists, a missing referrers API, and what is not
        there (`negative`). What a tag means is always asked anew.
Rule 3: one request in this worker for the same HEAD, size or list, however many ask at the same moment.
Rule 4: what is asked for is asked on somebody's behalf; background work leaves the last of a quota to clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from yarl import URL

from iarproxy.errors import Refused, UpstreamUnavailable
from iarproxy.inflight import InFlight
from iarproxy.oci import Digest, Tag
from iarproxy.upstream.asked import Purpose
from iarproxy.upstream.budget import Standing
from iarproxy.upstream.endpoint import Endpoint, FetchedManifest, Told, spelled
from iarproxy.upstream.failover import Endpoints
from iarproxy.upstream.foreign import ForeignLayers
from iarproxy.upstream.negative import Negative, Question
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.spending import Spender, Spending
from iarproxy.upstream.transfer import Transfer

T = TypeVar("T")
Offer = TypeVar("Offer", FetchedManifest, Told)


@dataclass(frozen=True, slots=True)
class UpstreamStanding:
    """How an upstream stands with us, for people.

    Attributes:
        endpoints: the primary one first.
        spenders: what was asked of it in the last hours by all workers, most first.
        under_way, waiting: blobs, and requests that wait for a place, in this worker.
        floor: of a quota, so much is left to clients.
        offline: it is never asked.
    """

    name: str
    endpoints: tuple[Standing, ...]
    spenders: tuple[Spender, ...]
    under_way: int
    waiting: int
    floor: int
    offline: bool = False


class Upstream:
    """One registry of the closed list. Made by `Upstreams`.

    Args:
        endpoints: in the order in which they are asked; the first is the primary one.
        floor: background work spends nothing while no more requests than this are left.

    Attributes:
        foreign: layers that manifests say are elsewhere.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        negative: Negative,
        spending: Spending,
        retry: Retry,
        floor: int,
        foreign: ForeignLayers,
    ) -> None:
        self._all = tuple(endpoints)
        self._endpoints = Endpoints(endpoints, asyncio.get_running_loop().time)
        self._primary = endpoints[0]
        self._blob_budget = 2.0 * sum(each.timeouts.blob for each in endpoints)
        self._negative = negative
        self._spending = spending
        self._retry = retry
        self._floor = floor
        self.foreign = foreign
        self._flights: InFlight[tuple[str, str, str], Any] = InFlight()

    @property
    def name(self) -> str:
        """The canonical name of the registry."""
        return self._primary.name

    @property
    def url(self) -> URL:
        """The configured base URL, of the primary endpoint."""
        return self._primary.url

    @property
    def source(self) -> str:
        """The primary endpoint's origin."""
        return self._primary.source

    async def manifest(
        self, repository_name: str, wanted: Tag | Digest, purpose: Purpose = Purpose.CLIENT
    ) -> FetchedManifest:
        """The manifest that a tag or digest names, at most `MAX_MANIFEST` bytes.

        Raises:
            UnknownManifest, UnknownName, Denied: there is none for us.
            UpstreamWrong: the bytes contradict a header or the digest. Unavailable: no answer, or not for `purpose`.
        """
        await self.require(purpose)
        return await self._sought(
            Question("manifests", repository_name, wanted, f"the manifest {spelled(repository_name, wanted)}"),
            purpose,
            lambda endpoint: self._said_by(endpoint, endpoint.manifest(repository_name, wanted)),
        )

    async def head_manifest(
        self, repository_name: str, wanted: Tag | Digest, purpose: Purpose = Purpose.CLIENT
    ) -> Digest | None:
        """The digest that upstream names for a tag or digest, unverified; None: it names none.

        Raises:
            As `manifest`.
        """
        return (await self.told(repository_name, wanted, purpose)).digest

    async def told(self, repository_name: str, wanted: Tag | Digest, purpose: Purpose = Purpose.CLIENT) -> Told:
        """As `head_manifest`, with what a mirror says of its own upstream."""
        # A family of its own: a HEAD is a hint, and where it says no the GET may still say yes.
        question = Question("heads", repository_name, wanted, f"the manifest {spelled(repository_name, wanted)}")
        return await self._once(
            f"head {purpose.value}",
            question,
            lambda: self._sought(
                question,
                purpose,
                lambda endpoint: self._said_by(endpoint, endpoint.head_manifest(repository_name, wanted)),
            ),
        )

    async def _said_by(self, endpoint: Endpoint, answer: Awaitable[Offer]) -> Offer:
        """The answer, with a mark where it says that a tag is gone and is not the primary's (`failover`, rule 3)."""
        found = await answer
        if found.beyond is None or endpoint is self._primary:
            return found
        return replace(found, beyond=replace(found.beyond, by_primary=False))

    async def blob_size(self, repository_name: str, digest: Digest) -> int | None:
        """The size of a blob in bytes; None: upstream has it and does not tell.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. Unavailable: no answer.
        """
        question = Question("blobs", repository_name, digest, f"the blob {spelled(repository_name, digest)}")
        return await self._once(
            "size",
            question,
            lambda: self._sought(
                question, Purpose.CLIENT, lambda endpoint: endpoint.blob_size(repository_name, digest)
            ),
        )

    @asynccontextmanager
    async def blob(self, repository_name: str, digest: Digest, offset: int = 0) -> AsyncIterator[Transfer]:
        """One GET of a blob from `offset` on; the transfer says where its bytes really start.

        Raises:
            UnknownBlob, Denied: upstream does not have it for us. UpstreamWrong, Unavailable: no usable answer.
        """
        retry = replace(self._retry, budget=self._blob_budget)
        unless = None if offset else self._endpoints.giver(digest)

        async def begin(endpoint: Endpoint) -> tuple[Endpoint, Transfer]:
            return endpoint, await endpoint.begin(repository_name, digest, offset)

        async with self._primary.blob_place(repository_name):
            endpoint, transfer = await retry.run(
                f"the blob {spelled(repository_name, digest)}",
                lambda: self._endpoints.ask(begin, by_digest=True, unless=unless),
            )
            try:
                yield transfer
            except UpstreamUnavailable as error:
                self._endpoints.failed(endpoint, error)
                endpoint.broke(repository_name, transfer, error)
                raise
            else:
                self._endpoints.gave(endpoint, digest)
                endpoint.completed(repository_name)
            finally:
                transfer.release()

    async def tags(self, repository_name: str) -> list[str]:
        """The tags of a repository, in upstream's order, at most `listing.MAX_TAGS`.

        Raises:
            UnknownName, Denied: there is no such repository for us. UpstreamWrong, Unavailable: no usable answer.
        """
        question = Question("tags", repository_name, None, f"the tags of {repository_name}")
        retry = replace(self._retry, budget=2 * self._retry.budget)  # pages
        return await self._once(
            "tags",
            question,
            lambda: self._sought(question, Purpose.CLIENT, lambda endpoint: endpoint.tags(repository_name), retry),
        )

    async def referrers(self, repository_name: str, digest: Digest) -> bytes | None:
        """The image index of what refers to `digest`; None: this registry has no referrers API.

        Raises:
            Denied: it is not for us. UpstreamWrong, Unavailable: no usable answer.
        """
        what = f"the referrers of {spelled(repository_name, digest)}"
        question = Question("referrers", repository_name, digest, what)
        return await self._once(
            "referrers",
            question,
            lambda: self._sought(
                question, Purpose.CLIENT, lambda endpoint: endpoint.referrers(repository_name, digest)
            ),
        )

    async def attached(self, repository_name: str, digest: Digest) -> bytes | None:
        """As `referrers`, for whoever must miss nothing: asked anew, of the primary endpoint alone, and all of it.

        Raises:
            As `referrers`; UpstreamWrong also where the list is longer than what is read of it.
        """
        what = f"the referrers of {spelled(repository_name, digest)}"
        return await self._retry.run(what, lambda: self._primary.referrers(repository_name, digest, strictly=True))

    async def require(self, purpose: Purpose) -> None:
        """Go on only if something may be spent for `purpose`.

        Raises:
            UpstreamHeld: what is left of the quota is for clients.
        """
        if not purpose.may_spend and self._primary.budget is not None:
            await self._primary.budget.require_spare(self._floor)

    async def standing(self) -> UpstreamStanding:
        """How it stands; upstream is not asked."""
        budgets = [each.budget for each in self._all if each.budget is not None]
        return UpstreamStanding(
            name=self.name,
            endpoints=tuple([await each.standing() for each in budgets]),
            spenders=tuple(await self._spending.spenders()),
            under_way=self._primary.under_way,
            waiting=self._primary.waiting,
            floor=self._floor,
        )

    async def close(self) -> None:
        """End what is under way for nobody any more, and write what was counted."""
        await self._flights.close()
        for each in self._all:
            if each.budget is not None:
                await each.budget.close()
        await self._spending.close()

    async def _once(self, kind: str, question: Question, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        found: T = await self._flights.once((kind, question.repository, str(question.wanted)), work)
        return found

    async def _sought(
        self, question: Question, purpose: Purpose, act: Callable[[Endpoint], Awaitable[T]], retry: Retry | None = None
    ) -> T:
        """The result of `act`, tried again as `Retry` says; what was refused a moment ago is not asked for."""
        if purpose.takes_no:
            await self._negative.check(question)
        by_digest = isinstance(question.wanted, Digest) and question.family != "referrers"
        try:
            found = await (retry or self._retry).run(
                question.what, lambda: self._endpoints.ask(act, by_digest=by_digest)
            )
        except Refused as error:
            await self._negative.learn(question, error)
            raise
        if not purpose.takes_no:
            await self._negative.forget(question)
        return found
