"""Which of an upstream's endpoints is asked, and whose word counts.

Rule 1: endpoints are asked in the order in which they are written; one that was silent in the last seconds comes last
        until then, so that a dead one costs its patience seldom. One that answers 5xx for some name stays where it is:
        else whoever knows such a name would choose who decides what tags mean.
Rule 2: no answer (`Unavailable`) sends the question on. A wrong answer (`UpstreamWrong`) and "there is none" send it on
        only where content is asked for by its digest, which no endpoint can fake. What a tag means, the first answer
        decides, wrong or not: a second opinion would let whoever breaks one endpoint choose the other.
Rule 3: that a tag does not exist is the primary endpoint's word: a copy that lags behind may not have it yet, and must
        not make it look vanished. So a fallback's 404 counts for nothing, and where nobody gives an answer, the failure
        told is the primary's. Access denied (401, 403) is final at whichever endpoint says it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from iarproxy.errors import (
    IarproxyError,
    Refused,
    UnknownBlob,
    UnknownManifest,
    UnknownName,
    UpstreamDown,
    UpstreamHeld,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.oci import Digest
from iarproxy.upstream.endpoint import Endpoint

log = structlog.get_logger("iarproxy.upstream")

T = TypeVar("T")

_LAST_FOR = 30.0  # seconds for which an endpoint that gave no answer comes last
_GIVEN = 1024
_MISSING = (UnknownBlob, UnknownManifest, UnknownName)


class Endpoints:
    """The endpoints of one upstream, the primary first.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, endpoints: Sequence[Endpoint], clock: Callable[[], float]) -> None:
        self._all = tuple(endpoints)
        self.primary = self._all[0]
        self._clock = clock
        self._silent: dict[Endpoint, float] = {}
        self._given: OrderedDict[Digest, Endpoint] = OrderedDict()

    async def ask(
        self, act: Callable[[Endpoint], Awaitable[T]], *, by_digest: bool, unless: Endpoint | None = None
    ) -> T:
        """The first answer that counts. `unless`: who comes last this time.

        Raises:
            The primary's failure, where no answer counts.
        """
        failures: dict[Endpoint, IarproxyError] = {}
        for endpoint in self._order(unless):
            try:
                return await act(endpoint)
            except (UpstreamUnavailable, Refused) as error:
                if self._is_final(endpoint, error, by_digest=by_digest):
                    raise
                failures[endpoint] = error
        raise failures[self.primary]

    def failed(self, endpoint: Endpoint, error: UpstreamUnavailable) -> None:
        """Take note that an endpoint gave no answer, or broke it off."""
        if isinstance(error, (UpstreamWrong, UpstreamDown, UpstreamHeld)) or "status" in error.detail:
            return  # it costs no patience (rule 1)
        now = self._clock()
        if len(self._all) > 1 and self._silent.get(endpoint, now) <= now:
            seconds = round(_LAST_FOR)
            log.warning(
                "endpoint comes last", url=endpoint.source, upstream=endpoint.name, seconds=seconds, reason=str(error)
            )
        self._silent[endpoint] = now + _LAST_FOR

    def gave(self, endpoint: Endpoint, digest: Digest) -> None:
        """Take note that an endpoint sent all of a content. Who asks again did not get what the digest names."""
        self._given[digest] = endpoint
        while len(self._given) > _GIVEN:
            self._given.popitem(last=False)

    def giver(self, digest: Digest) -> Endpoint | None:
        """Who sent all of the content last; None: nobody did."""
        return self._given.pop(digest, None)

    def _order(self, unless: Endpoint | None) -> list[Endpoint]:
        now = self._clock()
        return sorted(self._all, key=lambda each: (each is unless, self._silent.get(each, now) > now))

    def _is_final(self, endpoint: Endpoint, error: IarproxyError, *, by_digest: bool) -> bool:
        if isinstance(error, UpstreamUnavailable):
            self.failed(endpoint, error)
            return isinstance(error, UpstreamWrong) and not by_digest
        missing = isinstance(error, _MISSING)
        return not missing or (endpoint is self.primary and not by_digest)
