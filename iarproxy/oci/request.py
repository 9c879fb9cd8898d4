"""The one parser of the raw request target (design invariant 9, threats T11 and T57, rule 1).

Rule 1: routing, access, storage and logs see only the values made here; nothing else reads a target.
Rule 2: the path is matched as it was sent: ASCII, no percent-encoding but the `%3A` of a digest, no empty or dot
        segment. Nothing is normalised, so no two layers can read one target in two ways.
Rule 3: a proxy-style target (`http://any.host/v2/...`) is taken for its path alone; its host decides nothing.
Rule 4: lengths are bounded before anything is matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qsl

from iarproxy.errors import DigestInvalid, Malformed, NameInvalid, UnknownName, Unsupported
from iarproxy.oci.digest import Digest
from iarproxy.oci.reference import Tag, parse_tag_or_digest

MAX_TARGET = 4096
MAX_PAGE = 1000
_MAX_FIELDS = 64
# A repository as the client spells it, before routing: perhaps with a registry (`host:5000`, `[::1]:5000`) in front.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_HEAD = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:\[\]-]*", re.ASCII)
_ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^/?#]*", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ping:
    """`/v2/`: does this speak the distribution API?"""


@dataclass(frozen=True, slots=True)
class Catalog:
    """`/v2/_catalog`."""


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """`/v2/<name>/manifests/<tag or digest>`."""

    name: str
    wanted: Tag | Digest


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """`/v2/<name>/blobs/<digest>`."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsTarget:
    """`/v2/<name>/tags/list`. `count`: the client's `n`, None where it sent none; `last`: list what sorts after it."""

    name: str
    count: int | None = None
    last: str = ""


@dataclass(frozen=True, slots=True)
class ReferrersTarget:
    """`/v2/<name>/referrers/<digest>`. `artifact_types`: any of them matches; empty: all do."""

    name: str
    digest: Digest
    artifact_types: tuple[str, ...] = ()


Target: TypeAlias = Ping | Catalog | ManifestTarget | BlobTarget | TagsTarget | ReferrersTarget


@dataclass(frozen=True, slots=True)
class RegistryRequest:
    """What a client asks for. `namespace`: the registry that its `ns` parameter names, as sent; None: it sent none."""

    target: Target
    namespace: str | None = None


def parse_request(raw_target: str) -> RegistryRequest:
    """The request that a raw request target (`request.raw_path`) spells.

    Raises:
        NameInvalid: the repository name cannot be one.
        DigestInvalid: a digest is asked for that is none.
        Malformed: anything else about the target that two parsers might read differently.
        Unsupported: an endpoint of the distribution API that a read-only mirror does not offer.
        UnknownName: no endpoint of the distribution API at all.
    """
    if len(raw_target) > MAX_TARGET:
        raise Malformed(f"the request target has {len(raw_target)} characters; at most {MAX_TARGET} are taken")
    if not raw_target.isascii() or not raw_target.isprintable() or " " in raw_target:
        raise Malformed("the request target holds characters that no target may hold")
    absolute = _ABSOLUTE.match(raw_target)
    path, _, query = raw_target[absolute.end() if absolute else 0 :].partition("?")
    if "#" in raw_target or "\\" in raw_target.partition("?")[0]:
        raise Malformed("the request target holds a fragment or a backslash")
    fields = _fields(query)
    return RegistryRequest(_target(path, fields), _namespace(fields))


def _fields(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Malformed("the query string is not well-formed UTF-8 of at most 64 fields") from error


def _namespace(fields: list[tuple[str, str]]) -> str | None:
    named = {value for key, value in fields if key == "ns"}
    if len(named) > 1:
        raise Malformed("the query names two different registries in `ns`")
    return named.pop() if named else None


def _target(path: str, fields: list[tuple[str, str]]) -> Target:
    if path in ("/v2", "/v2/"):
        return Ping()
    if path == "/v2/_catalog":
        return Catalog()
    if not path.startswith("/v2/"):
        raise UnknownName("no such endpoint: the distribution API is below /v2/")
    segments = path.removeprefix("/v2/").split("/")
    match segments:
        case [*name, "manifests", wanted]:
            return ManifestTarget(_name(name), parse_tag_or_digest(_plain(wanted)))
        case [*name, "tags", "list"]:
            return TagsTarget(_name(name), _count(fields), _last(fields))
        case [*_, "blobs", "uploads", _] | [*_, "blobs", "uploads"]:
            raise Unsupported("iarproxy is a read-only mirror: push to the registry itself")
        case [*name, "blobs", digest]:
            return BlobTarget(_name(name), _digest(digest))
        case [*name, "referrers", digest]:
            kinds = tuple(value for key, value in fields if key == "artifactType" and value)
            return ReferrersTarget(_name(name), _digest(digest), kinds)
        case _:
            raise UnknownName("no such endpoint: expected /v2/<name>/manifests|blobs|tags|referrers/...")


def _name(segments: list[str]) -> str:
    if not segments or _HEAD.fullmatch(segments[0]) is None or not all(map(_SEGMENT.fullmatch, segments[1:])):
        raise NameInvalid(f"not a repository name: {'/'.join(segments)[:160]!r}; see the distribution-spec grammar")
    return "/".join(segments)


def _plain(segment: str) -> str:
    """The segment with an encoded colon decoded: the one encoding that clients really send (`sha256%3A...`)."""
    plain = re.sub("%3A", ":", segment, count=1, flags=re.IGNORECASE)
    if "%" in plain:
        raise Malformed("the request path is percent-encoded; names and digests need no encoding")
    return plain


def _digest(segment: str) -> Digest:
    try:
        return Digest.parse(_plain(segment))
    except DigestInvalid:
        raise
    except Malformed as error:
        raise DigestInvalid(str(error)) from error


def _count(fields: list[tuple[str, str]]) -> int | None:
    given = [value for key, value in fields if key == "n"]
    if not given:
        return None
    if len(given) > 1 or _COUNT.fullmatch(given[0]) is None:
        raise Malformed("`n` is not a number of tags")
    return min(int(given[0]), MAX_PAGE)


def _last(fields: list[tuple[str, str]]) -> str:
    given = [value for key, value in fields if key == "last" and value]
    if len(given) > 1:
        raise Malformed("`last` is given twice")
    return Tag(given[0]).value if given else ""
