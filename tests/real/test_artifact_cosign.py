"""cosign signs at the upstream and verifies through the mirror: by the tags `.sig` and `.att`, and by referrers.

All of it is offline: signatures by key, with no transparency log, certificate authority or list of trusted roots.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, Upstream, every_upstream
from layers import Image, image
from processes import until

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "cosign"),
    pytest.mark.client("cosign", "cosign", "version"),
    pytest.mark.lacks("mirror mode", "it has no mirror setting"),
    pytest.mark.lacks("strict mode", "it asks nobody but the registry that is named"),
    pytest.mark.lacks("resume", "signatures are small; a failed look is repeated whole"),
]
# In tags, signatures lie as every cosign before 3.0 keeps them; bundles refer to the image, as 3.0 and later do.
SCHEMES = {"tags": ["--new-bundle-format=false"], "bundles": []}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
PLAIN = ("--allow-http-registry", "--allow-insecure-registry")


class Cosign(Tools):
    """cosign with one key pair."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self._environment["COSIGN_PASSWORD"] = "of no worth"
        self("cosign", "generate-key-pair", "--output-key-prefix", folder / "its")

    def sign(self, scheme: str, reference: str) -> None:
        self._written("sign", scheme, reference)

    def attest(self, scheme: str, reference: str, claim: str) -> None:
        (self.folder / "claim.json").write_text(json.dumps({"claim": claim}))
        self._written("attest", scheme, reference, "--type", "custom", "--predicate", f"{self.folder}/claim.json")

    def _written(self, verb: str, scheme: str, reference: str, *options: str) -> None:
        offline = ["--yes", "--tlog-upload=false", "--use-signing-config=false", *SCHEMES[scheme], *PLAIN]
        self("cosign", verb, "--key", self.folder / "its.key", *offline, *options, reference)

    def verify(self, scheme: str, reference: str, verb: str = "verify", *options: str) -> str:
        """What a verification that must succeed says."""
        return self(*self._reading(scheme, reference, verb, *options))

    def verify_in_vain(self, scheme: str, reference: str) -> str:
        """What a verification that must fail says."""
        return self.failing(*self._reading(scheme, reference, "verify"))

    def is_verified(self, scheme: str, reference: str) -> bool:
        """Whether the image is found to be signed with the key."""
        try:
            self.verify(scheme, reference)
        except AssertionError:
            return False
        return True

    def _reading(self, scheme: str, reference: str, verb: str, *options: str) -> list[str]:
        offline = ["--insecure-ignore-tlog", *SCHEMES[scheme], *PLAIN]
        return ["cosign", verb, "--key", str(self.folder / "its.pub"), *offline, *options, reference]


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    return Cosign(tmp_path)


def pushed(upstream: Upstream, repository: str, text: str) -> tuple[Image, str]:
    """An image at the upstream, and its reference there by digest."""
    app = upstream.push(repository, "1", image(text))
    return app, upstream.direct(f"{repository}@{app.digest}")


@every_scheme
@every_upstream
@pytest.mark.proves("explicit name", "tag", "digest", "referrers", "media types")
def test_verify(world: ArtifactWorld, cosign: Cosign, name: str, scheme: str) -> None:
    """A signature is found through the mirror, by tag and by digest, and is one of the image that we serve."""
    upstream, repository = world.upstreams[name], f"team/{scheme}"
    app, reference = pushed(upstream, repository, f"{name} {scheme}")
    cosign.sign(scheme, reference)
    for wanted in (f"{repository}:1", f"{repository}@{app.digest}"):
        (found,) = json.loads(cosign.verify(scheme, upstream.mirrored(wanted)))
        assert found["critical"]["image"]["docker-manifest-digest"] == app.digest


@every_scheme
@every_upstream
@pytest.mark.proves("referrers")
def test_no_signature(world: ArtifactWorld, cosign: Cosign, name: str, scheme: str) -> None:
    """An image that is not signed, or with another key, does not pass; nor does it once only others signed it."""
    upstream, repository = world.upstreams[name], f"team/un{scheme}"
    _, reference = pushed(upstream, repository, f"un {name} {scheme}")
    said = cosign.verify_in_vain(scheme, upstream.mirrored(f"{repository}:1"))
    assert "no signatures found" in said, said
    Cosign(cosign.folder / "other").sign(scheme, reference)
    cosign.verify_in_vain(scheme, upstream.mirrored(f"{repository}:1"))


@every_scheme
@every_upstream
@pytest.mark.proves("referrers")
def test_signed_after_the_first_look(world: ArtifactWorld, cosign: Cosign, name: str, scheme: str) -> None:
    """An image that is pulled before it is signed passes soon after."""
    upstream, repository = world.upstreams[name], f"team/late{scheme}"
    _, reference = pushed(upstream, repository, f"late {name} {scheme}")
    cosign.verify_in_vain(scheme, upstream.mirrored(f"{repository}:1"))
    cosign.sign(scheme, reference)
    until(lambda: cosign.is_verified(scheme, upstream.mirrored(f"{repository}:1")), "the signature's being seen")


@every_scheme
@every_upstream
@pytest.mark.proves("referrers")
def test_attestation(world: ArtifactWorld, cosign: Cosign, name: str, scheme: str) -> None:
    """An attestation is found and verified; `tree` lists it."""
    upstream, repository = world.upstreams[name], f"team/att{scheme}"
    _, reference = pushed(upstream, repository, f"att {name} {scheme}")
    cosign.attest(scheme, reference, "built by us")
    mirrored = upstream.mirrored(f"{repository}:1")
    said = cosign.verify(scheme, mirrored, "verify-attestation", "--type", "custom")
    assert json.loads(said.splitlines()[0])["payloadType"] == "application/vnd.in-toto+json"
    tree = cosign("cosign", "tree", *PLAIN, mirrored)
    assert ".att" in tree if scheme == "tags" else "via OCI referrer" in tree, tree


@every_scheme
@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_verifications(world: ArtifactWorld, cosign: Cosign, name: str, scheme: str) -> None:
    """Of fifty verifications upstream hears at most the question what is attached by now: nothing is fetched again."""
    upstream, repository = world.upstreams[name], f"team/warm{scheme}"
    _, reference = pushed(upstream, repository, f"warm {name} {scheme}")
    cosign.sign(scheme, reference)
    mirrored = upstream.mirrored(f"{repository}:1")
    cosign.verify(scheme, mirrored)
    before = len(world.asked(repository))
    for _ in range(50):
        cosign.verify(scheme, mirrored)
    fetched = [each for each in world.asked(repository)[before:] if "/referrers/" not in each and "sha256-" not in each]
    assert fetched == []


@every_scheme
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, cosign: Cosign, scheme: str) -> None:
    """When the tag moves to an image that nobody signed, the pinned one goes on being verified."""
    upstream, repository = world.upstreams["plain.example.com"], f"team/moved{scheme}"
    app, reference = pushed(upstream, repository, f"before {scheme}")
    cosign.sign(scheme, reference)
    cosign.verify(scheme, upstream.mirrored(f"{repository}:1"))
    pushed(upstream, repository, f"after {scheme}")
    cosign.verify_in_vain(scheme, upstream.direct(f"{repository}:1"))
    (found,) = json.loads(cosign.verify(scheme, upstream.mirrored(f"{repository}:1")))
    assert found["critical"]["image"]["docker-manifest-digest"] == app.digest


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, cosign: Cosign, name: str) -> None:
    """A refused tag fails with DENIED and our words, and upstream is not asked."""
    said = cosign.verify_in_vain("bundles", world.upstreams[name].mirrored(f"{REFUSED}:1"))
    assert "refused by the tag rule" in said, said
    assert "DENIED" in said, said
    assert world.asked(REFUSED) == []


@every_scheme
@pytest.mark.proves("referrers")
def test_while_upstream_is_down(cosign: Cosign, tmp_path: Path, scheme: str) -> None:
    """What was verified once is verified while upstream is gone; what was never seen is not."""
    with ArtifactWorld(tmp_path / "world") as world:
        upstream = world.upstreams["plain.example.com"]
        for repository in ("team/seen", "team/unseen"):
            cosign.sign(scheme, pushed(upstream, repository, repository)[1])
        cosign.verify(scheme, upstream.mirrored("team/seen:1"))
        world.proxy.wait_for_clean_ingest()
        world.registry.stop()
        cosign.verify(scheme, upstream.mirrored("team/seen:1"))
        cosign.verify_in_vain(scheme, upstream.mirrored("team/unseen:1"))
