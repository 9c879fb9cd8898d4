"""Other tools read what iarproxy writes: the volumes of bundles, and exports, each compared by digest.

What a tool itself cannot do is a test as well, so that it shows when that changes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import Tools
from carried import IMAGES, Carried, called, carried, members, unpacked
from client import Client, Place, good
from client_containerd import Ctr
from client_docker import Docker
from client_podman import Podman, Skopeo
from layers import digest_of
from shelf import Shelf

pytestmark = [pytest.mark.xdist_group("layout-readers"), pytest.mark.timeout(300)]
NOWHERE = Place("", 9, 9)
OCI = ("plain", "both", "zstd")  # of OCI media types
INDEXES = ("both", "list")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carried]:
    folder = tmp_path_factory.mktemp("layouts")
    with Shelf() as shelf:
        made = carried(folder / "mirror", shelf)
        subprocess.run([sys.executable, "-m", "iarproxy", "keys", "create", "team"], cwd=folder, check=True, timeout=60)
        for name in ("whole", "one", "narrow"):
            made.done("sync", name, "--sets", folder / "mirror/sets.toml")
            create = ["bundle", "create", name, "--sets", folder / "mirror/sets.toml", "--key", folder / "team.key"]
            made.done(*create, "--full", "-o", folder / name)
        yield made


def volume(world: Carried, name: str) -> Path:
    """The one volume of a bundle."""
    return world.mirror.folder.parent / name / "volume-001.tar"


@pytest.fixture(params=["bundle", "export"])
def whole(world: Carried, request: pytest.FixtureRequest) -> Path:
    """One archive of all images."""
    if request.param == "bundle":
        return volume(world, "whole")
    return world.archive(*IMAGES)


@pytest.fixture(params=["bundle", "export"])
def one(world: Carried, request: pytest.FixtureRequest) -> Path:
    """An archive of one index."""
    return volume(world, "one") if request.param == "bundle" else world.archive("both")


@pytest.fixture(params=["bundle", "export"])
def narrow(world: Carried, request: pytest.FixtureRequest) -> Path:
    """An archive of an index with one of its two platforms."""
    if request.param == "bundle":
        return volume(world, "narrow")
    return world.archive("both", platform="linux/amd64")


@pytest.fixture(scope="module")
def ctr() -> Iterator[Client]:
    with Ctr(NOWHERE) as made:
        yield made


def test_what_is_no_image_is_not_listed(world: Carried) -> None:
    """An artifact travels, and stands in the full index; readers of images do not meet it."""
    folder = unpacked(volume(world, "whole"), world.mirror.folder.parent / "looked-at")
    listed = {each["annotations"]["io.containerd.image.name"] for each in _entries(folder / "index.json")}
    full = {each["annotations"]["io.containerd.image.name"] for each in _entries(folder / "iarproxy/index-full.json")}
    assert ({called(name) for name in IMAGES}, {called("thing")}) == (listed, full - listed)


def _entries(index: Path) -> list[dict[str, dict[str, str]]]:
    return list(json.loads(index.read_text())["manifests"])


# --- skopeo ----------------------------------------------------------------------------------------------------------


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("name", OCI)
def test_skopeo_copies_by_name(world: Carried, whole: Path, tmp_path: Path, name: str) -> None:
    """`skopeo copy --all oci-archive:FILE:NAME`, of many images in one archive."""
    with Skopeo(NOWHERE) as skopeo:
        assert isinstance(skopeo, Skopeo)
        good(skopeo.skopeo("copy", "--all", f"oci-archive:{whole}:{called(name)}", f"dir:{tmp_path}/out"))
    assert world.digests[name] == digest_of((tmp_path / "out/manifest.json").read_bytes())


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("name", ["docker", "list"])
def test_skopeo_copies_docker_types(world: Carried, tmp_path: Path, name: str) -> None:
    """Content of Docker's types skopeo finds only where it is alone: it looks for names among OCI's types."""
    alone, many = world.archive(name), world.archive(name, "plain")
    with Skopeo(NOWHERE) as skopeo:
        assert isinstance(skopeo, Skopeo)
        good(skopeo.skopeo("copy", "--all", f"oci-archive:{alone}", f"dir:{tmp_path}/out"))
        refused = skopeo.skopeo("copy", "--all", f"oci-archive:{many}:{called(name)}", f"dir:{tmp_path}/no")
        assert (False, True) == (refused.done, "no descriptor found" in refused.said)
    assert world.digests[name] == digest_of((tmp_path / "out/manifest.json").read_bytes())


@pytest.mark.real("skopeo")
def test_skopeo_copies_a_platform(world: Carried, narrow: Path, tmp_path: Path) -> None:
    """Of an index without some of its children it copies this machine's image; with --all it misses the others."""
    with Skopeo(NOWHERE) as skopeo:
        assert isinstance(skopeo, Skopeo)
        source = f"oci-archive:{narrow}:{called('both')}"
        refused = skopeo.skopeo("copy", "--all", source, f"dir:{tmp_path}/no")
        amd64: list[str | Path] = ["--override-arch", "amd64", "--policy", skopeo.folder / "policy.json"]
        good(skopeo.run("skopeo", *amd64, "copy", source, f"dir:{tmp_path}/out"))
    assert (world.amd64("both"), False) == (digest_of((tmp_path / "out/manifest.json").read_bytes()), refused.done)


# --- podman ----------------------------------------------------------------------------------------------------------


@pytest.mark.real("podman")
@pytest.mark.parametrize("name", IMAGES)
def test_podman_loads(world: Carried, tmp_path: Path, name: str) -> None:
    """`podman load` of an archive of one image; the image has its name and digest."""
    archive = world.archive(name)
    with Podman(NOWHERE) as podman:
        good(podman.run("podman", "load", "--signature-policy", podman.folder / "policy.json", "-i", archive))
        assert world.digests[name] == podman.digest(called(name))


@pytest.mark.real("podman")
@pytest.mark.parametrize("kind", ["one", "narrow"])
def test_podman_loads_bundles(world: Carried, kind: str) -> None:
    """The volume of a bundle of one image, also where the index lacks other platforms."""
    with Podman(NOWHERE) as podman:
        policy = podman.folder / "policy.json"
        good(podman.run("podman", "load", "--signature-policy", policy, "-i", volume(world, kind)))
        assert world.digests["both"] == podman.digest(called("both"))


@pytest.mark.real("podman")
def test_podman_pulls_by_name(world: Carried, whole: Path) -> None:
    """`podman load` takes no OCI archive of several images; `podman pull oci-archive:FILE:NAME` takes one of them."""
    with Podman(NOWHERE) as podman:
        policy = podman.folder / "policy.json"
        assert not podman.run("podman", "load", "--signature-policy", policy, "-i", whole).done
        for name in OCI:
            source = f"oci-archive:{whole}:{called(name)}"
            good(podman.run("podman", "pull", "--quiet", "--signature-policy", policy, source))
            assert world.digests[name] == podman.digest(called(name))


# --- containerd ------------------------------------------------------------------------------------------------------


def images_of(ctr: Client, namespace: str, archive: Path, *options: str) -> dict[str, str]:
    """What an import makes of an archive: the digest of each name."""
    assert isinstance(ctr, Ctr)
    command = ["ctr", "--address", str(ctr.folder / "ctd.sock"), "--namespace", namespace, "images"]
    good(ctr.run(*command, "import", "--snapshotter", "native", *options, archive))
    rows = ctr.run(*command, "ls").answer.splitlines()[1:]
    return {row.split()[0]: row.split()[2] for row in rows}


@pytest.mark.root
@pytest.mark.real("containerd", "ctr")
@pytest.mark.parametrize("options", [(), ("--all-platforms",)])
def test_ctr_imports(world: Carried, ctr: Client, whole: Path, options: tuple[str, ...]) -> None:
    """`ctr images import` of all images at once, with their names, and the digests of their indexes."""
    found = images_of(ctr, f"{whole.parent.name}-{len(options)}-{whole.stem}", whole, *options)
    assert {called(name): world.digests[name] for name in IMAGES} == found


@pytest.mark.root
@pytest.mark.real("containerd", "ctr")
def test_ctr_imports_a_platform(world: Carried, ctr: Client, narrow: Path) -> None:
    """An index without other platforms keeps its digest; --all-platforms misses them."""
    space = f"narrow-{narrow.parent.name}"
    assert {called("both"): world.digests["both"]} == images_of(ctr, space, narrow)
    with pytest.raises(AssertionError, match="not found"):
        images_of(ctr, f"{space}-all", narrow, "--all-platforms")


# --- docker ----------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.real("docker", "dockerd")
def test_docker_loads(world: Carried) -> None:
    """`docker load` of a docker-archive of one platform; config and layers are the registry's."""
    one_platform = {"format": "docker-archive", "platform": "linux/amd64"}
    archive = world.archive("plain", "docker", "both", **one_platform)
    assert {"manifest.json", "index.json", "oci-layout"} < set(members(archive))
    with Docker(NOWHERE) as docker:
        assert isinstance(docker, Docker)
        good(docker._docker("load", "--input", str(archive)))
        for name in ("plain", "docker", "both"):
            manifest = world.shelf.repositories[f"library/{name}"].manifests[world.amd64(name)][1]
            found = docker._docker("image", "inspect", "--format", "{{.Id}}", f"{name}:1")
            assert json.loads(manifest)["config"]["digest"] == found.answer.strip()


# --- crane, oras, regctl ---------------------------------------------------------------------------------------------


def kept(world: Carried, repository: str) -> set[str]:
    """The digests of manifests that were pushed to a repository."""
    return set(world.shelf.repositories[repository].manifests)


@pytest.mark.real("crane")
@pytest.mark.parametrize("name", IMAGES)
def test_crane_pushes(world: Carried, tools: Tools, tmp_path: Path, name: str) -> None:
    """`crane push FOLDER` of one image."""
    folder = world.archive(name, format="oci")
    target = f"pushed/crane-{name}"
    tools("crane", "push", str(folder), f"127.0.0.1:{world.shelf.port}/{target}:1")
    assert world.digests[name] == world.shelf.repositories[target].tags["1"]


@pytest.mark.real("crane")
def test_crane_pushes_all(world: Carried, tools: Tools, tmp_path: Path, whole: Path) -> None:
    """`crane push --index` of everything in an archive."""
    folder, target = unpacked(whole, tmp_path / "folder"), f"pushed/crane-{whole.parent.name}"
    tools("crane", "push", "--index", str(folder), f"127.0.0.1:{world.shelf.port}/{target}:1")
    assert {world.digests[name] for name in IMAGES} <= kept(world, target)


@pytest.mark.real("oras")
@pytest.mark.parametrize("name", IMAGES)
def test_oras_copies(world: Carried, tools: Tools, tmp_path: Path, whole: Path, name: str) -> None:
    """`oras cp --from-oci-layout-path` by name, and `--from-oci-layout` by digest."""
    folder, registry = unpacked(whole, tmp_path / "folder"), f"127.0.0.1:{world.shelf.port}"
    target = f"pushed/oras-{name}-{whole.parent.name}"
    oras = ["oras", "cp", "--to-plain-http"]
    tools(*oras, "--from-oci-layout-path", str(folder), called(name), f"{registry}/{target}:1")
    assert world.digests[name] == world.shelf.repositories[target].tags["1"]
    source = f"{folder}@{world.digests[name]}"
    tools(*oras, "--from-oci-layout", source, f"{registry}/{target}:2")
    assert world.digests[name] == world.shelf.repositories[target].tags["2"]


def regctl_imports(tools: Tools, target: str, *words: str) -> None:
    """0.11.7 sends an empty body now and then for a blob that it reads from an archive, and says so: try again."""
    command = ["regctl", "image", "import", *words[:-1], target, words[-1]]
    for _ in range(5):
        said = tools.saying(*command)
        if "with Body length 0" not in said:
            break
    tools(*command)


@pytest.mark.real("regctl")
@pytest.mark.parametrize("name", IMAGES)
def test_regctl_imports(world: Carried, tools: Tools, tmp_path: Path, name: str) -> None:
    """`regctl image import` of an archive of one image."""
    archive, registry = world.archive(name), f"127.0.0.1:{world.shelf.port}"
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    regctl_imports(tools, f"{registry}/pushed/regctl-{name}:1", str(archive))
    assert world.digests[name] == world.shelf.repositories[f"pushed/regctl-{name}"].tags["1"]


@pytest.mark.real("regctl")
def test_regctl_imports_by_name(world: Carried, tools: Tools, whole: Path) -> None:
    """`regctl image import --name`, of many images in one archive."""
    registry = f"127.0.0.1:{world.shelf.port}"
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    for name in IMAGES:
        target = f"pushed/regctl-{name}-{whole.parent.name}"
        regctl_imports(tools, f"{registry}/{target}:1", "--name", called(name), str(whole))
        assert world.digests[name] == world.shelf.repositories[target].tags["1"]


@pytest.mark.real("regctl")
def test_regctl_imports_bundles(world: Carried, tools: Tools, one: Path) -> None:
    """The volume of a bundle of one image, by its full name."""
    registry, target = f"127.0.0.1:{world.shelf.port}", f"pushed/regctl-{one.parent.name}"
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    regctl_imports(tools, f"{registry}/{target}:1", "--name", called("both"), str(one))
    assert world.digests["both"] == world.shelf.repositories[target].tags["1"]


@pytest.mark.real("crane", "oras", "regctl")
def test_what_copies_whole_indexes(world: Carried, tools: Tools, tmp_path: Path, narrow: Path) -> None:
    """crane, oras and regctl refuse an index whose other platforms are missing; --flat gives them the one image."""
    registry, folder = f"127.0.0.1:{world.shelf.port}", unpacked(narrow, tmp_path / "folder")
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    oras = ["oras", "cp", "--to-plain-http", "--from-oci-layout-path"]
    tools.failing("crane", "push", str(folder), f"{registry}/refused/crane:1")
    tools.failing(*oras, str(folder), called("both"), f"{registry}/refused/oras:1")
    tools.failing("regctl", "image", "import", f"{registry}/refused/regctl:1", str(narrow))
    flat = tmp_path / "flat.tar"
    world.done("layout", "export", called("both"), "-o", flat, "--platform", "linux/amd64", "--flat")
    folder, target = unpacked(flat, tmp_path / "flat"), f"flat/{narrow.parent.name}"
    tools("crane", "push", str(folder), f"{registry}/{target}:crane")
    tools(*oras, str(folder), called("both"), f"{registry}/{target}:oras")
    regctl_imports(tools, f"{registry}/{target}:regctl", "--name", called("both"), str(flat))
    assert {world.amd64("both")} == set(world.shelf.repositories[target].tags.values())


@pytest.mark.real("oras", "regctl")
def test_referrers_are_found(world: Carried, tools: Tools, tmp_path: Path) -> None:
    """With --referrers, `oras cp -r` finds an SBOM by its subject, in an archive that regctl reads as before."""
    registry, image = f"127.0.0.1:{world.shelf.port}", "library/plain"
    (tmp_path / "sbom.json").write_text("{}")
    attach = ["oras", "attach", "--plain-http", "--disable-path-validation", "--artifact-type", "application/spdx+json"]
    tools(*attach, f"{registry}/{image}:1", str(tmp_path / "sbom.json"))
    world.done("sync", "whole", "--sets", world.mirror.folder / "sets.toml")
    archive = tmp_path / "with.tar"
    world.done("layout", "export", called("plain"), "-o", archive, "--referrers")
    (expected,) = world.shelf.repositories[image].referrers(world.digests["plain"], [])
    folder = unpacked(archive, tmp_path / "folder")
    copy = ["oras", "cp", "-r", "--to-plain-http", "--from-oci-layout-path", str(folder), called("plain")]
    tools(*copy, f"{registry}/referred/oras:1")
    assert {world.digests["plain"], expected["digest"]} <= kept(world, "referred/oras")
    tools("regctl", "registry", "set", registry, "--tls", "disabled")
    regctl_imports(tools, f"{registry}/referred/regctl:1", "--name", called("plain"), str(archive))
    assert world.digests["plain"] == world.shelf.repositories["referred/regctl"].tags["1"]
