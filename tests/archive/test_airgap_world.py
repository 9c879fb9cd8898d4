"""The air gap's world is what it says: a set as a sync leaves it, which is served, and holdings that tell changes."""

from __future__ import annotations

from pathlib import Path

from airgap_sets import Wanted, contents
from airgap_world import UPSTREAM, a_site, an_origin
from images import artifact, index, small_image

APP, TOOL = f"{UPSTREAM}/team/app:1", f"{UPSTREAM}/team/tool:2"


def test_a_set_is_there(tmp_path: Path) -> None:
    """Names are pinned, contents held, and the record is what the ledger keeps."""
    origin = an_origin(tmp_path / "origin")
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    sbom = artifact(both)
    record = origin.sync("site-a", Wanted({APP: both, TOOL: small_image(3)}, {APP: [sbom]}))
    assert {APP: str(both.digest), TOOL: str(small_image(3).digest)} == origin.pins()
    assert set(contents(both, sbom, small_image(3))) < origin.blobs()
    kept = origin.within(lambda rooms: rooms.ledger.sets.of("site-a"))
    assert kept is not None
    assert (record.definition, True) == (kept.definition, kept.complete)
    assert str(kept.record.digest) in origin.blobs()


def test_holdings_tell(tmp_path: Path) -> None:
    """They stay while nothing changes, and any changed byte, name or entry changes them."""
    origin = an_origin(tmp_path / "origin")
    origin.sync("site-a", {APP: small_image(1)})
    before = origin.holdings()
    assert before == origin.holdings()
    (origin.store / "ingest" / "left").write_bytes(b"")
    assert before != origin.holdings()
    (origin.store / "ingest" / "left").unlink()
    assert before == origin.holdings()
    origin.sync("site-a", {APP: small_image(1), TOOL: small_image(2)})
    assert before[0] != origin.holdings()[0]
    assert before[1] < origin.holdings()[1]


def test_it_is_served(tmp_path: Path) -> None:
    """A place serves what it holds, whole, with nobody to ask."""
    site = a_site(tmp_path / "site")
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    site.sync("site-a", {APP: both})
    with site.serving():
        assert set(contents(both)) == site.pull(APP)
