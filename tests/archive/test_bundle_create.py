"""`iarproxy bundle create`: what it writes, what it refuses, and that the same set gives the same bytes everywhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from airgap_sets import Rooms, Wanted
from airgap_world import UPSTREAM, Place, an_origin
from iarproxy.archive.making.creating import Creating
from iarproxy.archive.making.gathering import Subject
from iarproxy.archive.making.order import Nothing, Order
from iarproxy.archive.staging import staging
from iarproxy.ledger.proof.keyring import origin_of
from iarproxy.oci import Descriptor, Digest, Tag, TagReference, parse_reference
from iarproxy.oci.bundle_layout import volumes_of
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.set_record import MEDIA_TYPE, Lacking, SetRecord
from iarproxy.store import OsDisk
from iarproxy.trust.bundles import vouched
from iarproxy.trust.receipts import Receipt, receipt_of
from iarproxy.trust.signing import PrivateKey, public_keys
from images import Published, artifact, image, index, random_blob, small_image

SET = "site-a"
APP = f"{UPSTREAM}/team/app:1"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def origin(tmp_path: Path) -> Place:
    """A machine with a synced set of one image, and a key."""
    made = an_origin(tmp_path / "origin")
    with_key(made)
    made.sync(SET, {APP: small_image(1)})
    return made


def with_key(place: Place) -> None:
    place.done("keys", "create", "team")


def creating(origin: Place, folder: Path, *more: str | Path) -> list[str | Path]:
    words: list[str | Path] = ["bundle", "create", SET, "--sets", origin.sets_file, "--key", origin.folder / "team.key"]
    return [*words, "-o", folder, *(more or ["--full"])]


def create(origin: Place, folder: Path, *more: str | Path) -> BundleManifest:
    origin.done(*creating(origin, folder, *more))
    return manifest_in(folder)


def manifest_in(folder: Path) -> BundleManifest:
    return BundleManifest.parse((folder / "bundle.json").read_bytes())


def size_of(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


def refused(origin: Place, folder: Path, *more: str | Path) -> str:
    ended = origin.run(*creating(origin, folder, *more))
    assert (1, False) == (ended.code, folder.exists()), ended.err
    return ended.err


# --- what it writes --------------------------------------------------------------------------------------------------


def test_a_bundle_is_signed_and_whole(origin: Place, tmp_path: Path) -> None:
    """Statement, manifest and journal fit each other, and the volumes are of the sizes that the manifest decides."""
    manifest = create(origin, tmp_path / "one")
    (signature,) = (tmp_path / "one").glob("bundle.*.sigstore.json")
    keys = public_keys((origin.folder / "team.pub").read_bytes())
    found = vouched([signature.read_bytes()], (tmp_path / "one" / "bundle.json").read_bytes(), [keys])
    said = found.statement
    identity = origin.within(_identity)
    assert (SET, 1, origin_of(identity), manifest.identity) == (said.set, said.sequence, said.origin, said.bundle)
    assert Digest.of((tmp_path / "one" / "journal.json").read_bytes()) == said.journal
    assert 90 == (said.expires - said.created).days
    for volume in volumes_of(manifest):
        assert volume.size == (tmp_path / "one" / f"volume-{volume.number:03}.tar").stat().st_size


async def _identity(rooms: Rooms) -> str:
    return rooms.store.identity


def test_sequences_rise(origin: Place, tmp_path: Path) -> None:
    """Each bundle of a set has the next number, also when it is the same again; a refused one takes none."""
    assert 1 == origin.done(*creating(origin, tmp_path / "one", "--full", "--json")).json["sequence"]
    assert 1 == origin.run(*creating(origin, tmp_path / "one")).code
    assert 2 == origin.done(*creating(origin, tmp_path / "two", "--full", "--json")).json["sequence"]
    assert manifest_in(tmp_path / "one") == manifest_in(tmp_path / "two")


def test_a_dry_run_writes_nothing(origin: Place, tmp_path: Path) -> None:
    """It tells what would travel, and takes no number."""
    told = origin.done(*creating(origin, tmp_path / "one", "--full", "--dry-run", "--json")).json
    assert (False, 3) == (told["done"], told["provides"]["blobs"])
    assert not (tmp_path / "one").exists()
    assert [] == origin.within(lambda rooms: rooms.ledger.bundles.made(SET))


def test_a_delta_is_the_new_blobs(origin: Place, tmp_path: Path) -> None:
    """What came since a bundle travels, with at most one hundredth more; an unchanged delta is under 100 KB, for a set
    of a hundred images of six layers of their own as well.
    """
    old = {f"{UPSTREAM}/team/app:{number}": _six_layers(number) for number in range(100)}
    origin.sync(SET, old)
    create(origin, tmp_path / "one")
    create(origin, tmp_path / "same", "--since", tmp_path / "one")
    assert size_of(tmp_path / "same") < 100_000
    new = image(random_blob(8_000_000, 7), random_blob(2_000_000, 8))
    origin.sync(SET, old | {f"{UPSTREAM}/team/big:1": new})
    manifest = create(origin, tmp_path / "delta", "--since", tmp_path / "one", "--volume-size", "4MB")
    assert {new.digest, *new.blobs} == {each.digest for each in manifest.provides}
    assert size_of(tmp_path / "delta") <= 1.01 * sum(each.size for each in manifest.provides)


def _six_layers(seed: int) -> Published:
    return image(*(random_blob(100, 10 * seed + layer) for layer in range(6)))


def test_the_full_index_lists_what_travels(origin: Place, tmp_path: Path) -> None:
    """The side index of the layout names every name and list of attachments whose manifest is in it, and no other."""
    old, new = small_image(1), small_image(2)
    fallback = f"{UPSTREAM}/team/app:{Tag.attached_to(old.digest)}"
    origin.sync(SET, Wanted({APP: old}, {APP: [artifact(old)]}))
    create(origin, tmp_path / "one")
    both = Wanted({APP: old, f"{UPSTREAM}/team/app:2": new}, {APP: [artifact(old), artifact(old, data=b"more")]})
    create(origin, tmp_path / "same", "--since", tmp_path / "one")
    origin.sync(SET, both)
    create(origin, tmp_path / "two", "--since", tmp_path / "one")
    listed = {folder: _fully_listed(tmp_path / folder) for folder in ("one", "same", "two")}
    assert {"one": [APP, fallback], "same": [], "two": [f"{UPSTREAM}/team/app:2", fallback]} == listed


def _fully_listed(folder: Path) -> list[str]:
    with tarfile.open(folder / "volume-001.tar") as volume:
        index = volume.extractfile("iarproxy/index-full.json")
        assert index is not None
        listed = orjson.loads(index.read())["manifests"]
    return [each["annotations"]["org.opencontainers.image.ref.name"] for each in listed]


def test_bundles_since_one_bundle_are_cumulative(origin: Place, tmp_path: Path) -> None:
    """With no way back each names the same base, and brings all that came since."""
    create(origin, tmp_path / "one")
    first, second = small_image(2), small_image(3)
    origin.sync(SET, {APP: small_image(1), f"{UPSTREAM}/team/app:2": first})
    create(origin, tmp_path / "two", "--since", tmp_path / "one")
    origin.sync(SET, {APP: small_image(1), f"{UPSTREAM}/team/app:2": first, f"{UPSTREAM}/team/app:3": second})
    manifest = create(origin, tmp_path / "three", "--since", tmp_path / "one")
    assert {first.digest, *first.blobs, second.digest, *second.blobs} == {each.digest for each in manifest.provides}


def receipt(origin: Place, manifest: BundleManifest, key: PrivateKey, name: str = SET, of: str = "") -> bytes:
    held = tuple(sorted((*(each.digest for each in manifest.provides), *manifest.requires)))
    said = Receipt(
        origin=of or origin_of(origin.within(_identity)),
        site="iarproxy/site",
        set=name,
        sequence=1,
        bundle=manifest.identity,
        manifest=Digest.of(manifest.dump()),
        environment="default",
        held=held,
        serial=9,
        at=NOW,
    )
    return receipt_of(said, key)


def test_a_receipt_says_what_the_site_holds(origin: Place, tmp_path: Path) -> None:
    """What it lists does not travel, and the statement names the bundle that it is about."""
    manifest = create(origin, tmp_path / "one")
    key = PrivateKey.made()
    (tmp_path / "site.pub").write_bytes(key.public.pem)
    (tmp_path / "receipt").write_bytes(receipt(origin, manifest, key))
    new = small_image(2)
    origin.sync(SET, {APP: small_image(1), f"{UPSTREAM}/team/app:2": new})
    words: list[str | Path] = ["--receipt", tmp_path / "receipt", "--trust", tmp_path / "site.pub", "--json"]
    told = origin.done(*creating(origin, tmp_path / "two", *words)).json
    assert {"kind": "receipt", "bundle": str(manifest.identity), "sequence": 1} == told["base"]
    found = manifest_in(tmp_path / "two")
    assert {new.digest, *new.blobs} == {each.digest for each in found.provides}
    assert tuple(sorted(each.digest for each in manifest.provides)) == found.requires


# --- what a bundle says of itself ------------------------------------------------------------------------------------


def test_inspect_tells_what_travels(origin: Place, tmp_path: Path) -> None:
    """Names, sizes, what of them travels, who seems to have signed; and that nothing was verified."""
    manifest = create(origin, tmp_path / "one")
    both = index([small_image(2), small_image(3, platform="linux/arm64")])
    names = {APP: small_image(1), f"{UPSTREAM}/team/both:1": both, f"{UPSTREAM}/z/sbom:1": artifact(small_image(1))}
    origin.sync(SET, Wanted(names, platforms=["linux/amd64"]))
    create(origin, tmp_path / "two", "--since", tmp_path / "one")
    ended = origin.done("bundle", "inspect", tmp_path / "two", "--json")
    told = ended.json
    assert (False, SET, 2) == (told["verified"], told["set"], told["signatures"][0]["sequence"])
    assert str(manifest.identity) == told["signatures"][0]["base"]["bundle"]
    assert ["held", "whole", "new"] == [each["travels"] for each in told["names"]]
    assert [[], [str(both.children[1].digest)], []] == [each["omitted"] for each in told["names"]]
    assert [(tmp_path / "two" / "volume-001.tar").stat().st_size] == [each["size"] for each in told["volumes"]]
    read = origin.done("bundle", "inspect", tmp_path / "two")
    assert "nothing of this was verified" in read.err
    assert f"bundle 2 of {told['signatures'][0]['origin']}, since bundle 1 by bundle; made" in read.out


def test_inspect_tells_what_is_missing(origin: Place, tmp_path: Path) -> None:
    """A volume that is not here, one that is cut, and one of another bundle are named."""
    origin.sync(SET, {APP: image(random_blob(3_000_000, 1))})
    create(origin, tmp_path / "one", "--full", "--volume-size", "1MiB")
    origin.sync(SET, {APP: image(random_blob(700_000, 2))})
    create(origin, tmp_path / "other")
    (tmp_path / "one" / "volume-001.tar").unlink()
    os.truncate(tmp_path / "one" / "volume-002.tar", 5000)
    shutil.copyfile(tmp_path / "other" / "volume-001.tar", tmp_path / "one" / "volume-009.tar")
    told = origin.done("bundle", "inspect", tmp_path / "one", "--json").json
    assert ["is not here", "has 5000 bytes", None] == [each["problem"] for each in told["volumes"]]
    assert [str(tmp_path / "one" / "volume-009.tar")] == told["strangers"]


def test_inspect_refuses_what_is_no_bundle(origin: Place, tmp_path: Path) -> None:
    """A folder without a bundle, and a document that is none."""
    (tmp_path / "empty").mkdir()
    origin.refused("malformed", "bundle", "inspect", tmp_path / "empty")
    (tmp_path / "empty" / "bundle.json").write_text("{}")
    origin.refused("malformed", "bundle", "inspect", tmp_path / "empty")


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_a_set_that_was_never_synced(origin: Place, tmp_path: Path) -> None:
    """There is nothing to make a bundle from; the command that brings it is named."""
    origin.sets["site-b"] = [APP]
    origin.write_sets()
    words: list[str | Path] = [
        "bundle",
        "create",
        "site-b",
        "--key",
        origin.folder / "team.key",
        "--full",
        "-o",
        tmp_path / "one",
    ]
    assert "the set site-b was never synced here; run `iarproxy sync site-b` first" in origin.run(*words).err


def test_a_section_that_changed(origin: Place, tmp_path: Path) -> None:
    """A bundle of what the section said before would not be what the person reads."""
    origin.sets[SET] = [APP, f"{UPSTREAM}/team/app:2"]
    origin.write_sets()
    assert "the section of set site-a changed since its last sync; run `iarproxy sync" in refused(
        origin, tmp_path / "one"
    )


def test_a_sync_that_was_not_complete(origin: Place, tmp_path: Path) -> None:
    """What lacks something is never carried as if it were whole."""

    async def lack(rooms: Rooms) -> None:
        kept = await rooms.ledger.sets.of(SET)
        assert kept is not None
        raw = await rooms.store.read(kept.record.digest, 10**6)
        assert raw is not None
        lacking = replace(SetRecord.parse(raw), lacking=(Lacking("app:2", "upstream is down"),)).dump()
        record = Descriptor(MEDIA_TYPE, Digest.of(lacking), len(lacking))
        await rooms.store.put(record.digest, lacking)
        await rooms.ledger.sets.keep(SET, record, kept.definition, complete=False, actor="ann")

    origin.within(lack)
    assert "the last sync of set site-a was not complete; run `iarproxy sync" in refused(origin, tmp_path / "one")


def test_pins_that_moved(origin: Place, tmp_path: Path) -> None:
    """A name that stands for something else by now is named."""

    async def move(rooms: Rooms) -> None:
        reference, new = parse_reference(APP), small_image(2)
        assert isinstance(reference, TagReference)
        await rooms.store.put(new.digest, new.raw)
        await rooms.ledger.repin(
            reference, small_image(1).digest, new.descriptor, reason="new", actor="ann", source="here"
        )

    origin.within(move)
    told = refused(origin, tmp_path / "one")
    assert f"these names moved: {APP}; run `iarproxy sync site-a` again" in told


def test_recalled_content(origin: Place, tmp_path: Path) -> None:
    """What a person denied leaves no machine, wherever below a name it is."""
    layer = small_image(1).layers[0]
    origin.within(lambda rooms: rooms.ledger.recalls.recall([layer], reason="a secret in it", actor="ann"))
    told = refused(origin, tmp_path / "one")
    assert f"the set site-a contains recalled content: {layer} was recalled" in told


def test_a_rotten_blob(origin: Place, tmp_path: Path) -> None:
    """It is named, goes to quarantine, and no bundle is made; what is told then is that it is not there."""
    layer = small_image(1).layers[0]
    path = origin.store / "blobs/sha256" / layer.hex
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    told = refused(origin, tmp_path / "one")
    assert f"{layer} is damaged in the store and was put aside; no bundle was made; run `iarproxy sync" in told
    assert f"the store lacks a part of set site-a: {layer}; run `iarproxy sync site-a` again" in refused(
        origin, tmp_path / "one"
    )
    assert [] == origin.within(lambda rooms: rooms.ledger.bundles.made(SET))


def test_a_rotten_manifest(origin: Place, tmp_path: Path) -> None:
    """A document that rotted is found before anything is written."""
    path = origin.store / "blobs/sha256" / small_image(1).digest.hex
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"2000", b"2001"))
    assert f"site-a: {small_image(1).digest}; run" in refused(origin, tmp_path / "one")


def test_a_receipt_that_is_another(origin: Place, tmp_path: Path) -> None:
    """One of another set, one for another origin, and one that nobody signed whom we trust: each with its code."""
    manifest = create(origin, tmp_path / "one")
    key = PrivateKey.made()
    (tmp_path / "site.pub").write_bytes(key.public.pem)
    words = creating(
        origin, tmp_path / "two", "--receipt", tmp_path / "receipt", "--trust", tmp_path / "site.pub", "--json"
    )
    cases = [
        ("wrong-receipt", receipt(origin, manifest, key, name="site-b")),
        ("wrong-receipt", receipt(origin, manifest, key, of="iarproxy/other")),
        ("untrusted-key", receipt(origin, manifest, PrivateKey.made())),
        ("malformed", b"{}"),
    ]
    for code, raw in cases:
        (tmp_path / "receipt").write_bytes(raw)
        ended = origin.run(*words)
        assert (1, code) == (ended.code, ended.json.get("code"))
        assert not (tmp_path / "two").exists()


def test_a_base_that_was_not_made_here(origin: Place, tmp_path: Path) -> None:
    """A bundle that this ledger does not know says nothing about any site."""
    other = an_origin(tmp_path / "other")
    with_key(other)
    other.sync(SET, {APP: small_image(2)})
    create(other, tmp_path / "theirs")
    assert "was not made here for set site-a" in refused(origin, tmp_path / "two", "--since", tmp_path / "theirs")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--full", "--since", "x"], "what does the site hold? Give one of"),
        (["--receipt", "x"], "--receipt and --trust go together"),
        (["--full", "--trust", "x"], "--receipt and --trust go together"),
        (["--full", "--volume-size", "4 parsec"], "--volume-size: not a size"),
        (["--full", "--volume-size", "9" * 400], "is too much for anything"),
        (["--full", "--expires", "soon"], "--expires: not a duration"),
        (["--full", "--expires", "0d"], "--expires: 0d is no time that a bundle could be good for"),
        (["--full", "--expires", "9999999d"], "--expires: 9999999d is no time"),
        (["--full", "--expires", "9" * 30 + "d"], "is too much for anything"),
    ],
)
def test_options_that_make_no_sense(origin: Place, tmp_path: Path, words: list[str], told: str) -> None:
    """Each is told, and is a matter of usage."""
    ended = origin.run(*creating(origin, tmp_path / "one", *words))
    assert 2 == ended.code
    assert told in ended.err


def test_volumes_that_are_too_small(origin: Place, tmp_path: Path) -> None:
    """The least size is named."""
    assert "give at least 1048576" in refused(origin, tmp_path / "one", "--full", "--volume-size", "10kB")


# --- the same bytes everywhere ---------------------------------------------------------------------------------------


def rich_set() -> Wanted:
    """Indexes, artifacts, both kinds of media types, a blob that spans volumes."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    big = image(random_blob(2_500_000, 3), random_blob(700, 4))
    docker = index([small_image(5, docker=True)], docker=True)
    names: dict[str, Published] = {APP: both, f"{UPSTREAM}/team/big:3": big, f"{UPSTREAM}/a/docker:z": docker}
    return Wanted(names, {APP: [artifact(both), artifact(both, data=b"other")]}, ["linux/amd64"])


def volumes_and_manifest(folder: Path) -> dict[str, str]:
    files = [folder / "bundle.json", *folder.glob("volume-*.tar")]
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def shuffled(place: Place) -> None:
    """Bring the entries of the store's folders into another order."""
    for folder in (place.store / "blobs").iterdir():
        kept = list(folder.iterdir())
        random.Random(9).shuffle(kept)
        aside = folder.with_name("aside")
        aside.mkdir()
        for each in kept:
            shutil.copyfile(each, aside / each.name)
            (aside / each.name).chmod(0o444)
        shutil.rmtree(folder)
        aside.rename(folder)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user may come to; pytest's own is closed anew by each other run of tests."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def backwards(wanted: Wanted) -> Wanted:
    return replace(wanted, names=dict(reversed(list(wanted.names.items()))))


def self_made(
    folder: Path, wanted: Wanted, umask: int, environment: dict[str, str], *, shuffle: bool = False
) -> dict[str, str]:
    """What a machine of its own makes of a set; where we are root, the second one does it as another user."""
    place = an_origin(folder)
    with_key(place)
    place.sync(SET, wanted)
    if shuffle:
        shuffled(place)
    if shuffle and os.geteuid() == 0:  # the command becomes whoever owns the store
        for each in (place.store, *place.store.rglob("*")):
            os.chown(each, 65534, 65534)
    before = os.umask(umask)
    try:
        ended = place.alone(*creating(place, folder / "bundle", "--full", "--volume-size", "1MiB"), **environment)
    finally:
        os.umask(before)
    assert 0 == ended.code, ended.err
    return volumes_and_manifest(folder / "bundle")


def test_the_same_set_gives_the_same_bytes(readable: Path) -> None:
    """Another store, umask, time zone, locale, hash seed, user and order of folders change no byte of manifest and
    volumes.
    """
    other = {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7"}
    found = [
        self_made(readable / "one", rich_set(), 0o022, {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"}),
        self_made(readable / "two", backwards(rich_set()), 0o077, other, shuffle=True),
    ]
    assert found[0] == found[1]
    assert len(found[0]) > 3


async def test_a_create_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Whoever interrupts it while it writes waits for the thread that does, and finds no folder and no number taken."""
    place = an_origin(tmp_path / "origin")
    await asyncio.to_thread(place.sync, SET, {APP: image(random_blob(20_000_000, 1))})
    async with place.opened() as rooms:
        creating = Creating(rooms.store, rooms.ledger, nothing_travels, lambda: NOW)
        kept = await rooms.ledger.sets.of(SET)
        assert kept is not None
        order = Order(SET, kept.definition, Nothing(), PrivateKey.made(), timedelta(days=1), "ann")
        draft = await creating.draft(order)
        tell, told = asyncio.get_running_loop().call_soon_threadsafe, asyncio.Event()

        def begun(_: int) -> None:
            tell(told.set)

        async def create_it() -> None:
            with staging(tmp_path / "one", OsDisk()) as made:
                await creating.create(draft, made, begun)

        task = asyncio.create_task(create_it(), name="create")
        await asyncio.wait_for(told.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not (tmp_path / "one").exists()
        assert [] == await rooms.ledger.bundles.made(SET)


async def nothing_travels(subject: Subject) -> bytes:
    return b"{}"
