"""The OCI distribution conformance program, in the part that a read-only registry has; and the same by ourselves.

The program is `conformance` of github.com/opencontainers/distribution-spec. It has no release; its results here are of
commit 967efdc (2026-07-16), of which two things are to be known, both true of any registry that takes no pushes:

- Having printed its results it panics when it writes them to files, so they are read from what it prints.
- For manifests that it did not push itself it misses `Docker-Content-Digest` in every answer, since it keeps the
  headers of those only whose bytes it knows. Of these manifests the header is checked below, by `test_pull`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifacts import UPSTREAMS, ArtifactWorld, Tools, two_platforms
from layers import MANIFEST, Image, image
from machine import Answer
from shelf import INDEX, digest_of

pytestmark = [pytest.mark.xdist_group("artifacts"), pytest.mark.real("docker-registry")]
TAGS = ["1", "1-amd64", "1-arm64", "extra-0", "extra-1", "extra-2"]
VERSIONS: dict[str, dict[str, str]] = {"1.1": {}, "dev": {"OCI_API_MANIFESTS_DIGEST_HEADER": "false"}}
_COUNT = re.compile(r"^  (\w+)\.+: +(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Stocked:
    """A mirrored repository with an index, its two images, an attachment of the first, and further tags."""

    world: ArtifactWorld
    name: str
    index: str
    images: list[Image]
    attached: str

    @property
    def manifests(self) -> list[str]:
        return [self.index, *(each.digest for each in self.images), self.attached]

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest: data for each in self.images for digest, data in each.blobs.items()}

    def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        return self.world.proxy.get(f"/v2/{self.name}/{target}", method, **headers)


@pytest.fixture(scope="module", params=UPSTREAMS)
def stocked(world: ArtifactWorld, request: pytest.FixtureRequest) -> Stocked:
    upstream, repository = world.upstreams[request.param], "conformance/repo"
    index, images = two_platforms(upstream, repository, "1")
    for tag in TAGS[3:]:
        upstream.push(repository, tag, image(tag, 5_000))
    subject = {"mediaType": MANIFEST, "digest": images[0].digest, "size": len(images[0].manifest)}
    attached = json.loads(images[0].manifest) | {"artifactType": "application/vnd.example.sbom", "subject": subject}
    raw = json.dumps(attached).encode()
    digest = upstream.push_manifest(repository, digest_of(raw), raw)
    if upstream.name == "plain.example.com":
        listed = {"mediaType": MANIFEST, "digest": digest, "size": len(raw), "artifactType": attached["artifactType"]}
        fallback = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]}).encode()
        upstream.push_manifest(repository, images[0].digest.replace(":", "-"), fallback, INDEX)
    return Stocked(world, f"{upstream.name}/{repository}", index, images, digest)


@pytest.mark.real("conformance")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_program(stocked: Stocked, tmp_path: Path, version: str) -> None:
    """Pull and content discovery: no failure and no error, against version 1.1 and the coming one."""
    off = dict.fromkeys(("PUSH", "BLOBS_DELETE", "MANIFESTS_DELETE", "TAGS_DELETE"), "false")
    data = {
        "TAGS": " ".join(TAGS),
        "MANIFESTS": " ".join(stocked.manifests),
        "BLOBS": " ".join(stocked.blobs),
        "REFERRERS": stocked.images[0].digest,
    }
    settings = {f"OCI_API_{key}": value for key, value in off.items()}
    settings |= {f"OCI_RO_DATA_{key}": value for key, value in data.items()} | VERSIONS[version]
    settings |= {"OCI_REGISTRY": stocked.world.address, "OCI_TLS": "disabled", "OCI_VERSION": version}
    settings |= {"OCI_REPO1": stocked.name, "OCI_REPO2": f"{stocked.name}/nothing", "OCI_RESULTS_DIR": str(tmp_path)}
    said = Tools(tmp_path).saying("conformance", **settings)
    counts = {name: int(count) for name, count in _COUNT.findall(said)}
    failures = [line for line in said.splitlines() if 'msg="failed test"' in line]
    assert (failures, counts["FAIL"], counts["Error"], counts["Skip"]) == ([], 0, 0, 0), said
    assert counts["Pass"] >= len(TAGS) + len(stocked.manifests) + len(stocked.blobs)


def test_pull(stocked: Stocked) -> None:
    """GET and HEAD of each tag, manifest and blob: 200, one length, one digest, and HEAD without a body."""
    targets = [f"manifests/{each}" for each in [*TAGS, *stocked.manifests]]
    targets += [f"blobs/{each}" for each in stocked.blobs]
    for target in targets:
        head, got = stocked.get(target, "HEAD"), stocked.get(target)
        assert (head.status, got.status, head.body) == (200, 200, b""), target
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body)), target
        digest = head.headers["docker-content-digest"]
        assert digest == got.headers["docker-content-digest"] == digest_of(got.body), target
        assert head.headers["content-type"] == got.headers["content-type"]


def test_what_does_not_exist(stocked: Stocked) -> None:
    """What is missing is 404, a malformed digest 400 or 404, and both say so as the specification wants it."""
    nothing = digest_of(b"nothing")
    cases = {
        "manifests/nothing": {404},
        f"manifests/{nothing}": {404},
        f"blobs/{nothing}": {404},
        "manifests/sha256:baddigeststring": {400, 404},
        "blobs/sha256:baddigeststring": {400, 404},
        "referrers/sha256:baddigeststring": {400},
    }
    for target, allowed in cases.items():
        for method in ("GET", "HEAD"):
            answer = stocked.get(target, method)
            assert answer.status in allowed, target
            if method == "GET":
                assert answer.json["errors"][0]["code"], target


def test_empty_repositories(world: ArtifactWorld) -> None:
    """A repository without tags has an empty list; one that nobody knows is 404; neither has referrers."""
    assert world.shelf.repositories["conformance/empty"].tags == {}
    empty = world.proxy.get("/v2/shelf.example.com/conformance/empty/tags/list")
    assert (empty.status, empty.json["tags"]) == (200, [])
    unknown = world.proxy.get("/v2/shelf.example.com/conformance/unknown/tags/list")
    assert (unknown.status, unknown.json["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
    for repository in ("empty", "unknown"):
        for algorithm in ("sha256", "sha512"):
            digest = digest_of(b"random", algorithm)
            found = world.proxy.get(f"/v2/shelf.example.com/conformance/{repository}/referrers/{digest}")
            assert (found.status, found.headers["content-type"]) == (200, INDEX)
            assert found.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


def test_pages_of_tags(stocked: Stocked) -> None:
    """`n` and `last` cut the sorted list, `Link` leads to the rest, and `n=0` is an empty page without one."""
    every = stocked.get("tags/list").json["tags"]
    assert [each for each in every if not each.startswith("sha256-")] == TAGS == sorted(TAGS)
    seen, target = [], "tags/list?n=2"
    for _ in range(10):
        page = stocked.get(target)
        assert len(page.json["tags"]) <= 2
        seen += page.json["tags"]
        if "link" not in page.headers:
            break
        target = page.headers["link"].partition(f"</v2/{stocked.name}/")[2].partition(">")[0]
    assert seen == every
    assert stocked.get("tags/list?last=1-arm64").json["tags"] == every[every.index("1-arm64") + 1 :]
    none = stocked.get("tags/list?n=0")
    assert (none.json["tags"], "link" in none.headers) == ([], False)


def test_referrers(stocked: Stocked) -> None:
    """The attachment is listed with its type; a filter is announced; other manifests have none."""
    digest = stocked.images[0].digest
    found = stocked.get(f"referrers/{digest}")
    assert (found.status, found.headers["content-type"]) == (200, INDEX)
    (listed,) = found.json["manifests"]
    assert (listed["digest"], listed["artifactType"]) == (stocked.attached, "application/vnd.example.sbom")
    other = stocked.get(f"referrers/{digest}?artifactType=application/vnd.example.other")
    assert (other.json["manifests"], other.headers["oci-filters-applied"]) == ([], "artifactType")
    assert stocked.get(f"referrers/{stocked.index}").json["manifests"] == []
