"""Whom a site believes, by its commands: several signers, rotated keys, receipts, and one history of the origin."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airgap_world import UPSTREAM, Place, a_site, an_origin, copied
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.receipts import Receipt, receipt_in
from iarproxy.trust.signing import public_keys
from images import small_image

SET = "site-a"
NAMES = {f"{UPSTREAM}/team/app:{number}": small_image(number) for number in range(1, 4)}


@pytest.fixture
def origin(tmp_path: Path) -> Place:
    """A machine with a synced set of one image, and the key `team`."""
    place = an_origin(tmp_path / "origin")
    place.done("keys", "create", "team")
    synced(place, 1)
    return place


@pytest.fixture
def site(tmp_path: Path) -> Place:
    return a_site(tmp_path / "site")


def synced(place: Place, count: int) -> None:
    place.sync(SET, dict(list(NAMES.items())[:count]))


def made(origin: Place, folder: Path, *more: str | Path, key: Path | None = None) -> Path:
    words: list[str | Path] = ["--sets", origin.sets_file, "--key", key or origin.folder / "team.key", "-o", folder]
    origin.done("bundle", "create", SET, *words, *(more or ["--full"]))
    return folder


def trusting(origin: Place, *names: str) -> list[str | Path]:
    return [word for name in names for word in ("--trust", origin.folder / f"{name}.pub")]


def code_of(site: Place, *words: str | Path) -> str:
    """The code of the refusal that it must be; it changes nothing but a line of the journal that tells of it."""
    pins, before = site.pins(), contents(site)
    ended = site.run("bundle", "apply", *words, "--json")
    assert (1, pins, before) == (ended.code, site.pins(), contents(site)), ended.err
    return str(ended.json["code"])


def contents(site: Place) -> list[Path]:
    return sorted((site.store / "blobs").rglob("*"))


def test_two_signers(origin: Place, site: Place, tmp_path: Path) -> None:
    """A site that trusts two takes no bundle of one, unless it says that one is enough."""
    folder = made(origin, tmp_path / "one")
    origin.done("keys", "create", "bob", "--type", "ed25519")
    both = trusting(origin, "team", "bob")
    assert "too-few-signatures" == code_of(site, folder, *both)
    assert "untrusted-key" == code_of(site, folder, *trusting(origin, "bob"))
    origin.done("bundle", "sign", folder, "--key", "bob.key", "--trust", "team.pub")
    site.done("bundle", "apply", folder, *both)
    assert 1 == len(site.pins())


def test_one_of_two_is_enough_where_a_site_says_so(origin: Place, site: Place, tmp_path: Path) -> None:
    """The threshold is the site's."""
    folder = made(origin, tmp_path / "one")
    origin.done("keys", "create", "bob")
    site.done("bundle", "apply", folder, *trusting(origin, "team", "bob"), "--threshold", "1")
    assert 1 == len(site.pins())


def test_more_signers_wanted_than_given(origin: Place, site: Place, tmp_path: Path) -> None:
    """Nobody could ever fulfil it, so it is a mistake in the command."""
    folder = made(origin, tmp_path / "one")
    for command in ("apply", "verify"):
        ended = site.run("bundle", command, folder, *trusting(origin, "team"), "--threshold", "2")
        assert (2, True) == (ended.code, "--threshold 2 of 1 signers" in " ".join(ended.err.split()))


def test_a_rotated_key(origin: Place, site: Place, tmp_path: Path) -> None:
    """The new key is taken with the old one's word; from then on the old one counts for nothing, whoever has it."""
    trust = trusting(origin, "team")
    site.done("bundle", "apply", made(origin, tmp_path / "one"), *trust)
    origin.done("keys", "rotate", "team.key", "new", "--type", "ed25519")
    synced(origin, 2)
    new = made(origin, tmp_path / "two", "--since", tmp_path / "one", key=origin.folder / "new.key")
    assert 1 == len(list(new.glob("rotation.*.sigstore.json")))
    site.done("bundle", "apply", new, *trust)
    stolen = made(origin, tmp_path / "three")
    assert "untrusted-key" == code_of(site, stolen, *trust)
    thief = tmp_path / "thief"
    thief.mkdir()
    shutil.copy(origin.folder / "team.key", thief)
    origin.done("keys", "rotate", thief / "team.key", thief / "mine")
    theirs = made(origin, tmp_path / "four", key=thief / "mine.key")
    assert "untrusted-key" == code_of(site, theirs, *trust)
    last = made(origin, tmp_path / "five", key=origin.folder / "new.key")
    for each in last.glob("rotation.*.sigstore.json"):
        each.unlink()  # the site remembers
    site.done("bundle", "apply", last, *trust)
    assert 2 == len(site.pins())


def test_signing_with_a_rotated_key(origin: Place, tmp_path: Path) -> None:
    """Who still signs with a key that has a successor beside it is told at once, and not by the site weeks later."""
    origin.done("keys", "rotate", "team.key", "new")
    words: list[str | Path] = ["bundle", "create", SET, "--sets", origin.sets_file, "--full", "--key"]
    old = origin.done(*words, origin.folder / "team.key", "-o", tmp_path / "old")
    assert (1, True) == (old.err.count("\n"), "team.key has a successor" in old.err), old.err
    assert "" == origin.done(*words, origin.folder / "new.key", "-o", tmp_path / "new").err
    assert "has a successor" in origin.done("bundle", "sign", tmp_path / "new", "--key", "team.key").err


def test_a_rotation_that_does_not_travel(origin: Place, site: Place, tmp_path: Path) -> None:
    """A new key that comes without the old one's word is nobody's."""
    origin.done("keys", "rotate", "team.key", "new")
    folder = made(origin, tmp_path / "one", key=origin.folder / "new.key")
    for each in folder.glob("rotation.*.sigstore.json"):
        each.unlink()
    assert "untrusted-key" == code_of(site, folder, *trusting(origin, "team"))


def receipt_of(site: Place, file: Path, public: Path) -> Receipt:
    return receipt_in(file.read_bytes(), public_keys(public.read_bytes()))


def test_a_receipt_again(origin: Place, site: Place, tmp_path: Path) -> None:
    """It says what `apply` said, with the site's own key; a set that was never applied has none."""
    none = site.run("bundle", "receipt", SET)
    assert (1, True) == (none.code, "no bundle of set site-a" in none.err)
    folder = made(origin, tmp_path / "one")
    early = site.done("bundle", "receipt", SET, "--pub", tmp_path / "early.pub").out
    assert f"{tmp_path}/early.pub: this site's key; give it to the origin, by a way that you trust\n" == early
    site.done("bundle", "apply", folder, *trusting(origin, "team"), "--receipt", tmp_path / "first")
    site.done("bundle", "receipt", SET, "-o", tmp_path / "again", "--pub", tmp_path / "site.pub")
    assert (tmp_path / "early.pub").read_bytes() == (tmp_path / "site.pub").read_bytes()
    first, again = (receipt_of(site, tmp_path / each, tmp_path / "site.pub") for each in ("first", "again"))
    manifest = BundleManifest.parse((folder / "bundle.json").read_bytes())
    assert (first.bundle, first.held, first.seen) == (again.bundle, again.held, again.seen)
    assert (manifest.identity, 1) == (again.bundle, again.sequence)
    assert {each.digest for each in manifest.provides} == set(again.held)
    assert again.checkpoint.startswith(again.site)
    assert 0 < again.seen <= 20
    known = site.run("bundle", "receipt", SET, "--origin", "iarproxy/other")
    assert 1 == known.code


def test_a_delta_on_a_receipt(origin: Place, site: Place, tmp_path: Path) -> None:
    """What a site acknowledges does not travel; what it lost since is not acknowledged, and does."""
    folder = made(origin, tmp_path / "one")
    site.done("bundle", "apply", folder, *trusting(origin, "team"))
    site.done("bundle", "receipt", SET, "-o", tmp_path / "r1", "--pub", tmp_path / "site.pub")
    on: list[str | Path] = ["--trust", tmp_path / "site.pub", "--receipt"]
    second = made(origin, tmp_path / "two", *on, tmp_path / "r1")
    assert () == BundleManifest.parse((second / "bundle.json").read_bytes()).provides
    lost = receipt_of(site, tmp_path / "r1", tmp_path / "site.pub").held[0]
    (site.store / "blobs/sha256" / lost.hex).unlink()
    site.done("bundle", "receipt", SET, "-o", tmp_path / "r2")
    third = made(origin, tmp_path / "three", *on, tmp_path / "r2")
    assert [lost] == [each.digest for each in BundleManifest.parse((third / "bundle.json").read_bytes()).provides]
    site.done("bundle", "apply", third, *trusting(origin, "team"))
    assert str(lost) in site.blobs()


def test_an_origin_that_tells_two_histories(origin: Place, site: Place, tmp_path: Path) -> None:
    """A site that took a bundle of one copy of an origin takes none of the other copy, though the key is right."""
    other = copied(origin, tmp_path / "other")
    shutil.copy(origin.folder / "team.key", other.folder)
    trust = trusting(origin, "team")
    site.done("bundle", "apply", made(origin, tmp_path / "mine"), *trust)
    made(other, tmp_path / "theirs")
    assert "journal-split" == code_of(site, made(other, tmp_path / "again"), *trust)
    site.done("bundle", "apply", made(origin, tmp_path / "next"), *trust)
    told = [tmp_path / each / "journal.json" for each in ("mine", "theirs", "again", "next")]
    assert "SPLIT VIEW" in site.run("journal", "compare", told[0], told[1]).out
    assert "ask the site for a proof" in site.run("journal", "compare", told[1], told[2]).out
    site.done("bundle", "receipt", SET, "-o", tmp_path / "receipt")
    assert "entries" in site.done("journal", "compare", tmp_path / "receipt", tmp_path / "receipt").out


def test_an_origin_that_was_restored(origin: Place, site: Place, tmp_path: Path) -> None:
    """An origin whose ledger is an old copy makes no bundle on a receipt of a site that saw more of it."""
    old = copied(origin, tmp_path / "old")
    shutil.copy(origin.folder / "team.key", old.folder)
    for number in range(3):
        made(origin, tmp_path / f"b{number}")
    site.done("bundle", "apply", tmp_path / "b2", *trusting(origin, "team"), "--receipt", tmp_path / "r1")
    site.done("bundle", "receipt", SET, "-o", tmp_path / "r2", "--pub", tmp_path / "site.pub")
    words: list[str | Path] = [
        "--sets",
        old.sets_file,
        "--key",
        old.folder / "team.key",
        "--trust",
        tmp_path / "site.pub",
    ]
    ended = old.run("bundle", "create", SET, *words, "--receipt", tmp_path / "r1", "-o", tmp_path / "new")
    assert (1, True) == (ended.code, "restored from an older copy" in ended.err), ended.err
    assert not (tmp_path / "new" / "bundle.json").exists()
