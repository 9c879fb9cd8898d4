"""What a trusted origin that lies, a busy site and a careless hand can do to an apply, as fresh eyes found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made
from airgap_sets import Rooms
from airgap_world import UPSTREAM
from iarproxy.archive.applying.naming import Naming
from iarproxy.archive.applying.site import Done, Order, Outcome, Site
from iarproxy.archive.folder import BundleFolder
from iarproxy.errors import BundleRefused, Malformed
from iarproxy.oci import Digest, parse_reference
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.volumes import extents
from iarproxy.trust.environments import FIRST_FETCHES, Environment
from iarproxy.trust.receipts import is_receipt
from iarproxy.trust.signing import public_keys
from images import random_blob
from test_airgap_lies import told


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


async def apply(
    rooms: Rooms,
    bundle: Made,
    environment: Environment = FIRST_FETCHES,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> Outcome:
    """Apply it as the command does."""
    order = Order([public_keys(bundle.public.read_bytes())], reason="a test", actor="alice")
    naming = Naming(rooms.ledger, {UPSTREAM}, (), environment)
    with BundleFolder.open([bundle.folder]) as folder:
        return await Site(rooms.store, rooms.ledger, naming, lambda: datetime.now(UTC)).apply(folder, order, told)


def test_a_name_that_is_left_out_of_itself(good: Made, tmp_path: Path) -> None:
    """What a name stands for cannot be declared as left out, whether its manifest is nowhere or travels."""
    first = good.manifest.names[0]
    left_out = replace(first, omitted=(first.descriptor.digest,))
    provides = tuple(each for each in good.manifest.provides if each.digest != first.descriptor.digest)
    travels = replace(good.manifest, names=(left_out, *good.manifest.names[1:]))
    nowhere = replace(travels, provides=provides)
    site = fresh_site(tmp_path / "site")
    site.refused("missing-base", *told(good, tmp_path / "nowhere", nowhere).applying())
    site.refused("incomplete", *told(good, tmp_path / "travels", travels).applying())
    assert {} == site.pins()


def test_a_digest_that_stands_for_another(good: Made) -> None:
    """A name by digest stands for that digest: tools that read the layout believe its annotations."""
    wrong = parse_reference(f"{UPSTREAM}/team/zzz@sha256:{'1' * 64}")
    last = replace(good.manifest.names[0], reference=wrong)
    lying = replace(good.manifest, names=(*good.manifest.names, last))
    with pytest.raises(Malformed):
        BundleManifest.parse(lying.dump())
    right = replace(last, reference=parse_reference(f"{UPSTREAM}/team/zzz@{last.descriptor.digest}"))
    honest = replace(lying, names=(*good.manifest.names, right))
    assert honest == BundleManifest.parse(honest.dump())


def test_a_blob_that_goes_while_others_come(good: Made, tmp_path: Path) -> None:
    """Names are made only of what is held when they are made, however long taking it lasted."""
    site, left = fresh_site(tmp_path / "site"), sum(each.size for each in good.manifest.provides)
    layer = Digest.of(random_blob(512, 1))  # of the first image

    async def work(rooms: Rooms) -> int:
        def gone(more: int, _: int) -> None:
            nonlocal left
            left -= more
            if not left:
                (site.store / "blobs/sha256" / layer.hex).unlink(missing_ok=True)

        with pytest.raises(BundleRefused, match=layer.hex) as refused:
            await apply(rooms, good, told=gone)
        assert "incomplete" == refused.value.code
        return len(await rooms.ledger.pins())

    assert 0 == site.within(work)


def test_once_more_for_another_environment(good: Made, tmp_path: Path) -> None:
    """A bundle that was applied is not called unchanged where its names were never made."""
    site = fresh_site(tmp_path / "site")

    async def work(rooms: Rooms) -> None:
        assert isinstance(await apply(rooms, good), Done)
        with pytest.raises(BundleRefused, match="environment default") as refused:
            await apply(rooms, good, environment=Environment("staging"))
        assert "conflict" == refused.value.code

    site.within(work)


def test_pieces_of_no_blob(good: Made, tmp_path: Path) -> None:
    """Pieces that are what was signed, of a blob that is not, are refused for good, and none of them stays."""
    site, bundle = fresh_site(tmp_path / "site"), good.copy(tmp_path / "bundle")
    manifest = bundle.manifest
    digest, hashes = manifest.pieces[0]
    first = extents(bundle.volumes)[digest][0]
    raw = bytearray(bundle.volume(first.volume).read_bytes())
    raw[first.at] ^= 1
    bundle.volume(first.volume).write_bytes(raw)
    forged = Digest.of(bytes(raw[first.at : first.at + first.piece.size])).hex
    pieces = ((digest, (forged, *hashes[1:])), *manifest.pieces[1:])
    bundle.altered(replace(manifest, pieces=pieces).dump(), vouched=True)
    site.refused("malformed", *bundle.applying())
    assert {} == site.pins()
    assert [] == list((site.store / "pieces").glob("*"))


@pytest.mark.parametrize("name", ["bundle.json", "volume-001.tar", "journal.json", "own.key"])
def test_a_receipt_that_would_replace_something(good: Made, tmp_path: Path, name: str) -> None:
    """Where the receipt would replace a part of the bundle, or a key, that stays as it is and nothing is applied."""
    site, bundle = fresh_site(tmp_path / "site"), good.copy(tmp_path / "bundle")
    (bundle.folder / "own.key").write_text("of mine")
    before = {each.name: each.read_bytes() for each in bundle.folder.iterdir()}
    ended = site.run(*bundle.applying("--receipt", bundle.folder / name))
    assert (1, True) == (ended.code, "is no receipt" in ended.err), ended.err
    assert before == {each.name: each.read_bytes() for each in bundle.folder.iterdir()}
    assert {} == site.pins()


def test_a_receipt_replaces_a_receipt(good: Made, tmp_path: Path) -> None:
    """The file of the last receipt takes the next one."""
    site, receipt = fresh_site(tmp_path / "site"), tmp_path / "site.receipt"
    receipt.touch()
    site.done(*good.applying("--receipt", receipt))
    receipt.write_bytes(receipt.read_bytes())
    assert "unchanged" == site.run(*good.applying("--receipt", receipt, "--json")).json["outcome"]
    assert is_receipt(receipt.read_bytes())
