"""Records of promotions: a projection of the journal, listed where they belong, and made anew by a rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iarproxy.errors import Conflict, Refused
from iarproxy.ledger import Change, EventKind, Ledger, rebuild
from iarproxy.ledger.attached import LISTED, AttachedManifest, attachment
from iarproxy.ledger.own_keys import PROMOTION as NAME
from iarproxy.ledger.own_keys import RECEIPT, promotion_key, receipt_key
from iarproxy.oci import Descriptor, Digest, Repository
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.trust.signing import KeyType, PrivateKey
from ledger_world import APP, SOURCE, STORE, content, opened, sql, tag


def record(text: str) -> AttachedManifest:
    described = Descriptor(OCI_MANIFEST, Digest.of(text.encode()), len(text))
    return AttachedManifest(described, "application/vnd.example", {"said": text})


async def promote(ledger: Ledger, name: str, old: str | None, new: str, attached: AttachedManifest) -> None:
    before = None if old is None else content(old).digest
    detail: dict[str, Any] = {"from": "default", "statement": attachment(attached)}
    change = Change("prod", tag(name), before, content(new), SOURCE, detail)
    await ledger.change(EventKind.PROMOTED, [change], reason="release", actor="ann")


async def test_a_record_is_attached_where_it_belongs(tmp_path: Path) -> None:
    """It is listed for its digest in its repository, and nowhere else."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await promote(ledger, "v1", None, "one", record("first"))
        await promote(ledger, "v2", None, "one", record("second"))
        assert [record("first"), record("second")] == await ledger.attached.of(APP, content("one").digest)
        assert [] == await ledger.attached.of(APP, content("two").digest)
        assert [] == await ledger.attached.of(Repository("registry.example.com", "team/other"), content("one").digest)
        assert (await ledger.verify()).ok


async def test_a_promotion_that_lost_attaches_nothing(tmp_path: Path) -> None:
    """What did not happen is recorded nowhere."""
    async with opened(tmp_path / "ledger.db") as ledger:
        await promote(ledger, "v1", None, "one", record("first"))
        with pytest.raises(Conflict):
            await promote(ledger, "v1", None, "two", record("second"))
        assert [] == await ledger.attached.of(APP, content("two").digest)


async def test_a_rebuild_attaches_again(tmp_path: Path) -> None:
    """The journal file alone makes them anew."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await promote(ledger, "v1", None, "one", record("first"))
    path.unlink()
    await rebuild(path, store_identity=STORE, actor="ann", reason="lost")
    async with opened(path, empty=False) as ledger:
        assert [record("first")] == await ledger.attached.of(APP, content("one").digest)
        assert (await ledger.verify()).ok


async def test_a_damaged_row_is_not_listed(tmp_path: Path) -> None:
    """A row that fails its checksum, or is gone, is no record, and verification says so."""
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        for each in ("v1", "v2", "v3"):
            await promote(ledger, each, None, "one", record(each))
    sql(path, "UPDATE attached SET digest = ? WHERE serial = 2", str(Digest.of(b"other")))
    sql(path, "DELETE FROM attached WHERE serial = 3")
    async with opened(path, empty=False) as ledger:
        assert [record("v3")] == await ledger.attached.of(APP, content("one").digest)
        problems = (await ledger.verify()).problems
        assert [True, True] == [
            any(said in each for each in problems) for said in ("1 records", "1 rows of `attached`")
        ]


async def test_the_newest_are_listed(tmp_path: Path) -> None:
    """Of very many records the newest are listed, in order."""
    async with opened(tmp_path / "ledger.db") as ledger:
        names = [f"v{number}" for number in range(LISTED + 5)]
        changes = [
            Change("prod", tag(each), None, content("one"), SOURCE, {"statement": attachment(record(each))})
            for each in names
        ]
        await ledger.change(EventKind.PROMOTED, changes, reason="release", actor="ann")
        assert [record(each) for each in names[5:]] == await ledger.attached.of(APP, content("one").digest)


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """It is its owner's alone, and the same each time; nothing else is left in the folder."""
    first, second = promotion_key(tmp_path), promotion_key(tmp_path)
    assert first.public.hint == second.public.hint
    assert [(NAME, 0o600)] == [(each.name, each.stat().st_mode & 0o777) for each in tmp_path.iterdir()]


def test_receipts_have_a_key_of_their_own(tmp_path: Path) -> None:
    """It is another one than that of promotions, in a file of its own."""
    assert receipt_key(tmp_path).public.hint != promotion_key(tmp_path).public.hint
    assert receipt_key(tmp_path).public.hint == receipt_key(tmp_path).public.hint
    assert {NAME, RECEIPT} == {each.name for each in tmp_path.iterdir()}


def test_a_key_of_another_kind(tmp_path: Path) -> None:
    """Records are signed as every verifier takes them: an Ed25519 key in the place of the key is refused."""
    path = tmp_path / NAME
    path.write_bytes(PrivateKey.made(KeyType.ED25519).pem)
    path.chmod(0o600)
    with pytest.raises(Refused, match="ECDSA"):
        promotion_key(tmp_path)


def test_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    """One that others may read, that is a link, a folder or no key is refused, with the remedy, and left as it is."""
    path = tmp_path / NAME
    promotion_key(tmp_path)
    path.chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        promotion_key(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="look at its folder"):
        promotion_key(tmp_path)
    path.unlink()
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(Refused, match="restore it"):
        promotion_key(tmp_path)
    assert "no key" == path.read_text()
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused):
        promotion_key(tmp_path)
