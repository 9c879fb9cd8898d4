"""An origin that was taken over signs whatever it likes: what it says must still hold together, or no name is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airgap_bundles import APP, Made, fresh_site, made, wanted
from airgap_sets import Rooms
from iarproxy.archive.making.gathering import Gathering, Subject
from iarproxy.mirror.events.checkpointing import Checkpointing
from iarproxy.oci import Digest
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import Literal, Piece


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


def told(good: Made, folder: Path, manifest: BundleManifest) -> Made:
    """A bundle of that manifest in one volume, every byte of it as the manifest decides, and signed."""
    lying = Made(good.origin, folder)
    folder.mkdir()
    for file in good.folder.glob("*.sigstore.json"):
        shutil.copy(file, folder)
    whole = replace(manifest, volume_size=None, pieces=())
    for volume in volumes_of(whole):
        raw = bytearray(volume.size)
        for entry in volume.entries:
            data = _data(good, entry.content)
            raw[entry.at : entry.data_at] = entry.header
            raw[entry.data_at : entry.data_at + len(data)] = data
        lying.volume(volume.number).write_bytes(raw)
    (folder / "bundle.json").write_bytes(whole.dump())
    sequence, journal = good.origin.within(lambda rooms: _journaled(good, rooms, whole))
    (folder / "journal.json").write_bytes(journal)
    about = replace(lying.statement, manifest=Digest.of(whole.dump()), bundle=whole.identity)
    lying.sign(replace(about, sections=dict(whole.sections()), sequence=sequence, journal=Digest.of(journal)))
    return lying


async def _journaled(good: Made, rooms: Rooms, manifest: BundleManifest) -> tuple[int, bytes]:
    """The number of a bundle that the origin says it made, and what of its journal travels."""
    sequence = await rooms.ledger.bundles.make(manifest.set, manifest.identity, base={"kind": "none"}, actor="eve")
    checkpointing = Checkpointing(rooms.ledger, good.origin.store / "journal.key", None)
    gathering = Gathering(rooms.ledger, checkpointing.make_checkpoint)
    return sequence, await gathering.gather(Subject(manifest.set, sequence, []))


def _data(good: Made, content: Literal | Piece) -> bytes:
    if isinstance(content, Literal):
        return content.data
    return (good.origin.store / "blobs" / content.digest.algorithm / content.digest.hex).read_bytes()


def test_the_truth_is_taken(good: Made, tmp_path: Path) -> None:
    """Written by these tests and nothing changed, it is applied: the lies below are what is refused."""
    site = fresh_site(tmp_path / "site")
    site.done(*told(good, tmp_path / "bundle", good.manifest).applying())
    assert good.origin.pins() == site.pins()


def _without_a_blob(manifest: BundleManifest) -> BundleManifest:
    largest = max(manifest.provides, key=lambda each: each.size)
    return replace(manifest, provides=tuple(each for each in manifest.provides if each != largest))


def _without_a_document(manifest: BundleManifest) -> BundleManifest:
    return _without(manifest, wanted().names[APP].children[0].digest)


def _without(manifest: BundleManifest, digest: Digest) -> BundleManifest:
    return replace(manifest, provides=tuple(each for each in manifest.provides if each.digest != digest))


def _another_type(manifest: BundleManifest) -> BundleManifest:
    first = manifest.names[0]
    other = replace(first.descriptor, media_type="application/vnd.docker.distribution.manifest.v2+json")
    return replace(manifest, names=(replace(first, descriptor=other), *manifest.names[1:]))


def _another_size(manifest: BundleManifest) -> BundleManifest:
    first = manifest.names[0]
    other = replace(first.descriptor, size=first.descriptor.size + 1)
    return replace(manifest, names=(replace(first, descriptor=other), *manifest.names[1:]))


def _a_layer_for_a_manifest(manifest: BundleManifest) -> BundleManifest:
    largest = max(manifest.provides, key=lambda each: each.size)
    first = manifest.names[0]
    other = replace(first.descriptor, digest=largest.digest, size=largest.size)
    return replace(manifest, names=(replace(first, descriptor=other), *manifest.names[1:]))


def _an_attachment_of_layers(manifest: BundleManifest) -> BundleManifest:
    first, largest = manifest.attachments[0], max(manifest.provides, key=lambda each: each.size)
    other = replace(first, descriptor=replace(first.descriptor, digest=largest.digest, size=largest.size))
    return replace(manifest, attachments=(other, *manifest.attachments[1:]))


LIES: dict[str, Callable[[BundleManifest], BundleManifest]] = {
    "a layer that is nowhere": _without_a_blob,
    "a manifest that is nowhere": _without_a_document,
    "a name of another type": _another_type,
    "a name of another size": _another_size,
    "a layer for a manifest": _a_layer_for_a_manifest,
    "a layer for a list of referrers": _an_attachment_of_layers,
}


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_hold_together(good: Made, tmp_path: Path, lie: str) -> None:
    """It is refused in one line with a code, and no name, followed tag or link is made."""
    site = fresh_site(tmp_path / "site")
    lying = told(good, tmp_path / "bundle", LIES[lie](good.manifest))
    ended = site.run(*lying.applying(), "--json")
    assert 1 == ended.code, ended.out + ended.err
    assert ended.json["code"] == "incomplete", ended.out
    assert "(" not in ended.json["error"].partition(": line ")[0], "a person reads it"
    assert {} == site.pins()
    assert 0 == len(site.within(lambda rooms: rooms.ledger.bundles.every_applied()))


@pytest.mark.parametrize("of", ["names", "attachments"])
def test_what_is_named_and_does_not_travel(good: Made, tmp_path: Path, of: str) -> None:
    """The manifest of a name or attachment that is not in the bundle is required of the site, and told by digest."""
    site = fresh_site(tmp_path / "site")
    digest = getattr(good.manifest, of)[0].descriptor.digest
    lying = told(good, tmp_path / "bundle", _without(good.manifest, digest))
    assert str(digest) in site.refused("missing-base", *lying.applying()).out
    assert {} == site.pins()
