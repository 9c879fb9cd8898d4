"""Layouts and archives that are written here: closed, the same every time, and read back; and the commands."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import orjson
import pytest

from airgap_sets import Wanted
from airgap_world import Place, a_site, an_origin, ask
from iarproxy.oci import Digest
from images import artifact, image, index, random_blob, small_image

TEAM = "registry.example.com/team"
PLAIN, DOCKER = small_image(1, size=30_000), small_image(2, docker=True)
BOTH = index([small_image(3), small_image(4, platform="linux/arm64")])
LIST = index([small_image(5, docker=True), small_image(6, docker=True, platform="linux/arm64")], docker=True)
THING = artifact(PLAIN)
ALL = {"plain": PLAIN, "docker": DOCKER, "both": BOTH, "list": LIST, "thing": THING}
NAMES = {f"{TEAM}/{name}:1": published for name, published in ALL.items()}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = an_origin(tmp_path_factory.mktemp("origin") / "origin")
    made.sync("all", NAMES)
    return made


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]


def in_folder(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_what_is_exported_is_imported(origin: Place, tmp_path: Path, form: str) -> None:
    """A site without a network takes an export in, and serves every image of it under its own digest."""
    done = origin.done("layout", "export", *NAMES, "-o", tmp_path / "out", "--format", form, "--json")
    assert {name: str(each.digest) for name, each in NAMES.items()} == {
        each["reference"]: each["digest"] for each in done.json["images"]
    }
    site = a_site(tmp_path / "site")
    imported = site.done("layout", "import", tmp_path / "out", "--reason", "carried over", "--json")
    assert (True, len(NAMES)) == (imported.json["done"], len(imported.json["new"]))
    assert origin.pins() == site.pins()
    with site.serving():
        for name, published in NAMES.items():
            assert str(published.digest) in site.pull(name)


def test_the_same_content_gives_the_same_bytes(origin: Place, tmp_path: Path) -> None:
    """Whatever the order of names, umask, time zone and locale; a folder has the same files."""
    before, sums = os.umask(0o077), set[str]()
    try:
        for number, (names, mask, zone) in enumerate(
            [(list(NAMES), 0o022, "UTC"), (list(NAMES)[::-1], 0, "Asia/Tokyo")]
        ):
            os.umask(mask)
            file = tmp_path / f"{number}.tar"
            variables = {"TZ": zone, "PYTHONHASHSEED": str(number), "LC_ALL": "C"}
            ended = origin.alone("layout", "export", *names, "-o", str(file), **variables)
            assert 0 == ended.code, ended.err
            sums.add(hashlib.sha256(file.read_bytes()).hexdigest())
    finally:
        os.umask(before)
    assert 1 == len(sums)
    origin.done("layout", "export", *NAMES, "-o", tmp_path / "folder", "--format", "oci")
    assert members(tmp_path / "0.tar") == in_folder(tmp_path / "folder")


def test_platforms(origin: Place, tmp_path: Path) -> None:
    """An index without some of its children keeps its digest and says so; --flat names the one image instead."""
    chosen = ["--platform", "linux/arm64"]
    origin.done("layout", "export", f"{TEAM}/both:1", "-o", tmp_path / "sparse.tar", *chosen)
    files = members(tmp_path / "sparse.tar")
    entry = json.loads(files["index.json"])["manifests"][0]
    assert (str(BOTH.digest), "1") == (entry["digest"], entry["annotations"]["dev.iarproxy.sparse"])
    assert f"blobs/sha256/{BOTH.children[1].digest.hex}" in files
    assert f"blobs/sha256/{BOTH.children[0].digest.hex}" not in files
    origin.done("layout", "export", f"{TEAM}/both:1", "-o", tmp_path / "flat.tar", *chosen, "--flat")
    flat = members(tmp_path / "flat.tar")
    assert str(BOTH.children[1].digest) == json.loads(flat["index.json"])["manifests"][0]["digest"]
    assert set(flat) < set(files)
    many, none = ["--flat"], ["--flat", "--platform", "linux/s390x"]
    for options, said in [(many, "name one --platform"), (none, "has 0 images")]:
        refused = origin.run("layout", "export", f"{TEAM}/both:1", "-o", tmp_path / "no.tar", *options)
        assert (1, True, False) == (refused.code, said in refused.err, (tmp_path / "no.tar").exists()), refused.err


def test_a_docker_archive(origin: Place, tmp_path: Path) -> None:
    """It is an OCI layout too, with familiar tags; each image is there once, with all of its names."""
    wanted = [f"{TEAM}/both:1", f"{TEAM}/docker:1", f"{TEAM}/docker@{DOCKER.digest}"]
    form = ["--format", "docker-archive", "--platform", "linux/amd64"]
    origin.done("layout", "export", *wanted, "-o", tmp_path / "saved.tar", *form)
    files = members(tmp_path / "saved.tar")
    saved = orjson.loads(files["manifest.json"])
    assert [[f"{TEAM}/both:1"], [f"{TEAM}/docker:1"]] == sorted(each["RepoTags"] for each in saved)
    assert all(each["Config"] in files and set(each["Layers"]) <= set(files) for each in saved)
    site = a_site(tmp_path / "site")
    site.done("layout", "import", tmp_path / "saved.tar", "--reason", "x")
    assert {f"{TEAM}/both:1": str(BOTH.children[0].digest), f"{TEAM}/docker:1": str(DOCKER.digest)} == site.pins()
    for name in ("thing", "list"):
        refused = origin.run("layout", "export", f"{TEAM}/{name}:1", "-o", tmp_path / "no.tar", *form[:2])
        assert (1, False) == (refused.code, (tmp_path / "no.tar").exists()), refused.out


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_the_volumes_of_a_bundle_become_one_layout(tmp_path: Path, form: str) -> None:
    """From two media, under other names; needs no store; a volume that is lost is named and nothing is written."""
    origin = an_origin(tmp_path / "origin")
    big = image(random_blob(3_000_000, 7))
    origin.sync("site", Wanted(NAMES | {f"{TEAM}/big:1": big}))
    origin.done("keys", "create", "team")
    bundle: list[str | Path] = ["bundle", "create", "site", "--key", origin.folder / "team.key", "--full"]
    origin.done(*bundle, "-o", tmp_path / "parts", "--volume-size", "1MiB")
    origin.done(*bundle, "-o", tmp_path / "whole")
    (tmp_path / "second").mkdir()
    (tmp_path / "parts/volume-002.tar").rename(tmp_path / "second/carried.tar")
    export: list[str | Path] = ["layout", "export", "-o", tmp_path / "out", "--format", form]
    export += ["--bundle", tmp_path / "parts"]
    lost = origin.run(*export)
    assert (1, True) == (lost.code, "volume-002.tar is not here" in lost.err), lost.err
    assert not (tmp_path / "out").exists()
    origin.done(*export, "--bundle", tmp_path / "second")
    written = in_folder(tmp_path / "out") if form == "oci" else members(tmp_path / "out")
    whole = members(tmp_path / "whole/volume-001.tar")
    del whole["iarproxy/volume.json"]
    assert whole == written
    site = a_site(tmp_path / "site")
    site.done("layout", "import", tmp_path / "out", "--reason", "x")
    images = {name for name in NAMES if "thing" not in name} | {f"{TEAM}/big:1"}
    assert images == set(site.pins())


def test_a_single_volume_is_a_layout(tmp_path: Path) -> None:
    """What another iarproxy bundled can be taken in as any archive, without its signature."""
    origin, site = an_origin(tmp_path / "origin"), a_site(tmp_path / "site")
    origin.sync("site", {f"{TEAM}/both:1": BOTH})
    origin.done("keys", "create", "team")
    origin.done("bundle", "create", "site", "--key", origin.folder / "team.key", "--full", "-o", tmp_path / "one")
    site.done("layout", "import", tmp_path / "one/volume-001.tar", "--reason", "no key at hand")
    assert {f"{TEAM}/both:1": str(BOTH.digest)} == site.pins()


def test_what_is_not_whole_is_not_written(tmp_path: Path) -> None:
    """What is not held names the command that fetches it; what is damaged says so; no file is left."""
    origin = an_origin(tmp_path / "origin")
    origin.sync("site", Wanted({f"{TEAM}/both:1": BOTH}, platforms=("linux/amd64",)))
    target = tmp_path / "out.tar"
    (origin.store / f"blobs/sha256/{BOTH.children[1].layers[0].hex}").unlink()
    refused = origin.run("layout", "export", f"{TEAM}/both:1", "-o", target)
    assert (1, True) == (refused.code, f"iarproxy pull {TEAM}/both:1`" in refused.err), refused.err
    refused = origin.run("layout", "export", f"{TEAM}/none:1", "-o", target)
    assert (1, True) == (refused.code, "is not pinned here" in refused.err), refused.err
    blob = origin.store / f"blobs/sha256/{BOTH.children[0].layers[0].hex}"
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    refused = origin.run("layout", "export", f"{TEAM}/both:1", "-o", target, "--platform", "linux/amd64")
    assert (1, True, False) == (refused.code, "is damaged" in refused.err, target.exists()), refused.err


def test_nothing_is_written_over(origin: Place, tmp_path: Path) -> None:
    """A file that is there, and a folder with something in it, are left alone."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    for name, form in (("file", "oci-archive"), ("folder", "oci"), ("file", "oci"), ("none/x", "oci")):
        ended = origin.run("layout", "export", f"{TEAM}/plain:1", "-o", tmp_path / name, "--format", form)
        assert 1 == ended.code, ended.out
    left = [each.name for each in (tmp_path / "folder").iterdir()]
    assert ("mine", ["mine"]) == ((tmp_path / "file").read_text(), left)


def test_the_commands(origin: Place, tmp_path: Path) -> None:
    """Usage is 2; a difference is 1 and changes nothing; a dry run tells; --repin needs no second word."""
    site = a_site(tmp_path / "site")
    for words in (
        ["layout", "export", "-o", "x.tar"],
        ["layout", "export", f"{TEAM}/plain:1", "--bundle", "x", "-o", "x.tar"],
        ["layout", "export", "--bundle", "x", "--flat", "-o", "x.tar"],
        ["layout", "import", "x.tar"],
        ["layout", "import", "x.tar", "--reason", " "],
        ["layout", "import", "x.tar", "--reason", "x", "--name", f"app@{PLAIN.digest}"],
        ["layout", "import", "x.tar", "--reason", "x", "--name", "APP"],
    ):
        assert 2 == site.run(*words).code, words
    assert 1 == site.run("layout", "import", "x.tar", "--reason", "x").code
    origin.done("layout", "export", f"{TEAM}/plain:1", "-o", tmp_path / "one.tar")
    origin.done("layout", "export", f"{TEAM}/docker:1", "-o", tmp_path / "two.tar")
    name = ["--name", f"{TEAM}/app:7", "--reason", "carried"]
    assert 2 == site.run("layout", "import", tmp_path / "one.tar", *name, "--env", "none").code
    dry = site.done("layout", "import", tmp_path / "one.tar", *name, "--dry-run")
    assert (True, {}, set()) == ("nothing is changed" in dry.out, site.pins(), site.blobs())
    site.done("layout", "import", tmp_path / "one.tar", *name)
    differs = site.run("layout", "import", tmp_path / "two.tar", *name)
    assert (1, True, {f"{TEAM}/app:7": str(PLAIN.digest)}) == (differs.code, "--repin" in differs.err, site.pins())
    site.done("layout", "import", tmp_path / "two.tar", *name, "--repin")
    events = site.done("pins", "history", f"{TEAM}/app:7", "--json").json
    assert [("imported", "carried", f"{tmp_path}/{file}.tar") for file in ("one", "two")] == [
        (event["kind"], event["reason"], event["body"]["file"]) for event in events
    ]
    assert f"uid {os.getuid()}" in events[0]["actor"]


def test_recalled_content_is_not_taken_in(origin: Place, tmp_path: Path) -> None:
    """Neither what was recalled itself, nor an index that contains it."""
    site = a_site(tmp_path / "site")
    origin.done("layout", "export", f"{TEAM}/both:1", "-o", tmp_path / "both.tar")
    site.done("recall", str(BOTH.children[1].digest), "--reason", "bad")
    refused = site.run("layout", "import", tmp_path / "both.tar", "--reason", "x")
    assert (1, True, {}) == (refused.code, "recalled" in refused.err, site.pins()), refused.err
    assert Digest.of(BOTH.raw) == BOTH.digest


def test_what_is_attached_goes_along_where_it_is_wanted(tmp_path: Path) -> None:
    """With --referrers an SBOM comes to the site, which lists and serves it; else it is counted."""
    origin, site = an_origin(tmp_path / "origin"), a_site(tmp_path / "site")
    name = f"{TEAM}/both:1"
    origin.sync("site", Wanted({name: BOTH}, {name: [artifact(BOTH)]}))
    told = origin.done("layout", "export", name, "-o", tmp_path / "bare.tar")
    assert "1 lists or tags of what is attached are left out; --referrers takes them along" in told.err
    done = origin.done("layout", "export", name, "-o", tmp_path / "full.tar", "--referrers", "--json")
    assert [f"{TEAM}/both:sha256-{BOTH.digest.hex}"] == done.json["attachments"]
    entries = json.loads(members(tmp_path / "full.tar")["index.json"])["manifests"]
    assert [str(artifact(BOTH).digest)] == [each["digest"] for each in entries if "annotations" not in each]
    site.done("layout", "import", tmp_path / "full.tar", "--reason", "x")
    assert {name: str(BOTH.digest)} == site.pins()
    with site.serving():
        status, listed = ask(site.port, f"/v2/{TEAM}/both/referrers/{BOTH.digest}")
        assert (200, [str(artifact(BOTH).digest)]) == (
            status,
            [each["digest"] for each in json.loads(listed)["manifests"]],
        )
        assert str(BOTH.digest) in site.pull(name)
