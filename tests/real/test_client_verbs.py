"""What single clients do beyond a pull: builds, synchronisation, layouts, artifacts, layers in parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mixed
from client import good
from client_containerd import Ctr, CtrInParts
from client_podman import Buildah, Skopeo
from layers import image
from matrix import clients
from stage import Stage

pytestmark = pytest.mark.timeout(300)
PART = 1 << 20


@clients(lambda row, suite: row.driver is CtrInParts)
@pytest.mark.proves("media types", "resume")
def test_layers_in_parts(stage: Stage, client: CtrInParts, name: str) -> None:
    """Open-ended ranges, four at a time, each hung up on after its part: upstream sends the cold layer once."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name, 12 * PART))
    layer = pushed.layers[1]
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) == pushed.digest
    asked = [head for head in stage.front.heads if layer in head]
    assert len({found[1] for head in asked if (found := re.search(r"(?i)range: bytes=(\d+)-\r", head))}) > 6
    assert stage.back.requests[layer] == 1
    assert stage.back.passed[layer] < 12 * PART * 1.1
    assert stage.strayed() == []


@clients(lambda row, suite: row.driver is Ctr)
@pytest.mark.proves("media types")
def test_fetch_an_artifact(stage: Stage, client: Ctr, name: str) -> None:
    """`ctr content fetch` takes what is no image."""
    (digest,) = mixed.artifact(stage.registry, f"library/{name}")
    good(client.fetch(client.mirrored(name)))
    assert digest in client.content()
    assert stage.strayed() == []


@clients(lambda row, suite: row.driver is Buildah)
@pytest.mark.proves("mirror mode")
def test_build(stage: Stage, client: Buildah, name: str) -> None:
    """`buildah bud` with a base image that comes from the mirror."""
    stage.registry.push(f"library/{name}", "1", image(name))
    good(client.build(client.mirrored(name)))
    assert stage.asked(f"library/{name}/manifests/1") != []
    assert stage.strayed() == []


skopeo = clients(lambda row, suite: row.driver is Skopeo)


@skopeo
@pytest.mark.proves("media types")
def test_copy_an_artifact(stage: Stage, client: Skopeo, name: str) -> None:
    """`skopeo copy` of what is no image."""
    (digest,) = mixed.artifact(stage.registry, f"library/{name}")
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) == digest


@skopeo
@pytest.mark.proves("media types", "mirror mode")
def test_copy_all(stage: Stage, client: Skopeo, name: str, tmp_path: Path) -> None:
    """`skopeo copy --all`: the index and every platform, byte for byte."""
    digests = mixed.platforms(stage.registry, f"library/{name}")
    good(client.skopeo("copy", "--all", f"docker://{client.mirrored(name)}", f"oci:{client.folder}/all:t"))
    blobs = {f"sha256:{each.name}" for each in (client.folder / "all/blobs/sha256").iterdir()}
    assert digests <= blobs
    assert len(blobs) == 1 + 2 * 4  # the index; manifest, config and two layers of both
    assert stage.strayed() == []


@skopeo
@pytest.mark.proves("explicit name")
def test_sync(stage: Stage, client: Skopeo, name: str) -> None:
    """`skopeo sync` of all tags of a repository into a folder."""
    pushed = {tag: stage.registry.push(f"library/{name}", tag, image(f"{name} {tag}")) for tag in ("1", "2")}
    wanted, folder = client.explicit(name, ""), client.folder / "synced"
    good(client.skopeo("sync", "--src-tls-verify=false", "--src", "docker", "--dest", "dir", wanted, folder))
    found = {each.read_bytes() for each in folder.rglob("manifest.json")}
    assert found == {each.manifest for each in pushed.values()}
    assert stage.strayed() == []


@skopeo
@pytest.mark.proves("mirror mode")
def test_inspect(stage: Stage, client: Skopeo, name: str) -> None:
    """`skopeo inspect --no-tags` asks the mirror; with tags it would ask the real registry for those."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name))
    seen = client.skopeo("inspect", "--no-tags", f"docker://{client.mirrored(name)}")
    good(seen)
    assert json.loads(seen.answer)["Digest"] == pushed.digest
    assert stage.strayed() == []


@skopeo
@pytest.mark.proves("explicit name")
def test_list_tags(stage: Stage, client: Skopeo, name: str) -> None:
    """`skopeo list-tags`."""
    for tag in ("1", "2"):
        stage.registry.push(f"library/{name}", tag, image(name))
    seen = client.skopeo("list-tags", "--tls-verify=false", f"docker://{client.explicit(name, '')}")
    good(seen)
    assert json.loads(seen.answer)["Tags"] == ["1", "2"]


@skopeo
@pytest.mark.real("umoci")
@pytest.mark.root
@pytest.mark.proves("media types")
def test_umoci(stage: Stage, client: Skopeo, name: str) -> None:
    """`umoci unpack` of the layout that was copied: removed files are gone."""
    mixed.removals(stage.registry, f"library/{name}")
    layout, bundle = client.folder / f"layout-{name}", client.folder / f"bundle-{name}"
    good(client.skopeo("copy", f"docker://{client.mirrored(name)}", f"oci:{layout}:t"))
    good(client.run("umoci", "unpack", "--image", f"{layout}:t", bundle))
    files = {str(each.relative_to(bundle / "rootfs")) for each in (bundle / "rootfs").rglob("*") if each.is_file()}
    assert files == {"kept", "folder/new"}
