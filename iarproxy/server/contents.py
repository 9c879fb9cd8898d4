"""What each endpoint answers, as pure functions from the mirror's values to `Answer`.

Rule 1: a manifest asked for by digest is answered under that digest; `ETag` is the digest in quotes.
Rule 2: 304 only to a client that asked for it (containerd takes another one for a failure).
Rule 3: blobs are `application/octet-stream` in a sandbox, whatever they hold: a browser runs nothing of them.
Rule 4: links are relative, below our own path, with the client's spelling of the name and its `ns` (item 55).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import orjson

from iarproxy.mirror.serving.answers import ManifestAnswer, ReferrersAnswer, RefusalAnswer, TagList
from iarproxy.oci import Digest, ErrorCode, Repository, Tag, error_body
from iarproxy.oci.media_types import OCI_INDEX, OCTET_STREAM
from iarproxy.oci.request import TagsTarget
from iarproxy.oci.routing import DEFAULT, Place
from iarproxy.server.answer import IMMUTABLE, NO_CACHE, NO_STORE, Answer
from iarproxy.server.ranges import Part
from iarproxy.server.standing import cache_state, standing_headers, warning

_JSON = "application/json"


def route_headers(repository: Repository, namespace: str | None) -> dict[str, str]:
    """Which upstream the route led to; `OCI-Namespace` echoes the client's own spelling (distribution-spec PR 66)."""
    shown = {"IAR-Upstream": repository.registry}
    return {**shown, "OCI-Namespace": repository.registry if namespace is None else namespace}


def place_headers(place: Place, wanted: Tag | Digest | None, namespace: str | None) -> dict[str, str]:
    """`route_headers`, and for what is no content the environment, where it is not the default one."""
    shown = route_headers(place.repository, namespace)
    if place.environment != DEFAULT and not isinstance(wanted, Digest):
        shown["IAR-Environment"] = place.environment
    return shown


def ping() -> Answer:
    """`/v2/`: works while every upstream is down (item 1)."""
    return Answer(200, {"Content-Type": _JSON, "Cache-Control": NO_CACHE}, b"{}")


def no_catalog() -> Answer:
    """`/v2/_catalog`: a mirror does not know what its upstreams hold (item 58)."""
    body = error_body(ErrorCode.UNSUPPORTED, "iarproxy has no catalog: it mirrors whatever is asked for", {})
    return Answer(404, {"Content-Type": _JSON, "Cache-Control": NO_STORE}, body)


def state_of(found: ManifestAnswer) -> str:
    """`hit`, `miss`, `pinned` or `stale`."""
    return cache_state(found.standing, cached=found.cached)


def manifest(
    found: ManifestAnswer, wanted: Tag | Digest, if_none_match: str | None, shown: Mapping[str, str]
) -> Answer:
    """A manifest's exact bytes, or 304."""
    digest = wanted if isinstance(wanted, Digest) else found.descriptor.digest
    headers = {
        "Content-Type": found.descriptor.media_type,
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Cache-Control": IMMUTABLE if isinstance(wanted, Digest) else NO_CACHE,
        "IAR-Cache": state_of(found),
        **shown,
        **standing_headers(found, wanted),
    }
    if none_match(if_none_match, digest):
        del headers["Content-Type"]
        return Answer(304, headers)
    return Answer(200, headers, found.raw)


def refusal(found: RefusalAnswer, why: str, shown: Mapping[str, str]) -> Answer:
    """A refusal manifest for the request of a tag: its own media type, and nothing that may be kept."""
    digest = str(found.refusal.digest)
    headers = {"Content-Type": found.refusal.media_type, "Docker-Content-Digest": digest, "Cache-Control": NO_STORE}
    return Answer(200, {**headers, "Warning": warning(f"iarproxy: {why}"), **shown}, found.refusal.raw)


def blob(digest: Digest, size: int, part: Part | None, shown: Mapping[str, str], *, unchanged: bool = False) -> Answer:
    """The head of a blob's answer: 200, or 206 for `part`, or 304 where the client holds it already."""
    headers = {
        "Content-Type": OCTET_STREAM,
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": IMMUTABLE,
        "Content-Security-Policy": "sandbox",
        **shown,
    }
    if unchanged:
        del headers["Content-Type"]
        return Answer(304, headers)
    if part is None:
        return Answer(200, headers, length=size)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return Answer(206, headers, length=part.stop - part.start)


def none_match(header: str | None, digest: Digest) -> bool:
    """Whether `If-None-Match` names the digest (RFC 9110 section 13.1.2; compared weakly). None: it was not sent."""
    if header is None:
        return False
    given = {each.strip().removeprefix("W/") for each in header.split(",")}
    return "*" in given or f'"{digest}"' in given


def tags(listed: TagList, target: TagsTarget, namespace: str | None, shown: Mapping[str, str]) -> Answer:
    """One page of the tags that sort after `last`; `name` is the name as the client wrote it (item 56)."""
    rest = [each for each in listed.tags if each > target.last]
    page = rest if target.count is None else rest[: target.count]
    headers = {"Content-Type": _JSON, "Cache-Control": NO_CACHE, **shown}
    if page and len(page) < len(rest):
        headers["Link"] = _next(target, page[-1], namespace)
    if not listed.complete:
        headers["Warning"] = warning("iarproxy: upstream could not be asked; these are the tags that are held here")
    return Answer(200, headers, orjson.dumps({"name": target.name, "tags": page}))


def _next(target: TagsTarget, last: str, namespace: str | None) -> str:
    query = f"n={target.count}&last={quote(last, safe='')}"
    if namespace is not None:
        query += f"&ns={quote(namespace, safe='')}"
    return f'</v2/{target.name}/tags/list?{query}>; rel="next"'


def referrers(found: ReferrersAnswer, shown: Mapping[str, str]) -> Answer:
    """An index of referrers; the content type is exact, or clients ignore it (item 53)."""
    headers = {"Content-Type": OCI_INDEX, "Cache-Control": NO_CACHE, **shown}
    if found.filtered:
        headers["OCI-Filters-Applied"] = "artifactType"
    return Answer(200, headers, found.raw)
