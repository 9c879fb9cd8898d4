"""What became of each answer: counted, logged, and told as use.

Rule 1: an answer of the fast lane costs one entry in a list; everything else is done when the list is emptied, about
        once a second, or when it holds `limit` entries.
Rule 2: what the lane answers from memory is counted, but not timed: it takes microseconds. Its log lines come up to a
        second late.
Rule 3: a use is an answer of 200 or 206 with a manifest, or with bytes of a blob.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Literal, TypeAlias

from iarproxy.mirror.serving.answers import Served
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.oci.request import BlobTarget, Catalog, ManifestTarget, Ping, ReferrersTarget, TagsTarget
from iarproxy.server import access
from iarproxy.server.ports import Count, Uses

LIMIT = 8192  # answers of the lane, and uses, that wait to be accounted for
LOGGED = 256  # those that also wait for a line of the log: the loop stands still while these are written
_PERIOD = 1.0  # seconds

KINDS: Mapping[type, str] = {
    Ping: "ping",
    Catalog: "catalog",
    ManifestTarget: "manifest",
    BlobTarget: "blob",
    TagsTarget: "tags",
    ReferrersTarget: "referrers",
}

Outcome = Literal["sent", "refused", "left", "stalled", "broken"]
Facts: TypeAlias = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Content:
    """What was asked of a repository, and the digest of what it gave."""

    repository: Repository
    wanted: Tag | Digest
    digest: Digest
    is_manifest: bool


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """What all answers that are given from the same prepared bytes have in common.

    Attributes:
        sent: bytes of the body.
        facts: for the log; empty where nothing is logged.
        content: None: not a use.
    """

    kind: str
    upstream: str
    cache: str
    status: int
    sent: int
    facts: Facts
    content: Content | None


class Accounts:
    """The accounts of one listener.

    Attributes:
        hits: the topic, client and loop time of each answer of the lane that is not accounted for yet.
        limit: how many of these may wait.
    """

    def __init__(self, count: Count | None, log: access.Sink | None, uses: Uses | None) -> None:
        self._count, self._log, self._uses = count, log, uses
        self.hits: list[tuple[Topic, str, float]] = []
        self.limit = LIMIT if log is None else LOGGED
        self._served: dict[tuple[Content, str], tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def logs(self) -> bool:
        """Whether facts are of use."""
        return self._log is not None

    def answered(self, topic: Topic, client: str, outcome: Outcome, seconds: float) -> None:
        """One answer ended, `seconds` after its request came."""
        if self._count is not None:
            self._count.answered(
                kind=topic.kind,
                upstream=topic.upstream,
                status=topic.status,
                outcome=outcome,
                cache=topic.cache,
                sent=topic.sent,
                seconds=seconds,
            )
        if self._log is not None:
            result = access.result(topic.status, topic.sent, topic.cache, outcome, seconds)
            self._log({**topic.facts, **access.who(client), **result})
        if topic.content is not None and topic.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            self._use(topic.content, client, 1, asyncio.get_running_loop().time())

    def took(self, kind: str, seconds: float) -> None:
        """An answer of the lane took that long; it is counted as a hit."""
        if self._count is not None:
            self._count.took(kind, seconds)

    def wake(self) -> None:
        """Empty the list in a while."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self.flush)

    def flush(self) -> None:
        """Account for everything that waits."""
        hits = self.hits[:]
        self.hits.clear()
        self._account(hits)
        self._tell()
        self.close()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _account(self, hits: list[tuple[Topic, str, float]]) -> None:
        latest = {(topic, client): moment for topic, client, moment in hits}
        times = Counter([(topic, client) for topic, client, _ in hits])
        totals: Counter[Topic] = Counter()
        for (topic, client), count in times.items():
            totals[topic] += count
            if topic.content is not None:
                self._use(topic.content, client, count, latest[topic, client])
        if self._count is not None:
            for topic, count in totals.items():
                self._count.answered_many(
                    kind=topic.kind, upstream=topic.upstream, cache=topic.cache, count=count, sent=count * topic.sent
                )
        if self._log is not None:
            for topic, client, _ in hits:
                result = access.result(topic.status, topic.sent, topic.cache, "sent", 0.0)
                self._log({**topic.facts, **access.who(client), **result})

    def _use(self, content: Content, client: str, count: int, moment: float) -> None:
        if self._uses is None:
            return
        before, _ = self._served.get((content, client), (0, 0.0))
        self._served[content, client] = before + count, moment
        if len(self._served) >= LIMIT:
            self._tell()
        self.wake()

    def _tell(self) -> None:
        served, self._served = self._served, {}
        if self._uses is not None and served:
            self._uses.used(_told(served))


def _told(served: Mapping[tuple[Content, str], tuple[int, float]]) -> Iterable[Served]:
    now, here = datetime.now(UTC), asyncio.get_running_loop().time()
    return [
        Served(
            repository=content.repository,
            wanted=content.wanted,
            digest=content.digest,
            client=client,
            count=count,
            at=now - timedelta(seconds=here - moment),
            is_manifest=content.is_manifest,
        )
        for (content, client), (count, moment) in served.items()
    ]
