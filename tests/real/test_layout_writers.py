"""What other tools write is taken in by iarproxy, and is served with the same digests.

A docker-archive has no digest of its own image: there config and layers are compared.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts import Tools
from carried import Carried, called, carried
from client import Client, Place, good
from client_containerd import Ctr
from client_docker import Docker
from client_podman import Podman, Skopeo
from layers import digest_of
from machine import Proxy
from shelf import Shelf

pytestmark = [pytest.mark.xdist_group("layout-writers"), pytest.mark.timeout(300)]
NOWHERE = Place("", 9, 9)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carried]:
    with Shelf() as shelf:
        yield carried(tmp_path_factory.mktemp("layouts") / "mirror", shelf)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Proxy]:
    """A mirror whose upstreams are not there."""
    made = Proxy(tmp_path / "site", 9, workers=1)
    yield made
    if made.started:
        made.stop()


def taken_in(site: Proxy, path: Path, *options: str) -> dict[str, str]:
    """Import an archive; the digests that its names are pinned to."""
    answer = site.command("layout", "import", str(path), "--reason", "carried over", "--json", *options)
    assert answer.status == 0, answer.body.decode() + answer.headers["stderr"]
    return {each["reference"]: each["digest"] for each in answer.json["new"]}


def pulled(site: Proxy, name: str) -> dict[str, Any]:
    """Pull an image with all of its platforms from `serve`, checking every digest; its document and digest."""
    if not site.started:
        site.start()
    answer = site.get(f"/v2/docker.io/library/{name}/manifests/1")
    assert answer.status == 200, answer.body
    return _checked(site, name, answer.body) | {"digest": digest_of(answer.body)}


def _checked(site: Proxy, name: str, raw: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(raw)
    for kind, listed in (
        ("manifests", document.get("manifests", [])),
        ("blobs", [*([document["config"]] if "config" in document else []), *document.get("layers", [])]),
    ):
        for each in listed:
            got = site.get(f"/v2/docker.io/library/{name}/{kind}/{each['digest']}")
            assert (200, each["digest"]) == (got.status, digest_of(got.body))
            if kind == "manifests":
                _checked(site, name, got.body)
    return document


def parts(document: dict[str, Any]) -> list[str]:
    """The digests of config and layers."""
    return [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]


def original(world: Carried, name: str) -> dict[str, Any]:
    """The image for linux/amd64 as the registry has it."""
    document: dict[str, Any] = json.loads(world.shelf.repositories[f"library/{name}"].manifests[world.amd64(name)][1])
    return document


def diff_ids(world: Carried, name: str) -> list[str]:
    """The digests of its config and its uncompressed layers."""
    config = original(world, name)["config"]["digest"]
    found: list[str] = json.loads(world.shelf.repositories[f"library/{name}"].blobs[config])["rootfs"]["diff_ids"]
    return [config, *found]


def loaded(world: Carried, podman: Client, *names: str) -> None:
    for name in names:
        policy = podman.folder / "policy.json"
        good(podman.run("podman", "load", "--signature-policy", policy, "-i", world.archive(name)))


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("name", ["plain", "both", "zstd"])
def test_skopeo_oci(world: Carried, site: Proxy, tmp_path: Path, name: str) -> None:
    """`skopeo copy --all` to an OCI archive and to a folder."""
    with Skopeo(NOWHERE) as skopeo:
        assert isinstance(skopeo, Skopeo)
        source = f"oci-archive:{world.archive(name)}"
        good(skopeo.skopeo("copy", "--all", source, f"oci-archive:{tmp_path}/made.tar:{called(name)}"))
        good(skopeo.skopeo("copy", "--all", source, f"oci:{tmp_path}/made:{name}:1"))
    assert {called(name): world.digests[name]} == taken_in(site, tmp_path / "made.tar")
    assert {} == taken_in(site, tmp_path / "made")
    assert world.digests[name] == pulled(site, name)["digest"]


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("name", ["plain", "docker"])
def test_skopeo_docker_archive(world: Carried, site: Proxy, tmp_path: Path, name: str) -> None:
    """`skopeo copy` to a docker-archive, also where that was compressed afterwards."""
    with Skopeo(NOWHERE) as skopeo:
        assert isinstance(skopeo, Skopeo)
        source = f"oci-archive:{world.archive(name)}"
        good(skopeo.skopeo("copy", source, f"docker-archive:{tmp_path}/made.tar:{name}:1"))
    packed = tmp_path / "made.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "made.tar").read_bytes()))
    (digest,) = taken_in(site, packed).values()
    assert {} == taken_in(site, tmp_path / "made.tar")
    document = pulled(site, name)
    assert (digest, diff_ids(world, name)) == (document["digest"], parts(document))


@pytest.mark.real("podman")
def test_podman_save(world: Carried, site: Proxy, tmp_path: Path) -> None:
    """`podman save` of several images to a docker-archive, and of one to an OCI archive and a folder."""
    with Podman(NOWHERE) as podman:
        loaded(world, podman, "plain", "docker")
        save = ["podman", "save", "--quiet"]
        names = [called("plain"), called("docker")]
        good(podman.run(*save, "--multi-image-archive", "-o", tmp_path / "two.tar", *names))
        good(podman.run(*save, "--format", "oci-archive", "-o", tmp_path / "oci.tar", called("plain")))
        good(podman.run(*save, "--format", "oci-dir", "-o", tmp_path / "oci", called("plain")))
    assert set(names) == set(taken_in(site, tmp_path / "two.tar"))
    for name in ("plain", "docker"):
        assert diff_ids(world, name) == parts(pulled(site, name))
    again = ["--name", "docker.io/library/again:1"]
    (digest,) = taken_in(site, tmp_path / "oci.tar", *again).values()
    assert {} == taken_in(site, tmp_path / "oci", *again)
    assert digest == pulled(site, "again")["digest"]


@pytest.mark.root
@pytest.mark.real("docker", "dockerd")
def test_docker_save(world: Carried, site: Proxy, tmp_path: Path) -> None:
    """`docker save` of several images, with whichever form this docker writes."""
    archive = world.archive("plain", "docker", format="docker-archive", platform="linux/amd64")
    with Docker(NOWHERE) as docker:
        assert isinstance(docker, Docker)
        good(docker._docker("load", "--input", str(archive)))
        good(docker._docker("save", "--output", str(tmp_path / "saved.tar"), "plain:1", "docker:1"))
    assert {called("plain"), called("docker")} == set(taken_in(site, tmp_path / "saved.tar"))
    for name in ("plain", "docker"):
        assert diff_ids(world, name) == parts(pulled(site, name))


@pytest.mark.real("crane")
def test_crane_pull(world: Carried, site: Proxy, tools: Tools, tmp_path: Path) -> None:
    """`crane pull` to an OCI layout, which has no names, and to tarballs, which have those of the registry."""
    registry = f"127.0.0.1:{world.shelf.port}/library"
    for name in ("both", "list"):
        tools("crane", "pull", "--format", "oci", f"{registry}/{name}:1", str(tmp_path / name))
        assert {called(name): world.digests[name]} == taken_in(site, tmp_path / name, "--name", called(name))
        assert world.digests[name] == pulled(site, name)["digest"]
    site.stop()
    for form in ("tarball", "legacy"):
        target = tmp_path / f"{form}.tar"
        tools("crane", "pull", "--format", form, f"{registry}/plain:1", str(target))
        name = f"plain-{form}"
        site.command("layout", "import", str(target), "--reason", "x", "--name", called(name))
    site.start()
    assert parts(original(world, "plain")) == parts(pulled(site, "plain-tarball"))
    assert diff_ids(world, "plain") == parts(pulled(site, "plain-legacy"))


@pytest.mark.root
@pytest.mark.real("containerd", "ctr")
def test_ctr_export(world: Carried, site: Proxy, tmp_path: Path) -> None:
    """`ctr images export` of several images with all platforms, and of one platform, whose index lacks the others."""
    with Ctr(NOWHERE) as ctr:
        command = ["ctr", "--address", str(ctr.folder / "ctd.sock"), "images"]
        archive = world.archive("both", "list", "docker")
        good(ctr.run(*command, "import", "--snapshotter", "native", "--all-platforms", archive))
        names = [called(name) for name in ("both", "list", "docker")]
        good(ctr.run(*command, "export", "--platform", "linux/amd64", tmp_path / "narrow.tar", called("both")))
        good(ctr.run(*command, "export", "--all-platforms", tmp_path / "all.tar", *names))
    assert {called("both"): world.digests["both"]} == taken_in(site, tmp_path / "narrow.tar")
    assert {called(name): world.digests[name] for name in ("list", "docker")} == taken_in(site, tmp_path / "all.tar")
    for name in ("both", "list", "docker"):
        assert world.digests[name] == pulled(site, name)["digest"]


@pytest.mark.real("regctl")
def test_regctl_export(world: Carried, site: Proxy, tools: Tools, tmp_path: Path) -> None:
    """`regctl image export`, which keeps the registry's name, moved to the name that it has here."""
    registry = f"127.0.0.1:{world.shelf.port}"
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    for name in ("both", "list", "zstd"):
        target = tmp_path / f"{name}.tar"
        tools("regctl", "image", "export", f"{registry}/library/{name}:1", str(target))
        repository = f"docker.io/library/{name}"
        assert {called(name): world.digests[name]} == taken_in(site, target, "--name", repository)
    for name in ("both", "list", "zstd"):
        assert world.digests[name] == pulled(site, name)["digest"]


@pytest.mark.real("oras", "regctl")
@pytest.mark.parametrize("how", ["oras backup", "oras cp", "regctl copy"])
def test_referrers_come_along(world: Carried, site: Proxy, tools: Tools, tmp_path: Path, how: str) -> None:
    """An SBOM of an index, which oras lists without a name and regctl under the fallback tag, is found here too."""
    registry, target = f"127.0.0.1:{world.shelf.port}", tmp_path / "made"
    (tmp_path / "sbom.json").write_text(f'"{how}"')
    image = f"{registry}/library/both:1"
    attach = ["oras", "attach", "--plain-http", "--disable-path-validation", "--artifact-type", "application/spdx+json"]
    tools(*attach, image, str(tmp_path / "sbom.json"))
    if how == "oras backup":
        tools("oras", "backup", "--plain-http", "--include-referrers", "-o", str(target), image)
    elif how == "oras cp":
        tools("oras", "cp", "-r", "--from-plain-http", "--to-oci-layout", image, f"{target}:1")
    else:
        tools("regctl", "registry", "set", registry, "--tls", "disabled")
        tools("regctl", "image", "copy", "--referrers", image, f"ocidir://{target}:1")
    assert {called("both"): world.digests["both"]} == taken_in(site, target, "--name", "docker.io/library/both")
    pulled(site, "both")
    listed = site.get(f"/v2/docker.io/library/both/referrers/{world.digests['both']}").json["manifests"]
    expected = world.shelf.repositories["library/both"].referrers(world.digests["both"], [])
    assert {each["digest"] for each in expected} == {each["digest"] for each in listed}
    assert {"application/spdx+json"} == {each["artifactType"] for each in listed}
    discover = ["oras", "discover", "--plain-http", "--format", "json"]
    said = tools(*discover, f"127.0.0.1:{site.port}/docker.io/library/both:1")
    assert len(expected) == said.count("application/spdx+json")
