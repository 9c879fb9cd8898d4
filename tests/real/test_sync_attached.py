"""What `iarproxy sync` brings in is verified, listed and pulled through the mirror with the upstreams gone.

Nothing is asked through the mirror before: all that it has came with the set.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import UPSTREAMS, ArtifactWorld, Upstream, two_platforms
from layers import image
from test_artifact_cosign import SCHEMES, Cosign
from test_artifact_helm import Helm
from test_artifact_oras import SBOM, Oras

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "cosign", "oras"),
]


def synced(world: ArtifactWorld, *lines: str) -> None:
    """Write a set of these lines, and sync it."""
    sets = world.folder / "sets.toml"
    sets.write_text("\n".join(('[[set]]\nname = "site"', *lines)))
    ran = world.proxy.command("sync", "site", "--sets", str(sets), "--json")
    assert ran.status == 0, f"{ran.body.decode()}{ran.headers['stderr']}"
    world.proxy.wait_for_clean_ingest()


def without_upstreams(world: ArtifactWorld) -> None:
    """From here on there is only the mirror."""
    world.registry.stop()
    world.shelf.stop()


def sboms(oras: Oras, reference: str) -> list[str]:
    """The SBOMs that refer to it."""
    return oras.discover(reference, "--artifact-type", SBOM)


def test_signatures_and_sboms_without_upstream(tmp_path: Path) -> None:
    """An index, its child of the wanted platform, an image; signed both ways, with SBOMs that are signed themselves."""
    cosign, oras = Cosign(tmp_path / "cosign"), Oras(tmp_path)
    with ArtifactWorld(tmp_path / "world") as world:
        attached = {name: _furnished(world.upstreams[name], cosign, oras) for name in UPSTREAMS}
        names = [f'"{name}/team/{each}:1"' for name in UPSTREAMS for each in ("tags", "bundles", "both")]
        synced(world, f"references = [{', '.join(names)}]", 'platforms = ["linux/amd64"]')
        without_upstreams(world)
        for name, (sbom, child, data) in attached.items():
            upstream = world.upstreams[name]
            for scheme in SCHEMES:
                cosign.verify(scheme, upstream.mirrored(f"team/{scheme}:1"))
                cosign.verify(scheme, upstream.mirrored("team/both:1"))
                cosign.verify(scheme, upstream.mirrored(f"team/both@{child}"))
                cosign.verify(scheme, upstream.mirrored(f"team/both@{sbom}"))
            said = cosign.verify(
                "bundles", upstream.mirrored("team/bundles:1"), "verify-attestation", "--type", "custom"
            )
            assert json.loads(said.splitlines()[0])["payloadType"] == "application/vnd.in-toto+json"
            assert [sbom] == sboms(oras, upstream.mirrored(f"team/both@{child}"))
            (oras.folder / "file.bin").unlink()
            assert data == oras.pull(upstream.mirrored(f"team/both@{sbom}"))


def _furnished(upstream: Upstream, cosign: Cosign, oras: Oras) -> tuple[str, str, bytes]:
    """Push and sign; an SBOM, the manifest it refers to, and what is in it."""
    for scheme in SCHEMES:
        pushed = upstream.push(f"team/{scheme}", "1", image(f"{upstream.name} {scheme}"))
        cosign.sign(scheme, upstream.direct(f"team/{scheme}@{pushed.digest}"))
    cosign.attest("bundles", upstream.direct(f"team/bundles@{pushed.digest}"), "built by us")
    digest, (amd, _) = two_platforms(upstream, "team/both", "1")
    data = f"what is in it, at {upstream.name}".encode()
    sbom = oras.attach(upstream, f"team/both@{amd.digest}", SBOM, data)
    for scheme in SCHEMES:
        for each in (digest, amd.digest, sbom):
            cosign.sign(scheme, upstream.direct(f"team/both@{each}"))
    return sbom, amd.digest, data


@pytest.mark.real("helm")
def test_a_chart_with_its_images_without_upstream(tmp_path: Path) -> None:
    """The chart is pulled, and so is every image that it names; a signature of the chart is verified."""
    helm, cosign = Helm(tmp_path), Cosign(tmp_path / "cosign")
    (tmp_path / "pulled").mkdir()
    (tmp_path / "app/templates").mkdir(parents=True)
    (tmp_path / "app/templates/pod.yaml").write_text(
        "kind: Pod\nspec: {containers: [{name: app, image: 'plain.example.com/team/app:7'}]}\n"
    )
    with ArtifactWorld(tmp_path / "world") as world:
        shelf, plain = (world.upstreams[name] for name in ("shelf.example.com", "plain.example.com"))
        app = plain.push("team/app", "7", image("of the chart"))
        package = helm.push(shelf, "charts", "1.0.0")
        digest = json.loads(
            helm("oras", "manifest", "fetch", "--plain-http", "--descriptor", shelf.direct("charts/app:1.0.0"))
        )
        cosign.sign("bundles", shelf.direct(f"charts/app@{digest['digest']}"))
        synced(world, 'charts = ["oci://shelf.example.com/charts/app:1.0.0"]')
        without_upstreams(world)
        assert helm.pull(shelf.mirrored("charts/app"), "--version", "1.0.0") == {"app-1.0.0.tgz": package}
        cosign.verify("bundles", shelf.mirrored("charts/app:1.0.0"))
        answer = world.proxy.get("/v2/plain.example.com/team/app/manifests/7")
        assert (200, app.digest) == (answer.status, answer.headers["docker-content-digest"])
