"""The one door for request targets: it opens for the targets that clients really send, and for nothing else (T11, T57).

The properties compare with a second, independent reading of the target; the corpus is what attackers sent to others.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grammar import digests, names, registries, tags
from iarproxy.errors import DigestInvalid, Malformed, NameInvalid, UnknownName, Unsupported
from iarproxy.oci import Digest, Repository, Tag
from iarproxy.oci.request import (
    MAX_PAGE,
    MAX_TARGET,
    BlobTarget,
    Catalog,
    ManifestTarget,
    Ping,
    ReferrersTarget,
    RegistryRequest,
    TagsTarget,
    parse_request,
)

D = f"sha256:{'ab' * 32}"
DIGEST = Digest.parse(D)


@given(names, tags | digests, st.none() | registries)
def test_manifests(name: str, wanted: Tag | Digest, namespace: str | None) -> None:
    """What a client builds from values reads back as those values."""
    query = "" if namespace is None else "?ns=" + quote(namespace, safe="")
    found = parse_request(f"/v2/{name}/manifests/{wanted}{query}")
    assert found == RegistryRequest(ManifestTarget(name, wanted), namespace)


@given(names, digests, st.booleans())
def test_blobs(name: str, digest: Digest, encoded: bool) -> None:  # noqa: FBT001  # drawn, not passed
    """A digest may have its colon encoded, as some clients send it, and nothing else."""
    text = str(digest).replace(":", "%3A" if encoded else ":")
    assert parse_request(f"/v2/{name}/blobs/{text}").target == BlobTarget(name, digest)


@given(names, st.integers(0, 10**9 - 1), tags)
def test_tag_lists(name: str, count: int, last: Tag) -> None:
    """A page is bounded whatever the client asks for."""
    found = parse_request(f"/v2/{name}/tags/list?n={count}&last={last}")
    assert found.target == TagsTarget(name, min(count, MAX_PAGE), last.value)


@given(names, digests, st.lists(st.text(min_size=1, max_size=9).filter(str.isprintable), max_size=3))
def test_referrers(name: str, digest: Digest, kinds: list[str]) -> None:
    """All `artifactType` filters arrive, decoded once."""
    query = "&".join("artifactType=" + quote(kind, safe="") for kind in kinds)
    found = parse_request(f"/v2/{name}/referrers/{digest}?{query}")
    assert found.target == ReferrersTarget(name, digest, tuple(kinds))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2/", RegistryRequest(Ping())),
        ("/v2", RegistryRequest(Ping())),
        ("/v2/?ns=docker.io", RegistryRequest(Ping(), "docker.io")),
        ("/v2/_catalog", RegistryRequest(Catalog())),
        ("http://mirror.example/v2/", RegistryRequest(Ping())),
        ("HTTPS://a:b@169.254.169.254/v2/x/tags/list", RegistryRequest(TagsTarget("x"))),
        ("/v2/a/manifests/1?ns=ghcr.io&ns=ghcr.io", RegistryRequest(ManifestTarget("a", Tag("1")), "ghcr.io")),
        ("/v2/a/manifests/1?ns=reg.lan%3A5000", RegistryRequest(ManifestTarget("a", Tag("1")), "reg.lan:5000")),
        ("/v2/a/manifests/1?foo=bar&x", RegistryRequest(ManifestTarget("a", Tag("1")))),
        ("/v2/a/manifests/b/manifests/1", RegistryRequest(ManifestTarget("a/manifests/b", Tag("1")))),
        ("/v2/a/blobs/uploads/manifests/1", RegistryRequest(ManifestTarget("a/blobs/uploads", Tag("1")))),
        ("/v2/a/tags/list/manifests/1", RegistryRequest(ManifestTarget("a/tags/list", Tag("1")))),
        ("/v2/tags/tags/list", RegistryRequest(TagsTarget("tags"))),
        (f"/v2/blobs/blobs/{D}", RegistryRequest(BlobTarget("blobs", DIGEST))),
        ("/v2/[::1]:5000/a/manifests/1", RegistryRequest(ManifestTarget("[::1]:5000/a", Tag("1")))),
        ("/v2/a/tags/list?n=0", RegistryRequest(TagsTarget("a", 0))),
        ("/v2/a/tags/list?last=", RegistryRequest(TagsTarget("a"))),
    ],
)
def test_accepted(target: str, expected: RegistryRequest) -> None:
    """What clients send is understood; a proxy-style target counts for its path alone."""
    assert parse_request(target) == expected


def test_an_upload_is_unsupported() -> None:
    """A push gets a refusal that says what this is."""
    for target in ("/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/b/blobs/uploads/123?digest=x"):
        with pytest.raises(Unsupported, match="read-only mirror"):
            parse_request(target)


# --- the hostile corpus ----------------------------------------------------------------------------------------------

_CLIMBS = ["..", "../..", "../../../../etc/passwd", ".", "./.", "...;/..", "..;", "....//....//", "..\\..\\", "~root"]
_ENCODED = ["%2e%2e", "%2E%2E%2F", "..%2f", "%2f..", "..%5c", "%252e%252e%252f", "%c0%ae%c0%ae/", "%e0%80%ae", "%u002e"]
_BYTES = ["\x00", "%00", "\n", "%0a", "%0d%0aX:1", "\r", "\t", "%09", " ", "%20", "\x7f", "\x1b[2J", "\u2028", "\xa0"]
_LOOKALIKES = ["\u0663", "\uff0e\uff0e", "\u2024\u2024", "\uff0f", "\u2215", "\u212a", "\u0430", "\ud800", "\U0001f4a9"]
_MARKS = [
    "\\",
    "#",
    "#/../",
    ";a=b",
    "|id",
    "$(id)",
    "`id`",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "<script>",
    "'--",
    '"',
    "*",
]
PARTS = [*_CLIMBS, *_ENCODED, *_BYTES, *_LOOKALIKES, *_MARKS]
PLACES = [
    "/v2/{}/manifests/1",
    "/v2/a/{}/b/manifests/1",
    "/v2/a{}/manifests/1",
    "/v2/a/manifests/{}",
    "/v2/a/manifests/x{}y/",
    "/v2/a/manifests/" + D + "{}",
    "/v2/a/blobs/{}",
    "/v2/a/blobs/sha256:{}",
    "/v2/a/blobs/" + D + "{}",
    "/v2/a/blobs/{}/" + D,
    "/v2/a/{}/tags/list",
    "/v2/a/referrers/{}",
    "/v2/{}",
    "/{}/v2/a/manifests/1",
    "/v2/{}/../a/manifests/1",
    "/v2/a/tags/list?n={}",
    "/v2/a/tags/list?last={}",
]
WHOLE = [
    "",
    "/",
    "*",
    "v2/",
    "//v2/",
    "/v2//",
    "/v2/a",
    "/v2/a/manifests",
    "/v2/a/manifests/",
    "/v2//manifests/1",
    "/v2/manifests/1",
    "/v2/a//manifests/1",
    "/v2/a/manifests//1",
    "/v2/a/manifests/1/",
    "/v2/a/tags/",
    "/v2/a/tags/list/",
    "/v2/a/tags/LIST",
    "/V2/a/tags/list",
    "/v1/_ping",
    "/v3/a/manifests/1",
    "/v2/_catalog/",
    "/v2/_catalog/../a/manifests/1",
    "/v2/a/blobs/",
    "/v2/a/blobs/" + D.upper(),
    "/v2/a/blobs/" + D + "/",
    "/v2/a/blobs/sha256%3a%3a" + "ab" * 32,
    "/v2/a/blobs/sha256%253A" + "ab" * 32,
    "/v2/a%2Fb/manifests/1",
    "/v2/%61/manifests/1",
    "/v2/a/manifests/%31",
    "/v2/a/%6danifests/1",
    "/%76%32/a/manifests/1",
    "/v2/a/manifests/1#",
    "/v2/a/manifests/1?x#y",
    "/v2/-a/manifests/1",
    "/v2/.a/manifests/1",
    "/v2/a:b/c:d/manifests/1",
    "/v2/a/[::1]/manifests/1",
    "/v2/a@b/manifests/1",
    "/v2/a/manifests/.hidden",
    "/v2/a/manifests/-rf",
    "/v2/a/manifests/" + "t" * 129,
    "/v2/" + "a/" * 3000 + "manifests/1",
    "/v2/a/manifests/1?" + "x" * MAX_TARGET,
    "/v2/a/manifests/1?" + "&" * 64,
    "/v2/a/manifests/1?ns=a.io&ns=b.io",
    "/v2/a/manifests/1?ns=%ff",
    "/v2/a/manifests/1?x=%ed%a0%80",
    "/v2/a/tags/list?n=",
    "/v2/a/tags/list?n=-1",
    "/v2/a/tags/list?n=1e3",
    "/v2/a/tags/list?n=+1",
    "/v2/a/tags/list?n=0x10",
    "/v2/a/tags/list?n=1&n=2",
    "/v2/a/tags/list?n=%D9%A3",
    "/v2/a/tags/list?n=9999999999",
    "/v2/a/tags/list?last=a&last=b",
    "ftp://x/v2/",
    "file:///etc/passwd",
    "http://x",
    "http://x?/v2/",
    "http://x#/v2/",
    "http:/v2/",
    "http://x//v2/",
    "http://x/http://y/v2/",
    "http://x\\@y/v2/",
    "mirror.example:443",
]


def _outcome(target: str) -> str:
    """How the door, or for a name what stands right behind it, refuses `target`; empty if it does not."""
    try:
        Repository.of("ghcr.io", getattr(parse_request(target).target, "name", ""))
    except (Malformed, UnknownName, Unsupported) as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("place", ["{}", *PLACES])
def test_hostile(place: str) -> None:
    """Each hostile target is refused with one of our own errors, in a message that says why and stays short."""
    outcomes = {target: _outcome(target) for target in map(place.format, WHOLE if place == "{}" else PARTS)}
    assert len(outcomes) > 40
    assert [target for target, message in outcomes.items() if not 10 < len(message) < 1000] == []


_PATHS = re.compile(
    r"(?:https?://[^/?#]*)?/v2/(?P<name>[A-Za-z0-9_\[][A-Za-z0-9._:\[\]-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)"
    r"/(?:manifests/(?P<wanted>[^/?]+)|blobs/(?P<blob>[^/?]+)|tags/list|referrers/(?P<subject>[^/?]+))(?:\?[^#]*)?",
    re.ASCII | re.IGNORECASE,
)
_PIECES = "/v2/ / a library manifests blobs tags list referrers uploads latest sha256 ?ns=ghcr.io &n=5 http://x %3A %2f"
_pieces = st.sampled_from([*_PIECES.split(), D, "..", ".", ":", "\\", "#", "\n", "_catalog", "[::1]:5000", "A"])


@given(st.lists(_pieces | st.text(max_size=3), max_size=9).map("".join) | st.text(max_size=60))
@example("/v2/a/manifests/1")
def test_any_target(target: str) -> None:
    """Any text is refused with our own error or means what a second, independent reading of the grammar says."""
    try:
        found = parse_request(target).target
    except (Malformed, UnknownName, Unsupported):
        return
    if isinstance(found, Ping | Catalog):
        return
    other = _PATHS.fullmatch(target)
    assert other is not None
    assert found.name == other["name"]
    assert not {"..", ".", ""} & set(found.name.split("/"))
    match found:
        case ManifestTarget(wanted=wanted):
            assert str(wanted) == re.sub("%3a", ":", other["wanted"], count=1, flags=re.IGNORECASE)
        case BlobTarget(digest=digest) | ReferrersTarget(digest=digest):
            sent = other["blob"] or other["subject"]
            assert str(digest) == re.sub("%3a", ":", sent, count=1, flags=re.IGNORECASE)
        case TagsTarget():
            assert "/tags/list" in target


@given(st.text(max_size=40), names)
def test_a_name_that_passes_stays_inside(text: str, name: str) -> None:
    """A repository name that the door let through is inside the grammar once it is a repository."""
    try:
        found = parse_request(f"/v2/{text}/{name}/tags/list").target
        repository = Repository.of("ghcr.io", getattr(found, "name", "a"))
    except (Malformed, UnknownName, Unsupported):
        return
    assert re.fullmatch(r"[a-z0-9._/-]+", repository.name)
    assert ".." not in repository.name.split("/")


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/v2/a/blobs/latest", DigestInvalid),
        ("/v2/a/blobs/sha256%2F", DigestInvalid),
        ("/v2/a/manifests/sha256:1", DigestInvalid),
        ("/v2/..%2f/manifests/1", NameInvalid),
        ("/v2/a/manifests/a%2fb", Malformed),
        ("/nothing", UnknownName),
    ],
)
def test_kinds(target: str, kind: type[Exception]) -> None:
    """What was wrong decides the error that the client gets."""
    with pytest.raises(kind):
        parse_request(target)
