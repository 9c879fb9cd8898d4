"""notation signs at the upstream and verifies through the mirror, by referrers and by their fallback tag."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, Upstream, every_upstream
from layers import Image, image
from processes import until

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "notation"),
    pytest.mark.client("notation", "notation", "version"),
    pytest.mark.lacks("mirror mode", "it has no mirror setting"),
    pytest.mark.lacks("strict mode", "it asks nobody but the registry that is named"),
    pytest.mark.lacks("resume", "signatures are small; a failed look is repeated whole"),
]
POLICY = {
    "version": "1.0",
    "trustPolicies": [
        {
            "name": "test",
            "registryScopes": ["*"],
            "signatureVerification": {"level": "strict"},
            "trustStores": ["ca:test.example.com"],
            "trustedIdentities": ["*"],
        }
    ],
}


class Notation(Tools):
    """notation with one key, and a policy that trusts it alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self("notation", "cert", "generate-test", "--default", "test.example.com")
        (folder / "policy.json").write_text(json.dumps(POLICY))
        self("notation", "policy", "import", folder / "policy.json")

    def sign(self, upstream: Upstream, repository: str, signed: Image) -> None:
        """Sign at the upstream itself, in the way that it has for attachments."""
        by_tag = f"--force-referrers-tag={'true' if upstream.name.startswith('plain') else 'false'}"
        reference = upstream.direct(f"{repository}@{signed.digest}")
        self("notation", "sign", "--insecure-registry", by_tag, reference)


@pytest.fixture
def notation(tmp_path: Path) -> Notation:
    return Notation(tmp_path)


def verify(reference: str) -> list[str]:
    return ["notation", "verify", "--insecure-registry", reference]


@every_upstream
@pytest.mark.proves("explicit name", "tag", "digest", "referrers", "media types")
def test_verify(world: ArtifactWorld, notation: Notation, name: str) -> None:
    """A signature is found through the mirror, by tag and by digest, and listed."""
    upstream = world.upstreams[name]
    app = upstream.push("team/signed", "1", image(name))
    notation.sign(upstream, "team/signed", app)
    for wanted in ("team/signed:1", f"team/signed@{app.digest}"):
        assert app.digest in notation(*verify(upstream.mirrored(wanted)))
    listed = notation("notation", "list", "--insecure-registry", upstream.mirrored("team/signed:1"))
    assert "application/vnd.cncf.notary.signature" in listed


@every_upstream
@pytest.mark.proves("referrers")
def test_signed_after_the_first_look(world: ArtifactWorld, notation: Notation, name: str) -> None:
    """An image without a signature does not pass, and passes soon after it is signed."""
    upstream = world.upstreams[name]
    app = upstream.push("team/late", "1", image(f"late {name}"))
    reference = upstream.mirrored("team/late:1")
    assert "no signature is associated" in notation.failing(*verify(reference))
    notation.sign(upstream, "team/late", app)
    until(lambda: "Successfully verified" in notation.saying(*verify(reference)), "the signature's being seen")


@every_upstream
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, notation: Notation, name: str) -> None:
    """When the tag moves to an image that nobody signed, the pinned one goes on being verified."""
    upstream = world.upstreams[name]
    app = upstream.push("team/moved", "1", image(f"before {name}"))
    notation.sign(upstream, "team/moved", app)
    assert app.digest in notation(*verify(upstream.mirrored("team/moved:1")))
    upstream.push("team/moved", "1", image(f"after {name}"))
    notation.failing(*verify(upstream.direct("team/moved:1")))
    assert app.digest in notation(*verify(upstream.mirrored("team/moved:1")))


@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_verifications(world: ArtifactWorld, notation: Notation, name: str) -> None:
    """Of fifty verifications upstream hears at most the question what is attached by now: nothing is fetched again."""
    upstream = world.upstreams[name]
    notation.sign(upstream, "team/warm", upstream.push("team/warm", "1", image(f"warm {name}")))
    reference = upstream.mirrored("team/warm:1")
    notation(*verify(reference))
    before = len(world.asked("team/warm"))
    for _ in range(50):
        notation(*verify(reference))
    asked = world.asked("team/warm")[before:]
    assert [each for each in asked if "/referrers/" not in each and "sha256-" not in each] == []


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, notation: Notation, name: str) -> None:
    """A refused tag fails with 403, to a HEAD, so without our words; and upstream is not asked."""
    said = notation.failing(*verify(world.upstreams[name].mirrored(f"{REFUSED}:1")))
    assert "403: Forbidden" in said, said
    assert world.asked(REFUSED) == []
