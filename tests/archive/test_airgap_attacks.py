"""What carriers, liars among trusted origins and other bundles may try on a site, as a second pair of fresh eyes did."""

from __future__ import annotations

from pathlib import Path

import pytest

from airgap_bundles import Made, fresh_site, made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", ["rotation.0123456789abcdef.sigstore.json", "bundle.0123456789abcdef.sigstore.json"])
@pytest.mark.parametrize("raw", [b"", b"junk", b"{}", b"[" * 10_000])
def test_a_junk_signature_is_named(good: Made, tmp_path: Path, name: str, raw: bytes) -> None:
    """A file that should be a signature or a rotation and is none is refused by its name, for it can be taken away."""
    site, bundle = fresh_site(tmp_path / "site"), good.copy(tmp_path / "bundle")
    (bundle.folder / name).write_bytes(raw)
    verify = ["bundle", "verify", bundle.folder, "--trust", bundle.public]
    sign = ["bundle", "sign", bundle.folder, "--key", bundle.origin.folder / "team.key"]
    for words in (bundle.applying("--json"), [*verify, "--json"], sign):
        ended = site.run(*words)
        assert (1, True) == (ended.code, name in f"{ended.out}{ended.err}"), ended
    (bundle.folder / name).unlink()
    site.done(*verify)
