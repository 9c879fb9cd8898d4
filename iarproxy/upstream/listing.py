"""Lists of upstream that come in pages: tags and referrers.

Rule 1: the next page is asked of the upstream's own URL, with only the query of the `Link`; a Link to another host is
        refused, one that leads back ends the walk (threats T45). Pages, entries and time are bounded.
Rule 2: a list of tags that took several pages is kept for a minute; a short one is asked anew each time.
Rule 3: a referrers API that is not there is remembered, since a fallback exists; one that fails is a failure.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
import structlog
from yarl import URL

from iarproxy.errors import Malformed, UnknownName, UpstreamWrong
from iarproxy.oci import MAX_MANIFEST, Tag
from iarproxy.oci.media_types import OCI_INDEX, without_parameters
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.client import same_origin
from iarproxy.upstream.redirects import Ask, Landed, next_hop

log = structlog.get_logger("iarproxy.upstream")

MAX_TAGS = 10_000
MAX_PAGES = 100
_MAX_BYTES = 16 * 2**20  # of all pages
_PAGE = 1000  # tags asked for per page; ECR takes no more
_LONG_LIST_FOR = 60.0  # seconds
_NO_API_FOR = 60.0
_LINK = re.compile(r'<([^<>]{1,4096})>((?:[^,"]|"[^"]*")*)', re.ASCII)
_NEXT = re.compile(r";[ \t]*rel[ \t]*=[ \t]*\"?next\"?[ \t]*(?:;|\Z)", re.ASCII | re.IGNORECASE)
# What registries without the API answer: distribution 404, others as they please (clients.md 11.3, U21).
_NO_API = frozenset({400, 404, 405, 406, 501})


class Lists:
    """The lists of one upstream."""

    def __init__(self, asker: Asker, cache: SharedCache) -> None:
        self._asker = asker
        self._cache = cache

    async def tags(self, repository: str, url: URL) -> list[str]:
        """See `Upstream.tags`."""
        key = f"tags {self._asker.client.name} {url}"
        if (kept := await self._cache.get(key)) is not None:
            return [str(tag) for tag in orjson.loads(kept)]
        what = f"tags of {repository}"
        ask = Ask("GET", url.with_query({"n": _PAGE}), "application/json")
        bodies = await self._walk(ask, repository, what, optional=False)
        tags = list(dict.fromkeys(tag for body in bodies or () for tag in self._tags_of(body, what)))
        if len(tags) > MAX_TAGS:
            log.warning("a list of tags was cut", upstream=self._asker.client.name, repository=repository)
        if len(bodies or ()) > 1:
            await self._cache.put(key, orjson.dumps(tags[:MAX_TAGS]), _LONG_LIST_FOR)
        return tags[:MAX_TAGS]

    def _tags_of(self, raw: bytes, what: str) -> list[str]:
        document = self._document(raw, what)
        tags = document.get("tags") or []
        if not isinstance(tags, list):
            raise UpstreamWrong(f"{self._asker.client.name} sends no list for {what}")
        return [tag for tag in tags if isinstance(tag, str) and _is_tag(tag)]

    async def referrers(self, repository: str, url: URL, *, strictly: bool) -> bytes | None:
        """See `Upstream.referrers`, and with `strictly` `Upstream.attached`."""
        key, what = f"no referrers {self._asker.client.name} {url.origin()} {repository}", f"referrers in {repository}"
        if not strictly and await self._cache.get(key) is not None:
            return None
        bodies = await self._walk(Ask("GET", url, OCI_INDEX), repository, what, optional=True, strictly=strictly)
        if bodies is None:
            await self._cache.put(key, b"-", _NO_API_FOR)
            return None
        return bodies[0] if len(bodies) == 1 else self._joined(bodies, what)

    def _joined(self, bodies: list[bytes], what: str) -> bytes:
        """One index out of several pages. It is nobody's content: no digest names it."""
        documents = [self._document(body, what) for body in bodies]
        listed = [document.get("manifests", "no list") or [] for document in documents]  # null is Go's empty list
        if not all(isinstance(each, list) for each in listed):
            raise UpstreamWrong(f"{self._asker.client.name} sends no list for {what}", upstream=self._asker.client.name)
        manifests = [each for entries in listed for each in entries]
        joined = orjson.dumps(documents[0] | {"manifests": manifests})
        if len(joined) > MAX_MANIFEST:
            raise UpstreamWrong(f"{self._asker.client.name} sends more than {MAX_MANIFEST} bytes for {what}")
        return joined

    def _document(self, raw: bytes, what: str) -> dict[str, Any]:
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise UpstreamWrong(f"{self._asker.client.name} sends no JSON object for {what}")
        return document

    async def _walk(
        self, ask: Ask, repository: str, what: str, *, optional: bool, strictly: bool = False
    ) -> list[bytes] | None:
        """The bodies of all pages, or of so many, unless `strictly`; None where the API is `optional` and not there."""
        bodies: list[bytes] = []
        seen: set[URL] = set()
        following: URL | None = ask.url
        while following is not None and following not in seen and len(seen) < MAX_PAGES:
            seen.add(following)
            async with self._asker.answer(Ask(ask.method, following, ask.accept), repository) as landed:
                if optional and not bodies and not _has_api(landed):
                    return None
                bodies.append(await self._asker.body(landed, what, UnknownName, MAX_MANIFEST))
                following = self._next(landed, ask.url)
            if sum(map(len, bodies)) > _MAX_BYTES:
                break
        if strictly and following is not None and following not in seen:
            name = self._asker.client.name
            raise UpstreamWrong(f"{name} sends more than {MAX_PAGES} pages or {_MAX_BYTES} bytes of {what}")
        return bodies

    def _next(self, landed: Landed, base: URL) -> URL | None:
        """Where the next page is, on our own URL."""
        for header in landed.response.headers.getall("Link", [])[:4]:
            for link in _LINK.finditer(header[:8192]):
                if not _NEXT.search(link[2]):
                    continue
                name = self._asker.client.name
                target = next_hop(name, landed.url, link[1])
                if not same_origin(target, landed.url):
                    raise UpstreamWrong(f"{name} continues a list on another host", upstream=name, host=target.host)
                return base.with_query(target.query)
        return None


def _has_api(landed: Landed) -> bool:
    if landed.response.status in _NO_API:
        return False
    media_type = without_parameters(landed.response.headers.get("Content-Type"))
    return landed.response.status != 200 or media_type == OCI_INDEX  # noqa: PLR2004  # another status is a failure


def _is_tag(text: str) -> bool:
    try:
        Tag(text)
    except Malformed:
        return False
    return True
