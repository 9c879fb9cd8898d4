"""Bundles that must not be applied: each has a code of its own, and store and ledger stay as they were."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airgap_bundles import SET, TOOL, Made, create, fresh_site, made, wanted
from airgap_world import UPSTREAM, Place
from iarproxy.oci import Digest
from iarproxy.oci.bundle_manifest import BundledName
from iarproxy.oci.set_record import tag_of


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"), keys=("team", "second", "stranger"))


@pytest.fixture(scope="module")
def second(first: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return create(first.origin, tmp_path_factory.mktemp("second") / "bundle", "--full")


@pytest.fixture(scope="module")
def third(first: Made, second: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With new content, which nobody has."""
    first.origin.sync(SET, wanted(50))
    return create(first.origin, tmp_path_factory.mktemp("third") / "bundle", "--full")


@pytest.fixture
def site(second: Made, tmp_path: Path) -> Place:
    """A site that applied the second bundle."""
    place = fresh_site(tmp_path / "site")
    place.done(*second.applying())
    return place


def is_refused(site: Place, code: str, *words: str | Path) -> str:
    """With that code, and nothing changed; what was said."""
    before = site.holdings(), site.pins()
    said = site.refused(code, *words).json["error"]
    assert before == (site.holdings(), site.pins())
    return str(said)


def test_a_wrong_key(site: Place, third: Made) -> None:
    """Nobody whom the site trusts signed it."""
    folder = third.origin.folder
    is_refused(site, "untrusted-key", "bundle", "apply", third.folder, "--trust", folder / "stranger.pub")


def test_one_of_two_signatures(site: Place, third: Made) -> None:
    """Two signers are trusted, and both are needed."""
    is_refused(site, "too-few-signatures", *third.applying("--trust", third.origin.folder / "second.pub"))


def test_an_older_sequence(site: Place, first: Made) -> None:
    """What was applied already is newer."""
    is_refused(site, "replayed", *first.applying())


def test_an_expired_one(site: Place, third: Made, tmp_path: Path) -> None:
    """It is past the moment until which its origin stands for it; a person may take it all the same."""
    late = create(third.origin, tmp_path / "late", "--full", "--expires", "1s")
    deadline = time.monotonic() + 30
    while late.statement.expires > datetime.now(UTC):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "--accept-expired" in is_refused(site, "expired", *late.applying())
    without = site.run(*late.applying("--accept-expired"))
    assert 0 != without.code
    site.done(*late.applying("--accept-expired", "--reason", "the clock is wrong", "--prefer", "bundle"))
    assert third.origin.pins() == site.pins()


def test_a_referrer_removed(site: Place, third: Made, tmp_path: Path) -> None:
    """Somebody takes the signatures and SBOMs of an image out of the list; the rest is as it was signed."""
    manifest = third.manifest
    assert manifest.attachments
    bare = third.copy(tmp_path / "bare").altered(replace(manifest, attachments=()).dump())
    is_refused(site, "attachments-altered", *bare.applying())
    fewer = replace(manifest.attachments[0], manifests=manifest.attachments[0].manifests[1:])
    less = third.copy(tmp_path / "less").altered(replace(manifest, attachments=(fewer,)).dump())
    is_refused(site, "attachments-altered", *less.applying())


def test_a_name_added(site: Place, third: Made, tmp_path: Path) -> None:
    """Somebody adds a name, or lets one stand for other content."""
    manifest = third.manifest
    more = BundledName(tag_of(f"{UPSTREAM}/team/zzz:1"), manifest.names[0].descriptor)
    added = third.copy(tmp_path / "added").altered(replace(manifest, names=(*manifest.names, more)).dump())
    is_refused(site, "names-altered", *added.applying())
    moved = replace(manifest.names[0], descriptor=manifest.names[1].descriptor)
    other = third.copy(tmp_path / "other").altered(replace(manifest, names=(moved, *manifest.names[1:])).dump())
    is_refused(site, "names-altered", *other.applying())


def test_something_else_altered(site: Place, third: Made, tmp_path: Path) -> None:
    """Any other change of what was signed, down to a blank, has a code too."""
    manifest = third.manifest
    for number, raw in enumerate(
        (
            replace(manifest, provides=manifest.provides[1:]).dump(),
            replace(manifest, requires=(Digest.of(b"x"),)).dump(),
            replace(manifest, volume_size=None).dump(),
            manifest.dump() + b" ",
            b"",
            b"{}",
        )
    ):
        altered = third.copy(tmp_path / str(number)).altered(raw)
        is_refused(site, "manifest-altered", *altered.applying())


def test_a_journal_altered(site: Place, third: Made, tmp_path: Path) -> None:
    """The evidence that travels along is bound by the signature as well."""
    copy = third.copy(tmp_path / "copy")
    journal = copy.folder / "journal.json"
    journal.write_bytes(journal.read_bytes().replace(b"1", b"2", 1))
    is_refused(site, "manifest-altered", *copy.applying())


def test_a_signature_altered(site: Place, third: Made, tmp_path: Path) -> None:
    """A signature that names a trusted key and does not hold ends it."""
    copy = third.copy(tmp_path / "copy")
    (file,) = copy.folder.glob("bundle.*.sigstore.json")
    document = json.loads(file.read_bytes())
    document["dsseEnvelope"]["payload"] = document["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    file.write_text(json.dumps(document))
    before = site.holdings()
    ended = site.run(*copy.applying(), "--json")
    assert (1, True) == (ended.code, ended.json["code"] in {"untrusted-key", "malformed"})
    assert before == site.holdings()


def test_a_conflict(third: Made, tmp_path: Path) -> None:
    """A name that the site pinned to other content itself is listed, and nothing is applied until a side is named."""
    for side in ("bundle", "site"):
        site = fresh_site(tmp_path / side)
        other = wanted(70)
        site.sync("own", {TOOL: other.names[TOOL]})
        before = site.pins()
        said = site.refused("conflict", *third.applying()).json["error"]
        assert TOOL in said
        assert before == site.pins()
        site.done(*third.applying("--prefer", side, "--reason", "as agreed"))
        kept = third.origin.pins() if side == "bundle" else {**third.origin.pins(), **before}
        assert kept == site.pins()


def test_again_is_nothing_new(site: Place, second: Made, tmp_path: Path) -> None:
    """What was applied already is unchanged, and says so with a receipt."""
    before = site.pins()
    ended = site.done(*second.applying("--receipt", tmp_path / "receipt"))
    assert "unchanged" in ended.out + ended.err
    assert (tmp_path / "receipt").stat().st_size > 0
    assert before == site.pins()
