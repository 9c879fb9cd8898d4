"""What of the origin's journal comes with a bundle: it shows what it says, and a rolled-back or split one is found."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from airgap_world import UPSTREAM, Place, an_origin, copied
from iarproxy.archive.evidence import MOST_SEEN, Evidence, First, checked, compared, newest, told
from iarproxy.archive.folder import BundleFolder
from iarproxy.archive.making.countersigning import signable
from iarproxy.errors import BundleRefused, Refused
from iarproxy.ledger.bundles import Applied
from iarproxy.oci import Descriptor, Digest
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.trust.bundle import envelope_of
from iarproxy.trust.bundles import MAX_SIGNATURES, BundleStatement, statement_in
from iarproxy.trust.comparing import Continued, Undecided
from iarproxy.trust.signing import KeyType, PrivateKey
from images import small_image

SET = "site-a"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Carried:
    """A bundle's documents."""

    def __init__(self, folder: Path) -> None:
        (signature,) = folder.glob("bundle.*.sigstore.json")
        self.journal = (folder / "journal.json").read_bytes()
        self.statement: BundleStatement = statement_in(envelope_of(signature.read_bytes()).payload)
        self.manifest = BundleManifest.parse((folder / "bundle.json").read_bytes())

    @property
    def evidence(self) -> Evidence:
        return checked(self.journal, self.statement, self.manifest)

    def altered(self, journal: bytes) -> Evidence:
        """What another journal shows, if the signers had signed that."""
        return checked(journal, replace(self.statement, journal=Digest.of(journal)), self.manifest)

    def applied(self) -> Applied:
        """What a site that applied the bundle remembers."""
        said = self.statement
        return Applied(
            origin=said.origin,
            set=said.set,
            sequence=said.sequence,
            bundle=said.bundle,
            manifest=Descriptor("application/json", said.manifest, 1),
            environment="default",
            at=NOW,
            serial=said.sequence,
            actor="ann",
            reason="",
            checkpoint=str(self.evidence.checkpoint.note),
        )


def made(origin: Place, folder: Path, *more: str | Path, of: str = SET) -> Carried:
    key = origin.folder / "team.key"
    origin.done("bundle", "create", of, "--sets", origin.sets_file, "--key", key, "-o", folder, *(more or ["--full"]))
    return Carried(folder)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A machine with a synced set of two images, and a key."""
    place = an_origin(tmp_path_factory.mktemp("evidence") / "origin")
    place.done("keys", "create", "team", "--type", KeyType.ED25519)
    place.sync(SET, {f"{UPSTREAM}/team/app:1": small_image(1), f"{UPSTREAM}/team/app:2": small_image(2)})
    return place


@pytest.fixture(scope="module")
def first(origin: Place, tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """Its first bundle."""
    return made(origin, tmp_path_factory.mktemp("evidence") / "one")


def code_of(evidence: Evidence, *applied: Applied, name: str = SET) -> str:
    with pytest.raises(BundleRefused) as caught:
        compared(evidence, applied, name)
    return caught.value.code


def test_the_entries_of_the_names_travel(first: Carried) -> None:
    """Each pin's entry is there, shown to be in the signed tree, and so is that of the bundle's own making."""
    found = first.evidence
    assert {str(each.reference) for each in first.manifest.names} == {str(each.reference) for each in found.pins}
    assert (first.statement.origin, 0, ()) == (found.checkpoint.checkpoint.origin, found.omitted, found.lost)
    assert first.statement.origin == found.key.name


def test_a_first_bundle_is_compared_with_nothing(first: Carried) -> None:
    """A site that saw nothing of a journal has nothing to say about it, and nor have other journals."""
    stranger = replace(first.applied(), origin="iarproxy/other", checkpoint="")
    assert First() == compared(first.evidence, [], SET)
    assert First() == compared(first.evidence, [stranger], SET)
    assert None is newest([stranger], first.statement.origin)


def test_a_journal_that_goes_on(origin: Place, first: Carried, tmp_path: Path) -> None:
    """The next bundle shows that its journal continues the last one's; one that brings no proof is told of."""
    second = made(origin, tmp_path / "two")
    before = first.applied()
    old, new = first.evidence.checkpoint.size, second.evidence.checkpoint.size
    assert Continued(old, new) == compared(second.evidence, [before], SET)
    silent = replace(second.evidence, continues={})
    seen = compared(silent, [before], SET)
    assert Undecided(old, new) == seen
    assert f"journal proof --from {old} --to {new}" in told(silent, seen)
    assert "" == told(second.evidence, compared(second.evidence, [before], SET))
    assert new == getattr(newest([before, second.applied()], first.statement.origin), "size", None)


def test_a_key_that_was_lost(origin: Place, first: Carried, tmp_path: Path) -> None:
    """Where a key of the journal was replaced without the old one's word, that is told once."""
    other = copied(origin, tmp_path / "other")
    shutil.copy(origin.folder / "team.key", other.folder)
    made(other, tmp_path / "before")
    (other.store / "journal.key").unlink()
    other.done("journal", "rotate-key", "--lost", "--reason", "the disk died")
    found = made(other, tmp_path / "one")
    assert "was lost and replaced" in told(found.evidence, First())
    assert "was lost and replaced" in told(found.evidence, compared(found.evidence, [first.applied()], SET))
    again = made(other, tmp_path / "two")
    assert "" == told(again.evidence, compared(again.evidence, [found.applied()], SET))


def test_a_journal_that_was_rolled_back(origin: Place, first: Carried, tmp_path: Path) -> None:
    """An older journal with a later bundle of the set is refused; one with another set's bundle was made before."""
    later = made(origin, tmp_path / "two").applied()
    assert "journal-split" == code_of(first.evidence, later)
    assert First() == compared(first.evidence, [later], "site-b")


def test_two_histories(origin: Place, first: Carried, tmp_path: Path) -> None:
    """Of two copies of an origin a site takes bundles of one only, whichever is longer."""
    other = copied(origin, tmp_path / "other")
    shutil.copy(origin.folder / "team.key", other.folder)
    mine, theirs = made(origin, tmp_path / "mine"), made(other, tmp_path / "theirs")
    again = made(other, tmp_path / "again")
    assert "journal-split" == code_of(theirs.evidence, first.applied(), mine.applied())
    assert "journal-split" == code_of(again.evidence, first.applied(), mine.applied())
    assert isinstance(compared(again.evidence, [first.applied(), theirs.applied()], SET), Continued)


def test_the_evidence_is_bound(first: Carried) -> None:
    """A journal.json that is not the signed one is refused, whatever it shows."""
    for journal in (first.journal + b" ", b"", b"{}"):
        with pytest.raises(BundleRefused) as caught:
            checked(journal, first.statement, first.manifest)
        assert "manifest-altered" == caught.value.code


def test_every_byte_of_the_evidence_counts(first: Carried) -> None:
    """Though the signers had signed it so: an altered one shows nothing, or exactly the same."""
    step = 7
    for place in range(0, len(first.journal), step):
        journal = first.journal[:place] + bytes([first.journal[place] ^ 1]) + first.journal[place + 1 :]
        try:
            found = first.altered(journal)
        except BundleRefused:
            continue
        assert (first.evidence.pins, first.evidence.key) == (found.pins, found.key)


@pytest.mark.parametrize(
    "changes",
    [
        {"what": "something else"},
        {"more": 1},
        {"checkpoint": 7},
        {"keys": []},
        {"keys": {}},
        {"bundled": None},
        {"bundled": {"entry": 7, "proof": []}},
        {"pins": [7]},
        {"pins": [[]] * 10_001},
        {"omitted": "none"},
        {"continues": [{"from": "1", "hashes": []}]},
        {"continues": [{"from": 1, "hashes": [7]}]},
        {"continues": [{}] * (MOST_SEEN + 2)},
    ],
    ids=range(13),
)
def test_what_is_no_evidence(first: Carried, changes: dict[str, Any]) -> None:
    """Whatever else a signer signed is malformed, in one line."""
    document = orjson.loads(first.journal) | changes
    with pytest.raises(BundleRefused) as caught:
        first.altered(orjson.dumps(document))
    assert "malformed" == caught.value.code


def test_evidence_of_something_else(origin: Place, first: Carried, tmp_path: Path) -> None:
    """Evidence that another bundle was made, or of pins that the bundle has otherwise, is malformed."""
    second = made(origin, tmp_path / "two")
    other = replace(second.statement, journal=first.statement.journal)
    names = tuple(
        replace(each, descriptor=replace(each.descriptor, digest=Digest.of(b"x"))) for each in first.manifest.names
    )
    for said, manifest in ((other, first.manifest), (first.statement, replace(first.manifest, names=names))):
        with pytest.raises(BundleRefused) as caught:
            checked(first.journal, said, manifest)
        assert "malformed" == caught.value.code


def test_the_delta_of_an_unchanged_set_brings_no_entries(origin: Place, tmp_path: Path) -> None:
    """What the last bundle showed is not shown again."""
    made(origin, tmp_path / "one")
    again = made(origin, tmp_path / "two", "--since", tmp_path / "one")
    assert () == again.evidence.pins


def test_a_further_signer(origin: Place, tmp_path: Path) -> None:
    """Somebody else signs the same statement, on a machine without a store; sites then take it from both only."""
    made(origin, tmp_path / "one")
    key, other = PrivateKey.parse((origin.folder / "team.key").read_bytes()), tmp_path / "bob"
    origin.done("keys", "create", other)
    origin.done("bundle", "sign", tmp_path / "one", "--key", other.with_suffix(".key"), "--trust", "team.pub")
    payloads = {envelope_of(each.read_bytes()).payload for each in (tmp_path / "one").glob("bundle.*.sigstore.json")}
    assert 1 == len(payloads)
    assert 2 == len(list((tmp_path / "one").glob("bundle.*.sigstore.json")))
    assert f"bundle.{key.public.fingerprint[:16]}.sigstore.json" in {each.name for each in (tmp_path / "one").iterdir()}
    again = origin.run("bundle", "sign", tmp_path / "one", "--key", other.with_suffix(".key"))
    assert (1, True) == (again.code, "signed the bundle already" in again.err)


def test_no_more_signers_than_a_reader_takes(origin: Place, tmp_path: Path) -> None:
    """The sixteenth signature is the last one: one more would make the bundle unreadable for every site."""
    made(origin, tmp_path / "one")
    key = PrivateKey.made(KeyType.ED25519)
    for _ in range(MAX_SIGNATURES - 1):
        another = PrivateKey.made(KeyType.ED25519)
        name = f"bundle.{another.public.fingerprint[:16]}.sigstore.json"
        with BundleFolder.open([tmp_path / "one"]) as folder:
            (tmp_path / "one" / name).write_bytes(signable(folder).signed(another))
    with BundleFolder.open([tmp_path / "one"]) as folder, pytest.raises(Refused, match="16 signatures"):
        signable(folder).signed(key)


def test_what_is_not_signed(origin: Place, tmp_path: Path) -> None:
    """Nobody signs a bundle whose parts do not fit, or that those whom he trusts did not sign."""
    folder = tmp_path / "one"
    made(origin, folder)
    origin.done("keys", "create", tmp_path / "bob")
    key = tmp_path / "bob.key"
    wrong = origin.run("bundle", "sign", folder, "--key", key, "--trust", tmp_path / "bob.pub")
    assert (1, True) == (wrong.code, "no key that is trusted" in wrong.err)
    for name in ("journal.json", "bundle.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        ended = origin.run("bundle", "sign", folder, "--key", key)
        assert (1, True) == (ended.code, name in ended.err)
        (folder / name).write_bytes(before)
    (folder / "journal.json").unlink()
    assert 1 == origin.run("bundle", "sign", folder, "--key", key).code
    assert 1 == len(list(folder.glob("bundle.*.sigstore.json")))
