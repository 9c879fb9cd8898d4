"""Manifests, blobs, tags and referrers as clients see them (clients.md section 10, items 21 to 58 and 65 to 73)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from iarproxy.mirror.serving.answers import Followed, ReferrersAnswer, TagList
from iarproxy.oci import Digest
from iarproxy.server.standing import MAX_WARNING, cache_state, rfc3339, warning
from serving import ALPINE, MANIFEST, SINCE, FakeMirror, Reply, both_loops, serving

OTHER = Digest.of(b"other")
LAYER = bytes(range(256)) * 8
IMMUTABLE = "public, max-age=31536000, immutable"


def code(reply: Reply) -> str:
    return str(orjson.loads(reply.body)["errors"][0]["code"])


async def test_manifest_by_tag(tmp_path: Path) -> None:
    """Items 23 to 25: exact bytes and type, digest, ETag, standing; a tag's answer is revalidated each time."""
    mirror = FakeMirror(tmp_path)
    digest = mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror) as served:
        reply = await served.ask("/v2/library/alpine/manifests/3?ns=docker.io", Accept="application/json;q=0.1")
    assert (reply.status, reply.body) == (200, MANIFEST)
    assert reply.headers["content-type"] == "application/vnd.oci.image.manifest.v1+json"
    assert reply.headers["docker-content-digest"] == str(digest)
    assert reply.headers["etag"] == f'"{digest}"'
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["iar-pin"] == "pinned; since=2026-11-01T12:30:00Z"
    assert (reply.headers["iar-cache"], reply.headers["iar-upstream"]) == ("pinned", "docker.io")
    assert reply.headers["oci-namespace"] == "docker.io"
    assert not {"warning", "iar-upstream-digest"} & reply.headers.keys()


async def test_manifest_by_digest(tmp_path: Path) -> None:
    """Items 13 and 24: the requested digest comes back, cacheable for ever, without a standing; `%3A` is a colon."""
    mirror = FakeMirror(tmp_path)
    digest = mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror) as served:
        for wanted in (str(digest), str(digest).replace(":", "%3A")):
            reply = await served.ask(f"/v2/library/alpine/manifests/{wanted}")
            assert (reply.status, reply.body) == (200, MANIFEST)
            assert reply.headers["docker-content-digest"] == str(digest)
            assert reply.headers["cache-control"] == IMMUTABLE
            assert ("iar-pin" in reply.headers, reply.headers["oci-namespace"]) == (False, "docker.io")


async def test_manifest_by_sha512(tmp_path: Path) -> None:
    """Item 24: a manifest asked for by sha512 is answered under that digest."""
    mirror = FakeMirror(tmp_path)
    digest = mirror.pin("docker.io/library/alpine:3")
    wanted = Digest.of(MANIFEST, "sha512")
    mirror.manifests[str(ALPINE), str(wanted)] = mirror.manifests[str(ALPINE), str(digest)]
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/library/alpine/manifests/{wanted}")
    assert reply.headers["docker-content-digest"] == str(wanted)
    assert reply.headers["etag"] == f'"{wanted}"'


async def test_drift_is_told(tmp_path: Path) -> None:
    """Item 35: under drift the pinned bytes come with what upstream offers and a warning; so for a vanished tag."""
    mirror = FakeMirror(tmp_path)
    digest = mirror.pin("docker.io/library/alpine:3", offered=OTHER)
    mirror.pin("docker.io/library/alpine:4", vanished=True)
    async with serving(mirror) as served:
        drifted = await served.ask("/v2/library/alpine/manifests/3")
        vanished = await served.ask("/v2/library/alpine/manifests/4")
    assert (drifted.status, drifted.body) == (200, MANIFEST)
    assert drifted.headers["iar-upstream-digest"] == str(OTHER)
    assert drifted.headers["warning"].startswith('299 - "iarproxy: docker.io/library/alpine:3 stays ')
    assert str(digest) in drifted.headers["warning"]
    assert "no longer" in vanished.headers["warning"]


async def test_followed_tag(tmp_path: Path) -> None:
    """A followed tag says so, with when upstream last said it."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:edge", standing=Followed(SINCE, stale=True))
    async with serving(mirror) as served:
        reply = await served.ask("/v2/library/alpine/manifests/edge")
    assert reply.headers["iar-pin"] == "followed; since=2026-11-01T12:30:00Z"
    assert reply.headers["iar-cache"] == "stale"


async def test_not_modified_only_on_request(tmp_path: Path) -> None:
    """Item 25: 304 without a body to a client whose `If-None-Match` names the digest, 200 to all others."""
    mirror = FakeMirror(tmp_path)
    digest = mirror.pin("docker.io/library/alpine:3")
    blob = mirror.add(LAYER)
    async with serving(mirror) as served:
        for target, tag in (("manifests/3", digest), (f"blobs/{blob}", blob)):
            for header in (f'"{tag}"', f'"x", W/"{tag}"', "*"):
                reply = await served.ask(f"/v2/alpine/{target}", If_None_Match=header)
                assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", f'"{tag}"')
            for header in ('"x"', str(tag), ""):
                assert (await served.ask(f"/v2/alpine/{target}", If_None_Match=header)).status == 200


@pytest.mark.parametrize("wanted", ["missing", f"sha256:{'0' * 64}", f"sha256-{'0' * 64}.sig"])
async def test_missing_manifest(tmp_path: Path, wanted: str) -> None:
    """Items 31 and 32: what does not exist is 404 MANIFEST_UNKNOWN."""
    async with serving(FakeMirror(tmp_path)) as served:
        reply = await served.ask(f"/v2/alpine/manifests/{wanted}")
    assert (reply.status, code(reply)) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("wanted", ["sha256:baddigeststring", "sha256:" + "A" * 64, "md5:" + "0" * 32, "-x", "a" * 129])
async def test_malformed_reference(tmp_path: Path, wanted: str) -> None:
    """Item 33: a malformed reference is 400 or 404, and nobody is asked."""
    mirror = FakeMirror(tmp_path)
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/alpine/manifests/{wanted}")
    assert reply.status in (400, 404)
    assert mirror.asked == []


async def test_range_on_a_manifest_is_ignored(tmp_path: Path) -> None:
    """Item 34: containerd sends `bytes=0-` for manifests too; 200 with all of it is right."""
    mirror = FakeMirror(tmp_path)
    mirror.pin("docker.io/library/alpine:3")
    async with serving(mirror) as served:
        reply = await served.ask("/v2/alpine/manifests/3", Range="bytes=0-")
    assert (reply.status, reply.body) == (200, MANIFEST)


@both_loops
async def test_blob(tmp_path: Path) -> None:
    """Items 37 and 14: a blob's headers; always octets, in a sandbox."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(LAYER)
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{blob}?ns=docker.io")
    assert (reply.status, reply.body) == (200, LAYER)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["docker-content-digest"] == str(blob)
    assert reply.headers["etag"] == f'"{blob}"'
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["cache-control"] == IMMUTABLE
    assert reply.headers["content-security-policy"] == "sandbox"
    assert reply.headers["oci-namespace"] == "docker.io"
    assert all(body.closed for body in mirror.bodies)


async def test_missing_blob(tmp_path: Path) -> None:
    """Item 46: an unknown blob is 404 BLOB_UNKNOWN."""
    async with serving(FakeMirror(tmp_path)) as served:
        reply = await served.ask(f"/v2/alpine/blobs/{OTHER}")
    assert (reply.status, code(reply)) == (404, "BLOB_UNKNOWN")


async def test_empty_blob(tmp_path: Path) -> None:
    """Item 44: a blob of zero bytes is 200 with length 0; a range of it is 200 or 416."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(b"")
    async with serving(mirror) as served:
        whole = await served.ask(f"/v2/alpine/blobs/{blob}")
        first = await served.ask(f"/v2/alpine/blobs/{blob}", Range="bytes=0-")
        last = await served.ask(f"/v2/alpine/blobs/{blob}", Range="bytes=-5")
    assert (whole.status, whole.body, whole.headers["content-length"]) == (200, b"", "0")
    assert (first.status, last.status, first.headers["content-range"]) == (416, 416, "bytes */0")


async def test_head_of_a_blob_starts_no_transfer(tmp_path: Path) -> None:
    """Item 49: HEAD asks for the size only."""
    mirror = FakeMirror(tmp_path)
    blob = mirror.add(LAYER)
    async with serving(mirror) as served:
        await served.ask(f"/v2/alpine/blobs/{blob}", "HEAD")
    assert mirror.asked == [f"size docker.io/library/alpine {blob}"]


TAGS = tuple(sorted(["1", "2", "3.0", "latest", "v1"]))


@pytest.mark.parametrize(
    ("query", "tags", "link"),
    [
        ("", list(TAGS), None),
        ("?n=2", ["1", "2"], '</v2/docker.io/library/alpine/tags/list?n=2&last=2>; rel="next"'),
        ("?n=2&last=2", ["3.0", "latest"], '</v2/docker.io/library/alpine/tags/list?n=2&last=latest>; rel="next"'),
        ("?n=2&last=latest", ["v1"], None),
        ("?n=5", list(TAGS), None),
        ("?last=latest", ["v1"], None),
        ("?n=0", [], None),
        ("?n=999999999", list(TAGS), None),
        ("?last=zzz", [], None),
    ],
)
async def test_tags(tmp_path: Path, query: str, tags: list[str], link: str | None) -> None:
    """Items 55 and 56: the name as the client wrote it, pages, and a relative link with its prefix."""
    mirror = FakeMirror(tmp_path, listed=TagList(ALPINE, TAGS, complete=True))
    async with serving(mirror) as served:
        reply = await served.ask(f"/v2/docker.io/library/alpine/tags/list{query}")
    assert (reply.status, orjson.loads(reply.body)) == (200, {"name": "docker.io/library/alpine", "tags": tags})
    assert reply.headers.get("link") == link
    assert reply.headers["content-type"] == "application/json"


async def test_tag_link_keeps_the_namespace(tmp_path: Path) -> None:
    """Item 55: the link of a request with `ns` has it too; what is incomplete says so."""
    mirror = FakeMirror(tmp_path, listed=TagList(ALPINE, TAGS, complete=False))
    async with serving(mirror) as served:
        reply = await served.ask("/v2/library/alpine/tags/list?n=1&ns=registry.example.com%3A5000")
    expected = '</v2/library/alpine/tags/list?n=1&last=1&ns=registry.example.com%3A5000>; rel="next"'
    assert reply.headers["link"] == expected
    assert reply.headers["oci-namespace"] == "registry.example.com:5000"
    assert reply.headers["warning"].startswith('299 - "iarproxy: upstream could not be asked')


async def test_empty_tag_list(tmp_path: Path) -> None:
    """Item 56: no tags are `[]`, never null."""
    async with serving(FakeMirror(tmp_path)) as served:
        reply = await served.ask("/v2/alpine/tags/list?n=1")
    assert reply.body == b'{"name":"alpine","tags":[]}'


async def test_referrers(tmp_path: Path) -> None:
    """Item 53: the exact content type, and the filter announced only where it was applied."""
    raw = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
    mirror = FakeMirror(tmp_path, index=ReferrersAnswer(raw, filtered=False))
    async with serving(mirror) as served:
        plain = await served.ask(f"/v2/alpine/referrers/{OTHER}")
        mirror.index = ReferrersAnswer(raw, filtered=True)
        filtered = await served.ask(f"/v2/alpine/referrers/{OTHER}?artifactType=a/b&artifactType=c/d")
        bad = await served.ask("/v2/alpine/referrers/sha256:bad")
    assert (plain.status, plain.body) == (200, raw)
    assert plain.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert "oci-filters-applied" not in plain.headers
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    assert mirror.asked[-1].endswith(" a/b,c/d")
    assert (bad.status, code(bad)) == (400, "DIGEST_INVALID")


async def test_catalog(tmp_path: Path) -> None:
    """Item 58: no catalog: 404 UNSUPPORTED."""
    async with serving(FakeMirror(tmp_path)) as served:
        reply = await served.ask("/v2/_catalog")
    assert (reply.status, code(reply)) == (404, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/v2/alpine/manifests/3", "docker.io/library/alpine"),
        ("/v2/alpine/manifests/3?ns=docker.io", "docker.io/library/alpine"),
        ("/v2/alpine/manifests/3?ns=INDEX.docker.io&unknown=1", "docker.io/library/alpine"),
        ("/v2/docker.io/alpine/manifests/3", "docker.io/library/alpine"),
        ("/v2/ghcr.io/org/app/manifests/3", "ghcr.io/org/app"),
        ("/v2/org/app/manifests/3?ns=ghcr.io", "ghcr.io/org/app"),
        ("/v2/ghcr.io/org/app/manifests/3?ns=ghcr.io", "ghcr.io/org/app"),
        ("/v2/registry.example.com_5000_/app/manifests/3", "registry.example.com:5000/app"),
        ("/v2/registry.example.com:5000/app/manifests/3", "registry.example.com:5000/app"),
    ],
)
async def test_routes(tmp_path: Path, target: str, asked: str) -> None:
    """Items 65 to 72: every spelling leads to the canonical repository."""
    mirror = FakeMirror(tmp_path)
    async with serving(mirror) as served:
        await served.ask(target)
    assert mirror.asked == [f"manifest {asked} 3"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v2/alpine/manifests/3?ns=nowhere.test", 404),
        ("/v2/nowhere.test/alpine/manifests/3", 404),
        ("/v2/ghcr.io/app/manifests/3?ns=docker.io", 400),
        ("/v2/alpine/manifests/3?ns=docker.io&ns=ghcr.io", 400),
        ("/v2/Alpine/manifests/3", 404),
        ("/v2/alpine/manifests/3?ns=http%3A%2F%2F169.254.169.254", 404),
        ("/v2/alpine/manifests/3?ns=a%0d%0aSet-Cookie:x", 404),
    ],
)
async def test_routes_refused(tmp_path: Path, target: str, status: int) -> None:
    """Items 15, 67, 69, 70, 73: unknown or contradicting names are refused; nobody is asked, nothing is reflected."""
    mirror = FakeMirror(tmp_path)
    async with serving(mirror) as served:
        reply = await served.ask(target)
    assert (reply.status, mirror.asked) == (status, [])
    assert not {"set-cookie", "oci-namespace"} & reply.headers.keys()


def test_warning_is_a_quoted_string_of_bounded_length() -> None:
    """Quotes and backslashes are escaped, foreign characters replaced, 4096 bytes never exceeded."""
    assert warning('say "no" \\ \r\n\u00e9') == '299 - "say \\"no\\" \\\\ ???"'
    long = warning('"' * 10_000)
    assert len(long) <= MAX_WARNING
    assert long.endswith('\\""')


def test_times_are_utc() -> None:
    """RFC 3339 in whole seconds."""
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)) == "2026-01-02T03:04:05Z"
    assert cache_state(Followed(SINCE), cached=True) == "hit"
